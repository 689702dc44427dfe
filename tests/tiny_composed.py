"""Composes the tiny config. What is forked where this is imported finds Hydra's parsers warm."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir

from launcher.entry import register

TYPED = [
    "branch.from_step=20", "optimizer.lr=0.002", "fanout.zip=[optimizer.lr,seed]", "paths.outputs=/a-b_0/c",
]  # fmt: skip

register()
with initialize_config_dir(str(Path(__file__).parent / "conf"), version_base="1.3"):
    compose("config", TYPED, return_hydra_config=True)
