"""Signals that ask a run to stop: the handler sets a flag, the loop looks at it between two steps."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""SIGUSR2 is what SLURM sends before the time limit and at preemption (submitit's default)."""


class Interruption:
    """While entered, remembers the first signal that asked to stop.

    A second SIGINT acts as if there were no handler: someone at a keyboard wants out now.

    Attributes:
        asked: the first signal.
        received: every signal so far; in a SLURM job the later ones tell what the first one meant.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.received: set[signal.Signals] = set()
        self._previous: dict[signal.Signals, Any] = {}
        self._pid = os.getpid()

    @property
    def exit_status(self) -> int:
        """The customary 128 + signal number."""
        assert self.asked is not None
        return 128 + self.asked

    def __enter__(self) -> Interruption:
        for number in ASKING:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked worker inherits the handler; stopping is not its decision.
            return
        if self.asked is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received.add(signal.Signals(number))
        if self.asked is None:
            self.asked = signal.Signals(number)
