"""Looking at runs, and marking their checkpoints: ``tree``, ``show``, ``verify``, ``pin``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.markup import escape

from launcher.branch.command import command
from launcher.branch.pin import pin
from launcher.commands.verbs import Verbs, answer
from launcher.differences import override
from launcher.lineage import find_run
from launcher.report import show as showing
from launcher.report import tree as trees
from launcher.report.verify import Verdict, verify


def add(verbs: Verbs) -> None:
    """Add the verbs of this subject."""
    verbs.add("tree", _tree, "All runs: trunks, branch points, branches, with state and last metrics.")
    one = verbs.add("show", _show, "Everything about one run.")
    one.add_argument("run", metavar="RUN", help="a run's id, a prefix of it, or its directory")
    one = verbs.add("verify", _verify, "Hold a control against its trunk, bit for bit. Exit status 0 or 3.")
    one.add_argument("run", metavar="RUN", help="a branch in which nothing was changed")
    one = verbs.add("pin", _pin, "Write conf/branch/NAME.yaml for a checkpoint, and keep the checkpoint.")
    one.add_argument("checkpoint", metavar="RUN@STEP", help="for example trunk-1a2b3c4d@15000")
    one.add_argument("name", metavar="NAME", help="what +branch=NAME will be called")
    one.add_argument(
        "--conf",
        type=Path,
        default=Path("conf"),
        metavar="DIR",
        help="directory of config files (default: %(default)s)",
    )


def _tree(options: argparse.Namespace) -> int:
    nodes, problems = trees.tree(options.outputs)
    answer(options, nodes, trees.rendered(nodes, options.outputs))
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    run = find_run(options.outputs, options.run)
    facts = showing.show(run)
    answer(options, facts, showing.rendered(run, facts))
    return 0


def _verify(options: argparse.Namespace) -> int:
    verdict = verify(find_run(options.outputs, options.run))
    answer(options, verdict.to_json(), _proof(verdict))
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


def _pin(options: argparse.Namespace) -> int:
    path = pin(options.checkpoint, options.name, options.outputs, options.conf)
    elsewhere = (
        []
        if options.outputs == Path("multirun_outputs")
        else [override("paths.outputs", str(options.outputs))]
    )
    told = {"file": str(path), "command": command([f"+branch={options.name}", *elsewhere])}
    answer(options, told, escape(f"{path}\n{told['command']}"))
    return 0
