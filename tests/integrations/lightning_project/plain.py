"""The same training without the launcher: Lightning alone, one seed."""

import sys

import torch
from omegaconf import OmegaConf

from launcher.training.rng import seed_all
from train import Data, Net, callbacks_of, trainer_of


def main():
    cfg = OmegaConf.merge(OmegaConf.load("conf/config.yaml"), OmegaConf.from_dotlist(sys.argv[1:]))
    torch.set_num_threads(cfg.threads)
    seed_all(cfg.seed)
    callbacks = callbacks_of(cfg)
    trainer = trainer_of(cfg, cfg.training.steps, callbacks=callbacks, logger=False)
    trainer.fit(Net(cfg, cfg.training.steps), datamodule=Data(cfg))
    trainer.save_checkpoint("plain.ckpt")


if __name__ == "__main__":
    main()
