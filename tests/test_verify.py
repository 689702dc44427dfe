"""``launcher verify``: the proof that a control is exact, and where it is not, which part left first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from launcher.training.trainer import Trainer
from tests import tiny_faults
from tests.conftest import TrunkOf
from tests.tiny_process import Ended, Tiny

POINT = "branch.from_step=20"


def verified(tiny: Tiny, name: str = "control-") -> tuple[Ended, dict[str, Any]]:
    ended = tiny.launcher("verify", tiny.run(name).id, "--json")
    return ended, json.loads(ended.out)


def divergence(tiny: Tiny) -> tuple[str, int, str, str]:
    """Component, step, evidence and place of what ``verify`` names."""
    ended, verdict = verified(tiny)
    assert ended.status == 3, ended
    assert not verdict["exact"]
    first = verdict["divergence"]
    assert first["found"] != first["expected"]
    told = tiny.launcher("verify", tiny.run("control-").id)
    assert told.status == 3
    assert f"{first['component']}, at step {first['step']}, in {first['what']}" in told.out
    return first["component"], first["step"], first["evidence"], first["what"]


@pytest.mark.parametrize(
    "overrides",
    [[POINT], [POINT, "branch.step_mode=reset"], [POINT, "branch.steps=30"], ["branch.from_step=10"]],
)
def test_an_exact_control_is_proven(tiny: Tiny, overrides: list[str]) -> None:
    control = tiny.train(*overrides)
    start = 10 if "branch.from_step=10" in overrides else 20
    ended, verdict = verified(tiny)
    assert ended.status == 0
    assert verdict == {
        "run": control.id,
        "trunk": tiny.trunk.id,
        "exact": True,
        "from_step": start,
        "checkpoint_steps": list(range(start + 10, 41, 10)),
        "metric_lines": 40 - start,
        "divergence": None,
        "twin": False,
    }
    assert "exact" in tiny.launcher("verify", control.id).out


def test_also_after_it_was_killed_and_resumed(tiny: Tiny) -> None:
    assert tiny.launch(POINT, prepare=[tiny_faults.Kill(33, "SIGKILL", saved=True)]).status == 137
    tiny.train(POINT)
    assert verified(tiny)[0].status == 0


def test_a_branch_of_a_branch_is_held_against_the_branch(tiny: Tiny) -> None:
    first = tiny.train(POINT, "loss=heavy")
    tiny.train(f"branch.from_run={first.id}", "branch.from_step=30", "loss=heavy")
    ended, verdict = verified(tiny)
    assert (ended.status, verdict["trunk"]) == (0, first.id)


AT_RESTORE = [
    (tiny_faults.other_data, "data", "progress"),
    (tiny_faults.other_counter, "data", "task"),
    (tiny_faults.other_rng, "rng", "rng_state.torch"),
    (tiny_faults.other_schedule, "scheduler", "scheduler_state_dict"),
    (tiny_faults.other_moments, "optimizer", "optimizer_state_dict.state.0.exp_avg"),
    (tiny_faults.other_weight, "model", "model_state_dict.4.bias"),
    (tiny_faults.other_buffer, "model", "model_state_dict.1.running_mean"),
]


@pytest.mark.parametrize(("fault", "component", "what"), AT_RESTORE)
def test_a_fault_at_the_restore_is_named(
    tiny: Tiny, fault: Callable[[Trainer], None], component: str, what: str
) -> None:
    tiny.train(POINT, prepare=[partial(tiny_faults.after_restoring, fault)])
    assert divergence(tiny) == (component, 20, "restored state", what)


@pytest.mark.parametrize(
    ("fault", "component", "step", "what"),
    [
        (tiny_faults.other_data, "data", 26, "digest/batch"),
        (tiny_faults.other_rng, "rng", 26, "digest/rng"),
        # The rate of step 26 was set before, and wrong moments show in the step after they were used.
        (tiny_faults.other_schedule, "scheduler", 27, "train/learning_rate"),
        (tiny_faults.other_moments, "optimizer", 27, "train/error"),
    ],
)
def test_a_fault_in_mid_run_is_named_by_the_metrics(
    tiny: Tiny, fault: Callable[[Trainer], None], component: str, step: int, what: str
) -> None:
    tiny.train(POINT, prepare=[partial(tiny_faults.after_step, 25, fault)])
    assert divergence(tiny) == (component, step, "metrics", what)


@pytest.mark.parametrize(("fault", "component", "what"), AT_RESTORE)
def test_a_fault_at_a_checkpoint_is_named_by_its_tensor(
    tiny: Tiny, fault: Callable[[Trainer], None], component: str, what: str
) -> None:
    tiny.train(POINT, prepare=[partial(tiny_faults.after_step, 30, fault)])
    assert divergence(tiny) == (component, 30, "checkpoint", what)


@pytest.mark.parametrize(
    ("fault", "what"),
    [(tiny_faults.other_weight, "4.bias"), (tiny_faults.other_buffer, "1.running_mean")],
)
def test_with_a_checkpoint_at_each_step_weights_are_named_wherever_they_change(
    trunk_of: TrunkOf, fault: Callable[[Trainer], None], what: str
) -> None:
    tiny = trunk_of("checkpoint.every=1", "training.steps=30")
    tiny.train(POINT, "checkpoint.every=1", prepare=[partial(tiny_faults.after_step, 25, fault)])
    assert divergence(tiny) == ("model", 25, "checkpoint", f"model_state_dict.{what}")


def test_between_checkpoints_weights_that_change_are_seen_at_the_next_step(tiny: Tiny) -> None:
    """Whether the optimizer or something else changed them cannot be told from metrics."""
    tiny.train(POINT, prepare=[partial(tiny_faults.after_step, 25, tiny_faults.other_weight)])
    component, step, evidence, what = divergence(tiny)
    assert component in ("optimizer", "model")
    assert (step, evidence, what) == (26, "metrics", "train/error")


@pytest.mark.parametrize("first", [21, 31])
def test_a_model_that_computes_something_else_is_seen(tiny: Tiny, first: int) -> None:
    """Equal weights, other numbers: code that changed, or an operation that is not deterministic."""
    tiny.train(POINT, prepare=[partial(tiny_faults.other_forward, first)])
    component, step, evidence, _ = divergence(tiny)
    assert (component, step, evidence) == ("model", first, "metrics")


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["loss=heavy"], "loss.weight"),
        (["branch.reset=[rng]"], "how it was restored"),
        (["branch.restore=weights"], "weights"),
    ],
)
def test_what_is_no_control_has_nothing_to_prove(tiny: Tiny, overrides: list[str], why: str) -> None:
    run = tiny.train(POINT, *overrides)
    ended = tiny.launcher("verify", run.id)
    assert ended.status == 2
    assert "not a control" in ended.err
    assert why in ended.err
    [command] = ended.commands()
    tiny.train(*command)
    assert verified(tiny)[0].status == 0


def test_a_trunk_has_nothing_to_prove(tiny: Tiny) -> None:
    ended = tiny.launcher("verify", tiny.trunk.id)
    assert ended.status == 2
    assert "Traceback" not in ended.err


def test_without_a_common_step_there_is_nothing_to_compare(tiny: Tiny) -> None:
    tiny.train("branch.from_step=40", "branch.steps=5")
    ended = tiny.launcher("verify", tiny.run("control-").id)
    assert ended.status == 2
    assert "share no step" in ended.err


def test_without_the_trunk_there_is_nothing_to_compare_with(tiny: Tiny) -> None:
    tiny.train(POINT)
    trunk = tiny.trunk
    shutil.rmtree(trunk.directory.path)
    ended = tiny.launcher("verify", tiny.run("control-").id)
    assert ended.status == 2
    assert trunk.id in ended.err


def test_a_run_may_be_named_by_its_directory_from_within(tiny: Tiny) -> None:
    control = tiny.train(POINT)
    for name in (str(control.directory.path), str(control.directory.path / "checkpoints" / "..")):
        assert tiny.launcher("verify", name).status == 0
