"""Weights that are built and never trained: a branch that is built on others would restore the trunk's.

The base model of an adapter is such: another one of the same shapes would be overwritten by the restored
weights without a word, and the branch would be the control under another name.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from launcher.branch.plan import Plan
from launcher.branch.script import config_without, own_keys
from launcher.branch.select import selected_names
from launcher.checkpoint.content import tensor_entry
from launcher.checkpoint.manifest import Manifest
from launcher.errors import LauncherError
from launcher.findings import Finding
from launcher.script.loop import OwnLoop

_COMPARED = 8
"""Frozen tensors whose values are looked at, spread over the model: two base models differ in nearly all."""
_LARGEST = 64 << 20
"""Bytes of a tensor that is looked at: seconds are all that a check may take."""
_PREFIX = "model_state_dict."


def frozen_findings(plan: Plan, task: OwnLoop, manifest: Manifest) -> list[Finding]:
    """Keys that give a script's model other frozen weights than those that are going to be restored.

    To be asked where names and shapes fit.
    """
    there = {one.name.removeprefix(_PREFIX): one for one in manifest.tensors if one.name.startswith(_PREFIX)}
    frozen = _frozen(task.parts.model)
    taken = selected_names(plan.config.branch, there, task.parts.model.state_dict())
    digests = {
        name: there[source].digest
        for name, source in taken.items()
        if name in frozen and source in there and tuple(frozen[name].shape) == there[source].shape
    }
    unlike = _unlike(frozen, digests)
    if not unlike:
        return []
    keys = {
        key: plan.differences[key]
        for key in own_keys(plan)
        if (model := _model_without(plan, key)) is not None and not _unlike(_frozen(model), digests)
    }
    if not keys:
        return []  # They are drawn at random, and restoring them is right.
    what = "\n".join(f"{key}: checkpoint {left}, config {right}" for key, (left, right) in keys.items())
    back = " ".join(f"{key}={left}" for key, (left, _) in keys.items())
    return [
        Finding(
            "error",
            what,
            "other values in weights that are not trained, and that the checkpoint's would overwrite:\n"
            + "\n".join(unlike[:3]),
            "the frozen weights in the checkpoint",
            f"{back}, or restore a part: branch.restore=weights branch.exclude=[PATTERN,…]",
        )
    ]


def _frozen(model: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters of which the values are known, few enough to look at."""
    frozen = [
        (name, one)
        for name, one in model.named_parameters()
        if not one.requires_grad and one.device.type != "meta" and one.nbytes <= _LARGEST
    ]
    return dict(frozen[:: max(1, len(frozen) // _COMPARED)])


def _unlike(frozen: Mapping[str, Tensor], digests: Mapping[str, str]) -> list[str]:
    return [
        name
        for name, digest in digests.items()
        if name not in frozen or tensor_entry(name, frozen[name], all_cores=False).digest != digest
    ]


def _model_without(plan: Plan, key: str) -> nn.Module | None:
    config = config_without(plan, key)
    try:
        return OwnLoop(config).parts.model if config is not None else None
    except LauncherError:
        return None
