"""What a report tells beside curves and verdicts: factors, findings, commands, versions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.differences import override
from launcher.files import flatten
from launcher.findings import Finding
from launcher.lineage import Run
from launcher.report.compare.comparison import Comparison

MOST_RUNS_NAMED = 4


@dataclass(frozen=True)
class Factors:
    """Only what differs between arms."""

    keys: list[str]
    rows: list[tuple[str, list[str], list[bool]]]
    """Arm, its value of each key, and whether that differs from the trunk's."""


@dataclass(frozen=True)
class Found:
    """A finding, and the runs that it is about."""

    finding: Finding
    runs: str


def factors(comparison: Comparison | None, runs: Sequence[Run]) -> Factors:
    """The settings in which the arms differ, on purpose; the trunk's own values first.

    A factor that was chosen by a name of its own (``loss=fixed``) stands before the settings that it changes.
    """
    if comparison is not None:
        return _with_levels(comparison, _settings({arm.name: arm.factors for arm in comparison.arms}))
    return _settings({run.record.job_type: run.record.differences for run in runs})


def _with_levels(comparison: Comparison, found: Factors) -> Factors:
    named = [factor for factor in comparison.factors if factor.keys != [factor.name]]
    levels: dict[str, list[str]] = {"trunk": ["" for _ in named]}
    moved: dict[str, list[bool]] = {"trunk": [False for _ in named]}
    for arm in comparison.arms:
        levels[arm.name] = [factor.by_run().get(arm.runs[min(arm.runs)], "") for factor in named]
        moved[arm.name] = [not arm.factors.keys().isdisjoint(factor.keys) for factor in named]
        for index in (index for index, changed in enumerate(moved[arm.name]) if not changed):
            levels["trunk"][index] = levels[arm.name][index]  # Who changed nothing has what the trunk has.
    rows = [
        (name, [*levels[name], *values], [*moved[name], *changed]) for name, values, changed in found.rows
    ]
    return Factors([*(factor.name for factor in named), *found.keys], rows)


def _settings(told: Mapping[str, Mapping[str, Sequence[Any]]]) -> Factors:
    trunk: dict[str, Any] = {}
    for pairs in told.values():
        for key, pair in pairs.items():
            trunk.setdefault(key, pair[0])
    rows = [("trunk", [spelled(trunk[key]) for key in trunk], [False] * len(trunk))]
    for name, pairs in told.items():
        values = [spelled(pairs[key][1]) if key in pairs else spelled(trunk[key]) for key in trunk]
        rows.append((name, values, [key in pairs for key in trunk]))
    return Factors(list(trunk), rows if trunk else [])


def findings(comparison: Comparison | None, runs: Iterable[Run]) -> list[Found]:
    """What the checks and the ledger had to say, each thing once, the gravest first."""
    together: dict[Finding, list[str]] = {}
    for one in comparison.findings if comparison is not None else []:
        together[one] = ["between siblings"]
    for run in runs:
        for told in run.record.findings:
            together.setdefault(Finding(**told), []).append(run.id)  # type: ignore[arg-type]
    grave = ("error", "warning", "note")
    ordered = sorted(together.items(), key=lambda pair: grave.index(pair[0].level))
    return [Found(finding, _named(ids)) for finding, ids in ordered]


def command(run: Run) -> str:
    """What was typed for this one run, in the project's directory; typed again it is the same run."""
    allowed = [override("fanout.allow", run.record.allowed)] if run.record.allowed else []
    return shlex.join(["python", "train.py", *run.record.overrides, *allowed])


def versions(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The environment of all runs; where they differ, each value with its runs."""
    told: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for key, value in flatten(run.record.environment).items():
            told.setdefault(key, {}).setdefault(spelled(value), []).append(run.id)
    return [(key, _one_or_each(values)) for key, values in told.items()]


def _one_or_each(values: Mapping[str, Sequence[str]]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value}: {_named(ids)}" for value, ids in values.items())


def spelled(value: Any) -> str:
    """A setting as a config file has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _named(ids: Sequence[str]) -> str:
    more = len(ids) - MOST_RUNS_NAMED
    return ", ".join(ids[:MOST_RUNS_NAMED]) + (f" and {more} more" if more > 0 else "")
