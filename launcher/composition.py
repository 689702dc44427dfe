"""From what Hydra composes to validated configs: of one job, or of many siblings at the price of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from launcher.branch.declared import Declared, declared
from launcher.config import LAUNCHERS, OWN_LOOP, Config, TrainingConfig
from launcher.errors import ConfigError, LauncherError
from launcher.schema import in_our_words, refuse_unknown
from launcher.validation import validate

HANDED = "fanout."
"""Overrides that say how siblings are launched, and nothing of what one of them is."""


def config_from(composed: DictConfig) -> Config:
    """The validated config of a composed one, with or without Hydra's own node.

    Raises:
        ConfigError: names the dotted key.
    """
    parts = [str(key) for key in composed if key != "hydra"]
    # What was composed on the schema has its types already: to merge it into the schema again costs ten times
    # as much, for each sibling.
    own = [key for key in parts if key not in LAUNCHERS]
    typed = OmegaConf.get_type(composed.get("training")) is TrainingConfig and set(parts) >= LAUNCHERS
    typed = typed and (not own or OmegaConf.select(composed, "task._target_") == OWN_LOOP)
    try:
        values = {key: _value(composed[key], typed) for key in parts}
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{error.full_key} has no value.",
            where=str(error.full_key),
            expected="a value on the command line or in a config file",
            do=f"{error.full_key}=VALUE",
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0], where=str(error.full_key)) from error
    if not typed:
        return Config.from_plain(values)
    refuse_unknown(values)
    config = Config(**{key: value for key, value in values.items() if key in LAUNCHERS})
    config.own = {key: values[key] for key in own}
    validate(config)
    return config


def _value(node: Any, typed: bool) -> Any:
    """A node's own dataclass where it is one of the launcher's; plain values of everything else."""
    if not OmegaConf.is_config(node):
        return node
    if typed and getattr(OmegaConf.get_type(node), "__module__", None) == Config.__module__:
        return OmegaConf.to_object(node)
    return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)


def declared_by(hydra: Any, overrides: Sequence[str] | None = None) -> Declared:
    """What was declared by a job.

    Args:
        hydra: Hydra's own config of the job.
        overrides: the job's, where they are not those that Hydra was told.
    """
    directories = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    said = hydra.overrides.task if overrides is None else overrides
    own = [one for one in said if not one.lstrip("+").startswith(HANDED)]
    return declared(own, dict(hydra.runtime.choices), directories)


@dataclass(frozen=True)
class Composed:
    """One sibling's config, or why it has none."""

    overrides: tuple[str, ...]
    """As typed and swept, without those of the fan-out itself."""
    config: Config | None = None
    declared: Declared = field(default_factory=Declared)
    error: LauncherError | None = None


class Composer:
    """Composes siblings, each once.

    Hydra's composition of files is done once for each combination of groups. Siblings that differ in plain
    values only are made from it by setting these values, as Hydra itself does at the end of a composition.
    """

    def __init__(self, loader: ConfigLoader, base: DictConfig) -> None:
        self._loader, self._base = loader, base
        self._parser = OverridesParser.create(config_loader=loader)
        self._made: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> Composed:
        """One sibling; what is wrong with it is in the result."""
        own = tuple(one for one in overrides if not one.lstrip("+").startswith(HANDED))
        try:
            composed = self._composed(list(overrides))
            HydraConfig.instance().set_config(composed)
            return Composed(own, config_from(composed), declared_by(composed.hydra, own))
        except LauncherError as error:
            return Composed(own, error=error)
        except (HydraException, OmegaConfBaseException) as error:
            lines = [str(one).strip() for one in (error, error.__cause__) if one is not None]
            said = in_our_words(error) or ConfigError(" ".join(" ".join(lines).split()))
            return Composed(own, error=said)

    def _composed(self, overrides: list[str]) -> DictConfig:
        parsed = self._parser.parse_overrides(overrides)
        values = [one for one in parsed if self._only_a_value(one)]
        # Every sibling sets all of these keys, so nothing of the one before remains.
        structure = tuple(one.key_or_group if one in values else str(one.input_line) for one in parsed)
        if structure not in self._made:
            self._made[structure] = self._loader.load_sweep_config(self._base, overrides)
            return self._made[structure]
        composed = self._made[structure]
        for one in values:
            OmegaConf.update(composed, one.key_or_group, one.value(), merge=True)
        return composed

    def _only_a_value(self, override: Override) -> bool:
        """Whether it sets one key that is there, to something that replaces what was there."""
        if override.is_add() or override.is_delete() or override.package is not None:
            return False
        if isinstance(override.value(), dict):
            return False
        return not self._is_group(override.key_or_group)

    def _is_group(self, key: str) -> bool:
        if key not in self._groups:
            # The groups of hydra.searchpath are known only to who knows the primary config.
            primary = OmegaConf.select(self._base, "hydra.job.config_name")
            self._groups[key] = bool(self._loader.get_group_options(key, config_name=primary))
        return self._groups[key]
