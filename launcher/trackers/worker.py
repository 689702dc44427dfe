"""One tracker in a thread of its own, behind a bounded queue: training hands over and goes on."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from launcher.trackers import collector
from launcher.trackers.base import KeptCheckpoint, RunIdentity, State, Tracker, reason_of

log = logging.getLogger("launcher.trackers")

QUEUED_STEPS = 4096
"""Logged steps that may wait for a tracker; what comes while it is full is dropped."""
START_SECONDS = 90.0
"""How long a tracker may take to begin; trackers have shorter limits of their own."""
LOG_SECONDS = 60.0
"""How long a tracker may take over one step."""
GATHER_SECONDS = 0.5
"""How long logged steps gather before a tracker gets them. One by one, each wakes the threads of a client
in the middle of training, which costs several times what the same step costs behind another."""
FINISH_SECONDS: Mapping[State, float] = {"finished": 120.0, "failed": 60.0, "interrupted": 8.0}
"""How long a tracker may take to hand over the rest. A preempted job has few seconds left to live."""
ABANDON_SECONDS = 5.0

_Call = tuple[str, float, Callable[[], object]]
"""What is done, in how many seconds at most, and how."""


class Worker:
    """Feeds one tracker. Only :meth:`begun`, :meth:`wait` and :meth:`leave` ever wait for it.

    Whatever goes wrong, the user is warned once; the tracker is then not used again in this run.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.name = tracker.name
        self.link: str | None = None
        """Where the run can be seen, once the tracker has begun."""
        self.dropped = 0
        """How many logged steps did not arrive, or, where nobody can say, may not have."""
        self._waiting: queue.Queue[_Call] = queue.Queue(QUEUED_STEPS)
        self._hurry = threading.Event()
        """Set while something waits that is not to wait for more."""
        self._last: _Call | None = None
        self._lock = threading.Lock()
        self._alive = True
        self._full = False
        self._keeping = False
        self._begun = threading.Event()
        """Set once the tracker has begun, or will not."""
        self._doing: tuple[str, float] | None = None
        """The call that is under way, and when it is overdue."""
        self._abandoning: threading.Thread | None = None
        self._thread = threading.Thread(target=self._work, name=f"{self.name} tracker", daemon=True)

    @property
    def facts(self) -> dict[str, Any]:
        """What the tracker has for the run record beyond its link."""
        return dict(getattr(self.tracker, "facts", {}))

    @property
    def keeps(self) -> bool:
        """Whether the tracker takes checkpoints."""
        return hasattr(self.tracker, "keep")

    @property
    def failed(self) -> bool:
        """Whether the tracker was given up."""
        return not self._alive

    def start(self, identity: RunIdentity) -> None:
        """Begin the run, some time soon."""
        self._waiting.put(("start", START_SECONDS, partial(self._start, identity)))
        collector.hold(self)
        self._thread.start()

    def _start(self, identity: RunIdentity) -> None:
        try:
            self.link = self.tracker.start(identity)
        finally:
            collector.release(self)
            self._begun.set()

    def begun(self, seconds: float) -> bool:
        """Whether the tracker has begun, or was given up, within so many seconds."""
        return self._begun.wait(max(seconds, 0.0))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand over one step's numbers."""
        if self._alive and self._overdue():
            self._give_up_on_time()
        with self._lock:
            if not self._alive:
                self.dropped += 1
                return
            try:
                self._waiting.put_nowait(("log", LOG_SECONDS, partial(self.tracker.log, step, metrics)))
                return
            except queue.Full:
                self.dropped += 1
                first, self._full = not self._full, True
        if first:
            log.warning(
                "%s is slower than training: logged steps are dropped from global_step %d on. "
                "Training goes on; metrics.jsonl has everything.",
                self.name,
                step,
            )

    def keep(self, kept: KeptCheckpoint) -> None:
        """Hand over a checkpoint, to a tracker that keeps them."""
        self._keeping = True
        try:
            if self._alive:
                self._waiting.put_nowait(("keep", LOG_SECONDS, partial(self.tracker.keep, kept)))  # type: ignore[attr-defined]
                self._hurry.set()
                return
        except queue.Full:
            log.warning("%s is slower than training: it does not get %s.", self.name, kept.path.name)
        kept.done()

    def _finish_seconds(self, state: State) -> float:
        more = getattr(self.tracker, "patience", 0.0) if self._keeping and state == "finished" else 0.0
        return FINISH_SECONDS[state] + more

    def finish(self, state: State, summary: Mapping[str, Any]) -> None:
        """Have the tracker end the run once nothing waits any more; see :meth:`wait`."""
        self._last = ("finish", self._finish_seconds(state), partial(self.tracker.finish, state, summary))
        self._wake()

    def wait(self, state: State, since: float, hurried: Callable[[], bool]) -> None:
        """Wait for the end of a run that was finished; gives the tracker up where that takes too long.

        Args:
            state: how it ended.
            since: when the trackers were told, of :func:`time.monotonic`.
            hurried: whether a signal asks the process to stop: from then on there is as little time as for an
                interrupted run.
        """
        deadline, asked = since + self._finish_seconds(state), False
        while self._alive and self._thread.is_alive() and not self._overdue() and time.monotonic() < deadline:
            if not asked and hurried():
                asked = True
                deadline = min(deadline, time.monotonic() + FINISH_SECONDS["interrupted"])
            self._thread.join(0.01)
        if self._alive and self._thread.is_alive():
            self._give_up_on_time(FINISH_SECONDS["interrupted"] if asked else self._finish_seconds(state))
        self._let_go()

    def leave(self) -> None:
        """Let go of the tracker without a word."""
        with self._lock:
            self._abandon()
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            abandoning = self._abandoning
        if abandoning is not None:
            abandoning.join(ABANDON_SECONDS)

    def _work(self) -> None:
        while self._alive:
            call = self._waiting.get()
            self._hurry.clear()
            self._do(*call)
            if self._waiting.empty():
                if self._last is not None:
                    self._do(*self._last)
                    return
                self._hurry.wait(GATHER_SECONDS)

    def _do(self, doing: str, seconds: float, call: Callable[[], object]) -> None:
        if not self._alive:
            return
        self._doing = (doing, time.monotonic() + seconds)
        try:
            call()
        except Exception as error:
            self._give_up(doing, error)
        except BaseException as error:
            self._give_up(doing, RuntimeError(f"it asked to leave: {error!r}"))
        self._doing = None

    def _wake(self) -> None:
        with contextlib.suppress(queue.Full):  # Then it does not sleep.
            self._waiting.put_nowait(("", 0.0, lambda: None))
        self._hurry.set()

    def _overdue(self) -> bool:
        doing = self._doing
        return doing is not None and time.monotonic() > doing[1]

    def _give_up_on_time(self, seconds: float | None = None) -> None:
        doing = (self._doing or ("finish", 0.0))[0]
        limit = {"start": START_SECONDS, "log": LOG_SECONDS}.get(doing, 0.0) if seconds is None else seconds
        self._give_up(doing, TimeoutError(f"no answer within {limit:g} s"))

    def _give_up(self, doing: str, error: Exception) -> None:
        with self._lock:
            if not self._abandon():
                return
            # The step that failed is held, unless the tracker holds none.
            self.dropped += max(getattr(self.tracker, "held", 0), doing == "log")
            with contextlib.suppress(queue.Empty):
                while True:
                    self.dropped += self._waiting.get_nowait()[0] == "log"
            self._wake()
            reason = reason_of(error)
            log.warning(
                "%s failed (%s): %s. %s; metrics.jsonl has everything.%s",
                self.name,
                doing,
                reason.removesuffix("."),
                "The run is complete without it" if doing == "finish" else "Training goes on without it",
                f" {remedy}" if (remedy := getattr(self.tracker, "remedy", "")) else "",
            )

    def _abandon(self) -> bool:
        """Use the tracker no more; False if somebody said so before."""
        if not self._alive:
            return False
        self._alive = False
        collector.release(self)
        self._begun.set()

        def abandon() -> None:
            with contextlib.suppress(BaseException):
                self.tracker.abandon()

        # In a thread of its own: who finds out may be training itself.
        self._abandoning = threading.Thread(target=abandon, name=f"{self.name} abandon", daemon=True)
        self._abandoning.start()
        return True
