"""What was typed wins over what was restored: hyperparameters of optimizers and schedules of a script's own.

Nobody can see which key of the config became which argument. But a script builds its optimizer anew at each
start, with what it was told; and a checkpoint keeps what its run's optimizer was built with. Where these two
differ, something was changed on purpose, and goes on top of what was restored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from launcher.checkpoint.tree import SCALARS
from launcher.script.parts import Parts
from launcher.script.schedules import counts_steps, rates_behind, steps_of, untouched

_POSITION = frozenset({"last_epoch", "base_lrs"})
"""What of a scheduler's state is how far it is, or follows from its optimizer."""
_SAVED_RATE = "rate"

Fresh = dict[str, Any]
"""Name of a part to the hyperparameters that it was built with."""


def fresh(parts: Parts) -> Fresh:
    """The hyperparameters as they were built; to be asked before anything is restored."""
    built: Fresh = {
        name: [of_group(one) for one in part.param_groups] for name, part in parts.optimizers.items()
    }
    for name, part in parts.schedulers.items():
        built[name] = [_of_schedule(one) for one in _within(part)]
    return built


def settle(
    parts: Parts, own: Fresh, trunks: Fresh | None, restored: set[str], new: Mapping[str, Any]
) -> list[str]:
    """Put what differs from the trunk on top of what was restored; the names of what was changed.

    Args:
        parts: restored.
        own: :func:`fresh` of this run.
        trunks: that of the run that wrote the checkpoint; None where nobody kept it.
        restored: the names of the parts that were.
        new: schedulers as they were built, by name; see :func:`new_schedules`. They are used up.
    """
    changed = []
    for name, optimizer in parts.optimizers.items():
        driving = {key: one for key, one in parts.schedulers.items() if one.optimizer is optimizer}
        before = trunks.get(name) if trunks is not None else None
        if name not in restored:
            _begin_at(optimizer, [one for key, one in driving.items() if key in restored])
            before = own[name]
        anew = bool(driving) and not driving.keys() & restored and name in restored
        rates: list[float] | None = None
        for index, group in enumerate(optimizer.param_groups):
            built = own[name][index]
            there = before[index] if before is not None else of_group(group)
            other = [key for key in built if key != _SAVED_RATE and built[key] != there.get(key)]
            if "lr" in other and rates is None and not anew:
                rates = _rates_there(driving, new)
            if "lr" in other or anew:
                now = rates[index] if rates else None
                _set_rate(group, index, built, there.get("lr"), driving.values(), anew, now)
            group.update({key: built[key] for key in other if key != "lr"})
            changed += [f"{name}.{key}" for key in other]
    for name, scheduler in parts.schedulers.items():
        before = (trunks or {}).get(name) or own[name]
        for one, built, there in zip(_within(scheduler), own[name], before, strict=False):
            for key, value in built.items():
                if name in restored and value != there.get(key):
                    setattr(one, key, value)
                    changed.append(f"{name}.{key}")
    return changed


def rate(parts: Parts) -> float | None:
    """The learning rate of the first group of the first optimizer, as it is now."""
    for optimizer in parts.optimizers.values():
        return float(optimizer.param_groups[0]["lr"])
    return None


def of_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a group; ``lr`` is the base rate, where the group has both."""
    values = {key: _number(value) for key, value in group.items() if key not in {"params", "initial_lr"}}
    own = {key: value for key, value in values.items() if _plain(value)}
    if "lr" in own:
        # What a schedule has made of it so far is no hyperparameter.
        own[_SAVED_RATE] = own["lr"]
        own["lr"] = _number(group.get("initial_lr", own["lr"]))
    return own


def _of_schedule(scheduler: Any) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(scheduler).items()
        if key not in _POSITION and not key.startswith("_") and _plain(value)
    }


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(one) for one in value)
    return type(value) in SCALARS


def _begin_at(optimizer: Optimizer, schedulers: list[Any]) -> None:
    """A new optimizer at the place of a restored schedule."""
    for scheduler in schedulers:
        for group, now in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=False):
            _put(group, now)


def new_schedules(parts: Parts) -> dict[str, Any]:
    """Copies of the schedulers as they were built, by name; to be made before anything is restored."""
    return {name: untouched(one) for name, one in parts.schedulers.items() if counts_steps(one)}


def _rates_there(driving: Mapping[str, Any], new: Mapping[str, Any]) -> list[float] | None:
    """What an optimizer's schedule, as it was built, gives at the place where the restored one stands."""
    if len(driving) != 1:
        return None
    [(name, restored)] = driving.items()
    steps = steps_of(restored)
    return None if name not in new or steps is None else rates_behind(new[name], steps)


def _set_rate(
    group: dict[str, Any],
    index: int,
    built: Mapping[str, Any],
    old: Any,
    driving: Any,
    anew: bool,
    there: float | None,
) -> None:
    """Another base rate: in the group, in whatever schedules it, and at its present place in the schedule.

    Without ``there``, what the schedule gives at that place, the rate is changed in proportion.
    """
    new, now = built["lr"], _number(group["lr"])
    if "initial_lr" in group:
        group["initial_lr"] = new
    if not driving:
        _put(group, new)
    elif anew:
        _put(group, built[_SAVED_RATE])
    elif there is not None:
        _put(group, there)
    else:
        _put(group, now * new / old if old else new)
    for scheduler in driving:
        for one in _within(scheduler):
            if index < len(getattr(one, "base_lrs", ())):
                one.base_lrs[index] = new
            factors = getattr(one, "lr_lambdas", None)
            if factors is not None and one is scheduler and not anew:
                # Exactly what this class will compute from now on; a ratio could differ in the last bit.
                _put(group, new * factors[index](one.last_epoch))
        if getattr(scheduler, "_last_lr", None):
            scheduler._last_lr = [_number(each["lr"]) for each in scheduler.optimizer.param_groups]


def _within(scheduler: Any) -> Iterator[Any]:
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _within(inner)


def _put(group: dict[str, Any], value: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value
