"""A script with loaders, a schedule, an average of its weights, and early stopping."""

import os
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import launcher


class Noisy(Dataset):
    def __init__(self, amount):
        self.amount = amount

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.full((4,), index / 40) + torch.rand(4) * self.amount


class Stream(IterableDataset):
    def __iter__(self):
        yield from (torch.rand(4) for _ in range(1000))


def loader_of(cfg):
    if cfg.loader.kind == "torchdata":
        from torchdata.stateful_dataloader import StatefulDataLoader as Loader
    else:
        Loader = DataLoader  # noqa: N806
    data = Stream() if cfg.loader.kind == "stream" else Noisy(cfg.noise.amount)
    shuffle = None if cfg.loader.kind == "stream" else True
    return Loader(data, batch_size=8, shuffle=shuffle, num_workers=cfg.loader.workers)


def forever(loader):
    while True:
        yield from loader


@launcher.main()
def main(cfg: DictConfig, run: launcher.Run) -> None:
    model = nn.Sequential(nn.Linear(4, cfg.model.width), nn.Dropout(0.2), nn.Linear(cfg.model.width, 4))
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=run.horizon_steps)
    loader = loader_of(cfg)
    run.register(
        model=model, optimizer=optimizer, scheduler=scheduler, data=loader, average=average,
        fingerprint=os.environ.get("DATA", "noisy"), directions={"loss": "down"},
    )  # fmt: skip
    batches = forever(loader)
    for step in run.steps():
        batch = next(batches)
        loss = (model(batch) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        average.update_parameters(model)
        run.log({"train/loss": loss})
        if step == cfg.stop_at:
            run.log({"val/loss": loss})
            run.stop()
        if step == cfg.save_at:
            run.save()
    # Only a run that ended comes here.
    Path(run.directory, "done.txt").write_text(f"{run.step} {run.branch_point and run.branch_point.step}")


if __name__ == "__main__":
    main()
