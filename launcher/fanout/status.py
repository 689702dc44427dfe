"""What each run is doing now: from SLURM or Vertex AI where it is a job, from lease and record else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launcher.checkpoint.store import newest_step
from launcher.errors import LauncherError, UnknownRun
from launcher.fanout.jobs import known, system_of
from launcher.launchers.sibling import Job, Launch, read_launch
from launcher.layout import RunDirectory
from launcher.lease import Holder, holder
from launcher.ledger.no_effect import without_effect
from launcher.lineage import Run, RunRecord, find_run, read_run, read_runs
from launcher.messages import first_line
from launcher.report.compare.selection import means_nothing

STATES: Mapping[str, str] = {
    "new": "nothing is there yet",
    "queued": "waits for its launcher, for SLURM or for Vertex AI",
    "held": "SLURM does not start it again by itself; launcher retry releases it",
    "running": "a process trains it",
    "interrupted": "stopped; the same command, or launcher retry, goes on with it",
    "not started": "its launcher is gone, and it never began",
    "cancelled": "somebody cancelled it; launcher retry goes on with it",
    "failed": "ended with an error",
    "pruned": "a search had no use for the rest of it; its own command goes on with it",
    "finished": "at its end",
}
"""Every state, and what it means."""
UNDER_WAY = frozenset({"queued", "held", "running"})
"""States in which nobody else may take the run up."""
RETRIED = frozenset({"held", "interrupted", "not started", "cancelled", "failed"})
"""States that ``launcher retry`` does something about."""


@dataclass(frozen=True)
class Status:
    """One run at this moment."""

    run: str
    group: str
    directory: str
    state: str
    """One of ``STATES``."""
    detail: str = ""
    """Who has it, why it waits, or what went wrong; one line."""
    step: int = 0
    end_step: int = 0
    steps_per_second: float = 0.0
    seconds_left: float | None = None
    requeues: int = 0
    """How often its job was started again."""
    job_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The status as a JSON object."""
        return asdict(self)


def status_of(directory: RunDirectory, jobs: Mapping[str, Job] | None = None) -> Status:
    """The status of one run.

    Args:
        directory: the run's.
        jobs: what SLURM or Vertex AI say of the jobs that they know; None: they were not asked.

    Raises:
        LauncherError: its record cannot be read.
    """
    if not directory.record.is_file():
        return Status(directory.path.name, directory.path.parent.name, str(directory.path), "new")
    record, last, launch = read_run(directory.path).record, holder(directory), launch_of(directory)
    job_id = launch.job_id if launch is not None else None
    job = (jobs or {}).get(job_id or "")
    state, detail = _state(record, last, launch, job)
    alive = last is not None and last.alive and record.state != "finished"
    speed = last.steps_per_second if last is not None and alive else 0.0
    reached = last.step if last is not None and alive else newest_step(directory.checkpoints)
    step = max(record.step, reached)
    return Status(
        run=record.id,
        group=record.group,
        directory=str(directory.path),
        state=state,
        detail=detail,
        step=step,
        end_step=record.end_step,
        steps_per_second=speed,
        seconds_left=(record.end_step - step) / speed if speed > 0 and state == "running" else None,
        requeues=max(job.restarts if job is not None else 0, last.restarts if last is not None else 0),
        job_id=job_id,
    )


def _state(record: RunRecord, last: Holder | None, launch: Launch | None, job: Job | None) -> tuple[str, str]:
    if record.state == "finished":
        return "finished", ""
    alive = last is not None and last.alive
    if job is not None and not job.ended:
        return job.under_way(alive)
    if alive:
        return "running", str(last)
    if launch is not None and launch.cancelled:
        return "cancelled", f"at {launch.cancelled}"
    if record.state == "pruned":
        return "pruned", f"by its search, at step {record.step}"
    if job is not None:
        return job.over(record)
    if launch is not None and launch.job_id is not None and record.state in {"queued", "running"}:
        return "queued", f"job {launch.job_id}; {system_of(launch.job_id)} cannot be asked here"
    if record.state == "queued":
        return _waiting(record, launch)
    if record.state == "failed":
        return "failed", first_line(record.error)
    return ("interrupted" if record.starts else "not started"), first_line(record.error)


def _waiting(record: RunRecord, launch: Launch | None) -> tuple[str, str]:
    left = "interrupted" if record.starts else "not started"
    if launch is None:
        return left, ""
    by = launch.by
    if not by.here:
        return "queued", f"process {by.pid} on {by.host} is launching it"
    if by.there and by.pid != os.getpid():
        return "queued", f"process {by.pid} is launching it"
    return left, "its launcher is gone"


def launch_of(directory: RunDirectory) -> Launch | None:
    """How a run was launched; None where no fan-out launched it."""
    with contextlib.suppress(LauncherError):
        return read_launch(directory.path)
    return None


def jobs_of(directories: Iterable[RunDirectory]) -> dict[str, Job]:
    """What is said of the jobs of these runs, asked once; without those that nobody can be asked about."""
    launches = [launch for one in directories if (launch := launch_of(one)) is not None]
    return known([launch.job_id for launch in launches if launch.job_id is not None])


def statuses(outputs: Path, name: str | None = None) -> list[Status]:
    """The status of every run, of a group's, or of one.

    Raises:
        UnknownRun: there is no such group or run.
    """
    runs = select(outputs, name)
    jobs = jobs_of(run.directory for run in runs)
    # Of one run alone nothing can be told; its siblings are read as well.
    idle = without_effect(runs if len(runs) != 1 else _siblings(runs[0]))
    found = [status_of(run.directory, jobs) for run in runs]
    return [
        replace(one, detail="; ".join(filter(None, (str(idle.get(one.run, "")), one.detail))))
        for one in found
    ]


def _siblings(run: Run) -> list[Run]:
    found = []
    for path in sorted(run.directory.path.parent.glob("*/run.json")):
        with contextlib.suppress(LauncherError):
            found.append(read_run(path.parent))
    return found


def select(outputs: Path, name: str | None) -> list[Run]:
    """The runs that a name means: a group's name or directory, a run's id or a prefix of it; None: all.

    Raises:
        UnknownRun: there is no such group or run.
    """
    runs, _ = read_runs(outputs)
    if name is None:
        return runs
    wanted = name.rstrip("/")
    group = [run for run in runs if wanted in {run.record.group, run.directory.path.parent.name}]
    group = group or [run for run in runs if str(run.directory.path.parent) == wanted]
    if group:
        return group
    try:
        return [find_run(outputs, name)]
    except UnknownRun as error:
        raise means_nothing(outputs, name, error) from error


STYLE: Mapping[str, str] = {
    "finished": "green",
    "failed": "red",
    "bad": "red",
    "not started": "red",
    "held": "red",
    "running": "cyan",
}
"""Colours of the states that are not yellow."""
