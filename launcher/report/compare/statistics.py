"""Intervals and levels. What they claim, and what not, is in docs/method.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05
"""How often a comparison that finds nothing may look like an effect; intervals have 1 minus this."""
FEW = 3
"""With more comparisons than this, levels are corrected for their number."""
BATCHES = 5
"""Parts that a series of steps is cut into. Few and long: means of long parts hardly depend on each other."""
LEAST_STEPS = 4 * BATCHES
"""Logged steps below which nothing can be said about how a difference wanders from step to step."""


@dataclass(frozen=True)
class Estimate:
    """A mean difference and how far it may be from what more data would give."""

    mean: float
    error: float
    """Standard error."""
    freedom: int
    """Degrees of freedom of Student's t."""

    @property
    def p(self) -> float:
        """How often a difference of this size or more turns up where there is none."""
        from scipy.special import stdtr

        if self.error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return min(1.0, 2.0 * float(stdtr(self.freedom, -abs(self.mean) / self.error)))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The values that are compatible with the data at ``level``."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, 1.0 - level / 2.0)) * self.error
        return self.mean - half, self.mean + half


def over_streams(differences: Sequence[float]) -> Estimate | None:
    """The mean of paired differences, one a stream; None for fewer than two, or one that is not finite."""
    return _student(differences)


def over_steps(differences: Sequence[float]) -> Estimate | None:
    """The mean difference along one stream, from batch means, as neighbouring steps are alike.

    None for fewer than :data:`LEAST_STEPS` steps, or where one is not finite.
    """
    if len(differences) < LEAST_STEPS:
        return None
    size = len(differences) // BATCHES
    used = differences[len(differences) - BATCHES * size :]
    return _student([math.fsum(used[size * k : size * (k + 1)]) / size for k in range(BATCHES)])


def _student(values: Sequence[float]) -> Estimate | None:
    count = len(values)
    if count < 2 or not all(map(math.isfinite, values)):
        return None
    mean = math.fsum(values) / count
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Estimate(mean, spread / math.sqrt(count), count - 1)


def without_spread(differences: Sequence[float], scale: float) -> bool:
    """Whether differences are equal but for rounding, so that they tell nothing of the noise.

    Args:
        differences: two or more.
        scale: how large the values are that they are differences of.
    """
    return max(differences) - min(differences) <= 1e-12 * max(scale, abs(differences[0]))


def holm(chances: Sequence[float], level: float = LEVEL) -> list[float]:
    """The level at which each of several comparisons is judged, so that together they keep ``level``.

    Holm's procedure (1979): the smallest p is held against level/m, the next against level/(m - 1), and so
    on up to the first that fails; the others are held against the level that one failed at.
    """
    levels = [0.0] * len(chances)
    failed: float | None = None
    for rank, index in enumerate(sorted(range(len(chances)), key=lambda one: chances[one])):
        at = level / (len(chances) - rank) if failed is None else failed
        if failed is None and chances[index] > at:
            failed = at
        levels[index] = at
    return levels
