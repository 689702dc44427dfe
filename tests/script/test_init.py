"""``launcher init``: a project that trains and branches as it was written; from a wheel as well."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from launcher.commands.starting import init
from tests.script.project import Project
from tests.tiny_process import ROOT, digest

SHORT = ("training.steps=8", "training.validate_every=4", "checkpoint.every=4", "training.log_every=2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is written into an empty directory, by the files that the wheel brings."""
    place = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    shutil.copytree(ROOT / "launcher", place / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=place, check=True, capture_output=True)
    [wheel] = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(place / "installed")
    project = place / "project"
    subprocess.run(
        [sys.executable, "-P", "-m", "launcher.cli", "init", str(project)],
        cwd=place, check=True, capture_output=True, env={"PYTHONPATH": str(place / "installed")},
    )  # fmt: skip
    return {
        path.relative_to(project).as_posix(): path.read_text()
        for path in sorted(project.rglob("*"))
        if path.is_file()
    }


def test_what_it_writes_trains_and_branches(files: dict[str, str], tmp_path: Path) -> None:
    written, left = init(tmp_path / "new")
    assert left == []
    assert {path.relative_to(tmp_path / "new").as_posix(): path.read_text() for path in written} == files
    project = Project(tmp_path / "new" / "multirun_outputs", tmp_path / "new" / "train.py")
    project.good(*SHORT)
    project.good("branch.from_step=4", *SHORT[1:])
    assert digest(project.run("control-"), 8) == digest(project.trunk, 8)
    helped = project.launch("--help")
    assert "tracker: mlflow, none, tensorboard, trackio, wandb" in helped.out


def test_nothing_that_is_there_is_touched(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "train.py").write_text("mine\n")
    (tmp_path / "conf" / "config.yaml").symlink_to("nowhere.yaml")
    command = [sys.executable, "-m", "launcher.cli", "init", str(tmp_path)]
    said = subprocess.run([*command, "--json"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    told = json.loads(said)
    assert told["left"] == [str(tmp_path / "conf" / "config.yaml"), str(tmp_path / "train.py")]
    assert len(told["written"]) == len(files) - 2
    assert (tmp_path / "train.py").read_text() == "mine\n"
    assert not (tmp_path / "nowhere.yaml").exists()
    assert init(tmp_path) == ([], sorted(tmp_path / name for name in files))
    (tmp_path / "file").touch()
    refused = subprocess.run(
        [*command[:-1], str(tmp_path / "file")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "That is no directory." in refused.stderr


def test_the_trackers_are_those_of_the_project() -> None:
    theirs = {path.name: path.read_text() for path in (ROOT / "conf" / "tracker").iterdir()}
    place = ROOT / "launcher" / "commands" / "project" / "conf" / "tracker"
    assert {path.name: path.read_text() for path in place.iterdir()} == theirs
