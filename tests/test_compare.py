"""``launcher compare`` over sets that never ran: alignment, verdicts, what is refused, what is printed."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import ConfigError
from launcher.lineage import Start, find_run
from launcher.report.compare.comparison import Asked, Comparison, compare
from launcher.report.compare.tables import signed
from launcher.report.compare.verdict import Row
from tests.compared_runs import GROUP, changed, fanned_out, sibling, trunk
from tests.test_looking import strict
from tests.tiny_process import Tiny

ERROR = "val/error"


def wave(offset: float, noise: float = 0.05) -> Callable[[int, int], float]:
    """A curve that goes down, with what its stream does to it and an offset that is its arm's."""
    return lambda stream, step: 2.0 + offset + math.sin(3 * stream) - 0.01 * step + noise * math.sin(
        7 * stream + 100 * offset
    )  # fmt: skip


def pair(outputs: Path, streams: int = 3, offset: float = -0.5, **more: Any) -> None:
    """A control and a better arm."""
    for stream in range(streams):
        sibling(outputs, "control", stream, {ERROR: wave(0.0)}, **more)
        sibling(outputs, "treated", stream, {ERROR: wave(offset)}, **more)


def rows(comparison: Comparison) -> dict[tuple[str, str], Row]:
    return {(row.arm, row.metric): row for row in comparison.rows}


def row(outputs: Path, arm: str = "treated", metric: str = ERROR, **asked: Any) -> Row:
    return rows(compare(outputs, [], Asked(**asked)))[arm, metric]


class TestVerdicts:
    @pytest.mark.parametrize(
        ("offset", "verdict"), [(-0.5, "better"), (0.5, "worse"), (0.02, "inside the noise")]
    )
    def test_by_the_interval_over_streams(self, tmp_path: Path, offset: float, verdict: str) -> None:
        pair(tmp_path, offset=offset)
        one = row(tmp_path)
        own = [wave(offset)(stream, 20) for stream in range(3)]
        theirs = [wave(0.0)(stream, 20) for stream in range(3)]
        assert one.verdict == verdict
        assert one.paired == pytest.approx(np.subtract(own, theirs).tolist())
        assert (one.value, one.baseline) == pytest.approx((np.mean(own), np.mean(theirs)))
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.difference < one.high  # type: ignore[operator]
        assert (one.low <= 0 <= one.high) == (verdict == "inside the noise")
        assert (one.streams, one.branch_step, one.weaker) == ([0, 1, 2], 20, False)

    def test_up_is_better_where_the_task_says_so(self, tmp_path: Path) -> None:
        for stream in range(3):
            sibling(tmp_path, "control", stream, {"val/hits": wave(0.0)})
            sibling(tmp_path, "treated", stream, {"val/hits": wave(0.5)})
        assert row(tmp_path, metric="val/hits").verdict == "better"

    @pytest.mark.parametrize(
        ("metric", "way"),
        [("val/token_accuracy", "up"), ("val/accuracy", "up"), ("val/some_loss", "down"),
         ("val/loss", "down"), ("val/perplexity", None), ("val/lossless", None), ("val/inaccuracy", None)],
    )  # fmt: skip
    def test_a_name_tells_the_direction_only_where_it_is_certain(
        self, tmp_path: Path, metric: str, way: str | None
    ) -> None:
        for stream in range(3):
            sibling(tmp_path, "control", stream, {metric: wave(0.0)}, directions={})
            sibling(tmp_path, "treated", stream, {metric: wave(0.5)}, directions={})
        one = row(tmp_path, metric=metric)
        assert one.direction == way
        assert one.verdict == {"up": "better", "down": "worse", None: "direction unknown"}[way]

    def test_arms_that_contradict_each_other_on_a_direction(self, tmp_path: Path) -> None:
        for stream in range(3):
            sibling(tmp_path, "control", stream, {"val/loss": wave(0.0)}, directions={"loss": "down"})
            sibling(tmp_path, "treated", stream, {"val/loss": wave(0.5)}, directions={"loss": "up"})
        assert row(tmp_path, metric="val/loss").verdict == "direction unknown"

    def test_the_same_difference_in_every_stream_tells_of_no_noise(self, tmp_path: Path) -> None:
        pair(tmp_path, offset=-0.5)
        for stream in range(3):
            sibling(tmp_path, "exactly", stream, {ERROR: lambda s, k: wave(0.0)(s, k) - 0.25})
        one = row(tmp_path, "exactly")
        assert (one.verdict, one.low) == ("inside the noise", None)
        assert "no noise" in one.note

    def test_equal_runs(self, tmp_path: Path) -> None:
        pair(tmp_path, offset=0.0)
        assert (row(tmp_path).verdict, row(tmp_path).low) == ("inside the noise", 0.0)

    @pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
    def test_a_value_that_is_no_number(self, tmp_path: Path, odd: float) -> None:
        pair(tmp_path)
        for stream in range(3):
            sibling(tmp_path, "odd", stream, {ERROR: lambda s, k: odd if (s, k) == (1, 20) else 1.0})
        found = rows(compare(tmp_path, [], Asked()))
        assert (found["odd", ERROR].verdict, found["odd", ERROR].note) == ("incomplete", "not a number")
        assert found["treated", ERROR].verdict == "better"


