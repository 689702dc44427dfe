"""Managing what was launched: ``status``, ``logs``, ``cancel``, ``retry``, ``sync``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from launcher.commands.verbs import Verbs, answer
from launcher.ledger.ledger import ALLOWED
from launcher.messages import log_to_stderr


def add(verbs: Verbs) -> None:
    """Add the verbs of this subject."""
    one = verbs.add("status", _status, "What each run is doing now: step, speed, time left, requeues.")
    one.add_argument("name", metavar="GROUP|RUN", nargs="?", help="default: all runs")
    one = verbs.add("logs", _logs, "What a run's process printed.")
    one.add_argument("run", metavar="RUN")
    one.add_argument("-f", "--follow", action="store_true", help="go on until the run is not under way")
    one = verbs.add("cancel", _cancel, "Have runs save and stop, and those that wait not start.")
    one.add_argument("name", metavar="GROUP|RUN")
    one = verbs.add(
        "retry", _retry, "Launch again what failed or is missing, as it was launched. Status 0 or 1."
    )
    one.add_argument("name", metavar="GROUP|RUN")
    one.add_argument(
        "--allow", action="append", default=[], choices=ALLOWED, metavar="KIND",
        help=f"a difference from its siblings that does not stop it: {', '.join(ALLOWED)}",
    )  # fmt: skip
    one = verbs.add(
        "sync", _sync, "Upload to W&B and MLflow what ran offline or never arrived. Exit status 0 or 3."
    )
    one.add_argument("name", metavar="GROUP|RUN", nargs="?", help="default: all runs")
    one.add_argument(
        "--rewind",
        action="store_true",
        help="fill holes too: W&B forgets the run's history from there on, and is sent it anew",
    )


def _status(options: argparse.Namespace) -> int:
    from launcher.fanout.status import statuses
    from launcher.fanout.status_table import StatusTable

    found = statuses(options.outputs, options.name)
    answer(options, [one.to_json() for one in found], StatusTable(found))
    return 0


def _logs(options: argparse.Namespace) -> int:
    from launcher.fanout import logs

    for piece in logs.lines(options.outputs, options.run, options.follow):
        print(json.dumps({"text": piece}) if options.json else piece, end="\n" if options.json else "")
        sys.stdout.flush()
    return 0


def _cancel(options: argparse.Namespace) -> int:
    from launcher.fanout.cancel import cancel

    found = cancel(options.outputs, options.name)
    text = "\n".join(f"{one.run}: was {one.state} ({one.detail})" for one in found)
    answer(options, [one.to_json() for one in found], text or "Nothing was waiting or running.")
    return 0


def _retry(options: argparse.Namespace) -> int:
    from launcher.fanout import status
    from launcher.fanout.retry import retry
    from launcher.job import run_sibling

    log_to_stderr()
    before = status.statuses(options.outputs, options.name)
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        count = retry(options.outputs, options.name, run_sibling, options.allow)
    after = status.statuses(options.outputs, options.name)
    facts = {
        "launched": count,
        "before": [one.to_json() for one in before],
        "now": [one.to_json() for one in after],
    }
    answer(options, facts, f"{count} launched again." if count else "Nothing failed, and nothing is missing.")
    return 0


def _sync(options: argparse.Namespace) -> int:
    from launcher.fanout import sync

    log_to_stderr()
    found = sync.sync(options.outputs, options.name, options.rewind)
    answer(options, [one.to_json() for one in found], sync.table(found) if found else "Nothing to upload.")
    if not options.json:
        # Never folded: links are there to be opened.
        for line in sync.below(found):
            print(line)
    return 0 if all(one.whole for one in found) else 3
