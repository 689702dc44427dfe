"""A fan-out as it is typed: siblings checked together, launched once, told about at the end."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoint.store import checkpoints
from launcher.files import readable_bytes
from launcher.layout import checkpoint_file
from launcher.lease import Lease, holder
from launcher.lineage import utc_now
from tests import tiny_faults
from tests.test_resume import wait_until
from tests.tiny_process import Ended, Tiny, digest, in_a_new_interpreter, metrics

POINT = "branch.from_step=20"
RATES = "optimizer.lr=0.002,0.003"
GROUP = "checkpoint-20-experiments"


def ids(tiny: Tiny) -> list[str]:
    return sorted(run.id for run in tiny.runs() if run.record.kind == "branch")


def fanouts(tiny: Tiny) -> list[dict[str, Any]]:
    value = json.loads((tiny.outputs / GROUP / "fanout.json").read_text())
    return list(value["fanouts"])


def states(ended: Ended) -> dict[str, str]:
    """Directory's name to state, as the table at the end has them."""
    lines = [line.split("│") for line in ended.out.splitlines() if line.startswith("│")]
    return {cells[1].strip(): cells[2].strip() for cells in lines if len(cells) == 7}


class TestSiblings:
    def test_are_what_they_are_when_typed_one_by_one(self, tiny: Tiny, trained: Tiny, tmp_path: Path) -> None:
        ended = tiny.launch("-m", POINT, RATES)
        assert ended.status == 0, ended.err
        alone = Tiny(tmp_path / "alone").train(POINT, "optimizer.lr=0.003", *_from(tiny))
        together = tiny.run("lr-0.003")
        assert alone.id == together.id
        assert digest(alone) == digest(together)
        assert metrics(alone) == metrics(together)
        assert set(states(ended)) == {run.id for run in tiny.runs() if run.record.kind == "branch"}
        assert set(states(ended).values()) == {"finished"}

    def test_share_a_group_a_branch_point_and_a_fanout(self, tiny: Tiny) -> None:
        assert tiny.launch("-m", POINT, RATES).status == 0
        runs = [run for run in tiny.runs() if run.record.kind == "branch"]
        assert len({run.record.parent.sha256 for run in runs if run.record.parent}) == 1
        assert {run.record.group for run in runs} == {GROUP}
        [fanout] = fanouts(tiny)
        assert sorted(each["run"] for each in fanout["siblings"]) == sorted(run.id for run in runs)
        assert {each["signature"] for each in fanout["siblings"]} == {run.record.signature for run in runs}

    def test_that_are_finished_are_not_run_again(self, tiny: Tiny) -> None:
        assert tiny.launch("-m", POINT, RATES).status == 0
        before = {run.id: tiny_files(tiny, run.id) for run in tiny.runs()}
        ended = tiny.launch("-m", POINT, "optimizer.lr=0.002,0.003,0.004")
        assert ended.status == 0
        assert "lr-0.004" in ended.out
        assert {run_id: tiny_files(tiny, run_id) for run_id in before} == before
        assert len(fanouts(tiny)) == 2

    def test_that_were_interrupted_go_on(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, RATES, prepare=[tiny_faults.Kill(35, "SIGTERM")])
        assert ended.status == 143
        ended = tiny.launch("-m", POINT, RATES)
        assert ended.status == 0, ended.err
        alone = Tiny(tiny.outputs.parent / "alone")
        for rate in ("0.002", "0.003"):
            run = alone.train(POINT, f"optimizer.lr={rate}", *_from(tiny))
            assert digest(run) == digest(tiny.run(f"lr-{rate}"))
            assert metrics(run) == metrics(tiny.run(f"lr-{rate}"))
        assert [start.origin for start in tiny.run("lr-0.002").record.starts] == [
            "branch point",
            "own checkpoint",
        ]

    def test_that_run_elsewhere_are_left_alone(self, tiny: Tiny) -> None:
        assert tiny.launch("-m", POINT, RATES, prepare=[tiny_faults.Kill(35, "SIGTERM")]).status == 143
        lease = Lease(tiny.run("lr-0.002").directory, utc_now())
        before = tiny_files(tiny, tiny.run("lr-0.002").id)
        ended = tiny.launch("-m", POINT, RATES)
        assert "is running already" in ended.err
        assert tiny_files(tiny, tiny.run("lr-0.002").id) == before
        assert tiny.run("lr-0.003").record.state == "finished"
        lease.release()

    @pytest.mark.parametrize("launcher", ["pool", "basic"])
    def test_that_somebody_else_starts_meanwhile_are_left_to_him(
        self, tiny: Tiny, tmp_path: Path, launcher: str
    ) -> None:
        reached, go, end = (tmp_path / name for name in ("reached", "go", "end"))
        wait = partial(tiny_faults.wait_before_the_launch, reached, go)
        typed = ("-m", POINT, "optimizer.lr=0.002")
        late = tiny.start(*typed, f"hydra/launcher={launcher}", prepare=[wait])
        wait_until(reached.exists, late.process.is_alive)
        first = tiny.start(*typed, prepare=[partial(tiny_faults.wait_at, 30, end)])
        try:
            wait_until(lambda: _step(tiny) >= 29, first.process.is_alive)
            go.touch()
            ended = late.end()
        finally:
            end.touch()
            go.touch()
            pid, status = first.pid, first.end().status
        assert (ended.status, status) == (0, 0), ended.err
        assert list(states(ended).values()) == ["running elsewhere"]
        assert f"process {pid} on" in ended.out
        [run] = [run for run in tiny.runs() if run.record.kind == "branch"]
        assert (run.record.state, len(run.record.starts)) == ("finished", 1)

    def test_of_a_trunk_are_trunks(self, empty: Tiny) -> None:
        assert empty.launch("-m", "seed=1,2", "training.steps=10").status == 0
        assert len(empty.runs()) == 2
        assert {run.record.kind for run in empty.runs()} == {"trunk"}


