"""No silent fallback: a branch point that cannot be had is an error that says what can."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from launcher.layout import checkpoint_file, manifest_of
from launcher.lineage import Run
from tests import tiny_faults
from tests.tiny_process import Tiny, digest, manifests

Tampering = str


def checkpoint(run: Run, step: int = 20) -> Path:
    return run.directory.checkpoints / checkpoint_file(step)


def damage(path: Path, how: str) -> None:
    """Spoil a checkpoint in one of the ways in which files are spoiled."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        if how == "flipped bit":
            file.seek(size // 2)
            byte = file.read(1)[0]
            file.seek(size // 2)
            file.write(bytes([byte ^ 1]))
        elif how == "truncated":
            file.truncate(size - 1)
        elif how == "empty":
            file.truncate(0)
    if how == "gone":
        path.unlink()


class TestFromStep:
    def test_a_missing_step_lists_those_there_are(self, tiny: Tiny) -> None:
        ended = tiny.refuse("branch.from_step=25", "loss=heavy")
        assert "No run has a checkpoint at step 25" in ended.err
        assert f"{tiny.trunk.id}: steps 10, 20, 30, 40" in ended.err

    def test_the_command_that_is_printed_makes_a_missing_one(self, tiny: Tiny) -> None:
        [command] = tiny.refuse("branch.from_step=25", "loss=heavy").commands()
        control = tiny.train(*command)
        assert control.record.branch_type == "control"
        branch = tiny.train("branch.from_step=25", "loss=heavy")
        assert branch.record.parent is not None
        assert branch.record.parent.run == control.id

    def test_also_beyond_the_end_of_a_trunk_with_settings_of_its_own(self, empty: Tiny) -> None:
        trunk = empty.train("+arm=steep", "optimizer.betas=[0.5,0.6]", "training.steps=20")
        [command] = empty.refuse("branch.from_step=26").commands()
        control = empty.train(*command)
        assert control.record.branch_type == "control"
        assert control.record.parent is not None
        assert (control.record.parent.run, control.record.parent.step) == (trunk.id, 20)
        assert sorted(manifests(control)) == [26]

    def test_before_the_first_checkpoint_it_takes_another_trunk(self, tiny: Tiny) -> None:
        make, branch = tiny.refuse("branch.from_step=5", "loss=heavy").commands()
        trunk = tiny.train(*make)
        assert tiny.train(*branch).record.parent.run == trunk.id  # type: ignore[union-attr]

    def test_without_any_run_a_trunk_has_to_come_first(self, empty: Tiny) -> None:
        [command] = empty.refuse("branch.from_step=20").commands()
        empty.train(*command)
        empty.train("branch.from_step=20")

    def test_each_of_several_runs_has_its_command(self, tiny: Tiny) -> None:
        tiny.train("seed=1")
        ended = tiny.refuse("branch.from_step=20", "loss=heavy", "seed=1")
        assert "2 runs have a checkpoint at step 20" in ended.err
        commands = ended.commands()
        assert len(commands) == 2
        parents = []
        for number, command in enumerate(commands):
            apart = Tiny(tiny.outputs.parent / str(number))
            shutil.copytree(tiny.outputs, apart.outputs)
            branch = apart.train(*[one for one in command if not one.startswith("paths.")])
            assert "loss.weight" in branch.record.differences
            assert branch.record.parent is not None
            parents.append(branch.record.parent.run)
        assert sorted(parents) == sorted(run.id for run in tiny.runs())  # type: ignore[type-var]

    def test_a_sibling_that_numbers_its_steps_anew_is_not_in_the_way(self, tiny: Tiny) -> None:
        """It comes by the number of its own branch point; the next sibling means the trunk's."""
        ended = tiny.launch("-m", "branch.from_step=20", "branch.step_mode=reset", "loss=plain,heavy")
        assert ended.status == 0, ended.err
        branches = [run for run in tiny.runs() if run.record.kind == "branch"]
        assert len(branches) == 2
        assert {run.record.parent.run for run in branches if run.record.parent} == {tiny.trunk.id}
        assert {20 in manifests(run) for run in branches} == {True}

    def test_with_a_record_that_cannot_be_read_it_does_not_guess(self, tiny: Tiny) -> None:
        """The run that cannot be read may be another one with this step."""
        point = ["branch.from_step=20", f"branch.from_run={tiny.trunk.id}"]
        other = tiny.outputs / "trunks" / "trunk-damaged" / "run.json"
        other.parent.mkdir()
        other.write_text("{")
        ended = tiny.refuse("branch.from_step=20")
        assert str(other) in ended.err
        assert "branch.from_run=RUN" in ended.err
        assert tiny.train(*point).record.branch_type == "control"


class TestFromRun:
    def test_by_prefix_signature_or_directory(self, tiny: Tiny) -> None:
        trunk = tiny.trunk
        names = ["trunk-", trunk.id, trunk.record.signature[:4], str(trunk.directory.path)]
        ids = {tiny.train("branch.from_step=20", f"branch.from_run={name}").id for name in names}
        assert len(ids) == 1

    def test_without_a_step_it_is_the_newest(self, tiny: Tiny) -> None:
        branch = tiny.train(f"branch.from_run={tiny.trunk.id}", "branch.steps=2")
        assert branch.record.parent_step == 40

    def test_a_prefix_of_several_is_refused(self, tiny: Tiny) -> None:
        other = tiny.train("seed=1")
        ended = tiny.refuse("branch.from_run=trunk-", "branch.from_step=20")
        assert other.id in ended.err
        assert "Several runs" in ended.err

    @pytest.mark.parametrize("name", ["nobody", "x" * 300, "a b", "''", "../.."])
    def test_an_unknown_one_is_refused(self, tiny: Tiny, name: str) -> None:
        ended = tiny.refuse(f"branch.from_run={name}", "branch.from_step=20")
        assert tiny.trunk.id in ended.err

    def test_a_step_that_it_lacks_lists_what_it_has(self, tiny: Tiny) -> None:
        ended = tiny.refuse("branch.from_run=trunk", "branch.from_step=21")
        assert "steps 10, 20, 30, 40" in ended.err


class TestFromCheckpoint:
    def test_a_file_a_directory_and_a_runs_directory(self, tiny: Tiny) -> None:
        path = checkpoint(tiny.trunk)
        places = [[str(path)], [str(path.parent), "branch.from_step=20"], [str(path.parent.parent)]]
        steps = {
            tuple(one): tiny.train(f"branch.from_checkpoint={one[0]}", *one[1:], "branch.steps=1")
            for one in places
        }
        assert [run.record.parent_step for run in steps.values()] == [20, 20, 40]

    @pytest.mark.parametrize("place", ["nowhere/checkpoint_step_20.pt", "nowhere"])
    def test_a_place_that_is_not_there(self, tiny: Tiny, place: str) -> None:
        ended = tiny.refuse(f"branch.from_checkpoint={tiny.outputs}/{place}")
        assert place in ended.err

    def test_a_mistyped_file_lists_its_neighbours(self, tiny: Tiny) -> None:
        ended = tiny.refuse(f"branch.from_checkpoint={checkpoint(tiny.trunk, 21)}")
        assert "checkpoint_step_20.pt" in ended.err

    def test_another_step_than_the_file_has(self, tiny: Tiny) -> None:
        ended = tiny.refuse(f"branch.from_checkpoint={checkpoint(tiny.trunk)}", "branch.from_step=30")
        assert "branch.from_step=30" in ended.err

    def test_a_file_that_is_none(self, tiny: Tiny) -> None:
        foreign = tiny.outputs.parent / "foreign.pt"
        foreign.write_bytes(b"not a checkpoint")
        assert "foreign" in tiny.refuse(f"branch.from_checkpoint={foreign}").err

    def test_without_its_manifest_it_is_none(self, tiny: Tiny) -> None:
        manifest_of(checkpoint(tiny.trunk)).unlink()
        tiny.refuse(f"branch.from_checkpoint={checkpoint(tiny.trunk)}")
        assert "10, 30, 40" in tiny.refuse("branch.from_step=20").err


@pytest.mark.parametrize("how", ["flipped bit", "truncated", "empty", "gone"])
def test_a_damaged_checkpoint_is_refused(tiny: Tiny, how: str) -> None:
    damage(checkpoint(tiny.trunk), how)
    for named in ("branch.from_step=20", f"branch.from_checkpoint={checkpoint(tiny.trunk)}"):
        ended = tiny.refuse(named)
        assert "checkpoint" in ended.err
        assert "train from scratch on purpose: branch.on_unavailable=scratch" in ended.err


def test_a_digest_that_was_asked_for_is_checked(tiny: Tiny) -> None:
    right, wrong = digest(tiny.trunk, 20), digest(tiny.trunk, 30)
    ended = tiny.refuse("branch.from_step=20", f"branch.sha256={wrong}")
    assert right in ended.err
    assert wrong in ended.err
    assert tiny.train("branch.from_step=20", f"branch.sha256={right}").record.branch_type == "control"


def test_a_run_that_no_longer_needs_it_says_that_it_is_gone(tiny: Tiny) -> None:
    """Otherwise whoever put another file in its place would take the old run for that one's."""
    place = tiny.outputs.parent / "moved"
    shutil.copytree(tiny.trunk.directory.checkpoints, place)
    typed = (f"branch.from_checkpoint={place}", "branch.from_step=20", "branch.steps=1")
    tiny.train(*typed)
    damage(place / checkpoint_file(20), "truncated")
    again = tiny.launch(*typed)
    assert again.status == 0
    assert "branch point cannot be had any more" in again.said
    assert "finished already" in again.said


class TestMirrors:
    def test_the_first_that_has_it_is_taken_and_the_others_are_told(self, tiny: Tiny) -> None:
        copies = [tiny.outputs.parent / name for name in ("none", "damaged", "good", "better")]
        for copy in copies[1:]:
            shutil.copytree(tiny.trunk.directory.checkpoints, copy)
        damage(copies[1] / checkpoint_file(20), "truncated")
        checkpoint(tiny.trunk).unlink()
        mirrors = f"branch.mirrors=[{','.join(map(str, copies))}]"
        branch = tiny.train("branch.from_run=trunk", "branch.from_step=20", mirrors)
        assert branch.record.parent is not None
        assert branch.record.parent.checkpoint == str(copies[2] / checkpoint_file(20))
        assert digest(branch) == digest(tiny.trunk)
        warnings = [one["found"] for one in branch.record.findings if one["level"] == "warning"]
        assert len(warnings) == 3
        assert [str(place) in told for place, told in zip(copies[:2], warnings[1:], strict=True)] == [
            True,
            True,
        ]

    def test_if_none_has_it_each_is_named(self, tiny: Tiny) -> None:
        places = [tiny.outputs.parent / "a", tiny.outputs.parent / "b"]
        mirrors = f"branch.mirrors=[{places[1]}]"
        ended = tiny.refuse(f"branch.from_checkpoint={places[0]}", mirrors, "branch.from_step=20")
        assert all(str(place) in ended.err for place in places)


class TestScratch:
    ASKED = ("branch.from_step=25", "branch.on_unavailable=scratch", "loss=heavy")

    def test_it_is_outside_the_group_and_says_so(self, tiny: Tiny) -> None:
        run = tiny.train(*self.ASKED)
        assert run.record.kind == "scratch"
        assert run.directory.path.parent.name == "scratch"
        assert run.record.parent is None
        assert run.record.start_step == 0
        assert "fallback-from-scratch" in run.record.tags
        assert "from-checkpoint" not in run.record.tags
        [finding] = run.record.findings
        assert finding["level"] == "warning"
        assert "No run has a checkpoint at step 25" in finding["found"]

    def test_a_branch_point_that_is_there_is_taken(self, tiny: Tiny) -> None:
        run = tiny.train("branch.from_step=20", *self.ASKED[1:])
        assert run.record.kind == "branch"

    def test_a_mistake_in_the_branch_itself_is_still_one(self, tiny: Tiny) -> None:
        tiny.refuse("branch.from_step=20", "branch.on_unavailable=scratch", "model.width=17")


class TestGoneLater:
    """A branch that has checkpoints of its own needs its branch point no more; one that has none does."""

    def interrupted(self, tiny: Tiny, at: int) -> Run:
        late = tiny_faults.Kill(at, "SIGKILL", saved=True)
        assert tiny.launch("branch.from_step=20", "loss=heavy", prepare=[late]).status == 137
        damage(checkpoint(tiny.trunk), "gone")
        return tiny.run("heavy-loss-")

    def test_it_resumes_from_its_own(self, tiny: Tiny) -> None:
        undisturbed = Tiny(tiny.outputs.parent / "undisturbed")
        shutil.copytree(tiny.outputs, undisturbed.outputs)
        end = digest(undisturbed.train("branch.from_step=20", "loss=heavy"))
        branch = self.interrupted(tiny, at=35)
        resumed = tiny.train("branch.from_step=20", "loss=heavy")
        assert resumed.id == branch.id
        assert [start.origin for start in resumed.record.starts] == ["branch point", "own checkpoint"]
        assert digest(resumed) == end

    def test_without_any_of_its_own_it_is_refused(self, tiny: Tiny) -> None:
        self.interrupted(tiny, at=25)
        tiny.refuse("branch.from_step=20", "loss=heavy")

    def test_with_none_of_its_own_whole_it_does_not_begin_from_nothing(self, tiny: Tiny) -> None:
        damage(checkpoint(self.interrupted(tiny, at=35), 30), "truncated")
        ended = tiny.refuse("branch.from_step=20", "loss=heavy")
        assert "branch point" in ended.err or "checkpoint at step 20" in ended.err
