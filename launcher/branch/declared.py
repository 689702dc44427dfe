"""What the user said on purpose: typed on the command line, or written in a chosen config file.

A file that adds to a node from outside the defaults list (``+branch=NAME``, ``+arm=NAME``) counts as
typed: its author wrote down what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from launcher.files import flatten


@dataclass(frozen=True)
class Declared:
    """Dotted keys, and nodes chosen as a whole, with where each was said."""

    keys: Mapping[str, str] = field(default_factory=dict)
    """Single keys: ``optimizer.lr`` → ``command line``."""
    nodes: Mapping[str, str] = field(default_factory=dict)
    """Config groups chosen by name: ``loss`` → ``command line``."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen: ``loss`` → ``fixed``, ``optimizer.lr`` → ``5e-05``."""
    overrides: tuple[str, ...] = ()
    """The command line's overrides, as typed."""

    def unit_of(self, key: str) -> str | None:
        """The shortest declared key or node that covers ``key``; None if nobody said it.

        A key that was typed on its own is its own unit even inside a node that was chosen as a whole.
        """
        parts = key.split(".")
        above = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        for prefix in above:
            if prefix in self.keys:
                return prefix
        return next((prefix for prefix in above if prefix in self.nodes), None)


def declared(overrides: Iterable[str], choices: Mapping[str, Any], config_dirs: Iterable[Path]) -> Declared:
    """What was declared by a job.

    Args:
        overrides: the job's overrides, as typed.
        choices: Hydra's choices: config group → name.
        config_dirs: directories of config files, first one first.
    """
    directories = list(config_dirs)
    typed = tuple(overrides)
    keys: dict[str, str] = {}
    nodes: dict[str, str] = {}
    values: dict[str, Any] = {}
    parser = OverridesParser.create()
    for override in parser.parse_overrides(list(typed)):
        name = override.key_or_group
        value = override.value()
        if name not in choices:
            keys[name] = "command line"
            values[name] = value
            continue
        nodes[override.package or name] = "command line"
        values[name] = value
        if override.is_add() or name == "branch":
            for chosen in value if isinstance(value, list) else [value]:
                _from_file(name, str(chosen), directories, keys, nodes, values)
    return Declared(keys, nodes, values, typed)


def _from_file(
    group: str,
    name: str,
    directories: list[Path],
    keys: dict[str, str],
    nodes: dict[str, str],
    values: dict[str, Any],
) -> None:
    """Add what the config file of a chosen group option says; the command line wins."""
    paths = [directory / group / f"{name.removesuffix('.yaml')}.yaml" for directory in directories]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text) or {}
    if not isinstance(content, dict):
        return
    package = _package(text, group)
    source = f"{path.parent.name}/{path.name}"
    for entry in content.pop("defaults", []):
        if isinstance(entry, dict):
            for chosen_group, option in entry.items():
                _, _, bare = str(chosen_group).rpartition(" ")
                node = bare.lstrip("/").partition("@")[0]
                nodes.setdefault(node, source)
                values.setdefault(node, option)
    for key, value in flatten(content, package).items():
        keys.setdefault(key, source)
        values.setdefault(key, value)


def _package(text: str, group: str) -> str:
    """The prefix of a config file's keys, from its ``# @package`` line."""
    for line in text.splitlines():
        words = line.removeprefix("#").split()
        if line.startswith("#") and len(words) == 2 and words[0] == "@package":
            package = words[1].replace("_group_", group.replace("/", "."))
            return "" if package == "_global_" else f"{package}."
    return group.replace("/", ".") + "."
