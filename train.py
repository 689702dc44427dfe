"""Train a run, or branch one from a checkpoint: the Hydra entry.

python train.py                                             # a trunk
python train.py +branch=ckpt15k loss=fixed                  # one branch; conf/branch/ckpt15k.yaml
python train.py -m branch.from_step=15000 loss=fixed,buggy  # siblings; group checkpoint-15k-experiments
"""

from __future__ import annotations

from omegaconf import DictConfig

import launcher
from launcher.peptide import config as peptide_config

peptide_config.register()


@launcher.main(config_path="conf", config_name="config")
def main(cfg: DictConfig, run: launcher.Run) -> None:  # noqa: ARG001 - the task has the config
    """Train the task that the config names. A script with a loop of its own has it here."""
    run.train()


if __name__ == "__main__":
    main()