def _step(tiny: Tiny) -> int:
    """How far the one branch is whose process is there."""
    held = (holder(run.directory) for run in tiny.runs() if run.record.kind == "branch")
    return max((there.step for there in held if there is not None and there.alive), default=0)


def tiny_files(tiny: Tiny, run_id: str) -> dict[str, tuple[int, int]]:
    """Everything that belongs to a run but its signs of life."""
    return {
        name: facts
        for name, facts in tiny.files().items()
        if f"/{run_id}" in name and "/.lease/" not in name and not name.endswith(run_id)
    }


def _from(tiny: Tiny) -> list[str]:
    [checkpoint] = [path for path in checkpoints(tiny.trunk.directory.checkpoints) if "_20." in path.name]
    return [f"branch.from_checkpoint={checkpoint}"]


class TestChecks:
    def test_one_bad_sibling_stops_the_launch(self, tiny: Tiny) -> None:
        ended = tiny.refuse("-m", POINT, "model.width=16,24")
        assert "1 of 2 siblings cannot be launched" in ended.err
        assert "model.width" in ended.err

    def test_or_only_itself(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, "optimizer.lr=0.003,-1", "fanout.skip_bad=true")
        assert ended.status == 1
        assert ids(tiny) == [tiny.run("lr-0.003").id]
        assert "bad" in states(ended).values()

    def test_all_findings_come_at_once(self, tiny: Tiny) -> None:
        ended = tiny.refuse("-m", POINT, "optimizer.lr=0.002,nonsense", "+model.height=1,2")
        assert ended.err.count("error") >= 3
        assert "4 of 4 siblings cannot be launched" in ended.err

    def test_two_siblings_that_are_one_run(self, tiny: Tiny) -> None:
        assert "are both lr-0.003" in tiny.refuse("-m", POINT, "optimizer.lr=0.003,3e-3").said

    def test_equal_findings_are_one_line_that_says_of_whom(self, tiny: Tiny) -> None:
        ended = tiny.refuse("-m", POINT, RATES, "model.width=16,24", "curriculum=early,late")
        assert ended.err.count("4 of 8 siblings:") == 1
        assert ended.err.count("[24, 8]") == 1
        assert ended.err.count("│ error") < 8

    def test_a_control_that_was_typed_twice_has_one_twin(self, tiny: Tiny) -> None:
        typed = ("-m", "branch.from_step=40", "branch.steps=2", "loss=plain,plain", "fanout.control=true")
        assert "are both control-" in tiny.refuse(*typed).said
        ended = tiny.launch(*typed, "fanout.skip_bad=true")
        assert ended.status == 1
        assert [len(run.record.starts) for run in tiny.runs() if run.record.kind == "branch"] == [1, 1]
        assert ended.out.count("(finished)") == 2

    def test_the_branch_point_cannot_move_between_two_starts(self, tiny: Tiny) -> None:
        """The first sibling's start adds a later checkpoint to the directory that the others come from."""
        directory = tiny.trunk.directory.checkpoints
        place = f"branch.from_checkpoint={directory}"
        for name in ("checkpoint_step_30", "checkpoint_step_40"):
            for suffix in (".pt", ".json"):
                (directory / f"{name}{suffix}").rename(tiny.outputs.parent / f"{name}{suffix}")
        more = partial(tiny_faults.bring_back, 25, tiny.outputs.parent, directory)
        ended = tiny.launch("-m", place, RATES, prepare=[more])
        assert ended.status == 0, ended.err
        points = {run.record.parent.step for run in tiny.runs() if run.record.parent}
        assert points == {20}

    def test_a_checkpoint_that_changed_after_the_check_is_refused(self, tiny: Tiny) -> None:
        [path] = [path for path in checkpoints(tiny.trunk.directory.checkpoints) if "_20." in path.name]
        spoil = partial(tiny_faults.damage_at, 25, path)
        ended = tiny.launch("-m", POINT, RATES, prepare=[spoil])
        assert ended.status == 1
        assert "damaged" in ended.err
        assert tiny.run("lr-0.002").record.state == "finished"


