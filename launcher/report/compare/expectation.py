"""A question that was settled before the answer: ``loss=fixed better loss=buggy on val/token_accuracy``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import ConfigError
from launcher.report.compare.arms import Arm, arms_called
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


def arms_meant(expectation: Expectation, arms: Sequence[Arm]) -> tuple[Arm, Arm]:
    """The two arms that an expectation speaks of.

    Raises:
        ConfigError: a name means none of them, or several, or both names mean the same one.
    """
    one, other = (_arm(name, arms) for name in (expectation.arm, expectation.other))
    if one is other:
        raise ConfigError(
            "An arm is neither better nor worse than itself.",
            where="--expect",
            found=expectation.text,
            expected=f"two of the arms: {', '.join(arm.name for arm in arms)}",
        )
    return one, other


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


def _arm(name: str, arms: Sequence[Arm]) -> Arm:
    found = arms_called(name, arms)
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"{name!r} is {'several of' if found else 'none of'} the arms that are compared.",
        where="--expect",
        found=", ".join(arm.name for arm in found or arms),
        expected="one arm: its name, a run's id, or what was typed for it, such as loss=fixed",
    )
