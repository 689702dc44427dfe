"""A storm over siblings on SLURM: ``python -m tests.slurm.storm --seconds 300 --seed 1``."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.fanout.status import UNDER_WAY, Status, statuses
from launcher.launchers.sibling import read_launch
from launcher.lease import Holder, holder
from launcher.lineage import Run
from tests.slurm.slurm_cluster import NODES, Cluster
from tests.storm import GROUP, POINT_STEP, SIBLINGS, SLOW_UNTIL, Family, Fault, Log, forecast
from tests.tiny_process import Started

KINDS = {
    "SIGKILL": 6,
    "SIGTERM": 3,
    "SIGUSR2": 6,
    "requeue": 4,
    "scancel": 2,
    "preemption": 2,
    "node killed": 1,
    "node cut off": 1,
    "controller killed": 1,
    "retry": 5,
}
"""What may happen, and how often. ``retry`` is no fault: what SLURM does not bring back would be gone."""
LONGEST = 14.0
"""Seconds that an outage lasts at most. After 10 SLURM gives a silent node up."""
LOST = 12.0
"""Seconds that a killed node is away at least: of one that is back at once SLURM notices only after a minute
that its jobs are gone."""
ROUNDS = 12
"""Retries after the storm; each failure of that many would have another cause than the storm."""
ROUND_SECONDS = 120.0


@dataclass
class Storm:
    """Siblings on a cluster, and everything that happens to them."""

    family: Family
    slurm: Cluster
    hurried: Path
    log: Log
    outages: list[threading.Thread] = field(default_factory=list)
    down: set[str] = field(default_factory=set)
    """Nodes and daemons that are out of service."""
    controller: threading.Lock = field(default_factory=threading.Lock)
    """Held by who needs the controller, and by who takes it away: only it can say that a node is back."""
    retrying: Started | None = None
    killed: set[int] = field(default_factory=set)
    """Processes that got a signal. ``launcher retry`` itself holds a sibling's lease for a moment."""

    def launch(self) -> None:
        """All siblings, by two commands: half may save while they are preempted, half may not."""
        rates = self.family.rates
        half = len(rates) // 2
        for some, partition in ((rates[:half], "low"), (rates[half:], "lowkill")):
            ended = self.family.tiny.launch(
                *self.family.typed(some), "hydra/launcher=slurm", f"hydra.launcher.partition={partition}",
                "hydra.launcher.cpus_per_task=2", environment=self.environment(),
            )  # fmt: skip
            assert ended.status == 0, ended.said

    def environment(self) -> dict[str, str]:
        return {**self.slurm.environment(), SLOW_UNTIL: str(self.hurried)}

    def rage(self, faults: list[Fault]) -> None:
        """Let them all happen; returns once every outage is over."""
        begin = time.monotonic()
        for fault in faults:
            time.sleep(max(0.0, begin + fault.at - time.monotonic()))
            self.log.note(fault, self.strike(fault))
        for outage in self.outages:
            outage.join()

    def strike(self, fault: Fault) -> str | None:
        """Let it happen; who was hit, or None."""
        if fault.kind == "retry":
            return self.retry_aside()
        if fault.kind == "controller killed":
            return self.outage("slurmctld", lambda: self.controller_outage(fault.seconds / 2))
        node = NODES[fault.target % len(NODES)]
        if fault.kind == "node killed":
            return self.outage(
                node, lambda: self.node_outage(self.slurm.kill, node, max(fault.seconds, LOST))
            )
        if fault.kind == "node cut off":
            return self.outage(node, lambda: self.node_outage(self.slurm.cut, node, fault.seconds))
        if fault.kind == "preemption":
            occupy = ("--partition=high", f"--nodelist={node}", "--exclusive")
            return self.asked(lambda: self.slurm.submit(f"sleep {fault.seconds}", *occupy), node)
        if fault.kind in ("requeue", "scancel"):
            return self.tell_slurm(fault)
        victim = self.victim(fault.target)
        if victim is None:
            return None
        run, process = victim
        try:
            os.kill(process.process.pid, signal.Signals[fault.kind])
        except ProcessLookupError:
            return None
        self.killed.add(process.process.pid)
        return f"{run.id}, process {process.process.pid}, step {process.step}"

    def victim(self, number: int) -> tuple[Run, Holder] | None:
        """The sibling of that number, or the next one that has a living process."""
        siblings = self.family.siblings()
        first = number % len(siblings)
        for one in siblings[first:] + siblings[:first]:
            process = holder(one.directory)
            if process is not None and process.alive and one.record.state == "running":
                return one, process
        return None

    def tell_slurm(self, fault: Fault) -> str | None:
        siblings = self.family.siblings()
        run = siblings[fault.target % len(siblings)]
        job = read_launch(run.directory.path).job_id
        if job is None:
            return None
        command = ["scancel", job] if fault.kind == "scancel" else ["scontrol", "requeue", job]
        return self.asked(lambda: self.slurm.run(*command), f"{run.id}, job {job}")

    def asked(self, action: Callable[[], object], whom: str) -> str | None:
        """Have SLURM do it; None where it refuses, as it does with a job that is over."""
        try:
            action()
        except subprocess.CalledProcessError:
            return None
        return whom

    def outage(self, what: str, course: Callable[[], None]) -> str | None:
        """Something is down for a while, and the storm goes on."""
        if what in self.down:
            return None

        def follow() -> None:
            try:
                course()
            finally:
                self.down.discard(what)

        self.down.add(what)
        self.outages.append(threading.Thread(target=follow))
        self.outages[-1].start()
        return what

    def node_outage(self, begin: Callable[[str], None], node: str, seconds: float) -> None:
        begin(node)
        time.sleep(seconds)
        with self.controller:
            self.slurm.revive(node)

    def controller_outage(self, seconds: float) -> None:
        with self.controller:
            self.slurm.controller(alive=False)
            time.sleep(seconds)
            self.slurm.controller(alive=True)

    def retry_aside(self) -> str | None:
        """Begin ``launcher retry``, unless one is under way."""
        if self.retrying is not None and self.retrying.process.is_alive():
            return None
        self.end_retry()
        self.retrying = self.retry()
        return GROUP

    def retry(self) -> Started:
        outputs = f"--outputs={self.family.tiny.outputs}"
        return self.family.tiny.start(
            "retry", GROUP, outputs, module="launcher.cli", environment=self.environment()
        )

    def end_retry(self) -> int:
        """Of the last one; without a controller it may fail, with a message."""
        if self.retrying is None:
            return 0
        struck = self.retrying.pid in self.killed
        ended, self.retrying = self.retrying.end(), None
        assert "Traceback" not in ended.err, ended.err
        assert ended.status in (0, 1, 2) or struck, (ended.status, ended.said)
        if ended.status:
            self.log.tell(f"          retry: {ended.status}, {ended.err.strip().splitlines()[-4:]}")
        return ended.status

    def clear(self) -> int:
        """The weather is fair again; retry until all are finished; how often that was needed."""
        self.slurm.up()
        if others := [job.id for job in self.slurm.jobs() if job.partition == "high"]:
            self.slurm.run("scancel", *others)
        self.hurried.touch()
        self.end_retry()
        for count in range(ROUNDS):
            end = time.monotonic() + ROUND_SECONDS
            while under_way := [one for one in self.statuses() if one.state in UNDER_WAY - {"held"}]:
                assert time.monotonic() < end, f"still under way: {under_way}\n{self.slurm.situation()}"
                time.sleep(0.5)
            for one in self.statuses():
                if one.state != "finished":
                    self.log.tell(f"          {one.run}: {one.state}, {one.detail}")
            if all(one.state == "finished" for one in self.statuses()):
                return count
            self.retrying = self.retry()
            assert self.end_retry() == 0
        raise AssertionError(f"not finished after {ROUNDS} retries: {self.statuses()}")

    def statuses(self) -> list[Status]:
        return statuses(self.family.tiny.outputs, GROUP)

    def no_jobs(self) -> bool:
        return not self.slurm.jobs()


