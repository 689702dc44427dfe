"""What a checkpoint cannot hold is refused when it is saved, with the path to it."""

from __future__ import annotations

import enum
from collections import defaultdict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from launcher.checkpoint.writer import CheckpointWriter
from launcher.config import CheckpointConfig
from launcher.errors import CheckpointError

from .states import about

Point = namedtuple("Point", "x y")
Color = enum.IntEnum("Color", "RED")


class Odd(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (object(), "object"),
        (OmegaConf.create({"lr": 1}), "DictConfig"),
        (OmegaConf.create([1]), "ListConfig"),
        (np.zeros(2), "numpy.ndarray"),
        (np.float64(1.0), "numpy.float64"),
        (np.int64(1), "numpy.int64"),
        (b"bytes", "bytes"),
        ({1, 2}, "set"),
        (Point(1, 2), "Point"),
        (Color.RED, "Color"),
        (torch.float32, "torch.dtype"),
        (torch.Size([1]), "torch.Size"),
        (defaultdict(int), "defaultdict"),
        (1j, "complex"),
        (Path("x"), "PosixPath"),
        (lambda: 0, "function"),
        ({1.5: 0}, "key 1.5"),
        ({None: 0}, "key None"),
        ({True: 0}, "key True"),
        (torch.zeros(2).as_subclass(Odd), "Odd"),
        (torch.zeros(2, device="meta"), "meta"),
        (torch.zeros(2, 2).to_sparse(), "sparse"),
        (torch.nn.UninitializedParameter(), "UninitializedParameter"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_refused_with_their_path(tmp_path: Path, value: object, found: str) -> None:
    state: dict[str, Any] = {"model_state_dict": {}, "task": {"queue": [0, {"item": value}]}}
    with CheckpointWriter(tmp_path, CheckpointConfig()) as writer:
        with pytest.raises(CheckpointError) as caught:
            writer.save(state, about(1))
        with pytest.raises(CheckpointError):
            writer.reserve(state)
    assert caught.value.where == "task.queue.1.item"
    assert found in str(caught.value.found)
    assert caught.value.do
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_holds_itself_is_refused(tmp_path: Path) -> None:
    state: dict[str, Any] = {"a": []}
    state["a"].append(state)
    with (
        CheckpointWriter(tmp_path, CheckpointConfig()) as writer,
        pytest.raises(CheckpointError, match="hold"),
    ):
        writer.save(state, about(1))


@pytest.mark.parametrize("state", [[1], {1: 2}, None])
def test_the_state_itself_is_a_dict_with_names(tmp_path: Path, state: Any) -> None:
    with CheckpointWriter(tmp_path, CheckpointConfig()) as writer, pytest.raises(CheckpointError):
        writer.save(state, about(1))


def test_facts_that_are_not_json_are_refused(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, CheckpointConfig()) as writer, pytest.raises(CheckpointError) as caught:
        writer.save({"step": 1}, about(1, config={"lr": torch.tensor(1.0)}))
    assert "Tensor" in str(caught.value.found)
