"""The weights that a branch begins with: the checkpoint's, or a part of them over a new initialisation."""

from __future__ import annotations

import torch

from launcher.branch.plan import Plan
from launcher.branch.select import selected_names
from launcher.training.restore import load_weights, model_from, with_tied
from launcher.training.task import Task


def branch_model(
    plan: Plan, task: Task, weights: dict[str, torch.Tensor], device: torch.device
) -> torch.nn.Module:
    """The model with the checkpoint's weights, or with a part of them over a new initialisation."""
    branch = plan.config.branch
    if branch.restore == "full":
        renamed = selected_names(branch, weights, ())
        return model_from(task, {name: weights[source] for name, source in renamed.items() if source}, device)
    model = task.build_model()
    initial = model.state_dict()
    names = selected_names(branch, weights, initial)
    taken = {name: weights[source] for name, source in names.items() if source is not None}
    return load_weights(model, {**initial, **with_tied(model, taken)}).to(device)
