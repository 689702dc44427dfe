"""Metrics at equal step: for each metric the last step since the branch point that the runs share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from launcher.lineage import Run, State
from launcher.trackers.metrics_window import Numbering, last_values

WINDOW = 100
"""Logged values that an interval over steps looks back on, where there is one stream only."""

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


@dataclass
class Aligned:
    """Each metric's curves, by run id, up to its own common step."""

    steps: dict[str, int | None]
    """Metric to steps since the branch point; None: no two runs share one."""
    curves: dict[str, dict[str, Curve]]

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
    steps = {metric: _shared(sources, metric, curves[metric], at) for metric in metrics}
    return Aligned(steps, curves)


def _shared(sources: Sequence[Source], metric: str, curves: dict[str, Curve], at: int | None) -> int | None:
    """The last step that all have who count; ``curves`` are cut there."""
    pool = _who_counts([one for one in sources if curves.get(one.run.id)], curves, at)
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


def _who_counts(having: list[Source], curves: Mapping[str, Curve], at: int | None) -> list[Source]:
    """Those that decide on the step: the finished ones, and with ``at`` those that have come as far."""
    whole = [one for one in having if one.state != "failed"]
    if at is None:
        return [one for one in whole if one.state == "finished"] or whole
    furthest = max((next(iter(curves[one.run.id])) for one in whole), default=0)
    return [one for one in whole if one.state == "finished" or next(iter(curves[one.run.id])) == furthest]
