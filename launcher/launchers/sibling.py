"""What a launcher is handed: siblings that are checked and ready, each described by a file of its own.

``launch.json`` in a run's directory holds everything that the run's process needs: the resolved config and
what was declared. Whoever starts the process names the directory and nothing else, so a file that is edited
after the launch changes nothing, and a requeued job reads what was submitted.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from launcher.config import FanoutConfig
from launcher.errors import LauncherError
from launcher.files import read_json_object, write_json
from launcher.layout import RunDirectory
from launcher.lineage import RunRecord, read_run
from launcher.process import Process


@dataclass(frozen=True)
class Launch:
    """How one sibling was launched."""

    run: str
    """The run's id."""
    command: list[str]
    """What a person types to get this one run again."""
    working_directory: str
    """Where it was typed; relative paths in the config begin here."""
    config: dict[str, Any]
    """The resolved config."""
    declared: dict[str, Any]
    """What was declared; see :class:`launcher.branch.declared.Declared`."""
    launcher: str
    """``pool``, ``slurm``, ``vertex``, or the name of Hydra's launcher."""
    fanout: str
    """Id of the fan-out."""
    time: str
    """ISO 8601, UTC."""
    by: Process
    """The process that launched it."""
    job_id: str | None = None
    """On SLURM: ``123_4``; of a job that is no array, ``123``. On Vertex AI: the job's resource name."""
    code: str | None = None
    """Directory of the copy of the code that runs; None: the code as it is."""
    cancelled: str | None = None
    """When somebody cancelled it, ISO 8601, UTC; it does not start any more then."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The launcher's own settings, so that the same launch can be repeated."""
    script: str | None = None
    """Directory of the script, of one that was started by its file: its modules are beside it."""

    def write(self, directory: Path) -> None:
        """Put it into a run's directory, atomically."""
        write_json(RunDirectory(directory).launch, asdict(self))

    def find_script(self) -> None:
        """Let this process import what the script imports, first of all: from the code as it is, if it does.

        A job that has a copy of the code was told where that is.
        """
        if self.code is None and self.script is not None and self.script not in sys.path[:1]:
            sys.path.insert(0, self.script)

    def with_job(self, job_id: str) -> Launch:
        """The same launch as a job."""
        return replace(self, job_id=job_id)


def read_launch(directory: Path) -> Launch:
    """How the run in a directory was launched.

    Raises:
        LauncherError: nothing there says so.
    """
    path = RunDirectory(directory).launch
    known = {one.name for one in fields(Launch)}
    try:
        value = read_json_object(path)
        found = {key: value[key] for key in value if key in known}
        return Launch(**{**found, "by": Process(**found["by"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LauncherError(
            "How this run was launched cannot be read.",
            where=str(path),
            found=str(error),
            do="launch it again with the command that it was launched with",
        ) from error


def failed_sibling(directory: RunDirectory, fanout: str) -> str | None:
    """Id of a run beside ``directory`` that belongs to the same fan-out and failed; None if none did."""
    for path in sorted(directory.path.parent.glob("*/launch.json")):
        with contextlib.suppress(LauncherError):
            if read_launch(path.parent).fanout == fanout and read_run(path.parent).record.state == "failed":
                return path.parent.name
    return None


@dataclass(frozen=True)
class Sibling:
    """One run that is to be launched."""

    id: str
    directory: Path
    """Absolute; ``launch.json`` and the record (state ``queued``) are there already."""
    end_step: int
    nproc: int = 1
    """Processes that train it together."""
    threads: int | None = None
    """CPU threads that the config gives each process; None: the launcher's choice."""
    launch: Launch | None = None
    """What ``launch.json`` holds, also while it is not written yet."""
    overrides: tuple[str, ...] = ()
    """What ``train.py`` has to be told to be this sibling: what was typed, and what was found out."""


@dataclass(frozen=True)
class Outcome:
    """How a sibling's process ended, or that it did not run."""

    id: str
    status: int | None
    """Exit status as a shell shows it; None: it was not started, or nobody waited for it."""
    reason: str = ""
    """One line, where there is something to say: ``killed by SIGSEGV``, ``job 123_4``, ``not started: …``."""
    submitted: bool = False
    """Whether it is a job that nobody waited for."""
    elsewhere: bool = False
    """Whether another process was faster and trains it; then it is left to that one, and nothing failed."""


class Job(Protocol):
    """A job of a cluster or a cloud at one moment; ``launcher status`` asks it what to say."""

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs or waits."""
        ...

    def under_way(self, alive: bool) -> tuple[str, str]:
        """State of the run and one line of detail, of a job that has not ended.

        ``alive``: whether the run's own process gives a sign of life.
        """
        ...

    def over(self, record: RunRecord) -> tuple[str, str]:
        """State of the run and one line of detail, of a job that has ended; the run is not finished."""
        ...


RunSibling = Callable[[Path], int]
"""Runs the sibling whose directory is given, in this process, to its end; returns the exit status."""


@runtime_checkable
class SiblingLauncher(Protocol):
    """What the launchers of this package offer to the sweeper beyond Hydra's own ``launch``."""

    remote: bool
    """Whether siblings run on other machines than the one that launches them."""

    @property
    def world_size(self) -> int | None:
        """Processes that train each sibling together, where the launcher's settings say so; else None."""
        ...

    def check(self, siblings: Sequence[Sibling]) -> list[LauncherError]:
        """What is wrong with the launcher's settings for these siblings, before anything is written."""
        ...

    def launch_siblings(
        self,
        siblings: Sequence[Sibling],
        fanout: FanoutConfig,
        run: RunSibling,
        canary: RunSibling | None = None,
    ) -> list[Outcome]:
        """Start all siblings; one outcome each, in the same order.

        Args:
            siblings: checked, their records written.
            fanout: ``max_parallel`` and ``stop_on_failure`` are the launcher's to keep.
            run: a function of a module, so that another process can import it.
            canary: what the first sibling does before any of them may start; where it fails, none does.
        """
        ...


@runtime_checkable
class Attaching(Protocol):
    """A launcher that can wait for siblings that an earlier launch submitted."""

    def attach(self, siblings: Sequence[Sibling], fanout: FanoutConfig) -> list[Outcome]:
        """How they ended; none where nobody is to wait."""
        ...


@runtime_checkable
class Describing(Protocol):
    """A launcher that can show what it would submit."""

    def describe(self, siblings: Sequence[Sibling], fanout: FanoutConfig) -> str:
        """What a dry run prints of the jobs, whole."""
        ...
