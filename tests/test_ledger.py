"""The ledger, from records alone: factors, what is confounded, facts that differ, runs without effect."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.findings import Finding
from launcher.layout import RunDirectory
from launcher.ledger.code import code_of
from launcher.ledger.entry import entry_of
from launcher.ledger.ledger import Ledger, against, ledger, ledger_of
from launcher.ledger.no_effect import without_effect
from launcher.lineage import Run
from tests.tiny_records import record

LOSS = {"loss.weight": [0.1, 0.5], "loss.kind": ["l2", "l1"]}
LATE = {"curriculum.from_step": [0, 25]}
HEAVY = {"loss": "heavy"}
HERE = {"device": "cpu", "threads": 1, "torch": "2.13.0", "code": "aaaaaaaaaaaa", "data": "d0"}
POINT = "branch.from_step=20"


def run(name: str, differences: Mapping[str, list[Any]], said: Mapping[str, Any], **more: Any) -> Run:
    """A branch of an arm: what was changed in it, and by which words."""
    typed = [POINT, *(f"{key}={value}" for key, value in said.items())]
    values: dict[str, Any] = {
        "differences": dict(differences), "declared": dict(said), "overrides": typed, "environment": HERE,
        "branch_type": "factor" if differences else "control", "arm": name, **more,
    }  # fmt: skip
    return Run(RunDirectory(Path(name)), record(name, "trunk", 20, **values))


def square(*without: str) -> list[Run]:
    """A 2x2 of loss and curriculum, less some of its arms."""
    both = {**LOSS, **LATE}
    every = [
        run("control", {}, {}),
        run("heavy", LOSS, HEAVY),
        run("late", LATE, {"curriculum": "late"}),
        run("both", both, {**HEAVY, "curriculum": "late"}),
    ]
    return [one for one in every if one.id not in without]


def warned(book: Ledger) -> list[Finding]:
    return [one for one in book.findings if one.level == "warning"]


class TestFactors:
    def test_have_the_levels_that_were_typed(self) -> None:
        loss, curriculum = ledger(square()).factors
        assert (loss.name, loss.keys) == ("loss", ["loss.weight", "loss.kind"])
        assert loss.levels == {"trunk's own": ["control", "late"], "heavy": ["heavy", "both"]}
        assert curriculum.levels == {"from_step=0": ["control", "heavy"], "late": ["late", "both"]}
        assert ledger(square()).findings == []

    def test_a_stream_is_none(self) -> None:
        drawn = {"seed": [0, 1], **LOSS}
        words = {**HEAVY, "seed": 1, "branch.reset": ["rng"]}
        other = run("heavy-1", drawn, words, stream=1, arm="heavy")
        same = run(
            "control-1", {"seed": [0, 1]}, {"seed": 1, "branch.reset": ["rng"]}, stream=1, arm="control"
        )
        book = ledger([*square("late", "both"), other, same])
        assert [one.name for one in book.factors] == ["loss"]
        assert [one.run for one in book.arms] == ["control", "heavy"]

    def test_what_all_share_is_none(self) -> None:
        rate = {"optimizer.lr": [0.1, 0.2]}
        runs = [
            run("a", rate, {"optimizer.lr": 0.2}),
            run("b", {**rate, **LOSS}, {**HEAVY, "optimizer.lr": 0.2}),
        ]
        assert [one.name for one in ledger(runs).factors] == ["loss"]

    def test_a_part_that_is_reset_is_one(self) -> None:
        runs = [run("a", {}, {}), run("b", {}, {"branch.reset": ["optimizer"]}, branch_type="factor")]
        [factor] = ledger(runs).factors
        assert (factor.name, list(factor.levels)) == ("branch.reset", ["[]", "[optimizer]"])

    def test_one_key_and_its_whole_node_are_one(self) -> None:
        runs = [*square("late", "both"), run("mine", {"loss.weight": [0.1, 0.3]}, {"loss.weight": 0.3})]
        factors = {one.name: list(one.levels) for one in ledger(runs).factors}
        assert factors == {"loss": ["trunk's own", "heavy", "weight=0.3,kind=l2"]}


class TestConfounded:
    def test_changed_at_once_between_all(self) -> None:
        [finding] = warned(ledger(square("heavy", "late")))
        assert finding.what == "loss, curriculum"
        assert "changed at once" in finding.found
        assert "2 more siblings" in finding.expected
        assert f"python train.py {POINT} curriculum=late;" in finding.do
        assert f"python train.py {POINT} loss=heavy" in finding.do

    @pytest.mark.parametrize("without", [(), ("heavy",), ("late",), ("both",)])
    def test_but_not_where_each_changes_without_the_other(self, without: tuple[str, ...]) -> None:
        """Three cells of four are enough for effects that add up."""
        assert warned(ledger(square(*without))) == []

    def test_where_one_never_changes_alone(self) -> None:
        rates = [({"optimizer.lr": [1, 2], **LOSS}, 2), ({"optimizer.lr": [1, 3], **LOSS}, 3)]
        runs = [run(f"r{rate}", changed, {**HEAVY, "optimizer.lr": rate}) for changed, rate in rates]
        [finding] = warned(ledger([run("control", {}, {}), *runs]))
        assert set(finding.what.split(", ")) == {"optimizer.lr", "loss"}
        assert "3 more siblings" in finding.expected

    def test_a_file_that_changes_both_is_taken_apart(self) -> None:
        words = {"arm": "steep", "loss": "heavy", "optimizer.lr": 0.2}
        steep = run("steep", {"optimizer.lr": [0.1, 0.2], **LOSS}, words)
        steep.record.overrides = [POINT, "+arm=steep", "tracker=wandb"]
        [finding] = warned(ledger([run("control", {}, {}), steep]))
        assert f"python train.py {POINT} ++optimizer.lr=0.2" in finding.do
        assert f"python train.py {POINT} loss=heavy" in finding.do
        assert "steep" not in finding.do

    def test_a_search_at_random_is_told_of_without_its_square(self) -> None:
        runs = [
            run(f"r{n}", {"optimizer.lr": [0, n], "seed": [0, n]}, {"optimizer.lr": n, "seed": n})
            for n in range(1, 400)
        ]
        [finding] = warned(ledger(runs))
        assert f"{399 * 399 - 399} more siblings" in finding.expected
        assert len(finding.do) < 1000


class TestFacts:
    def test_of_two_commits(self) -> None:
        other = run("heavy", LOSS, HEAVY, environment={**HERE, "code": "bbbbbbbbbbbb+cccccccccccc"})
        [finding] = warned(ledger([run("control", {}, {}), other]))
        assert finding.what == "code"
        assert finding.found == "aaaaaaaaaaaa in control; bbbbbbbbbbbb+cccccccccccc in heavy"

    def test_that_were_let_through_are_told_all_the_same(self) -> None:
        other = run("heavy", LOSS, HEAVY, environment={**HERE, "torch": "2.14.0"}, allowed=["libraries"])
        [finding] = ledger([run("control", {}, {}), other]).findings
        assert (finding.level, finding.what) == ("note", "torch")
        assert "fanout.allow=[libraries]" in finding.do

    def test_that_nobody_wrote_down_are_unknown_and_no_difference(self) -> None:
        old = run("heavy", LOSS, HEAVY, environment={"device": "cpu", "threads": 1, "torch": "2.13.0"})
        book = ledger([run("control", {}, {}), old])
        assert warned(book) == []
        assert [(one.what, one.found) for one in book.findings] == [
            ("code", "not on record of heavy"), ("data", "not on record of heavy"),
        ]  # fmt: skip

    def test_that_follow_from_a_factor_are_none(self) -> None:
        gpu = {"device": ["cpu", "cuda"]}
        other = run("gpu", gpu, {"device": "cuda"}, environment={**HERE, "device": "NVIDIA H100"})
        assert ledger([run("control", {}, {}), other]).findings == []
        seeds = [
            run("a", {}, {}, environment={**HERE, "seed": 0}),
            run("b", {"seed": [0, 2]}, {"seed": 2}, environment={**HERE, "seed": 2}),
            run("c", {"seed": [0, 1]}, {}, stream=1, environment={**HERE, "seed": 1}),
        ]
        assert ledger(seeds).findings == []

    def test_of_another_checkpoint(self) -> None:
        stranger = run("heavy", LOSS, HEAVY)
        assert stranger.record.parent is not None
        parent = {**vars(stranger.record.parent), "sha256": "1" * 64}
        stranger.record.parent = type(stranger.record.parent)(**parent)
        assert [one.what for one in warned(ledger([run("control", {}, {}), stranger]))] == ["branch point"]

    def test_stop_a_sibling_that_comes_later(self) -> None:
        there = [entry_of(one.record) for one in square()]
        late = run("new", LOSS, HEAVY, environment={"code": "bbbbbbbbbbbb", "torch": "2.13.0"})
        [finding] = against(entry_of(late.record), there)
        assert (finding.level, finding.what, finding.found) == ("error", "code", "bbbbbbbbbbbb")
        assert "git diff --stat aaaaaaaaaaaa bbbbbbbbbbbb" in finding.do
        assert "fanout.allow=[code]" in finding.do
        late.record.environment["code"] = "aaaaaaaaaaaa+cccccccccccc"
        [finding] = against(entry_of(late.record), there)
        assert (
            "git diff --stat aaaaaaaaaaaa; " in finding.do
        )  # Of what lies there, not of a commit with itself.
        late.record.allowed = ["code"]
        assert [one.level for one in against(entry_of(late.record), there)] == ["note"]

    def test_siblings_that_differ_among_themselves_let_both_through(self) -> None:
        mixed = [run("a", {}, {}), run("b", LOSS, HEAVY, environment={**HERE, "code": "bbbbbbbbbbbb"})]
        late = run("new", LATE, {"curriculum": "late"}, environment={"code": "bbbbbbbbbbbb"})
        assert against(entry_of(late.record), [entry_of(one.record) for one in mixed]) == []

    def test_older_siblings_are_said_to_be_unknown(self) -> None:
        late = run("new", LOSS, HEAVY, environment={"code": "bbbbbbbbbbbb"})
        old = [entry_of(run("a", {}, {}, environment={"device": "cpu"}).record)]
        assert [(one.level, one.what) for one in against(entry_of(late.record), old)] == [("note", "code")]


class TestCode:
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        self.git(tmp_path, "init", "-q")
        (tmp_path / "train.py").write_text("x = 1\n")
        (tmp_path / "a.yaml").write_text("x: 1\n")
        self.commit(tmp_path)
        return tmp_path

    def git(self, place: Path, *arguments: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@y"]
        subprocess.run(["git", *who, *arguments], cwd=place, check=True, capture_output=True)

    def commit(self, place: Path) -> None:
        self.git(place, "add", "-A")
        self.git(place, "commit", "-q", "-m", "x", "--allow-empty")

    def code(self, place: Path) -> str:
        code_of.cache_clear()
        code = code_of(place)
        assert code is not None
        return code

    def test_is_the_commit_and_what_is_not_in_it(self, repository: Path) -> None:
        clean = self.code(repository)
        assert len(clean) == 12
        (repository / "train.py").write_text("x = 2\n")
        changed = self.code(repository)
        assert changed.startswith(f"{clean}+")
        (repository / "new.py").write_text("y = 1\n")
        more = self.code(repository)
        (repository / "new.py").write_text("y = 2\n")
        assert len({changed, more, self.code(repository)}) == 3
        (repository / "new.py").unlink()
        (repository / "train.py").write_text("x = 1\n")
        assert self.code(repository) == clean
        self.git(repository, "mv", "train.py", "main.py")
        assert self.code(repository) != clean
        self.commit(repository)
        assert self.code(repository).partition("+")[0] != clean

    def test_config_files_text_and_outputs_are_held_otherwise(self, repository: Path) -> None:
        clean = self.code(repository)
        for name in ("a.yaml", "new.yaml", "README.md", "multirun_outputs/g/r/run.json"):
            path = repository / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("z: 1\n")
        assert self.code(repository) == clean

    def test_outside_of_git_it_is_unknown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        code_of.cache_clear()
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert code_of(tmp_path) is None


class TestNoEffect:
    def runs(self, control: dict[str, str], *others: dict[str, str], **more: Any) -> dict[str, str]:
        arms = [
            run(f"arm-{number}", LOSS, HEAVY, states=states, **more) for number, states in enumerate(others)
        ]
        found = without_effect([run("control", {}, {}, states=control), *arms])
        return {name: str(idle) for name, idle in found.items()}

    def test_is_told_early_and_with_whom(self) -> None:
        found = self.runs({"2": "aa", "6": "bb"}, {"2": "aa"}, {"2": "cc"}, {"6": "bb"}, state="running")
        assert found == {
            "arm-0": "NO EFFECT: 2 steps after the branch point its weights (aa) are those of control",
            "arm-2": "NO EFFECT: 6 steps after the branch point its weights (bb) are those of control",
        }

    def test_not_where_it_came_later(self) -> None:
        assert self.runs({"2": "aa", "20": "bb"}, {"2": "aa", "20": "cc"}) == {}

    def test_not_in_another_stream(self) -> None:
        assert self.runs({"2": "aa"}, {"2": "aa"}, stream=1) == {}

    def test_of_two_that_end_alike(self) -> None:
        found = self.runs({}, {"20": "aa"}, {"20": "aa"}, {"20": "bb"})
        assert list(found) == ["arm-1"]
        assert "are those of arm-0" in found["arm-1"]
        assert self.runs({}, {"2": "aa"}, {"2": "aa"}, state="running") == {}


def test_a_planned_sibling_has_an_entry_too() -> None:
    planned = run("new", LOSS, HEAVY, environment={})
    assert [one.name for one in ledger_of([entry_of(planned.record)]).factors] == []
    assert "device" not in entry_of(planned.record).facts
