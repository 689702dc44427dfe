"""The question and the answer at the head of a report, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.report.answer import Answer, answer
from launcher.report.compare.comparison import Asked
from launcher.report.group import read_group
from tests.compared_runs import GROUP, Curve, changed, fanned_out, sibling, trunk

ERROR = "val/error"


def level(value: float, noise: float = 0.001) -> Curve:
    """Around a value, by a little else in each stream."""
    return lambda stream, step: value + noise * (stream - 1)


def told(outputs: Path, **asked: Any) -> Answer:
    return answer(read_group(outputs, GROUP, Asked(**asked)))


def arms(outputs: Path, streams: int = 3, **values: float) -> None:
    trunk(outputs, ERROR, lambda step: 1.0)
    for name, value in {"control": 0.5, **values}.items():
        for stream in range(streams):
            sibling(outputs, name, stream, {ERROR: level(value, 0.001 * (name != "control"))})


@pytest.mark.parametrize(
    ("value", "tone", "words"),
    [
        (0.3, "better", "treated is better than control on val/error, by -0.2000 at step 40 ("),
        (0.7, "worse", "treated is worse than control on val/error, by +0.2000 at step 40 ("),
    ],
)
def test_one_arm(tmp_path: Path, value: float, tone: str, words: str) -> None:
    """Every stream has its own noise, so that there is a spread to judge by."""
    trunk(tmp_path, ERROR, lambda step: 1.0)
    for stream in range(3):
        sibling(tmp_path, "control", stream, {ERROR: lambda stream, step: 0.5})
        sibling(tmp_path, "treated", stream, {ERROR: level(value)})
    found = told(tmp_path)
    assert found.tone == tone
    assert found.sentence.startswith(words)
    assert "95 % interval" in found.sentence
    assert found.sentence.endswith("3 streams).")
    assert found.question == "Does loss.name move val/error from step 20 of trunk?"


def test_inside_the_noise(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, lambda step: 1.0)
    for stream in range(3):
        sibling(tmp_path, "control", stream, {ERROR: level(0.5, 0.1)})
        sibling(tmp_path, "treated", stream, {ERROR: level(0.5, -0.1)})
    found = told(tmp_path)
    assert found.tone == "noise"
    assert "treated cannot be told from control on val/error: a difference of" in found.sentence


def test_several_arms_in_one_sentence(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, lambda step: 1.0)
    for name, value, noise in [("control", 0.5, 0.0), ("good", 0.3, 0.001), ("bad", 0.7, 0.001)]:
        for stream in range(3):
            sibling(tmp_path, name, stream, {ERROR: level(value, noise)})
    assert told(tmp_path) == Answer(
        "Does loss.name move val/error from step 20 of trunk?",
        "better",
        "On val/error, good (-0.2000) is better than control; bad (+0.2000) is worse than control.",
    )


def test_many_arms_are_counted(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, lambda step: 1.0)
    for name, value in {"control": 0.5, **{f"arm-{k}": 0.4 - k / 100 for k in range(5)}}.items():
        for stream in range(3):
            sibling(tmp_path, name, stream, {ERROR: level(value, 0.001 * (name != "control"))})
    assert "5 arms, first of all arm-4 (-0.1400), are better than control." in told(tmp_path).sentence


def test_one_stream_is_said_to_be_one(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, lambda step: 1.0)
    sibling(tmp_path, "control", 0, {ERROR: lambda _, step: 0.5 + 0.01 * (step % 2)}, end=120)
    sibling(tmp_path, "treated", 0, {ERROR: lambda _, step: 0.3 + 0.01 * (step % 3)}, end=120)
    found = told(tmp_path)
    assert found.tone == "better"
    assert "in one stream only" in found.sentence


def test_a_missing_sibling_leaves_no_answer(tmp_path: Path) -> None:
    arms(tmp_path, treated=0.3)
    gone = sibling(tmp_path, "gone", 0, {ERROR: level(0.1)})
    changed(tmp_path, gone, state="failed", error="The loss is nan.")
    fanned_out(tmp_path, gone)
    found = told(tmp_path)
    assert found.tone == "open"
    assert found.sentence == (
        "No arm can be called better or worse, because the set is incomplete: "
        "gone-id failed: The loss is nan."
    )


def test_a_control_alone_is_no_answer_and_no_error(tmp_path: Path) -> None:
    arms(tmp_path)
    found = told(tmp_path)
    assert found.tone == "open"
    assert "there is nothing to compare" in found.sentence
    assert found.question == "What comes of going on unchanged from step 20 of trunk?"


def test_trunks_have_a_page_and_no_verdict(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, lambda step: 1.0)
    found = answer(read_group(tmp_path, "trunks", Asked()))
    assert (found.question, found.tone) == ("How did these runs go?", "open")
    assert found.sentence == "These runs began from nothing, so there is no control to hold them against."


def test_the_users_own_words_are_the_question(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, lambda step: 1.0)
    for name in ("control", "treated"):
        sibling(tmp_path, name, 0, {ERROR: level(0.5)}, notes="Does the fixed loss help?")
    assert told(tmp_path).question == "Does the fixed loss help?"


def test_the_metric_is_chosen_by_name_and_not_by_what_came_out(tmp_path: Path) -> None:
    trunk(tmp_path, ERROR, lambda step: 1.0)
    curves = {"val/loss": level(0.5), "val/token_accuracy": level(0.5), "val/other_accuracy": level(0.1)}
    for stream in range(2):
        sibling(tmp_path, "control", stream, curves)
        sibling(tmp_path, "treated", stream, {**curves, "val/loss": level(0.1)})
    assert read_group(tmp_path, GROUP, Asked()).primary == "val/token_accuracy"
    assert read_group(tmp_path, GROUP, Asked(metrics=["val/loss"])).primary == "val/loss"


def test_a_look_before_the_end_says_so(tmp_path: Path) -> None:
    arms(tmp_path, treated=0.3)
    last = sibling(tmp_path, "other", 0, {ERROR: level(0.4)})
    changed(tmp_path, last, state="queued")
    assert told(tmp_path).sentence.startswith("So far, with runs still under way: On val/error, ")
