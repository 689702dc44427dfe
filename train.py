"""Train a run, or branch one from a checkpoint: the Hydra entry.

python train.py                                             # a trunk
python train.py +branch=ckpt15k loss=fixed                  # one branch; conf/branch/ckpt15k.yaml
python train.py -m branch.from_step=15000 loss=fixed,buggy  # siblings; group checkpoint-15k-experiments
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from launcher.entry import exit_with_one_message, register, run_job
from launcher.peptide import config as peptide_config

register()
peptide_config.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> float | None:
    """Run the job that Hydra composed."""
    return run_job(composed)


if __name__ == "__main__":
    exit_with_one_message(main)
