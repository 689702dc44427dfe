"""Checkpoints of the tiny model in everybody's format, each saved by its own library.

Run as ``python -m tests.foreign_checkpoints CHECKPOINT DIRECTORY``: importing these libraries takes seconds,
and none of them belongs in the process that tests.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from launcher.training.rng import restore_rng

STEP = 20


class Made:
    """Live objects in the state of a checkpoint of the launcher, as a script of somebody's own has them."""

    def __init__(self, checkpoint: Path) -> None:
        self.state = torch.load(checkpoint, weights_only=True)
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 4)
        )
        self.net.load_state_dict(self.state["model_state_dict"])
        self.optimizer = torch.optim.AdamW(self.net.parameters())
        self.optimizer.load_state_dict(self.state["optimizer_state_dict"])
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self.scheduler.load_state_dict(self.state["scheduler_state_dict"])
        # Making a scheduler sets the learning rate.
        self.optimizer.load_state_dict(self.state["optimizer_state_dict"])

    def generators(self) -> dict[str, Any]:
        """The states of the generators as scripts save them: as each gives its own."""
        restore_rng(self.state["rng_state"])
        return {
            "python_rng_state": random.getstate(),
            "numpy_rng_state": np.random.get_state(),
            "torch_rng_state": torch.get_rng_state(),
        }


def plain(made: Made, to: Path) -> None:
    """The customary keys, a NumPy number among them."""
    torch.save(
        {
            "model_state_dict": made.net.state_dict(),
            "optimizer_state_dict": made.optimizer.state_dict(),
            "scheduler_state_dict": made.scheduler.state_dict(),
            "step": STEP,
            "best_loss": np.float64(0.25),
            "task": made.state["task"],
            **made.generators(),
        },
        to / "full.pt",
    )


def bare(made: Made, to: Path) -> None:
    torch.save(made.net.state_dict(), to / "bare_step_20.pt")


def nanogpt(made: Made, to: Path) -> None:
    """nanoGPT's layout, from a model that was compiled and trained by DDP."""
    compiled = {f"module._orig_mod.{name}": tensor for name, tensor in made.net.state_dict().items()}
    torch.save(
        {
            "model": compiled,
            "optimizer": made.optimizer.state_dict(),
            "model_args": {"n_layer": 2},
            "iter_num": STEP,
            "best_val_loss": torch.tensor(0.5),
            "config": {"max_iters": 40, "learning_rate": 1e-3},
        },
        to / "ckpt.pt",
    )


def safetensors(made: Made, to: Path) -> None:
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import save_file

    save_file(dict(made.net.state_dict()), to / "weights_step_20.safetensors", {"format": "pt"})
    (to / "sharded_step_20").mkdir()
    save_torch_state_dict(dict(made.net.state_dict()), to / "sharded_step_20", max_shard_size=400)


def huggingface(made: Made, to: Path) -> None:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(to / "hf"), report_to=[], max_steps=40, use_cpu=True, save_strategy="no", seed=3
    )
    trainer = Trainer(made.net, arguments, train_dataset=[{}], optimizers=(made.optimizer, made.scheduler))
    trainer.state.global_step, trainer.state.max_steps = STEP, 40
    made.generators()
    trainer._save_checkpoint(trainer.model, trial=None)


def lightning(made: Made, to: Path) -> None:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = made.net

        def configure_optimizers(self) -> Any:
            return [made.optimizer], [made.scheduler]

        def training_step(self, batch: Any, number: int) -> None:
            return None

        def on_train_start(self) -> None:
            progress = self.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress
            progress.optimizer.step.total.completed = STEP
            self.trainer.save_checkpoint(to / "epoch=1-step=20.ckpt")
            self.keep = True
            self.trainer.save_checkpoint(to / "last.ckpt")
            self.trainer.should_stop = True

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            if self.keep:
                checkpoint.update(made.generators())

        keep = False

    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_steps=STEP + 1,
    )  # fmt: skip
    trainer.fit(Module(), train_dataloaders=torch.utils.data.DataLoader([torch.zeros(1)]))


def distributed(made: Made, to: Path) -> None:
    """By two processes of gloo, each with its half of every tensor."""
    import torch.multiprocessing as mp

    torch.save(
        {
            "model": made.net.state_dict(),
            "optimizer": made.optimizer.state_dict(),
            "scheduler": made.scheduler.state_dict(),
            "step": STEP,
            "rng": made.state["rng_state"],
        },
        to / "for_dcp.pt",
    )
    mp.spawn(_distributed_rank, (str(to),), nprocs=2)
    (to / "for_dcp.pt").unlink()


def _distributed_rank(rank: int, to: str) -> None:
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{to}/rendezvous", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    state = torch.load(Path(to, "for_dcp.pt"), weights_only=True)

    def spread(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return distribute_tensor(value, mesh, [Shard(0)]) if value.dim() else value
        if isinstance(value, dict):
            return {key: spread(one) for key, one in value.items()}
        return value

    dcp.save({**spread(state), "rng": state["rng"]}, checkpoint_id=f"{to}/dcp_step_20")
    dist.destroy_process_group()


def accelerate(made: Made, to: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    accelerator.prepare(made.net, made.optimizer, made.scheduler)
    made.generators()
    accelerator.save_state(str(to / "checkpoint_0"))


FORMATS = (plain, bare, nanogpt, safetensors, huggingface, lightning, distributed, accelerate)


def main(checkpoint: str, directory: str) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", GLOO_SOCKET_IFNAME="lo")
    warnings.simplefilter("ignore")
    to = Path(directory)
    to.mkdir(parents=True, exist_ok=True)
    for make in FORMATS:
        with contextlib.redirect_stdout(sys.stderr):
            make(Made(Path(checkpoint)), to)


if __name__ == "__main__":
    main(*sys.argv[1:])
