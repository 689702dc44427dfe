"""Signals that go to one handler for a while, and to whoever had them before after that."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, Self


class Handling:
    """While entered, some signals go to a handler.

    Args:
        signals: which.
        handler: what is called with a signal's number and the frame that it interrupts.
        ignored_too: whether to take over signals that this process was told to ignore as well. ``nohup`` has
            SIGHUP ignored, and a shell script SIGINT for what it starts in the background.
    """

    def __init__(
        self,
        signals: Sequence[signal.Signals],
        handler: Callable[[int, FrameType | None], None],
        *,
        ignored_too: bool,
    ) -> None:
        self._signals, self._handler, self._ignored_too = signals, handler, ignored_too
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in self._signals:
            if self._ignored_too or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
