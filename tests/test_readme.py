"""The README, run: each command in order, in a clone without runs, with the output that stands below it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from docs.refresh import README, ROOT, run, shown

_AS_SOMEBODY = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files, without runs and without anything that git ignores."""
    directory = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    for command in (["init", "-q"], ["add", "-A"], [*_AS_SOMEBODY, "commit", "-q", "-m", "cloned"]):
        subprocess.run(["git", *command], cwd=directory, check=True)
    return directory


@pytest.fixture(scope="module")
def outcomes(clone: Path) -> dict[str, tuple[int, str]]:
    """Exit status and output of every command; the trunk among them is the full default one."""
    return {one.command: run(one.command, clone) for one in shown(README.read_text())}


def masked(text: str) -> list[str]:
    """Lines without what a machine may change: numbers, signatures, the widths that follow from them."""
    text = re.sub(r"[0-9a-f]{8,}(…)?", "#", text)
    text = re.sub(r"[-+]?\d+(\.\d+)?(e[-+]\d+)?", "#", text)
    text = re.sub(r"[─━┏┓┡┩├┤└┘┳╇┴┬┼│┃]+", " ", text)
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.mark.timeout(900)
def test_every_command_ends_as_the_readme_shows(outcomes: dict[str, tuple[int, str]]) -> None:
    for one in shown(README.read_text()):
        status, output = outcomes[one.command]
        assert status == (2 if one.output.startswith("error: ") else 0), output
        assert masked(output) == masked(one.output), one.command


def test_the_commands_of_the_design_are_there(outcomes: dict[str, tuple[int, str]]) -> None:
    assert {
        "python train.py",
        "python train.py +branch=ckpt15k loss=fixed",
        "python train.py -m branch.from_step=15000 loss=fixed,buggy",
    } <= outcomes.keys()


def _records(clone: Path) -> dict[str, dict[str, object]]:
    records = [json.loads(path.read_text()) for path in clone.glob("multirun_outputs/*/*/run.json")]
    return {record["job_type"]: record for record in records}


def test_the_default_trunk_leaves_room_on_both_sides(clone: Path, outcomes: object) -> None:
    [lines] = [path.read_text() for path in clone.glob("multirun_outputs/trunks/*/metrics.jsonl")]
    at_15000 = next(line for line in map(json.loads, lines.splitlines()) if line["global_step"] == 15_000)
    assert 0.2 < at_15000["val/token_accuracy"] < 0.9


def test_the_fixed_loss_is_seen_to_help(clone: Path, outcomes: object) -> None:
    records = _records(clone)
    fixed, control = records["fixed-spectrum"]["metrics"], records["control"]["metrics"]
    assert fixed["val/token_accuracy"] > control["val/token_accuracy"] + 0.01
    assert fixed["val/spectrum_loss"] < control["val/spectrum_loss"]
