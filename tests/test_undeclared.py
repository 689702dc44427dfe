"""Nothing else changed: a branch that differs from its trunk in what nobody typed is refused."""

from __future__ import annotations

import shlex
import shutil

import pytest

from tests.conftest import TrunkOf
from tests.tiny_process import Ended, Tiny, digest

POINT = "branch.from_step=20"


def settling(ended: Ended, what: str) -> list[str]:
    """The overrides that the message offers, as a shell would read them."""
    [line] = [line for line in ended.err.splitlines() if what in line]
    return shlex.split(line.partition(what)[2])


@pytest.fixture
def heavy(trunk_of: TrunkOf) -> Tiny:
    return trunk_of("loss=heavy", "loss.weight=0.7", "optimizer.lr=3e-3")


def test_each_key_with_both_values(heavy: Tiny) -> None:
    ended = heavy.refuse(POINT)
    assert heavy.trunk.id in ended.err
    assert "loss.weight: trunk 0.7, here 0.1" in ended.err
    assert "optimizer.lr: trunk 0.003, here 0.001" in ended.err
    assert "label" not in ended.err
    assert "facts" not in ended.err


def test_what_is_printed_makes_it_the_trunks_control(heavy: Tiny) -> None:
    offered = settling(heavy.refuse(POINT), "as the trunk:")
    assert offered == ["loss=heavy", "loss.weight=0.7", "optimizer.lr=0.003"]
    control = heavy.train(POINT, *offered)
    assert control.record.branch_type == "control"
    assert digest(control) == digest(heavy.trunk)


def test_what_is_printed_makes_it_a_branch_on_purpose(heavy: Tiny) -> None:
    branch = heavy.train(POINT, *settling(heavy.refuse(POINT), "on purpose:"))
    assert branch.record.branch_type == "factor"
    assert branch.record.differences == {"loss.weight": [0.7, 0.1], "optimizer.lr": [0.003, 0.001]}


def test_only_what_was_not_typed_is_asked_about(heavy: Tiny) -> None:
    ended = heavy.refuse(POINT, "loss.weight=0.2")
    assert "loss.weight" not in ended.err
    assert settling(ended, "as the trunk:") == ["optimizer.lr=0.003"]


@pytest.mark.parametrize(
    "typed",
    [
        "+loss.extra=1",
        "training.gradient_clip=null",
        "optimizer.betas=[0.5,0.6]",
        "+model.note='a b, [c] it\\'s {d}'",
        "+model.more={a:1,b:[x,null,true]}",
        "~optimizer.fused",
        "~optimizer.eps",
        "optimizer=sgd",
        "seed=7",
    ],
)
def test_any_kind_of_value_is_printed_so_that_it_can_be_typed(trunk_of: TrunkOf, typed: str) -> None:
    tiny = trunk_of(typed, "training.steps=20")
    ended = tiny.refuse("branch.from_step=10")
    control = tiny.train("branch.from_step=10", *settling(ended, "as the trunk:"))
    assert control.record.branch_type == "control"
    assert digest(control, 20) == digest(tiny.trunk, 20)


def test_a_checkpoint_without_its_run_is_told_by_key(heavy: Tiny) -> None:
    """Where the record is not there, the config in the manifest still is."""
    moved = heavy.outputs.parent / "moved"
    shutil.copytree(heavy.trunk.directory.checkpoints, moved)
    end = digest(heavy.trunk)
    shutil.rmtree(heavy.outputs / "trunks")
    place = f"branch.from_checkpoint={moved}"
    offered = settling(heavy.refuse(place, POINT), "as the trunk:")
    assert offered == ["loss.weight=0.7", "optimizer.lr=0.003"]
    assert digest(heavy.train(place, POINT, *offered)) == end


def test_a_group_from_outside_the_defaults_list_counts_as_typed(tiny: Tiny) -> None:
    branch = tiny.train(POINT, "+arm=steep")
    assert branch.record.differences == {"loss.weight": [0.1, 0.5], "optimizer.lr": [0.001, 0.002]}
    assert branch.record.declared["optimizer.lr"] == 0.002


def test_a_branch_of_a_branch_is_held_against_its_own_trunk(tiny: Tiny) -> None:
    first = tiny.train(POINT, "loss=heavy")
    point = [f"branch.from_run={first.id}", "branch.from_step=30"]
    assert "loss.weight: trunk 0.5, here 0.1" in tiny.refuse(*point).err
    assert digest(tiny.train(*point, "loss=heavy")) == digest(first)


@pytest.mark.parametrize(
    "typed",
    [
        "training.log_every=2",
        "training.validate_every=0",
        "checkpoint.every=7",
        "checkpoint.keep_last=1",
        "tracking.project=x",
        "+loss.facts.source=paper",
    ],
)
def test_what_cannot_change_the_result_is_no_difference(trunk_of: TrunkOf, typed: str) -> None:
    tiny = trunk_of(typed, "training.steps=20", "branch.tags=[a]")
    control = tiny.train(f"branch.from_run={tiny.trunk.id}", "branch.from_step=20", "branch.steps=1")
    assert control.record.branch_type == "control"
