"""What Vertex AI says of jobs, and what is done to them once they are submitted.

A job is named by its resource name, ``projects/P/locations/R/customJobs/123``. While nobody knows whether a
job was taken, its launch has the name ``…/customJobs/TOKEN`` on record instead: the job, if there is one, has
the token as a label, and is looked for by it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.errors import ConfigError, LauncherError
from launcher.lineage import RunRecord
from launcher.messages import first_line

if TYPE_CHECKING:
    from launcher.launchers.custom_jobs.client import CustomJobs

JOB_LABEL = "launcher-job"
"""Label whose value is the token of one submission."""
_NAME = re.compile(r"^(projects/([^/]+)/locations/([^/]+))/customJobs/([^/]+)$")
_WAITING = {"QUEUED": "in the queue", "PENDING": "its machine is being made ready", "PAUSED": "paused"}
_ENDED = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "UNKNOWN")
_AT_ONCE = 8


class VertexError(LauncherError):
    """Google Cloud gave no answer, or refused."""

    exit_status = 1

    def __init__(self, what: str, *, lost: bool = False, **more: Any) -> None:
        """``lost``: what was asked for may have been done all the same."""
        super().__init__(what, **more)
        self.lost = lost


@dataclass(frozen=True)
class VertexJob:
    """What Vertex AI knows of a job at one moment; a :class:`launcher.launchers.sibling.Job`."""

    name: str
    """Resource name; of a job that is not there, the name that it was looked for by."""
    state: str
    """As Vertex AI has it, without ``JOB_STATE_``; ``UNKNOWN``: there is no such job."""
    error: str = ""
    outputs: str = ""
    """Where its files are: ``gs://…``."""

    @property
    def restarts(self) -> int:
        """Vertex AI does not say; the run's lease does, where it can be read."""
        return 0

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs or waits. Vertex AI starts no ended job again."""
        return self.state in _ENDED

    def under_way(self, alive: bool) -> tuple[str, str]:  # noqa: ARG002  # Only SLURM's say less.
        """See :class:`launcher.launchers.sibling.Job`."""
        if self.state in _WAITING:
            return "queued", f"{self}: {_WAITING[self.state]}"
        if self.state == "CANCELLING":
            return "running", f"{self}: is being cancelled"
        return "running", str(self)

    def over(self, record: RunRecord) -> tuple[str, str]:
        """See :class:`launcher.launchers.sibling.Job`. The record may be older than the job's own copy."""
        if self.state == "UNKNOWN":
            return ("interrupted" if record.starts else "not started"), f"Vertex AI knows no {self}"
        if self.state == "SUCCEEDED":
            return "finished", f"{self}; its files: {self.outputs}"
        if self.state == "CANCELLED":
            return "cancelled", str(self)
        if record.state == "failed" and record.error:
            return "failed", first_line(record.error)
        why = "ran into its time limit" if self.state == "EXPIRED" else first_line(self.error) or self.state
        return "failed", f"{self}: {why}"

    def __str__(self) -> str:
        return f"job {self.name.rpartition('/')[2]}"


def is_custom_job(job: str) -> bool:
    """Whether this is how a job of Vertex AI is named."""
    return _NAME.match(job) is not None


def parent_of(job: str) -> str:
    """``projects/P/locations/R``."""
    return _parts(job)[1]


def console_url(job: str) -> str:
    """Where a browser shows the job."""
    _, _, project, region, number = _parts(job)
    return (
        f"https://console.cloud.google.com/vertex-ai/locations/{region}/training/{number}?project={project}"
    )


def log_commands(job: str) -> list[str]:
    """What prints the job's log."""
    _, _, project, region, number = _parts(job)
    read = f'resource.type="ml_job" AND resource.labels.job_id="{number}"'
    return [
        f"gcloud ai custom-jobs stream-logs {number} --project={project} --region={region}",
        f"gcloud logging read '{read}' --project={project} --order=asc --format='value(jsonPayload.message)'",
    ]


def states(jobs: Sequence[str]) -> dict[str, VertexJob]:
    """What Vertex AI says of each job now, by the name that was asked for.

    Raises:
        VertexError: refused, or no answer.
    """
    if not jobs:
        return {}
    client = custom_jobs()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(jobs, pool.map(lambda job: _state(client(parent_of(job)), job), jobs), strict=True))


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; those that are over, or were never taken, are passed over.

    Raises:
        VertexError: refused, or no answer.
    """
    if not jobs:
        return
    client = custom_jobs()
    for job, there in states(jobs).items():
        if not there.ended:
            client(parent_of(job)).cancel(there.name)


def custom_jobs() -> type[CustomJobs]:
    """Google's client, imported when it is needed.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from launcher.launchers.custom_jobs.client import CustomJobs
    except ImportError as error:
        raise ConfigError(
            "The package google-cloud-aiplatform is not installed.",
            found=str(error),
            do="pip install 'checkpoint-launcher[vertex]'",
        ) from error
    return CustomJobs


def as_job(found: dict[str, Any]) -> VertexJob:
    """A job as the API gives it."""
    where = found.get("jobSpec", {}).get("baseOutputDirectory", {}).get("outputUriPrefix", "")
    return VertexJob(
        name=found["name"],
        state=str(found.get("state", "JOB_STATE_UNSPECIFIED")).removeprefix("JOB_STATE_"),
        error=str(found.get("error", {}).get("message", "")),
        outputs=where,
    )


def _state(jobs: CustomJobs, job: str) -> VertexJob:
    token = _parts(job)[4]
    found = jobs.get(job) if token.isdecimal() else jobs.labelled(JOB_LABEL, token)
    return VertexJob(job, "UNKNOWN") if found is None else as_job(found)


def _parts(job: str) -> tuple[str, str, str, str, str]:
    """The whole name, its parent, project, region, and number or token."""
    match = _NAME.match(job)
    assert match is not None
    return match[0], match[1], match[2], match[3], match[4]
