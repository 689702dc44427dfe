"""What is there of a sibling before it is launched."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from launcher.errors import LauncherError
from launcher.launchers.sibling import Launch, read_launch
from launcher.layout import RunDirectory
from launcher.lease import holder
from launcher.lineage import read_run


@dataclass(frozen=True)
class There:
    """A run's state before the launch."""

    state: Literal["new", "queued", "running", "interrupted", "failed", "finished"] = "new"
    detail: str = ""
    """Who has it, where it is running or queued."""


def what_is_there(directory: RunDirectory, jobs: Mapping[str, str] | None = None) -> There:
    """Look at a run's directory, its lease and its job.

    Args:
        directory: the run's.
        jobs: state by id of the SLURM jobs that are waiting or running; None: not known.

    Raises:
        LauncherError: its record cannot be read.
    """
    if not directory.record.is_file():
        return There()
    last = holder(directory)
    if last is not None and last.alive:
        return There("running", str(last))
    record = read_run(directory.path).record
    if record.state == "finished":
        return There("finished")
    launch = _launch(directory)
    if launch is not None and _waits(launch, record.state, jobs):
        return There(
            "queued", f"job {launch.job_id}" if launch.job_id else f"process {launch.by.pid} launches it"
        )
    if not record.starts:
        return There()
    return There("failed" if record.state == "failed" else "interrupted", record.error or "")


def _launch(directory: RunDirectory) -> Launch | None:
    try:
        return read_launch(directory.path)
    except LauncherError:
        return None


def _waits(launch: Launch, state: str, jobs: Mapping[str, str] | None) -> bool:
    if launch.job_id is not None:
        # Also one that was interrupted: SLURM starts it again.
        return jobs is not None and launch.job_id in jobs
    return state == "queued" and launch.by.here and launch.by.there and launch.by.pid != os.getpid()
