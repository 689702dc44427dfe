"""What a run begins with, and which part of a checkpoint a script's own loop takes over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from launcher.branch.plan import Plan
from launcher.branch.select import selected_names
from launcher.checkpoint.formats.trainer_state import TRAINER
from launcher.config import BranchConfig, Config
from launcher.lineage import Origin
from launcher.script.parts import DATA, Parts
from launcher.script.run import BranchedFrom, Facts


@dataclass(frozen=True)
class Source:
    """What a run begins with."""

    origin: Origin
    state: Mapping[str, Any] = field(default_factory=dict)
    """What was saved; empty for a run from nothing."""


def weights_of(branch: BranchConfig, weights: Mapping[str, Tensor], parts: Parts) -> dict[str, Tensor]:
    """The checkpoint's weights, or a part of them over those that were built."""
    built = {} if branch.restore == "full" else dict(parts.model.state_dict())
    names = selected_names(branch, weights, built)
    return {**built, **{name: weights[source] for name, source in names.items() if source is not None}}


def taken(branch: BranchConfig, state: Mapping[str, Any], registered: Parts) -> dict[str, Any]:
    """The parts of a state, other than the model, that a branch takes over."""
    if branch.restore == "weights":
        return {}
    parts = {
        "optimizer_state_dict": "optimizer",
        "scheduler_state_dict": "scheduler",
        "scaler_state_dict": "optimizer",
        DATA: "data",
        "task": "task",
    }
    left_out = {*branch.reset, *(["scheduler"] if branch.schedule == "restart" else [])}
    found = {name: state[name] for name, part in parts.items() if name in state and part not in left_out}
    if "task" not in state and TRAINER in state and registered.others.keys() == {TRAINER}:
        # Hugging Face's Trainer saved it, and goes on.
        found["task"] = {TRAINER: state[TRAINER]}
    return found


def without_rng(config: Config, source: Source) -> Source:
    """What a branch begins with where its random streams start anew."""
    branch = config.branch
    if source.origin == "branch point" and (branch.restore == "weights" or "rng" in branch.reset):
        return Source(source.origin, {key: one for key, one in source.state.items() if key != "rng_state"})
    return source


def facts_of(plan: Plan, device: torch.device) -> Facts:
    """What a script is told of its run."""
    origin = None
    if (point := plan.point) is not None:
        origin = BranchedFrom(point.run_id, point.manifest.step, point.checkpoint, point.manifest.sha256)
    directory, seed = plan.directory.path, plan.config.seed
    return Facts(plan.id, directory, device, seed, plan.end_step, plan.horizon_steps, origin)
