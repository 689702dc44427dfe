"""What the launcher says while it works: one readable line each, on stderr; and when nobody reads it."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import warnings
from collections.abc import Iterator


class _PresentStderr(logging.Handler):
    """Writes to whatever stderr is at the time, so that a progress bar can keep below the messages."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message as it is. Where nobody reads it any more, what goes on goes on."""
        with contextlib.suppress(OSError):
            print(self.format(record), file=sys.stderr)


def print_in_red(text: str) -> None:
    """What nobody may overlook, on stderr."""
    from rich.console import Console

    Console(stderr=True, highlight=False, markup=False).print(text, style="bold red")


def log_to_stderr() -> None:
    """One readable line for each message of the launcher; libraries' warnings only."""
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
    # Hydra logs what it raises as well; one message is enough.
    logging.getLogger("hydra").addHandler(logging.NullHandler())
    logger = logging.getLogger("launcher")
    if not logger.handlers:
        logger.addHandler(_PresentStderr())
        logger.setLevel(logging.INFO)
        logger.propagate = False


def first_line(text: str | None) -> str:
    """The first line of what may be a long message; empty for none."""
    return text.splitlines()[0] if text else ""


@contextlib.contextmanager
def ending_quietly() -> Iterator[None]:
    """End without a word where whoever read the output has gone, as ``| head`` does.

    Raises:
        SystemExit: 141, what a shell shows of a program that SIGPIPE ended.
    """
    unread = 128 + signal.SIGPIPE
    try:
        try:
            yield
        except SystemExit as leaving:
            if isinstance(leaving.__context__, BrokenPipeError):
                raise SystemExit(unread) from None  # Rich leaves with 1.
            if leaving.code:
                raise
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except OSError:
        if not _drop_unread():
            raise  # Another pipe broke, or a disk is full.
        raise SystemExit(unread) from None
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        _drop_unread()


def _drop_unread() -> bool:
    """Whether nobody reads stdout or stderr; what it still holds goes nowhere then.

    Python would try to write it once more at its end, and say that it cannot.
    """
    gone = False
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        try:
            poll.register(stream.fileno(), select.POLLOUT)
        except (OSError, ValueError):  # No file at all, or closed.
            continue
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
            gone = True
    return gone
