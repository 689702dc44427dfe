"""What was typed takes effect: it wins over restored state, and a change without effect is an error."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.training.schedule import warmup_cosine
from tests import tiny_faults
from tests.conftest import TrunkOf
from tests.tiny_process import Tiny, digest, manifests, metrics

FACTOR = warmup_cosine(40, 5, 0.1)


def group(tiny: Tiny, name: str) -> dict[str, Any]:
    """The live optimizer's only group as the branch's first checkpoint has it."""
    return manifests(tiny.run(name))[30].content.optimizer_groups[0].hyperparameters


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("optimizer.weight_decay=0.3", "weight_decay", 0.3),
        ("optimizer.betas=[0.5,0.6]", "betas", [0.5, 0.6]),
        ("optimizer.eps=1e-3", "eps", 1e-3),
    ],
)
def test_a_hyperparameter_reaches_the_live_optimizer(tiny: Tiny, typed: str, key: str, value: Any) -> None:
    branch = tiny.train("branch.from_step=20", typed)
    assert branch.record.branch_type == "factor"
    assert list(branch.record.differences) == [f"optimizer.{key}"]
    found = group(tiny, branch.id)[key]
    assert (list(found) if isinstance(found, tuple) else found) == value
    assert digest(branch) != digest(tiny.trunk)


def test_a_learning_rate_reaches_the_first_step_and_all_later_ones(tiny: Tiny) -> None:
    branch = tiny.train("branch.from_step=20", "optimizer.lr=5e-5")
    rates = {step: line["train/learning_rate"] for step, line in metrics(branch).items()}
    assert rates == {step: 5e-5 * FACTOR(step - 1) for step in range(21, 41)}
    assert group(tiny, branch.id)["initial_lr"] == 5e-5
    theirs = {step: line["train/learning_rate"] for step, line in metrics(tiny.trunk).items()}
    assert theirs == {step: 1e-3 * FACTOR(step - 1) for step in range(1, 41)}
    assert digest(branch) != digest(tiny.trunk)


def test_a_schedules_argument_takes_effect(tiny: Tiny) -> None:
    branch = tiny.train("branch.from_step=20", "scheduler.min_factor=0.5")
    other = warmup_cosine(40, 5, 0.5)
    rates = {step: line["train/learning_rate"] for step, line in metrics(branch).items()}
    assert rates == {step: 1e-3 * other(step - 1) for step in range(21, 41)}


def test_another_schedule_takes_effect(tiny: Tiny) -> None:
    branch = tiny.train("branch.from_step=20", "scheduler=constant")
    assert {line["train/learning_rate"] for line in metrics(branch).values()} == {1e-3}


def test_another_loss_takes_effect(tiny: Tiny) -> None:
    branch = tiny.train("branch.from_step=20", "loss=heavy")
    assert branch.record.differences == {"loss.weight": [0.1, 0.5]}
    assert (branch.id.rpartition("-")[0], branch.record.branch_type) == ("heavy-loss", "factor")
    own, trunk = metrics(branch)[21], metrics(tiny.trunk)[21]
    assert own["train/error"] == trunk["train/error"]
    assert own["train/total_loss"] > trunk["train/total_loss"]
    assert digest(branch) != digest(tiny.trunk)


def test_a_gradient_clip_takes_effect(tiny: Tiny) -> None:
    branch = tiny.train("branch.from_step=20", "training.gradient_clip=0.01")
    assert digest(branch) != digest(tiny.trunk)


def test_what_is_typed_as_the_trunk_has_it_is_a_control(tiny: Tiny) -> None:
    branch = tiny.train("branch.from_step=20", "optimizer.lr=1e-3", "loss=plain", "curriculum=early")
    assert branch.record.branch_type == "control"
    assert digest(branch) == digest(tiny.trunk)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["curriculum=late", "branch.from_step=30"], "curriculum=late"),
        (["curriculum.l1_from_step=5", "branch.from_step=20"], "curriculum.l1_from_step=5"),
        (["+model.unused=3", "branch.from_step=20"], "model.unused=3"),
        (["loss.nan_at_step=7", "branch.from_step=20"], "loss.nan_at_step=7"),
    ],
)
def test_a_change_without_effect_is_refused(tiny: Tiny, overrides: list[str], named: str) -> None:
    ended = tiny.refuse(*overrides)
    assert "had no effect" in ended.err
    assert named in ended.err
    assert "command line" in ended.err


def test_a_change_without_effect_is_found_behind_one_that_has_it(tiny: Tiny) -> None:
    ended = tiny.refuse("branch.from_step=20", "loss=heavy", "curriculum.l1_from_step=5")
    assert "curriculum.l1_from_step=5" in ended.err
    assert "loss=heavy" not in ended.err.partition("1 finding")[2]


def test_a_change_that_begins_later_says_when(empty: Tiny) -> None:
    trunk = empty.train("curriculum=late")
    branch = empty.train("branch.from_step=20", "curriculum=late", "loss=heavy")
    [finding] = branch.record.findings
    assert (finding["level"], finding["what"]) == ("note", "loss=heavy")
    assert "from step 25 on" in finding["found"]
    own, theirs = metrics(branch), metrics(trunk)
    differing = [step for step in own if own[step]["train/total_loss"] != theirs[step]["train/total_loss"]]
    assert min(differing) == 25


def test_a_restore_that_undoes_what_was_typed_is_caught(tiny: Tiny) -> None:
    """The classic failure: load_state_dict brings the trunk's learning rate back."""
    for typed in ("optimizer.lr=5e-5", "optimizer.weight_decay=0.3"):
        ended = tiny.launch("branch.from_step=20", typed, prepare=[tiny_faults.lose_what_was_typed])
        assert ended.status == 1
        key = typed.partition("=")[0]
        assert f"error: {key} had no effect" in ended.err
        assert "Traceback" not in ended.err
    assert {run.record.state for run in tiny.runs() if run.record.kind == "branch"} == {"failed"}


