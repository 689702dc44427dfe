"""FSDP2: every parameter is divided by rows among the processes, and with it its gradient and moments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


def shard(model: nn.Module, device_type: str) -> nn.Module:
    """Divide ``model`` among all ranks, in place, and move it to their devices. Collective.

    Blocks, which are what a ``ModuleList`` or a ``Sequential`` holds and has parts itself, are gathered one
    at a time when they are called, everything else at once. Buffers are not divided.

    Args:
        model: the same weights at every rank, on the CPU, so that only the own rows come to the device.
        device_type: ``cpu`` or ``cuda``, where the current device counts.
    """
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    for tensor in (*model.parameters(), *model.buffers()):
        # Row by row in memory, as it is needed to be cut and sent; the values stay.
        if not tensor.is_contiguous():
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    for module in (*_blocks(model), model):
        module.register_forward_hook(_as_no_view)  # Before the hooks of FSDP.
        # The root too: left whole after an evaluation, its parameters would not be those of the optimizer.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    model.register_forward_pre_hook(_take_buffers)
    return model


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_rows(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor that may be divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class ByRows(Protocol):
    """A tensor that lies elsewhere, and of which some rows can be had."""

    shape: torch.Size

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows from ``start`` up to, and without, ``stop``."""
        ...


def divided(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's whole state with the moments, or :class:`ByRows`, divided as its parameters are."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]

    def as_parameter(value: Any, parameter: Tensor) -> Any:
        if isinstance(value, bool | int | float | str | None):
            return value
        if isinstance(parameter, DTensor) and value.shape == parameter.shape:
            return _own_part(value, parameter)
        return value if isinstance(value, Tensor) else value.rows(0, value.shape[0])

    held = {
        index: {name: as_parameter(value, parameters[index]) for name, value in of_one.items()}
        for index, of_one in state["state"].items()
    }
    return {**state, "state": held}


def _own_part(value: Tensor | ByRows, like: DTensor) -> DTensor:
    """This rank's rows of a tensor that every rank can read; nothing is sent."""
    mesh, local = like.device_mesh, like.to_local()
    # As torch.chunk cuts: the last ranks may have fewer rows, or none.
    count = value.shape[0]
    start = min(-(-count // mesh.size()) * mesh.get_local_rank(), count)
    stop = start + len(local)
    rows = value[start:stop].clone() if isinstance(value, Tensor) else value.rows(start, stop)
    return DTensor.from_local(
        rows.to(local.device), mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _blocks(model: nn.Module) -> Iterable[nn.Module]:
    """Innermost first. A block whose parameters are tied to others' stays with the rest."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for path, module in reversed([*model.named_modules()]):
        above = model.get_submodule(path.rpartition(".")[0])
        if module is model or not isinstance(above, nn.ModuleList | nn.Sequential):
            continue
        own = [names[id(parameter)] for parameter in module.parameters()]
        alone = all(name.startswith(f"{path}.") for tied in own for name in tied)
        if own and alone and any(True for _ in module.children()):
            yield module


def _as_no_view(_model: nn.Module, _inputs: Any, output: Any) -> Any:
    """An operation in place on a view would take the hook away that FSDP has put on it, and say nothing."""
    return output.clone() if isinstance(output, Tensor) and output._is_view() else output


def _take_buffers(model: nn.Module, _inputs: Any) -> None:
    """In training the buffers are those of rank 0, as under DistributedDataParallel."""
    if model.training:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