class TestIfExists:
    def test_rerun_overwrites_nothing_and_gives_the_same(self, tiny: Tiny) -> None:
        assert tiny.launch("-m", POINT, RATES).status == 0
        before = tiny_files(tiny, "lr-")
        assert tiny.launch("-m", POINT, RATES, "fanout.if_exists=rerun").status == 0
        assert len(ids(tiny)) == 4
        after = tiny_files(tiny, "lr-")
        assert {name: after[name] for name in before} == before
        first, second = [run for run in tiny.runs() if run.id.startswith("lr-0.003")]
        assert second.id == f"{first.id}-2"
        assert digest(first) == digest(second)

    def test_rerun_of_a_single_run(self, tiny: Tiny) -> None:
        first = tiny.train(POINT)
        second = tiny.train(POINT, "fanout.if_exists=rerun")
        assert second.id == f"{first.id}-2"

    def test_error(self, tiny: Tiny) -> None:
        run = tiny.train(POINT, "optimizer.lr=0.002")
        assert f"{run.id} is there already" in tiny.refuse("-m", POINT, RATES, "fanout.if_exists=error").said
        said = tiny.refuse(POINT, "optimizer.lr=0.002", "fanout.if_exists=error").said
        assert f"{run.id} is there already" in said


class TestWhichSiblings:
    def test_zipped_lists_walk_together(self, tiny: Tiny) -> None:
        zipped = "fanout.zip=[optimizer.lr,branch.steps]"
        assert tiny.launch("-m", POINT, RATES, "branch.steps=5,10", zipped).status == 0
        assert {(run.record.job_type, run.record.end_step) for run in tiny.runs() if run.record.parent} == {
            ("lr-0.002", 25), ("lr-0.003", 30)
        }  # fmt: skip

    def test_zipped_lists_and_a_product(self, tiny: Tiny) -> None:
        typed = (
            POINT,
            RATES,
            "branch.steps=5,10",
            "loss=plain,heavy",
            "fanout.zip=[optimizer.lr,branch.steps]",
        )
        ended = tiny.launch("-m", *typed, "fanout.dry_run=true")
        assert len(ended.commands()) == 4

    @pytest.mark.parametrize(
        ("zipped", "complaint"),
        [
            ("[optimizer.lr,branch.steps]", "different lengths"),
            ("[optimizer.lr]", "two or more"),
            ("[optimizer.lr,seed]", "two or more"),
        ],
    )
    def test_zip_that_cannot_be_meant(self, tiny: Tiny, zipped: str, complaint: str) -> None:
        assert (
            complaint in tiny.refuse("-m", POINT, RATES, "branch.steps=5,10,15", f"fanout.zip={zipped}").said
        )

    def test_the_control_joins_in(self, tiny: Tiny) -> None:
        assert tiny.launch("-m", POINT, RATES, "fanout.control=true").status == 0
        assert tiny.run("control").record.branch_type == "control"
        assert tiny.launcher("verify", "control").status == 0

    def test_the_control_is_there_once(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, "loss=plain,heavy", "fanout.control=true")
        assert ended.status == 0, ended.err
        assert len(ids(tiny)) == 2

    def test_named_siblings(self, tiny: Tiny) -> None:
        assert tiny.launch("-m", POINT, "+arm=control,steep").status == 0
        assert {run.record.job_type for run in tiny.runs() if run.record.parent} == {
            "control", "heavy-loss-lr-0.002"
        }  # fmt: skip

    def test_of_another_task(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, "task=tiny,smooth", "fanout.dry_run=true")
        assert "task-smooth-" in ended.out, ended.err


