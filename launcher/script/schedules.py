"""Where a script's schedule stands at a branch point of others, which tells its position at most."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from launcher.errors import CheckpointError

SCHEDULER = "scheduler"
"""The one whose state is a checkpoint's ``scheduler_state_dict``."""


def counts_steps(scheduler: Any) -> bool:
    """Whether all of its state follows from how often it was stepped."""
    return isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau)


def moved_by(scheduler: Any) -> frozenset[str]:
    """What a schedule changes in its optimizer's groups besides the rate."""
    return frozenset({"betas", "momentum"} if getattr(scheduler, "cycle_momentum", False) else ())


def position(saved: Mapping[str, Any] | None, steps: int) -> int:
    """How often it was stepped: as the checkpoint has it, or once in each of ``steps`` steps."""
    last = (saved or {}).get("last_epoch")
    return last if isinstance(last, int) else steps


def put_behind(scheduler: Any, steps: int) -> None:
    """Step a new schedule so often. Its optimizer gets the rates of that place.

    What a class keeps besides the count, as of the schedules within another, comes out as it was.

    Raises:
        CheckpointError: it ends before.
    """
    with warnings.catch_warnings():
        # That the optimizer has not been stepped between.
        warnings.simplefilter("ignore")
        for done in range(steps):
            try:
                scheduler.step()
            except ValueError as error:
                raise CheckpointError(
                    "This run's schedule is shorter than what the checkpoint has behind it.",
                    where="scheduler",
                    found=f"it ends after {done} steps: {error}",
                    expected=f"{steps} steps, and those that are left",
                    do="the trunk's schedule, or branch.schedule=restart",
                ) from error


def rates_behind(scheduler: Any, steps: int) -> list[float] | None:
    """The rates of all groups after so many steps; None where it cannot be tried out.

    Args:
        scheduler: as it was built; it is left as it is.
        steps: see :func:`put_behind`.
    """
    parameters = [one for group in scheduler.optimizer.param_groups for one in group["params"]]
    try:
        tried = copy.deepcopy(scheduler, {id(one): one for one in parameters})
    except TypeError:
        return None  # It holds something of the script's that has no copy.
    put_behind(tried, steps)
    return [float(group["lr"]) for group in tried.optimizer.param_groups]
