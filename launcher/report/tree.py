"""The family of all runs: trunks, branch points, branches, branches of branches."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.text import Text
from rich.tree import Tree

from launcher.lineage import Run, read_runs, state_now

SHOWN_METRICS = 2
"""How many metrics stand in a line of the tree."""


def tree(outputs: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """All runs under ``outputs`` as nested plain values, and what could not be read.

    A run whose parent is not there stands at the top, like a trunk.
    """
    runs, problems = read_runs(outputs)
    ids = {run.id for run in runs}
    below: dict[str | None, list[Run]] = {}
    for run in runs:
        parent = run.record.parent.run if run.record.parent is not None else None
        below.setdefault(parent if parent in ids and parent != run.id else None, []).append(run)
    shown: set[Path] = set()
    nodes = [_node(run, below, shown) for run in below.get(None, [])]
    # Left over are runs of which each descends from itself: records that somebody has edited.
    nodes += [_node(run, below, shown) for run in runs if run.directory.path not in shown]
    return nodes, [str(problem) for problem in problems]


def _node(run: Run, below: dict[str | None, list[Run]], shown: set[Path]) -> dict[str, Any]:
    shown.add(run.directory.path)
    record = run.record
    branches = sorted(below.get(run.id, []), key=lambda one: (one.record.parent_step, one.id))
    return {
        "id": run.id,
        "kind": record.kind,
        "branch_type": record.branch_type,
        "state": state_now(run),
        "step": record.step,
        "end_step": record.end_step,
        "group": record.group,
        "parent": record.parent.run if record.parent else None,
        "branched_from_step": record.parent.step if record.parent else None,
        "metrics": record.metrics,
        "directory": str(run.directory.path),
        "branches": [
            _node(branch, below, shown) for branch in branches if branch.directory.path not in shown
        ],
    }


def rendered(nodes: Iterable[dict[str, Any]], outputs: Path) -> Tree:
    """The tree for a terminal; each branch point is a node of its own."""
    top = Tree(escape(str(outputs)))
    for node in nodes:
        _add(top, node)
    return top


def _add(above: Tree, node: dict[str, Any]) -> None:
    here = above.add(_line(node))
    points: dict[int, Tree] = {}
    for branch in node["branches"]:
        step = branch["branched_from_step"]
        if step not in points:
            points[step] = here.add(Text(f"at step {step}", style="dim"))
        _add(points[step], branch)


_STYLE = {"finished": "green", "running": "cyan", "failed": "red", "interrupted": "yellow"}


def _line(node: dict[str, Any]) -> Text:
    line = Text(node["id"], style="bold")
    line.append(f"  {node['state']}", style=_STYLE.get(node["state"], ""))
    line.append(f"  {node['step']}/{node['end_step']}", style="not bold")
    for name, value in shown_metrics(node["metrics"]).items():
        line.append(f"  {name} {value:.4f}", style="not bold dim")
    return line


def shown_metrics(metrics: dict[str, float], count: int = SHOWN_METRICS) -> dict[str, float]:
    """The few that stand for the rest: validation first, accuracies before losses, else the task's order."""

    def rank(name: str) -> tuple[bool, bool]:
        return (not name.startswith("val/"), "accuracy" not in name)

    return {name: metrics[name] for name in sorted(metrics, key=rank)[:count]}
