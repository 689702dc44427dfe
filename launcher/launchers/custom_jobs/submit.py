"""Submitting jobs, each once: what is about to be submitted is on record before Google is asked."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from dataclasses import replace

from launcher.launchers.custom_jobs.spec import PlannedJob
from launcher.launchers.custom_jobs.states import JOB_LABEL, VertexError, custom_jobs
from launcher.launchers.sibling import read_launch

log = logging.getLogger("launcher.launchers.vertex")
FIND_SECONDS = 60.0
"""How long a job is looked for that may have been taken although the answer was lost."""
LOOK_SECONDS = 3.0
"""Time between two looks."""


def submit(job: PlannedJob, parent: str) -> str:
    """Submit a job; its resource name, which is on record in each sibling's ``launch.json``.

    Where the answer is lost the job is looked for by its label; it is not submitted a second time. Where it
    is not found, the record keeps the label, and whoever asks about the run later finds the job by it.

    Raises:
        VertexError: refused; or no answer, and there is no such job.
        OSError: a record cannot be written.
    """
    token = f"j{uuid.uuid4().hex[:15]}"
    jobs = custom_jobs()(parent)
    _record(job, f"{parent}/customJobs/{token}")
    try:
        name = str(jobs.create(job.submitted_as(token))["name"])
    except VertexError as error:
        if not error.lost:
            _record(job, None)
            raise
        log.info("No answer: looking for up to %.0f s whether the job was taken ...", FIND_SECONDS)
        found = _looked_for(token, parent)
        if found is None:
            error.do = (
                "nothing, if it turns up later: launcher status looks for it",
                *error.do,
                f"see for yourself: gcloud ai custom-jobs list --filter=labels.{JOB_LABEL}={token}",
            )
            raise
        name = found
    _record(job, name)
    return name


def _looked_for(token: str, parent: str) -> str | None:
    jobs, end = custom_jobs()(parent), time.monotonic() + FIND_SECONDS
    while True:
        with contextlib.suppress(VertexError):
            if (found := jobs.labelled(JOB_LABEL, token)) is not None:
                return str(found["name"])
        if time.monotonic() >= end:
            return None
        time.sleep(LOOK_SECONDS)


def _record(job: PlannedJob, name: str | None) -> None:
    # The run record is the job's own from here on.
    for sibling in job.siblings:
        replace(read_launch(sibling.directory), job_id=name).write(sibling.directory)
