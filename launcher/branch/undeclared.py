"""Differences between a branch and its trunk that nobody asked for: refused, with what settles them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from launcher.branch.command import own_settings
from launcher.branch.declared import Declared
from launcher.branch.resolve import BranchPoint
from launcher.config import Config
from launcher.differences import override, plain
from launcher.errors import UndeclaredDifference
from launcher.files import flatten


def refuse_undeclared(
    changed: Mapping[str, tuple[Any, Any]], config: Config, declared: Declared, point: BranchPoint
) -> None:
    """Stop a branch that differs from its trunk in something that nobody said.

    Raises:
        UndeclaredDifference: names each key, both values, and the overrides that settle it.
    """
    undeclared = {key: values for key, values in changed.items() if declared.unit_of(key) is None}
    if not undeclared:
        return
    settle = _as_the_trunk(undeclared, config, declared, point)
    here = flatten(plain(config))
    # What this run has not at all cannot be typed: it comes with the option that its node has here.
    own = [override(key, mine) for key, (_, mine) in undeclared.items() if key in here]
    error = UndeclaredDifference(
        f"The branch differs from its trunk {point.run_id} in something that was not typed.",
        where=", ".join(undeclared),
        found="; ".join(
            f"{key}: trunk {shown(theirs)}, here {shown(mine)}" for key, (theirs, mine) in undeclared.items()
        ),
        expected="the trunk's settings, apart from what the command line or the branch's file says",
        do=[
            f"as the trunk: {shlex.join(settle)}",
            f"or on purpose: {shlex.join(own)}",
            "or have all of it written down once: "
            + (
                "in conf/branch/NAME.yaml, then +branch=NAME"
                if point.foreign
                else f"launcher pin {point.run_id}@{point.manifest.step} NAME, then +branch=NAME"
            ),
        ],
    )
    error.settle = tuple(settle)
    raise error


def _as_the_trunk(
    undeclared: Iterable[str], config: Config, declared: Declared, point: BranchPoint
) -> list[str]:
    """The overrides that make these keys what the trunk has."""
    said = own_settings(point.run.record.declared) if point.run else {}
    theirs, own = flatten(point.manifest.about.config), flatten(plain(config))
    overrides: dict[str, None] = {}
    for key in undeclared:
        node = key.partition(".")[0]
        if node in said:
            # The option, and what was typed on top of it.
            for one, value in said.items():
                if one.partition(".")[0] == node and one not in declared.keys:
                    overrides[("" if one == node or one in own else "++") + override(one, value)] = None
        elif key not in theirs:
            overrides[f"~{key}"] = None
        else:
            overrides[("" if key in own else "++") + override(key, theirs[key])] = None
    return list(overrides)


def shown(value: Any) -> str:
    """A value, or the lack of one, as messages and names have it."""
    return "absent" if value is None else str(value)
