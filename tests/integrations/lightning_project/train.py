"""A Lightning project that draws random numbers wherever it can."""

import json
import random
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

import launcher
from launcher.integrations.lightning import fit


class Net(L.LightningModule):
    def __init__(self, cfg, steps):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, cfg.width), nn.BatchNorm1d(cfg.width), nn.ReLU(), nn.Dropout(cfg.dropout),
            nn.Linear(cfg.width, 1),
        )  # fmt: skip
        # Lightning leaves it as it is.
        self.frozen = nn.BatchNorm1d(3).eval()
        self.rate, self.plateau, self.steps = cfg.lr, cfg.plateau, steps
        self.means, self.epochs = cfg.means, []
        self.scale = 1.0

    def on_train_start(self):
        if (run := getattr(self.logger, "experiment", None)) is not None:
            told = {"id": run.id, "group": run.group, "job_type": run.job_type, **run.config}
            Path("wandb.json").write_text(json.dumps(told, default=str))

    def on_train_epoch_start(self):
        self.scale = 1.0 + 0.1 * self.current_epoch + 0.01 * torch.rand(()).item()
        self.epochs.append(self.current_epoch)

    def training_step(self, batch, index):
        x, y = batch
        x = self.frozen(x) + 0.1 * random.random() + 0.1 * float(np.random.rand()) + 0.01 * index
        loss = F.mse_loss(self.scale * self.net(x), y)
        self.log("train/loss", loss, on_step=True, on_epoch=self.means)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        self.log("val/loss", F.mse_loss(self.net(x) + 0.01 * torch.rand(()), y))

    def on_train_epoch_end(self):
        torch.rand(3)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate)
        if self.plateau:
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
            return [optimizer], [{"scheduler": schedule, "interval": "epoch", "monitor": "val/loss"}]
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint):
        checkpoint["epochs"] = list(self.epochs)
        checkpoint["scale"] = self.scale

    def on_load_checkpoint(self, checkpoint):
        self.epochs, self.scale = checkpoint["epochs"], checkpoint["scale"]


class Data(L.LightningDataModule):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg

    def setup(self, stage):
        made = torch.Generator().manual_seed(1)
        x = torch.randn(40, 3, generator=made)
        self.all = TensorDataset(x, x.sum(1, keepdim=True))

    def train_dataloader(self):
        generator = torch.Generator()
        kind = StatefulDataLoader if self.cfg.stateful else DataLoader
        return kind(
            self.all, self.cfg.batch_size, shuffle=self.cfg.shuffle, generator=generator,
            num_workers=self.cfg.workers, persistent_workers=self.cfg.workers > 0,
        )  # fmt: skip

    def val_dataloader(self):
        return DataLoader(self.all, 20)


def trainer_of(cfg, steps, **more):
    return L.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, log_every_n_steps=1,
        val_check_interval=cfg.val_interval,
        accumulate_grad_batches=cfg.accumulate, enable_progress_bar=False, enable_model_summary=False, **more,
    )  # fmt: skip


def callbacks_of(cfg):
    return [
        *([EMAWeightAveraging(decay=0.9)] if cfg.average else []),
        ModelCheckpoint(monitor="val/loss", save_top_k=2, save_last=cfg.accumulate > 1),
        EarlyStopping("val/loss", cfg.min_delta, cfg.patience, check_on_train_epoch_end=False),
    ]


@launcher.main(config_path="conf", config_name="config")
def main(cfg, run):
    logger = False
    if cfg.wandb:
        from lightning.pytorch.loggers import WandbLogger

        logger = WandbLogger(offline=True, save_dir=run.directory)
    trainer = trainer_of(cfg, run.end_step, callbacks=callbacks_of(cfg), logger=logger)
    fit(trainer, Net(cfg, run.horizon_steps), run, datamodule=Data(cfg))


if __name__ == "__main__":
    main()
