"""Trackio's local database; the only file that imports trackio, and only when a run starts."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from launcher.config import TrackioConfig
from launcher.trackers.base import RunIdentity, State
from launcher.trackers.mirror import missing
from launcher.trackers.wandb.names import DEFAULT_PROJECT

if TYPE_CHECKING:
    from trackio.sqlite_storage import SQLiteStorage


class TrackioTracker:
    """One run in Trackio's local database, under the run's own id.

    It writes through the part of Trackio that its own client writes through at the end. The client itself
    prints, samples the machine in threads of its own, swallows every error, has no ``id``, and on a resume
    without config and group wipes both.
    """

    name = "trackio"

    def __init__(self, config: TrackioConfig) -> None:
        self._config = config
        self._storage: type[SQLiteStorage] | None = None
        self._last_step: int | None = None
        self._held: list[tuple[int, str, dict[str, float]]] = []
        self._flushed = 0.0

    @property
    def held(self) -> int:
        """How many steps are not handed over yet."""
        return len(self._held)

    def start(self, identity: RunIdentity) -> str | None:
        """Begin or go on with the run; returns the command that shows it."""
        from trackio.sqlite_storage import SQLiteStorage

        self._project = identity.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
        SQLiteStorage.validate_project_name(self._project)
        self._identity = identity
        there = SQLiteStorage.get_logs(self._project, run_id=identity.id)
        self._told: dict[str, Any] | None = _told(identity)
        self._last_step = identity.last_logged_step
        self._storage = SQLiteStorage
        self._held = [
            (step, _now(), metrics) for step, metrics in missing(identity, {line["step"] for line in there})
        ]
        self._flush()
        return f'trackio show --project "{self._project}"'

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take one step's numbers, unless an earlier process of this run did."""
        if self._storage is None or (self._last_step is not None and step <= self._last_step):
            return
        self._held.append((step, _now(), dict(metrics)))
        self._last_step = step
        if time.monotonic() - self._flushed >= self._config.flush_seconds:
            self._flush()

    def finish(self, state: State, summary: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Write what is held back. Trackio has no place for a state or a summary."""
        if self._storage is not None:
            self._flush()
            self._storage = None

    def abandon(self) -> None:
        """Let go; nothing runs in the background."""
        self._storage = None

    def _flush(self) -> None:
        assert self._storage is not None
        self._flushed = time.monotonic()
        if not self._held:
            return
        steps, times, lines = map(list, zip(*self._held, strict=True))
        self._storage.bulk_log(
            self._project, self._identity.name, lines, steps, times, self._told, run_id=self._identity.id
        )
        # The config goes with the first lines of a process: alone it cannot be written.
        self._told = None
        self._held.clear()


def _told(identity: RunIdentity) -> dict[str, Any]:
    """The config as Trackio keeps it: what it has no fields for stands in it as well."""
    return {
        **identity.config,
        "run_id": identity.id,
        "job_type": identity.job_type,
        "tags": list(identity.tags),
        "notes": identity.notes,
        "directory": str(identity.directory.resolve()),
        "_Group": identity.group,
        "_Username": None,
        "_Created": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()
