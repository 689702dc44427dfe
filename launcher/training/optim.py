"""The optimizer and its schedule, built from config, and hyperparameters applied to live objects."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.utils import get_class
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from launcher.errors import ConfigError, OverrideHadNoEffect
from launcher.training.schedule import NOT_ARGUMENTS, Factor


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The optimizer's arguments in its config; lists as tuples, as PyTorch keeps them."""
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config.items()
        if key not in NOT_ARGUMENTS
    }


def build_optimizer(config: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimizer that ``optimizer._target_`` names, over all parameters that are trained.

    Raises:
        ConfigError: the target cannot be imported or refuses these arguments.
    """
    target = config.get("_target_", "")
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        cls = get_class(target)
        unknown = hyperparameters(config).keys() - inspect.signature(cls).parameters.keys()
        if unknown:
            raise TypeError(f"it has no argument {', '.join(sorted(unknown))}")
        optimizer: Optimizer = cls(trained, **hyperparameters(config))
    except (ImportError, TypeError, ValueError) as error:
        raise ConfigError(
            "optimizer cannot be built.",
            where="optimizer",
            found=f"optimizer._target_={target}: {error}",
            expected="a torch.optim.Optimizer that takes the other keys of optimizer",
        ) from error
    return optimizer


def build_scheduler(optimizer: Optimizer, factor: Factor) -> LambdaLR:
    """A scheduler that multiplies each group's base rate by ``factor``.

    The lambda keeps PyTorch from putting a callable object's attributes into the scheduler's state,
    from where a restore would overwrite what was typed.
    """
    return LambdaLR(optimizer, lambda step: factor(step))  # noqa: PLW0108


def apply_hyperparameters(
    optimizer: Optimizer, scheduler: LambdaLR, changed: Mapping[str, Any], factor: Factor
) -> None:
    """Make typed values win over restored state.

    ``load_state_dict`` brings the trunk's ``param_groups`` back, so that a typed learning rate would
    be lost; it has to reach ``lr``, ``initial_lr`` and the scheduler's ``base_lrs``.
    """
    for name, value in changed.items():
        for group in optimizer.param_groups:
            if name == "lr":
                group["initial_lr"] = value
            elif name in group:
                group[name] = value
    if "lr" in changed:
        scheduler.base_lrs = [changed["lr"] for _ in scheduler.base_lrs]
    multiple = factor(scheduler.last_epoch)
    for group, base in zip(optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = base * multiple
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def check_live(
    optimizer: Optimizer, scheduler: LambdaLR, expected: Mapping[str, Any], factor: Factor
) -> None:
    """Hold the live optimizer against what was typed.

    Raises:
        OverrideHadNoEffect: a hyperparameter has another value than the config says.
    """
    for name, value in expected.items():
        wanted = value * factor(scheduler.last_epoch) if name == "lr" else value
        for group in optimizer.param_groups:
            if name in group and group[name] != wanted:
                raise OverrideHadNoEffect(
                    f"optimizer.{name} had no effect: the live optimizer has another value.",
                    where=f"optimizer.{name}",
                    found=str(group[name]),
                    expected=str(wanted),
                    do="report it: the launcher or the optimizer's load_state_dict is at fault",
                )
