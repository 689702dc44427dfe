"""A tiny task that tells what it runs with."""

from __future__ import annotations

import os
from pathlib import Path

import launcher
from launcher.config import Config
from tests import tiny_task


class TellingTask(tiny_task.TinyTask):
    """Prints where its code is and what came with the job."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        print(f"launcher {launcher.__file__}")
        print(f"tiny_task {tiny_task.__file__}")
        print(f"WANDB_SERVICE {os.environ.get('WANDB_SERVICE')}")
        print(f"ODD {os.environ.get('ODD')!r} {len(os.environ.get('LARGE', ''))}")
        print(f"directory {Path.cwd()}")
