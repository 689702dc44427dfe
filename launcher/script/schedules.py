"""Where a script's schedule stands at a branch point of others, which tells its position at most."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor
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


def untouched(scheduler: Any) -> Any:
    """A copy of a new schedule over a stand-in for its optimizer: groups without parameters.

    Nothing that it refers to is copied, which may be a whole model: a method of it as the factor.
    """
    return _copied(scheduler, _StandIn([_plain(group) for group in scheduler.optimizer.param_groups]))


class _StandIn:
    """What of an optimizer a schedule steps."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.param_groups = groups

    def step(self) -> None:
        """Schedules look whether it was called."""


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in group.items() if key != "params"}
    # A rate in a tensor is changed in place.
    return {key: one.clone() if isinstance(one, Tensor) else one for key, one in values.items()}


def _copied(scheduler: Any, optimizer: _StandIn) -> Any:
    made = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        if isinstance(value, list | dict):
            setattr(made, name, copy.copy(value))
    made.optimizer = optimizer
    if hasattr(made, "_schedulers"):
        made._schedulers = [_copied(one, optimizer) for one in made._schedulers]
    return made


def rates_behind(new: Any, steps: int) -> list[float]:
    """The rates of all groups after so many steps of a new schedule, which are taken."""
    put_behind(new, steps)
    return [float(group["lr"]) for group in new.optimizer.param_groups]


def steps_of(scheduler: Any) -> int | None:
    """How often a schedule was stepped."""
    inner = getattr(scheduler, "_schedulers", None)
    count = getattr(scheduler, "last_epoch", None)
    return steps_of(inner[0]) if count is None and inner else count
