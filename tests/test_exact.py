"""A branch is exact: with nothing changed it continues its trunk bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from launcher.checkpoint.difference import differing
from launcher.training.trainer import Trainer
from tests import tiny_faults
from tests.tiny_process import Tiny, digest, in_a_new_interpreter, manifests, metrics


def test_in_interpreters_of_their_own(empty: Tiny) -> None:
    """Nothing is shared between the two but the files: not even the seed of Python's hashes."""
    for number, branch in (("1", []), ("2", ["branch.from_step=20"])):
        arguments = ["-m", "tests.tiny_train", f"paths.outputs={empty.outputs}", *branch]
        ended = in_a_new_interpreter(*arguments, PYTHONHASHSEED=number)
        assert (ended.status, ended.err) == (0, "")
    trunk, control = manifests(empty.trunk), manifests(empty.run("control-"))
    assert sorted(control) == [30, 40]
    assert {step: one.sha256 for step, one in control.items()} == {s: trunk[s].sha256 for s in control}
    assert trunk[30].sha256 != trunk[40].sha256


def test_every_component_and_every_metric_is_the_trunks(tiny: Tiny) -> None:
    control = tiny.train("branch.from_step=20")
    assert control.record.kind == "branch"
    assert control.record.branch_type == "control"
    ours, theirs = manifests(control)[40].content, manifests(tiny.trunk)[40].content
    assert not differing(theirs, ours)
    assert set(ours.components) == {
        "step", "model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "scaler_state_dict",
        "progress", "rng_state", "task",
    }  # fmt: skip
    own, trunk = metrics(control), metrics(tiny.trunk)
    assert sorted(own) == list(range(21, 41))
    for step, line in own.items():
        assert line.pop("branch_step") == step - 20
        assert line == {name: value for name, value in trunk[step].items() if name != "branch_step"}


def test_the_trunk_itself_repeats(tiny: Tiny, trained: Tiny) -> None:
    again = Tiny(tiny.outputs.parent / "again")
    assert digest(again.train()) == digest(trained.trunk)
    assert digest(again.train("seed=1")) != digest(trained.trunk)


def test_a_branch_of_a_branch(tiny: Tiny) -> None:
    first = tiny.train("branch.from_step=10", "branch.steps=15")
    assert sorted(manifests(first)) == [20, 25]
    second = tiny.train("branch.from_step=25", "training.steps=40")
    assert second.record.parent is not None
    assert (second.record.parent.run, second.record.parent.step) == (first.id, 25)
    assert digest(second) == digest(tiny.trunk)


def test_with_steps_numbered_anew_all_but_the_numbers_are_equal(tiny: Tiny) -> None:
    control = tiny.train("branch.from_step=20", "branch.step_mode=reset")
    assert control.record.branch_type == "control"
    difference = differing(manifests(tiny.trunk)[40].content, manifests(control)[20].content)
    assert set(difference.components) == {"step", "progress"}
    assert difference.tensors == ()
    lines = metrics(control)
    assert sorted(lines) == list(range(1, 21))
    assert all(line["absolute_step"] == step + 20 for step, line in lines.items())
    assert all(line["branch_step"] == step for step, line in lines.items())
    assert manifests(control)[20].about.absolute_step == 40


@pytest.mark.parametrize(
    "fault",
    [
        tiny_faults.other_rng,
        tiny_faults.other_moments,
        tiny_faults.other_schedule,
        tiny_faults.other_weight,
        tiny_faults.other_buffer,
        tiny_faults.other_data,
        tiny_faults.other_counter,
    ],
    ids=lambda fault: fault.__name__,
)
def test_a_part_that_is_not_restored_would_show(tiny: Tiny, fault: Callable[[Trainer], None]) -> None:
    """The digest is a proof only if it differs when anything is lost."""
    lossy = [partial(tiny_faults.after_restoring, fault)]
    assert digest(tiny.train("branch.from_step=20", prepare=lossy)) != digest(tiny.trunk)