def storm(
    place: Path,
    slurm: Cluster,
    seed: int,
    seconds: float,
    tell: Callable[[str], object] = print,
    weights: Mapping[str, int] = KINDS,
    siblings: int = SIBLINGS,
) -> str:
    """All of it; one line about what was survived. This process has to be able to talk to the cluster."""
    begin = time.monotonic()
    # Half as long as an undisturbed run would take to the storm's end: some end within it.
    steps = POINT_STEP * max(8, round(seconds * 5 / POINT_STEP))
    family = Family.begun(place, steps, siblings)
    log = Log(tell)
    faults = forecast(seed, seconds, weights, LONGEST)
    tell(f"seed {seed}, {seconds:.0f} s, {steps} steps, {len(faults)} faults")
    one = Storm(family, slurm, place / "hurried", log)
    one.launch()
    ids = [run.id for run in family.siblings()]
    assert len(ids) == siblings
    slurm.wait_for(lambda: one.victim(0) is not None, ROUND_SECONDS, "a sibling has begun")
    tell(f"begun after {time.monotonic() - begin:.0f} s")
    one.rage(faults)
    tell(f"over after {time.monotonic() - begin:.0f} s")
    retries = one.clear()
    slurm.wait_for(one.no_jobs, 60, "no job is left")
    starts = sum(len(run.record.starts) for run in family.siblings())
    family.check(ids, beside=[".slurm"])
    after = {one.id: read_launch(one.directory.path).settings["partition"] for one in family.siblings()}
    assert after == dict(zip(ids, ["low"] * (siblings // 2) + ["lowkill"] * (siblings // 2), strict=True))
    took = time.monotonic() - begin
    said = f"seed {seed}: {log.summary()}; {starts} starts, {retries} retries after it, {took:.0f} s in all"
    tell(said)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long the storm lasts")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    slurm = Cluster()
    slurm.up()
    slurm.reset()
    os.environ.update(slurm.environment())
    place = Path(tempfile.mkdtemp(prefix="storm-"))
    print(f"in {place}", flush=True)
    storm(place, slurm, options.seed, options.seconds, lambda text: print(text, flush=True))
    slurm.reset()


if __name__ == "__main__":
    main()
