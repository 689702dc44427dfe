"""Tracking as training sees it: one object that writes metrics.jsonl and feeds every tracker.

The metrics file must work: if it cannot be written, the run fails. A tracker may fail: it is warned
about once and not used again in this run. Nothing that a tracker raises reaches training.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from launcher.config import TrackerConfig
from launcher.trackers.base import RunIdentity, State, Tracker
from launcher.trackers.metrics_file import STEP, MetricsFile
from launcher.trackers.mlflow import MlflowTracker
from launcher.trackers.tensorboard import TensorboardTracker
from launcher.trackers.trackio import TrackioTracker
from launcher.trackers.wandb import WandbTracker

log = logging.getLogger("launcher.trackers")

START_SECONDS = 90.0
"""How long a tracker may take to begin; trackers have shorter limits of their own."""
FINISH_SECONDS: Mapping[State, float] = {"finished": 120.0, "failed": 60.0, "interrupted": 8.0}
"""How long a tracker may take to hand over the rest. A preempted job has few seconds left to live."""

T = TypeVar("T")


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


class Trackers:
    """The metrics file and any number of trackers, behind one interface.

    Use it as a context manager: leaving it finishes the run as ``finished``, or as ``failed`` when an
    exception is passing, unless :meth:`finish` was called before.
    """

    def __init__(self, metrics: MetricsFile, trackers: Sequence[Tracker] = ()) -> None:
        self.metrics = metrics
        self.links: dict[str, str] = {}
        """Where the run can be seen, by tracker."""
        self.dropped: dict[str, int] = {}
        """How many logged steps each tracker that failed did not get."""
        self._live = list(trackers)
        self._finished = False

    def start(self, identity: RunIdentity) -> None:
        """Begin the run in every tracker."""
        for tracker in list(self._live):
            link = self._attempt(tracker, "start", partial(tracker.start, identity), START_SECONDS)
            if link:
                self.links[tracker.name] = link

    def log(self, line: Mapping[str, int | float | str]) -> bool:
        """Log one step; says whether it is new. A step that is logged already goes nowhere.

        Raises:
            LauncherError: metrics.jsonl cannot be written.
        """
        if not self.metrics.append(line):
            return False
        for name in self.dropped:
            self.dropped[name] += 1
        numbers = {key: value for key, value in line.items() if not isinstance(value, str)}
        step = int(numbers.pop(STEP))
        for tracker in list(self._live):
            try:
                tracker.log(step, numbers)
            except Exception as error:
                self._give_up(tracker, "log", error, dropped=1)
        return True

    def sync(self) -> None:
        """Have the logged lines on disk; called before a checkpoint is published."""
        self.metrics.sync()

    def finish(self, state: State, summary: Mapping[str, Any] | None = None) -> None:
        """End the run everywhere; a second time does nothing.

        Raises:
            LauncherError: metrics.jsonl cannot be brought to disk.
        """
        if self._finished:
            return
        self._finished = True
        try:
            for tracker in list(self._live):
                call = partial(tracker.finish, state, summary or {})
                self._attempt(tracker, "finish", call, FINISH_SECONDS[state])
            self.metrics.sync()
        finally:
            self.metrics.close()

    def leave(self) -> None:
        """Let go of everything without a word: the run is another process's."""
        if self._finished:
            return
        self._finished = True
        for tracker in self._live:
            with contextlib.suppress(Exception):
                _within(5.0, tracker.abandon, f"{tracker.name} abandon")
        self.metrics.close()

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish("finished" if kind is None else "failed")

    def _attempt(self, tracker: Tracker, doing: str, call: Callable[[], T], seconds: float) -> T | None:
        try:
            return _within(seconds, call, f"{tracker.name} {doing}")
        except Exception as error:
            self._give_up(tracker, doing, error)
            return None

    def _give_up(self, tracker: Tracker, doing: str, error: Exception, dropped: int = 0) -> None:
        self._live.remove(tracker)
        self.dropped[tracker.name] = dropped
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.warning(
            "%s failed (%s): %s. Training goes on without it; metrics.jsonl has everything.",
            tracker.name,
            doing,
            reason.removesuffix("."),
        )
        with contextlib.suppress(Exception):
            _within(5.0, tracker.abandon, f"{tracker.name} abandon")


def _within(seconds: float, call: Callable[[], T], name: str) -> T:
    """What ``call`` returns or raises, if it comes to an end in time.

    Raises:
        TimeoutError: it did not. Its thread is left behind and does not keep the process alive.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if errors:
        if isinstance(errors[0], Exception):
            raise errors[0]
        raise RuntimeError(f"it asked to leave: {errors[0]!r}") from errors[0]
    return results[0]
