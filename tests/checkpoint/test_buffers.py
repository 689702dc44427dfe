"""A copy is the state as it was, with its sharing, and no more bytes than are used."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from launcher import files
from launcher.checkpoint import buffers
from launcher.checkpoint.buffers import Buffers
from launcher.checkpoint.content import describe

from .states import tiny_state, trained_state

DTYPES = [
    *(
        torch.bool,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.int8,
        torch.int16,
        torch.int32,
    ),
    *(torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
]


def of_every_kind(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 2, (8 * 64,), dtype=torch.uint8, generator=generator)
    views = torch.randn(40, 30, generator=generator)
    return {
        "dtypes": {str(dtype): raw.clone()[: 16 * dtype.itemsize].view(dtype) for dtype in DTYPES},
        "views": [views, views[3:5], views.t(), views[:, ::3], views[7, 7], views[::2, 1:2], views.T[1]],
        "odd": [torch.empty(0), torch.empty(3, 0, 2), torch.tensor(5), torch.ones(1).expand(3, 4)],
        "reinterpreted": {"floats": views, "bits": views.view(torch.int32)},
        "plain": {"a": [1, (2.5, None, True)], 7: "text"},
    }


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_equals_the_state(seed: int) -> None:
    state = of_every_kind(seed)
    copied = Buffers().copy(state).state()
    assert describe(copied) == describe(state)
    assert copied["plain"] == state["plain"]
    for a, b in zip(copied["views"] + copied["odd"], state["views"] + state["odd"], strict=True):
        assert a.stride() == b.stride()


def test_later_changes_do_not_reach_the_copy() -> None:
    state = tiny_state(3)
    kept = describe(state)
    snapshot = Buffers().copy(state)
    state["model_state_dict"]["tied"].zero_()
    state["optimizer_state_dict"]["state"][0]["step"] += 1
    state["optimizer_state_dict"]["param_groups"][0]["lr"] = 0.0
    assert describe(snapshot.state()) == kept


def test_sharing_is_kept_and_copied_once() -> None:
    weight = torch.randn(1000)
    snapshot = Buffers().copy({"a": weight, "b": weight.view(10, 100), "c": weight[10:20]})
    assert snapshot.bytes == 4032
    state = snapshot.state()
    state["b"].zero_()
    assert not state["a"].any()
    assert not state["c"].any()


def test_of_a_large_storage_only_the_used_bytes_are_copied() -> None:
    large = torch.randn(100_000)
    snapshot = Buffers().copy({"a": large[5000:5100], "b": large[5200:5300:10]})
    assert snapshot.bytes <= 1300
    state = snapshot.state()
    assert torch.equal(state["a"], large[5000:5100])
    assert torch.equal(state["b"], large[5200:5300:10])


def test_memory_is_kept_between_copies_and_grows_with_the_state() -> None:
    kept = Buffers()
    kept.reserve({"a": torch.zeros(1000)})
    # Held together, so that memory given back in between could not be had again at the same place.
    states = [kept.copy({"a": torch.full((1000,), float(i))}).state() for i in range(3)]
    assert len({state["a"].data_ptr() for state in states}) == 1
    grown = {"a": torch.randn(100_000)}
    assert describe(kept.copy(grown).state()) == describe(grown)
    kept.release()


def test_many_threads_copy_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are cut within storages, so the cuts must meet."""
    monkeypatch.setattr(buffers, "_PIECE", 10_007)
    monkeypatch.setattr(files, "cores", lambda: 5)
    torch.manual_seed(0)
    state = {
        str(size): torch.randint(0, 256, (size,), dtype=torch.uint8)
        for size in (3_000_001, 1, 999, 5_000_000)
    }
    assert describe(Buffers().copy(state).state()) == describe(state)


def test_the_way_from_a_device_copies_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU here: the CPU takes the place of the device."""
    monkeypatch.setattr(
        buffers, "_copy_from_memory", lambda spans, arena: copy_from_devices(spans, [], arena)
    )
    copy_from_devices = buffers._copy_from_devices
    state = of_every_kind(1)
    assert describe(Buffers().copy(state).state()) == describe(state)


def test_metadata_of_a_modules_state_is_kept() -> None:
    state = trained_state()
    copied = Buffers().copy(state).state()
    assert copied["model_state_dict"]._metadata == state["model_state_dict"]._metadata
    assert type(copied["scheduler_state_dict"]["milestones"]) is type(
        state["scheduler_state_dict"]["milestones"]
    )
