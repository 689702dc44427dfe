"""From runs to an answer: ``ledger``, ``compare``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from launcher.commands.verbs import Verbs, answer, positive
from launcher.errors import ConfigError

if TYPE_CHECKING:
    from launcher.report.compare.comparison import Asked


def add(verbs: Verbs) -> None:
    """Add the verbs of this subject."""
    one = verbs.add("ledger", _ledger, "In what siblings differ: on purpose, and else. Exit status 0 or 3.")
    one.add_argument("names", metavar="GROUP|RUN", nargs="*", help="default: the one group that there is")
    one = verbs.add("compare", _compare, "Hold siblings against their control, or one run against others.")
    one.add_argument("names", metavar="GROUP|RUN", nargs="*", help="default: the one group that there is")
    add_questions(one)
    form = one.add_mutually_exclusive_group()
    for name in ("csv", "markdown", "latex"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=f"print {name}")


def add_questions(one: argparse.ArgumentParser) -> None:
    """Add the options that say what is compared, and how."""
    one.add_argument("--metric", action="append", default=[], metavar="NAME", help="default: all of val/")
    one.add_argument("--at", metavar="STEP", help="as the trunk counts, or +N after the branch point")
    one.add_argument("--smooth", type=positive, default=1, metavar="N", help="mean of N logged values")
    one.add_argument("--baseline", metavar="ARM|RUN", help="default: the control, else what the runs name")
    one.add_argument(
        "--expect", action="append", default=[], metavar="TEXT",
        help="'ARM better|worse ARM on METRIC'; exit status 3 where it does not hold",
    )  # fmt: skip


def asked(options: argparse.Namespace) -> Asked:
    """What was asked, as :func:`add_questions` takes it."""
    from launcher.report.compare.comparison import Asked

    return Asked(options.metric, options.at, options.smooth, options.baseline, options.expect)


def _ledger(options: argparse.Namespace) -> int:
    from launcher.ledger.ledger import ledger
    from launcher.report import ledger as showing
    from launcher.report.compare.selection import named_runs

    book = ledger(named_runs(options.outputs, options.names))
    answer(options, book.to_json(), showing.rendered(book), least_width=120)
    return 3 if any(one.level == "warning" for one in book.findings) else 0


def _compare(options: argparse.Namespace) -> int:
    if options.form and options.json:
        raise ConfigError(
            "One output at a time.",
            found=f"--json --{options.form}",
            do="give one of them; to have both, give the command twice",
        )
    # Only who compares pays for the numerics.
    from launcher.report.compare import tables
    from launcher.report.compare.comparison import compare

    comparison = compare(options.outputs, options.names, asked(options))
    if options.form:
        print(tables.FORMATS[options.form](comparison))
    else:
        answer(options, comparison.to_json(), tables.rendered(comparison), least_width=120)
    return 0 if comparison.holds else 3
