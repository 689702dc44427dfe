"""``hydra/launcher=vertex``: siblings as CustomJobs of Vertex AI.

A job has the project's image and a command: the overrides that were typed, the branch point as a reference
with its digest, and a directory for the runs in a mounted bucket. Submitted, it needs nobody: the launch
returns, and the shell may go.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from launcher.config import FanoutConfig
from launcher.errors import ConfigError, LauncherError
from launcher.launchers.custom_jobs.check import check_settings, parent
from launcher.launchers.custom_jobs.inside import SWEEPER
from launcher.launchers.custom_jobs.spec import PlannedJob, planned_jobs, shown
from launcher.launchers.custom_jobs.states import VertexError
from launcher.launchers.custom_jobs.submit import submit
from launcher.launchers.custom_jobs.sweeper import JobSweeper, JobSweeperConf
from launcher.launchers.custom_jobs.wait import Waiting
from launcher.launchers.plugins import register_plugin
from launcher.launchers.sibling import Outcome, RunSibling, Sibling

log = logging.getLogger("launcher.launchers.vertex")


@dataclass
class VertexConf:
    """Settings of ``hydra/launcher=vertex``: ``hydra.launcher.NAME=VALUE``. Null: what Vertex AI does."""

    project: str | None = None
    """Project that is charged; default: ``GOOGLE_CLOUD_PROJECT``, then that of the credentials."""
    region: str = "us-central1"
    """Where the jobs run."""
    image: str | None = None
    """Container image with this project (``make image``); with ``@sha256:`` it cannot change afterwards."""
    command: list[str] = field(default_factory=lambda: ["python", "train.py"])
    """What runs in the image; the overrides follow."""
    machine_type: str = "n1-standard-8"
    """Machine of each job."""
    accelerator_type: str | None = None
    """``NVIDIA_TESLA_T4``, ``NVIDIA_L4``, …; null: none."""
    accelerator_count: int = 1
    """Accelerators of each job, if there are any."""
    disk_gb: int | None = None
    """Boot disk, in GB."""
    staging_bucket: str | None = None
    """``gs://BUCKET[/FOLDER]``: where the runs lie, mounted in the job as ``/gcs/BUCKET``. It needs a
    hierarchical namespace. Not needed where ``paths.outputs`` is below ``/gcs/`` already."""
    outputs: str | None = None
    """The very directory that ``paths.outputs`` names here, as the job sees it: of a bucket that is mounted
    on both sides under two names, or of ``nfs_mounts``."""
    service_account: str | None = None
    """The job runs as this one."""
    network: str | None = None
    """``projects/NUMBER/global/networks/NAME``, for ``nfs_mounts``."""
    nfs_mounts: list[dict[str, str]] = field(default_factory=list)
    """``{server: 10.0.0.2, path: /runs, mount_point: runs}`` is ``/mnt/nfs/runs`` in the job."""
    env: dict[str, Any] = field(default_factory=dict)
    """Environment variables. Whoever may see the job sees them too; nothing else travels."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels beside those for group, sibling, signature and digest."""
    timeout_min: int | None = None
    """Longest time of a job, in minutes."""
    spot: bool = False
    """Spot machines: cheaper, and may be taken away; the run goes on from its newest checkpoint."""
    retries: bool = True
    """Whether Vertex AI starts a job again whose machine failed."""
    siblings_per_job: int = 1
    """How many siblings share a job; it runs them with ``hydra/launcher=pool``."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """Further fields of ``CustomJobSpec``, as REST spells them: ``{enableWebAccess: true}``."""
    wait: bool = False
    """Return only when every job has ended; false: as soon as they are submitted."""


class VertexLauncher(Launcher):
    """Submits siblings as CustomJobs."""

    remote = True
    world_size = None

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing of Hydra's is needed: a job composes its own config."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's own contract, which cannot be kept: a job on another machine returns nothing.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "hydra/launcher=vertex launches what hydra/sweeper=branch has checked.",
            found=f"another sweeper, with {len(job_overrides)} jobs from {initial_job_idx}",
            do="hydra/sweeper=branch",
        )

    def check(self, siblings: Sequence[Sibling]) -> list[LauncherError]:
        """What Vertex AI would refuse, and what would not work in a job."""
        return check_settings(self.settings, siblings)

    def describe(self, siblings: Sequence[Sibling], fanout: FanoutConfig) -> str:
        """The jobs as REST takes them, one after the other; values of secrets are left out."""
        jobs = planned_jobs(siblings, self.settings, fanout)
        return "\n".join(json.dumps(shown(job), indent=2) for job in jobs)

    def launch_siblings(
        self,
        siblings: Sequence[Sibling],
        fanout: FanoutConfig,
        run: RunSibling,  # noqa: ARG002  # The job's own process imports it.
        canary: RunSibling | None = None,
    ) -> list[Outcome]:
        """Submit all siblings; with ``wait``, as many at a time as may be.

        Raises:
            ConfigError: something is asked for that somebody would have to wait for.
            LauncherError: nothing was submitted.
        """
        if canary is not None:
            raise ConfigError(
                "A job of Vertex AI cannot wait for another, so there is no canary.",
                found="fanout.canary=true",
                do="leave it out; or train the control first, by itself, on this machine",
            )
        jobs = planned_jobs(siblings, self.settings, fanout)
        waits = bool(self.settings.get("wait"))
        most = None
        if fanout.max_parallel is not None:
            most = max(1, fanout.max_parallel // max(len(job.siblings) for job in jobs))
        self._refuse_unattended(fanout, waits or most is None or most >= len(jobs), waits)
        where = parent(self.settings)
        if waits:
            outcomes = Waiting(jobs, lambda job: submit(job, where), most, fanout.stop_on_failure).run()
        else:
            outcomes = _submitted(jobs, where)
        return [outcomes[one.id] for one in siblings]

    @staticmethod
    def _refuse_unattended(fanout: FanoutConfig, fits: bool, waits: bool) -> None:
        wrong = [] if fits else [f"fanout.max_parallel={fanout.max_parallel}"]
        wrong += ["fanout.stop_on_failure=true"] if fanout.stop_on_failure and not waits else []
        if wrong:
            raise ConfigError(
                f"{' and '.join(wrong)} needs somebody who sees jobs end.",
                found="hydra.launcher.wait=false",
                do="add hydra.launcher.wait=true, or leave that out",
            )


def _submitted(jobs: Sequence[PlannedJob], where: str) -> dict[str, Outcome]:
    """Submit all; what the first refusal leaves over is not started."""
    outcomes: dict[str, Outcome] = {}
    refused = ""
    for job in jobs:
        if not refused:
            try:
                name = submit(job, where)
                outcomes.update(
                    {one.id: Outcome(one.id, None, f"job {name}", submitted=True) for one in job.siblings}
                )
                continue
            except VertexError as error:
                if not outcomes:
                    raise
                log.error("error: %s", error)
                refused = f"not started: {error.what}"
        outcomes.update({one.id: Outcome(one.id, 1, refused) for one in job.siblings})
    count = sum(outcome.status is None for outcome in outcomes.values())
    log.info("Submitted %d sibling%s to Vertex AI, %s.", count, "" if count == 1 else "s", where)
    return outcomes


def restored(settings: Mapping[str, Any]) -> VertexLauncher:
    """The launcher with the settings that an earlier launch had; what they refer to is looked up."""
    known = OmegaConf.create({name: value for name, value in settings.items() if name != "_target_"})
    given = OmegaConf.to_container(known, resolve=True)
    assert isinstance(given, dict)
    return VertexLauncher(**{**asdict(VertexConf()), **given})


def register() -> None:
    """Make ``hydra/launcher=vertex`` known to Hydra."""
    register_plugin(VertexLauncher, "hydra/launcher", "vertex", VertexConf)
    register_plugin(JobSweeper, "hydra/sweeper", SWEEPER, JobSweeperConf)
