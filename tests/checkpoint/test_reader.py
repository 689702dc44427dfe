"""What was saved is what is read, anywhere, and nothing in a file is executed."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher import files, layout
from launcher.checkpoint.content import describe
from launcher.checkpoint.manifest import StoredFile, read_manifest, write_manifest
from launcher.checkpoint.reader import read_state
from launcher.errors import CheckpointError

from .states import saved, tiny_state, trained_state
from .test_buffers import of_every_kind


@pytest.mark.parametrize("state", [tiny_state(3), trained_state(), of_every_kind(0)], ids=range(3))
def test_a_state_reads_back_equal(tmp_path: Path, state: dict[str, Any]) -> None:
    path = saved(tmp_path, state, step=3)
    for again in (read_state(path), read_state(path, digests=False), torch.load(path, weights_only=True)):
        assert describe(again) == describe(state) == read_manifest(path).content


def test_plain_values_keep_their_types(tmp_path: Path) -> None:
    values = {"t": (1, [2.5, (True, None)]), 3: {"nan": float("nan"), "minus": -0.0, "big": 2**200, "s": "ü"}}
    again = read_state(saved(tmp_path, {"task": values}, step=1))["task"]
    assert repr(again) == repr(values)


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    weight = torch.randn(100_000)
    path = saved(tmp_path, {"a": weight, "b": weight, "c": weight.view(100, -1).t()}, step=1)
    assert path.stat().st_size < 500_000
    state = read_state(path)
    state["a"][0] = 7.0
    assert state["b"][0] == 7.0
    assert state["c"][0, 0] == 7.0


def test_a_training_continues_from_it(tmp_path: Path) -> None:
    state = trained_state()
    again = read_state(saved(tmp_path, state))
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 8))
    optimizer = torch.optim.AdamW(model.parameters())
    model.load_state_dict(again["model_state_dict"])
    optimizer.load_state_dict(again["optimizer_state_dict"])
    live = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    saved_components = describe(state).components
    assert describe(live).components == {name: saved_components[name] for name in live}


def test_writing_to_the_loaded_state_does_not_change_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path, tiny_state(3))
    state = read_state(path)
    assert str(path) in Path("/proc/self/maps").read_text(), "not memory-mapped"
    state["model_state_dict"]["head.weight"].zero_()
    assert describe(read_state(path)) == describe(tiny_state(3))


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.target,)


def forged(directory: Path, path: Path) -> Path:
    """A manifest of a good checkpoint, made to fit whatever lies at ``path`` now."""
    model = read_manifest(saved(directory / "model", tiny_state(3)))
    stored = StoredFile(path.name, path.stat().st_size, files.file_digest(path))
    write_manifest(layout.manifest_of(path), replace(model, file=stored))
    return path


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_payload_with_a_fitting_manifest_is_not_executed(tmp_path: Path, form: str) -> None:
    path, proof = tmp_path / layout.checkpoint_file(3), tmp_path / "executed"
    state = {**tiny_state(3), "task": Payload(proof)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(state["task"]))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    forged(tmp_path, path)
    with pytest.raises(CheckpointError) as caught:
        read_state(path)
    assert not proof.exists()
    assert "Nothing in it was executed" in caught.value.what
    assert caught.value.where == str(path)
    if form == "zip":
        assert "mkdir" in str(caught.value.found)


def test_the_payload_is_real(tmp_path: Path) -> None:
    """The test above would pass with a payload that does nothing."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04", b"\x80\x02.", os.urandom(1000)], ids=range(4))
def test_foreign_bytes_with_a_fitting_manifest_are_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / layout.checkpoint_file(3)
    path.write_bytes(raw)
    with pytest.raises(CheckpointError):
        read_state(forged(tmp_path, path))


@pytest.mark.parametrize(
    "other",
    [
        {**tiny_state(3), "new": 1},
        {**tiny_state(3), "model_state_dict": {"head.weight": torch.zeros(8, 8)}},
        tiny_state(3, size=128),
        {"a": torch.zeros(1)},
    ],
    ids=range(4),
)
def test_a_file_that_holds_other_tensors_than_its_manifest_lists_is_refused(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    path = tmp_path / layout.checkpoint_file(3)
    torch.save(other, path)
    with pytest.raises(CheckpointError, match="belong together"):
        read_state(forged(tmp_path, path))


@pytest.mark.parametrize("other", [[1], torch.zeros(1), None])
def test_a_file_that_holds_no_dict_is_refused(tmp_path: Path, other: object) -> None:
    path = tmp_path / layout.checkpoint_file(3)
    torch.save(other, path)
    with pytest.raises(CheckpointError):
        read_state(forged(tmp_path, path))
