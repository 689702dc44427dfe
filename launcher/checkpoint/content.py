"""The content of a state as digests: equal for equal states, on any machine and in any file.

The canonical form: a tensor is its dtype, shape and elements (row-major, little-endian), whatever its
strides, storage or device; a float is its hexadecimal spelling; int, float and bool are distinct, list
and tuple too; the order of a dict's keys does not count. What ``OrderedDict._metadata`` holds (versions
of module classes) belongs to the library and is left out.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from launcher import files
from launcher.checkpoint.manifest import Content, OptimizerGroup, TensorEntry, content_digest
from launcher.checkpoint.tree import DICTS, check_tensor, mapped
from launcher.errors import CheckpointError

OPTIMIZER = "optimizer_state_dict"

_SLAB = 16 << 20
"""Bytes of a strided tensor that are made contiguous at a time."""


def describe(
    state: Mapping[str, Any],
    *,
    all_cores: bool = True,
    known: Mapping[str, TensorEntry] = MappingProxyType({}),
) -> Content:
    """The digests of a state, live or saved. Tensors on an accelerator are copied out piece by piece.

    Args:
        state: what is described.
        all_cores: whether digests may take all cores.
        known: entries of tensors by name, where they were computed otherwise.

    Raises:
        CheckpointError: the state holds something that a checkpoint cannot.
    """
    if sys.byteorder != "little":
        raise CheckpointError("Digests are taken over little-endian bytes; this machine is big-endian.")
    tensors: list[TensorEntry] = []

    def entry(name: str, tensor: Tensor) -> TensorEntry:
        one = known.get(name) or tensor_entry(name, check_tensor(name, tensor), all_cores=all_cores)
        tensors.append(one)
        return one

    described = mapped(state, Tensor, entry)
    components = {key: _digest(value) for key, value in described.items()}
    return Content(tuple(tensors), components, content_digest(components), optimizer_groups(state))


def tensor_entry(name: str, tensor: Tensor, *, all_cores: bool = True) -> TensorEntry:
    """Name, shape, dtype and digest of one dense tensor."""
    size = tensor.numel() * tensor.element_size()
    hasher = blake3(max_threads=files.digest_threads(size) if all_cores else 1)
    for piece in byte_pieces(tensor):
        hasher.update(piece.numpy().data)
    return TensorEntry(name, tuple(tensor.shape), dtype_name(tensor), hasher.hexdigest())


def byte_pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor's elements, row-major, as pieces of uint8 on the CPU."""
    for slab in _slabs(tensor):
        # reshape, because a tensor without dimensions has no other view as bytes.
        yield slab.cpu().reshape(-1).view(torch.uint8)


def optimizer_groups(state: Mapping[str, Any]) -> tuple[OptimizerGroup, ...]:
    """The optimizer's hyperparameters by group; empty where the state holds no torch optimizer."""
    optimizer = state.get(OPTIMIZER)
    groups = optimizer.get("param_groups") if isinstance(optimizer, Mapping) else None
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        return ()
    return tuple(
        OptimizerGroup(
            {str(key): _json(value) for key, value in group.items() if key != "params"},
            len(group.get("params", ())),
        )
        for group in groups
    )


def _slabs(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor's elements in row-major order, in contiguous pieces and without a whole copy."""
    if tensor.numel() == 0:
        return
    if tensor.is_contiguous():
        yield tensor
        return
    row_bytes = tensor[0].numel() * tensor.element_size()
    if row_bytes > _SLAB:
        for row in tensor:
            yield from _slabs(row)
    else:
        for rows in torch.split(tensor, max(_SLAB // row_bytes, 1)):
            yield rows.contiguous()


def _digest(described: Any) -> str:
    return hashlib.sha256(files.canonical_json(_canonical(described))).hexdigest()


def _canonical(value: Any) -> Any:
    """One JSON spelling for every value; plain ones carry their type as a prefix."""
    if isinstance(value, TensorEntry):
        return ["tensor", value.dtype, list(value.shape), value.digest]
    if type(value) in DICTS:
        return {_scalar(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(_canonical, value)]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if value is None or type(value) is bool:
        return value
    if type(value) is int:
        return f"i:{value:x}"
    if type(value) is float:
        return "f:nan" if math.isnan(value) else f"f:{value.hex()}"
    return f"s:{value}"


def _json(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    return [_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def dtype_name(tensor: Tensor) -> str:
    """``float32``."""
    return str(tensor.dtype).removeprefix("torch.")
