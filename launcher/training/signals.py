"""Signals that ask a run to stop: the handler sets a flag, the loop looks at it between two steps."""

from __future__ import annotations

import os
import signal
from types import FrameType

from launcher.handlers import Handling

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""SIGUSR2 is what SLURM sends before the time limit and at preemption (submitit's default)."""


class Interruption(Handling):
    """While entered, remembers the first signal that asked to stop.

    A second SIGINT acts as if there were no handler: someone at a keyboard wants out now.

    Attributes:
        asked: the first signal.
        received: every signal so far; in a SLURM job the later ones tell what the first one meant.
    """

    def __init__(self) -> None:
        super().__init__(ASKING, self._handle, ignored_too=True)
        self.asked: signal.Signals | None = None
        self.received: set[signal.Signals] = set()
        self._pid = os.getpid()

    @property
    def exit_status(self) -> int:
        """The customary 128 + signal number."""
        assert self.asked is not None
        return 128 + self.asked

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked worker inherits the handler; stopping is not its decision.
            return
        if self.asked is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.note(signal.Signals(number))

    def note(self, number: signal.Signals) -> None:
        """A signal came, here or to a process that trains the run with this one."""
        self.received.add(number)
        if self.asked is None:
            self.asked = number
