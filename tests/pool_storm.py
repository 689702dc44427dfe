"""A storm over siblings in this machine's pool: ``python -m tests.pool_storm --seconds 300 --seed 1``."""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launcher.fanout.status import UNDER_WAY, Status, statuses
from launcher.lease import holder
from tests.storm import GROUP, POINT_STEP, SIBLINGS, SLOW_UNTIL, Family, Fault, Log, forecast
from tests.tiny_process import Started

KINDS = {
    "SIGKILL to a sibling": 4,
    "SIGTERM to a sibling": 2,
    "SIGINT to a sibling": 2,
    "SIGUSR2 to a sibling": 1,
    "SIGKILL to the fork server": 1,
    "SIGTERM to the fork server": 1,
    "SIGKILL to the command": 1,
    "SIGTERM to the command": 1,
    "SIGINT to the command": 1,
}
EVERY = 0.8
"""Seconds between two faults."""
PATIENCE = 4.0
"""Seconds that a fault waits for somebody to hit."""
ROUNDS = 12
ROUND_SECONDS = 120.0


@dataclass
class PoolStorm:
    """Siblings in a pool, and everything that happens to them."""

    family: Family
    hurried: Path
    log: Log
    command: Started
    commands: int = 1
    """How many commands have launched siblings."""

    def rage(self, faults: list[Fault]) -> None:
        """Let them happen, as long as there is somebody to hit.

        Whenever a command has ended, its place is taken by ``launcher retry``. While nobody trains, the
        storm's clock stands still, for a while.
        """
        before = 0.0
        for fault in faults:
            time.sleep(fault.at - before)
            before = fault.at
            end = time.monotonic() + PATIENCE
            self.keep_retrying()
            while not self.training() and time.monotonic() < end:
                time.sleep(0.1)
                self.keep_retrying()
                if self.finished():
                    return
            self.log.note(fault, self.strike(fault))

    def keep_retrying(self) -> None:
        if not self.command.process.is_alive():
            self.end_command()
            self.command = self.retry()
            self.commands += 1

    def strike(self, fault: Fault) -> str | None:
        """Let it happen; who was hit, or None."""
        name, _, whom = fault.kind.partition(" to ")
        number = signal.Signals[name]
        if whom == "the command":
            return self.hit(self.command.pid, number) if self.training() else None
        living = [pid for pid in self.processes() if pid is not None]
        if not living:
            return None
        pid = living[fault.target % len(living)]
        return self.hit(parent(pid) if whom == "the fork server" else pid, number)

    def hit(self, pid: int | None, number: signal.Signals) -> str | None:
        if pid is None:
            return None
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return None
        return f"process {pid}"

    def training(self) -> bool:
        return bool(self.processes())

    def processes(self) -> list[int]:
        """Those of the siblings that train."""
        found = (holder(run.directory) for run in self.family.siblings())
        return [one.process.pid for one in found if one is not None and one.alive]

    def retry(self) -> Started:
        outputs = f"--outputs={self.family.tiny.outputs}"
        there = {SLOW_UNTIL: str(self.hurried)}
        return self.family.tiny.start("retry", GROUP, outputs, module="launcher.cli", environment=there)

    def end_command(self) -> int:
        """Its exit status; killed or not, it has no traceback."""
        ended = self.command.end()
        assert "Traceback" not in ended.err, ended.err
        return ended.status

    def clear(self) -> int:
        """The weather is fair again; retry until all are finished; how often that was needed."""
        self.hurried.touch()
        self.end_command()
        for count in range(ROUNDS):
            end = time.monotonic() + ROUND_SECONDS
            # What a dead server had started goes on by itself.
            while under_way := [one for one in self.statuses() if one.state in UNDER_WAY]:
                assert time.monotonic() < end, f"still under way: {under_way}"
                time.sleep(0.2)
            if self.finished():
                return count
            self.command = self.retry()
            self.end_command()
        raise AssertionError(f"not finished after {ROUNDS} retries: {self.statuses()}")

    def finished(self) -> bool:
        return all(one.state == "finished" for one in self.statuses())

    def statuses(self) -> list[Status]:
        return statuses(self.family.tiny.outputs, GROUP)


def parent(pid: int) -> int | None:
    """The fork server above a sibling's process; None once it is gone and somebody else has adopted that."""
    try:
        above = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        ours = Path(f"/proc/{above}/cmdline").read_bytes() == Path(f"/proc/{pid}/cmdline").read_bytes()
        return above if ours else None
    except (FileNotFoundError, ProcessLookupError):
        return None


def storm(place: Path, seed: int, seconds: float, tell: Callable[[str], object] = print) -> str:
    """All of it; one line about what was survived."""
    begin = time.monotonic()
    # Four at a time, of ten steps a second some six survive: the last ones end when the storm does.
    family = Family.begun(place, POINT_STEP * max(4, round(seconds * 3 / POINT_STEP)))
    log, hurried = Log(tell), place / "hurried"
    faults = forecast(seed, seconds, KINDS, 1, EVERY)
    tell(f"seed {seed}, {seconds:.0f} s, {family.steps} steps, {len(faults)} faults")
    typed = (*family.typed(), "hydra/launcher=pool", "hydra.launcher.slots=4")
    command = family.tiny.start(*typed, environment={SLOW_UNTIL: str(hurried)})
    one = PoolStorm(family, hurried, log, command)
    while not one.training():
        assert command.process.is_alive(), command.end().said
        time.sleep(0.1)
    ids = [run.id for run in family.siblings()]
    assert len(ids) == SIBLINGS
    one.rage(faults)
    retries = one.clear()
    starts = sum(len(run.record.starts) for run in family.siblings())
    family.check(ids)
    took = time.monotonic() - begin
    said = (
        f"seed {seed}: {log.summary()}; {starts} starts by {one.commands} commands, "
        f"{retries} retries after it, {took:.0f} s in all"
    )
    tell(said)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long the storm lasts")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="storm-"))
    print(f"in {place}", flush=True)
    storm(place, options.seed, options.seconds, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