class TestOneStream:
    def test_is_marked_as_weaker(self, tmp_path: Path) -> None:
        sibling(tmp_path, "control", 0, {ERROR: lambda _, k: 1 + 0.1 * math.sin(k)})
        sibling(tmp_path, "treated", 0, {ERROR: lambda _, k: 0.5 + 0.1 * math.cos(k)})
        one = row(tmp_path)
        assert (one.verdict, one.weaker, one.steps, one.streams) == ("better", True, 20, [0])
        assert "fanout.repeats" in one.note

    def test_wandering_about_the_baseline_is_noise(self, tmp_path: Path) -> None:
        sibling(tmp_path, "control", 0, {ERROR: lambda _, k: 1 + 0.1 * math.sin(k)})
        sibling(tmp_path, "treated", 0, {ERROR: lambda _, k: 1 + 0.1 * math.cos(k)})
        assert row(tmp_path).verdict == "inside the noise"

    def test_with_few_steps_tells_nothing(self, tmp_path: Path) -> None:
        sibling(tmp_path, "control", 0, {ERROR: lambda _, k: math.sin(k)}, every=5)
        sibling(tmp_path, "treated", 0, {ERROR: lambda _, k: math.cos(k)}, every=5)
        one = row(tmp_path)
        assert (one.verdict, one.low) == ("incomplete", None)
        assert "one stream and 4 logged steps" in one.note
        # Nor that there is no noise.
        sibling(tmp_path, "shifted", 0, {ERROR: lambda _, k: math.sin(k) + 1}, every=5)
        one = row(tmp_path, "shifted")
        assert (one.verdict, "4 logged steps" in one.note) == ("incomplete", True)

    def test_of_a_long_run_the_last_steps_count(self, tmp_path: Path) -> None:
        """Worse for long, better in the last hundred steps."""

        def curve(late: float) -> Callable[[int, int], float]:
            return lambda _, step: late + 0.1 * math.sin(step * late) if step > 300 else 2 - late

        for arm, late in (("control", 1.0), ("treated", 0.5)):
            sibling(tmp_path, arm, 0, {ERROR: curve(late)}, end=420)
        assert (row(tmp_path).verdict, row(tmp_path).steps) == ("better", 100)
        assert (row(tmp_path, at="+300").verdict, row(tmp_path, at="+300").note) == (
            "inside the noise", "the same difference at every logged step"
        )  # fmt: skip

    def test_beside_arms_with_three(self, tmp_path: Path) -> None:
        pair(tmp_path)
        sibling(tmp_path, "late", 0, {ERROR: lambda _, k: 1.0 + 0.1 * math.sin(k)})
        found = rows(compare(tmp_path, [], Asked()))
        assert not found["treated", ERROR].weaker
        assert found["late", ERROR].weaker
        assert "stream 1, 2 without a pair" in found["late", ERROR].note

    def test_against_the_trunk_where_there_is_no_control(self, tmp_path: Path) -> None:
        """The trunk's steps count from the branch point."""
        trunk(tmp_path, ERROR, lambda step: 10.0 + step, end=60)
        sibling(tmp_path, "treated", 0, {ERROR: lambda _, k: 30.0 + k + 1e-3 * math.sin(k)})
        comparison = compare(tmp_path, [], Asked())
        one = rows(comparison)["treated", ERROR]
        assert (comparison.baseline, one.baseline) == ("trunk", 50.0)
        assert one.difference == pytest.approx(0.0, abs=2e-3)
        [note] = comparison.notes
        assert "There is no control" in note
        named = rows(compare(tmp_path, ["trunk", "treated-id"], Asked()))["treated", ERROR]
        assert named == one


