"""Arms: runs that differ in their stream only, and what a person calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher.lineage import Run
from launcher.trackers.metrics_window import BRANCH_STEPS, Numbering


@dataclass
class Arm:
    """Runs that differ in their stream only."""

    name: str
    key: str
    runs: dict[int, Run] = field(default_factory=dict)
    """By stream."""
    numbering: Numbering = BRANCH_STEPS

    @property
    def first(self) -> Run:
        """The run of the lowest stream."""
        return self.runs[min(self.runs)]

    @property
    def is_control(self) -> bool:
        """Whether nothing was changed in it."""
        return self.first.record.branch_type in {"control", "stream"}

    @property
    def is_unchanged(self) -> bool:
        """Whether it has no factor; one that takes over less than all of its trunk is no control for that."""
        return self.first.record.kind == "branch" and not self.factors

    @property
    def factors(self) -> dict[str, list[Any]]:
        """What was changed: dotted key to [the trunk's value, the own value]."""
        first = self.first.record
        drawn = {"seed"} if first.stream else set()
        return {key: pair for key, pair in first.differences.items() if key not in drawn}

    @property
    def directions(self) -> Mapping[str, str]:
        """Which way metrics are better, as the task said."""
        return self.first.record.directions


def arms_of(runs: Iterable[Run], notes: list[str]) -> list[Arm]:
    """The arms that runs are in, each with a name of its own; ``notes`` is told of runs that are left out."""
    arms: dict[str, Arm] = {}
    for run in runs:
        arm = arms.setdefault(_key(run), Arm(_plain_name(run), _key(run)))
        best, *again = sorted([run, *_there(arm, run)], key=_rank, reverse=True)
        notes += [f"{other.id} is {best.id} once more, and is left out." for other in again]
        arm.runs[run.record.stream] = best
    name_apart(list(arms.values()))
    return list(arms.values())


def _there(arm: Arm, run: Run) -> list[Run]:
    return [other for stream, other in arm.runs.items() if stream == run.record.stream]


def _rank(run: Run) -> tuple[bool, int, int]:
    return run.record.state == "finished", run.record.step, -len(run.id)


def _key(run: Run) -> str:
    return run.record.arm or run.record.signature


def _plain_name(run: Run) -> str:
    """The job type without its stream."""
    suffix = f"-stream-{run.record.stream}"
    return run.record.job_type.removesuffix(suffix) if run.record.stream else run.record.job_type


def name_apart(arms: Sequence[Arm]) -> None:
    """Give arms of one name a part of what they are signed with."""
    names = [arm.name for arm in arms]
    for arm in arms:
        if names.count(arm.name) > 1:
            arm.name = f"{arm.name}-{arm.key[:8]}"


def arm_of(run: Run, arms: Sequence[Arm]) -> Arm:
    """The arm that ``run`` is in, or one of its own."""
    for arm in arms:
        if any(one.id == run.id for one in arm.runs.values()):
            return arm
    return Arm(_plain_name(run), _key(run), {run.record.stream: run})


def arms_called(name: str, arms: Sequence[Arm]) -> list[Arm]:
    """The arms that a name, a run's id or settings (``loss=fixed,optimizer.lr=0.001``) mean."""
    exact = [arm for arm in arms if name == arm.name or any(run.id == name for run in arm.runs.values())]
    found = exact or [arm for arm in arms if _has(arm, name)]
    return [arm for arm in arms if arm.is_control] if not found and name == "control" else found


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
