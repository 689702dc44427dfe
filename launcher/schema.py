"""The schema as Hydra composes on it: closed, or open for the keys of a script that has its own loop."""

from __future__ import annotations

import copy

from omegaconf import DictConfig, OmegaConf

from launcher.config import OWN_LOOP, TaskConfig, typed_schema


def open_schema(main: str) -> DictConfig:
    """The launcher's keys, typed, and room for others beside them.

    Args:
        main: the script's function, as MODULE.FUNCTION.
    """
    schema = OmegaConf.create({"task": TaskConfig(OWN_LOOP, main)})
    content = schema._content
    assert isinstance(content, dict)
    typed = typed_schema()._content
    assert isinstance(typed, dict)
    for key, node in typed.items():
        content.setdefault(key, copy.deepcopy(node))
    schema._re_parent()
    return schema


def register(main: str | None = None) -> None:
    """Make the schema known to Hydra, as ``launcher_schema``; with ``main``, :func:`open_schema`."""
    # Only who composes pays for Hydra.
    from hydra.core.config_store import ConfigStore

    node = copy.deepcopy(typed_schema()) if main is None else open_schema(main)
    ConfigStore.instance().store(name="launcher_schema", node=node)
