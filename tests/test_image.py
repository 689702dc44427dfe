"""The Dockerfile: what a linter says of it, what docker would send, and that this is enough to train."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

from tests.tiny_process import ROOT

HADOLINT = Path(sys.executable).with_name("hadolint")
SECRETS = (
    ".env", ".netrc", "account.json", ".git/config", "launcher/.env.local", "conf/wandb.key", "conf/a/b.pem",
    "launcher/service-account.json", "conf/application_default_credentials.json",
)  # fmt: skip
COMPUTED = (
    "multirun_outputs/trunks/a/checkpoints/checkpoint_step_1.pt", "best.ckpt", "launcher/model.safetensors",
    "conf/x.pth", "wandb/run-1/x.wandb", "data/spectra.mgf", "tests/test_image.py",
    "launcher/__pycache__/run.cpython-311.pyc", ".venv/bin/python",
)  # fmt: skip


def hadolint(dockerfile: Path) -> str:
    done = subprocess.run(
        [HADOLINT, "--no-color", dockerfile], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout + done.stderr


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    assert hadolint(ROOT / "Dockerfile") == ""
    faulty = tmp_path / "Dockerfile"
    faulty.write_text((ROOT / "Dockerfile").read_text().replace("python:3.11-slim-bookworm", "python:latest"))
    assert "DL3007" in hadolint(faulty)


def test_make_installs_what_the_dockerfile_does() -> None:
    """Without gs, no job could fetch the branch point of the guide."""
    [by_make] = re.findall(r"^EXTRAS \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    [by_docker] = re.findall(r"^ARG EXTRAS=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert by_make == by_docker
    assert {"vertex", "gs"} <= set(by_make.split(","))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What git has, and what lies about in somebody's working directory."""
    root = tmp_path / "project"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    for name in (*SECRETS, *COMPUTED):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


def test_no_secret_and_no_checkpoint_goes_in(project: Path) -> None:
    """By the code with which docker's own Python client reads .dockerignore."""
    patterns = (project / ".dockerignore").read_text().splitlines()
    patterns = [line for line in patterns if line and not line.startswith("#")]
    sent = {name for name in exclude_paths(str(project), patterns) if (project / name).is_file()}
    assert {"train.py", "pyproject.toml", "conf/config.yaml", "launcher/run.py"} <= sent
    assert sent & {*SECRETS, *COMPUTED} == set()
    assert {name.partition("/")[0] for name in sent} - {"Dockerfile", ".dockerignore"} == {
        "train.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "launcher", "conf",
    }  # fmt: skip


def test_what_is_copied_is_enough_to_train(project: Path, tmp_path: Path) -> None:
    """The COPY lines of the Dockerfile, and the project installed from nothing else."""
    app, packages = tmp_path / "app", tmp_path / "packages"
    app.mkdir()
    for line in (project / "Dockerfile").read_text().splitlines():
        if match := re.match(r"COPY (.+) (\S+)$", line):
            for name in match[1].split():
                to = app / match[2] / (Path(name).name if match[2] == "./" else "")
                (shutil.copytree if (project / name).is_dir() else shutil.copy)(project / name, to)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", packages, "."], cwd=app, check=True, timeout=120)
    shutil.rmtree(app / "launcher")
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    training = [
        "train.py",
        "training.steps=2",
        "scheduler.warmup_steps=0",
        "tracker=none",
        "model=tiny",
        "training.validate_every=0",
        "paths.outputs=../outputs",
    ]
    subprocess.run([sys.executable, *training], cwd=app, env=environment, check=True, timeout=120)
    assert list(tmp_path.glob("outputs/trunks/*/checkpoints/checkpoint_step_2.pt"))
