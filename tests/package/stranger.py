"""The project's wheel, and an environment of somebody else's in which nothing but that is known."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

from tests.tiny_process import ROOT, WIDE, Ended

OURS = ("PYTHON", "VIRTUAL_ENV", "AWS_", "GOOGLE_", "HF_", "MLFLOW_", "TRACKIO_", "WANDB_")
"""Begin the variables of whoever runs the tests."""
PROJECT = Path(__file__).parent / "project"


def build_wheel(to: Path) -> Path:
    """The wheel of the files that git has or would have; the working tree stays as it is."""
    source = to / "source"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in names:
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--wheel-dir", to, source], check=True, timeout=120)
    shutil.rmtree(source)
    [wheel] = to.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Stranger:
    """A project of somebody's own, and the environment that it runs in."""

    environment: Path
    project: Path
    variables: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, directory: Path) -> Stranger:
        """An environment without any package, and the project beside it."""
        venv.create(directory / "venv", symlinks=True)
        shutil.copytree(PROJECT, directory / "project", ignore=shutil.ignore_patterns("__pycache__"))
        return cls(directory / "venv", directory / "project")

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    @property
    def packages(self) -> Path:
        [found] = self.environment.glob("lib/python*/site-packages")
        return found

    def pip(self, *arguments: str | Path) -> Ended:
        """The pip of these tests, at work in that environment."""
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python]
        return self.run(*command, *arguments)

    def run(self, *command: str | Path, timeout: float = 1800) -> Ended:
        """A command in the project's directory, as with the environment activated."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        variables |= {
            **WIDE,
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            **self.variables,
        }
        done = subprocess.run(
            [str(one) for one in command],
            cwd=self.project, env=variables, capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    def train(self, *overrides: str) -> Ended:
        """``python train.py OVERRIDES``."""
        return self.run(self.python, "train.py", *overrides)

    def launcher(self, *arguments: str) -> Ended:
        """``launcher ARGUMENTS``: the console command that the wheel brought."""
        return self.run(self.environment / "bin" / "launcher", *arguments)
