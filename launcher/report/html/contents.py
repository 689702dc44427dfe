"""What stands on the page of a group, as plain values: the template only lays it out."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from launcher.report import facts
from launcher.report.answer import Answer, answer
from launcher.report.compare.comparison import Proof
from launcher.report.compare.tables import Laid, laid, number
from launcher.report.compare.verdict import BASELINE, Row
from launcher.report.curves import Band
from launcher.report.group import Drawn, Group
from launcher.report.tree import shown_metrics, tree

DIGITS = 5
"""Of a value in a curve; ``metrics.jsonl`` has them all."""
MOST_ROWS = 250
"""Rows of the comparison on the page, the primary metric's and the largest differences first."""
OPEN_BRANCHES = 24
"""Branches at one point above which the tree shows them folded."""
_PROOF = {True: "exact", False: "not exact", None: "not proven"}


@dataclass(frozen=True)
class Branches:
    """A run in the tree, with what branched from it, by step."""

    id: str
    member: bool
    """Whether it is in the group that is reported."""
    state: str
    steps: str
    metrics: list[tuple[str, str]]
    directory: str
    """Below the directory of all runs."""
    points: list[tuple[int, list[Branches]]]


@dataclass(frozen=True)
class Contents:
    """Everything on the page, in its order."""

    group: str
    written: str
    live: bool
    """Whether runs are under way and the page is written again."""
    answer: Answer
    proof: Proof
    proof_state: str
    problems: list[str]
    tree: list[Branches]
    factors: facts.Factors
    comparison: Laid | None
    rows_left_out: int
    """Rows of the comparison that are not on the page."""
    findings: list[facts.Found]
    commands: list[tuple[str, str]]
    versions: list[tuple[str, str]]
    drawn: bool
    """Whether there is a curve."""
    notes: list[str]
    """About the curves."""
    data: dict[str, Any]
    """For the figure, plain JSON."""


def contents(group: Group, drawn: Drawn, live: bool, every: float) -> Contents:
    """Gather the page.

    Args:
        group: what is reported.
        drawn: its curves.
        live: whether it will be written again.
        every: seconds after which a live page looks for a new version of itself.

    Raises:
        LauncherError: something cannot be read.
    """
    comparison, now = group.comparison, datetime.datetime.now(datetime.UTC)
    no_proof = Proof(None, None, "there is nothing to compare yet")
    table = laid(comparison) if comparison is not None else None
    left_out = 0
    if table is not None and len(table.rows) > MOST_ROWS:
        shown = sorted(table.rows, key=lambda pair: _importance(pair[0], group.primary))[:MOST_ROWS]
        left_out = len(table.rows) - len(shown)
        kept = {id(row) for row, _ in shown}
        table = replace(table, rows=[pair for pair in table.rows if id(pair[0]) in kept])
    proof = comparison.proof if comparison is not None else no_proof
    return Contents(
        group=group.name,
        written=f"{now:%d %B %Y, %H:%M:%S} UTC".lstrip("0"),
        live=live,
        answer=answer(group),
        proof=proof,
        proof_state=_PROOF[proof.exact],
        problems=_problems(group),
        tree=family(group),
        factors=facts.factors(comparison, group.runs),
        comparison=table,
        rows_left_out=left_out,
        findings=facts.findings(comparison, group.runs),
        commands=[(run.id, facts.command(run)) for run in group.runs],
        versions=facts.versions(group.runs),
        drawn=bool(drawn.bands),
        notes=drawn.notes,
        data={**_figure(group, drawn), "live": live, "every": every},
    )


def _problems(group: Group) -> list[str]:
    """What has to be known before anything is read: records that are damaged, arms that differ in more."""
    comparison = group.comparison
    if comparison is None:
        return group.problems[:-1]  # The last one is the answer.
    grave = [f"{one.what}: {one.found}" for one in comparison.findings if one.level != "note"]
    idle = [f"{one.name}: {one.no_effect}" for one in comparison.arms if one.no_effect]
    return [*group.problems, *grave, *idle]


def _importance(row: Row, primary: str | None) -> tuple[bool, bool, float]:
    return row.metric != primary, row.verdict != BASELINE, -abs(row.difference or 0.0)


def family(group: Group) -> list[Branches]:
    """The group's runs, what they descend from, and what descends from them."""
    nodes, _ = tree(group.outputs)
    wanted = {run.id for run in group.runs}
    found = (_branch(node, wanted, below=False) for node in nodes)
    return [one for one in found if one is not None]


def _branch(node: Mapping[str, Any], wanted: set[str], below: bool) -> Branches | None:
    """A node of the tree, if it is of the family; ``below``: whether it descends from a run of the group."""
    member = node["id"] in wanted
    points: dict[int, list[Branches]] = {}
    for branch in node["branches"]:
        one = _branch(branch, wanted, below or member)
        if one is not None:
            points.setdefault(branch["branched_from_step"], []).append(one)
    if not (member or below or points):
        return None
    return Branches(
        id=node["id"],
        member=member,
        state=node["state"],
        steps=f"{node['step']}/{node['end_step']}",
        metrics=[(name, number(value)) for name, value in shown_metrics(node["metrics"]).items()],
        directory=f"{node['group']}/{node['id']}",
        points=sorted(points.items()),
    )


def _figure(group: Group, drawn: Drawn) -> dict[str, Any]:
    streams = {arm.name: len(arm.runs) for arm in drawn.arms}
    steps: dict[tuple[int, ...], int] = {}
    bands = {name: [_curve(one, steps) for one in bands] for name, bands in drawn.bands.items()}
    trunk = {name: _curve(one, steps) for name, one in drawn.trunk_bands.items()}
    return {
        "group": group.name,
        "point": None if group.point is None else group.point.step,
        "span": drawn.scale.span,
        "metrics": drawn.metrics,
        "primary": group.primary if group.primary in drawn.bands else next(iter(drawn.metrics), None),
        "trunk": drawn.trunk,
        "arms": [
            {"name": arm.name, "baseline": arm.baseline, "streams": streams[arm.name], **asdict(arm.style)}
            for arm in drawn.arms
        ],
        "steps": [list(one) for one in steps],
        "curves": bands,
        "trunkCurves": trunk,
    }


def _curve(band: Band | None, steps: dict[tuple[int, ...], int]) -> dict[str, Any] | None:
    """A curve as the page has it; ``x`` is the place of its steps in ``steps``, which it adds to."""
    if band is None:
        return None
    place = steps.setdefault(tuple(band.steps), len(steps))
    curve: dict[str, Any] = {"x": place, "y": _short(band.mean)}
    if not band.plain:
        curve |= {"low": _short(band.low), "high": _short(band.high)}
    if len(band.streams) > 1:
        curve["streams"] = {str(key): _short(one) for key, one in band.streams.items()}
    if len(set(band.count)) > 1:
        curve["n"] = band.count
    return curve


def _short(values: Sequence[float | None]) -> list[float | None]:
    return [
        None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
        for value in values
    ]
