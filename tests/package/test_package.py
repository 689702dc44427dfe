"""What is installed from the wheel is all there is: beside it a project of its own, and no repository.

The libraries are those of these tests, so that nothing is downloaded; ``make extras`` installs them too.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.package.stranger import Stranger, build_wheel
from tests.tiny_process import ROOT

GROUP = "checkpoint-20-experiments"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NOT_FOR_USERS = {"all", "dev", "docs"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def stranger(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    stranger = Stranger.make(tmp_path_factory.mktemp("stranger"))
    done = stranger.pip("install", "--quiet", "--no-deps", "--no-index", wheel)
    assert done.status == 0, done.err
    # A line of a .pth file is searched for modules; what lies there to be run at the start is not run, and
    # so an installation of this repository that can be edited is not found.
    (stranger.packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return stranger


@pytest.fixture(scope="module")
def siblings(stranger: Stranger) -> Stranger:
    for arguments in ([], ["-m", "branch.from_step=20", "loss=plain,smoothed", "fanout.repeats=2"]):
        done = stranger.train(*arguments)
        assert done.status == 0, done.err
    return stranger


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        [name] = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(files.read(name))


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = {name for name in files.namelist() if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "launcher"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert names == {name for name in listed if (ROOT / name).is_file()}
    assert "launcher/py.typed" in names


def test_the_metadata_say_what_it_is(wheel: Path) -> None:
    about = metadata(wheel)
    assert Version(VERSION).major == 0
    assert (about["Name"], about["Version"]) == ("checkpoint-launcher", VERSION)
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11"
    classifiers = about.get_all("Classifier", [])
    assert "Typing :: Typed" in classifiers
    assert "# checkpoint-launcher" in str(about.get_payload())


def test_all_is_every_extra_that_is_for_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    within = [Requirement(one) for one in extras["all"]]
    assert {one.name for one in within} == {project["name"]}
    assert {name for one in within for name in one.extras} == set(extras) - NOT_FOR_USERS


def test_the_repository_is_not_seen(stranger: Stranger) -> None:
    done = stranger.run(stranger.python, "-c", "import launcher, sys; print(launcher.__file__, *sys.path)")
    file, *path = done.out.split()
    assert file == str(stranger.packages / "launcher" / "__init__.py")
    assert str(ROOT) not in path


def test_a_project_of_its_own_branches_compares_and_reports(siblings: Stranger) -> None:
    runs = siblings.project / "multirun_outputs" / GROUP
    names = sorted(path.parent.name for path in runs.glob("*/run.json"))
    assert len(names) == 4
    [control] = [name for name in names if name.startswith("control-") and "stream" not in name]
    for arguments, said in (
        (["verify", control], "exact: "),
        (["compare", GROUP], "smoothed-loss"),
        (["tree"], "at step 20"),
        (["report", GROUP], "report.html"),
    ):
        ended = siblings.launcher(*arguments)
        assert (ended.status, ended.err) == (0, "")
        assert said in ended.said
    page = (runs / "report.html").read_text()
    assert "smoothed-loss" in page
    assert "plotly" in page


def test_a_sibling_by_another_version_is_refused(siblings: Stranger) -> None:
    [file] = siblings.packages.glob("checkpoint_launcher-*.dist-info/METADATA")
    was = file.read_text()
    file.write_text(was.replace(f"\nVersion: {VERSION}\n", "\nVersion: 99.0.0\n"))
    try:
        ended = siblings.train("branch.from_step=20", "loss=smoothed", "optimizer.lr=1e-3")
    finally:
        file.write_text(was)
    assert ended.status == 2
    assert re.search(rf"launcher\W+99\.0\.0\W+{re.escape(VERSION)}, as its sibling", ended.said), ended.said


def test_every_module_can_be_imported(stranger: Stranger) -> None:
    """A file that is missing in the wheel, and an import of something outside of it, show here."""
    code = (
        "import importlib, pkgutil, launcher\n"
        "for one in pkgutil.walk_packages(launcher.__path__, 'launcher.'):\n"
        "    importlib.import_module(one.name)\n"
    )
    done = stranger.run(stranger.python, "-W", "ignore", "-c", code)
    assert done.status == 0, done.err


MYPY = """
[mypy]
strict = true
follow_imports = skip
[mypy-hydra.*,launcher.*,omegaconf.*]
follow_imports = normal
"""
FAULTY = """
from launcher.config import Config
from launcher.errors import LauncherError

reveal_type(Config().branch.from_step)
LauncherError("what", wher="here")
"""


def test_a_type_checker_sees_the_types(stranger: Stranger, tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(MYPY)
    (tmp_path / "faulty.py").write_text(FAULTY)
    checker = [
        "-m", "mypy", "--config-file", tmp_path / "mypy.ini", "--cache-dir", tmp_path / "cache",
        "--python-executable", stranger.python,
    ]  # fmt: skip
    good = stranger.run(sys.executable, *checker, "train.py", "spirals.py")
    assert good.status == 0, good.out
    bad = stranger.run(sys.executable, *checker, tmp_path / "faulty.py")
    assert 'Revealed type is "int | None"' in bad.out
    assert 'Unexpected keyword argument "wher" for "LauncherError"' in bad.out
    assert bad.out.count("error:") == 1
