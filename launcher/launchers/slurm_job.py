"""Inside a SLURM job: which job this process is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SlurmJob:
    """The job that a process runs in."""

    id: str
    """``123_4`` for a task of an array, else ``123``: what ``scontrol requeue`` takes."""
    restarts: int
    """How often SLURM has started it again."""


def current_job(environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
    """The SLURM job that this process runs in, if any."""
    job = environment.get("SLURM_JOB_ID")
    if not job:
        return None
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    count = environment.get("SLURM_RESTART_COUNT", "")
    restarts = int(count) if count.isdecimal() else 0
    return SlurmJob(f"{array}_{task}" if array and task else job, restarts)
