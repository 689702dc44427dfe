"""Main effects and interactions, where the arms are a full factorial: every level with every other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from launcher.ledger.factors import Factor
from launcher.report.compare.aligned import WINDOW, Aligned
from launcher.report.compare.arms import Arm
from launcher.report.compare.statistics import LEAST_STEPS, over_steps, over_streams, without_spread
from launcher.report.compare.verdict import NOISE, UNKNOWN, Held, Row, direction, judged, too_few

INTERACTION = "interaction"
"""Verdict: what one factor does depends on the other."""
_Weights = Mapping[int, float]
"""Index of an arm to what its value counts."""


@dataclass(frozen=True)
class Contrast:
    """A weighted sum over all arms that is 0 where there is no such effect."""

    name: str
    weights: _Weights
    main: bool


@dataclass(frozen=True)
class Factorial:
    """A full factorial design of two or more factors."""

    arms: list[Arm]
    contrasts: list[Contrast]


def factorial_of(factors: Sequence[Factor], arms: Sequence[Arm], baseline: Arm) -> Factorial | None:
    """The design of these arms; None where it is no full factorial of two or more factors."""
    if len(factors) < 2 or any(arm.first.record.kind != "branch" for arm in arms):
        return None
    by_run = [factor.by_run() for factor in factors]
    cells = [tuple(each[arm.first.id] for each in by_run) for arm in arms]
    if len(set(cells)) != len(arms) or len(arms) != math.prod(len(factor.levels) for factor in factors):
        return None
    reference = cells[list(arms).index(baseline)]
    contrasts = [*_main_effects(factors, cells, reference), *_interactions(factors, cells, reference)]
    return Factorial(list(arms), contrasts)


def effects(
    design: Factorial, metrics: Sequence[str], aligned: Aligned, smooth: int, complete: bool
) -> tuple[list[Row], bool]:
    """One row for each effect on each metric, and whether levels were corrected for their number.

    They are a family of their own. A row's ``arm`` is the effect's name; it has no value of its own.
    """
    held = [_hold(design, one, metric, aligned, smooth) for one in design.contrasts for metric in metrics]
    rows, corrected = judged(held, complete)
    main = {one.name: one.main for one in design.contrasts}
    return [
        replace(row, verdict=INTERACTION) if row.verdict == UNKNOWN and not main[row.arm] else row
        for row in rows
    ], corrected


def _main_effects(
    factors: Sequence[Factor], cells: Sequence[tuple[str, ...]], reference: tuple[str, ...]
) -> Iterator[Contrast]:
    """What a level does against the reference level, averaged over all levels of the other factors."""
    for at, factor in enumerate(factors):
        share = len(factor.levels) / len(cells)
        for level in (one for one in factor.levels if one != reference[at]):
            signs = {level: share, reference[at]: -share}
            weights = {index: signs[cell[at]] for index, cell in enumerate(cells) if cell[at] in signs}
            yield Contrast(f"{factor.name}: {level} - {reference[at]}", weights, main=True)


def _interactions(
    factors: Sequence[Factor], cells: Sequence[tuple[str, ...]], reference: tuple[str, ...]
) -> Iterator[Contrast]:
    """How much more one level does at another factor's level than at that one's reference level."""
    for one, two in itertools.combinations(range(len(factors)), 2):
        share = len(factors[one].levels) * len(factors[two].levels) / len(cells)
        others = [[level for level in factors[at].levels if level != reference[at]] for at in (one, two)]
        for left, right in itertools.product(*others):
            signs = [{left: 1.0, reference[one]: -1.0}, {right: 1.0, reference[two]: -1.0}]
            weights = {
                index: share * signs[0][cell[one]] * signs[1][cell[two]]
                for index, cell in enumerate(cells)
                if cell[one] in signs[0] and cell[two] in signs[1]
            }
            yield Contrast(f"{factors[one].name}={left} x {factors[two].name}={right}", weights, main=False)


def _hold(design: Factorial, one: Contrast, metric: str, aligned: Aligned, smooth: int) -> Held:
    way = direction(metric, *design.arms) if one.main else None
    step, curves = aligned.steps[metric], aligned.curves[metric]
    row = Row(one.name, metric, way, step, [], None, None)
    arms = [(design.arms[index], weight) for index, weight in one.weights.items()]
    series: dict[int, list[float]] = {}
    scale = 0.0
    for stream in sorted(set.intersection(*(set(arm.runs) for arm in design.arms))):
        own = [(curves.get(arm.runs[stream].id, {}), weight) for arm, weight in arms]
        if step is None or any(step not in curve for curve, _ in own):
            continue
        shared = [at for at in own[0][0] if all(at in curve for curve, _ in own)][: max(smooth, WINDOW)]
        series[stream] = [math.fsum(weight * curve[at] for curve, weight in own) for at in shared]
        scale = max(scale, *(abs(curve[at]) for curve, _ in own for at in shared))
    if not series:
        return Held(replace(row, note="no step in common in any stream"), None)
    paired = [sum(values[:smooth]) / len(values[:smooth]) for values in series.values()]
    row = replace(row, streams=list(series), difference=sum(paired) / len(paired), paired=paired)
    if not all(map(math.isfinite, paired)):
        return Held(replace(row, note="not a number"), None)
    if len(paired) > 1:
        if any(paired) and without_spread(paired, scale):
            note = "the same in every stream: this metric shows no noise to judge by"
            return Held(replace(row, note=note, verdict=NOISE), None)
        return Held(row, over_streams(paired))
    return _over_steps(row, next(iter(series.values()))[:WINDOW], scale)


def _over_steps(row: Row, values: Sequence[float], scale: float) -> Held:
    """With one stream, only from step to step; ``values``: newest first."""
    row = replace(row, weaker=True, steps=len(values))
    enough = len(values) >= LEAST_STEPS or not any(values)
    if enough and len(values) > 1 and without_spread(values, scale):
        return Held(replace(row, note="the same at every logged step", verdict=NOISE), None)
    estimate = over_steps(list(reversed(values)))
    if estimate is None:
        return Held(replace(row, note=too_few(len(values))), None)
    return Held(replace(row, note="one stream: fanout.repeats=3"), estimate)
