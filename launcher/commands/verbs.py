"""What every verb of the console command has in common: its options, and how it prints."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType


class Verbs:
    """The verbs of the console command, as they are added."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        self, name: str, run: Callable[[argparse.Namespace], int], help_text: str
    ) -> argparse.ArgumentParser:
        """Add ``launcher NAME``; ``run`` returns its exit status."""
        verb = self._verbs.add_parser(name, help=help_text, description=help_text)
        verb.set_defaults(run_verb=run)
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.add_argument(
            "--outputs",
            type=Path,
            default=Path("multirun_outputs"),
            metavar="DIR",
            help="directory of all runs (default: %(default)s)",
        )
        return verb


def positive(text: str) -> int:
    """An option's value that is a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more")
    return int(text)


def answer(options: argparse.Namespace, plain: Any, readable: RenderableType, least_width: int = 0) -> None:
    """Print what a verb found: ``plain`` as JSON where that is asked for, else ``readable``."""
    if options.json:
        print(json.dumps(_strict(plain), indent=2, allow_nan=False))
    else:
        # Text is not folded: a path or a command is there to be copied.
        width = max(Console().width, least_width)
        console = Console(highlight=False, width=width)
        console.print(readable, soft_wrap=isinstance(readable, str), crop=False)


def _strict(plain: Any) -> Any:
    """``plain`` with ``null`` for the numbers that JSON does not have."""
    if isinstance(plain, dict):
        return {key: _strict(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_strict(value) for value in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
