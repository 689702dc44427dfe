"""What a run is, before it starts: trunk, branch or scratch; what it is called and where it lies."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher.branch.declared import Declared
from launcher.branch.foreign import of_unknown, with_trunk
from launcher.branch.naming import (
    branch_labels,
    labels_of,
    named_group,
    refuse_reserved,
    repeated,
    run_directory,
    typed_leaves,
)
from launcher.branch.resolve import BranchPoint, cache_of, resolve, taken_over
from launcher.branch.stream import in_stream_0, stream_of
from launcher.branch.undeclared import refuse_undeclared
from launcher.checkpoint.store import checkpoints
from launcher.config import Config
from launcher.differences import differences, plain, request_digest, signature
from launcher.errors import BranchPointUnavailable, ConfigError
from launcher.layout import SCRATCH, TRUNKS, RunDirectory, legal_name, run_id
from launcher.lineage import Run, read_run, read_runs
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
    stream: int = 0
    """Which stream of data order and random numbers; see :mod:`launcher.branch.stream`."""
    arm: str = ""
    """What the branch shares with itself in other streams: its signature in stream 0."""
    unavailable: str | None = None
    """Why a scratch run, or a branch that goes on from its own checkpoint, has no branch point."""

    @property
    def steps(self) -> int:
        """How many steps the run takes."""
        return self.end_step - self.start.step

    @property
    def begun(self) -> bool:
        """Whether the run was ever started; one that was only queued was not."""
        return self.directory.record.is_file() and bool(read_run(self.directory.path).record.starts)


def plan(
    config: Config,
    declared: Declared,
    environment: Mapping[str, str] = os.environ,
    point: BranchPoint | BranchPointUnavailable | None = None,
) -> Plan:
    """Find out what the run is.

    Args:
        config: the run's.
        declared: what was said on purpose.
        environment: for the names that trackers' variables give.
        point: the branch point, or why it cannot be had, where that is known already.

    Raises:
        BranchPointUnavailable: the branch point cannot be had, and nothing was said for that case.
        UndeclaredDifference: the branch differs from its trunk in something that nobody said.
        ConfigError: the length of the run makes no sense, it is there and ``fanout.if_exists=error``, or it
            is another run than the one that was launched.
    """
    planned = _planned(config, declared, environment, point)
    if config.fanout.signature not in (None, planned.signature):
        raise ConfigError(
            "This would be another run than the one that was checked and launched.",
            where=str(planned.directory.path),
            found=f"signature {planned.signature}",
            expected=f"signature {config.fanout.signature}",
            do="bring config, environment and branch point here to what they are where it was launched; "
            "of a container: build its image anew (make image)",
        )
    if config.fanout.id is not None or config.fanout.if_exists == "resume":
        return planned
    while planned.begun:
        if config.fanout.if_exists == "error":
            raise ConfigError(
                f"{planned.id} is there already.",
                where=str(planned.directory.path),
                found="fanout.if_exists=error",
                do="fanout.if_exists=resume goes on with it, fanout.if_exists=rerun trains another one",
            )
        config = replace(config, fanout=replace(config.fanout, repeat=config.fanout.repeat + 1))
        planned = _planned(config, declared, environment, planned.point)
    return planned


def _planned(
    config: Config,
    declared: Declared,
    environment: Mapping[str, str],
    point: BranchPoint | BranchPointUnavailable | None,
) -> Plan:
    if not config.branch.asked:
        return _from_nothing("trunk", config, declared, None, environment)
    handed = config.fanout.point
    if handed == SCRATCH:
        return _from_nothing("scratch", config, declared, config.fanout.unavailable, environment)
    try:
        if isinstance(point, BranchPointUnavailable):
            raise copy.copy(point)
        if point is None:
            outputs = Path(config.paths.outputs)
            point = (
                taken_over(handed, config.branch, config.fanout.source)
                if handed
                else resolve(config.branch, outputs, declared.overrides, cache_of(config.paths))
            )
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
    labels = labels_of(typed_leaves(declared, config), config, declared) if kind == "scratch" else ()
    job_type = "-".join((kind, *labels))
    group = TRUNKS if kind == "trunk" else SCRATCH
    name = run_id(job_type, repeated(mark, config))
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
        tracker_group=named_group(config, environment)[0] if kind == "trunk" else None,
        id=name,
        job_type=job_type,
        branch_type=None,
        labels=labels,
        signature=mark,
        request=request_digest(config),
        directory=RunDirectory(Path(config.paths.outputs) / group / name),
        unavailable=unavailable,
    )


def _from_point(
    config: Config, declared: Declared, point: BranchPoint, environment: Mapping[str, str]
) -> Plan:
    if point.foreign:
        point = with_trunk(point, config, declared)
    changed = differences(point.manifest.about.config, plain(config))
    refuse_undeclared(changed, config, declared, point)
    changed = of_unknown(changed, point)
    start = starting_progress(config, point)
    end, horizon, schedule_start = _length(config, declared, point, start)
    named, source = named_group(config, environment)
    group, source = (point.group, "checkpoint") if named is None else (named, source)
    refuse_reserved(group, source)
    stream = stream_of(config, changed)
    first = in_stream_0(config, stream)
    varied = {key: pair for key, pair in changed.items() if key != "seed"} if stream else changed
    labels = labels_of(varied, config, declared) + branch_labels(first) or ("control",)
    kind = _branch_type(first, labels != ("control",), stream)
    if stream:
        labels = (*labels, f"stream-{stream}")
    job_type = "-".join(labels)
    mark = signature(config, end, point.manifest.sha256, group)
    named = repeated(mark, config)
    directory = run_directory(Path(config.paths.outputs) / legal_name(group), run_id(job_type, named), named)
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
        branch_type=kind,
        labels=labels,
        signature=mark,
        request=request_digest(config),
        directory=directory,
        differences=changed,
        stream=stream,
        arm=signature(first, end, point.manifest.sha256, group),
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
        stream=record.stream,
        arm=record.arm,
        unavailable=unavailable,
    )


def _branch_type(config: Config, changed: bool, stream: int) -> str:
    if config.branch.restore == "weights":
        return "weights"
    if changed:
        return "factor"
    return "stream" if stream else "control"


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
