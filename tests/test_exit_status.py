"""0 done, 1 a run failed, 2 the input was wrong, 3 a check came out negative; one message, no traceback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from launcher.checkpoint.store import checkpoints
from launcher.checkpoint.verify import newest_good, verify_file
from tests import tiny_faults
from tests.tiny_process import Ended, Tiny, digest, in_a_new_interpreter, metrics

POINT = "branch.from_step=20"


def one_message(ended: Ended, status: int, *parts: str) -> None:
    """One error, readable, with all ``parts``; nothing of Python's or Hydra's around it."""
    assert ended.status == status, ended
    assert "Traceback" not in ended.err
    assert "HYDRA_FULL_ERROR" not in ended.err
    assert ended.err.count("error:") == 1
    assert [part for part in parts if part not in ended.err] == []


class TestFailed:
    def test_a_loss_that_is_no_number(self, empty: Tiny) -> None:
        nan = "loss.nan_at_step=25"
        ended = empty.launch(nan)
        one_message(ended, 1, "The loss is nan at step 25")
        failed = empty.trunk
        assert failed.record.state == "failed"
        assert failed.record.error == "The loss is nan at step 25."
        there = checkpoints(failed.directory.checkpoints)
        assert [verify_file(path).step for path in there] == [10, 20]
        assert max(metrics(failed)) == 24
        one_message(empty.launch(nan), 1, "step 25")
        assert [start.step for start in empty.trunk.record.starts] == [0, 20]

    @pytest.mark.parametrize(
        ("clip", "what"),
        [("1.0", "The gradient's norm is nan"), ("null", "The weight 0.weight is not finite")],
    )
    def test_a_gradient_that_is_no_number_is_not_saved(self, empty: Tiny, clip: str, what: str) -> None:
        """The loss is finite still, but nobody could go on from such weights."""
        nan = partial(tiny_faults.nan_gradient, 20)
        ended = empty.launch(f"training.gradient_clip={clip}", prepare=[nan])
        one_message(ended, 1, f"{what} at step 20")
        best, _ = newest_good(empty.trunk.directory.checkpoints)
        assert best is not None
        assert best.name == "checkpoint_step_10.pt"

    def test_a_programming_error_keeps_its_traceback(self, empty: Tiny) -> None:
        ended = empty.launch(prepare=[partial(tiny_faults.raise_at, 25)])
        assert ended.status == 1
        assert "Traceback" in ended.err
        assert "ZeroDivisionError" in ended.err
        assert empty.trunk.record.state == "failed"
        assert empty.trunk.record.error == "ZeroDivisionError: on purpose"
        assert digest(empty.train()) is not None

    def test_a_run_that_failed_may_be_started_again(self, empty: Tiny, trained: Tiny) -> None:
        assert empty.launch(prepare=[partial(tiny_faults.raise_at, 25)]).status == 1
        run = empty.train()
        assert run.record.error is None
        assert digest(run) == digest(trained.trunk)
        assert metrics(run) == metrics(trained.trunk)


class TestInput:
    @pytest.mark.parametrize(
        ("override", "parts"),
        [
            ("nope=1", ["nope"]),
            ("training.stepz=1", ["training.stepz"]),
            ("loss=nope", ["loss/nope", "heavy", "plain"]),
            ("loss.nope=1", ["loss.nope", "+loss.nope=1"]),
            ("training.steps=many", ["training.steps", "many"]),
            ("branch.from_step=[1]", ["branch.from_step"]),
            ("a=[", ["input '['"]),
            ("+branch=nobody", ["branch/nobody"]),
            ("model.width=???", ["model.width", "no value"]),
            ("task._target_=???", ["task._target_", "no value"]),
            ("seed=${nowhere}", ["seed", "nowhere"]),
            ("device=tpu", ["device=tpu", "auto | cpu | cuda"]),
            ("training.log_every=0", ["training.log_every=0"]),
        ],
    )
    def test_what_was_typed_wrong_is_named(self, tiny: Tiny, override: str, parts: list[str]) -> None:
        one_message(tiny.refuse(override), 2, *parts)

    def test_the_details_are_there_for_who_asks(self, empty: Tiny) -> None:
        arguments = ["-m", "tests.tiny_train", "device=tpu", f"paths.outputs={empty.outputs}"]
        plain = in_a_new_interpreter(*arguments)
        one_message(plain, 2, "device=tpu")
        full = in_a_new_interpreter(*arguments, HYDRA_FULL_ERROR="1")
        assert full.status == 1
        assert "Traceback" in full.err
        assert "launcher.errors.ConfigError" in full.err


class TestSiblings:
    def test_all_good(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, "loss=plain,heavy", "optimizer.lr=1e-3,1e-4")
        assert ended.status == 0
        branches = [run for run in tiny.runs() if run.record.kind == "branch"]
        assert {run.record.job_type for run in branches} == {
            "control", "heavy-loss", "lr-0.0001", "heavy-loss-lr-0.0001",
        }  # fmt: skip
        assert {run.record.group for run in branches} == {"checkpoint-20-experiments"}
        assert tiny.launch("-m", POINT, "loss=plain,heavy").status == 0
        assert len(tiny.runs()) == 5

    def test_a_bad_one_does_not_keep_the_others(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, "model.width=16,32", "loss=heavy,plain", "fanout.skip_bad=true")
        assert ended.status == 1
        assert "Traceback" not in ended.err
        assert ended.err.count("model.width: checkpoint 16") == 1
        assert "2 of 4 siblings:" in ended.err
        branches = [run for run in tiny.runs() if run.record.kind == "branch"]
        assert {run.record.job_type: run.record.state for run in branches} == {
            "control": "finished",
            "heavy-loss": "finished",
        }

    def test_one_that_fails_in_mid_run_does_not_keep_the_others(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, "loss.nan_at_step=0,30", "loss=heavy")
        assert ended.status == 1
        assert ended.err.count("error:") == 1
        states = sorted(run.record.state for run in tiny.runs() if run.record.kind == "branch")
        assert states == ["failed", "finished"]

    def test_one_that_is_killed_under_a_launcher_of_hydras(self, tiny: Tiny) -> None:
        killed = [partial(tiny_faults.jobs_are_killed_at, 35)]
        ended = tiny.launch("-m", POINT, "loss=heavy", prepare=killed)
        assert ended.status == 1
        assert "interrupted" in ended.out
        assert "A job has ended without a result." in ended.err

    def test_a_value_that_hydra_refuses_stops_all_of_them(self, tiny: Tiny) -> None:
        one_message(tiny.launch("-m", POINT, "loss=plain,nope"), 2, "loss/nope")
        assert len(tiny.runs()) == 1


class TestNobodyReads:
    """Who only prints ends quietly, as after SIGPIPE; who trains trains to the end."""

    @pytest.mark.parametrize("typed", [["--help"], ["--cfg", "job"], ["-m", POINT, "fanout.dry_run=true"]])
    def test_what_is_printed(self, tiny: Tiny, typed: list[str]) -> None:
        before = tiny.files()
        assert tiny.launch(*typed, prepare=[tiny_faults.nobody_reads]).status == 141
        assert tiny.files() == before

    @pytest.mark.parametrize("verb", [["tree"], ["status", "--json"]])
    def test_what_is_looked_at(self, tiny: Tiny, verb: list[str]) -> None:
        looking = [*verb, f"--outputs={tiny.outputs}"]
        unread = tiny.launch(*looking, module="launcher.cli", prepare=[tiny_faults.nobody_reads])
        assert unread.status == 141

    def test_what_trains(self, empty: Tiny, trained: Tiny) -> None:
        assert empty.launch(prepare=[tiny_faults.nobody_reads]).status == 141
        assert digest(empty.trunk) == digest(trained.trunk)
        pool = ("hydra/launcher=pool", "hydra.launcher.slots=1")
        typed = ("-m", POINT, "optimizer.lr=0.002,0.003,0.004", *pool)
        assert empty.launch(*typed, prepare=[tiny_faults.nobody_reads]).status == 141
        assert [run.record.state for run in empty.runs()] == ["finished"] * 4


class TestDisk:
    def test_a_directory_that_may_not_be_written(self, tiny: Tiny) -> None:
        places = [tiny.outputs, tiny.outputs / "trunks"]
        for place in places:
            place.chmod(0o555)
        try:
            one_message(tiny.refuse(POINT, prepare=[tiny_faults.no_privilege]), 2, "paths.outputs=DIR")
            one_message(tiny.refuse("seed=1", prepare=[tiny_faults.no_privilege]), 2, "cannot be written to")
        finally:
            for place in places:
                place.chmod(0o755)

    def test_a_place_that_is_a_file(self, empty: Tiny) -> None:
        empty.outputs.write_text("not a directory")
        one_message(empty.launch(), 2, str(empty.outputs))

    def test_a_file_that_may_not_grow(self, empty: Tiny, trained: Tiny) -> None:
        """The first checkpoint does not fit: it is said, nothing half is left, and later it goes on."""
        ended = empty.launch(prepare=[partial(tiny_faults.largest_file, 20_000)])
        assert ended.status == 1
        assert "Traceback" not in ended.err
        assert "File too large" in ended.err
        assert empty.trunk.record.state == "failed"
        assert list(empty.trunk.directory.checkpoints.iterdir()) == []
        run = empty.train()
        assert metrics(run) == metrics(trained.trunk)
        assert digest(run) == digest(trained.trunk)

    @pytest.mark.parametrize("size", ["20k", "60k", "100k", "140k"])
    def test_a_full_disk(self, small_disk: Tiny, trained: Tiny, size: str) -> None:
        """Wherever it hits, in a record, a line of metrics or a checkpoint; with room again it goes on."""
        mount(small_disk.outputs, f"remount,size={size}")
        ended = small_disk.launch()
        assert ended.status in (1, 2)
        assert "Traceback" not in ended.err
        assert "No space left on device" in ended.err
        mount(small_disk.outputs, "remount,size=10m")
        run = small_disk.train()
        assert metrics(run) == metrics(trained.trunk)
        assert digest(run) == digest(trained.trunk)
        assert not [path for path in run.directory.path.rglob("*") if path.name.endswith(".tmp")]


def mount(place: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(empty: Tiny) -> Iterator[Tiny]:
    empty.outputs.mkdir()
    if not mount(empty.outputs, "size=10m"):
        pytest.skip("a file system of one's own can be mounted by root only; RLIMIT_FSIZE is tested anyway")
    try:
        yield empty
    finally:
        subprocess.run(["umount", str(empty.outputs)], check=True)
