"""Which runs are compared: arms, each with its runs by stream, and the one that the others are held to."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import ConfigError, LauncherError, UnknownRun
from launcher.files import read_json_object
from launcher.layout import SCRATCH, TRUNKS
from launcher.lineage import Run, State, find_run, read_run, state_now
from launcher.report.compare.arms import Arm, arm_of, arms_called, arms_of, name_apart
from launcher.trackers.metrics_window import Numbering

MOST_GROUPS = 12
"""Groups that an error names."""


@dataclass
class Selection:
    """What is compared with what."""

    baseline: Arm
    arms: list[Arm]
    """The others."""
    states: dict[str, State]
    """Run id to state, of all."""
    group: str | None
    missing: list[str] = field(default_factory=list)
    """What keeps the set from being complete, before a metric is read."""
    notes: list[str] = field(default_factory=list)

    @property
    def all_arms(self) -> list[Arm]:
        """The baseline and the others."""
        return [self.baseline, *self.arms]


def select(outputs: Path, names: Sequence[str], baseline: str | None) -> Selection:
    """Find the runs that are meant.

    Args:
        outputs: directory of all runs.
        names: groups and runs; none: the one group that there is.
        baseline: arm or run that others are compared with; None: the control, else what the runs name.

    Raises:
        LauncherError: a name means nothing, there is no baseline, or nothing to hold to it.
    """
    runs, group, missing = _named(outputs, names or [only_group(outputs, "compare")])
    pruned = [run.id for run in runs if run.record.state == "pruned"]
    notes = [f"Pruned by their search, and left out: {', '.join(pruned)}."] if pruned else []
    arms = arms_of([run for run in runs if run.id not in pruned], notes)
    chosen = _baseline(outputs, arms, baseline, notes)
    others = [arm for arm in arms if arm.key != chosen.key]
    if not others:
        raise ConfigError(
            "There is nothing to compare.",
            where=str(outputs),
            found=f"{chosen.name} alone",
            expected="a baseline and at least one other",
            do="launch siblings: python train.py -m branch.from_step=N loss=A,B fanout.control=true",
        )
    name_apart([chosen, *others])
    _count_from_the_branch_point([chosen, *others])
    states = {run.id: state_now(run) for arm in (chosen, *others) for run in arm.runs.values()}
    for arm in (chosen, *others):
        for run in arm.runs.values():
            if states[run.id] == "failed":
                missing.append(f"{run.id} failed: {run.record.error or 'no reason on record'}")
    points = {run.record.parent.sha256 for arm in others for run in arm.runs.values() if run.record.parent}
    if len(points) > 1:
        notes.append(f"These are no siblings: they started from {len(points)} different branch points.")
    return Selection(chosen, others, states, group, missing, notes)


def named_runs(outputs: Path, names: Sequence[str]) -> list[Run]:
    """The runs that groups and runs by name are; none named: those of the one group that there is.

    Raises:
        LauncherError: a name means nothing.
    """
    return _named(outputs, names or [only_group(outputs, "ledger")])[0]


def only_group(outputs: Path, verb: str) -> str:
    """The name of the one group that there is; ``verb`` is what an error proposes to type.

    Raises:
        ConfigError: there is none, or there are several.
    """
    groups = sorted({path.parent.parent.name for path in outputs.glob("*/*/run.json")} - {TRUNKS, SCRATCH})
    if len(groups) == 1:
        return groups[0]
    raise ConfigError(
        "Which group?" if groups else "There is no group of siblings.",
        where=str(outputs),
        found=", ".join(groups) or "no branch",
        do=f"launcher {verb} {groups[0]}" if groups else "launch some: python train.py -m branch.from_step=N",
    )


def _named(outputs: Path, names: Sequence[str]) -> tuple[list[Run], str | None, list[str]]:
    """The runs, the group if there is one name and it is a group's, and what is not there."""
    runs: dict[Path, Run] = {}
    missing: list[str] = []
    groups = [name for name in names if is_group(outputs, name)]
    for name in names:
        if name in groups:
            found, gone = _group(outputs / name)
            missing += gone
        else:
            try:
                found = [find_run(outputs, name)]
            except UnknownRun as error:
                raise means_nothing(outputs, name, error) from error
        runs.update({run.directory.path: run for run in found})
    return list(runs.values()), groups[0] if groups and len(names) == 1 else None, missing


def nearest_groups(outputs: Path, name: str) -> list[str]:
    """Every directory of runs, those first whose names are most like ``name``."""
    groups = sorted({path.parent.parent.name for path in outputs.glob("*/*/run.json")})
    return difflib.get_close_matches(name, groups, n=len(groups) or 1, cutoff=0)


