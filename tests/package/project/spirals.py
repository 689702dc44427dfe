"""Which of two spirals is a point on: a task of its own, of which the launcher knows nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from launcher.config import Config
from launcher.training.task import Batch, Direction, Stateful, Task


class Spirals:
    """Cross-entropy, with smoothed labels where the loss says so."""

    directions: Mapping[str, Direction] = {"accuracy": "up", "cross_entropy": "down"}

    def __init__(self, config: Config) -> None:
        self.seed = config.seed
        self.width = int(config.model["width"])
        self.size = int(config.data["batch_size"])
        self.noise = float(config.data["noise"])
        self.smoothing = float(config.loss["smoothing"])

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, self.width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(self.width, 2))

    def batch(self, step: int) -> Batch:
        return self._points(self.size, self.seed * 1_000_003 + step)

    def _points(self, count: int, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(2, (count,), generator=generator)
        turn = torch.rand(count, generator=generator) * 2 * math.pi
        angle = turn + labels * math.pi
        points = torch.stack([turn * angle.cos(), turn * angle.sin()], dim=1)
        return {"points": points + self.noise * torch.randn(count, 2, generator=generator), "labels": labels}

    def loss(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        guess = model(batch["points"])
        loss = nn.functional.cross_entropy(guess, batch["labels"], label_smoothing=self.smoothing)
        return loss, {"cross_entropy": loss.detach()}

    def evaluate(self, model: nn.Module, step: int, device: torch.device) -> dict[str, float]:
        held_out = self._points(256, 2**40)
        guess = model(held_out["points"].to(device)).cpu()
        right = guess.argmax(dim=1) == held_out["labels"]
        return {"accuracy": right.float().mean().item()}

    def settings(self, step: int) -> Mapping[str, object]:
        return {"seed": self.seed, "size": self.size, "noise": self.noise, "smoothing": self.smoothing}

    def fingerprint(self) -> str:
        return f"spirals, {self.size} points, noise {self.noise!r}"

    def stateful(self) -> Mapping[str, Stateful]:
        return {}


task: type[Task] = Spirals  # A type checker says here what the protocol misses.
