"""Whether what was typed changes anything that will be computed, and from which step on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from hydra.utils import get_class

from launcher.branch.foreign import UNKNOWN
from launcher.branch.plan import Plan
from launcher.config import OWN_LOOP, Config
from launcher.differences import plain
from launcher.errors import ConfigError
from launcher.files import canonical_json, flatten
from launcher.findings import Finding
from launcher.script.loop import OwnLoop
from launcher.training.device import device_type
from launcher.training.optim import hyperparameters
from launcher.training.schedule import Factor, build_schedule
from launcher.training.task import Directed, Direction, Task

if TYPE_CHECKING:
    from torch import nn


def build_task(config: Config) -> Task | OwnLoop:
    """The task that ``task._target_`` names, or the script's function in place of one.

    Raises:
        ConfigError: it cannot be imported, lacks a part of the protocol, or misuses an optional one.
    """
    target = config.task._target_
    if target == OWN_LOOP:
        return OwnLoop(config)
    try:
        cls = get_class(target)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            "task._target_ cannot be imported.", found=f"task._target_={target}: {error}"
        ) from error
    parts = ("build_model", "batch", "loss", "evaluate", "settings", "fingerprint", "stateful")
    missing = [name for name in parts if not callable(getattr(cls, name, None))]
    if missing:
        raise ConfigError(
            "The task lacks a part of its protocol.",
            found=f"task._target_={target} has no {', '.join(missing)}",
            expected="the methods of launcher.training.task.Task",
        )
    task: Task = cls(config)
    if isinstance(task, Directed) and (odd := set(task.directions.values()) - set(get_args(Direction))):
        raise ConfigError(
            "The task names a direction that there is not.",
            where=f"{target}.directions",
            found=", ".join(map(repr, sorted(odd))),
            expected=" or ".join(map(repr, get_args(Direction))),
        )
    return task


def launchers_task(config: Config) -> Task:
    """The task that the launcher's own loop trains; see :func:`build_task`."""
    task = build_task(config)
    assert not isinstance(task, OwnLoop)
    return task


class Settings:
    """Everything that decides what each step of a plan computes, under some config."""

    def __init__(
        self, config: Config, plan: Plan, task: Task | None = None, model: nn.Module | None = None
    ) -> None:
        """``task`` and ``model``: the config's, where they are built already."""
        self._task = task or launchers_task(config)
        self._factor: Factor = build_schedule(config.scheduler, plan.horizon_steps)
        self._plan = plan
        optimizer = hyperparameters(config.optimizer)
        self._rate = optimizer.pop("lr", None)
        self._constant: dict[str, Any] = {
            "optimizer": [config.optimizer.get("_target_"), optimizer],
            "task": config.task._target_,
            "gradient_clip": config.training.gradient_clip,
            "device": device_type(config.device),
            "precision": config.precision,
            "deterministic": config.deterministic,
            "threads": config.threads,
            "nproc": config.launch.nproc,
            "shard": config.launch.shard,
            "model": self._described(model),
            "data": self._task.fingerprint(),
        }
        if plan.config.branch.restore == "weights" or "rng" in plan.config.branch.reset:
            self._constant["seed"] = config.seed

    def _described(self, model: nn.Module | None) -> list[str]:
        import torch

        if model is None:
            with torch.device("meta"):
                model = self._task.build_model()
        # What a module computes need not show in its repr: F.dropout(x, self.p) does not.
        kept = (
            f"{name}.{key}={value!r}"
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, bool | int | float | str)
        )
        return [repr(model), *kept]

    @property
    def constant(self) -> bytes:
        """What is the same at all steps."""
        return canonical_json(self._constant)

    def at(self, branch_step: int) -> tuple[Any, ...]:
        """What differs from step to step, at the ``branch_step``-th step of the branch (1, 2, …)."""
        factor = self._factor(self._plan.schedule_start + branch_step - 1)
        rate = None if self._rate is None else self._rate * factor
        return (rate, factor, self._task.settings(self._plan.start.task_step + branch_step))


def first_effect(one: Settings, other: Settings, steps: int) -> int | None:
    """The first step of a branch at which two settings differ; None if at none of them."""
    if one.constant != other.constant:
        return 1
    return next((step for step in range(1, steps + 1) if one.at(step) != other.at(step)), None)


