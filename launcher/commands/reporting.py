"""Answers to hand on: ``report`` writes a group's page, ``board`` serves all of them."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from launcher.commands.comparing import add_questions, asked
from launcher.commands.verbs import Verbs, answer, positive
from launcher.errors import ConfigError
from launcher.files import readable_bytes

if TYPE_CHECKING:
    from launcher.report.document import Document, Written

COLUMN_CM = 8.5
"""Width of a column in most journals."""
WIDTHS_CM = (2.0, 100.0)


def add(verbs: Verbs) -> None:
    """Add the verbs of this subject."""
    one = verbs.add(
        "report", _report, "Write a group's page: one HTML file that needs neither server nor network."
    )
    one.add_argument("group", metavar="GROUP", nargs="?", help="default: the one group that there is")
    one.add_argument("--to", type=Path, metavar="FILE", help="default: report.html in the group's directory")
    one.add_argument("--png", action="store_true", help="figures as PNG too, in figures/ beside the page")
    one.add_argument("--width-cm", type=_width, metavar="CM", help=f"width of a PNG (default: {COLUMN_CM})")
    one.add_argument(
        "--watch", action="store_true", help="write it again until no run of the group is under way"
    )
    one.add_argument(
        "--every", type=positive, default=10, metavar="SECONDS", help="with --watch (default: 10)"
    )
    one.add_argument(
        "--wandb", action="store_true", help="instead of the page, a report at W&B (extra wandb-reports)"
    )
    add_questions(one)
    one = verbs.add(
        "board", _board, "Serve the pages of all groups on this machine, read-only, until Ctrl-C."
    )
    one.add_argument("--host", default="127.0.0.1", help="address that browsers use (default: %(default)s)")
    one.add_argument("--port", type=_port, default=8765, help="0: any that is free (default: %(default)s)")


def _width(text: str) -> float:
    with contextlib.suppress(ValueError):
        if WIDTHS_CM[0] <= float(text) <= WIDTHS_CM[1]:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not between {WIDTHS_CM[0]:g} and {WIDTHS_CM[1]:g}")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _report(options: argparse.Namespace) -> int:
    from launcher.report.compare.selection import only_group
    from launcher.report.document import PAGE, Document, write

    if options.width_cm is not None and not options.png:
        raise ConfigError("--width-cm says how wide a PNG is.", found="no --png", do="add --png")
    group = options.group or only_group(options.outputs, "report")
    if options.wandb:
        return _at_wandb(options, group)
    document = Document(
        outputs=options.outputs,
        group=group,
        asked=asked(options),
        place=options.to or options.outputs / group / PAGE,
        width_cm=(options.width_cm or COLUMN_CM) if options.png else None,
    )
    written = _watch(document, options.every) if options.watch else write(document)
    answer(options, written.to_json(), _told(written))
    return 0 if written.holds else 3


def _at_wandb(options: argparse.Namespace, group: str) -> int:
    from launcher.report.group import read_group
    from launcher.report.wandb import DEFINITION, publish

    if options.png or options.watch:
        raise ConfigError("--wandb makes a report at W&B.", found="--png or --watch", do="give them alone")
    read = read_group(options.outputs, group, asked(options))
    published = publish(read, options.to or options.outputs / group / DEFINITION)
    answer(options, published.to_json(), escape(str(published)))
    return 0 if read.comparison is None or read.comparison.holds else 3


def _told(written: Written) -> str:
    places = [f"{written.page}  ({readable_bytes(written.bytes)})", *written.figures]
    lines = [written.question, written.sentence, f"control {written.proof}", *written.answers, *places]
    return escape("\n".join(lines))


def _watch(document: Document, every: int) -> Written:
    """Write the page until no run is under way; Ctrl-C ends that too, and leaves a page that is at rest."""
    from launcher.fanout.status import UNDER_WAY, statuses
    from launcher.report.document import write

    with contextlib.suppress(KeyboardInterrupt):
        while any(one.state in UNDER_WAY for one in statuses(document.outputs, document.group)):
            written = write(document, live=True, every=every)
            print(f"{time.strftime('%H:%M:%S')} {written.sentence}", file=sys.stderr, flush=True)
            time.sleep(every)
    return write(document)


def _board(options: argparse.Namespace) -> int:
    from launcher.report.board import Board

    with Board(options.outputs, options.host, options.port) as board:
        answer(options, {"url": board.url}, escape(f"{board.url}  (Ctrl-C ends it)"))
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            board.serve()
    return 0
