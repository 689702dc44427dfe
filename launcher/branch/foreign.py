"""Branch points that another program wrote: what is known of their trunk, and how exact a branch can be."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from launcher.branch.declared import Declared
from launcher.branch.moments import Held, held, lost, misfits
from launcher.branch.resolve import BranchPoint
from launcher.branch.select import keeps_schedule
from launcher.checkpoint.content import OPTIMIZER
from launcher.checkpoint.formats.known import Inspection, inspect
from launcher.checkpoint.formats.trainer_state import TRAINER
from launcher.config import BranchConfig, Config
from launcher.differences import compared, plain
from launcher.errors import ConfigError
from launcher.findings import Finding
from launcher.script.hyperparameters import of_group
from launcher.script.loop import OwnLoop
from launcher.script.parts import DATA, SCHEDULER_STATE
from launcher.script.schedules import SCHEDULER, counts_steps, moved_by, position, rates_behind, untouched
from launcher.training.optim import build_optimizer, hyperparameters
from launcher.training.task import Task

if TYPE_CHECKING:
    from launcher.branch.plan import Plan

LEVELS = ("weights", "state", "exact")
"""The values of ``branch.require``, from the least to the most."""
_PLACE = "position in the schedule"
UNKNOWN = "unknown"
"""What a trunk that nobody knows had, in the place of a value."""


def with_trunk(point: BranchPoint, config: Config, declared: Declared) -> BranchPoint:
    """The branch point with its trunk's config and counts, as far as they can be known.

    The trunk is taken to be what the config files say, ``conf/branch/NAME.yaml`` included; what was typed
    or stands in other files beside them is a factor. Of the optimizer the checkpoint itself tells.

    Raises:
        ConfigError: streams were asked for, whose seeds count from the trunk's.
    """
    if config.fanout.repeats > 1:
        raise ConfigError(
            "fanout.repeats counts seeds from the trunk's, and this checkpoint does not tell it.",
            where=str(point.checkpoint),
            found=f"fanout.repeats={config.fanout.repeats}",
            do="sweep the seed: seed=1,2,3 branch.reset=[rng]",
        )
    own = compared(plain(config))
    trunk = {key: value for key, value in own.items() if not _is_factor(key, declared)}
    trunk.update(_optimizer(point, config))
    about, length = point.manifest.about, config.training.steps
    nothing = dict.fromkeys(("step", "absolute_step", "task_step", "data_step", "schedule_step"), 0)
    progress = {**nothing, "end_step": length, "horizon_steps": length, **about.progress}
    manifest = replace(point.manifest, about=replace(about, config=trunk, progress=progress))
    return replace(point, manifest=manifest)


def of_unknown(changed: Mapping[str, tuple[Any, Any]], point: BranchPoint) -> dict[str, tuple[Any, Any]]:
    """Differences from a trunk as they are shown: what nobody knows of a foreign one is no value."""
    known = point.manifest.about.config
    return {
        key: (UNKNOWN if point.foreign and theirs is None and key not in known else theirs, own)
        for key, (theirs, own) in changed.items()
    }


def _is_factor(key: str, declared: Declared) -> bool:
    unit = declared.unit_of(key)
    if unit is None:
        return False
    return not (declared.keys.get(unit) or declared.nodes.get(unit, "")).startswith("branch/")


def _optimizer(point: BranchPoint, config: Config) -> dict[str, Any]:
    """What the restored optimizer's groups say of the keys that the config's optimizer has."""
    groups = point.manifest.content.optimizer_groups
    if not groups or not _takes_optimizer(config.branch):
        return {}
    known = {}
    for name in hyperparameters(config.optimizer):
        # What lr is at the moment, the schedule decides.
        key = "initial_lr" if name == "lr" else name
        values = [group.hyperparameters.get(key) for group in groups if key in group.hyperparameters]
        if len(values) == len(groups) and all(value == values[0] for value in values):
            known[f"optimizer.{name}"] = values[0]
    return known


def foreign_findings(plan: Plan, task: Task | OwnLoop, model: nn.Module) -> list[Finding]:
    """How exact a branch from a foreign checkpoint can be, and what of its trunk nobody knows.

    Args:
        plan: the branch.
        task: the plan's.
        model: its; the values do not matter.
    """
    point = plan.point
    if point is None or not point.foreign:
        return []
    found, branch = inspect(point.checkpoint), plan.config.branch
    moments = _moments(plan, task, model, found)
    # At step 0 no optimizer has kept anything yet.
    lacking = [*lacking_parts(branch, point, task), *(lost(moments) if found.step != 0 else [])]
    return [
        *_missing(branch, point, lacking),
        *misfits(moments),
        *_unsound(branch, point),
        Finding(
            "warning",
            "branch",
            f"{point.name} ({point.format}) does not tell its run's config, data and code",
            "those of this run",
            "see that they are: "
            + ("only the optimizer's settings" if _told(plan, point, task) else "nothing of them")
            + " could be compared",
        ),
        *_built_otherwise(plan, point, task),
        *_inside(plan, point, found, task),
    ]


def _told(plan: Plan, point: BranchPoint, task: Task | OwnLoop) -> bool:
    """Whether the optimizer's settings are in the checkpoint, and are taken over."""
    branch = plan.config.branch
    if isinstance(task, OwnLoop):
        return (
            _takes_optimizer(branch)
            and task.optimizer is not None
            and bool(point.manifest.content.optimizer_groups)
        )
    return bool(_optimizer(point, plan.config))


