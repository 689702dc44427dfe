"""``launcher cancel``: runs that are under way are asked to save and stop, those that wait do not start."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launcher.errors import LauncherError, RunFailed
from launcher.fanout.jobs import cancel as cancel_jobs
from launcher.fanout.status import Status, launch_of, select, statuses
from launcher.files import disk_error
from launcher.layout import RunDirectory
from launcher.lease import holder
from launcher.lineage import utc_now


def cancel(outputs: Path, name: str) -> list[Status]:
    """Cancel a run, or every run of a group, that waits or runs.

    A running one saves its state first and is interrupted; ``launcher retry`` goes on with it.

    Returns what each of them was before.

    Raises:
        UnknownRun: there is no such group or run.
        LauncherError: a process on another machine has the run, its job runs others that were not named, or
            who has the job refused.
        RunFailed: those that run are stopped, but nothing keeps those that wait from starting.
    """
    select(outputs, name)
    found = [one for one in statuses(outputs, name) if one.state in {"queued", "held", "running"}]
    _refuse_part_of_a_job(outputs, found)
    unmarked: RunFailed | None = None
    for directory in (Path(one.directory) for one in found):
        try:
            _mark(RunDirectory(directory))
        except OSError as error:
            unmarked = disk_error(error, directory)  # What runs is stopped all the same.
    jobs = [one.job_id for one in found if one.job_id is not None]
    if jobs:
        cancel_jobs(jobs)
    problems = [
        problem
        for one in found
        if one.job_id is None and one.state == "running" and (problem := _stop(one)) is not None
    ]
    if problems:
        raise LauncherError(
            "A run on another machine cannot be stopped from here.",
            where=", ".join(one.directory for one in problems),
            found="; ".join(one.detail for one in problems),
            do="run launcher cancel there",
        )
    if unmarked is not None:
        raise unmarked
    return found


def _refuse_part_of_a_job(outputs: Path, found: Sequence[Status]) -> None:
    """A job that runs several siblings ends for all of them."""
    named, jobs = {one.run for one in found}, {one.job_id for one in found} - {None}
    others = [
        run
        for run in (select(outputs, None) if jobs else [])
        if run.id not in named and run.record.state != "finished"
        if (launch := launch_of(run.directory)) is not None and launch.job_id in jobs
    ]
    if others:
        raise LauncherError(
            "The job runs other siblings as well.",
            found=", ".join(run.id for run in others),
            do=f"cancel all of them: launcher cancel {others[0].record.group}",
        )


def _mark(directory: RunDirectory) -> None:
    """Keep a sibling that waits from starting, and a job that comes back to life from going on."""
    if (launch := launch_of(directory)) is not None:
        replace(launch, cancelled=utc_now()).write(directory.path)


def _stop(one: Status) -> Status | None:
    """Ask a run's process to save and stop; the status, if that is not possible from here."""
    last = holder(RunDirectory(Path(one.directory)))
    if last is None or not last.alive:
        return None
    if not last.process.here:
        return one
    try:
        os.kill(last.process.pid, signal.SIGTERM)
    except ProcessLookupError:
        return None
    except PermissionError as error:
        raise LauncherError(
            "The run's process is somebody else's.",
            where=one.directory,
            found=f"process {last.process.pid}",
            do="have its owner cancel the run",
        ) from error
    return None
