"""Factors, controls and canaries of real fan-outs, through the whole door."""

from __future__ import annotations

import json
import shlex
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_faults
from tests.conftest import TrunkOf
from tests.tiny_process import Tiny, digest, in_a_new_interpreter, metrics

POINT = "branch.from_step=20"
SQUARE = ("loss=plain,heavy", "curriculum=early,late", "fanout.zip=[loss,curriculum]")
END = ("branch.from_step=40", "branch.steps=6")


def ids(tiny: Tiny) -> set[str]:
    return {run.id for run in tiny.runs() if run.record.kind == "branch"}


def compared(tiny: Tiny, *options: str) -> dict[str, Any]:
    ended = tiny.launcher("compare", "--json", *options)
    assert ended.status == 0, ended.err
    value: dict[str, Any] = json.loads(ended.out)
    return value


def test_two_factors_at_once_are_told_of_completed_and_taken_apart(tiny: Tiny) -> None:
    """The 2x2 of curriculum and loss."""
    ended = tiny.launch("-m", POINT, *SQUARE)
    assert ended.status == 0, ended.err
    assert "changed at once between all siblings" in ended.err
    assert "changed at once" in json.dumps(tiny.run("late-l1-heavy-loss").record.findings)
    told = tiny.launcher("ledger")
    assert told.status == 3
    assert "changed at once" in told.said
    [finding] = compared(tiny)["findings"]
    by_hand = [shlex.split(one)[2:] for one in finding["do"].split(": ", 1)[1].split("; ")]
    assert len(by_hand) == 2
    # Each stands whole on a line of its own, to be copied, wherever it is told.
    whole = {f"  {shlex.join(['python', 'train.py', *typed])}" for typed in by_hand}
    for said in (ended.err, told.out, tiny.launcher("compare").out):
        assert whole <= set(said.splitlines())

    ended = tiny.launch("-m", POINT, *SQUARE, "fanout.complete=true", "fanout.repeats=2")
    assert ended.status == 0, ended.err
    assert "changed at once" not in ended.err
    assert len(ids(tiny)) == 8
    before = ids(tiny)
    assert {tiny.train(*typed).id for typed in by_hand} < before == ids(tiny)
    assert tiny.launcher("ledger").status == 0

    # Another question in the same group is completed by itself.
    other = ["optimizer.lr=0.002,0.003", "training.gradient_clip=0.5,0.1"]
    zipped = [
        "fanout.zip=[optimizer.lr,training.gradient_clip]",
        "fanout.complete=true",
        "fanout.dry_run=true",
    ]
    planned = tiny.launch("-m", POINT, *other, *zipped)
    assert planned.status == 0, planned.err
    assert len(planned.commands()) == 8
    assert "heavy" not in planned.out

    beyond = tiny.launcher("compare", "--at", "+21")
    assert (beyond.status, "No run goes so far." in beyond.err) == (2, True)

    found = compared(tiny, "--metric", "train/error")
    assert found["findings"] == []
    assert found["proof"]["exact"]
    assert [one["name"] for one in found["factors"]] == ["loss", "curriculum"]
    assert [one["arm"] for one in found["effects"]] == [
        "loss: heavy - plain", "curriculum: late - early", "loss=heavy x curriculum=late",
    ]  # fmt: skip
    at = {
        (run.record.stream, "loss" in str(run.record.differences), "curr" in str(run.record.differences)):
        metrics(run)[40]["train/error"] for run in tiny.runs() if run.record.parent
    }  # fmt: skip
    for stream, effect in zip((0, 1), found["effects"][0]["paired"], strict=True):
        by_loss = [(at[stream, True, late] - at[stream, False, late]) / 2 for late in (False, True)]
        assert effect == pytest.approx(sum(by_loss), abs=1e-12)
    states = {(run.record.stream, run.record.job_type): run.record.states for run in tiny.runs()}
    assert len({one["20"] for (stream, _), one in states.items() if stream == 0 and one}) == 4