def test_another_optimizer_class_is_not_silently_the_old_one(tiny: Tiny) -> None:
    """Adam and AdamW keep the same state and the same group keys; AdamW's flag would win."""
    ended = tiny.refuse("branch.from_step=20", "optimizer._target_=torch.optim.Adam")
    assert "optimizer" in ended.err
    assert "branch.reset=[optimizer" in ended.err


@pytest.fixture
def unseeded(trunk_of: TrunkOf) -> Tiny:
    """A trunk of another task."""
    return trunk_of(*UNSEEDED)


UNSEEDED = ("task._target_=tests.tiny_variants.UnseededTask", "+model.scale=1.0")


def test_what_a_models_repr_does_not_show_counts_too(unseeded: Tiny) -> None:
    scaled = unseeded.train("branch.from_step=20", UNSEEDED[0], "+model.scale=2.0")
    assert metrics(scaled)[21]["train/error"] != metrics(unseeded.trunk)[21]["train/error"]


def test_a_seed_counts_where_something_is_drawn_from_it(unseeded: Tiny) -> None:
    point = ["branch.from_step=20", f"branch.from_run={unseeded.trunk.id}", *UNSEEDED]
    assert "seed=1" in unseeded.refuse(*point, "seed=1").err
    ends = {
        digest(unseeded.train(*point, *more))
        for more in ([], ["branch.reset=[rng]"], ["branch.reset=[rng]", "seed=1"])
    }
    assert len(ends) == 3


def test_a_switch_that_needs_state_from_the_first_step_on_is_refused(tiny: Tiny) -> None:
    assert "optimizer.amsgrad=true" in tiny.refuse("branch.from_step=20", "+optimizer.amsgrad=true").err
    branch = tiny.train(
        "branch.from_step=20", "+optimizer.amsgrad=true", "branch.reset=[optimizer,scheduler]"
    )
    assert digest(branch) != digest(tiny.trunk)


def test_another_place_of_the_same_data_is_told_and_changes_nothing(trunk_of: TrunkOf) -> None:
    tiny = trunk_of("+data.path=here/spectra.mgf")
    branch = tiny.train("branch.from_step=20", "+data.path=there/spectra.mgf")
    [finding] = branch.record.findings
    assert (finding["level"], finding["what"]) == ("note", "data.path=there/spectra.mgf")
    assert "same content" in finding["found"]
    assert digest(branch) == digest(tiny.trunk)
