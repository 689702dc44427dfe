"""One row for each metric of each arm: value, difference to the baseline, interval, verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from launcher.report.compare.aligned import WINDOW, Aligned
from launcher.report.compare.arms import Arm
from launcher.report.compare.statistics import (
    FEW,
    LEAST_STEPS,
    LEVEL,
    Estimate,
    holm,
    over_steps,
    over_streams,
    without_spread,
)

BASELINE, BETTER, WORSE, NOISE = "baseline", "better", "worse", "inside the noise"
INCOMPLETE, UNKNOWN = "incomplete", "direction unknown"


@dataclass(frozen=True)
class Row:
    """One metric of one arm, held against the baseline."""

    arm: str
    metric: str
    direction: str | None
    """``up`` or ``down``: which way is better; None: nobody said."""
    branch_step: int | None
    """Where it is compared, in steps since the branch point; None: the runs share no step."""
    streams: list[int]
    """Streams in which both have a value there: these are the pairs."""
    value: float | None
    """The arm's mean over these streams."""
    baseline: float | None
    """The baseline's mean over these streams."""
    difference: float | None = None
    """Mean of the paired differences at this step."""
    low: float | None = None
    """Lower end of the interval, at :attr:`level`."""
    high: float | None = None
    p: float | None = None
    """Not corrected."""
    level: float | None = None
    """The level that the interval has and the verdict was taken at: corrected, where that was due."""
    weaker: bool = False
    """One stream only: the interval is of the mean difference over :attr:`steps` logged steps of that one
    stream, and says nothing about another one."""
    steps: int = 0
    """Logged steps behind a weaker interval."""
    verdict: str = INCOMPLETE
    note: str = ""
    paired: list[float] = field(default_factory=list)
    """The difference in each of :attr:`streams`."""


@dataclass(frozen=True)
class Held:
    """A row, and what its interval will be made of once the number of comparisons is known."""

    row: Row
    estimate: Estimate | None


def hold(arm: Arm, baseline: Arm, metric: str, aligned: Aligned, smooth: int) -> Held:
    """Hold one metric of an arm against the baseline, at their common step."""
    step = aligned.steps[metric]
    row = Row(arm.name, metric, direction(metric, arm, baseline), step, [], None, None)
    pairs = _pairs(arm, baseline, metric, aligned, smooth)
    if not pairs:
        return Held(
            replace(
                row, value=_mean_of(_own(arm, metric, aligned, smooth)), note=_why_none(arm, baseline, step)
            ),
            None,
        )
    values = [own for own, _ in pairs.values()]
    theirs = [other for _, other in pairs.values()]
    paired = [own - other for own, other in pairs.values()]
    row = replace(
        row, streams=list(pairs), value=_mean(values), baseline=_mean(theirs), difference=_mean(paired),
        paired=paired, note=_unpaired(arm, baseline, pairs),
    )  # fmt: skip
    if not all(map(math.isfinite, [*values, *theirs])):
        return Held(replace(row, note="not a number"), None)
    if len(pairs) == 1:
        return _over_steps(row, arm, baseline, aligned)
    if any(paired) and without_spread(paired, max(map(abs, [*values, *theirs]))):
        note = "the same difference in every stream: this metric shows no noise to judge by"
        return Held(replace(row, note=note, verdict=NOISE), None)
    return Held(row, over_streams(paired))


def judged(held: Sequence[Held], complete: bool) -> tuple[list[Row], bool]:
    """The rows with intervals and verdicts, and whether levels were corrected for their number.

    Args:
        held: one family: everything that is asked at once.
        complete: whether the set is; of one that is not, no arm is better or worse.
    """
    ready = [one for one in held if one.estimate is not None]
    corrected = len(ready) > FEW
    chances = [one.estimate.p for one in ready if one.estimate is not None]
    levels = iter(holm(chances) if corrected else [LEVEL] * len(ready))
    rows = []
    for one in held:
        row = one.row
        if one.estimate is not None:
            level = next(levels)
            low, high = one.estimate.interval(level)
            verdict = _verdict(low, high, row.direction)
            row = replace(row, low=low, high=high, p=one.estimate.p, level=level, verdict=verdict)
        rows.append(row if complete else replace(row, verdict=INCOMPLETE))
    return rows, corrected