def repository(place: Path) -> dict[str, str]:
    """A git repository of one commit; with this environment it is the one that the code comes from."""
    commit(place, "x = 1\n")
    return {"GIT_DIR": str(place / ".git"), "GIT_WORK_TREE": str(place)}


def commit(place: Path, text: str) -> str:
    place.mkdir(exist_ok=True)
    (place / "model.py").write_text(text)
    who = ["-c", "user.name=x", "-c", "user.email=x@y"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run(["git", *who, *command], cwd=place, check=True, capture_output=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=place, check=True, capture_output=True, text=True)
    return done.stdout[:12]


def test_siblings_of_two_commits_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    git = repository(tmp_path / "code")
    assert tiny.launch("-m", POINT, "loss=plain,heavy", environment=git).status == 0
    first = tiny.run("control").record.environment["code"]
    second = commit(tmp_path / "code", "x = 2\n")
    for typed in (("-m", POINT, "optimizer.lr=0.002,0.003"), (POINT, "optimizer.lr=0.002")):
        refused = tiny.refuse(*typed, environment=git)
        assert f"git diff --stat {first} {second}" in refused.said
        assert "fanout.allow=[code]" in refused.said
    # What is there is none that comes: a launch that is given again goes on as if nothing were.
    assert tiny.launch("-m", POINT, "loss=plain,heavy", environment=git).status == 0

    ended = tiny.launch("-m", POINT, "optimizer.lr=0.002", "fanout.allow=[code]", environment=git)
    assert ended.status == 0, ended.err
    planned = tiny.launch(
        "-m", POINT, "optimizer.lr=0.003", "fanout.allow=[code]", "fanout.dry_run=true", environment=git
    )
    [typed] = planned.commands()
    assert tiny.launch(*typed, environment=git).status == 0
    record = tiny.run("lr-0.002").record
    assert (record.allowed, record.environment["code"]) == (["code"], second)
    [told] = [one for one in record.findings if one["level"] == "note" and one["what"] == "code"]
    assert told["found"] == second
    *_, fanout = json.loads((tiny.run("lr-0.002").directory.path.parent / "fanout.json").read_text())[
        "fanouts"
    ]
    assert (fanout["allow"], fanout["code"]) == (["code"], second)
    [finding] = [one for one in compared(tiny)["findings"] if one["what"] == "code"]
    assert (finding["level"], second in finding["found"]) == ("note", True)


def test_a_run_that_goes_on_with_other_code_says_so(tiny: Tiny, tmp_path: Path) -> None:
    git = repository(tmp_path / "code")
    stopped = tiny.launch(POINT, "loss=heavy", prepare=[tiny_faults.Kill(35, "SIGTERM")], environment=git)
    assert stopped.status == 143
    first = tiny.run("heavy").record.environment["code"]
    second = commit(tmp_path / "code", "x = 2\n")
    assert (
        tiny.train(POINT, "loss=heavy", environment=git).record.environment["code"]
        == f"{first}, then {second}"
    )


def test_an_override_that_changes_nothing_is_found_out(trunk_of: TrunkOf) -> None:
    """Both limits are above every gradient, which nobody can know before."""
    tiny = trunk_of("training.gradient_clip=1e6")
    typed = ("-m", POINT, "training.gradient_clip=1e6,2e6", "curriculum=early,late")
    ended = tiny.launch(*typed)
    assert ended.status == 0, ended.err
    idle = tiny.run("gradient_clip-2000000.0").record
    assert f"NO EFFECT: 20 steps after the branch point its weights ({idle.states['20'][:8]})" in ended.out
    assert "NO EFFECT" in tiny.launcher("status", idle.id).said
    arms = {one["name"]: one["no_effect"] for one in compared(tiny)["arms"]}
    assert "those of control" in arms["gradient_clip-2000000.0"]
    assert arms["late-l1"] is None
    found = {(row["arm"], row["verdict"]) for row in compared(tiny, "--metric", "train/error")["rows"]}
    assert ("gradient_clip-2000000.0", "NO EFFECT") in found
    # It was known two steps after the start.
    assert set(idle.states) == {"2", "20"}
    assert tiny.run("control").record.states["2"] == idle.states["2"]


def test_what_comes_in_later_is_looked_at_later(tiny: Tiny) -> None:
    late = tiny.train("curriculum=late", "training.steps=30")
    typed = (
        "-m",
        f"branch.from_run={late.id}",
        POINT,
        "loss=plain,heavy",
        "curriculum=late",
        "fanout.control=true",
    )
    assert tiny.launch(*typed).status == 0
    heavy, control = (tiny.run(name).record for name in ("heavy-loss", "control"))
    assert set(heavy.states) == set(control.states) == {"6", "10"}
    assert heavy.states["6"] != control.states["6"]


class TestControl:
    def test_joins_a_branch_of_which_nothing_is_swept(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, "+arm=steep", "fanout.control=true")
        assert ended.status == 0, ended.err
        assert {run.record.branch_type for run in tiny.runs() if run.record.parent} == {"control", "factor"}
        assert ended.out.index("control-") < ended.out.index("heavy-loss-lr")
        assert tiny.launcher("verify", "control").status == 0

    def test_of_one_run_alone_is_refused_with_the_command_that_launches_it(self, tiny: Tiny) -> None:
        ended = tiny.refuse(POINT, "loss=heavy", "branch.steps=2", "fanout.control=true")
        assert "this command launches one run" in ended.said
        [typed] = ended.commands()
        assert typed[0] == "-m"
        assert tiny.launch(*typed).status == 0
        assert {run.record.branch_type for run in tiny.runs() if run.record.parent} == {"control", "factor"}
        assert "fanout.repeats=3" in tiny.refuse(POINT, "fanout.repeats=3").said
        assert tiny.launch(POINT, "branch.steps=2", "fanout.repeats=1", "fanout.control=false").status == 0

    def test_is_unchanged_also_where_something_is_typed_for_all(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", POINT, "optimizer.lr=0.002", "loss=plain,heavy", "fanout.control=true")
        assert ended.status == 0, ended.err
        assert compared(tiny)["proof"]["exact"]
        assert len(ids(tiny)) == 3

    def test_is_as_the_trunk_also_where_files_say_otherwise(self, trunk_of: TrunkOf) -> None:
        tiny = trunk_of("loss=heavy")
        for typed in (("loss=plain",), ("loss=plain,heavy", "curriculum=late,early")):
            ended = tiny.launch("-m", POINT, *typed, "fanout.control=true")
            assert ended.status == 0, ended.err
            assert compared(tiny)["proof"]["exact"]
        assert len(ids(tiny)) == 4
        # The branch itself is no control: what it differs in has to be typed.
        assert "loss.weight" in tiny.refuse("-m", POINT, "optimizer.lr=0.002", "fanout.control=true").said

    def test_is_run_twice_where_the_trunk_goes_no_further(self, tiny: Tiny) -> None:
        ended = tiny.launch("-m", *END, "loss=heavy", "fanout.control=true")
        assert ended.status == 0, ended.err
        first, twin = sorted(
            (run for run in tiny.runs() if run.id.startswith("control")), key=lambda run: run.id
        )
        assert twin.id == f"{first.id}-2"
        assert digest(first, 46) == digest(twin, 46)
        proof = compared(tiny)["proof"]
        assert (proof["exact"], proof["run"]) == (True, first.id)
        assert f"is {twin.id} bit for bit" in proof["text"]
        [typed] = [
            one
            for one in tiny.launch(
                "-m", *END, "loss=heavy", "fanout.control=true", "fanout.dry_run=true"
            ).commands()
            if "fanout.repeat=2" in one
        ]
        assert tiny.train(*typed).id == twin.id

    def test_that_is_not_its_own_twin_is_at_the_head(self, tiny: Tiny) -> None:
        fault = partial(tiny_faults.after_restoring, tiny_faults.random_rng)
        assert tiny.launch("-m", *END, "loss=heavy", "fanout.control=true", prepare=[fault]).status == 0
        proof = compared(tiny)["proof"]
        assert proof["exact"] is False
        assert tiny.launcher("compare").out.startswith("control       NOT exact: ")

    def test_of_several_one_that_is_not_exact_is_at_the_head(self, tiny: Tiny) -> None:
        assert tiny.launch("-m", POINT, "loss=plain,heavy").status == 0
        assert compared(tiny)["proof"]["exact"]
        fault = partial(tiny_faults.after_restoring, tiny_faults.random_rng)
        assert tiny.launch("-m", POINT, "branch.steps=10", "loss=plain", prepare=[fault]).status == 0
        proof = compared(tiny)["proof"]
        assert (proof["exact"], "leaves" in proof["text"]) == (False, True)


class TestCanary:
    TYPED = ("-m", POINT, "loss=heavy,plain", "fanout.canary=true")

    @pytest.mark.parametrize("launcher", ["basic", "pool"])
    def test_goes_first_and_the_others_after_it(self, tiny: Tiny, launcher: str) -> None:
        ended = tiny.launch(*self.TYPED, f"hydra/launcher={launcher}")
        assert ended.status == 0, ended.err
        control, heavy = tiny.run("control"), tiny.run("heavy")
        assert [start.origin for start in control.record.starts] == ["branch point", "own checkpoint"]
        assert control.record.starts[1].step == 22
        passed = control.directory.checkpoints / "checkpoint_step_22.json"
        assert heavy.directory.config.stat().st_mtime_ns > passed.stat().st_mtime_ns
        assert len(heavy.record.starts) == 1
        assert tiny.launcher("verify", control.id).status == 0
        assert digest(control) == digest(tiny.trunk)

    @pytest.mark.parametrize("launcher", ["basic", "pool"])
    def test_that_does_not_pass_keeps_the_others_back(self, tiny: Tiny, launcher: str) -> None:
        fault = tiny_faults.forget_the_counter
        ended = tiny.launch(*self.TYPED, f"hydra/launcher={launcher}", prepare=[fault])
        assert ended.status == 1
        control, heavy = tiny.run("control").record, tiny.run("heavy").record
        assert control.state == "failed"
        assert "what was restored is not what the checkpoint holds" in (control.error or "")
        assert (heavy.starts, heavy.state) == ([], "interrupted")
        assert f"not started: the canary {control.id} did not pass" in (heavy.error or "")
        assert "did not pass" in ended.said
        # Mended, the same command goes on.
        assert tiny.launch(*self.TYPED, f"hydra/launcher={launcher}").status == 0
        assert {run.record.state for run in tiny.runs()} == {"finished"}

    def test_sees_what_only_a_resumed_run_shows(self, tiny: Tiny) -> None:
        """Restored from the branch point it is right; its own checkpoint does not hold what it needs."""
        fault = partial(tiny_faults.after_resuming, tiny_faults.other_moments)
        assert tiny.launch(*self.TYPED, prepare=[fault]).status == 1
        assert "what was saved is not what is loaded again" in (tiny.run("control").record.error or "")

    def test_under_a_launcher_of_hydras_in_other_processes(self, tiny: Tiny) -> None:
        typed = (*self.TYPED, "hydra/launcher=joblib", f"paths.outputs={tiny.outputs}")
        ended = in_a_new_interpreter("-m", "tests.tiny_train", *typed)
        assert ended.status == 0, ended.err
        assert len(tiny.run("control").record.starts) == 2
        assert {run.record.state for run in tiny.runs()} == {"finished"}

    def test_of_two_processes(self, tiny: Tiny) -> None:
        ended = tiny.launch(
            "-m", POINT, "loss=heavy", "launch.nproc=2", "fanout.canary=true", "hydra/launcher=pool"
        )
        assert ended.status == 0, ended.err
        assert [start.step for start in tiny.run("nproc-2").record.starts] == [20, 22]