def effect_findings(plan: Plan, task: Task, model: nn.Module) -> list[Finding]:
    """One finding for each factor that has no effect within the branch, or only a later one.

    Each declared factor is taken back by itself, to the trunk's value, and the settings of all steps
    are compared: a factor that hides behind another is found as well.

    Args:
        plan: the branch.
        task: the plan's.
        model: the plan's; its values do not matter.
    """
    assert plan.point is not None
    units: dict[str, list[str]] = {}
    for key in plan.differences:
        unit = plan.declared.unit_of(key)
        # What a foreign trunk had instead is not known.
        if unit is not None and not (plan.point.foreign and plan.differences[key][0] == UNKNOWN):
            units.setdefault(unit, []).append(key)
    if not units:
        return []
    own = Settings(plan.config, plan, task, model)
    findings = []
    begins: int | None = None
    for unit, keys in units.items():
        without = _taken_back(plan, keys)
        if without is None:
            continue
        first = first_effect(own, without, plan.steps)
        if first is not None and not (plan.stream and unit == "seed"):
            begins = min(first, begins or first)
        source = plan.declared.keys.get(unit) or plan.declared.nodes.get(unit, "")
        value = plan.declared.values.get(unit)
        if first is None and all(key.endswith(".path") for key in keys):
            findings.append(Finding("note", f"{unit}={value}", "another place, the same content"))
        elif first is None:
            findings.append(_without_effect(plan, f"{unit}={value}", source, keys))
        elif first > 1:
            step = plan.start.step + first
            findings.append(Finding("note", f"{unit}={value}", f"takes effect from step {step} on", do=""))
    note_effect(plan, begins or 1)
    return findings


def note_effect(plan: Plan, begins: int) -> None:
    """Remember the first step of a branch at which what was changed shows."""
    _begins[plan.id] = begins


def effect_begins(plan: Plan) -> int | None:
    """The first step of a branch at which what was changed shows, counted from 1.

    As :func:`effect_findings` saw it in this process, 1 where it could not tell; None where it was not asked.
    """
    return _begins.get(plan.id)


def _without_effect(plan: Plan, typed: str, source: str, keys: Iterable[str]) -> Finding:
    changed = "; ".join(f"{key}: {plan.differences[key][0]} → {plan.differences[key][1]}" for key in keys)
    return Finding(
        "error",
        typed,
        f"this override ({source}) had no effect: from step {plan.start.step + 1} to {plan.end_step} "
        f"every step computes what it would without it ({changed})",
        "an override that changes what is computed",
        "drop it, train longer with branch.steps=N, or switch on what it belongs to",
    )


def _taken_back(plan: Plan, keys: Iterable[str]) -> Settings | None:
    """The own settings with some keys as the trunk has them; None if such a config cannot be built."""
    nested = taken_back(plan, keys)
    config = {key: value for key, value in nested.items() if key not in _NOT_SETTINGS}
    steps = (plan.horizon_steps, plan.schedule_start, plan.start.task_step)
    mark = hashlib.sha256(canonical_json([config, steps])).digest()
    if mark not in _known:
        if len(_known) >= _KNOWN:
            _known.clear()
        try:
            _known[mark] = Settings(Config.from_plain(nested), plan)
        except Exception:
            # The trunk's value alone makes no valid run (another data source's path, a key that the task
            # needs), so it certainly matters. What a task raises on such a config is its own affair.
            _known[mark] = None
    return _known[mark]


def taken_back(plan: Plan, keys: Iterable[str]) -> dict[str, Any]:
    """The branch's config as plain values, with some keys as the trunk has them."""
    assert plan.point is not None
    nested, trunk = plain(plan.config), flatten(plan.point.manifest.about.config)
    for key in keys:
        _set(nested, key, trunk)
    return nested


_NOT_SETTINGS = frozenset({"paths", "tracker", "tracking", "checkpoint", "fanout"})
"""Nodes that decide nothing of what is computed."""
_begins: dict[str, int] = {}
_KNOWN = 64
_known: dict[bytes, Settings | None] = {}
"""The settings of siblings with their factors taken back: most often the same for all of them."""


def _set(nested: dict[str, Any], key: str, trunk: Mapping[str, Any]) -> None:
    """Give ``nested`` the trunk's value at a dotted key, or take the key out if the trunk has none."""
    *above, last = key.split(".")
    for name in above:
        inner = nested.get(name)
        nested[name] = dict(inner) if isinstance(inner, Mapping) else {}
        nested = nested[name]
    if key in trunk:
        nested[last] = trunk[key]
    else:
        nested.pop(last, None)