def baseline_row(arm: Arm, metric: str, aligned: Aligned, smooth: int) -> Row:
    """The baseline's own row: its mean over all its streams, smoothed as the others are."""
    own = _own(arm, metric, aligned, smooth)
    value, step = _mean_of(own), aligned.steps[metric]
    return Row(arm.name, metric, direction(metric, arm), step, list(own), value, value, verdict=BASELINE)


def direction(metric: str, *arms: Arm) -> str | None:
    """Which way a metric is better: as the task says; else by its name, where that leaves no doubt."""
    name = metric.partition("/")[2] or metric
    said = {arm.directions[name] for arm in arms if name in arm.directions}
    if said:
        return said.pop() if len(said) == 1 else None
    last = name.rpartition("/")[2].rpartition("_")[2]
    return {"accuracy": "up", "loss": "down"}.get(last)


def _verdict(low: float, high: float, way: str | None) -> str:
    if low <= 0.0 <= high:
        return NOISE
    if way is None:
        return UNKNOWN
    return BETTER if (low > 0) == (way == "up") else WORSE


def _pairs(
    arm: Arm, baseline: Arm, metric: str, aligned: Aligned, smooth: int
) -> dict[int, tuple[float, float]]:
    """(own value, baseline's value) by stream."""
    step, curves = aligned.steps[metric], aligned.curves[metric]
    pairs = {}
    for stream in sorted(arm.runs.keys() & baseline.runs.keys()):
        own, theirs = (curves.get(one.runs[stream].id, {}) for one in (arm, baseline))
        if step is None or step not in own or step not in theirs:
            continue
        shared = [at for at in own if at in theirs][:smooth]
        pairs[stream] = _mean([own[at] for at in shared]), _mean([theirs[at] for at in shared])
    return pairs


def _over_steps(row: Row, arm: Arm, baseline: Arm, aligned: Aligned) -> Held:
    """With one stream, all that can be told is how the difference wanders from step to step."""
    [stream] = row.streams
    own, theirs = (aligned.curves[row.metric][one.runs[stream].id] for one in (arm, baseline))
    shared = [at for at in own if at in theirs][:WINDOW]
    differences = [own[at] - theirs[at] for at in reversed(shared)]
    row = replace(row, weaker=True, steps=len(shared))
    enough = len(shared) >= LEAST_STEPS or not any(differences)
    scale = max(map(abs, [*own.values(), *theirs.values()]))
    if enough and len(shared) > 1 and without_spread(differences, scale):
        what = "the same difference" if any(differences) else "equal"
        return Held(replace(row, note=f"{what} at every logged step", verdict=NOISE), None)
    estimate = over_steps(differences)
    if estimate is None:
        return Held(replace(row, note=too_few(len(shared))), None)
    return Held(replace(row, note=row.note or "one stream: fanout.repeats=3"), estimate)


def too_few(count: int) -> str:
    """Why one stream of so many logged steps tells nothing."""
    steps = f"{count} logged step{'s' * (count != 1)}"
    return f"one stream and {steps}, {LEAST_STEPS} are needed: fanout.repeats=3"


def _why_none(arm: Arm, baseline: Arm, step: int | None) -> str:
    if not arm.runs.keys() & baseline.runs.keys():
        return "no stream in common with the baseline"
    return "no step in common" if step is None else f"no value {step} steps after the branch point"


def _unpaired(arm: Arm, baseline: Arm, pairs: Mapping[int, object]) -> str:
    alone = sorted((arm.runs.keys() | baseline.runs.keys()) - pairs.keys())
    return f"stream {', '.join(map(str, alone))} without a pair" if alone else ""


def _own(arm: Arm, metric: str, aligned: Aligned, smooth: int) -> dict[int, float]:
    """An arm's value by stream, of the streams that have one at the common step."""
    step, curves = aligned.steps[metric], aligned.curves[metric]
    found = {stream: curves.get(run.id, {}) for stream, run in sorted(arm.runs.items())}
    return {stream: _mean(list(one.values())[:smooth]) for stream, one in found.items() if step in one}


def _mean_of(values: Mapping[int, float]) -> float | None:
    return _mean(list(values.values())) if values else None


def _mean(values: Sequence[float]) -> float:
    # fsum refuses to add infinities of both signs.
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values) / len(values)
