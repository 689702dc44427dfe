"""What ``fanout`` may say where one run is launched, and not siblings."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.branch.command import command
from launcher.errors import ConfigError

_ADDING = ("control", "complete", "repeats", "zip", "canary")
"""Keys that ask for siblings, or for an order among them. Only ``-m`` launches any."""


def refuse_alone(typed: Sequence[str]) -> None:
    """Refuse a single run for which siblings were asked for: they would silently not be there.

    Args:
        typed: the command line's overrides.

    Raises:
        ConfigError: says with which command they are.
    """
    named = {text.partition("=")[0].lstrip("+"): text for text in typed}
    asked = [named[key] for key in (f"fanout.{one}" for one in _ADDING) if key in named]
    asked = [text for text in asked if text.partition("=")[2].lower() not in ("false", "1", "[]", "null")]
    if asked:
        raise ConfigError(
            "Siblings were asked for, and this command launches one run.",
            found=" ".join(asked),
            expected="-m, with which siblings are launched, also where nothing is swept",
            do=command(typed).replace("train.py", "train.py -m", 1),
        )