class TestAlignment:
    def test_numbered_anew_or_not(self, tmp_path: Path) -> None:
        for stream in range(3):
            sibling(tmp_path, "control", stream, {ERROR: wave(0.0)})
            sibling(tmp_path, "treated", stream, {ERROR: wave(-0.5)}, begin=0)
        assert row(tmp_path).paired == pytest.approx([
            wave(-0.5)(stream, 20) - wave(0.0)(stream, 20) for stream in range(3)
        ])  # fmt: skip

    @pytest.mark.parametrize(("at", "step"), [("31", 11), ("+11", 11), (None, 20), ("+20", 20)])
    def test_at_a_step_as_the_trunk_counts_or_since_the_branch(
        self, tmp_path: Path, at: str | None, step: int
    ) -> None:
        pair(tmp_path)
        one = row(tmp_path, at=at)
        assert (one.branch_step, one.value) == (
            step,
            pytest.approx(np.mean([wave(-0.5)(s, step) for s in range(3)])),
        )

    def test_the_last_step_that_all_have(self, tmp_path: Path) -> None:
        """Steps 3, 6, ... 18 and 4, 8, ... 20: 12 is the last of both."""
        for stream in range(3):
            sibling(tmp_path, "control", stream, {ERROR: wave(0.0)}, every=3)
            sibling(tmp_path, "treated", stream, {ERROR: wave(-0.5)}, every=4)
        assert row(tmp_path).branch_step == 12

    def test_a_shorter_run_is_compared_where_it_ends(self, tmp_path: Path) -> None:
        pair(tmp_path)
        sibling(tmp_path, "short", 0, {ERROR: wave(0.1)}, end=30)
        comparison = compare(tmp_path, [], Asked())
        assert {one.branch_step for one in comparison.rows} == {10}
        assert rows(comparison)["treated", ERROR].verdict == "better"
        [note] = comparison.notes
        assert note.startswith("compared at +10, as short-id (up to +10) measured val/error no further")
        assert "launch it with branch.steps=20" in note

    def test_one_that_has_no_step_with_the_others_is_named_and_does_not_hold_them_back(
        self, tmp_path: Path
    ) -> None:
        for stream in range(3):
            sibling(tmp_path, "control", stream, {ERROR: wave(0.0)}, every=10)
            sibling(tmp_path, "treated", stream, {ERROR: wave(-0.5)}, every=10)
        sibling(tmp_path, "odd", 0, {ERROR: wave(0.1)}, every=7, end=27)
        comparison = compare(tmp_path, [], Asked())
        one = rows(comparison)["treated", ERROR]
        assert (one.branch_step, one.verdict) == (20, "incomplete")
        assert one.difference == pytest.approx(-0.5, abs=0.1)
        [missing] = comparison.missing
        assert missing.startswith("odd-id (up to +7) measured val/error at no step that the others share")
        assert "7 steps and not 20: launch it with branch.steps=20" in missing
        names = [run for arm in comparison.arms if arm.name != "odd" for run in arm.runs.values()]
        assert rows(compare(tmp_path, names, Asked()))["treated", ERROR].verdict == "better"

    def test_no_step_in_common(self, tmp_path: Path) -> None:
        for stream in range(2):
            sibling(tmp_path, "control", stream, {ERROR: wave(0.0)}, every=7)
            sibling(tmp_path, "treated", stream, {ERROR: wave(-0.5)}, every=11)
        comparison = compare(tmp_path, [], Asked())
        one = rows(comparison)["treated", ERROR]
        assert (one.verdict, one.note, one.branch_step) == ("incomplete", "no step in common", None)
        assert "control-id (up to +14)" in comparison.missing[0]
        assert "treated-id (up to +11)" in comparison.missing[0]
        assert "training.validate_every" in comparison.missing[0]

    def test_a_trunk_that_ends_before_its_branches_wants_a_control(self, tmp_path: Path) -> None:
        trunk(tmp_path, ERROR, lambda step: 10.0 + step, end=30)
        sibling(tmp_path, "treated", 0, {ERROR: wave(0.0)})
        comparison = compare(tmp_path, [], Asked())
        assert rows(comparison)["treated", ERROR].branch_step == 10
        assert comparison.notes[1].endswith("goes as far as the others: fanout.control=true")

    def test_smoothing_is_a_mean_over_shared_steps(self, tmp_path: Path) -> None:
        pair(tmp_path)
        mean = np.mean([wave(-0.5)(stream, step) for stream in range(3) for step in range(16, 21)])
        one = row(tmp_path, smooth=5)
        assert one.value == pytest.approx(mean)
        # The baseline's own row is what the differences are taken to.
        assert row(tmp_path, "control", smooth=5).value == one.baseline != row(tmp_path, "control").value

    @given(
        st.lists(st.tuples(st.integers(1, 6), st.integers(21, 90)), min_size=2, max_size=4),
        st.one_of(st.none(), st.integers(1, 80)),
    )
    def test_whatever_the_cadence_values_are_of_one_step(
        self, tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, int]], at: int | None
    ) -> None:
        outputs = tmp_path_factory.mktemp("aligned")
        for number, (every, end) in enumerate(shapes):
            arm = f"arm-{number}" if number else "control"
            for stream in range(2):
                sibling(
                    outputs, arm, stream, {ERROR: lambda _, k, n=number: 1000.0 * n + k}, every=every, end=end
                )  # type: ignore[misc]
        if at is not None and at > max(end for _, end in shapes) - 20:
            with pytest.raises(ConfigError, match="No run goes so far"):
                compare(outputs, [], Asked(metrics=[ERROR], at=f"+{at}"))
            return
        logged = [set(range(every, end - 19, every)) for every, end in shapes]
        # A run without any value up to there decides nothing, and has no row to be held to.
        counted = [{step for step in one if at is None or step <= at} for one in logged]
        having = Counter(step for one in counted for step in one)
        most = max(having.values(), default=0)
        enough = 2 * most > sum(1 for one in counted if one)
        expected = max((step for step, count in having.items() if count == most and enough), default=None)
        comparison = compare(outputs, [], Asked(metrics=[ERROR], at=None if at is None else f"+{at}"))
        for one in comparison.rows[1:]:
            number = int(one.arm.rpartition("-")[2])
            assert one.branch_step == expected
            if expected in counted[0] and expected in counted[number]:
                assert (one.value, one.baseline) == (1000.0 * number + expected, expected)


