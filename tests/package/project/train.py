"""The Hydra entry of a project of its own, beside an installed launcher."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from launcher.entry import exit_with_one_message, register, run_job

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> float | None:
    return run_job(composed)


if __name__ == "__main__":
    exit_with_one_message(main)
