"""In what two configs differ, and the signature that two equal runs share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Any

from launcher.config import OWN_LOOP, Config
from launcher.files import canonical_json, flatten

NOT_COMPARED: tuple[str, ...] = (
    "paths.*",
    "fanout.*",
    "launch.snapshot",
    "tracker",
    "tracker.*",
    "tracking.*",
    "checkpoint.*",
    "training.log_every",
    "training.validate_every",
    "*.label",
    "*.facts",
    "*.facts.*",
)
"""Keys that cannot change what a run computes. They are in no signature and are never a difference."""

ADDED_LATER: Mapping[str, Any] = {"launch.nproc": 1, "launch.shard": False, "task.main": None}
"""Keys that older records lack, with the value that they had in effect. At that value they are in no
signature, so that a run keeps its id when the launcher is upgraded."""

BRANCH_ADDED_LATER: Mapping[str, Any] = {"require": "exact", "allow_globals": []}
"""Keys of ``branch`` that were not there from the start; at these values they are in no request."""

BRANCH_IDENTITY: tuple[str, ...] = (
    "restore",
    "reset",
    "include",
    "exclude",
    "rename",
    "step_mode",
    "schedule",
)
"""Keys of ``branch`` that change what a branch computes. Where the branch point is named by the rest,
its content digest stands in the signature instead: a checkpoint that moved is the same branch point."""


def plain(config: Config) -> dict[str, Any]:
    """A config as nested plain values, as it is recorded; a script's own keys stand beside the launcher's."""
    values = asdict(config)
    own: dict[str, Any] = values.pop("own")
    return {**values, **own}


def compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flat part of a plain config that decides what is computed, without ``branch``."""
    flat = flatten(config)
    return {
        key: value
        for key, value in flat.items()
        if key.partition(".")[0] != "branch"
        and not any(fnmatchcase(key, p) for p in NOT_COMPARED)
        and not (key in ADDED_LATER and value == ADDED_LATER[key])
        # Who calls the launcher's own loop changes nothing in it.
        and not (key == "task.main" and flat.get("task._target_") != OWN_LOOP)
    }


def differences(trunk: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two plain configs differ: (the trunk's value, the own value).

    A key that one of them lacks has the value None there, or the one that it had in effect.
    ``training.steps`` is left out: how far a run goes is said by ``branch.steps`` and the trunk's end.
    """
    left, right = compared(trunk), compared(own)
    return {
        key: (left.get(key, ADDED_LATER.get(key)), right.get(key, ADDED_LATER.get(key)))
        for key in sorted(left.keys() | right.keys())
        if key != "training.steps" and _spelling(left.get(key)) != _spelling(right.get(key))
    }


def _spelling(value: Any) -> bytes:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return canonical_json(value)


def signature(config: Config, end_step: int, point_sha256: str | None, group: str | None = None) -> str:
    """Eight hex digits that two runs share exactly if they compute the same.

    A branch's ``group`` belongs to it: the same branch in two groups is two runs, with two ids.
    """
    branch = asdict(config.branch)
    identity: dict[str, Any] = {"config": {**compared(plain(config)), "training.steps": end_step}}
    if point_sha256 is not None:
        identity["branch"] = {key: branch[key] for key in BRANCH_IDENTITY}
        identity["point"] = point_sha256
        identity["group"] = group
    return hashlib.sha256(canonical_json(identity)).hexdigest()[:8]


def request_digest(config: Config) -> str:
    """Identifies what was asked for, by the words it was asked in: the branch point's name, not its digest.

    A run that was interrupted is found by it even when its branch point can no longer be had.
    """
    branch = {
        key: value
        for key, value in asdict(config.branch).items()
        if key not in BRANCH_ADDED_LATER or value != BRANCH_ADDED_LATER[key]
    }
    asked = {"config": compared(plain(config)), "branch": branch}
    return hashlib.sha256(canonical_json(asked)).hexdigest()


_WORD = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@+-]*")
"""Text that needs no quotes."""
_NO_TEXT = frozenset({"null", "true", "false", "nan", "inf"})


def override(key: str, value: Any) -> str:
    """``key=value`` as it is typed, quoted for Hydra's grammar where that is needed."""
    return f"{key}={_hydra_value(value)}"


def _hydra_value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(_hydra_value(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_hydra_value(one)}" for key, one in value.items()) + "}"
    text = str(value)
    if _WORD.fullmatch(text) and text.lower() not in _NO_TEXT:
        return text
    # Hydra takes a backslash as it is, unless a quote follows.
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"