class TestIncomplete:
    @staticmethod
    def verdicts(outputs: Path) -> set[str]:
        return {one.verdict for one in compare(outputs, [], Asked()).rows[1:]}

    def test_a_failed_sibling(self, tmp_path: Path) -> None:
        pair(tmp_path)
        one = sibling(tmp_path, "broken", 0, {ERROR: wave(0.0)}, end=30, state="failed", error="it broke")
        comparison = compare(tmp_path, [], Asked())
        assert comparison.missing == [f"{one.id} failed: it broke"]
        assert self.verdicts(tmp_path) == {"incomplete"}
        whole = rows(comparison)["treated", ERROR]
        assert (whole.branch_step, whole.low is not None) == (20, True)

    @pytest.mark.parametrize("state", ["queued", "interrupted", "running"])
    def test_one_that_has_not_come_so_far(self, tmp_path: Path, state: str) -> None:
        pair(tmp_path)
        sibling(tmp_path, "late", 0, {ERROR: wave(0.0)}, end=30, state=state)
        assert self.verdicts(tmp_path) == {"incomplete"}
        at_30 = rows(compare(tmp_path, [], Asked(at="30")))
        assert at_30["treated", ERROR].verdict == "better"

    def test_before_anything_is_on_record(self, tmp_path: Path) -> None:
        for arm in ("control", "treated"):
            sibling(tmp_path, arm, 0, {ERROR: wave(0.0)}, end=30, state="queued", metrics={})
        comparison = compare(tmp_path, [], Asked())
        assert (comparison.rows, len(comparison.missing)) == ([], 2)

    def test_one_that_was_launched_and_is_not_there(self, tmp_path: Path) -> None:
        pair(tmp_path)
        fanned_out(tmp_path, sibling(tmp_path, "gone"))
        assert compare(tmp_path, [], Asked()).missing == []
        (tmp_path / GROUP / "gone-id" / "run.json").unlink()
        assert compare(tmp_path, [], Asked()).missing == ["gone-id was launched and is not there"]
        assert self.verdicts(tmp_path) == {"incomplete"}

    def test_but_not_one_that_was_refused(self, tmp_path: Path) -> None:
        pair(tmp_path)
        fanned_out(tmp_path, sibling(tmp_path, "gone"), launched=False)
        (tmp_path / GROUP / "gone-id" / "run.json").unlink()
        assert self.verdicts(tmp_path) == {"better"}

    def test_a_record_that_cannot_be_read(self, tmp_path: Path) -> None:
        pair(tmp_path)
        (tmp_path / GROUP / "treated-stream-2-id" / "run.json").write_text("{")
        assert "treated-stream-2-id cannot be read" in compare(tmp_path, [], Asked()).missing[0]
        assert self.verdicts(tmp_path) == {"incomplete"}

    def test_runs_that_are_named_are_the_whole_set(self, tmp_path: Path) -> None:
        pair(tmp_path)
        sibling(tmp_path, "broken", 0, {ERROR: wave(0.0)}, state="failed")
        names = [
            f"{arm}{part}-id" for arm in ("control", "treated") for part in ("", "-stream-1", "-stream-2")
        ]
        comparison = compare(tmp_path, names, Asked())
        assert (comparison.missing, comparison.rows[1].verdict) == ([], "better")

    def test_a_process_that_is_gone_does_not_run(self, tmp_path: Path) -> None:
        pair(tmp_path)
        start = Start("2026-11-21T20:00:00+00:00", "elsewhere", 1, "branch point", 20)
        sibling(tmp_path, "dead", 0, {ERROR: wave(0.0)}, end=30, state="running", starts=[start])
        assert "is interrupted at step" in compare(tmp_path, [], Asked()).missing[0]


