"""Main effects and interactions of a full factorial, over sets that never ran."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from launcher.report.compare import tables
from launcher.report.compare.comparison import Asked, Comparison, compare
from launcher.report.compare.verdict import Row
from tests.compared_runs import sibling
from tests.tiny_process import Tiny

ERROR = "val/error"
LEVELS = {"loss": ("plain", "heavy"), "curriculum": ("early", "late")}
Cell = tuple[str, ...]


def value(cell: Cell, stream: int, step: int = 20, interaction: float = 0.0) -> float:
    """Better by 0.5 with a heavy loss, and by ``interaction`` more where the curriculum is late too."""
    heavy, late = "heavy" in cell, "late" in cell
    noise = 0.02 * float(np.random.default_rng([stream, heavy, late]).normal())
    return 2 + math.sin(3 * stream) - 0.5 * heavy - interaction * heavy * late + noise - 0.01 * step


def arm(
    outputs: Path, cell: Cell, levels: Mapping[str, Sequence[str]], stream: int, interaction: float
) -> None:
    changed = {
        node: level for (node, every), level in zip(levels.items(), cell, strict=True) if level != every[0]
    }
    name = "-".join(changed.values()) or "control"
    sibling(
        outputs, name, stream, {ERROR: lambda stream, step: value(cell, stream, step, interaction)},
        differences={f"{node}.name": [levels[node][0], level] for node, level in changed.items()},
        declared=changed,
    )  # fmt: skip


def factorial(
    outputs: Path,
    streams: int = 3,
    interaction: float = 0.0,
    levels: Mapping[str, Sequence[str]] = LEVELS,
    without: Sequence[Cell] = (),
) -> Comparison:
    for cell, stream in itertools.product(itertools.product(*levels.values()), range(streams)):
        if cell not in without:
            arm(outputs, cell, levels, stream, interaction)
    return compare(outputs, [], Asked())


def effects(comparison: Comparison) -> dict[str, Row]:
    return {row.arm: row for row in comparison.effects}


def cells(stream: int, interaction: float) -> np.ndarray:
    """Rows: loss; columns: curriculum."""
    every = [
        [value((loss, when), stream, 20, interaction) for when in LEVELS["curriculum"]]
        for loss in LEVELS["loss"]
    ]
    return np.array(every)


@pytest.mark.parametrize("interaction", [0.0, 0.3])
def test_are_the_contrasts_of_the_cells(tmp_path: Path, interaction: float) -> None:
    found = effects(factorial(tmp_path, interaction=interaction))
    by_stream = [cells(stream, interaction) for stream in range(3)]
    expected = {
        "loss: heavy - name=plain": [one[1].mean() - one[0].mean() for one in by_stream],
        "curriculum: late - name=early": [one[:, 1].mean() - one[:, 0].mean() for one in by_stream],
        "loss=heavy x curriculum=late": [one[1, 1] - one[1, 0] - one[0, 1] + one[0, 0] for one in by_stream],
    }
    assert list(found) == list(expected)
    for name, paired in expected.items():
        row = found[name]
        assert row.paired == pytest.approx(paired)
        assert row.difference == pytest.approx(np.mean(paired))
        test = stats.ttest_1samp(paired, 0.0)
        assert row.p == pytest.approx(test.pvalue)
        interval = test.confidence_interval(0.95)
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    verdicts = [row.verdict for row in found.values()]
    assert verdicts == (
        ["better", "better", "interaction"]
        if interaction
        else ["better", "inside the noise", "inside the noise"]
    )


def test_with_more_levels_and_more_factors(tmp_path: Path) -> None:
    levels = {**LEVELS, "loss": ("plain", "heavy", "odd"), "model": ("small", "large")}
    comparison = factorial(tmp_path, streams=2, levels=levels)
    names = list(effects(comparison))
    assert {name for name in names if " x " not in name} == {
        "loss: heavy - name=plain", "loss: odd - name=plain", "curriculum: late - name=early",
        "model: large - name=small",
    }  # fmt: skip
    assert len(names) == 4 + 5
    assert effects(comparison)["loss: heavy - name=plain"].difference == pytest.approx(-0.5, abs=0.02)
    assert comparison.effects_corrected
    assert {row.level for row in comparison.effects} != {0.05}


@pytest.mark.parametrize("without", [("heavy", "late"), ("plain", "late")])
def test_are_not_given_where_a_cell_is_missing(tmp_path: Path, without: Cell) -> None:
    assert factorial(tmp_path, without=[without]).effects == []


def test_of_an_incomplete_set_say_nothing(tmp_path: Path) -> None:
    factorial(tmp_path)
    sibling(tmp_path, "heavy", 2, state="failed", error="out of memory",
            differences={"loss.name": ["plain", "heavy"]}, declared={"loss": "heavy"})  # fmt: skip
    assert {row.verdict for row in compare(tmp_path, [], Asked()).effects} == {"incomplete"}


def test_of_one_stream_are_marked_weaker(tmp_path: Path) -> None:
    rows = effects(factorial(tmp_path, streams=1, interaction=0.3)).values()
    assert all(row.weaker for row in rows)
    assert {row.note for row in rows} == {"the same at every logged step"}


def test_are_in_every_form(tmp_path: Path) -> None:
    comparison = factorial(tmp_path, interaction=0.3)
    for form in tables.FORMATS.values():
        said = form(comparison)
        assert "loss=heavy x curriculum=late" in said
        assert said.count("interaction") >= 1
    for options in ((), ("--markdown",), ("--latex",), ("--csv",), ("--json",)):
        ended = Tiny(tmp_path).launcher("compare", *options)
        assert ended.status == 0
        assert "loss=heavy x curriculum=late" in ended.out
