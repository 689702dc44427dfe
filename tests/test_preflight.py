"""Everything is checked before anything starts, and all that was found is said at once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from launcher.checkpoint.manifest import read_manifest, write_manifest
from launcher.files import readable_bytes
from launcher.layout import checkpoint_file, manifest_of
from tests import tiny_faults
from tests.tiny_process import Tiny, digest

POINT = "branch.from_step=20"
NARROW = {"COLUMNS": "100"}


def test_a_wrong_width_is_one_readable_table(tiny: Tiny) -> None:
    ended = tiny.refuse(POINT, "model.width=32")
    assert "1 finding stops the launch" in ended.err
    assert "model.width: checkpoint 16, config 32" in ended.err
    assert "0.weight [16, 8] → [32, 8]" in ended.err
    assert "model.width=16" in ended.err
    assert ended.err.count("┏") == 1
    narrow = tiny.refuse(POINT, "model.width=32", environment=NARROW)
    assert max(map(len, narrow.err.splitlines())) <= 120


def test_what_the_table_offers_settles_it(tiny: Tiny) -> None:
    assert "branch.restore=weights branch.exclude=[PATTERN" in tiny.refuse(POINT, "model.width=32").err
    branch = tiny.train(POINT, "model.width=32", "branch.restore=weights", "branch.include=[4.bias]")
    assert branch.record.branch_type == "weights"
    assert tiny.train(POINT, "model.width=16").record.branch_type == "control"


def test_a_model_whose_code_changed_names_the_tensors(tiny: Tiny) -> None:
    for prepare, name, side in (
        (tiny_faults.one_layer_more, "5.weight", "absent → float32[4]"),
        (tiny_faults.one_layer_less, "4.weight", "float32[4, 16] → absent"),
        (tiny_faults.half_precision_weights, "0.weight", "float32[16, 8] → bfloat16[16, 8]"),
    ):
        ended = tiny.refuse(POINT, prepare=[prepare])
        assert f"{name} {side}" in ended.err
        assert "code changed" in ended.err


@pytest.mark.parametrize("optimizer", ["optimizer=sgd", "optimizer._target_=torch.optim.Adam"])
def test_another_optimizer_is_named_and_a_new_one_may_begin(tiny: Tiny, optimizer: str) -> None:
    ended = tiny.refuse(POINT, optimizer)
    assert "torch.optim.AdamW" in ended.err
    assert "branch.reset=[optimizer,scheduler]" in ended.err
    branch = tiny.train(POINT, optimizer, "branch.reset=[optimizer,scheduler]")
    assert digest(branch) != digest(tiny.trunk)


def test_other_data_is_refused_unless_it_was_said(tiny: Tiny) -> None:
    other = partial(tiny_faults.other_fingerprint, "0" * 64)
    ended = tiny.refuse(POINT, prepare=[other])
    assert "fingerprint " + "0" * 64 in ended.err
    assert tiny.train(POINT, "data.shift=1.0").record.differences == {"data.shift": [0.0, 1.0]}


def test_other_data_under_a_run_that_resumes_is_refused(tiny: Tiny) -> None:
    kill = tiny_faults.Kill(35, "SIGTERM")
    assert tiny.launch(POINT, prepare=[kill]).status == 143
    ended = tiny.refuse(POINT, prepare=[partial(tiny_faults.other_fingerprint, "0" * 64)])
    assert "fingerprint " + "0" * 64 in ended.err
    assert digest(tiny.train(POINT)) == digest(tiny.trunk)


class TestGroup:
    @pytest.fixture
    def two(self, tiny: Tiny) -> Tiny:
        """A branch of one trunk, and a second trunk whose checkpoint has the same name."""
        tiny.train(POINT)
        tiny.train("seed=1")
        return tiny

    def other(self, two: Tiny) -> list[str]:
        trunks = [run for run in two.runs() if run.record.kind == "trunk"]
        [second] = [run.id for run in trunks if run.record.declared.get("seed") == 1]
        return [POINT, f"branch.from_run={second}", "seed=1"]

    def test_branches_of_two_checkpoints_do_not_share_one(self, two: Tiny) -> None:
        ended = two.refuse(*self.other(two))
        assert "group checkpoint-20-experiments" in ended.err
        assert two.run("control-").id in ended.err

    def test_each_of_the_ways_out_works(self, two: Tiny) -> None:
        ended = two.refuse(*self.other(two))
        words = ended.said.replace(",", " ").split()
        [offered] = [word for word in words if word.startswith("tracking.group=")]
        one = two.train(*self.other(two), offered)
        assert one.record.group == offered.partition("=")[2]
        another = two.train(*self.other(two), "branch.name=second")
        assert another.record.group == "second-20-experiments"
        assert digest(one) == digest(another)

    @pytest.mark.parametrize("name", ["trunks", "scratch", "///"])
    def test_it_is_not_the_directory_of_other_runs(self, tiny: Tiny, name: str) -> None:
        ended = tiny.refuse(POINT, f"tracking.group={name}")
        assert "tracking.group" in ended.err

    def test_the_same_branch_in_two_groups_is_two_runs(self, tiny: Tiny) -> None:
        one, other = tiny.train(POINT), tiny.train(POINT, "tracking.group=another")
        assert one.id != other.id
        assert digest(one) == digest(other)

    def test_it_can_be_set_and_says_by_whom(self, tiny: Tiny) -> None:
        named = tiny.train(POINT, "tracking.group=by hand")
        assert (named.record.group, named.record.group_source) == ("by hand", "tracking.group")
        assert named.directory.path.parent.name == "by-hand"
        environment = tiny.train(POINT, "loss=heavy", environment={"WANDB_RUN_GROUP": "by-variable"})
        assert (environment.record.group, environment.record.group_source) == (
            "by-variable",
            "WANDB_RUN_GROUP",
        )
        default = tiny.train(POINT, "optimizer.lr=1e-4")
        assert (default.record.group, default.record.group_source) == (
            "checkpoint-20-experiments",
            "checkpoint",
        )


def test_all_findings_come_at_once(tiny: Tiny) -> None:
    tiny.train(POINT)
    trunk = tiny.train("seed=1")
    wrong = [POINT, f"branch.from_run={trunk.id}", "model.width=32", "optimizer=sgd"]
    ended = tiny.refuse(*wrong, "seed=1", prepare=[partial(tiny_faults.little_space, 1000)])
    assert "4 findings stop the launch" in ended.err
    for what in ("model.width", "torch.optim.SGD", "group checkpoint-20-experiments", "1.0 kB free"):
        assert what in ended.err


def test_a_tracker_whose_package_is_missing(tiny: Tiny) -> None:
    missing = [tiny_faults.WithoutPackage("mlflow")]
    ended = tiny.refuse("branch.from_step=20", "optimizer.lr=0.002", "tracker=mlflow", prepare=missing)
    assert "tracker.mlflow" in ended.said
    assert "pip install 'checkpoint-launcher[mlflow]'" in ended.said


def test_what_is_no_error_is_recorded(tiny: Tiny) -> None:
    """Another number of threads may change the last bit: a warning, and the run goes on."""
    branch = tiny.train(POINT, "threads=2")
    [warning] = [one for one in branch.record.findings if one["level"] == "warning"]
    assert (warning["what"], warning["found"]) == ("threads", "2")
    assert "1" in warning["expected"]


def test_too_little_space_for_the_checkpoints_to_come(tiny: Tiny) -> None:
    one = (tiny.trunk.directory.checkpoints / checkpoint_file(20)).stat().st_size
    enough = partial(tiny_faults.little_space, one * 3)
    for every, fits in (("checkpoint.every=10", True), ("checkpoint.every=2", False)):
        if fits:
            tiny.train(POINT, every, prepare=[enough])
        else:
            ended = tiny.refuse(POINT, every, "loss=heavy", prepare=[enough])
            assert "checkpoint.keep_last=N" in ended.err
    tiny.train(POINT, "checkpoint.every=2", "loss=heavy", "checkpoint.keep_last=1", prepare=[enough])


def test_siblings_need_room_together(tiny: Tiny) -> None:
    """Each alone would fit. What is finished needs none, and what is half way only for its other half."""
    one = (tiny.trunk.directory.checkpoints / checkpoint_file(20)).stat().st_size
    rates, room = ("-m", POINT, "optimizer.lr=0.002,0.003"), [partial(tiny_faults.little_space, one * 3)]
    for more in ([], ["fanout.skip_bad=true"]):
        ended = tiny.refuse(*rates, *more, prepare=room)
        assert f"4 checkpoints of {readable_bytes(one)}, of 2 siblings together" in ended.said
        assert ended.err.count("siblings together") == 1
    assert tiny.launch(*rates, prepare=[tiny_faults.Kill(35, "SIGTERM", saved=True)]).status == 143
    assert tiny.launch(*rates, prepare=[partial(tiny_faults.little_space, one)]).status == 2
    assert tiny.launch(*rates, prepare=room).status == 0
    third = ("-m", POINT, "optimizer.lr=0.002,0.003,0.004")
    assert tiny.launch(*third, prepare=room).status == 0


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("task._target_=tests.tiny_task.NoSuchTask", "task._target_"),
        ("task._target_=tests.no_such_module.Task", "task._target_"),
        ("task._target_=tests.tiny_task.Counter", "task._target_"),
        ("optimizer._target_=torch.optim.NoSuch", "optimizer"),
        ("+optimizer.momentum=0.9", "momentum"),
        ("optimizer.lr=-1", "optimizer"),
        ("scheduler._target_=launcher.training.schedule.none", "scheduler"),
        ("+scheduler.cycles=3", "scheduler"),
        ("scheduler.warmup_steps=40", "scheduler.warmup_steps"),
    ],
)
@pytest.mark.parametrize("point", [[], [POINT]], ids=["trunk", "branch"])
def test_what_cannot_be_built_is_named(tiny: Tiny, point: list[str], override: str, named: str) -> None:
    """Of a trunk too: a run that cannot begin leaves no directory."""
    ended = tiny.refuse(*point, override, "seed=3") if not point else tiny.refuse(*point, override)
    assert named in ended.err


def test_nothing_is_read_of_the_tensors(tiny: Tiny) -> None:
    """Preflight needs the manifest, and the file's bytes only for their digest."""
    ended = tiny.launch(POINT, "model.width=32", prepare=[tiny_faults.no_loading])
    assert ended.status == 2
    assert "model.width" in ended.err


def test_a_manifest_of_another_state_is_refused(tiny: Tiny) -> None:
    """Its own digest holds, but it does not list what the file holds."""
    path = tiny.trunk.directory.checkpoints / checkpoint_file(20)
    manifest = read_manifest(path)
    fewer = replace(manifest.content, tensors=manifest.content.tensors[1:])
    write_manifest(manifest_of(path), replace(manifest, content=fewer))
    ended = tiny.launch(POINT)
    assert ended.status == 2
    assert "Traceback" not in ended.err


def test_a_run_that_is_finished_is_not_taken_for_one_on_other_data(tiny: Tiny) -> None:
    tiny.refuse(prepare=[partial(tiny_faults.other_fingerprint, "0" * 64)])
    assert tiny.launch().status == 0


def test_a_sibling_that_is_there_is_not_run_again(tiny: Tiny) -> None:
    first = tiny.launch(POINT, "loss=heavy")
    before = tiny.files()
    again = tiny.launch("loss=heavy", POINT)
    assert again.status == 0
    assert again.out == first.out
    assert "finished already" in again.err
    assert tiny.files() == before
