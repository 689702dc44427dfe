"""The question, the runs and the answer, whole: real fan-outs of the tiny task, compared."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from launcher.report.compare.comparison import Asked, compare
from tests import tiny_faults
from tests.test_looking import looked
from tests.tiny_process import Tiny, in_a_new_interpreter, metrics

POINT = "branch.from_step=20"
WATCHED = """
import json, sys
from launcher.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, *sorted(sys.modules)]), file=sys.stderr)
"""


def answered(tiny: Tiny, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    told = looked(tiny, "compare", *arguments)
    return {(row["arm"], row["metric"]): row for row in told["rows"]}


def test_a_planted_difference_is_found_and_the_control_is_exact(tiny: Tiny) -> None:
    """Four times the learning rate gets further in 20 steps."""
    ended = tiny.launch("-m", POINT, "optimizer.lr=0.002,0.004", "fanout.control=true", "fanout.repeats=3")
    assert ended.status == 0, ended.err
    told = looked(tiny, "compare")
    assert told["proof"]["exact"] is True
    assert told["branch_point"]["step"] == 20
    assert (told["missing"], told["baseline"]) == ([], "control")
    row = answered(tiny)["lr-0.004", "val/error"]
    assert (row["verdict"], row["streams"], row["direction"]) == ("better", [0, 1, 2], "down")
    runs = {(run.record.job_type, run.record.stream): run for run in tiny.runs()}
    for stream, difference in zip(row["streams"], row["paired"], strict=True):
        suffix = f"-stream-{stream}" if stream else ""
        own = metrics(runs[f"lr-0.004{suffix}", stream])[40]["val/error"]
        assert difference == own - metrics(runs[f"control{suffix}", stream])[40]["val/error"]
    expected = "optimizer.lr=0.004 better control on val/error"
    assert tiny.launcher("compare", "--expect", expected).status == 0
    assert tiny.launcher("compare", "--expect", expected.replace("better", "worse")).status == 3


def test_a_loss_is_told_from_another_in_what_it_makes_worse(tiny: Tiny) -> None:
    typed = ("loss=plain,heavy", "branch.steps=20", "fanout.control=true", "fanout.repeats=3")
    assert tiny.launch("-m", POINT, *typed).status == 0
    row = answered(tiny, "--metric", "train/total_loss")["heavy-loss", "train/total_loss"]
    assert row["verdict"] == "worse"
    expected = "loss=heavy worse loss=plain on train/total_loss"
    assert tiny.launcher("compare", "--expect", expected).status == 0


def test_numbering_does_not_matter(tiny: Tiny) -> None:
    typed = (POINT, "branch.steps=20", "optimizer.lr=0.004")
    tiny.train(POINT, "branch.steps=20")
    one = tiny.train(*typed)
    two = tiny.train(*typed, "branch.step_mode=reset")
    assert (one.record.step, two.record.step) == (40, 20)
    comparison = compare(tiny.outputs, [], Asked(metrics=["train/error"]))
    rows = [row for row in comparison.rows if row.arm != comparison.baseline]
    assert len(rows) == 2
    assert rows[0].difference == rows[1].difference


def test_a_sibling_that_failed_leaves_no_winner(tiny: Tiny) -> None:
    typed = (
        "optimizer.lr=0.003,0.004",
        "loss.nan_at_step=0,30",
        "fanout.zip=[optimizer.lr,loss.nan_at_step]",
    )
    ended = tiny.launch("-m", POINT, *typed, "fanout.control=true", "fanout.repeats=2")
    assert ended.status == 1
    told = looked(tiny, "compare")
    assert len(told["missing"]) == 2
    assert "The loss is nan at step 30" in told["missing"][0]
    assert {row["verdict"] for row in told["rows"]} == {"baseline", "incomplete"}
    text = tiny.launcher("compare").out
    assert "INCOMPLETE, so nothing is better or worse" in text


def test_a_control_that_is_not_exact_is_said_at_the_head(tiny: Tiny) -> None:
    prepare = [partial(tiny_faults.other_forward, 31)]
    assert tiny.launch("-m", POINT, "loss=plain,heavy", prepare=prepare).status == 0
    told = looked(tiny, "compare")
    assert told["proof"]["exact"] is False
    assert "at step 3" in told["proof"]["text"]
    assert tiny.launcher("compare").out.splitlines()[0].startswith("control       NOT exact")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_comparing_imports_neither_torch_nor_all_of_scipy(tiny: Tiny, form: list[str]) -> None:
    assert tiny.launch("-m", POINT, "loss=plain,heavy", "fanout.repeats=2").status == 0
    ended = in_a_new_interpreter("-c", WATCHED, "compare", f"--outputs={tiny.outputs}", *form)
    assert ended.err.startswith("[0, ")
    for heavy in ("torch", "wandb", "hydra", "scipy.stats"):
        assert f'"{heavy}"' not in ended.err
    assert '"scipy.special"' in ended.err
