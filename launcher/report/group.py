"""A group as it is reported: its runs in arms, where they branched, how they compare, their curves."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from launcher.errors import LauncherError, UnknownRun
from launcher.lineage import Parent, Run, find_run, read_run, state_now
from launcher.report.compare.comparison import HIDDEN, Asked, Comparison, compare
from launcher.report.compare.selection import is_group, nearest_groups, only_group
from launcher.report.compare.verdict import BASELINE
from launcher.report.curves import Band, Curve, Scale, band, read_curves
from launcher.report.style import Style, styles
from launcher.report.tree import shown_metrics
from launcher.trackers.metrics_window import BRANCH_STEPS, Numbering

MOST_DRAWN = 40
"""Runs whose curves are drawn; of a larger group the arms that are furthest from the baseline."""


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their stream only, and how they are drawn."""

    name: str
    baseline: bool
    runs: dict[int, Run]
    """By stream."""
    style: Style


@dataclass
class Group:
    """Everything that a report of a group is made from."""

    outputs: Path
    name: str
    runs: list[Run]
    states: dict[str, str]
    arms: list[Arm]
    """The baseline first."""
    point: Parent | None
    """The branch point that all share."""
    comparison: Comparison | None
    asked: Asked
    problems: list[str] = field(default_factory=list)
    """What could not be read or compared."""

    @functools.cached_property
    def primary(self) -> str | None:
        """The metric that stands for the others: the one that was named, else by its name; never by what
        came out."""
        compared = {row.metric: None for row in self.comparison.rows} if self.comparison else {}
        return next(iter([*self.asked.metrics, *ranked(list(compared)), *ranked(self.metrics)]), None)

    @functools.cached_property
    def metrics(self) -> list[str]:
        """Every metric that some run has on record, the compared ones first."""
        compared = [row.metric for row in self.comparison.rows] if self.comparison else []
        recorded = [name for run in self.runs for name in run.record.metrics if "/" in name]
        return list(dict.fromkeys([*compared, *recorded]))


def read_group(outputs: Path, name: str | None, asked: Asked) -> Group:
    """Read a group and compare its arms.

    Args:
        outputs: directory of all runs.
        name: the group's; None: the one group that there is.
        asked: what the comparison is asked for.

    Raises:
        LauncherError: there is no such group, or not one run of it can be read.
    """
    name = name or only_group(outputs, "report")
    if not is_group(outputs, name):
        raise UnknownRun(
            f"There is no group {name!r}.",
            where=str(outputs),
            found=", ".join(nearest_groups(outputs, name)) or "no group",
            do="see what there is: launcher tree",
        )
    runs, problems = _runs(outputs / name)
    if not runs:
        raise LauncherError(f"No run of {name} can be read.", where=str(outputs / name), found=problems[0])
    comparison: Comparison | None = None
    try:
        comparison = compare(outputs, [name], asked)
    except LauncherError as error:
        if asked.metrics or asked.at or asked.baseline or asked.expect:
            raise  # What was typed means nothing here: that is not to be found out on a page.
        problems.append(
            " ".join(part for part in (error.what, error.found and f"Found: {error.found}.") if part)
        )
    arms = _arms(outputs, runs, comparison)
    points = {run.record.parent.sha256: run.record.parent for run in runs if run.record.parent is not None}
    members = [run for arm in arms for run in arm.runs.values()]
    return Group(
        outputs, name, runs, states={run.id: state_now(run) for run in [*runs, *members]},
        arms=arms, point=next(iter(points.values())) if len(points) == 1 else None,
        comparison=comparison, asked=asked, problems=problems,
    )  # fmt: skip


def groups(outputs: Path) -> list[str]:
    """Every directory of runs."""
    return sorted({path.parent.parent.name for path in outputs.glob("*/*/run.json")})


def ranked(names: Sequence[str]) -> list[str]:
    """Metrics as they are offered: as the tree shows them, what tells how a run trains last."""
    good = [name for name in names if name not in HIDDEN]
    return [*shown_metrics(dict.fromkeys(good, 0.0), len(good)), *(name for name in names if name in HIDDEN)]


def _runs(directory: Path) -> tuple[list[Run], list[str]]:
    runs, problems = [], []
    for record in sorted(directory.glob("*/run.json")):
        try:
            runs.append(read_run(record.parent))
        except LauncherError as problem:
            problems.append(f"{record.parent.name} cannot be read: {problem.found}")
    return runs, problems


def _arms(outputs: Path, runs: Sequence[Run], comparison: Comparison | None) -> list[Arm]:
    """The arms of the comparison; where there is none, as the records have them."""
    known = {run.id: run for run in runs}
    found: list[tuple[str, bool, dict[int, Run]]] = []
    if comparison is not None:
        for facts in comparison.arms:
            # The baseline may lie outside of the group.
            members = {stream: known.get(one) or find_run(outputs, one) for stream, one in facts.runs.items()}
            found.append((facts.name, facts.baseline, members))
    else:
        together: dict[str, dict[int, Run]] = {}
        for run in runs:
            together.setdefault(run.record.arm or run.id, {})[run.record.stream] = run
        for members in together.values():
            first = members[min(members)].record
            found.append((first.job_type, first.branch_type in {"control", "stream"}, members))
    looks = styles([baseline for _, baseline, _ in found])
    return [
        Arm(name, baseline, members, look)
        for (name, baseline, members), look in zip(found, looks, strict=True)
    ]


