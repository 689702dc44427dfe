"""Learning-rate schedules as pure functions of the step: ``factor(schedule_step) -> float``.

A schedule of the user's own is any function that takes ``horizon_steps`` and its config's other keys
and gives such a factor; ``scheduler._target_`` names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from hydra.utils import get_method

from launcher.errors import ConfigError

Factor: TypeAlias = Callable[[int], float]
"""From the number of steps already taken in the schedule (0, 1, ...) to a multiple of the base rate."""

NOT_ARGUMENTS = frozenset({"_target_", "label", "facts"})


def warmup_cosine(horizon_steps: int, warmup_steps: int, min_factor: float) -> Factor:
    """Linear warm-up over ``warmup_steps``, then half a cosine down to ``min_factor`` at the horizon."""
    if not 0 <= warmup_steps < horizon_steps:
        raise ConfigError(
            "scheduler.warmup_steps is out of range.",
            found=f"scheduler.warmup_steps={warmup_steps}",
            expected=f"from 0 to {horizon_steps - 1}, less than the schedule's horizon",
            do=f"scheduler.warmup_steps={horizon_steps // 10}, or train longer",
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = min(1.0, (step - warmup_steps) / (horizon_steps - warmup_steps))
        return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


def constant(horizon_steps: int, warmup_steps: int = 0) -> Factor:  # noqa: ARG001 - every schedule is told
    """Linear warm-up over ``warmup_steps``, then the base rate."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / (warmup_steps + 1))

    return factor


def build_schedule(config: Mapping[str, Any], horizon_steps: int) -> Factor:
    """The schedule that ``scheduler._target_`` names.

    Raises:
        ConfigError: the target cannot be imported or does not take these arguments.
    """
    arguments = {key: value for key, value in config.items() if key not in NOT_ARGUMENTS}
    target = config.get("_target_", "")
    try:
        factory = get_method(target)
        factor: Factor = factory(horizon_steps=horizon_steps, **arguments)
    except (ImportError, TypeError, ValueError) as error:
        raise ConfigError(
            "scheduler cannot be built.",
            where="scheduler",
            found=f"scheduler._target_={target}: {error}",
            expected="a function of horizon_steps and the other keys of scheduler",
        ) from error
    return factor
