"""Metrics at equal step: for each metric the last step since the branch point that the runs share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from launcher.lineage import Run, State
from launcher.trackers.metrics_window import BRANCH_STEPS, Numbering, last_values

WINDOW = 100
"""Logged values that an interval over steps looks back on, where there is one stream only."""

_LOOKED_BACK = 1000
"""Logged values that a common step is looked for in, where some runs have none with the others."""

Curve = Mapping[int, float]
"""Steps since the branch point to values, newest first."""


@dataclass(frozen=True)
class Source:
    """A run and what is read of it."""

    run: Run
    state: State
    numbering: Numbering
    count: int
    """Values of each metric."""

    def read(self, metrics: Sequence[str], up_to: int | None) -> dict[str, dict[int, float]]:
        """The last values up to a step."""
        finished = self.state == "finished"
        # What a finished run never measured need not be searched for through its whole file.
        names = [name for name in metrics if not finished or name in self.run.record.metrics]
        return last_values(self.run.directory.metrics, names, self.count, up_to, self.numbering)


@dataclass(frozen=True)
class Uneven:
    """Why a metric is not compared where the furthest runs end. Steps count from the branch point."""

    step: int | None
    """Where it is compared; None: nowhere."""
    last: Mapping[str, int]
    """The runs that bring that about, with the last step at which each has a value."""
    furthest: int
    """The last step at which some run has a value."""
    left_out: bool
    """Whether these have no step in common with the others, so that only the others are compared."""


@dataclass
class Aligned:
    """Each metric's curves, by run id, up to its own common step."""

    steps: dict[str, int | None]
    """Metric to steps since the branch point; None: no two runs share one."""
    curves: dict[str, dict[str, Curve]]
    uneven: dict[str, Uneven] = field(default_factory=dict)
    """By metric; of one that all runs measured equally far there is none."""

    def value(self, metric: str, run: str) -> float | None:
        """A run's value at the common step; None where it has none there."""
        step = self.steps[metric]
        return None if step is None else self.curves[metric].get(run, {}).get(step)


def measured(sources: Iterable[Source]) -> list[str]:
    """Every metric that some run has, in the order of the records."""
    names: dict[str, None] = {}
    for source in sources:
        names.update(dict.fromkeys(source.run.record.metrics))
    return list(names)


def align(sources: Sequence[Source], metrics: Sequence[str], at: int | None) -> Aligned:
    """Read what is needed to compare ``metrics``.

    A run that failed, or has not come far enough, does not hold the others back: it has no value.

    Args:
        sources: the runs.
        metrics: names.
        at: steps since the branch point at which to compare; None: where the finished runs end.

    Raises:
        LauncherError: a metrics file is damaged where it was read.
    """
    curves: dict[str, dict[str, Curve]] = {metric: {} for metric in metrics}
    for source in sources:
        for metric, curve in source.read(metrics, at).items():
            curves[metric][source.run.id] = curve
    aligned = Aligned({}, curves)
    for metric in metrics:
        aligned.steps[metric], uneven = _shared(sources, metric, curves[metric], at)
        if uneven is not None:
            aligned.uneven[metric] = uneven
    return aligned


def _shared(
    sources: Sequence[Source], metric: str, curves: dict[str, Curve], at: int | None
) -> tuple[int | None, Uneven | None]:
    """The last step that all have who count, or most of them; ``curves`` are cut there."""
    pool = _who_counts([one for one in sources if curves.get(one.run.id)], curves, at)
    last = {one.run.id: next(iter(curves[one.run.id])) for one in pool}
    # The trunk may go on as long as it likes: it is compared where its branches end.
    furthest = max((last[one.run.id] for one in pool if one.numbering == BRANCH_STEPS), default=0)
    step = _cut(sources, pool, metric, curves)
    if step is None and pool:
        agreeing = _most(pool, metric, at)
        for one in sources:
            curves[one.run.id] = one.read([metric], at).get(metric, {})
        step = _cut(sources, agreeing, metric, curves)
        without = {one.run.id: last[one.run.id] for one in pool if one not in agreeing}
        return step, Uneven(step, without, furthest, left_out=True)
    short = {run: reached for run, reached in last.items() if reached < furthest}
    return step, Uneven(step, short, furthest, left_out=False) if short else None


def _cut(
    sources: Sequence[Source], pool: Sequence[Source], metric: str, curves: dict[str, Curve]
) -> int | None:
    """The last step that all in ``pool`` have; all ``curves`` are cut there."""
    while pool:
        step = min(next(iter(curves[one.run.id])) for one in pool)
        for one in sources:
            curve = curves.get(one.run.id, {})
            if curve and next(iter(curve)) > step:
                # What was read may lie after this step altogether.
                kept = {at_step: value for at_step, value in curve.items() if at_step <= step}
                enough = len(kept) == len(curve) or (step in kept and one.count == 1)
                curves[one.run.id] = kept if enough else one.read([metric], step)[metric]
        if any(not curves[one.run.id] for one in pool):
            return None
        if all(step in curves[one.run.id] for one in pool):
            return step
    return None


def _most(pool: Sequence[Source], metric: str, at: int | None) -> list[Source]:
    """The largest part of the runs that shares a step, and the latest such step; none where it is no more
    than a half: then nobody can say which of them is the odd one.
    """
    every = {
        one.run.id: frozenset(replace(one, count=_LOOKED_BACK).read([metric], at)[metric]) for one in pool
    }
    having = Counter(step for steps in every.values() for step in steps)
    step, count = max(having.items(), key=lambda pair: (pair[1], pair[0]))
    return [one for one in pool if step in every[one.run.id]] if 2 * count > len(pool) else []


def _who_counts(having: list[Source], curves: Mapping[str, Curve], at: int | None) -> list[Source]:
    """Those that decide on the step: the finished ones, and with ``at`` those that have come as far."""
    whole = [one for one in having if one.state != "failed"]
    if at is None:
        return [one for one in whole if one.state == "finished"] or whole
    furthest = max((next(iter(curves[one.run.id])) for one in whole), default=0)
    return [one for one in whole if one.state == "finished" or next(iter(curves[one.run.id])) == furthest]
