"""The console command ``launcher``: looking at runs and managing them, without importing torch."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape

from launcher.branch.command import command
from launcher.branch.pin import pin
from launcher.differences import override
from launcher.errors import LauncherError
from launcher.lineage import find_run
from launcher.messages import log_to_stderr
from launcher.report import show as showing
from launcher.report import tree as trees
from launcher.report.verify import Verdict, verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 (wrong input) or 3 (a check came out negative)."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        return status
    except LauncherError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # `launcher tree | head` closed the pipe; that is no error of ours.
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launcher", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, function: Any, help_text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help_text, description=help_text)
        one.set_defaults(command=function)
        one.add_argument("--json", action="store_true", help="print JSON")
        one.add_argument(
            "--outputs",
            type=Path,
            default=Path("multirun_outputs"),
            metavar="DIR",
            help="directory of all runs (default: %(default)s)",
        )
        return one

    verb("tree", _tree, "All runs: trunks, branch points, branches, with state and last metrics.")
    one = verb("show", _show, "Everything about one run.")
    one.add_argument("run", metavar="RUN", help="a run's id, a prefix of it, or its directory")
    one = verb("verify", _verify, "Hold a control against its trunk, bit for bit. Exit status 0 or 3.")
    one.add_argument("run", metavar="RUN", help="a branch in which nothing was changed")
    one = verb("compare", _compare, "Hold siblings against their control, or one run against others.")
    _add_compare(one)
    one = verb("pin", _pin, "Write conf/branch/NAME.yaml for a checkpoint, and keep the checkpoint.")
    one.add_argument("checkpoint", metavar="RUN@STEP", help="for example trunk-1a2b3c4d@15000")
    one.add_argument("name", metavar="NAME", help="what +branch=NAME will be called")
    one.add_argument(
        "--conf",
        type=Path,
        default=Path("conf"),
        metavar="DIR",
        help="directory of config files (default: %(default)s)",
    )
    one = verb("status", _status, "What each run is doing now: step, speed, time left, requeues.")
    one.add_argument("name", metavar="GROUP|RUN", nargs="?", help="default: all runs")
    one = verb("logs", _logs, "What a run's process printed.")
    one.add_argument("run", metavar="RUN")
    one.add_argument("-f", "--follow", action="store_true", help="go on until the run is not under way")
    one = verb("cancel", _cancel, "Have runs save and stop, and those that wait not start.")
    one.add_argument("name", metavar="GROUP|RUN")
    one = verb("retry", _retry, "Launch again what failed or is missing, as it was launched. Status 0 or 1.")
    one.add_argument("name", metavar="GROUP|RUN")
    one = verb("sync", _sync, "Upload to W&B what ran offline or never arrived. Exit status 0 or 3.")
    one.add_argument("name", metavar="GROUP|RUN", nargs="?", help="default: all runs")
    one.add_argument(
        "--rewind",
        action="store_true",
        help="fill holes too: W&B forgets the run's history from there on, and is sent it anew",
    )
    return parser


def _add_compare(one: argparse.ArgumentParser) -> None:
    one.add_argument("names", metavar="GROUP|RUN", nargs="*", help="default: the one group that there is")
    one.add_argument("--metric", action="append", default=[], metavar="NAME", help="default: all of val/")
    one.add_argument("--at", metavar="STEP", help="as the trunk counts, or +N after the branch point")
    one.add_argument("--smooth", type=_positive, default=1, metavar="N", help="mean of N logged values")
    one.add_argument("--baseline", metavar="RUN", help="default: the control, else what the runs name")
    one.add_argument(
        "--expect", action="append", default=[], metavar="TEXT",
        help="'ARM better|worse ARM on METRIC'; exit status 3 where it does not hold",
    )  # fmt: skip
    form = one.add_mutually_exclusive_group()
    for name in ("csv", "markdown", "latex"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=f"print {name}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 or more")
    return int(text)


def _print(options: argparse.Namespace, plain: Any, readable: RenderableType, least_width: int = 0) -> None:
    if options.json:
        print(json.dumps(_strict(plain), indent=2, allow_nan=False))
    else:
        # Text is not folded: a path or a command is there to be copied.
        width = max(Console().width, least_width)
        Console(highlight=False, width=width).print(readable, soft_wrap=isinstance(readable, str))


def _strict(plain: Any) -> Any:
    """``plain`` with ``null`` for the numbers that JSON does not have."""
    if isinstance(plain, dict):
        return {key: _strict(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_strict(value) for value in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _tree(options: argparse.Namespace) -> int:
    nodes, problems = trees.tree(options.outputs)
    _print(options, nodes, trees.rendered(nodes, options.outputs))
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    run = find_run(options.outputs, options.run)
    facts = showing.show(run)
    _print(options, facts, showing.rendered(run, facts))
    return 0


def _verify(options: argparse.Namespace) -> int:
    verdict = verify(find_run(options.outputs, options.run))
    _print(options, verdict.to_json(), _proof(verdict))
    return 0 if verdict.exact else 3


def _proof(verdict: Verdict) -> str:
    steps = ", ".join(map(str, verdict.checkpoint_steps))
    shared = f"checkpoints at steps {steps}" if steps else "no checkpoint in common"
    seen = f"{shared}; {verdict.metric_lines} logged steps in every metric"
    head = f"{verdict.run} against {verdict.trunk} from step {verdict.from_step}"
    if verdict.divergence is None:
        return f"[green]exact[/]: {head}\n  equal:    {seen}"
    first = verdict.divergence
    return (
        f"[red]not exact[/]: {head}\n"
        f"  compared: {seen}\n"
        f"  first:    {first.component}, at step {first.step}, in {first.what} ({first.evidence})\n"
        f"  found:    {first.found}\n"
        f"  expected: {first.expected}"
    )


def _compare(options: argparse.Namespace) -> int:
    # Only who compares pays for the numerics.
    from launcher.report.compare import tables
    from launcher.report.compare.comparison import Asked, compare

    asked = Asked(options.metric, options.at, options.smooth, options.baseline, options.expect)
    comparison = compare(options.outputs, options.names, asked)
    if options.form and not options.json:
        print(tables.FORMATS[options.form](comparison))
    else:
        _print(options, comparison.to_json(), tables.rendered(comparison), least_width=120)
    return 0 if comparison.holds else 3


def _status(options: argparse.Namespace) -> int:
    from launcher.fanout import status

    found = status.statuses(options.outputs, options.name)
    _print(options, [one.to_json() for one in found], status.table(found))
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
    _print(options, [one.to_json() for one in found], text or "Nothing was waiting or running.")
    return 0


def _retry(options: argparse.Namespace) -> int:
    from launcher.fanout import status
    from launcher.fanout.retry import retry
    from launcher.job import run_sibling

    log_to_stderr()
    before = status.statuses(options.outputs, options.name)
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        count = retry(options.outputs, options.name, run_sibling)
    after = status.statuses(options.outputs, options.name)
    facts = {
        "launched": count,
        "before": [one.to_json() for one in before],
        "now": [one.to_json() for one in after],
    }
    _print(options, facts, f"{count} launched again." if count else "Nothing failed, and nothing is missing.")
    return 0


def _sync(options: argparse.Namespace) -> int:
    from launcher.fanout import sync

    log_to_stderr()
    found = sync.sync(options.outputs, options.name, options.rewind)
    _print(options, [one.to_json() for one in found], sync.table(found) if found else "Nothing to upload.")
    return 0 if all(one.whole for one in found) else 3


def _pin(options: argparse.Namespace) -> int:
    path = pin(options.checkpoint, options.name, options.outputs, options.conf)
    elsewhere = (
        []
        if options.outputs == Path("multirun_outputs")
        else [override("paths.outputs", str(options.outputs))]
    )
    told = {"file": str(path), "command": command([f"+branch={options.name}", *elsewhere])}
    _print(options, told, escape(f"{path}\n{told['command']}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
