"""Whether a foreign optimizer's state is what this run's optimizer keeps of the parameters that it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from launcher.branch.select import Kind
from launcher.checkpoint.formats.protocol import TensorFacts
from launcher.findings import Finding

_SHOWN = 3
_NUMBER = None
"""In the place of a :class:`Kind`: a number, as a tensor or not."""
_NOT_PROBED = ("params", "param_names", "capturable")
"""The last needs a GPU and keeps the same."""
Kept = Mapping[str, Kind | None]


@dataclass(frozen=True)
class Held:
    """A parameter that is trained, and the state that belongs to it."""

    name: str
    kept: Kept
    """What the checkpoint has."""
    expected: Kept
    """What the optimizer has once it took a step; empty where nobody knows."""


def held(
    state: Mapping[int, Mapping[str, Any]],
    model: nn.Module,
    own: Optimizer,
    restored: Sequence[Mapping[str, Any]] = (),
) -> list[Held]:
    """Every parameter that ``own`` trains; one that is frozen needs no state.

    Args:
        state: the foreign optimizer's by the number of the parameter, with the facts of tensors; its groups
            have as many parameters as those of ``own``.
        model: the run's; its values do not matter.
        own: over its parameters.
        restored: the hyperparameters of each group that win over those of ``own``.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found, number = [], 0
    for at, group in enumerate(own.param_groups):
        theirs = restored[at] if restored else {}
        settings = {key: theirs.get(key, one) for key, one in group.items() if key not in _NOT_PROBED}
        probed: dict[tuple[int, torch.dtype], Mapping[str, torch.dtype | None]] = {}
        for parameter in group["params"]:
            if parameter.requires_grad:
                like = parameter.dim(), parameter.dtype
                if like not in probed:
                    probed[like] = _after_a_step(type(own), settings, *like)
                shape = tuple(parameter.shape)
                expected = {
                    key: _NUMBER if one is None else Kind(_name(one), shape)
                    for key, one in probed[like].items()
                }
                kept = {key: _kind(one) for key, one in state.get(number, {}).items()}
                found.append(Held(names.get(id(parameter), f"parameter {number}"), kept, expected))
            number += 1
    return found


def lost(parameters: list[Held]) -> list[str]:
    """What of the state that there should be is missing or not as it was.

    A parameter that never had a gradient has no state either, and no checkpoint tells the two apart.
    """
    keeping = sum(bool(one.kept) for one in parameters)
    # Of other optimizers, what is kept of several tells that it is of each. LBFGS keeps one for all.
    bare = [one.name for one in parameters if not one.kept and (one.expected or keeping > 1)]
    if bare and not keeping:
        return ["optimizer"]
    count = f"{len(bare)} of {len(parameters)} parameters"
    lacking = [f"optimizer state of {count} ({_few(bare)})"] if bare else []
    # PyTorch casts a state to its parameter's dtype when it is loaded, without a word.
    cast = {
        f"{key} {kind.dtype}, here {expected.dtype}": _NUMBER
        for one in parameters
        for key, expected in one.expected.items()
        if (kind := one.kept.get(key)) and expected and kind.dtype != expected.dtype
    }
    return [*lacking, *([f"optimizer state of this run's precision ({_few([*cast])})"] if cast else [])]


def misfits(parameters: list[Held]) -> list[Finding]:
    """State with which the optimizer's first step would fail, or train something else."""
    unlike = [
        f"{key} of {one.name}: {_told(one.kept, key)}, here {_told(one.expected, key)}"
        for one in parameters
        for key in one.expected
        if one.kept and not _fits(one, key)
    ]
    if not unlike:
        return []
    more = f"; and {len(unlike) - _SHOWN} more" if unlike[_SHOWN:] else ""
    return [
        Finding(
            "error",
            "optimizer",
            "; ".join(unlike[:_SHOWN]) + more,
            "what it keeps of each parameter, in the parameter's shape",
            "give the optimizer its parameters in the trunk's order, "
            "or start a new one: branch.reset=[optimizer,scheduler]",
        )
    ]


def _fits(one: Held, key: str) -> bool:
    kind, expected = one.kept.get(key), one.expected[key]
    if expected is None:
        return key in one.kept and (kind is None or kind.shape == (1,))
    if kind is None:
        return False
    whole, number = (getattr(torch, dtype).is_floating_point for dtype in (kind.dtype, expected.dtype))
    return kind.shape == expected.shape and bool(whole == number)


def _after_a_step(
    cls: type[Optimizer], settings: Mapping[str, Any], dimensions: int, dtype: torch.dtype
) -> Mapping[str, torch.dtype | None]:
    """What one of PyTorch's optimizers keeps: a dtype where it has the parameter's shape, None for a number.

    No list of names is right for all of them and for their switches, so a step is taken on a few zeros.
    What has a shape of its own is left out; of other optimizers nothing is known.
    """
    if not cls.__module__.startswith("torch.optim."):
        return {}
    # No two sizes are equal, so that a row's or a column's state is not taken for a parameter's.
    shape = tuple(range(2, 2 + dimensions))
    probe = nn.Parameter(torch.zeros(shape, dtype=dtype, device="cpu"))
    probe.grad = torch.zeros_like(probe)
    try:
        optimizer = cls([{"params": [probe], **settings}])  # type: ignore[call-arg]
        optimizer.step()
    except Exception:
        return {}  # It wants a GPU, sparse gradients or a closure.
    kept: dict[str, torch.dtype | None] = {}
    for key, one in optimizer.state[probe].items():
        if isinstance(one, torch.Tensor) and one.dim():
            if one.shape == shape:
                kept[key] = one.dtype
        elif one is not None:
            kept[key] = _NUMBER
    return kept


def _kind(value: Any) -> Kind | None:
    many = isinstance(value, TensorFacts) and value.shape
    return Kind(value.dtype, value.shape) if many else _NUMBER


def _told(kept: Kept, key: str) -> str:
    return str(kept[key] or "a number") if key in kept else "absent"


def _few(names: list[str]) -> str:
    return ", ".join([*names[:_SHOWN], *(["…"] if names[_SHOWN:] else [])])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
