"""Siblings of the tiny project, ready for the launcher, and what became of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from launcher.branch.declared import declared
from launcher.branch.plan import plan
from launcher.branch.record import new_record
from launcher.composition import config_from
from launcher.config import FanoutConfig
from launcher.differences import plain
from launcher.entry import register
from launcher.job import run_sibling
from launcher.launchers.sibling import Launch, Outcome, Sibling, read_launch
from launcher.launchers.slurm import SlurmConf, SlurmLauncher
from launcher.layout import RunDirectory
from launcher.lease import holder
from launcher.lineage import Run, read_run, utc_now
from launcher.process import Process
from tests.slurm.slurm_cluster import Cluster, Job
from tests.tiny_process import ROOT, Tiny, digest, manifests, metrics

LIMIT = 90
"""Seconds after which something has failed."""
STEPS = 400
SLOW_UNTIL = "TINY_SLOW_UNTIL"

T = TypeVar("T")


def length(steps: int = STEPS) -> tuple[str, ...]:
    """The overrides of a run of so many steps."""
    return (
        f"training.steps={steps}",
        f"checkpoint.every={steps // 4}",
        f"training.validate_every={steps // 2}",
    )


@dataclass(frozen=True)
class Launched:
    """The tiny project on a cluster. Its runs are slow until ``hurry``."""

    tiny: Tiny
    slurm: Cluster
    hurried: Path
    steps: int = STEPS

    def sibling(self, *overrides: str, conf: Path = ROOT / "tests" / "conf") -> Sibling:
        """A run with its ``launch.json`` and its record, as the sweeper leaves them."""
        typed = [*length(self.steps), *overrides]
        outputs = [f"paths.outputs={self.tiny.outputs}"]
        register()
        with initialize_config_dir(str(conf), version_base="1.3"):
            composed = compose("config", [*typed, *outputs], return_hydra_config=True)
        choices = dict(composed.hydra.runtime.choices)
        with open_dict(composed):
            del composed["hydra"]
        said = declared([*typed, *outputs], choices, [conf])
        what = plan(config_from(composed), said)
        directory = what.directory.path.absolute()
        directory.mkdir(parents=True, exist_ok=True)
        new_record(what, [], {}, state="queued").write(directory)
        Launch(
            run=what.id, command=[], working_directory=str(ROOT), config=plain(what.config),
            declared=said.to_json(), launcher="slurm", fanout="test", time=utc_now(), by=Process.this(),
        ).write(directory)  # fmt: skip
        return Sibling(what.id, directory, what.end_step, what.config.launch.nproc, what.config.threads)

    def launch(
        self, siblings: list[Sibling], fanout: FanoutConfig | None = None, **settings: Any
    ) -> list[Outcome]:
        """Submit them."""
        return launcher(**settings).launch_siblings(siblings, fanout or FanoutConfig(), run_sibling)

    def hurry(self) -> None:
        """From now on the runs are as fast as they can."""
        self.hurried.touch()

    def wait(self, condition: Callable[[], T], what: str, seconds: float = LIMIT) -> T:
        return self.slurm.wait_for(condition, seconds, what)

    def wait_for_steps(self, sibling: Sibling, start: int = 1, steps: int = 3) -> None:
        """Until its start number ``start`` has taken some steps."""

        def there() -> bool:
            now = holder(RunDirectory(sibling.directory))
            record = self.run(sibling).record
            if now is None or now.token < start or len(record.starts) < start:
                return False
            return now.step >= record.starts[-1].step + steps

        self.wait(there, f"start {start} of {sibling.id} takes steps\n{self.said(sibling)}")

    def wait_until_finished(self, *siblings: Sibling) -> None:
        """Until the records and the controller say so."""

        def finished() -> bool:
            return all(self.run(one).record.state == "finished" for one in siblings)

        def completed() -> bool:
            known = {one.id: one.state for one in self.slurm.jobs("--states=all")}
            return all(known[job] == "COMPLETED" for job in jobs)

        jobs = [self.job(sibling) for sibling in siblings]
        logs = "\n".join(f"{one.id}:\n{self.said(one)}" for one in siblings)
        self.wait(finished, f"{len(jobs)} siblings are finished\n{logs}")
        self.wait(completed, f"{jobs} are COMPLETED")

    def said(self, sibling: Sibling) -> str:
        log = RunDirectory(sibling.directory).log
        return log.read_text() if log.exists() else ""

    def run(self, sibling: Sibling) -> Run:
        return read_run(sibling.directory)

    def job(self, sibling: Sibling) -> str:
        job = read_launch(sibling.directory).job_id
        assert job is not None
        return job

    def listed(self, sibling: Sibling) -> Job | None:
        """Its line in squeue."""
        jobs = {one.id: one for one in self.slurm.jobs()}
        return jobs.get(self.job(sibling))

    def occupy(self, node: str) -> str:
        """A job that takes the node from every job of lower priority."""
        return self.slurm.submit("sleep 1000", "--partition=high", f"--nodelist={node}", "--exclusive")

    def node(self, sibling: Sibling) -> str:
        job = self.listed(sibling)
        assert job is not None
        return job.nodes

    def check_undisturbed(self, sibling: Sibling, seed: int, *overrides: str) -> None:
        """It ended as a run ends that nobody disturbed; every step was logged once; nothing was left over."""
        run = self.run(sibling)
        assert run.record.state == "finished"
        assert list(metrics(run)) == list(range(1, self.steps + 1))
        alone = undisturbed(self.tiny.outputs.parent, f"seed={seed}", *overrides, steps=self.steps)
        assert digest(run, self.steps) == alone
        left = [path for path in sibling.directory.rglob("*") if ".tmp" in path.name]
        assert left == []
        assert self.steps in manifests(run)


_known: dict[tuple[str, ...], str] = {}


def undisturbed(place: Path, *overrides: str, steps: int = STEPS) -> str:
    """The digest at the end of a run of which nobody knew."""
    typed = (*overrides, *length(steps))
    if typed not in _known:
        alone = Tiny(place / "alone")
        # The server that it is forked from may have begun while runs were to be slow.
        run = alone.train(*typed, environment={SLOW_UNTIL: ""})
        _known[typed] = digest(run, steps)
    return _known[typed]


def launcher(**settings: Any) -> SlurmLauncher:
    """The launcher with its defaults but for these settings."""
    base = replace(SlurmConf(), name="tiny", submitit_folder="unused", signal_delay_s=30)
    return SlurmLauncher(**{**asdict(base), **settings})