def means_nothing(outputs: Path, name: str, error: UnknownRun) -> UnknownRun:
    """The error of a name that is no group's and no one run's; ``error`` says what it is among the runs."""
    groups = nearest_groups(outputs, name)
    more = f", and {len(groups) - MOST_GROUPS} more" if len(groups) > MOST_GROUPS else ""
    return UnknownRun(
        error.what.replace("There is no run", "There is no group and no run"),
        where=error.where,
        found=f"groups: {', '.join(groups[:MOST_GROUPS]) or 'none'}{more}; runs: {error.found}",
        do=error.do,
    )


def is_group(outputs: Path, name: str) -> bool:
    """Whether ``name`` is a directory of runs."""
    if not name or Path(name).name != name or name in {".", ".."}:
        return False
    with contextlib.suppress(OSError, ValueError):
        return any((outputs / name).glob("*/run.json"))
    return False


def _group(directory: Path) -> tuple[list[Run], list[str]]:
    """A group's runs, and those of its siblings that were launched and cannot be read."""
    runs: list[Run] = []
    missing: list[str] = []
    for record in sorted(directory.glob("*/run.json")):
        try:
            runs.append(read_run(record.parent))
        except LauncherError as problem:
            missing.append(f"{record.parent.name} cannot be read: {problem.found}")
    there = {path.parent.name for path in directory.glob("*/run.json")}
    launched: dict[str, None] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for fanout in read_json_object(directory / "fanout.json")["fanouts"]:
            launched.update({str(one["run"]): None for one in fanout["siblings"] if one["launched"]})
    missing += [f"{name} was launched and is not there" for name in launched if name not in there]
    return runs, missing


def _baseline(outputs: Path, arms: Sequence[Arm], named: str | None, notes: list[str]) -> Arm:
    if named is not None:
        return _named_baseline(outputs, arms, named)
    controls = [arm for arm in arms if arm.is_control]
    if controls:
        best = max(controls, key=lambda arm: (len(arm.runs), arm.first.record.step))
        if len(controls) > 1:
            others = ", ".join(arm.first.id for arm in controls if arm is not best)
            notes.append(f"Several controls: {best.first.id} is the baseline, not {others}.")
        return best
    told = {arm.first.record.compare_to for arm in arms} - {None}
    own = {run.id for arm in arms for run in arm.runs.values()}
    # A run that is compared with one outside the set says nothing where others name one inside.
    inside = told & own
    candidates = sorted(str(one) for one in (inside or told))
    unchanged = [arm for arm in arms if arm.is_unchanged]
    if not candidates and len(unchanged) == 1:
        notes.append(
            f"There is no control; the baseline is {unchanged[0].name}, in which nothing was changed."
        )
        return unchanged[0]
    if len(candidates) != 1:
        raise ConfigError(
            "It is not clear what to compare with.",
            found=f"no control; the runs name {', '.join(candidates) or 'nothing'}",
            expected="one baseline",
            do="--baseline ARM or --baseline RUN, or launch a control: fanout.control=true",
        )
    notes.append(f"There is no control; the baseline is {candidates[0]} (fanout.control=true launches one).")
    return arm_of(find_run(outputs, candidates[0]), arms)


def _named_baseline(outputs: Path, arms: Sequence[Arm], named: str) -> Arm:
    """The arm that is called so, else that of the run which is: the run may lie outside of what is compared.

    Raises:
        UnknownRun: neither is.
    """
    called = arms_called(named, arms)
    if len(called) == 1:
        return called[0]
    try:
        return arm_of(find_run(outputs, named), arms)
    except UnknownRun as error:
        raise UnknownRun(
            error.what.replace("There is no run", "There is no run and no arm"),
            where=f"--baseline, in {error.where}",
            found=f"arms: {', '.join(arm.name for arm in called or arms)}; runs: {error.found}",
            do=error.do,
        ) from error


def _count_from_the_branch_point(arms: Sequence[Arm]) -> None:
    """Of the run that all others branched from, count the steps after that."""
    told = {one.first.record.parent.run for one in arms if one.first.record.parent is not None}
    for arm in (one for one in arms if one.first.id in told):
        parents = [one.first.record.parent for one in arms if one is not arm]
        points = {(parent.run, parent.step) if parent else None for parent in parents}
        if len(points) == 1 and (point := points.pop()) is not None and point[0] == arm.first.id:
            arm.numbering = Numbering("global_step", point[1])
