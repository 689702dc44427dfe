"""What the ledger found is on the page: levels, effects, undeclared differences, changes without effect."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from launcher.report.answer import answer
from launcher.report.compare.comparison import Asked
from launcher.report.group import draw, read_group
from launcher.report.html.contents import Contents, contents
from launcher.report.html.page import page
from tests.compared_runs import GROUP, sibling, trunk

ERROR = "val/error"


def put_together(outputs: Path) -> Contents:
    group = read_group(outputs, GROUP, Asked())
    return contents(group, draw(group), live=False, every=0)


def arm(outputs: Path, name: str, value: float, **more: Any) -> None:
    for stream in range(3):
        spread = 0.0 if name == "control" else 0.002 * (stream - 1)
        sibling(outputs, name, stream, {ERROR: lambda stream, step, k=spread: value + k}, **more)


def test_two_factors_with_their_levels_and_effects(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, lambda step: 1.0)
    for loss, rate in itertools.product(("plain", "heavy"), (0.001, 0.002)):
        changed: dict[str, list[Any]] = {"loss.weight": [1, 3], "loss.name": ["plain", "heavy"]}
        differences = {
            **(changed if loss == "heavy" else {}),
            **({"optimizer.lr": [0.001, 0.002]} if rate == 0.002 else {}),
        }
        declared = {**({"loss": loss} if loss == "heavy" else {}), "optimizer.lr": rate}
        name = f"{loss}-{rate}" if differences else "control"
        arm(tmp_path, name, 0.5 - 0.1 * (loss == "heavy"), differences=differences, declared=declared)
    found = put_together(tmp_path)
    assert found.answer.question == "Do loss and optimizer.lr move val/error from step 20 of trunk?"
    assert found.factors.keys[0] == "loss"
    rows = {
        name: dict(zip(found.factors.keys, values, strict=True)) for name, values, _ in found.factors.rows
    }
    assert rows["heavy-0.002"]["loss"] == "heavy"
    assert rows["trunk"]["loss"] == rows["control"]["loss"] == rows["plain-0.002"]["loss"]
    bold = {
        name: dict(zip(found.factors.keys, changed, strict=True)) for name, _, changed in found.factors.rows
    }
    assert (bold["plain-0.002"]["loss"], bold["plain-0.002"]["optimizer.lr"]) == (False, True)
    text = page(found)
    assert "Main effects and interactions" in text
    assert found.comparison is not None
    assert len(found.comparison.effects) == 3
    assert text.count('data-label="metric"') == len(found.comparison.rows) + 3


def test_an_undeclared_difference_stands_at_the_head(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, lambda step: 1.0)
    arm(tmp_path, "control", 0.5, environment={"code": "1" * 40, "device": "cpu"})
    arm(tmp_path, "treated", 0.3, environment={"code": "2" * 40, "device": "cpu"})
    found = put_together(tmp_path)
    [problem] = found.problems
    assert problem.startswith("code: ")
    told = found.findings[0]
    assert (told.finding.what, told.finding.level, told.runs) == ("code", "warning", "between siblings")
    assert dict(found.versions)["code"].startswith("1" * 40 + ": control-id")


def test_a_change_without_effect_is_no_answer(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, lambda step: 1.0)
    for name in ("control", "treated"):
        for stream in range(3):
            same = {ERROR: lambda stream, step: 0.5 + stream}
            sibling(tmp_path, name, stream, same, states={"1": f"a{stream}", "20": f"b{stream}"})
    group = read_group(tmp_path, GROUP, Asked())
    found = answer(group)
    assert found.tone == "open"
    assert found.sentence == (
        "What was changed in treated had no effect: it computed what control did, to the last bit."
    )
    assert any("NO EFFECT" in one for one in put_together(tmp_path).problems)
