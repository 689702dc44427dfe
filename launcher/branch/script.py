"""Checks of a script that keeps its own loop: what it registers is all that can be known of it."""

from __future__ import annotations

from typing import Any

from launcher.branch.effect import taken_back
from launcher.branch.plan import Plan
from launcher.branch.select import keeps_schedule
from launcher.config import LAUNCHERS, OWN_LOOP, Config
from launcher.errors import LauncherError
from launcher.findings import Finding
from launcher.script.loop import OwnLoop
from launcher.script.parts import DATA, SCHEDULER_STATE, UNKNOWN


def script_findings(plan: Plan, task: OwnLoop) -> list[Finding]:
    """What of a script's run cannot be exact, and what of its data nobody knows."""
    findings = []
    exact = plan.kind == "branch" and plan.config.branch.require == "exact"
    reset = plan.config.branch.restore == "weights" or "data" in plan.config.branch.reset
    for why in task.parts.inexact:
        findings.append(
            Finding(
                "error" if exact and not reset else "warning",
                "run.register(data=...)",
                why,
                "data that goes on at the batch where it stopped",
                "torchdata's StatefulDataLoader; or, knowing that no control is exact, branch.require=state",
            )
        )
    if "data" in plan.config.branch.reset and "data" not in task.parts.stateful:
        findings.append(
            Finding(
                "error",
                "branch.reset=[data]",
                "no position in the data is registered: where the data goes on, the script decides",
                "data that run.register was given",
                "drop it",
            )
        )
    starts_anew = {"data": reset, "scheduler": not keeps_schedule(plan.config.branch)}
    for name, component in (("data", DATA), ("scheduler", SCHEDULER_STATE)):
        if plan.point is None or plan.point.foreign or name not in task.parts.stateful or starts_anew[name]:
            continue
        if component not in plan.point.manifest.content.components:
            findings.append(
                Finding(
                    "error" if exact else "warning",
                    f"run.register({name}=...)",
                    f"{plan.point.run_id} did not register its {name}",
                    f"the position in the {'data' if name == 'data' else 'schedule'}",
                    f"register what the trunk registered, or branch.require=state: the {name} starts anew",
                )
            )
    if plan.point is not None and task.fingerprint() == UNKNOWN:
        findings.append(
            Finding(
                "note",
                "data",
                "nobody says what identifies it: a change of it is not seen",
                do="run.register(fingerprint=...)",
            )
        )
    return findings


def own_keys(plan: Plan) -> list[str]:
    """The script's own keys in which a branch differs from its trunk."""
    return [key for key in plan.differences if key.partition(".")[0] not in LAUNCHERS]


def keys_of_shapes(plan: Plan) -> dict[str, tuple[Any, Any]]:
    """The differences that give a script's model other tensors: each is taken back, the model built again.

    Empty for a task: its model has a node of its own.
    """
    if plan.config.task._target_ != OWN_LOOP:
        return {}
    own = _shapes(plan.config)
    return {
        key: pair
        for key, pair in plan.differences.items()
        if (config := config_without(plan, key)) is not None and _shapes(config) != own
    }


def config_without(plan: Plan, key: str) -> Config | None:
    """The config with one difference from the trunk taken back; None where there is none such."""
    try:
        return Config.from_plain(taken_back(plan, [key]))
    except LauncherError:
        return None  # Without it there is no run at all.


def _shapes(config: Config) -> dict[str, tuple[object, ...]] | None:
    try:
        model = OwnLoop(config).parts.model
    except LauncherError:
        return None
    return {name: (tensor.dtype, *tensor.shape) for name, tensor in model.state_dict().items()}