@dataclass
class Drawn:
    """The curves of a group."""

    scale: Scale
    arms: list[Arm]
    """Those that are drawn."""
    bands: dict[str, list[Band | None]]
    """Metric to a curve for each of :attr:`arms`."""
    trunk: str | None
    """Id of the run that the others branched from, where its metrics are there."""
    trunk_bands: dict[str, Band]
    notes: list[str] = field(default_factory=list)
    merged: bool = False
    """Whether a point stands for several steps."""

    @property
    def metrics(self) -> list[str]:
        """All metrics that have a curve."""
        return ranked(list(self.bands))


def draw(group: Group) -> Drawn:
    """Read the curves of a group, and of its trunk."""
    arms, notes = _chosen(group)
    origin = group.point.step if group.point else 0
    members = [run for arm in arms for run in arm.runs.values() if not _is_trunk(run, group.point)]
    ends = [run.record.end_step - run.record.start_step for run in members]
    count = sum(len(arm.runs) for arm in arms) * max(1, len(group.metrics))
    drawn = Drawn(Scale.of(origin, max([1, *ends]), count), arms, {}, None, {}, notes)
    for index, arm in enumerate(arms):
        for metric, one in _bands(arm.runs, drawn, group.point, since=1).items():
            drawn.bands.setdefault(metric, [None] * len(arms))[index] = one
    _add_trunk(group, drawn)
    if drawn.merged:
        notes.append(
            f"Long curves are put together: a point stands for the up to {drawn.scale.width} steps that end "
            f"with it ({drawn.scale.coarse} far before the branch point), the line is their mean, the band "
            "their whole range."
        )
    return drawn


def _chosen(group: Group) -> tuple[list[Arm], list[str]]:
    """The arms that are drawn: all, or those whose results lie furthest from the baseline's."""
    count = sum(len(arm.runs) for arm in group.arms)
    if count <= MOST_DRAWN:
        return group.arms, []
    differences: Mapping[str, float] = {}
    if group.comparison is not None:
        rows = [row for row in group.comparison.rows if row.metric == group.primary]
        differences = {row.arm: abs(row.difference or 0.0) for row in rows if row.verdict != BASELINE}
    order = sorted(group.arms, key=lambda arm: (not arm.baseline, -differences.get(arm.name, 0.0)))
    chosen: list[Arm] = []
    for arm in order:
        if sum(len(one.runs) for one in chosen) + len(arm.runs) > MOST_DRAWN:
            break
        chosen.append(arm)
    looks = styles([arm.baseline for arm in chosen])
    drawn = [replace(arm, style=look) for arm, look in zip(chosen, looks, strict=True)]
    told = f"Curves are drawn of {len(drawn)} of {len(group.arms)} arms"
    which = f"the baseline and those that are furthest from it in {group.primary}"
    return drawn, [f"{told}: {which if differences else 'the first of them'}."]


def _is_trunk(run: Run, point: Parent | None) -> bool:
    return point is not None and run.id == point.run


def _bands(
    runs: Mapping[int, Run], drawn: Drawn, point: Parent | None, since: int | None = None
) -> dict[str, Band]:
    """The curves of some runs, by metric; ``since``: the first bucket that counts."""
    curves: dict[str, dict[int, Curve]] = {}
    for stream, run in sorted(runs.items()):
        own = Numbering("global_step", point.step) if point and _is_trunk(run, point) else BRANCH_STEPS
        try:
            read = read_curves(run, drawn.scale, own)
        except LauncherError as error:
            drawn.notes.append(f"{run.id}: {error.what} ({error.where})")
            continue
        if read.skipped:
            drawn.notes.append(
                f"{run.id}: {read.skipped} logged values are no finite numbers and are left out."
            )
        drawn.merged = drawn.merged or read.merged
        for metric, curve in read.curves.items():
            kept = {number: one for number, one in curve.items() if since is None or number >= since}
            curves.setdefault(metric, {})[stream] = kept
    found = {metric: band(by_stream) for metric, by_stream in curves.items()}
    return {metric: one for metric, one in found.items() if one is not None}


def _add_trunk(group: Group, drawn: Drawn) -> None:
    """The run that all branched from, by its own steps."""
    if group.point is None or group.point.run is None:
        return
    try:
        trunk = find_run(group.outputs, group.point.run)
    except LauncherError:
        drawn.notes.append(f"The trunk {group.point.run} is not there, so its curve is not drawn.")
        return
    drawn.trunk = trunk.id
    drawn.trunk_bands = _bands({0: trunk}, drawn, group.point)
