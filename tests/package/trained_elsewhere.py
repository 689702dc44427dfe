"""Makes a checkpoint with another library, and prints its place: python trained_elsewhere.py LIBRARY"""

from __future__ import annotations

import sys
import warnings

import torch
from torch import Tensor, nn


class Line(nn.Module):
    """As Hugging Face's Trainer wants a model."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 1)

    def forward(self, points: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.line(points).squeeze(-1) - labels).square().mean()}


def huggingface() -> str:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        "trained", max_steps=4, save_steps=4, report_to=[], use_cpu=True, disable_tqdm=True
    )
    examples = [{"points": [float(n), 1.0], "labels": float(n)} for n in range(32)]
    Trainer(Line(), arguments, train_dataset=examples).train()  # type: ignore[arg-type]
    return "trained/checkpoint-4"


def lightning() -> str:
    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader, TensorDataset

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Line()

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return self.net(*batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    data = DataLoader(TensorDataset(torch.randn(32, 2), torch.randn(32)), batch_size=8)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_steps=4, accelerator="cpu", enable_checkpointing=False, **quiet)
    trainer.fit(Module(), data)
    trainer.save_checkpoint("trained.ckpt")
    return "trained.ckpt"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print({"huggingface": huggingface, "lightning": lightning}[sys.argv[1]]())
