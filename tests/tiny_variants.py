"""Tiny tasks whose models hold what models of other people hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from launcher.config import Config
from launcher.training.task import Stateful
from tests.tiny_task import TinyTask


class Scaled(nn.Module):
    """Nothing that its repr shows tells its scale or its probability."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(inputs) * self.scale, 0.1, self.training)


class UnseededTask(TinyTask):
    """Its data does not depend on the seed; only initialisation and dropout do."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.seed = 0
        self.scale = float(config.model.get("scale", 1.0))

    def build_model(self) -> nn.Module:
        return Scaled(self.scale)


class Parts(nn.Module):
    """An encoder under a name of one's choice, and a head."""

    def __init__(self, encoder: str) -> None:
        super().__init__()
        self.name = encoder
        self.add_module(encoder, nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU()))
        self.head = nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.head(self.get_submodule(self.name)(inputs))
        return output


class StatelessTask(TinyTask):
    """Nothing of its own belongs in a checkpoint, so that other people's checkpoints have all it needs."""

    def stateful(self) -> Mapping[str, Stateful]:
        return {}


class StageTask(TinyTask):
    """Stage 1 calls its encoder ``encoder``, a later stage may call it otherwise."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder = str(config.model.get("encoder", "encoder"))

    def build_model(self) -> nn.Module:
        return Parts(self.encoder)


class Awkward(nn.Module):
    """Tied weights, a frozen layer, a buffer outside the state dict, a tensor that is no buffer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(8, 8, bias=False)
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.inward.weight
        self.outward = nn.Linear(8, 4)
        self.register_buffer("ramp", torch.linspace(0.5, 1.5, 8), persistent=False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.mask = torch.arange(8) % 2

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        hidden = self.tied(self.frozen(self.inward(inputs)).tanh()) * self.ramp * self.mask
        output: Tensor = self.outward(nn.functional.dropout(hidden, 0.1, self.training))
        return output


class Masked(nn.Module):
    """Its mask is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        self.mask = torch.tensor([1.0, 0.0, 1.0, 1.0])

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.linear(inputs) * self.mask
        return output


class Strided(Awkward):
    """Also a weight that no loss uses, and buffers that do not lie row by row in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(8, 8)
        self.register_buffer("column", torch.linspace(0.5, 1.5, 8).view(1, 8).T.contiguous().view(8, 1))
        self.register_buffer("spread", torch.ones(1).expand(8))

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs * self.column.squeeze(1) * self.spread)


class StridedTask(TinyTask):
    def build_model(self) -> nn.Module:
        return Strided()


class MaskedTask(TinyTask):
    def build_model(self) -> nn.Module:
        return Masked()


class AwkwardTask(TinyTask):
    def build_model(self) -> nn.Module:
        return Awkward()


class Running(nn.BatchNorm1d):
    """In training too, its output depends on what it has seen of earlier batches."""

    def forward(self, inputs: Tensor) -> Tensor:
        assert self.running_mean is not None
        earlier = self.running_mean.clone()
        return super().forward(inputs) + earlier


class Block(nn.Module):
    """A layer of a deeper model."""

    def __init__(self, dropout: float, norm: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 5)
        self.outer = nn.Linear(5, 8)
        self.norm = norm
        self.dropout = dropout

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.dropout(self.inner(inputs).relu(), self.dropout, self.training)
        output: Tensor = inputs + self.norm(self.outer(hidden))
        return output.view_as(output)


class Deep(nn.Module):
    """Blocks, tied and frozen weights, numbers of rows that no two processes can share equally."""

    def __init__(self, dropout: float, norm: Callable[[int], nn.Module] = Running) -> None:
        super().__init__()
        self.inward = nn.Linear(8, 8, bias=False)
        self.blocks = nn.ModuleList(Block(dropout, norm(8)) for _ in range(3))
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.inward.weight
        self.frozen = nn.Linear(8, 3)
        self.frozen.requires_grad_(False)
        self.outward = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("ramp", torch.linspace(0.5, 1.5, 4), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.inward(inputs)
        for block in self.blocks:
            hidden = block(hidden)
            hidden += 0.01  # In place, on a view.
        output: Tensor = self.outward(self.frozen(self.tied(hidden))) * self.scale * self.ramp
        return output


class DeepTask(TinyTask):
    def build_model(self) -> nn.Module:
        return Deep(self.dropout)


class SmoothTask(TinyTask):
    """Neither random numbers nor batch statistics: how many share a batch shows in the last bits only."""

    def build_model(self) -> nn.Module:
        return Deep(0.0, nn.LayerNorm)


class ScalarTask(TinyTask):
    """One of its parameters has no rows."""

    def build_model(self) -> nn.Module:
        model = Deep(self.dropout)
        model.scale = nn.Parameter(torch.ones(()))
        return model
