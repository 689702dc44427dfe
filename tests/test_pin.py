"""``launcher pin``: one word branches from exactly this checkpoint, with the trunk's own settings."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from launcher.layout import checkpoint_file, pin_of
from tests.conftest import TrunkOf
from tests.tiny_process import Tiny, digest


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    directory = tmp_path / "conf"
    directory.mkdir()
    return directory


@pytest.fixture
def heavy(trunk_of: TrunkOf) -> Tiny:
    return trunk_of("loss=heavy", "loss.weight=0.7", "optimizer.lr=3e-3", "training.steps=41")


def pin(tiny: Tiny, conf: Path, name: str = "here", step: int = 20) -> Path:
    ended = tiny.launcher("pin", f"{tiny.trunk.id}@{step}", name, f"--conf={conf}", "--json")
    assert (ended.status, ended.err) == (0, "")
    told = json.loads(ended.out)
    assert told["command"] == f"python train.py +branch={name} paths.outputs={tiny.outputs}"
    return Path(told["file"])


def test_the_name_alone_is_a_control(heavy: Tiny, conf: Path) -> None:
    written = yaml.safe_load(pin(heavy, conf).read_text())
    assert written["branch"] == {
        "from_run": heavy.trunk.id, "from_step": 20, "sha256": digest(heavy.trunk, 20),
    }  # fmt: skip
    control = heavy.train(f"--config-dir={conf}", "+branch=here")
    assert control.record.branch_type == "control"
    assert digest(control, 41) == digest(heavy.trunk, 41)


def test_the_command_line_beats_the_file(heavy: Tiny, conf: Path) -> None:
    pin(heavy, conf)
    branch = heavy.train(f"--config-dir={conf}", "+branch=here", "optimizer.lr=1e-4", "loss.weight=0.1")
    assert branch.record.differences == {"loss.weight": [0.7, 0.1], "optimizer.lr": [0.003, 0.0001]}
    steps = heavy.train(f"--config-dir={conf}", "+branch=here", "branch.from_step=30", "branch.sha256=null")
    assert steps.record.parent_step == 30


def test_a_node_that_is_chosen_over_a_pinned_key_is_not_lost(heavy: Tiny, conf: Path) -> None:
    """Hydra merges the pinned file after the group, so that loss.weight=0.7 would win over loss=plain."""
    pin(heavy, conf)
    ended = heavy.refuse(f"--config-dir={conf}", "+branch=here", "loss=plain")
    assert "loss=plain was typed" in ended.err
    [line] = [line for line in ended.err.splitlines() if "for what the option says:" in line]
    settling = shlex.split(line.partition("says:")[2])
    assert settling == ["loss.weight=0.1"]
    branch = heavy.train(f"--config-dir={conf}", "+branch=here", "loss=plain", *settling)
    assert branch.record.differences == {"loss.weight": [0.7, 0.1]}


def test_a_group_that_is_chosen_over_a_pinned_one_wins(trunk_of: TrunkOf, conf: Path) -> None:
    tiny = trunk_of("loss=heavy")
    pin(tiny, conf)
    for order in (["+branch=here", "loss=plain"], ["loss=plain", "+branch=here"]):
        branch = tiny.train(f"--config-dir={conf}", *order)
        assert branch.record.differences == {"loss.weight": [0.5, 0.1]}


def test_a_pin_of_an_arm_says_what_the_arm_said(trunk_of: TrunkOf, conf: Path) -> None:
    tiny = trunk_of("+arm=steep")
    pin(tiny, conf)
    control = tiny.train(f"--config-dir={conf}", "+branch=here")
    assert digest(control) == digest(tiny.trunk)


def test_another_checkpoint_in_its_place_is_refused(tiny: Tiny, conf: Path) -> None:
    pin(tiny, conf)
    other = Tiny(tiny.outputs.parent / "other")
    other.train("seed=1")
    there, here = other.trunk.directory.checkpoints, tiny.trunk.directory.checkpoints
    for suffix in (".pt", ".json"):
        name = Path(checkpoint_file(20)).with_suffix(suffix)
        shutil.copy(there / name, here / name)
    ended = tiny.refuse(f"--config-dir={conf}", "+branch=here")
    assert "pinned" in ended.err
    assert digest(other.trunk, 20) in ended.err


def test_the_checkpoint_stays(tiny: Tiny, conf: Path) -> None:
    pin(tiny, conf)
    assert pin_of(tiny.trunk.directory.checkpoints / checkpoint_file(20)).is_file()
    shown = tiny.launcher("show", tiny.trunk.id, "--json")
    assert {one["step"]: one["pinned"] for one in json.loads(shown.out)["checkpoints"]} == {
        10: False, 20: True, 30: False, 40: False,
    }  # fmt: skip


def test_again_is_the_same_and_another_of_that_name_is_refused(tiny: Tiny, conf: Path) -> None:
    path = pin(tiny, conf)
    before = path.read_text()
    assert pin(tiny, conf).read_text() == before
    ended = tiny.launcher("pin", f"{tiny.trunk.id}@30", "here", f"--conf={conf}")
    assert ended.status == 2
    assert "there already" in ended.err
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("reference", "name", "what"),
    [
        ("trunk", "x", "RUN@STEP"),
        ("trunk@", "x", "RUN@STEP"),
        ("trunk@25", "x", "10, 20, 30, 40"),
        ("nobody@20", "x", "launcher tree"),
        ("trunk@20", "../x", "name for a config file"),
    ],
)
def test_what_cannot_be_pinned_is_said(tiny: Tiny, conf: Path, reference: str, name: str, what: str) -> None:
    ended = tiny.launcher("pin", reference, name, f"--conf={conf}")
    assert ended.status == 2
    assert what in ended.err
    assert list(conf.iterdir()) == []


def test_a_directory_of_config_files_has_to_be_there(tiny: Tiny, conf: Path) -> None:
    ended = tiny.launcher("pin", "trunk@20", "x", f"--conf={conf}/no")
    assert ended.status == 2
    assert "--conf" in ended.err