class TestManyComparisons:
    def test_few_are_not_corrected(self, tmp_path: Path) -> None:
        pair(tmp_path)
        assert not compare(tmp_path, [], Asked()).corrected
        assert row(tmp_path).level == 0.05

    def test_many_are_and_it_says_so(self, tmp_path: Path) -> None:
        pair(tmp_path, offset=-0.17)
        alone = row(tmp_path)
        for number in range(9):
            for stream in range(3):
                sibling(tmp_path, f"more-{number}", stream, {ERROR: wave(0.001 * number)})
        comparison = compare(tmp_path, [], Asked())
        one = rows(comparison)["treated", ERROR]
        assert (comparison.corrected, comparison.comparisons) == (True, 10)
        assert one.p == alone.p
        assert one.low is not None
        assert alone.low is not None
        assert one.low < alone.low
        assert (alone.verdict, one.verdict) == ("better", "inside the noise")

    @pytest.mark.parametrize("arms", [1, 5])
    def test_noise_finds_a_winner_no_more_often_than_promised(
        self, tmp_path_factory: pytest.TempPathFactory, arms: int
    ) -> None:
        """A control against itself under other streams, 400 times, through all of compare."""
        random = np.random.default_rng(arms)
        outputs = tmp_path_factory.mktemp("null")
        wrong, trials = 0, 400
        metrics = [f"val/m{number}_loss" for number in range(trials)]
        for arm in ["control", *(f"same-{number}" for number in range(arms))]:
            for stream in range(3):
                drawn = dict(zip(metrics, random.normal(size=trials), strict=True))
                curves = {name: (lambda _s, _k, v=float(value): v) for name, value in drawn.items()}
                sibling(outputs, arm, stream, curves, end=21)
        for metric in metrics:
            found = compare(outputs, [], Asked(metrics=[metric])).rows
            wrong += any(one.verdict in {"better", "worse"} for one in found)
        # Three standard errors above the level.
        assert 0 < wrong / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


