"""What a run is, before it starts: trunk, branch or scratch; what it is called and where it lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.branch.declared import Declared
from launcher.branch.resolve import BranchPoint, resolve
from launcher.branch.undeclared import refuse_undeclared, shown
from launcher.checkpoint.store import checkpoints
from launcher.config import Config
from launcher.differences import differences, plain, request_digest, signature
from launcher.errors import BranchPointUnavailable, ConfigError
from launcher.layout import SCRATCH, TRUNKS, RunDirectory, legal_name, run_id
from launcher.lineage import Run, read_runs
from launcher.training.progress import Progress


@dataclass(frozen=True)
class Plan:
    """A run, before anything is built."""

    kind: str
    """``trunk``, ``branch`` or ``scratch``."""
    config: Config
    declared: Declared
    point: BranchPoint | None
    start: Progress
    """Where the counts stand before the first step."""
    end_step: int
    """Last step, in the run's own numbering."""
    horizon_steps: int
    """Steps over which the learning-rate schedule runs."""
    schedule_start: int
    """Steps of the schedule that are already behind the first step."""
    group: str
    """Name of the directory that the run's directory lies in; of a branch, the siblings' group."""
    group_source: str
    """Where the group's name came from."""
    tracker_group: str | None
    """The group as trackers are told it; None for a run that belongs to no group."""
    id: str
    job_type: str
    branch_type: str | None
    labels: tuple[str, ...]
    """Labels of the factors; tags for the trackers."""
    signature: str
    request: str
    directory: RunDirectory
    differences: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Factors: dotted key → (the trunk's value, the own value)."""
    unavailable: str | None = None
    """Why a scratch run, or a branch that goes on from its own checkpoint, has no branch point."""

    @property
    def steps(self) -> int:
        """How many steps the run takes."""
        return self.end_step - self.start.step


def plan(config: Config, declared: Declared, environment: Mapping[str, str] = os.environ) -> Plan:
    """Find out what the run is.

    Raises:
        BranchPointUnavailable: the branch point cannot be had, and nothing was said for that case.
        UndeclaredDifference: the branch differs from its trunk in something that nobody said.
        ConfigError: the length of the run makes no sense.
    """
    if not config.branch.asked:
        return _from_nothing("trunk", config, declared, None, environment)
    try:
        point = resolve(config.branch, Path(config.paths.outputs), declared.overrides)
    except BranchPointUnavailable as error:
        if (own := _own_run(config)) is not None:
            return _from_record(own, config, declared, str(error))
        if config.branch.on_unavailable == "error":
            error.do = (*error.do, "or train from scratch on purpose: branch.on_unavailable=scratch")
            raise
        return _from_nothing("scratch", config, declared, str(error), environment)
    return _from_point(config, declared, point, environment)


def _from_nothing(
    kind: str,
    config: Config,
    declared: Declared,
    unavailable: str | None,
    environment: Mapping[str, str],
) -> Plan:
    end = config.training.steps
    if config.branch.steps is not None:
        end = config.branch.steps
    mark = signature(config, end, None)
    labels = _labels(_typed_leaves(declared, config), config, declared) if kind == "scratch" else ()
    job_type = "-".join((kind, *labels))
    group = TRUNKS if kind == "trunk" else SCRATCH
    name = run_id(job_type, mark)
    return Plan(
        kind=kind,
        config=config,
        declared=declared,
        point=None,
        start=Progress(),
        end_step=end,
        horizon_steps=end,
        schedule_start=0,
        group=group,
        group_source=kind,
        tracker_group=_named_group(config, environment)[0],
        id=name,
        job_type=job_type,
        branch_type=None,
        labels=labels,
        signature=mark,
        request=request_digest(config),
        directory=RunDirectory(Path(config.paths.outputs) / group / name),
        unavailable=unavailable,
    )


def _typed_leaves(declared: Declared, config: Config) -> dict[str, tuple[Any, Any]]:
    compared = differences({}, plain(config))
    return {key: value for key, value in compared.items() if declared.unit_of(key) is not None}


def _from_point(
    config: Config, declared: Declared, point: BranchPoint, environment: Mapping[str, str]
) -> Plan:
    changed = differences(point.manifest.about.config, plain(config))
    refuse_undeclared(changed, config, declared, point)
    start = starting_progress(config, point)
    end, horizon, schedule_start = _length(config, declared, point, start)
    named, source = _named_group(config, environment)
    group, source = (point.group, "checkpoint") if named is None else (named, source)
    _refuse_reserved(group, source)
    labels = _labels(changed, config, declared) + _branch_labels(config)
    job_type = "-".join(labels) or "control"
    mark = signature(config, end, point.manifest.sha256, group)
    directory = _directory(Path(config.paths.outputs) / legal_name(group), run_id(job_type, mark), mark)
    return Plan(
        kind="branch",
        config=config,
        declared=declared,
        point=point,
        start=start,
        end_step=end,
        horizon_steps=horizon,
        schedule_start=schedule_start,
        group=group,
        group_source=source,
        tracker_group=group,
        id=directory.path.name,
        job_type=job_type,
        branch_type=_branch_type(config, bool(labels)),
        labels=labels or ("control",),
        signature=mark,
        request=request_digest(config),
        directory=directory,
        differences=changed,
    )


def _own_run(config: Config) -> Run | None:
    """The branch that was started by the same words and has a checkpoint of its own to go on from."""
    asked = request_digest(config)
    runs, _ = read_runs(Path(config.paths.outputs))
    return next(
        (
            run
            for run in runs
            if run.record.kind == "branch"
            and run.record.request == asked
            and (run.record.state == "finished" or checkpoints(run.directory.checkpoints))
        ),
        None,
    )


def _from_record(run: Run, config: Config, declared: Declared, unavailable: str) -> Plan:
    """The plan of a branch whose branch point is gone but which no longer needs it."""
    record = run.record
    return Plan(
        kind=record.kind,
        config=config,
        declared=declared,
        point=None,
        start=Progress(step=record.start_step),
        end_step=record.end_step,
        horizon_steps=record.horizon_steps,
        schedule_start=0,
        group=record.group,
        group_source=record.group_source,
        tracker_group=record.group,
        id=record.id,
        job_type=record.job_type,
        branch_type=record.branch_type,
        labels=tuple(record.tags),
        signature=record.signature,
        request=record.request,
        directory=run.directory,
        differences={key: (one[0], one[1]) for key, one in record.differences.items()},
        unavailable=unavailable,
    )


def _branch_type(config: Config, changed: bool) -> str:
    if config.branch.restore == "weights":
        return "weights"
    return "factor" if changed else "control"


def starting_progress(config: Config, point: BranchPoint) -> Progress:
    """Where a branch's counts stand before its first step."""
    branch, there = config.branch, point.manifest.about.progress
    numbered_anew = branch.step_mode == "reset" or "step" in branch.reset
    weights = branch.restore == "weights"
    return Progress(
        step=0 if numbered_anew else there["step"],
        absolute_step=there["absolute_step"],
        task_step=0 if weights or "step" in branch.reset else there["task_step"],
        data_step=0 if weights or "data" in branch.reset else there["data_step"],
    )


def _length(config: Config, declared: Declared, point: BranchPoint, start: Progress) -> tuple[int, int, int]:
    """(last step, horizon of the schedule, steps of it already done)."""
    branch, there = config.branch, point.manifest.about.progress
    if branch.steps is not None and "training.steps" in declared.keys:
        raise ConfigError(
            "branch.steps and training.steps both say where the branch ends.",
            found=f"branch.steps={branch.steps} training.steps={config.training.steps}",
            do="keep branch.steps (how many more) or training.steps (up to which step)",
        )
    if branch.steps is not None:
        steps = branch.steps
    elif "training.steps" in declared.keys:
        steps = config.training.steps - start.step
    else:
        # A run that was cut short of its schedule leaves the rest of it to its branches.
        steps = there["end_step"] - there["step"] or there["horizon_steps"] - there["schedule_step"]
    if steps <= 0:
        raise ConfigError(
            "There is nothing left to train: the branch would end where it starts.",
            where=str(point.checkpoint),
            found=f"branch point at step {point.manifest.step}, end at step {start.step + steps}",
            expected="at least one step more",
            do="say how many more: branch.steps=1500",
        )
    anew = branch.restore == "weights" or "scheduler" in branch.reset or branch.schedule == "restart"
    horizon = steps if branch.schedule == "restart" else there["horizon_steps"]
    return start.step + steps, horizon, 0 if anew else there["schedule_step"]


def _refuse_reserved(group: str, source: str) -> None:
    if legal_name(group) in {TRUNKS, SCRATCH, "unnamed"}:
        raise ConfigError(
            "That is no name for a group of siblings.",
            where=source,
            found=repr(group),
            expected=f"any name but {TRUNKS} and {SCRATCH}, which are directories of other runs",
            do="tracking.group=NAME",
        )


def _named_group(config: Config, environment: Mapping[str, str]) -> tuple[str | None, str]:
    """The group that the user names, if any, and where."""
    if config.tracking.group is not None:
        return config.tracking.group, "tracking.group"
    return environment.get("WANDB_RUN_GROUP") or None, "WANDB_RUN_GROUP"


def _labels(changed: Mapping[str, tuple[Any, Any]], config: Config, declared: Declared) -> tuple[str, ...]:
    """One part of the job type for each factor: its node's label, or its key and value."""
    parts: dict[str, None] = {}
    for key, (_, own) in changed.items():
        node, _, rest = key.partition(".")
        unit = declared.unit_of(key)
        if unit in declared.nodes and unit == node:
            label = (getattr(config, node) or {}).get("label") if rest else None
            parts[label or f"{node}-{declared.values.get(node)}"] = None
        else:
            parts[f"{key.rpartition('.')[2]}-{shown(own)}"] = None
    return tuple(parts)


def _branch_labels(config: Config) -> tuple[str, ...]:
    branch = config.branch
    labels = []
    if branch.restore == "weights":
        labels.append("part" if branch.include or branch.exclude else "weights")
    labels += [f"reset-{part}" for part in branch.reset]
    if branch.schedule == "restart":
        labels.append("restarted-schedule")
    return tuple(labels)


def _directory(group: Path, name: str, mark: str) -> RunDirectory:
    """The run's directory: one that is there with this signature, whatever else its name says."""
    there = sorted(path.parent for path in group.glob(f"*-{mark}/run.json"))
    return RunDirectory(there[0] if there else group / name)
