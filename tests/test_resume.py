"""Killed anywhere, nothing lost, nothing doubled: the same command again ends where it would have ended."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from launcher.checkpoint.verify import newest_good
from launcher.layout import checkpoint_file
from launcher.lineage import Run, state_now
from tests import tiny_faults
from tests.tiny_faults import Kill
from tests.tiny_process import ROOT, WIDE, Tiny, digest, manifests, metrics

STATUS = {"SIGTERM": 143, "SIGINT": 130, "SIGUSR2": 140}
RANDOM = random.Random(20261121)


def as_if_undisturbed(run: Run, undisturbed: Run) -> None:
    """Every step is logged once with what the undisturbed run logged, and the end is the same."""
    assert run.record.state == "finished"
    assert run.record.error is None
    assert metrics(run) == metrics(undisturbed)
    assert digest(run) == digest(undisturbed)
    names = {path.name for path in run.directory.checkpoints.iterdir()}
    assert not [name for name in names if name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("name", "step", "where"),
    [(name, RANDOM.randrange(1, 40), RANDOM.choice(["batch", "loss"])) for name in STATUS for _ in range(2)]
    + [("SIGTERM", 1, "batch"), ("SIGUSR2", 39, "loss"), ("SIGINT", 20, "evaluate")],
)
def test_asked_to_stop_it_saves_at_the_steps_end(
    empty: Tiny, trained: Tiny, name: str, step: int, where: str
) -> None:
    ended = empty.launch(prepare=[Kill(step, name, where)])
    assert ended.status == STATUS[name]
    assert "Traceback" not in ended.err
    assert "the same command goes on" in ended.err
    stopped = empty.trunk
    assert stopped.record.state == "interrupted"
    assert max(manifests(stopped)) == step == stopped.record.step
    assert max(metrics(stopped)) == step
    resumed = empty.train()
    assert resumed.directory == stopped.directory
    assert resumed.id == stopped.id == trained.trunk.id
    assert [(one.origin, one.step) for one in resumed.record.starts] == [
        ("nothing", 0),
        ("own checkpoint", step),
    ]
    as_if_undisturbed(resumed, trained.trunk)


def test_asked_in_the_last_step_it_is_simply_done(empty: Tiny, trained: Tiny) -> None:
    assert empty.launch(prepare=[Kill(40, "SIGTERM")]).status == 0
    as_if_undisturbed(empty.trunk, trained.trunk)


def test_asked_before_it_began_it_leaves_nothing(empty: Tiny) -> None:
    ended = empty.launch(prepare=[partial(tiny_faults.kill_in, "launcher.run:preflight", "SIGTERM")])
    assert ended.status == 143
    assert not list(empty.outputs.rglob("*"))


def test_asked_twice_at_the_keyboard_it_leaves_at_once(empty: Tiny, trained: Tiny) -> None:
    ended = empty.launch(prepare=[Kill(25, "SIGINT", times=2, saved=True)])
    assert ended.status == 130
    assert "Traceback" not in ended.err
    assert empty.trunk.record.state == "interrupted"
    assert max(manifests(empty.trunk)) == 20
    as_if_undisturbed(empty.train(), trained.trunk)


def test_asked_again_by_another_signal_it_still_saves(empty: Tiny, trained: Tiny) -> None:
    prepare = [Kill(25, "SIGUSR2"), Kill(25, "SIGTERM", "loss")]
    assert empty.launch(prepare=prepare).status == 140
    as_if_undisturbed(empty.train(), trained.trunk)


def test_a_branch_resumes_with_what_was_typed(tiny: Tiny) -> None:
    typed = ["branch.from_step=20", "optimizer.lr=5e-5", "loss=heavy"]
    undisturbed = Tiny(tiny.outputs.parent / "undisturbed")
    shutil.copytree(tiny.outputs, undisturbed.outputs)
    whole = undisturbed.train(*typed)
    for step, name in ((23, "SIGTERM"), (31, "SIGKILL")):
        tiny.launch(*typed, prepare=[Kill(step, name)])
    as_if_undisturbed(tiny.train(*typed), whole)


def test_a_branch_with_steps_numbered_anew_resumes(tiny: Tiny) -> None:
    typed = ["branch.from_step=20", "branch.step_mode=reset"]
    kill = partial(tiny_faults.kill_in, "launcher.recording:Recording.after_step", "SIGTERM", 13)
    assert tiny.launch(*typed, prepare=[kill]).status == 143
    resumed = tiny.train(*typed)
    assert [one.step for one in resumed.record.starts] == [0, 14]
    assert sorted(metrics(resumed)) == list(range(1, 21))
    assert (
        manifests(resumed)[20].content.components["model_state_dict"]
        == (manifests(tiny.trunk)[40].content.components["model_state_dict"])
    )


def test_siblings_go_on_where_the_fan_out_was_stopped(tiny: Tiny) -> None:
    siblings = ["-m", "branch.from_step=20", "loss=plain,heavy"]
    assert tiny.launch(*siblings, prepare=[Kill(27, "SIGTERM")]).status == 143
    [first] = [run for run in tiny.runs() if run.record.kind == "branch" and run.record.starts]
    assert first.record.state == "interrupted"
    assert tiny.launch(*siblings).status == 0
    branches = [run for run in tiny.runs() if run.record.kind == "branch"]
    assert {run.record.job_type: len(run.record.starts) for run in branches} == {
        "control": 2,
        "heavy-loss": 1,
    }
    assert digest(tiny.run("control-")) == digest(tiny.trunk)


def test_two_processes_do_not_train_one_run(empty: Tiny, trained: Tiny) -> None:
    go = empty.outputs.parent / "go"
    first = empty.start(prepare=[partial(tiny_faults.wait_at, 25, go)])
    wait_until(lambda: logged(empty) >= 24, first.process.is_alive)
    try:
        second = empty.launch()
        assert second.status == 2
        assert "Another process is training" in second.err
        assert str(first.pid) in second.err
    finally:
        go.touch()
        ended = first.end()
    assert ended.status == 0
    as_if_undisturbed(empty.trunk, trained.trunk)


class TestKilled:
    def test_it_is_shown_as_interrupted(self, empty: Tiny) -> None:
        assert empty.launch(prepare=[Kill(25, "SIGKILL", saved=True)]).status == 137
        assert empty.trunk.record.state == "running"
        assert state_now(empty.trunk) == "interrupted"
        [node] = json.loads(empty.launcher("tree", "--json").out)
        assert node["state"] == "interrupted"

    @pytest.mark.parametrize("step", [1, *(RANDOM.randrange(2, 41) for _ in range(3))])
    def test_at_any_step(self, empty: Tiny, trained: Tiny, step: int) -> None:
        assert empty.launch(prepare=[Kill(step, "SIGKILL", "loss", saved=step % 2 == 0)]).status == 137
        as_if_undisturbed(empty.train(), trained.trunk)

    def test_again_and_again(self, empty: Tiny, trained: Tiny) -> None:
        """Also while it does again what it had done: those lines are there already."""
        for step in (12, 12, 25, 21, 38):
            ended = empty.launch(prepare=[Kill(step, "SIGKILL", saved=True)])
            assert ended.status == 137
            lines = metrics(empty.trunk)
            assert sorted(lines) == list(range(1, max(lines) + 1))
        assert len(empty.trunk.record.starts) == 5
        resumed = empty.train()
        assert [one.step for one in resumed.record.starts] == [0, 10, 10, 20, 20, 30]
        as_if_undisturbed(resumed, trained.trunk)

    def test_at_any_moment(self, empty: Tiny) -> None:
        """By the clock, wherever it is: in a step, a write, a rename."""
        long = ["training.steps=300", "checkpoint.every=15", "training.validate_every=0"]
        undisturbed = Tiny(empty.outputs.parent / "undisturbed").train(*long)
        for line in sorted(RANDOM.sample(range(1, 290), 6)):
            started = empty.start(*long)
            wait_until(lambda line=line: logged(empty) >= line, started.process.is_alive)
            os.kill(started.pid, signal.SIGKILL)
            assert started.end().status == 137
        run = empty.train(*long)
        assert metrics(run) == metrics(undisturbed)
        assert digest(run, 300) == digest(undisturbed, 300)

    @pytest.mark.parametrize(
        ("function", "call", "newest"),
        [
            ("launcher.checkpoint.writer:write_state", 2, 10),
            ("launcher.checkpoint.writer:write_manifest", 2, 10),
            ("launcher.files:flush_to_disk", 7, None),
            ("launcher.lineage:RunRecord.write", 3, None),
            ("launcher.trackers.metrics_file:MetricsFile.sync", 2, None),
        ],
    )
    def test_while_it_writes(
        self, empty: Tiny, trained: Tiny, function: str, call: int, newest: int | None
    ) -> None:
        kill = partial(tiny_faults.kill_in, function, "SIGKILL", call)
        assert empty.launch(prepare=[kill]).status == 137
        if newest is not None:
            assert newest_good(empty.trunk.directory.checkpoints)[0].name == checkpoint_file(newest)  # type: ignore[union-attr]
        as_if_undisturbed(empty.train(), trained.trunk)

    def test_with_half_of_the_checkpoint_written(self, empty: Tiny, trained: Tiny) -> None:
        assert empty.launch(prepare=[partial(tiny_faults.kill_in_half_a_checkpoint, 20)]).status == 137
        left = [path.name for path in empty.trunk.directory.leases.rglob("*")]
        assert any(name.endswith(".tmp") for name in left)
        assert checkpoint_file(20) not in left
        as_if_undisturbed(empty.train(), trained.trunk)


class TestDamaged:
    def stopped(self, empty: Tiny) -> Path:
        assert empty.launch(prepare=[Kill(25, "SIGTERM")]).status == 143
        return empty.trunk.directory.checkpoints

    @pytest.mark.parametrize("how", ["truncated", "flipped", "manifest", "gone"])
    def test_the_newest_is_passed_over_with_a_message(self, empty: Tiny, trained: Tiny, how: str) -> None:
        newest = self.stopped(empty) / checkpoint_file(25)
        data = newest.read_bytes()
        if how == "truncated":
            newest.write_bytes(data[:-1])
        elif how == "flipped":
            newest.write_bytes(data[:9999] + bytes([data[9999] ^ 4]) + data[10000:])
        elif how == "manifest":
            newest.with_suffix(".json").write_text("{}")
        else:
            newest.unlink()
        ended = empty.launch()
        assert ended.status == 0
        assert "Passing over a damaged checkpoint" in ended.err
        assert str(newest) in ended.err or newest.with_suffix(".json").name in ended.err
        assert empty.trunk.record.starts[-1].step == 20
        assert metrics(empty.trunk) == metrics(trained.trunk)
        assert digest(empty.trunk) == digest(trained.trunk)

    def test_with_none_whole_a_trunk_begins_again_and_says_why(self, empty: Tiny, trained: Tiny) -> None:
        for path in self.stopped(empty).glob("*.pt"):
            path.write_bytes(b"")
        ended = empty.launch()
        assert ended.err.count("Passing over a damaged checkpoint") == 3
        assert empty.trunk.record.starts[-1].origin == "nothing"
        assert metrics(empty.trunk) == metrics(trained.trunk)
        assert digest(empty.trunk) == digest(trained.trunk)

    def test_a_torn_last_line_of_metrics_is_written_again(self, empty: Tiny, trained: Tiny) -> None:
        self.stopped(empty)
        with empty.trunk.directory.metrics.open("ab") as file:
            file.write(b'{"global_step": 26, "train/err')
        as_if_undisturbed(empty.train(), trained.trunk)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}'])
    def test_a_damaged_record_is_not_written_over(self, empty: Tiny, text: str) -> None:
        self.stopped(empty)
        record = empty.trunk.directory.record
        record.write_text(text)
        ended = empty.launch()
        assert ended.status == 2
        assert str(record) in ended.err
        assert "Traceback" not in ended.err
        assert record.read_text() == text


def test_a_new_interpreter_that_is_asked_from_outside(empty: Tiny, trained: Tiny) -> None:
    """Nothing prepared, nothing forked: what SLURM does to ``python train.py``."""
    long = ["training.steps=20000", "training.log_every=50", "training.validate_every=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tiny_train", f"paths.outputs={empty.outputs}", *long],
        cwd=ROOT, env={**os.environ, **WIDE}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: list(empty.outputs.glob("*/*/checkpoints/*.json")), lambda: process.poll() is None)
    process.send_signal(signal.SIGUSR2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 140
    assert "Traceback" not in err
    step = empty.trunk.record.step
    assert max(manifests(empty.trunk)) == step
    assert (
        manifests(trained.trunk)[10].content.components["rng_state"]
        != (manifests(empty.trunk)[step].content.components["rng_state"])
    )


def logged(tiny: Tiny) -> int:
    """Complete lines in the only run's metrics."""
    return sum(path.read_bytes().count(b"\n") for path in tiny.outputs.glob("*/*/metrics.jsonl"))


def wait_until(happened: Callable[[], object], alive: Callable[[], bool], seconds: float = 60) -> None:
    """Look every few milliseconds whether something has happened."""
    end = time.monotonic() + seconds
    while not happened():
        assert alive(), "the process ended before it happened"
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)
