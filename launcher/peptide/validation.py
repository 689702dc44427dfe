"""The task's nodes as validated dataclasses. Refusals name the dotted key, as it would be typed."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher.errors import ConfigError
from launcher.peptide.config import SOURCES, CurriculumConfig, DataConfig, LossConfig, ModelConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Node = TypeVar("Node", bound="DataclassInstance")

RANGES: Mapping[str, tuple[float, float]] = {
    "model.width": (4, 4_096),
    "model.heads": (2, 64),
    "model.layers": (1, 64),
    "model.feed_forward": (1, 65_536),
    "model.dropout": (0, 0.99),
    "model.shortest_wavelength": (1e-3, 1e4),
    "model.longest_wavelength": (1e-3, 1e6),
    "data.batch_size": (1, 65_536),
    "data.peaks": (1, 10_000),
    "data.min_length": (2, 100),
    "data.max_length": (2, 100),
    "data.validation_share": (1e-6, 1 - 1e-6),
    "data.validation_size": (1, 1_000_000),
    "data.simulation_seed": (0, 2**32 - 1),
    "data.missing_fragments": (0, 0.99),
    "data.noise_peaks": (0, 1_000),
    "data.noise_intensity": (0, 100),
    "data.b_intensity": (0, 100),
    "data.intensity_spread": (0, 10),
    "data.mass_error": (0, 10),
    "data.annotation_errors": (0, 1),
    "data.peptides": (10, 10_000_000),
    "data.missed_cleavages": (0, 10),
    "data.precursor_tolerance": (0, 1e6),
    "loss.weight": (0, 1e6),
    "loss.peak_width": (1e-3, 100),
    "curriculum.initial_length": (1, 100),
    "curriculum.length_start": (0, 10**12),
    "curriculum.length_full": (0, 10**12),
    "curriculum.spectrum_start": (0, 10**12),
    "curriculum.spectrum_full": (0, 10**12),
}
"""Smallest and largest value of each numeric key."""


def model_config(plain: object) -> ModelConfig:
    """The node ``model``; the same errors as :func:`node`."""
    config = node("model", plain, ModelConfig)
    step = 4 * config.heads
    if config.heads % 2 or config.width % step:
        raise ConfigError(
            "model.width does not divide into the heads.",
            found=f"model.width={config.width} model.heads={config.heads}",
            expected="an even number of heads, and a width that is a multiple of 4 times the heads",
        )
    _check_order("model.shortest_wavelength", config.shortest_wavelength, "model.longest_wavelength",
                 config.longest_wavelength)  # fmt: skip
    return config


def data_config(plain: object) -> DataConfig:
    """The node ``data``, of the kind that its ``source`` names; the same errors as :func:`node`."""
    source = plain.get("source") if isinstance(plain, Mapping) else None
    if source not in SOURCES:
        raise ConfigError(
            "data.source has no such value.",
            found=f"data.source={source}",
            expected=" | ".join(SOURCES),
            do="choose the data with data=NAME",
        )
    assert isinstance(plain, Mapping)
    if "path" in SOURCES[source].__dataclass_fields__ and plain.get("path") in (None, "", "???"):
        raise ConfigError("data.path is not set.", found=f"data={source}", expected="data.path=FILE")
    config = node("data", plain, SOURCES[source])
    _check_order("data.min_length", config.min_length, "data.max_length", config.max_length)
    return config


def loss_config(plain: object) -> LossConfig:
    """The node ``loss``; the same errors as :func:`node`."""
    return node("loss", plain, LossConfig)


def curriculum_config(plain: object) -> CurriculumConfig:
    """The node ``curriculum``; the same errors as :func:`node`."""
    config = node("curriculum", plain, CurriculumConfig)
    for ramp in ("length", "spectrum"):
        start, full = f"{ramp}_start", f"{ramp}_full"
        _check_order(
            f"curriculum.{start}", getattr(config, start), f"curriculum.{full}", getattr(config, full)
        )
    return config


def node(name: str, plain: object, schema: type[Node]) -> Node:
    """A node as its dataclass, with every number in its range.

    Raises:
        ConfigError: a key that does not exist, or a value of the wrong type or outside its range.
    """
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{name} is not a mapping.", found=f"{name}={plain}", expected="a node with keys")
    try:
        # A copy: whoever gets it may change it.
        config: Node = replace(_typed(schema, json.dumps(dict(plain))))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ConfigError(
            f"The config is not valid: {str(error).splitlines()[0]}", where=f"{name}.{key}" if key else name
        ) from error
    for key, value in vars(config).items():
        _check_range(f"{name}.{key}", value)
    return config


@functools.lru_cache(maxsize=64)
def _typed(schema: type[Node], plain_json: str) -> Node:
    """Siblings have most of their nodes in common, and OmegaConf takes milliseconds for each."""
    merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(json.loads(plain_json)))
    config: Node = OmegaConf.to_object(merged)  # type: ignore[assignment]
    return config


def _check_range(key: str, value: Any) -> None:
    if key not in RANGES:
        return
    smallest, largest = RANGES[key]
    if not (math.isfinite(value) and smallest <= value <= largest):
        raise ConfigError(
            f"{key} is out of range.", found=f"{key}={value}", expected=f"{smallest:g} to {largest:g}"
        )


def _check_order(low_key: str, low: float, high_key: str, high: float) -> None:
    if low > high:
        raise ConfigError(
            f"{low_key} is above {high_key}.",
            found=f"{low_key}={low:g} {high_key}={high:g}",
            expected=f"{low_key} <= {high_key}",
        )
