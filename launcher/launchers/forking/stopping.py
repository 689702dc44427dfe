"""Signals that ask a launcher to stop its siblings: once, all save and stop; Ctrl-C again, at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from types import FrameType, TracebackType

from launcher.handlers import Handling
from launcher.launchers.sibling import Outcome


class Stopped(SystemExit):
    """A signal asked the launcher to stop, and it has; ends the command with 128 + the signal's number."""

    def __init__(self, by: signal.Signals, outcomes: Sequence[Outcome] = ()) -> None:
        super().__init__(128 + by)
        self.by = by
        self.outcomes = list(outcomes)
        """One for each sibling, in their order."""


class Stopping(Handling):
    """While entered, SIGINT, SIGTERM and SIGHUP only set flags, and make :meth:`fileno` readable."""

    def __init__(self) -> None:
        asking = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        super().__init__(asking, self._handle, ignored_too=False)
        self.asked: signal.Signals | None = None
        """The first signal that came."""
        self.at_once = False
        """Whether Ctrl-C was pressed after that. A terminal that closes may send SIGHUP twice by itself."""

    def fileno(self) -> int:
        """For select."""
        return self._woken

    def drain(self) -> None:
        """Make :meth:`fileno` unreadable until the next signal."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def __enter__(self) -> Stopping:
        self._woken, self._wake = os.pipe()
        for descriptor in (self._woken, self._wake):
            os.set_blocking(descriptor, False)
        self._before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        signal.set_wakeup_fd(self._before)
        os.close(self._woken)
        os.close(self._wake)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = signal.Signals(number)
        elif number == signal.SIGINT:
            self.at_once = True
