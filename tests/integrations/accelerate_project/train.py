"""A plain loop of Accelerate's: what it prepared is what is registered."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import launcher


@launcher.main(config_path="conf", config_name="config")
def main(cfg, run):
    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(
        nn.Linear(3, cfg.width), nn.ReLU(), nn.Dropout(cfg.dropout), nn.Linear(cfg.width, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.95**step)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    made = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=made, device="cpu")
    # Not prepared: Accelerate's loaders fetch a batch ahead of the step.
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4, shuffle=True)
    run.register(model=model, optimizer=optimizer, scheduler=scheduler, data=loader)
    batches = endless(loader)
    for _ in run.steps():
        x, y = (each.to(accelerator.device) for each in next(batches))
        loss = F.mse_loss(model(x), y)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        run.log({"train/loss": loss})


def endless(loader):
    while True:
        yield from loader


if __name__ == "__main__":
    main()
