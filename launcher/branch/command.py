"""Commands as messages print them: what is shown can be typed and does what it says."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from launcher.differences import override

NODES = frozenset({"task", "model", "data", "loss", "curriculum", "optimizer", "scheduler"})
"""Config groups whose options decide what is computed."""
_OF_ONE_RUN = frozenset({"branch", "paths", "tracker", "tracking", "checkpoint", "hydra"})
"""Where a run started and what it leaves behind: nothing that another run has to say as well."""


def command(overrides: Iterable[str], *more: str) -> str:
    """The command with these overrides; ``more`` takes the place of what they say of the same keys."""
    replaced = {_key(one) for one in more}
    kept = [one for one in overrides if _key(one) not in replaced]
    return shlex.join(["python", "train.py", *kept, *more])


def own_settings(declared: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's user said of what is computed: neither where it branched nor how far it goes.

    Args:
        declared: everything that was said, by dotted key or config group; see ``RunRecord.declared``.
    """
    return {
        key: value
        for key, value in declared.items()
        if key != "training.steps" and key.partition(".")[0] not in _OF_ONE_RUN
    }


def said_again(overrides: Iterable[str], declared: Mapping[str, Any]) -> list[str]:
    """The overrides that say :func:`own_settings` again: as they were typed, or as a file has them."""
    typed = {_key(one): one for one in overrides}
    return [
        typed.get(key) or (override(key, value) if key in NODES else f"++{override(key, value)}")
        for key, value in own_settings(declared).items()
    ]


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")
