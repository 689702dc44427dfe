"""What the user said on purpose: typed on the command line, or written in a chosen config file.

A file that adds to a node from outside the defaults list (``+branch=NAME``), or that speaks of the whole
config (``arm=NAME``), counts as typed: its author wrote down what differs.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from launcher.differences import override
from launcher.errors import ConfigError
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

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``Declared(**values)`` takes."""
        return {
            "keys": dict(self.keys),
            "nodes": dict(self.nodes),
            "values": {key: plain_value(value) for key, value in self.values.items()},
            "overrides": list(self.overrides),
        }

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


def plain_value(value: Any) -> Any:
    """A value of Hydra's grammar as JSON has it; what JSON lacks becomes text."""
    return value if isinstance(value, str | int | float | bool | list | dict) or value is None else str(value)


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
    for one in parser.parse_overrides(list(typed)):
        name = one.key_or_group
        value = one.value()
        if name not in choices:
            keys[name] = "command line"
            values[name] = value
            continue
        nodes[one.package or name] = "command line"
        values[name] = value
        if one.is_add() or name == "branch" or _is_global(name, value, directories):
            for chosen in value if isinstance(value, list) else [value]:
                _from_file(name, str(chosen), directories, keys, nodes, values)
    _refuse_hidden(keys, nodes, values, directories)
    return Declared(keys, nodes, values, typed)


def _refuse_hidden(
    keys: Mapping[str, str], nodes: Mapping[str, str], values: Mapping[str, Any], directories: list[Path]
) -> None:
    """Refuse a node that was typed, but in which the branch's file has the last word on a single key.

    Hydra merges that file after the groups: of ``loss=plain`` the trunk's ``loss.weight`` would remain.
    """
    hidden = {
        key: source
        for key, source in keys.items()
        if source.startswith("branch/")
        and (node := key.partition(".")[0]) != "branch"
        and nodes.get(node) == "command line"
    }
    if not hidden:
        return
    settling, typed = [], {}
    for key in hidden:
        node, _, rest = key.partition(".")
        typed[node] = f"{node}={values[node]}"
        own = flatten(_content(_find(node, str(values[node]), directories)))
        # Hydra deletes no key whose value is null.
        settling.append(override(key, own.get(rest)) if rest in own or values[key] is None else f"~{key}")
    raise ConfigError(
        f"{' '.join(typed.values())} was typed, but {next(iter(hidden.values()))} sets single keys of it.",
        where=", ".join(hidden),
        found=" ".join(override(key, values[key]) for key in hidden),
        expected="each of these keys on the command line as well",
        do=f"for what the option says: {shlex.join(settling)}",
    )


def _from_file(
    group: str,
    name: str,
    directories: list[Path],
    keys: dict[str, str],
    nodes: dict[str, str],
    values: dict[str, Any],
) -> None:
    """Add what the config file of a chosen group option says; the command line wins."""
    path = _find(group, name, directories)
    if path is None:
        return
    text, content = path.read_text(encoding="utf-8"), _content(path)
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


def _is_global(group: str, value: Any, directories: list[Path]) -> bool:
    """Whether an option of a group speaks of the whole config, as a named sibling (``arm=treated``) does."""
    path = _find(group, str(value), directories)
    return path is not None and _package(path.read_text(encoding="utf-8"), group) == ""


def _find(group: str, name: str, directories: list[Path]) -> Path | None:
    paths = [directory / group / f"{name.removesuffix('.yaml')}.yaml" for directory in directories]
    return next((path for path in paths if path.is_file()), None)


def _content(path: Path | None) -> dict[str, Any]:
    """What a config file holds, read as Hydra reads it: ``2e-3`` is a number."""
    content = OmegaConf.to_container(OmegaConf.load(path)) if path is not None else {}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _package(text: str, group: str) -> str:
    """The prefix of a config file's keys, from its ``# @package`` line."""
    for line in text.splitlines():
        words = line.removeprefix("#").split()
        if line.startswith("#") and len(words) == 2 and words[0] == "@package":
            package = words[1].replace("_group_", group.replace("/", "."))
            return "" if package == "_global_" else f"{package}."
    return group.replace("/", ".") + "."
