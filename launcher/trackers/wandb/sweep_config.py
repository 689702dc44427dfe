"""W&B's own searches: a sweep file whose agents start ``train.py`` with Hydra's overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from hydra.errors import HydraException

from launcher.errors import ConfigError
from launcher.trackers.wandb.names import DEFAULT_PROJECT

METHODS = ("grid", "random", "bayes")
_HEAD = (
    "# Written by: {command}\n"
    "# Start it: wandb sweep FILE, then wandb agent with the id that this prints.\n"
    "# Every run of an agent goes through the same checks, and into the same group, as one of -m.\n"
)


def sweep_config(
    overrides: Sequence[str],
    *,
    method: str = "grid",
    metric: str | None = None,
    goal: str = "maximize",
    program: str = "train.py",
) -> dict[str, Any]:
    """A W&B sweep over what the overrides sweep; the others are the same for every run.

    Args:
        overrides: in Hydra's grammar: ``a=1,2``, ``range(..)``, ``choice(..)`` become values,
            ``interval(..)`` bounds.
        method: one of :data:`METHODS`.
        metric: what the search optimises; needed by ``bayes``.
        goal: ``maximize`` or ``minimize`` it.
        program: what an agent starts.

    Raises:
        ConfigError: an override is none, sweeps nothing that W&B knows, or does not fit the method.
    """
    said = [_parsed(text) for text in overrides]
    swept = {one.get_key_element(): _parameter(one, method) for one in said if one.is_sweep_override()}
    if not swept:
        raise ConfigError(
            "Nothing is swept.",
            found=" ".join(overrides) or "no override",
            expected="at least one override with several values",
            do="launcher sweep-config optimizer.lr=1e-4,5e-5",
        )
    if method == "bayes" and metric is None:
        raise ConfigError("method=bayes needs a metric.", do="add --maximize METRIC, or --minimize METRIC")
    fixed = [text for text, one in zip(overrides, said, strict=True) if not one.is_sweep_override()]
    return {
        "program": program,
        "project": DEFAULT_PROJECT,
        "method": method,
        **({"metric": {"name": metric, "goal": goal}} if metric else {}),
        # Hydra's overrides have no hyphens in front.
        "command": ["${env}", "${interpreter}", "${program}", *fixed, "${args_no_hyphens}"],
        "parameters": swept,
    }


def written(config: dict[str, Any], command: str) -> str:
    """The sweep file; ``command`` is what made it."""
    return _HEAD.format(command=command) + yaml.safe_dump(config, sort_keys=False)


def _parsed(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(
            "An override cannot be read.", where=text, found=str(error).splitlines()[0]
        ) from error


def _parameter(override: Override, method: str) -> dict[str, Any]:
    key = override.get_key_element()
    if override.is_interval_sweep():
        return _bounds(key, override.value(), method)
    try:
        values = [_argument(one) for one in override.sweep_iterator(Transformer.identity)]
    except HydraException as error:
        raise ConfigError(
            "W&B cannot sweep this.",
            where=key,
            found=override.input_line,
            expected="a=1,2, choice(..), range(..) or interval(..)",
        ) from error
    return {"values": values}


def _argument(value: Any) -> Any:
    """What an agent has to be told so that ``str`` of it is this value in Hydra's grammar."""
    plain = isinstance(value, int | float)  # bool is an int.
    return value if plain else Override._get_value_element_as_str(value)


def _bounds(key: str, interval: Any, method: str) -> dict[str, Any]:
    assert isinstance(interval, IntervalSweep)
    if method == "grid":
        raise ConfigError(
            "A grid has no interval.",
            where=key,
            expected="values to go through",
            do=f"{key}=A,B,C, or --method random",
        )
    if "log" in interval.tags:
        return {"distribution": "log_uniform_values", "min": interval.start, "max": interval.end}
    return {"min": interval.start, "max": interval.end}
