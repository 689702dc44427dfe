"""Optuna's samplers and pruners by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GridSampler, RandomSampler, TPESampler

from launcher.errors import ConfigError
from launcher.search.space import Space, grid

_SAMPLERS: Mapping[str, type[BaseSampler]] = {
    "tpe": TPESampler,
    "random": RandomSampler,
    "grid": GridSampler,
    "cmaes": CmaEsSampler,
}
_PRUNERS: Mapping[str, type[BasePruner]] = {
    "none": NopPruner,
    "median": MedianPruner,
    "asha": SuccessiveHalvingPruner,
}


def sampler(name: str, options: Mapping[str, Any], seed: int, space: Space, parallel: int = 1) -> BaseSampler:
    """A sampler.

    Args:
        name: ``tpe``, ``random``, ``grid`` or ``cmaes``.
        options: arguments of Optuna's class, by their names there.
        seed: of its random numbers.
        space: what is searched.
        parallel: trials that are asked for before the first of them is known.

    Raises:
        ConfigError: there is no such sampler, or it does not know an option.
    """
    given: dict[str, Any] = {"seed": seed, **options}
    if name == "grid":
        given["search_space"] = grid(space)
    if name == "tpe" and parallel > 1:
        # Without it all trials of a batch would be drawn around the same point.
        given = {"constant_liar": True, **given}
    if name == "cmaes":
        if importlib.util.find_spec("cmaes") is None:
            raise ConfigError(
                "hydra.sweeper.sampler=cmaes needs the package cmaes.",
                where="hydra.sweeper.sampler",
                do="pip install cmaes, or hydra.sweeper.sampler=tpe",
            )
        # What it cannot draw (lists) is drawn at random; that is told in the documentation, not each time.
        given = {"warn_independent_sampling": False, **given}
    made: BaseSampler = _made(_SAMPLERS, "hydra.sweeper.sampler", name, given)
    return made


def pruner(name: str, options: Mapping[str, Any]) -> BasePruner:
    """A pruner: ``none``, ``median`` or ``asha`` (successive halving without waiting).

    Raises:
        ConfigError: there is no such pruner, or it does not know an option.
    """
    made: BasePruner = _made(_PRUNERS, "hydra.sweeper.pruner", name, options)
    return made


def _made(known: Mapping[str, Callable[..., Any]], where: str, name: str, options: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ConfigError(f"{where}={name} is not known.", where=where, found=name, expected=" ".join(known))
    try:
        return known[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}_options are not Optuna's.",
            where=f"{where}_options",
            found=str(error),
            expected=f"arguments of optuna's {getattr(known[name], '__name__', name)}",
        ) from error