class TestDryRun:
    def test_writes_nothing_and_shows_commands_that_give_these_runs(self, tiny: Tiny) -> None:
        before = tiny.files()
        ended = tiny.launch("-m", POINT, RATES, "fanout.dry_run=true")
        assert ended.status == 0
        assert tiny.files() == before
        commands = ended.commands()
        assert len(commands) == 2
        for typed in commands:
            assert tiny.launch(*typed).status == 0
        for run in ids(tiny):
            assert run in ended.out

    def test_of_a_single_run(self, tiny: Tiny) -> None:
        before = tiny.files()
        ended = tiny.launch(POINT, "fanout.dry_run=true")
        assert ended.status == 0
        assert "control-" in ended.out
        assert tiny.files() == before

    def test_estimates_what_is_left_from_the_trunks_records(self, tiny: Tiny) -> None:
        record = tiny.trunk.directory.record
        record.write_text(json.dumps({**json.loads(record.read_text()), "seconds": 40 * 90.0}))
        killed = tiny_faults.Kill(35, "SIGKILL", saved=True)
        assert tiny.launch(POINT, "optimizer.lr=0.002").status == 0
        assert tiny.launch(POINT, "optimizer.lr=0.003", prepare=[killed]).status == 137
        shown = tiny.launch("-m", POINT, "optimizer.lr=0.002,0.003,0.004", "fanout.dry_run=true").out
        rows = [line.split("│") for line in shown.splitlines() if line.startswith("│")]
        size = tiny.trunk.directory.checkpoints.joinpath("checkpoint_step_20.pt").stat().st_size
        assert [[cell.strip() for cell in row[-3:-1]] for row in rows] == [
            ["", ""], ["15 min 00 s", readable_bytes(size)], ["30 min 00 s", readable_bytes(2 * size)]
        ]  # fmt: skip

    def test_says_what_is_wrong(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, "model.width=24,32", "fanout.dry_run=true")
        assert ended.status == 2
        assert "model.width" in ended.err


class TestFailures:
    NAN = "loss.nan_at_step=25,0,0"
    RATE = "optimizer.lr=0.002,0.003,0.004"

    def test_one_does_not_take_the_others_along(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, self.NAN, self.RATE, "fanout.zip=[loss.nan_at_step,optimizer.lr]")
        assert ended.status == 1
        assert sorted(states(ended).values()) == ["failed", "finished", "finished"]
        assert "The loss is nan at step 25" in ended.out

    def test_or_keeps_the_rest_from_starting(self, tiny: Tiny) -> None:
        zipped = "fanout.zip=[loss.nan_at_step,optimizer.lr]"
        ended = tiny.launch("-m", POINT, self.NAN, self.RATE, zipped, "fanout.stop_on_failure=true")
        assert ended.status == 1
        assert sorted(states(ended).values()) == ["failed", "not started", "not started"]
        assert sum(bool(run.record.starts) for run in tiny.runs() if run.record.parent) == 1


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_of_hydra_work_unchanged(tiny: Tiny, launcher: str) -> None:
    # In an interpreter of its own: joblib's workers are sent away when an interpreter ends, not by os._exit.
    one_by_one = ("fanout.control=true", "fanout.max_parallel=1")
    typed = ("-m", POINT, "optimizer.lr=0.003", *one_by_one, f"hydra/launcher={launcher}")
    ended = in_a_new_interpreter("-m", "tests.tiny_train", *typed, f"paths.outputs={tiny.outputs}")
    assert ended.status == 0, ended.err
    assert sorted(states(ended).values()) == ["finished"] * 2
    runs = [run.directory for run in tiny.runs() if run.record.parent]
    began = sorted(run.config.stat().st_mtime_ns for run in runs)
    finished = sorted((run.checkpoints / checkpoint_file(40)).stat().st_mtime_ns for run in runs)
    assert all(end < begin for end, begin in zip(finished, began[1:], strict=False))
    assert tiny.launcher("verify", "control").status == 0
    alone = Tiny(tiny.outputs.parent / "alone")
    assert digest(alone.train(POINT, "optimizer.lr=0.003", *_from(tiny))) == digest(tiny.run("lr-0.003"))
