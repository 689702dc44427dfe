"""Tracking as training sees it: one object that writes metrics.jsonl and feeds every tracker.

The metrics file must work: if it cannot be written, the run fails. A tracker may fail, hang or be slow: each
has a thread and a bounded queue of its own (:mod:`launcher.trackers.worker`). Nothing that a tracker does
reaches training.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from launcher.config import TrackerConfig
from launcher.trackers import collector
from launcher.trackers.base import KeptCheckpoint, RunIdentity, State, Tracker
from launcher.trackers.metrics_file import STEP, MetricsFile
from launcher.trackers.mlflow import MlflowTracker
from launcher.trackers.tensorboard import TensorboardTracker
from launcher.trackers.trackio import TrackioTracker
from launcher.trackers.wandb.tracker import WandbTracker
from launcher.trackers.worker import Worker

log = logging.getLogger("launcher.trackers")

BEGIN_SECONDS = 10.0
"""How long all trackers together may keep the first step waiting.

Beginning is the one thing that takes a tracker seconds of pure Python: imports, its service's start, a new
database. Beside training it would take the interpreter away from it, for more than one step.
"""


def trackers_of(config: TrackerConfig) -> list[Tracker]:
    """The trackers that the config names, not yet started."""
    trackers: list[Tracker] = []
    if config.wandb is not None and config.wandb.mode != "disabled":
        trackers.append(WandbTracker(config.wandb))
    if config.tensorboard is not None:
        trackers.append(TensorboardTracker(config.tensorboard))
    if config.mlflow is not None:
        trackers.append(MlflowTracker(config.mlflow))
    if config.trackio is not None:
        trackers.append(TrackioTracker(config.trackio))
    return trackers


def not_installed(config: TrackerConfig) -> list[str]:
    """The trackers that the config names and whose package is not there; each is an extra of that name."""
    named = [one.name for one in fields(config) if getattr(config, one.name) is not None]
    return [name for name in named if importlib.util.find_spec(name) is None]


class Trackers:
    """The metrics file and any number of trackers, behind one interface.

    Use it as a context manager: leaving it finishes the run as ``finished``, or as ``failed`` when an
    exception is passing, unless :meth:`finish` was called before.
    """

    def __init__(self, metrics: MetricsFile, trackers: Sequence[Tracker] = ()) -> None:
        self.metrics = metrics
        self._workers = [Worker(tracker) for tracker in trackers]
        self._finished = False

    @property
    def links(self) -> dict[str, str]:
        """Where the run can be seen, by tracker, as far as they have begun."""
        return {one.name: one.link for one in self._workers if one.link}

    @property
    def dropped(self) -> dict[str, int]:
        """How many logged steps did not arrive, of those trackers that failed or were too slow."""
        return {one.name: one.dropped for one in self._workers if one.dropped or one.failed}

    def facts(self) -> dict[str, Any]:
        """For the run record: each tracker's link, what it has to say, and what it did not get."""
        said = {f"{one.name}_settings": one.facts for one in self._workers if one.facts}
        return {**self.links, **said, **{f"{name}_dropped": count for name, count in self.dropped.items()}}

    def start(self, identity: RunIdentity) -> None:
        """Begin the run in every tracker; one that takes too long goes on with that beside training."""
        for worker in self._workers:
            worker.start(identity)
        deadline = time.monotonic() + BEGIN_SECONDS
        for worker in self._workers:
            if not worker.begun(deadline - time.monotonic()):
                log.info("%s has not begun within %g s; training does not wait.", worker.name, BEGIN_SECONDS)

    def log(self, line: Mapping[str, int | float | str]) -> bool:
        """Log one step; says whether it is new. A step that is logged already goes nowhere.

        Raises:
            LauncherError: metrics.jsonl cannot be written.
        """
        if not self.metrics.append(line):
            return False
        numbers = {key: value for key, value in line.items() if not isinstance(value, str)}
        step = int(numbers.pop(STEP))
        for worker in self._workers:
            worker.log(step, numbers)
        return True

    def keep(self, kept: KeptCheckpoint) -> None:
        """Hand a checkpoint to the tracker that keeps such, if there is one."""
        keeper = next((worker for worker in self._workers if worker.keeps), None)
        kept.done() if keeper is None else keeper.keep(kept)

    def sync(self) -> None:
        """Have the logged lines on disk; called before a checkpoint is published."""
        self.metrics.sync()

    def finish(
        self,
        state: State,
        summary: Mapping[str, Any] | None = None,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """End the run everywhere; a second time does nothing. ``hurried``: see :meth:`Worker.wait`.

        Raises:
            LauncherError: metrics.jsonl cannot be brought to disk.
        """
        if self._finished:
            return
        self._finished = True
        try:
            self.metrics.sync()
            for worker in self._workers:
                worker.finish(state, summary or {})
            since = time.monotonic()
            for worker in self._workers:
                worker.wait(state, since, hurried)
        finally:
            collector.thaw()
            self.metrics.close()

    def leave(self) -> None:
        """Let go of everything without a word: the run is another process's."""
        if self._finished:
            return
        self._finished = True
        for worker in self._workers:
            worker.leave()
        collector.thaw()
        self.metrics.close()

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish("finished" if kind is None else "failed")