_ARITHMETIC = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""How an optimizer computes, and not what."""


def _built_otherwise(plan: Plan, point: BranchPoint, task: Task | OwnLoop) -> list[Finding]:
    """Settings that a script's optimizer is built with, and the checkpoint's was not: these would win.

    Where something was typed, it may have been that. A control changes nothing, so there it cannot be.
    """
    if not isinstance(task, OwnLoop) or task.optimizer is None or not _told(plan, point, task):
        return []
    own, groups = task.optimizer.param_groups, point.manifest.content.optimizer_groups
    left_out = _ARITHMETIC | moved_by(task.parts.schedulers.get(SCHEDULER))
    unlike: dict[str, Finding] = {}
    for here, there in zip(map(of_group, own), groups if len(groups) == len(own) else (), strict=False):
        theirs = of_group(there.hyperparameters)
        for name in sorted((here.keys() & theirs.keys() & there.hyperparameters.keys()) - left_out):
            if _as_json(here[name]) == _as_json(theirs[name]):
                continue
            moved = name == "lr" and "initial_lr" not in there.hyperparameters
            unlike[name] = Finding(
                "warning" if plan.differences or moved else "error",
                f"optimizer: {name}",
                f"the script builds it with {here[name]}, which goes on top of what is restored",
                f"{theirs[name]} at step {point.manifest.step}" if moved else f"{theirs[name]}, as the trunk",
                f"{name} as the trunk; or type what changes it"
                if not moved
                else "nothing where the loop sets it in each step; else build it with the trunk's",
            )
    return list(unlike.values())


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _moments(plan: Plan, task: Task | OwnLoop, model: nn.Module, found: Inspection) -> list[Held]:
    """What the optimizer's state is of; nothing where none is taken over, or another optimizer's."""
    there = found.state.get(OPTIMIZER)
    if there is None or not _takes_optimizer(plan.config.branch):
        return []
    groups = there["param_groups"]
    if isinstance(task, OwnLoop):
        # What a script builds its optimizer with goes on top of what is restored.
        own, restored = task.optimizer, ()
    else:
        own, restored = build_optimizer(plan.config.optimizer, model.parameters()), groups
    counts = [len(group["params"]) for group in groups]
    if own is None or counts != [len(group["params"]) for group in own.param_groups]:
        return []  # A finding of its own says that.
    return held(there["state"], model, own, restored)


def _unsound(branch: BranchConfig, point: BranchPoint) -> list[Finding]:
    if not _takes_optimizer(branch):
        return []
    return [
        Finding(
            "error",
            "optimizer",
            f"{point.name}: {what}",
            "numbers that training can go on with",
            "an earlier checkpoint, or a new optimizer: branch.reset=[optimizer,scheduler]",
        )
        for what in point.manifest.unsound
    ]


def _takes_optimizer(branch: BranchConfig) -> bool:
    return branch.restore == "full" and "optimizer" not in branch.reset


def _missing(branch: BranchConfig, point: BranchPoint, lacking: list[str]) -> list[Finding]:
    reached = level(lacking)
    says = "branch.from_step=N says its step; or " if "step" in lacking else ""
    if LEVELS.index(reached) < LEVELS.index(branch.require):
        return [
            Finding(
                "error",
                f"branch.require={branch.require}",
                f"{point.name} ({point.format}) has no {', no '.join(lacking)}",
                "all that is taken over, so that a control is exact"
                if branch.require == "exact"
                else "model, optimizer and step",
                f"{says}branch.require={reached}: what is missing starts anew",
            )
        ]
    anew = "it starts anew: no branch is exact"
    instead = {_PLACE: "this run's is put behind as many steps: no branch is exact"}
    return [
        Finding("warning", "branch", f"no {part} in the checkpoint", "", instead.get(part, anew))
        for part in lacking
    ]


def lacking_parts(branch: BranchConfig, point: BranchPoint, task: Task | OwnLoop) -> list[str]:
    """The parts that the branch would take over and that the checkpoint does not have."""
    if branch.restore == "weights":
        return []
    lacking = list(point.missing)
    components = point.manifest.content.components
    if isinstance(task, OwnLoop) and "data" in task.parts.stateful and DATA not in components:
        lacking += ["data position"] if "data position" not in lacking else []
    counted_by_trainer = TRAINER in components and task.stateful().keys() == {TRAINER}
    if task.stateful() and "task" not in components and not counted_by_trainer:
        lacking.append("state of the task's own parts")
    lacking += _lacking_schedule(branch, components, task)
    given_up = {"optimizer": "optimizer", "step": "step", "data position": "data"}
    return [part for part in lacking if _part(part, given_up) not in branch.reset]


def _lacking_schedule(branch: BranchConfig, components: Container[str], task: Task | OwnLoop) -> list[str]:
    """What of a script's schedule the checkpoint does not tell. A task's is a function of the step."""
    scheduler = task.parts.schedulers.get(SCHEDULER) if isinstance(task, OwnLoop) else None
    if scheduler is None or not keeps_schedule(branch):
        return []
    if not counts_steps(scheduler):
        return [f"state of {type(scheduler).__name__}"]
    return [] if SCHEDULER_STATE in components else [_PLACE]


def _part(lacking: str, given_up: dict[str, str]) -> str:
    return "rng" if lacking.startswith("RNG") else given_up.get(lacking, "")


def level(lacking: Iterable[str]) -> str:
    """The most that ``branch.require`` can ask for where these parts are missing."""
    lacking = set(lacking)
    if lacking & {"optimizer", "step"}:
        return "weights"
    return "state" if lacking else "exact"


def _inside(plan: Plan, point: BranchPoint, found: Inspection, task: Task | OwnLoop) -> list[Finding]:
    """What the numbers rest on that are not said by the checkpoint itself."""
    notes = [Finding("warning", "branch", f"left out: {one}") for one in found.left_out]
    if found.step_source == "name":
        notes.append(Finding("note", "branch", f"its step {found.step} is told by its name"))
    if found.step_source == "optimizer":
        notes.append(Finding("note", "branch", f"its step {found.step} is what the optimizer counted"))
    notes += _schedule(plan, point, found, task)
    groups = point.manifest.content.optimizer_groups
    if groups and plan.config.optimizer and "optimizer.lr" not in _optimizer(point, plan.config):
        rate = plan.config.optimizer.get("lr")
        notes.append(Finding("note", f"optimizer.lr={rate}", "the checkpoint does not tell its base rate"))
    if plan.config.branch.steps is None and found.end_step is None:
        told = "the checkpoint does not tell where its run, and its schedule, was to end"
        notes.append(Finding("note", f"training.steps={plan.config.training.steps}", told))
    return notes


def _schedule(plan: Plan, point: BranchPoint, found: Inspection, task: Task | OwnLoop) -> list[Finding]:
    """Whether the place in the schedule is the one that the checkpoint was at."""
    if not keeps_schedule(plan.config.branch):
        return []
    if isinstance(task, OwnLoop):
        return _other_schedule(plan, point, found, task)
    there = point.manifest.about.progress.get("schedule_step")
    if there == found.step or found.step is None:
        return []
    return [
        Finding(
            "warning",
            "branch",
            f"its schedule stands at {there}, its step is {found.step}",
            "steps in both",
            "if it counts epochs, the learning rate goes on at a wrong place: branch.schedule=restart",
        )
    ]


def _other_schedule(plan: Plan, point: BranchPoint, found: Inspection, task: OwnLoop) -> list[Finding]:
    """A script's own schedule is held against the rate that the checkpoint's optimizer had.

    Where something was typed, it may be that. It is tried out as the checks built it: over its own length.
    """
    scheduler, branch = task.parts.schedulers.get(SCHEDULER), plan.config.branch
    comparable = not plan.differences and plan.horizon_steps == plan.config.training.steps
    if not (comparable and counts_steps(scheduler) and _told(plan, point, task)):
        return []
    steps = position(found.state.get(SCHEDULER_STATE), plan.schedule_start)
    own = rates_behind(untouched(scheduler), steps)
    theirs = [group.hyperparameters.get("lr") for group in point.manifest.content.optimizer_groups]
    for here, there in zip(own, theirs, strict=False):
        if isinstance(there, float) and not math.isclose(here, there, rel_tol=1e-9):
            return [
                Finding(
                    "error" if branch.require == "exact" else "warning",
                    "scheduler",
                    f"this run's gives a learning rate of {here:g} behind step {steps}",
                    f"{there:g}, which the checkpoint's optimizer has",
                    "build the trunk's schedule; or, knowing that no control is exact, branch.require=state",
                )
            ]
    return []
