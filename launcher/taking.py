"""The start of a run: the next fencing token, unless a living process has the run."""

from __future__ import annotations

import contextlib

from launcher.errors import RunsElsewhere
from launcher.launchers.custom_jobs.inside import vertex_job
from launcher.launchers.jobs.job import SlurmJob, current_job
from launcher.layout import RunDirectory
from launcher.lease import Lease, Superseded, holder, newest_token
from launcher.lineage import utc_now


def take(directory: RunDirectory, run: str) -> tuple[Lease, SlurmJob]:
    """The lease on a run's directory, and the job that this process runs in; outside of any its id is empty.

    Of several processes that start at the same moment one has it.

    Args:
        directory: the run's.
        run: its id, for messages.

    Raises:
        RunsElsewhere: a living process trains it, and that is no earlier start of this job.
        OSError: the directory cannot be written.
    """
    job = current_job() or SlurmJob(vertex_job() or "", 0)
    while True:
        seen = newest_token(directory)
        job = _beside_nobody(directory, run, job)
        with contextlib.suppress(Superseded):
            return Lease(directory, utc_now(), job.id or None, job.restarts, only_after=seen), job


def _beside_nobody(directory: RunDirectory, run: str, job: SlurmJob) -> SlurmJob:
    """The job, with the number of its restarts where only the run's directory tells it.

    Raises:
        RunsElsewhere: see :func:`take`.
    """
    there = holder(directory)
    if there is not None and vertex_job() is not None and there.job_id == job.id:
        # Vertex AI does not count; it starts a job's process again only when the one before is over.
        job = SlurmJob(job.id, there.restarts + 1)
    if there is None or not there.alive:
        return job
    if there.job_id == job.id and there.restarts < job.restarts:
        return job
    raise RunsElsewhere(
        f"Another process is training {run}.",
        where=str(directory.path),
        found=str(there),
        expected="one process a run",
        do="let it finish, or stop it and give this command again",
    )
