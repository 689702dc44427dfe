"""Whether a checkpoint's tensors and optimizer fit the run's: names, shapes and dtypes, nothing loaded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim import Optimizer

from launcher.branch.plan import Plan
from launcher.branch.script import keys_of_shapes
from launcher.branch.select import Kind, selected_names
from launcher.checkpoint.content import OPTIMIZER
from launcher.checkpoint.manifest import Manifest
from launcher.config import OWN_LOOP
from launcher.errors import CheckpointError
from launcher.findings import Finding, finding_of
from launcher.training.optim import build_optimizer
from launcher.training.restore import with_tied

SHOWN = 4
"""How many of the tensors that do not fit are named."""
_BY_SCHEDULES = {"initial_lr", "swa_lr"}
"""What schedules of PyTorch add to an optimizer's groups, the latter while it trains."""


def fit_findings(
    plan: Plan, model: torch.nn.Module, manifest: Manifest, optimizer: Optimizer | None = None
) -> list[Finding]:
    """Hold every parameter and buffer, and the optimizer's groups, against the checkpoint's.

    Args:
        plan: the branch.
        model: the plan's; its values do not matter.
        manifest: the checkpoint's.
        optimizer: that of a script; for a task, the one that the config names.
    """
    expected = {name: _kind(tensor) for name, tensor in model.state_dict().items()}
    prefix = "model_state_dict."
    there = {
        entry.name.removeprefix(prefix): Kind(entry.dtype, entry.shape)
        for entry in manifest.tensors
        if entry.name.startswith(prefix)
    }
    try:
        wanted = selected_names(plan.config.branch, there, expected)
    except CheckpointError as error:
        return [finding_of(error)]
    found = with_tied(model, {name: there[source] for name, source in wanted.items() if source})
    unlike = [
        (name, found.get(name), expected.get(name))
        for name in wanted
        if found.get(name) != expected.get(name)
    ]
    findings = _tensor_findings(plan, manifest, unlike)
    whole = plan.config.branch.restore == "full" and "optimizer" not in plan.config.branch.reset
    # Of another model the number of parameters differs anyway; another class is a finding of its own.
    has_optimizer = OPTIMIZER in manifest.content.components
    if whole and has_optimizer and (not findings or "optimizer._target_" in plan.differences):
        if plan.config.task._target_ != OWN_LOOP:
            optimizer = build_optimizer(plan.config.optimizer, model.parameters())
        findings += [] if optimizer is None else _optimizer(plan, manifest, optimizer)
    return findings


def _tensor_findings(
    plan: Plan, manifest: Manifest, unlike: list[tuple[str, Kind | None, Kind | None]]
) -> list[Finding]:
    if not unlike:
        return []
    names = [f"{name} {_change(left, right)}" for name, left, right in unlike]
    listing = "\n".join(names[:SHOWN]) + (f"\n… and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    keys = {
        key: pair for key, pair in plan.differences.items() if key.startswith("model.")
    } or keys_of_shapes(plan)
    rename = plan.config.branch.rename
    if not keys and rename:
        said = ", ".join(f"{old} → {new}" for old, new in rename.items())
        expected = "names and shapes of the new model"
        return [Finding("error", f"branch.rename: {said}", listing, expected, "check the prefixes")]
    if not keys:
        foreign = plan.point is not None and plan.point.foreign
        return [
            Finding(
                "error",
                "model",
                listing,
                f"the tensors of {manifest.about.run} at step {manifest.step}",
                "if only the names begin otherwise: '+branch.rename={OLD.: NEW.}'; else "
                "branch.restore=weights with branch.include or branch.exclude"
                if foreign
                else "the model's code changed since the trunk ran: go back to its version, or "
                "branch.restore=weights with branch.include, branch.exclude or branch.rename",
            )
        ]
    what = "\n".join(f"{key}: checkpoint {left}, config {right}" for key, (left, right) in keys.items())
    back = " ".join(f"{key}={left}" for key, (left, _) in keys.items())
    return [
        Finding(
            "error",
            what,
            listing,
            "the shapes in the checkpoint",
            f"{back}, or restore a part: branch.restore=weights branch.exclude=[PATTERN,…]",
        )
    ]


def _change(left: Kind | None, right: Kind | None) -> str:
    if left is not None and right is not None and left.dtype == right.dtype:
        return f"{list(left.shape)} → {list(right.shape)}"
    return f"{left or 'absent'} → {right or 'absent'}"


def _optimizer(plan: Plan, manifest: Manifest, own: Optimizer) -> list[Finding]:
    """Whether the optimizer's state is one of this optimizer's, over these parameters."""
    groups = [
        (len(group["params"]), sorted(group.keys() - {"params", *_BY_SCHEDULES}))
        for group in own.param_groups
    ]
    there = [
        (group.parameters, sorted(group.hyperparameters.keys() - _BY_SCHEDULES))
        for group in manifest.content.optimizer_groups
    ]
    # Classes that share a state layout (Adam, AdamW) would go on as the trunk's: its flags are restored.
    target = plan.config.optimizer.get("_target_", type(own).__name__)
    trunks, _ = plan.differences.get("optimizer._target_", (target, target))
    if _fits(there, groups, plan) and trunks == target:
        return _missing_moments(plan)
    return [
        Finding(
            "error",
            f"optimizer._target_={target}" if plan.config.optimizer else "run.register(optimizer=...)",
            f"the checkpoint's optimizer is {trunks}: {_groups(there)}",
            f"{target}: {_groups(groups)}",
            "keep the trunk's optimizer, or start a new one: branch.reset=[optimizer,scheduler]",
        )
    ]


def _fits(there: list[tuple[int, list[str]]], groups: list[tuple[int, list[str]]], plan: Plan) -> bool:
    """Whether an optimizer takes these groups; one of an older PyTorch may lack keys, which it fills in."""
    if plan.point is None or not plan.point.foreign:
        return groups == there
    counts = [count for count, _ in there] == [count for count, _ in groups]
    return counts and all(set(saved) <= set(own) for (_, saved), (_, own) in zip(there, groups, strict=True))


def _missing_moments(plan: Plan) -> list[Finding]:
    """Switches that make an optimizer look for state that it would have kept from its first step on."""
    return [
        Finding(
            "error",
            f"optimizer.{name}={str(own).lower()}",
            "the checkpoint's optimizer has not kept what this needs",
            f"optimizer.{name}={str(bool(trunks)).lower()}, as the trunk",
            "drop it, or start a new optimizer: branch.reset=[optimizer,scheduler]",
        )
        for name in ("amsgrad", "centered")
        for trunks, own in [plan.differences.get(f"optimizer.{name}", (None, None))]
        if own and not trunks
    ]


def _groups(groups: Iterable[tuple[int, list[str]]]) -> str:
    return "; ".join(f"{count} parameters with {', '.join(names)}" for count, names in groups)


def _kind(tensor: torch.Tensor) -> Kind:
    return Kind(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
