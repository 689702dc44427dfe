"""From a checkpoint's state to live objects, without a second copy in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from launcher.errors import CheckpointError
from launcher.training.task import Task

_T = TypeVar("_T")


def new_model(task: Task, device: torch.device) -> nn.Module:
    """A freshly initialised model on ``device``; drawn from the global RNG on the CPU."""
    return task.build_model().to(device)


def model_from(task: Task, weights: Mapping[str, Tensor], device: torch.device) -> nn.Module:
    """A model whose parameters and buffers are the tensors in ``weights`` themselves.

    It is built on the meta device, so that nothing is initialised or allocated twice. A model with
    tensors outside its state dict needs their values and is built on the CPU instead.

    Args:
        weights: name to tensor for every parameter and persistent buffer.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape differs.
    """
    with torch.device("meta"):
        model = task.build_model()
    if _holds_more(model):
        model = task.build_model()
    return load_weights(model, weights).to(device)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Assign ``weights`` to ``model``, strictly; dtypes have to be equal too.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape or dtype differs.
    """
    weights = with_tied(model, weights)
    refuse_unlike(model, weights)
    shared = _shared_parameters(model)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.load_state_dict(dict(weights), strict=True, assign=True)
    for first, *others in shared:
        # Assigning gives each name a parameter of its own, which would untie tied weights.
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, model.get_parameter(first))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained[name])
    return model


def refuse_unlike(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Hold ``weights`` against the model's own, strictly.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape or dtype differs.
    """
    expected = model.state_dict()
    unlike = [
        f"{name}: checkpoint {_kind(weights.get(name))}, model {_kind(expected.get(name))}"
        for name in sorted(expected.keys() | weights.keys())
        if _kind(weights.get(name)) != _kind(expected.get(name))
    ]
    if unlike:
        raise CheckpointError(
            "The checkpoint's weights do not fit the model.",
            where="model_state_dict",
            found="; ".join(unlike[:8]) + (f"; and {len(unlike) - 8} more" if len(unlike) > 8 else ""),
        )


def with_tied(model: nn.Module, weights: Mapping[str, _T]) -> dict[str, _T]:
    """``weights`` under every name of a tied parameter: safetensors keeps such a tensor once."""
    whole = dict(weights)
    for names in _shared_parameters(model):
        there = next((name for name in names if name in whole), None)
        if there is not None:
            whole.update({name: whole.get(name, whole[there]) for name in names})
    return whole


def _kind(tensor: Tensor | None) -> str:
    if tensor is None:
        return "absent"
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _holds_more(model: nn.Module) -> bool:
    """Whether the model has tensors that its state dict lacks: other buffers, or plain attributes."""
    if dict(model.named_buffers()).keys() - model.state_dict().keys():
        return True
    return any(isinstance(value, Tensor) for module in model.modules() for value in vars(module).values())


def _shared_parameters(model: nn.Module) -> list[list[str]]:
    """Names that mean one and the same parameter, in groups of two or more."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]
