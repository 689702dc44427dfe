"""A question that was settled before the answer: ``loss=fixed better loss=buggy on val/token_accuracy``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import ConfigError
from launcher.report.compare.selection import Arm
from launcher.report.compare.verdict import Row

_FORM = re.compile(
    r"\s*(?P<arm>\S.*?)\s+(?P<relation>better|worse)\s+(?:than\s+)?(?P<other>\S.*?)\s+on\s+(?P<metric>\S+)\s*"
)


@dataclass(frozen=True)
class Expectation:
    """What is expected, as read."""

    text: str
    arm: str
    relation: str
    other: str
    metric: str


@dataclass(frozen=True)
class Answer:
    """What came of an expectation."""

    expected: str
    holds: bool
    why: str
    """What was found instead; empty where it holds."""
    row: Row
    """The one arm held against the other."""


def read_expectation(text: str) -> Expectation:
    """An expectation in words.

    Raises:
        ConfigError: it has another form.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(
            "That is no expectation.",
            where="--expect",
            found=text,
            expected="ARM better|worse ARM on METRIC",
            do='--expect "loss=fixed better loss=buggy on val/token_accuracy"',
        )
    return Expectation(text, **match.groupdict())


def arm_called(name: str, arms: Sequence[Arm]) -> Arm:
    """The one arm that a name, a run's id or settings (``loss=fixed,optimizer.lr=0.001``) mean.

    Raises:
        ConfigError: none, or several.
    """
    exact = [arm for arm in arms if name == arm.name or any(run.id == name for run in arm.runs.values())]
    found = exact or [arm for arm in arms if _has(arm, name)]
    if not found and name == "control":
        found = [arm for arm in arms if arm.is_control]
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"{name!r} is {'several of' if found else 'none of'} the arms that are compared.",
        where="--expect",
        found=", ".join(arm.name for arm in found or arms),
        expected="one arm: its name, a run's id, or what was typed for it, such as loss=fixed",
    )


def answer(expectation: Expectation, row: Row, missing: Sequence[str]) -> Answer:
    """Whether a verdict is the expected one. One stream is not enough to say so."""
    why = ""
    if missing:
        why = f"the set is incomplete: {missing[0]}"
    elif row.verdict != expectation.relation:
        why = row.verdict + (f" ({row.note})" if row.note else "")
    elif row.weaker:
        why = f"{row.verdict}, but in one stream only: fanout.repeats=3"
    return Answer(expectation.text, not why, why, row)


def _has(arm: Arm, settings: str) -> bool:
    """Whether each of the settings was typed for the arm, or is one of its factors."""
    record = arm.first.record
    known = {**{key: pair[1] for key, pair in arm.factors.items()}, **record.declared}
    for one in settings.split(","):
        key, equals, value = one.partition("=")
        if not equals or key not in known or not _equal(known[key], value):
            return False
    return True


def _equal(value: object, text: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower() == text.lower() if isinstance(value, bool) else str(value) == text
    try:
        return float(text) == value
    except ValueError:
        return False
