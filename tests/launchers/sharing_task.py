"""The tiny task with data that is read once for all siblings, by somebody who computes while reading."""

from __future__ import annotations

import os

import torch

from launcher.training.task import Batch
from tests.tiny_task import TinyTask

_read_by: list[int] = []


class SharingTask(TinyTask):
    def share_data(self) -> None:
        torch.randn(600, 600) @ torch.randn(600, 600)
        _read_by.append(os.getpid())

    def batch(self, step: int) -> Batch:
        if step == 1:
            # Hangs if whoever shared the data computed with more than one thread.
            torch.randn(600, 600) @ torch.randn(600, 600)
            print(f"data read by {_read_by}, {torch.get_num_threads()} threads")
        return super().batch(step)