class TestWhatIsMeant:
    def test_one_more_of_the_same_run_is_no_stream(self, tmp_path: Path) -> None:
        pair(tmp_path)
        sibling(tmp_path, "treated", 1, {ERROR: wave(-9.0)}, id="treated-stream-1-id-2")
        comparison = compare(tmp_path, [], Asked())
        assert comparison.notes == [
            "treated-stream-1-id-2 is treated-stream-1-id once more, and is left out."
        ]
        assert rows(comparison)["treated", ERROR].verdict == "better"

    def test_a_baseline_that_is_named(self, tmp_path: Path) -> None:
        pair(tmp_path)
        for name in ("treated-id", "treated", "loss.name=treated"):
            assert rows(compare(tmp_path, [], Asked(baseline=name)))["control", ERROR].verdict == "worse"

    def test_runs_of_two_branch_points_are_no_siblings(self, tmp_path: Path) -> None:
        pair(tmp_path)
        other = sibling(tmp_path, "treated", 2, {ERROR: wave(-0.5)})
        assert other.parent is not None
        changed(tmp_path, other, parent=replace(other.parent, sha256="1" * 64))
        comparison = compare(tmp_path, [], Asked())
        assert "2 different branch points" in comparison.notes[0]
        assert comparison.branch_point is None

    def test_arms_of_one_name_are_told_apart(self, tmp_path: Path) -> None:
        pair(tmp_path)
        sibling(tmp_path, "other", 0, {ERROR: wave(0.1)}, job_type="treated")
        assert {arm.name for arm in compare(tmp_path, [], Asked()).arms} == {
            "control", "treated-treated-", "treated-other-ar"
        }  # fmt: skip

    def test_validation_counts_unless_something_is_named(self, tmp_path: Path) -> None:
        both = {"train/error": wave(0.0), ERROR: wave(0.0), "train/learning_rate": wave(0.0)}
        for arm in ("control", "treated"):
            sibling(tmp_path, arm, 0, both)
        assert {one.metric for one in compare(tmp_path, [], Asked()).rows} == {ERROR}
        named = compare(tmp_path, [], Asked(metrics=["train/learning_rate"])).rows
        assert {one.metric for one in named} == {"train/learning_rate"}

    def test_without_validation_what_is_trained_counts(self, tmp_path: Path) -> None:
        for arm in ("control", "treated"):
            sibling(tmp_path, arm, 0, {"train/error": wave(0.0), "train/gradient_norm": wave(0.0)})
        assert {one.metric for one in compare(tmp_path, [], Asked()).rows} == {"train/error"}


