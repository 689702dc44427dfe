"""What a branch takes over from its branch point, and what it leaves there."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from launcher.checkpoint.content import describe
from launcher.checkpoint.difference import differing
from launcher.checkpoint.manifest import Manifest, read_manifest_file
from launcher.training.schedule import warmup_cosine
from tests import tiny_faults
from tests.conftest import TrunkOf
from tests.tiny_process import Tiny, digest, manifests, metrics
from tests.tiny_variants import Parts

POINT = "branch.from_step=20"
STAGE = "task._target_=tests.tiny_variants.StageTask"


def start(tiny: Tiny, *overrides: str) -> Manifest:
    """The state of a branch before its first step."""
    path = tiny.outputs.parent / "start.json"
    tiny.train(POINT, "branch.steps=1", *overrides, prepare=[partial(tiny_faults.describe_start, path)])
    return read_manifest_file(path)


def changed(tiny: Tiny, *overrides: str) -> tuple[set[str], set[str]]:
    """Components that are not the branch point's, and those of them in which a tensor differs."""
    difference = differing(manifests(tiny.trunk)[20].content, start(tiny, *overrides).content)
    return set(difference.components), {one.name.partition(".")[0] for one in difference.tensors}


@pytest.mark.parametrize(
    ("part", "components", "with_tensors"),
    [
        ("", set(), set()),
        ("optimizer", {"optimizer_state_dict"}, {"optimizer_state_dict"}),
        # The learning rate in the optimizer's group belongs to the scheduler.
        ("scheduler", {"scheduler_state_dict", "optimizer_state_dict"}, set()),
        ("data", {"progress"}, set()),
        ("rng", {"rng_state"}, {"rng_state"}),
        ("step", {"progress", "step"}, set()),
        (
            "data,rng,step",
            {"progress", "step", "rng_state"},
            {"rng_state"},
        ),
    ],
)
def test_reset_leaves_exactly_its_part(
    tiny: Tiny, part: str, components: set[str], with_tensors: set[str]
) -> None:
    assert changed(tiny, f"branch.reset=[{part}]") == (components, with_tensors)


@pytest.mark.parametrize(
    ("part", "progress"),
    [
        ("data", {"step": 20, "absolute_step": 20, "task_step": 20, "data_step": 0}),
        ("step", {"step": 0, "absolute_step": 20, "task_step": 0, "data_step": 20}),
        ("rng", {"step": 20, "absolute_step": 20, "task_step": 20, "data_step": 20}),
    ],
)
def test_reset_counts_anew_what_it_names(tiny: Tiny, part: str, progress: dict[str, int]) -> None:
    assert start(tiny, f"branch.reset=[{part}]").about.progress == progress


def test_a_reset_is_told_in_the_name_and_is_no_control(tiny: Tiny) -> None:
    branch = tiny.train(POINT, "branch.reset=[optimizer,scheduler]")
    assert branch.id.startswith("reset-optimizer-reset-scheduler-")
    assert branch.record.branch_type == "factor"
    assert digest(branch) != digest(tiny.trunk)


def test_with_data_reset_it_sees_the_first_batches_again(tiny: Tiny) -> None:
    own, trunk = metrics(tiny.train(POINT, "branch.reset=[data]")), metrics(tiny.trunk)
    assert [own[step]["digest/batch"] for step in range(21, 41)] == [
        trunk[step]["digest/batch"] for step in range(1, 21)
    ]


class TestWeights:
    def test_only_the_model_is_taken(self, tiny: Tiny) -> None:
        components, _ = changed(tiny, "branch.restore=weights")
        assert components == {
            "optimizer_state_dict", "scheduler_state_dict", "progress", "rng_state", "task",
        }  # fmt: skip

    def test_everything_else_starts_from_the_seed(self, tiny: Tiny) -> None:
        begun = start(tiny, "branch.restore=weights")
        assert begun.about.progress == {"step": 20, "absolute_step": 20, "task_step": 0, "data_step": 0}
        branch = tiny.train(POINT, "branch.restore=weights")
        own, trunk = metrics(branch), metrics(tiny.trunk)
        assert branch.record.branch_type == "weights"
        assert own[21]["digest/batch"] == trunk[1]["digest/batch"]
        assert own[21]["train/learning_rate"] == trunk[1]["train/learning_rate"]
        assert own[21]["train/error"] != trunk[1]["train/error"]

    def test_it_repeats(self, tiny: Tiny) -> None:
        again = Tiny(tiny.outputs.parent / "again")
        again.train()
        typed = [POINT, "branch.restore=weights", "branch.exclude=[4.*]"]
        assert digest(tiny.train(*typed)) == digest(again.train(*typed))


def tensors(manifest: Manifest) -> dict[str, str]:
    prefix = "model_state_dict."
    return {one.name.removeprefix(prefix): one.digest for one in manifest.tensors if prefix in one.name}


