"""Damage is found wherever it is, and an older whole checkpoint is taken."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from launcher import layout
from launcher.checkpoint.reader import read_state
from launcher.checkpoint.verify import complete_manifest, newest_good, verify_file
from launcher.errors import CheckpointError

from .states import saved, tiny_state

FLIPS = 600


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An older and a newer checkpoint in one directory."""
    directory = tmp_path_factory.mktemp("damage")
    return saved(directory, tiny_state(10)), saved(directory, tiny_state(20))


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ (1 << bit % 8)]))


@pytest.mark.parametrize("which", ["state", "manifest"])
def test_every_flipped_bit_is_found(pair: tuple[Path, Path], which: str) -> None:
    older, newer = pair
    target = newer if which == "state" else layout.manifest_of(newer)
    bits = random.Random(which).sample(range(target.stat().st_size * 8), FLIPS)
    for bit in bits:
        flip(target, bit)
        try:
            with pytest.raises(CheckpointError) as caught:
                read_state(newer)
            assert str(newer.parent) in str(caught.value.where), bit
            good, refused = newest_good(newer.parent)
            assert good == older
            assert [str(error) for error in refused] == [str(caught.value)]
        finally:
            flip(target, bit)
    assert newest_good(newer.parent) == (newer, [])


def test_plain_torch_load_would_not_have_found_most_of_them(pair: tuple[Path, Path]) -> None:
    """Why the digests are there; if this fails, torch has learned to check, and the docs should say so."""
    import torch

    _, newer = pair
    loaded = 0
    for bit in random.Random(0).sample(range(newer.stat().st_size * 8), 50):
        flip(newer, bit)
        try:
            torch.load(newer, weights_only=True)
            loaded += 1
        except Exception:
            continue
        finally:
            flip(newer, bit)
    assert loaded > 10


@pytest.mark.parametrize("which", ["state", "manifest"])
def test_every_truncation_and_extension_is_found(tmp_path: Path, which: str) -> None:
    older, newer = saved(tmp_path, tiny_state(10)), saved(tmp_path, tiny_state(20))
    target = newer if which == "state" else layout.manifest_of(newer)
    whole = target.read_bytes()
    for more in (b"\0", b"\n", b" ", b"}", b"PK"):
        target.write_bytes(whole + more)
        with pytest.raises(CheckpointError):
            complete_manifest(newer)
    target.write_bytes(whole)
    for size in reversed(range(len(whole))):
        os.truncate(target, size)
        with pytest.raises(CheckpointError):
            complete_manifest(newer)
    assert newest_good(tmp_path)[0] == older


def test_a_lost_file_is_told_and_the_older_one_taken(tmp_path: Path) -> None:
    older, newer = saved(tmp_path, tiny_state(10)), saved(tmp_path, tiny_state(20))
    newer.unlink()
    good, (refused,) = newest_good(tmp_path)
    assert good == older
    assert "cannot be read" in refused.what
    assert refused.where == str(newer)


def test_of_all_damaged_ones_each_is_named(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        flip(saved(tmp_path, tiny_state(step)), 4321)
    good, refused = newest_good(tmp_path)
    assert good is None
    assert [Path(str(error.where)).name for error in refused] == [
        layout.checkpoint_file(step) for step in (3, 2, 1)
    ]


def test_an_empty_and_a_missing_directory_hold_none(tmp_path: Path) -> None:
    assert newest_good(tmp_path) == (None, [])
    assert newest_good(tmp_path / "nowhere") == (None, [])


def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, tiny_state(10))
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError):
        verify_file(path)
