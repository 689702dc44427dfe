"""Pinning: a config file from which one word branches, from exactly this checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from launcher.branch.command import NODES, own_settings
from launcher.branch.resolve import BranchPoint, resolve
from launcher.config import BranchConfig
from launcher.errors import ConfigError
from launcher.files import disk_error, write_text
from launcher.layout import pin_of

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


def pin(reference: str, name: str, outputs: Path, conf: Path) -> Path:
    """Write ``conf/branch/NAME.yaml`` for ``RUN@STEP`` and mark the checkpoint, so that it stays.

    The file holds the trunk's own overrides, so that a branch from it differs in nothing unless it is
    told to, and the content digest, so that no other checkpoint can take its place.

    Raises:
        ConfigError: the reference or the name is not valid, or the file is there already.
        BranchPointUnavailable: there is no such checkpoint.
    """
    run_name, _, step = reference.rpartition("@")
    if not run_name or not step.isdecimal():
        raise ConfigError(
            "That names no checkpoint.", found=reference, expected="RUN@STEP, as in trunk-1a2b3c4d@15000"
        )
    if not _NAME.match(name):
        raise ConfigError(
            "That is no name for a config file.", found=name, expected="letters, digits, '.', '_', '-'"
        )
    point = resolve(BranchConfig(from_run=run_name, from_step=int(step)), outputs)
    path = conf / "branch" / f"{name}.yaml"
    if not conf.is_dir():
        raise ConfigError("There is no directory of config files.", where=str(conf), do="give --conf DIR")
    text = _text(reference, name, point.run_id, int(step), point.manifest.sha256, _own(point), _groups(point))
    try:
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"The branch {name} is there already.",
                where=str(path),
                do="choose another name, or remove it",
            )
        path.parent.mkdir(exist_ok=True)
        write_text(pin_of(point.checkpoint), f"{name}\n")
        write_text(path, text)
    except OSError as error:
        raise disk_error(error, Path(error.filename or os.fspath(path))) from error
    return path


def _own(point: BranchPoint) -> dict[str, Any]:
    """What the trunk's user said; a group of the user's own (``+arm=NAME``) as the keys that it sets."""
    run, known = point.run, point.manifest.about.config
    said = own_settings(run.record.declared) if run is not None else {}
    return {key: value for key, value in said.items() if key.partition(".")[0] in known}


def _groups(point: BranchPoint) -> set[str]:
    """The config groups of a script's own, of which an option was chosen by name."""
    config, said = point.manifest.about.config, point.run.record.declared if point.run is not None else {}
    return {
        key for key, value in said.items() if isinstance(value, str) and isinstance(config.get(key), dict)
    }


def _text(
    reference: str, name: str, run: str, step: int, sha256: str, own: dict[str, Any], groups: set[str]
) -> str:
    chosen = {key: value for key, value in own.items() if key in NODES or key in groups}
    values = {key: value for key, value in own.items() if key not in chosen}
    content: dict[str, Any] = {}
    if chosen:
        content["defaults"] = [{f"override /{group}": option} for group, option in chosen.items()]
    for key, value in values.items():
        _put(content, key.split("."), value)
    content["branch"] = {"from_run": run, "from_step": step, "sha256": sha256}
    head = f"# @package _global_\n# Written by: launcher pin {reference} {name}\n"
    return head + yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def _put(content: dict[str, Any], parts: list[str], value: Any) -> None:
    *above, last = parts
    for part in above:
        content = content.setdefault(part, {})
    content[last] = value
