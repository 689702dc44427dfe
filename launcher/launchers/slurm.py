"""``hydra/launcher=slurm``: siblings as one array of SLURM jobs that come back after every interruption.

The jobs run ``launcher.job``; what they need lies in each run's directory and in the snapshot of the code.
Submitted, they need nobody: the launch returns, and the shell may go.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as SubmititSlurmLauncher

from launcher.config import FanoutConfig
from launcher.errors import ConfigError, LauncherError
from launcher.launchers.jobs.check import check_settings
from launcher.launchers.jobs.limits import largest_array
from launcher.launchers.jobs.queries import cancel, release
from launcher.launchers.jobs.snapshot import import_path, script_directory, take
from launcher.launchers.jobs.submit import Array, Code, hold_canary, submit, world_size
from launcher.launchers.jobs.wait import wait_for
from launcher.launchers.plugins import register_plugin
from launcher.launchers.sibling import Outcome, RunSibling, Sibling, read_launch

log = logging.getLogger("launcher.launchers.slurm")
_OURS = ("wait", "python")
"""Settings that submitit's plugin does not know."""


@dataclass
class SlurmConf(SlurmQueueConf):  # type: ignore[misc]
    """Settings of ``hydra/launcher=slurm``: ``hydra.launcher.NAME=VALUE``. Null: what the cluster does."""

    name: str = "${hydra.job.name}"
    """Jobs are called so, with eight hex digits added that tell one submission from another."""
    partition: str | None = None
    """Partition, or several with commas."""
    timeout_min: int = 60
    """Longest time of one start, in minutes. A run that needs longer is requeued and goes on."""
    signal_delay_s: int = 120
    """How many seconds before the time limit the run is told to save; longer than a step and a save."""
    nodes: int = 1
    """Nodes of one sibling."""
    tasks_per_node: int = 1
    """Processes of one sibling on each node (DDP ranks)."""
    cpus_per_task: int | None = None
    """CPUs of each process."""
    gpus_per_node: int | None = None
    """GPUs on each node."""
    gpus_per_task: int | None = None
    """GPUs of each process."""
    cpus_per_gpu: int | None = None
    """CPUs for each GPU; needs ``gpus_per_task``."""
    mem_gb: int | None = None
    """Memory on each node, in GB."""
    mem_per_gpu: str | None = None
    """Memory for each GPU, as SLURM writes it: ``16G``."""
    mem_per_cpu: str | None = None
    """Memory for each CPU, as SLURM writes it."""
    gres: str | None = None
    """Generic resources on each node: ``gpu:a100:2``."""
    constraint: str | None = None
    """Features that the nodes must have."""
    exclude: str | None = None
    """Nodes not to be used."""
    qos: str | None = None
    """Quality of service."""
    account: str | None = None
    """Account that is charged."""
    comment: str | None = None
    """Free text for SLURM."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """Further options of sbatch, without their dashes: ``{reservation: mine}``."""
    setup: list[str] | None = None
    """Shell lines that run in the job before the run: ``module load cuda``."""
    srun_args: list[str] | None = None
    """Further options of the srun that starts the processes."""
    python: str | None = None
    """Shell command that starts Python in the job; null: the interpreter of the launch."""
    array_parallelism: int = 256
    """Siblings that run at the same time; ``fanout.max_parallel`` can lower it."""
    stderr_to_stdout: bool = False
    """One file for what sbatch and srun print. What the run prints is in ``log.txt`` in its directory."""
    wait: bool = False
    """Return only when every sibling has ended; false: as soon as they are submitted."""
    submitit_folder: str = "${hydra.sweep.dir}/.submitit/%j"
    """With another sweeper than ``branch`` only, when submitit runs the jobs: its folder."""
    max_num_timeout: int = 0
    """With another sweeper than ``branch`` only: requeues that submitit allows. Else there is no limit."""


class SlurmLauncher(SubmititSlurmLauncher):  # type: ignore[misc]
    """Submits siblings to SLURM; with another sweeper than ours, what submitit's plugin does."""

    remote = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.settings: dict[str, Any] = dict(self.params)
        for name in _OURS:
            self.params.pop(name, None)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's own launch, by submitit, which waits for all jobs.

        Raises:
            ConfigError: a setting that submitit's plugin cannot keep.
        """
        if self.settings.get("python") is not None:
            raise ConfigError(
                "hydra.launcher.python is kept with hydra/sweeper=branch only.",
                found=f"hydra.launcher.python={self.settings['python']}",
                do="leave it out, or launch with hydra/sweeper=branch",
            )
        done: Sequence[JobReturn] = super().launch(job_overrides, initial_job_idx)
        return done

    @property
    def world_size(self) -> int | None:
        """Processes of each sibling: those on each node, on all nodes; None: ``launch.nproc`` says it."""
        size = world_size(self.settings)
        return None if size == 1 else size

    def check(self, siblings: Sequence[Sibling]) -> list[LauncherError]:
        """What SLURM would refuse or never start, with what there is instead."""
        return check_settings(self.settings, siblings)

    def launch_siblings(
        self,
        siblings: Sequence[Sibling],
        fanout: FanoutConfig,
        run: RunSibling,  # noqa: ARG002  # The job's own process imports it.
        canary: RunSibling | None = None,
    ) -> list[Outcome]:
        """Submit all siblings as one array, or as several after one another where it would be too large.

        A canary is a job of its own before them; SLURM starts them if it ends well, and drops them else.

        Raises:
            LauncherError: nothing was submitted.
        """
        if fanout.stop_on_failure and not self.settings.get("wait"):
            raise ConfigError(
                "fanout.stop_on_failure needs somebody who sees the failure.",
                found="hydra.launcher.wait=false",
                do="add hydra.launcher.wait=true, or leave fanout.stop_on_failure out",
            )
        code = self._code(siblings)
        settings = dict(self.settings)
        if fanout.max_parallel is not None:
            settings["array_parallelism"] = min(settings["array_parallelism"], fanout.max_parallel)
        size = max(1, largest_array())
        arrays: list[Array] = []
        group = siblings[0].directory.parent / ".slurm"
        gate = hold_canary(siblings[0], settings, group, code) if canary is not None else None
        for first in range(0, len(siblings), size):
            part = siblings[first : first + size]
            folder = part[0].directory.parent / ".slurm"
            try:
                # One after the other, so that no more than array_parallelism run at any time.
                before = arrays[-1].job if arrays else None
                arrays.append(submit(part, settings, folder, code, before, gate))
            except LauncherError as error:
                if not arrays:
                    if gate is not None:
                        cancel([gate])
                    raise
                log.error("error: %s", error)
                break
        if gate is not None:
            # Last: it writes into the first sibling's record, and so did its submission.
            release([gate])
            log.info("The canary %s is SLURM job %s.", siblings[0].id, gate)
        return self._outcomes(siblings, arrays, fanout)

    def attach(self, siblings: Sequence[Sibling], fanout: FanoutConfig) -> list[Outcome]:
        """Wait, with ``wait=true``, for jobs that an earlier launch submitted."""
        if not self.settings.get("wait"):
            return []
        launches = {one.id: read_launch(one.directory) for one in siblings}
        jobs = {name: one.job_id for name, one in launches.items() if one.job_id and one.launcher == "slurm"}
        there = [one for one in siblings if one.id in jobs]
        return list(wait_for(there, jobs, fanout.stop_on_failure).values())

    def _outcomes(
        self, siblings: Sequence[Sibling], arrays: Sequence[Array], fanout: FanoutConfig
    ) -> list[Outcome]:
        jobs = {
            sibling.id: array.job_of(index)
            for array in arrays
            for index, sibling in enumerate(array.siblings)
        }
        ids = ", ".join(one.job for one in arrays)
        log.info("Submitted %d sibling%s as SLURM job %s.", len(jobs), "" if len(jobs) == 1 else "s", ids)
        known = {}
        if self.settings.get("wait"):
            known = wait_for([one for one in siblings if one.id in jobs], jobs, fanout.stop_on_failure)
        return [
            known.get(one.id)
            or (
                Outcome(one.id, None, f"job {jobs[one.id]}", submitted=True)
                if one.id in jobs
                else Outcome(one.id, 1, "not started: sbatch refused it")
            )
            for one in siblings
        ]

    def _code(self, siblings: Sequence[Sibling]) -> Code:
        launch = read_launch(siblings[0].directory)
        outputs = siblings[0].directory.parents[1]
        wanted = bool(launch.config.get("launch", {}).get("snapshot", True))
        snapshot = take(script_directory(), outputs) if wanted else None
        if snapshot is not None and snapshot.left_out:
            log.warning("Too large for the snapshot of the code: %s", ", ".join(snapshot.left_out))
        return Code(
            working_directory=launch.working_directory,
            import_path=tuple(import_path(snapshot)),
            snapshot=str(snapshot.directory) if snapshot is not None else None,
        )


def restored(settings: Mapping[str, Any]) -> SlurmLauncher:
    """The launcher with the settings that an earlier launch had."""
    known = {name: value for name, value in settings.items() if name != "_target_"}
    return SlurmLauncher(**{**asdict(SlurmConf()), "name": "retry", **known})


def register() -> None:
    """Make ``hydra/launcher=slurm`` known to Hydra."""
    register_plugin(SlurmLauncher, "hydra/launcher", "slurm", SlurmConf)
