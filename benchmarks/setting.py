"""The reference task's config, composed as train.py composes it."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

from benchmarks.report import RESULTS
from launcher.composition import config_from
from launcher.config import Config
from launcher.entry import register
from launcher.peptide import config as peptide_config

ROOT = RESULTS.parent.parent


def composed(*overrides: str) -> Config:
    """The config of ``python train.py OVERRIDES``."""
    if "launcher_schema.yaml" not in ConfigStore.instance().repo:
        register()
        peptide_config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return config_from(compose("config", overrides=list(overrides)))
