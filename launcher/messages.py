"""What the launcher says while it works: one readable line each, on stderr."""

from __future__ import annotations

import logging
import sys
import warnings


class _PresentStderr(logging.Handler):
    """Writes to whatever stderr is at the time, so that a progress bar can keep below the messages."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message as it is."""
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