class TestPart:
    """Stage 1's encoder into stage 2."""

    @pytest.fixture
    def stage(self, trunk_of: TrunkOf) -> Tiny:
        return trunk_of(STAGE)

    def taken(self, stage: Tiny, *overrides: str, encoder: str = "encoder") -> dict[str, str]:
        """Of each tensor of the new model: ``trunk``, or ``new`` as the seed initialises it."""
        begun = tensors(start(stage, STAGE, "branch.restore=weights", *overrides))
        there = tensors(manifests(stage.trunk)[20])
        torch.manual_seed(0)
        fresh = describe({"model_state_dict": dict(Parts(encoder).state_dict())})
        new = {one.name.removeprefix("model_state_dict."): one.digest for one in fresh.tensors}
        assert begun.keys() == new.keys()
        found = {}
        for name, one in begun.items():
            theirs = there.get(name.replace(encoder, "encoder", 1))
            found[name] = "trunk" if one == theirs else "new" if one == new[name] else "neither"
        return found

    def parts(self, found: dict[str, str]) -> dict[str, set[str]]:
        return {
            part: {value for name, value in found.items() if name.startswith(part)}
            for part in {name.partition(".")[0] for name in found}
        }

    def test_include(self, stage: Tiny) -> None:
        found = self.taken(stage, "branch.include=[encoder.*]")
        assert self.parts(found) == {"encoder": {"trunk"}, "head": {"new"}}

    def test_exclude(self, stage: Tiny) -> None:
        found = self.taken(stage, "branch.exclude=[encoder.1.*,head.bias]")
        new = {name for name, value in found.items() if value == "new"}
        # Counters and statistics of batch norm start as they are initialised, like its weights.
        assert {"head.bias", "encoder.1.running_mean", "encoder.1.num_batches_tracked"} <= new
        assert {found["encoder.0.weight"], found["head.weight"]} == {"trunk"}

    def test_include_and_exclude(self, stage: Tiny) -> None:
        found = self.taken(stage, "branch.include=[encoder.*]", "branch.exclude=[encoder.0.*]")
        assert found["encoder.1.running_mean"] == "trunk"
        assert {found["encoder.0.weight"], found["head.weight"]} == {"new"}

    def test_rename(self, stage: Tiny) -> None:
        other = ["+model.encoder=body", "+branch.rename={encoder.:body.}"]
        found = self.taken(stage, *other, encoder="body")
        assert self.parts(found) == {"body": {"trunk"}, "head": {"trunk"}}

    def test_a_parameter_that_the_checkpoint_lacks_is_named(self, stage: Tiny) -> None:
        ended = stage.refuse(POINT, STAGE, "branch.restore=weights", "+model.encoder=body")
        assert "body.0.weight absent → float32[16, 8]" in ended.err
        assert "model.encoder" in ended.err

    @pytest.mark.parametrize(
        ("override", "named"),
        [
            ("branch.include=[decoder.*]", "branch.include"),
            ("branch.exclude=[decoder.*]", "branch.exclude"),
            ("+branch.rename={decoder.:encoder.}", "branch.rename"),
            ("+branch.rename={encoder.0.:head.}", "branch.rename"),
        ],
    )
    def test_a_pattern_that_fits_nothing_or_too_much_is_refused(
        self, stage: Tiny, override: str, named: str
    ) -> None:
        ended = stage.refuse(POINT, STAGE, "branch.restore=weights", override)
        assert f"{named} " in ended.err
        assert "finding stops the launch" in ended.err


def rates(run: Any) -> dict[int, float]:
    return {step: line["train/learning_rate"] for step, line in metrics(run).items()}


class TestLength:
    def test_kept_the_schedule_goes_on_to_the_trunks_horizon(self, tiny: Tiny) -> None:
        branch = tiny.train(POINT, "branch.steps=7")
        assert (branch.record.start_step, branch.record.end_step, branch.record.step) == (20, 27, 27)
        assert sorted(manifests(branch)) == [27]
        trunk = rates(tiny.trunk)
        assert rates(branch) == {step: trunk[step] for step in range(21, 28)}

    def test_longer_than_the_trunk_it_stays_at_the_schedules_end(self, tiny: Tiny) -> None:
        branch = tiny.train(POINT, "branch.steps=30")
        assert sorted(manifests(branch)) == [30, 40, 50]
        assert digest(branch) == digest(tiny.trunk)
        assert {rates(branch)[step] for step in range(41, 51)} == {1e-3 * 0.1}

    def test_restarted_it_spans_the_branch(self, tiny: Tiny) -> None:
        branch = tiny.train(POINT, "branch.schedule=restart", "branch.steps=10")
        factor = warmup_cosine(10, 5, 0.1)
        assert rates(branch) == {20 + step: 1e-3 * factor(step - 1) for step in range(1, 11)}
        assert branch.record.horizon_steps == 10
        assert branch.record.branch_type == "factor"
        components, with_tensors = changed(tiny, "branch.schedule=restart", "scheduler.warmup_steps=0")
        assert "optimizer_state_dict" not in with_tensors
        assert "rng_state" not in components

    def test_training_steps_say_up_to_where(self, tiny: Tiny) -> None:
        branch = tiny.train(POINT, "training.steps=33")
        assert (branch.record.end_step, branch.record.horizon_steps) == (33, 40)
        renumbered = tiny.train(POINT, "training.steps=33", "branch.step_mode=reset")
        assert (renumbered.record.start_step, renumbered.record.end_step) == (0, 33)

    @pytest.mark.parametrize("steps", ["training.steps=20", "training.steps=5"])
    def test_an_end_before_the_start_is_refused(self, tiny: Tiny, steps: str) -> None:
        ended = tiny.refuse(POINT, steps)
        assert "nothing left to train" in ended.err
        assert "branch.steps=" in ended.err

    def test_from_the_trunks_end_it_has_to_be_said_how_far(self, tiny: Tiny) -> None:
        assert "branch.steps=" in tiny.refuse("branch.from_step=40").err
        assert tiny.train("branch.from_step=40", "branch.steps=5").record.end_step == 45

    def test_two_ends_are_refused(self, tiny: Tiny) -> None:
        ended = tiny.refuse(POINT, "branch.steps=5", "training.steps=30")
        assert "branch.steps=5 training.steps=30" in ended.err
