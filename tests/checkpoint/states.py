"""Small states, each a pure function of its step, and checkpoints of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from launcher import layout
from launcher.checkpoint.manifest import About
from launcher.checkpoint.writer import CheckpointWriter
from launcher.config import CheckpointConfig


def tiny_state(step: int, size: int = 64) -> dict[str, Any]:
    """Every kind of value that a checkpoint holds, in few bytes."""
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(size, generator=generator)
    return {
        "model_state_dict": {"head.weight": weight.view(8, -1), "tied": weight.view(8, -1)},
        "optimizer_state_dict": {
            "state": {
                0: {"step": torch.tensor(float(step)), "exp_avg": torch.randn(size, generator=generator)}
            },
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "fused": None, "params": [0]}],
        },
        "rng_state": {"torch": torch.arange(16, dtype=torch.uint8), "python": (3, (1, 2, 3), None)},
        "scaler_state_dict": None,
        "step": step,
    }


def trained_state() -> dict[str, Any]:
    """A real model's and optimizer's state after one step."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    scheduler.step()
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict(),
        "rng_state": {"torch": torch.get_rng_state()},
        "step": 1,
    }


def about(step: int, **more: Any) -> About:
    return About(step=step, absolute_step=step, run="trunk-1a2b3c4d", **more)


def saved(
    directory: Path,
    state: dict[str, Any],
    step: int | None = None,
    retention: CheckpointConfig | None = None,
    protected: Collection[int] = (),
    **more: Any,
) -> Path:
    """The checkpoint of ``state``, on disk."""
    step = state["step"] if step is None else step
    with CheckpointWriter(directory, retention or CheckpointConfig(), lambda: protected) as writer:
        writer.save(state, about(step, **more))
    return directory / layout.checkpoint_file(step)
