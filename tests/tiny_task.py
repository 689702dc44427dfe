"""A task that has nothing to do with peptides: a noisy linear map, with dropout and batch norm."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from launcher.config import Config
from launcher.training.task import Batch, Direction, Stateful


class Counter:
    """Something else that belongs in a checkpoint."""

    def __init__(self) -> None:
        self.batches = 0

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


class TinyTask:
    directions: Mapping[str, Direction] = {"error": "down", "total_loss": "down"}

    def __init__(self, config: Config) -> None:
        self.seed = config.seed
        self.width = int(config.model["width"])
        self.dropout = float(config.model["dropout"])
        self.size = int(config.data["batch_size"])
        self.shift = float(config.data["shift"])
        self.weight = float(config.loss["weight"])
        self.begin = int(config.curriculum["l1_from_step"])
        self.explode = int(config.loss["nan_at_step"])
        self.counter = Counter()

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, self.width),
            nn.BatchNorm1d(self.width),
            nn.GELU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.width, 4),
        )

    def batch(self, step: int) -> Batch:
        # Long enough to be interrupted, until a test that has seen enough makes the file.
        if (file := os.environ.get("TINY_SLOW_UNTIL")) and not Path(file).exists():
            time.sleep(0.1)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        inputs = torch.randn(self.size, 8, generator=generator) + self.shift
        return {"inputs": inputs, "targets": inputs[:, :4] * 2 + inputs[:, 4:]}

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        self.counter.batches += 1
        outputs = model(batch["inputs"]).float()
        error = nn.functional.mse_loss(outputs, batch["targets"])
        total = error
        if step >= self.begin:
            total = total + self.weight * outputs.abs().mean()
        if step == self.explode:
            total = total * float("nan")
        return total, {"error": error.detach(), "total_loss": total.detach()}

    def evaluate(self, model: nn.Module, step: int, device: torch.device) -> dict[str, float]:
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(64, 8, generator=generator)
        targets = inputs[:, :4] * 2 + inputs[:, 4:]
        outputs = model(inputs.to(device)).float().cpu()
        return {"error": nn.functional.mse_loss(outputs, targets).item()}

    def settings(self, step: int) -> Mapping[str, object]:
        settings: dict[str, object] = {"seed": self.seed, "size": self.size, "shift": self.shift}
        if step >= self.begin:
            settings["l1_weight"] = self.weight
        if step == self.explode:
            settings["nan"] = True
        return settings

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.size, self.shift)).encode()).hexdigest()

    def stateful(self) -> Mapping[str, Stateful]:
        return {"counter": self.counter}
