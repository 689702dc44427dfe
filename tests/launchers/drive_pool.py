"""Launches siblings with the pool, as a sweeper does, and prints the outcomes: WHAT, as JSON."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from launcher.config import FanoutConfig
from launcher.launchers.forking.stopping import Stopped
from launcher.launchers.pool import PoolLauncher
from launcher.launchers.sibling import Outcome, Sibling


def main(told: dict[str, Any]) -> None:
    launcher = PoolLauncher(told.get("slots"), told.get("slots_per_gpu", 1))
    config = {"task": {"_target_": "tests.tiny_task.TinyTask"}, "device": told.get("device", "cpu")}
    launcher.setup(hydra_context=None, task_function=None, config=OmegaConf.create(config))  # type: ignore[arg-type]
    if told.get("compute_first"):
        # As a sweeper's checks may: OpenMP's threads are there from now on, in this process.
        torch.set_num_threads(2)
        torch.randn(600, 600) @ torch.randn(600, 600)
    siblings = [Sibling(**{**one, "directory": Path(one["directory"])}) for one in told["siblings"]]
    module, _, name = told["run"].partition(":")
    run = getattr(importlib.import_module(module), name)
    if wrong := launcher.check(siblings):
        print(*wrong, sep="\n", file=sys.stderr)
        raise SystemExit(2)
    try:
        show(launcher.launch_siblings(siblings, FanoutConfig(**told.get("fanout", {})), run))
    except Stopped as stopped:
        show(stopped.outcomes)
        raise


def show(outcomes: list[Outcome]) -> None:
    print(json.dumps([asdict(one) for one in outcomes]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
