"""The console command ``launcher``: looking at runs and managing them, without importing torch."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from launcher.branch.pin import pin
from launcher.errors import LauncherError
from launcher.lineage import find_run
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

    def command(name: str, function: Any, help_text: str) -> argparse.ArgumentParser:
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

    command("tree", _tree, "All runs: trunks, branch points, branches, with state and last metrics.")
    one = command("show", _show, "Everything about one run.")
    one.add_argument("run", metavar="RUN", help="a run's id, a prefix of it, or its directory")
    one = command("verify", _verify, "Hold a control against its trunk, bit for bit. Exit status 0 or 3.")
    one.add_argument("run", metavar="RUN", help="a branch in which nothing was changed")
    one = command("pin", _pin, "Write conf/branch/NAME.yaml for a checkpoint, and keep the checkpoint.")
    one.add_argument("checkpoint", metavar="RUN@STEP", help="for example trunk-1a2b3c4d@15000")
    one.add_argument("name", metavar="NAME", help="what +branch=NAME will be called")
    one.add_argument(
        "--conf",
        type=Path,
        default=Path("conf"),
        metavar="DIR",
        help="directory of config files (default: %(default)s)",
    )
    return parser


def _print(options: argparse.Namespace, plain: Any, readable: RenderableType) -> None:
    if options.json:
        print(json.dumps(plain, indent=2))
    else:
        Console(highlight=False).print(readable)


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
    shared = ", ".join(map(str, verdict.checkpoint_steps)) or "none"
    seen = f"checkpoints at steps {shared}; {verdict.metric_lines} logged steps in every metric"
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


def _pin(options: argparse.Namespace) -> int:
    path = pin(options.checkpoint, options.name, options.outputs, options.conf)
    told = {"file": str(path), "command": f"python train.py +branch={options.name}"}
    _print(options, told, f"{path}\n{told['command']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
