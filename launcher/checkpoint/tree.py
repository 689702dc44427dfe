"""What a state may hold: tensors and plain values, so that it is read anywhere with nothing executed."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from launcher.errors import CheckpointError

SCALARS = frozenset({type(None), bool, int, float, str})
DICTS = frozenset({dict, OrderedDict, Counter})
"""``OrderedDict``: every module's state; ``Counter``: MultiStepLR's. ``weights_only`` reads both."""
DEEPEST = 100
"""Levels of nesting; a state that holds itself has more."""

_L = TypeVar("_L")


def mapped(
    state: Mapping[str, Any], leaf: type[_L] | tuple[type[_L], ...], on_leaf: Callable[[str, _L], Any]
) -> dict[str, Any]:
    """A deep copy of ``state`` with ``on_leaf(name, value)`` in place of every value of type ``leaf``.

    The name is the dotted path: ``optimizer_state_dict.state.0.exp_avg``.

    Raises:
        CheckpointError: names the path of a value that a checkpoint cannot hold.
    """
    names: set[str] = set()

    def once(path: tuple[str, ...], value: _L) -> Any:
        name = ".".join(path)
        if name in names:
            _refuse(path, "a second tensor of this name", "names that differ when joined with dots")
        names.add(name)
        return on_leaf(name, value)

    if type(state) is not dict:
        _refuse((), type(state).__name__, "a dict")
    for key in state:
        if type(key) is not str:
            _refuse((), f"the key {key!r}", "str keys at the top level")
    copied = _mapped(state, leaf, once, ())
    assert isinstance(copied, dict)
    return copied


def _mapped(
    value: Any,
    leaf: type[_L] | tuple[type[_L], ...],
    on_leaf: Callable[[tuple[str, ...], _L], Any],
    path: tuple[str, ...],
) -> Any:
    kind = type(value)
    if kind in SCALARS:
        return value
    if isinstance(value, leaf):
        return on_leaf(path, value)
    if len(path) > DEEPEST:
        _refuse(path[:5], f"more than {DEEPEST} levels of nesting", "a state that does not hold itself")
    if kind in DICTS:
        copied = kind()
        for key, item in value.items():
            if type(key) is not str and type(key) is not int:
                _refuse(path, f"the key {key!r} of type {_name(type(key))}", "str or int keys")
            copied[key] = _mapped(item, leaf, on_leaf, (*path, str(key)))
        if kind is OrderedDict and hasattr(value, "_metadata"):
            # Versions by which modules read older states; torch.save keeps them, so they are kept here.
            copied._metadata = _mapped(value._metadata, leaf, on_leaf, (*path, "_metadata"))
        return copied
    if kind is not list and kind is not tuple:
        _refuse(
            path,
            f"{_name(kind)}: {str(value)[:60]}",
            "tensors, None, bool, int, float, str, list, tuple, dict",
        )
    return kind([_mapped(item, leaf, on_leaf, (*path, str(index))) for index, item in enumerate(value)])


def check_tensor(name: str, tensor: Tensor) -> Tensor:
    """``tensor`` as it is saved: plain, strided, without a graph.

    Raises:
        CheckpointError: it is sparse, quantized, without values, or of a subclass of ``torch.Tensor``.
    """
    kind = type(tensor)
    if kind is not Tensor and kind is not torch.nn.Parameter:
        _refuse((name,), f"a tensor of type {_name(kind)}", "torch.Tensor")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        _refuse((name,), f"{tensor.layout}, {tensor.dtype}", "a dense tensor that is not quantized")
    if tensor.device.type == "meta":
        _refuse((name,), "a tensor on the meta device, which has no values", "a tensor with values")
    return tensor.detach().resolve_conj().resolve_neg()


def _name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _refuse(path: tuple[str, ...], found: str, expected: str) -> NoReturn:
    raise CheckpointError(
        "The state holds something that a checkpoint cannot.",
        where=".".join(path) or "the state itself",
        found=found,
        expected=expected,
        do="convert it before it goes into the state: OmegaConf.to_container(...), array.tolist(), ...",
    )
