"""``launcher logs``: what a run's process printed, also while it goes on."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from pathlib import Path

from launcher.errors import LauncherError
from launcher.fanout.jobs import places_of_log, prints_elsewhere
from launcher.fanout.status import UNDER_WAY, launch_of, status_of
from launcher.layout import RunDirectory
from launcher.lease import holder
from launcher.lineage import find_run

LOOK_SECONDS = 0.2
"""Time between two looks at a log that is followed."""


def lines(outputs: Path, name: str, follow: bool) -> Iterator[str]:
    """The log in pieces; followed, until the run is not under way any more.

    Raises:
        UnknownRun: there is no such run.
        LauncherError: nobody caught what it prints.
    """
    directory = find_run(outputs, name).directory
    launch = launch_of(directory)
    job = launch.job_id if launch is not None else None
    elsewhere = job is not None and prints_elsewhere(job)
    if not directory.log.is_file() and (elsewhere or not (follow and _under_way(directory))):
        raise LauncherError(
            "The log of this run is not here." if elsewhere else "There is no log of this run.",
            where=job if elsewhere else str(directory.log),
            found=f"state: {status_of(directory).state}",
            expected=None if elsewhere else "a run that hydra/launcher=pool or hydra/launcher=slurm started",
            do=places_of_log(job)
            if job is not None and elsewhere
            else "its metrics are in metrics.jsonl; what a single run prints is on its terminal",
        )
    position = 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # A look may end within a character.
    while True:
        going_on = follow and (_under_way(directory) or _prints_on(directory))
        data = _since(directory.log, position)
        position += len(data)
        if text := decoder.decode(data, final=not going_on):
            yield text
        if not going_on:
            return
        time.sleep(LOOK_SECONDS)


def _under_way(directory: RunDirectory) -> bool:
    return status_of(directory).state in UNDER_WAY


def _prints_on(directory: RunDirectory) -> bool:
    """Whether the run's process is still there: it sums up what its record says already."""
    last = holder(directory)
    return last is not None and last.process.here and last.process.there


def _since(log: Path, position: int) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(position)
            return file.read()
    except FileNotFoundError:
        return b""
