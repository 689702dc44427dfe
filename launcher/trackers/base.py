"""What a tracker is told, and what it has to offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from launcher.trackers.trunk import TrunkValues

State = Literal["finished", "failed", "interrupted"]
"""How a run's process ended; ``interrupted``: the same run goes on later."""


def reason_of(error: Exception) -> str:
    """What a client raised, in one line that does not fill a terminal: their errors have no common base."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


@dataclass(frozen=True)
class RunIdentity:
    """Who a run is: everything that a tracker is told about it, once, before its first step."""

    id: str
    """The run's id: the same one after every requeue."""
    name: str
    """What a person reads in lists."""
    group: str | None
    """The siblings' common name, final; None: the run is in no group."""
    job_type: str | None
    """What the run is among its siblings."""
    directory: Path
    """The run's directory; a tracker writes below it and nowhere else."""
    project: str | None = None
    """Project; None: the tracker's environment, then the launcher's default."""
    entity: str | None = None
    """Account or team; None: the tracker's environment, then its own default."""
    tags: tuple[str, ...] = ()
    """Labels to filter by."""
    notes: str | None = None
    """Free text."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Plain resolved values: the config, and beside it metadata such as ``branched_from_checkpoint``."""
    resumed: bool = False
    """Whether this process goes on with a run that an earlier one began."""
    alone: bool = True
    """Whether it was launched by itself and not among siblings: what the environment says is about it."""
    known: Mapping[str, Any] = field(default_factory=dict)
    """What the run record has of the trackers since an earlier start."""
    last_logged_step: int | None = None
    """``global_step`` of the last line that is in metrics.jsonl already; None: there is none."""
    trunk: TrunkValues | None = None
    """The trunk's values at the branch's steps; None: a trunk, or its metrics are not here."""
    forks_at: tuple[str, int, int] | None = None
    """Of a branch: its trunk's id, and the branch point's step in the trunk's numbering and in its own."""
    input: str | None = None
    """Of a branch whose branch point is an artifact in W&B: ``entity/project/name:version``."""
    group_source: str | None = None
    """Where the group came from."""


@dataclass(frozen=True)
class KeptCheckpoint:
    """A checkpoint that a tracker is to keep as an artifact."""

    path: Path
    """The state's file; its manifest lies beside it. Neither changes."""
    step: int
    aliases: tuple[str, ...]
    by: str
    """``copy`` or ``reference``; see :class:`launcher.config.CheckpointConfig`."""
    done: Callable[[], object]
    """Called when the file is needed no longer, whether it was taken or not."""


class Tracker(Protocol):
    """A mirror of a run for people to look at.

    It may raise anything anywhere: :class:`launcher.trackers.worker.Worker` warns once, stops using
    it, and training goes on. It lives in a thread of its own, where ``start`` is called first; ``abandon``
    comes from another one. A tracker may have a mapping ``facts``, which is put into the run record, and a
    method ``keep`` that takes a :class:`KeptCheckpoint`; ``patience`` is how many seconds more it may take
    to finish once it was given any. ``held`` is how many steps it took that may not have arrived: they are
    lost if it fails. ``remedy`` is what its user can do then, as a sentence.
    """

    @property
    def name(self) -> str:
        """What a warning calls it."""

    def start(self, identity: RunIdentity) -> str | None:
        """Begin a run, or go on with it; returns where it can be seen (a link or a directory)."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take one step's numbers. ``step`` is ``global_step``, greater than in any call before."""

    def finish(self, state: State, summary: Mapping[str, Any]) -> None:
        """End the run, handing over what is still held back; ``summary`` is shown beside its name."""

    def abandon(self) -> None:
        """Give up on a run that failed or hangs: let go of processes and threads without waiting."""
