"""A tiny task that tells what it runs with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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


class _Forgetful(tiny_task.Counter):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = 0


class ForgetfulTask(tiny_task.TinyTask):
    """Something of its state is in the checkpoint, and nobody takes it back."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.counter = _Forgetful()
