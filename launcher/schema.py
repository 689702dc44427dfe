"""The schema as Hydra composes on it: closed, or open for the keys of a script that has its own loop."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from launcher.config import LAUNCHERS, OWN_LOOP, TaskConfig, typed_schema
from launcher.errors import ConfigError

_NOT_THERE = re.compile(r"Could not override '([^']+)'")


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


def refuse_unknown(nodes: Mapping[str, object]) -> None:
    """Refuse what ``+`` has put into the launcher's own nodes, where nobody would read it.

    Args:
        nodes: dataclasses of :mod:`launcher.config`, and others' plain values, by top-level key.

    Raises:
        ConfigError: names the key, and those that may be meant.
    """
    for name, node in nodes.items():
        for key in _unknown(name, node):
            raise _no_such_key(key)


def in_our_words(error: Exception) -> ConfigError | None:
    """What to say where Hydra advises ``+KEY`` in a node of the launcher's own, and where it does not say
    which override it cannot read; None elsewhere."""
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        return ConfigError(
            f"Hydra cannot read an override: {str(error).splitlines()[0]}.",
            found=error.override,
            do=f"""quote a value with =, : or commas in it, and the whole for the shell: '{key}="{value}"'"""
            if value
            else "give it as KEY=VALUE",
        )
    match = _NOT_THERE.match(str(error))
    key = match[1] if match else ""
    top = key.partition(".")[0]
    ours = top in LAUNCHERS and OmegaConf.get_type(typed_schema()[top]) is not dict
    return _no_such_key(key) if ours else None


def _unknown(name: str, node: object) -> Iterator[str]:
    if is_dataclass(node):
        known = {one.name for one in fields(node)}
        for key, value in vars(node).items():
            yield from _unknown(f"{name}.{key}", value) if key in known else (f"{name}.{key}",)


def _no_such_key(key: str) -> ConfigError:
    keys = list(_keys("", typed_schema()))
    section, _, name = key.rpartition(".")
    near = [one for one in keys if one.rpartition(".")[2] == name]
    near = near or get_close_matches(key, [one for one in keys if not key.startswith(one)], n=1, cutoff=0.8)
    there = [one.rpartition(".")[2] for one in keys if one.rpartition(".")[0] == section]
    return ConfigError(
        f"The launcher has no key {key}.",
        where=key,
        expected=f"in {section}: {', '.join(there)}" if there else None,
        do=[f"{one}=…" for one in near],
    )


def _keys(section: str, node: DictConfig) -> Iterator[str]:
    for name in map(str, node):
        yield f"{section}{name}"
        if not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
            yield from _keys(f"{section}{name}.", node[name])
