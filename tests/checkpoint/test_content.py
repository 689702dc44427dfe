"""Equal states have equal digests, different ones different digests."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from typing import Any

import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.checkpoint.content import describe
from launcher.errors import CheckpointError

from .states import tiny_state, trained_state

keys = st.text(max_size=4) | st.integers(0, 9)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


def digest(value: object) -> str:
    return describe({"value": value}).sha256


def spelled(value: Any) -> object:
    """A spelling that tells apart exactly what the digest must; the oracle of the property below."""
    if isinstance(value, dict):
        return "dict", frozenset((repr(key), spelled(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value).__name__, tuple(map(spelled, value))
    return type(value).__name__, repr(value)


@given(plain, plain)
@settings(max_examples=300, deadline=None)
def test_plain_values_have_equal_digests_exactly_if_they_are_equal(a: Any, b: Any) -> None:
    assert (digest(a) == digest(b)) == (spelled(a) == spelled(b))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (0.0, -0.0),
        (None, "None"),
        (1, "1"),
        ("i:1", 1),
        ([1], (1,)),
        ({1: 0}, {"1": 0}),
        ([], {}),
        (float("inf"), float("-inf")),
        (0.1, 0.1 + 2**-54),
        (["tensor", "float32"], torch.zeros(1)),
        (torch.tensor(1), 1),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2), -torch.zeros(2)),
        (torch.zeros(2, dtype=torch.int32), torch.zeros(2)),
        (torch.zeros(0), torch.zeros(0, 3)),
    ],
)
def test_what_differs_has_another_digest(a: object, b: object) -> None:
    assert digest(a) != digest(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (float("nan"), -float("nan")),
        (torch.arange(6.0).view(2, 3), torch.arange(6.0).view(3, 2).t().contiguous().t().reshape(2, 3)),
        (torch.arange(6.0).view(2, 3).t(), torch.arange(6.0).view(2, 3).t().contiguous()),
        (torch.arange(9.0)[::2], torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0])),
        (torch.ones(1).expand(4), torch.ones(4)),
        (torch.nn.Parameter(torch.ones(3)), torch.ones(3)),
        (torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])),
        (torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.zeros(2, 3, 4, 5)),
    ],
)
def test_how_it_lies_in_memory_does_not_count(a: object, b: object) -> None:
    assert digest(a) == digest(b)


def test_a_tensors_digest_is_blake3_of_its_elements() -> None:
    tensor = torch.arange(6, dtype=torch.int16).view(2, 3)
    (entry,) = describe({"a": {"b": [tensor.t().contiguous().t()]}}).tensors
    assert (entry.name, entry.shape, entry.dtype) == ("a.b.0", (2, 3), "int16")
    assert entry.digest == blake3(b"\0\0\1\0\2\0\3\0\4\0\5\0").hexdigest()


def test_large_strided_tensors_are_digested_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.checkpoint.content._SLAB", 64)
    tensor = torch.randn(7, 5, 31).permute(1, 2, 0)
    assert digest(tensor) == digest(tensor.contiguous())


def test_the_digest_does_not_change_between_versions_and_processes() -> None:
    """A digest that was written down stays true: this one is from the first version."""
    state = {"a": torch.arange(4.0), "b": {"c": [1, 2.5, None, True, "x"], 0: (1,)}}
    assert describe(state).sha256 == "42de1c3cfa7f5b66ec95d5def6f9f670da020449f8b63a5fec88a2f5193401e7"
    program = (
        "import torch; from launcher.checkpoint.content import describe;"
        "print(describe({'b': {0: (1,), 'c': [1, 2.5, None, True, 'x']}, 'a': torch.arange(4.0)}).sha256)"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == describe(state).sha256


def test_one_changed_bit_changes_its_component_only() -> None:
    state, changed = tiny_state(1), tiny_state(1)
    changed["optimizer_state_dict"]["state"][0]["exp_avg"].view(torch.int32)[17] ^= 1
    a, b = describe(state), describe(changed)
    assert a.sha256 != b.sha256
    assert [name for name in a.components if a.components[name] != b.components[name]] == [
        "optimizer_state_dict"
    ]
    assert [x.name for x, y in zip(a.tensors, b.tensors, strict=True) if x != y] == [
        "optimizer_state_dict.state.0.exp_avg"
    ]


def test_optimizer_groups_are_read_from_the_state() -> None:
    state = trained_state()
    (group,) = describe(state).optimizer_groups
    assert group.parameters == 6
    assert group.hyperparameters["lr"] == 1e-3
    assert group.hyperparameters["betas"] == [0.9, 0.999]
    assert "params" not in group.hyperparameters
    state["optimizer_state_dict"]["param_groups"][0]["lr"] = torch.tensor(0.5)
    assert describe(state).optimizer_groups[0].hyperparameters["lr"] == 0.5
    assert describe({"optimizer_state_dict": {"odd": 1}}).optimizer_groups == ()


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        describe({"a": {0: torch.zeros(1), "0": torch.ones(1)}})
    assert caught.value.where == "a.0"