def prepared(tmp_path: Path) -> Tiny:
    pair(tmp_path / "outputs")
    return Tiny(tmp_path / "outputs")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nobody"], f"There is no group and no run 'nobody'. where: {{}} found: groups: {GROUP}"),
        (["control-id"], "nothing to compare"),
        (["--metric", "val/nothing"], "No run has the metric 'val/nothing'"),
        (["--at", "20"], "a step after 20"),
        (["--at", "x"], "no step to compare at"),
        (["--at", "+0"], "no step to compare at"),
        (["--smooth", "0"], "is not 1 or more"),
        (["--baseline", "nobody"], "found: arms: control, treated; runs: control-id"),
        (["--expect", "better"], "That is no expectation"),
        (["--expect", "nobody better control on val/error"], "none of"),
        (["--expect", "treated better control on val/nothing"], "No run has the metric"),
        (["--expect", "control better control-id on val/error"], "neither better nor worse than itself"),
        (["--csv", "--latex"], "not allowed with"),
        (["--csv", "--json"], "One output at a time"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    tiny = prepared(tmp_path)
    ended = tiny.launcher("compare", *arguments)
    assert ended.status == 2
    assert complaint.format(tiny.outputs) in ended.said
    assert "Traceback" not in ended.err


def test_which_group_has_to_be_clear(tmp_path: Path) -> None:
    tiny = prepared(tmp_path)
    assert tiny.launcher("compare").status == 0
    sibling(tiny.outputs, "control", 0, {ERROR: wave(0.0)}, group="other-experiments")
    ended = tiny.launcher("compare")
    assert (ended.status, "Which group?" in ended.err) == (2, True)
    assert tiny.launcher("compare", GROUP).status == 0
    assert "no group of siblings" in Tiny(tmp_path / "empty").launcher("compare").err


@pytest.mark.parametrize(
    ("expected", "status"),
    [
        ("treated better control on val/error", 0),
        ("treated better than control on val/error", 0),
        ("loss.name=treated better control on val/error", 0),
        ("control worse treated-id on val/error", 0),
        ("control better treated on val/error", 3),
        ("near better control on val/error", 3),
    ],
)
def test_an_expectation_is_the_exit_status(tmp_path: Path, expected: str, status: int) -> None:
    tiny = prepared(tmp_path)
    for stream in range(3):
        sibling(tiny.outputs, "near", stream, {ERROR: wave(0.001)})
    for form in ([], ["--json"], ["--csv"]):
        assert tiny.launcher("compare", "--expect", expected, *form).status == status
    ended = tiny.launcher("compare", "--expect", "treated better control on val/error", "--expect", expected)
    assert ended.status == status
    assert ended.out.count("holds: ") == (2 if status == 0 else 1)
    assert ended.out.count("DOES NOT HOLD: ") == (0 if status == 0 else 1)


def test_an_expectation_shows_the_interval_that_it_was_taken_at(tmp_path: Path) -> None:
    """The table corrects for all of its comparisons, and may say something else of the same arms."""
    tiny = Tiny(tmp_path / "outputs")
    pair(tiny.outputs, offset=-0.17)
    for number in range(9):
        for stream in range(3):
            sibling(tiny.outputs, f"more-{number}", stream, {ERROR: wave(0.001 * number)})
    ended = tiny.launcher("compare", "--expect", "treated better control on val/error")
    assert ended.status == 0
    comparison = compare(tiny.outputs, [], Asked(expect=["treated better control on val/error"]))
    [expected] = comparison.expectations
    assert rows(comparison)["treated", ERROR].verdict == "inside the noise"
    assert f"({signed(expected.row.difference)}, {signed(expected.row.low)} to" in ended.said
    assert "at 95 %; level kept for the 1 expectation" in ended.said
    assert "not for the table's 10 comparisons" in ended.said


def test_an_expectation_does_not_hold_on_one_stream_or_an_incomplete_set(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path / "outputs")
    sibling(tiny.outputs, "control", 0, {ERROR: lambda _, k: 1 + 0.1 * math.sin(k)})
    sibling(tiny.outputs, "treated", 0, {ERROR: lambda _, k: 0.5 + 0.1 * math.cos(k)})
    ended = tiny.launcher("compare", "--expect", "treated better control on val/error")
    assert (ended.status, "in one stream only" in ended.said) == (3, True)
    pair(tiny.outputs)
    expected = ("--expect", "treated better control on val/error")
    assert tiny.launcher("compare", *expected).status == 0
    sibling(tiny.outputs, "broken", 0, {ERROR: wave(0.0)}, state="failed", error="it broke")
    ended = tiny.launcher("compare", *expected)
    assert (ended.status, "the set is incomplete" in ended.said) == (3, True)


class TestForms:
    @staticmethod
    def shown(tmp_path: Path, *form: str) -> tuple[Comparison, str]:
        outputs = tmp_path / "outputs"
        pair(outputs)
        for stream in range(3):
            sibling(outputs, "odd|one_%", stream, {ERROR: lambda _, k: math.nan})
        ended = Tiny(outputs).launcher("compare", *form)
        assert (ended.status, ended.err) == (0, "")
        return compare(outputs, [], Asked()), ended.out

    def test_json(self, tmp_path: Path) -> None:
        comparison, text = self.shown(tmp_path, "--json")
        told = strict(text)
        assert told.keys() == comparison.to_json().keys()
        treated = next(one for one in told["rows"] if one["arm"] == "treated")
        again = Row(**treated)
        assert again == rows(comparison)["treated", ERROR]
        assert json.loads(text)["arms"][0]["runs"] == {
            "0": "control-id", "1": "control-stream-1-id", "2": "control-stream-2-id"
        }  # fmt: skip

    def test_csv(self, tmp_path: Path) -> None:
        comparison, text = self.shown(tmp_path, "--csv")
        told = {one["arm"]: one for one in csv.DictReader(io.StringIO(text))}
        one = rows(comparison)["treated", ERROR]
        assert len(told) == 3
        assert float(told["treated"]["low"]) == one.low
        assert float(told["treated"]["difference"]) == one.difference
        assert (told["treated"]["step"], told["treated"]["streams"]) == ("40", "0 1 2")
        assert told["odd|one_%"]["value"] == "nan"

    def test_markdown(self, tmp_path: Path) -> None:
        _, text = self.shown(tmp_path, "--markdown")
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        cells = [[one.strip() for one in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        assert len({len(one) for one in cells}) == 1
        assert cells[0] == ["arm", "metric", "value", "difference", "interval", "verdict"]
        assert {one[0]: one[-1] for one in cells[2:]} == {
            "control": "baseline", "treated": "better", r"odd\|one_%": "incomplete"
        }  # fmt: skip

    def test_latex(self, tmp_path: Path) -> None:
        _, text = self.shown(tmp_path, "--latex")
        [columns] = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
        body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
        told = [[one.strip() for one in line.split(" & ")] for line in body.split(r"\\") if line.strip()]
        assert {len(one) for one in told} == {len(columns)}
        assert told[1][0] == r"odd|one\_\%"
        assert text.count(r"\begin{") == text.count(r"\end{")
        assert "baseline: control" in text

    def test_a_long_table_is_not_cut_at_its_right(self, tmp_path: Path) -> None:
        outputs = tmp_path / "outputs"
        metrics = {f"val/{'x' * 50}_{number}_loss": wave(0.0) for number in range(20)}
        for arm in ("control", *(f"{'a' * 40}-{number}" for number in range(26))):
            sibling(outputs, arm, 0, metrics, end=21)
        typed = ("compare", f"--outputs={outputs}")
        out = Tiny(outputs).launch(*typed, module="launcher.cli", environment={"COLUMNS": "80"}).out
        assert out.count(" incomplete") == 26 * 20

    def test_terminal(self, tmp_path: Path) -> None:
        _, text = self.shown(tmp_path)
        assert "not proven" in text
        assert "95 %, each by itself" in text
        assert re.search(r"treated +│ val/error ↓ +│ .* better", text)
        assert "odd|one_% val/error: not a number" in text


def test_a_run_is_still_found_by_its_directory(tmp_path: Path) -> None:
    pair(tmp_path)
    place = str(find_run(tmp_path, "treated-id").directory.path)
    assert rows(compare(tmp_path, ["control-id", place], Asked()))["treated", ERROR].streams == [0]
