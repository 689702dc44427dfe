"""The config as a script is given it: it notes which of its keys are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from launcher.files import flatten


class NotedConfig(DictConfig):
    """A config like any other. Whatever is read of it, or handed on as a whole, is noted."""

    def _get_node(self, key: Any, *args: Any, **options: Any) -> Any:
        node = super()._get_node(key, *args, **options)
        if node is not None and not (isinstance(node, DictConfig) and node._content):
            self.__dict__["_reads"].add(f"{self.__dict__['_prefix']}{key}")
        return node

    def __deepcopy__(self, memo: dict[int, Any]) -> DictConfig:
        # A copy notes nothing, and is made to be read: instantiate and merge begin with one.
        for value in self.__dict__["_content"].values():
            if isinstance(value, NotedConfig):
                value.__deepcopy__({})
        for key in self.keys():
            self._get_node(key)
        return DictConfig.__deepcopy__(self, memo)


def noted(plain: Mapping[str, Any]) -> tuple[DictConfig, set[str]]:
    """A config over plain values, and the dotted keys that were read of it so far.

    A key that it lacks is an error, as in a config that Hydra composed.
    """
    config = OmegaConf.create(dict(plain))
    reads: set[str] = set()
    _note_in(config, reads, "")
    OmegaConf.set_struct(config, True)
    reads.clear()
    return config, reads


def _note_in(config: DictConfig, reads: set[str], prefix: str) -> None:
    config.__dict__["_reads"], config.__dict__["_prefix"] = reads, prefix
    object.__setattr__(config, "__class__", NotedConfig)
    content = config.__dict__["_content"]
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, DictConfig):
            _note_in(value, reads, f"{prefix}{key}.")


def unread(key: str, reads: set[str]) -> bool:
    """Whether nothing at or below a dotted key was read."""
    return not any(read == key or read.startswith(f"{key}.") or key.startswith(f"{read}.") for read in reads)


def leaves(value: Any, key: str) -> list[str]:
    """The dotted keys that an override of ``key`` by ``value`` sets."""
    return list(flatten(value, f"{key}.")) if isinstance(value, Mapping) and value else [key]
