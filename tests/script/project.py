"""A project with a script of its own, in a directory of its own; each run is a process through its door."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import launcher.recording
import launcher.session.session
from tests.tiny_process import ROOT, Ended, Tiny

GUIDE = ROOT / "docs" / "own-script"
"""The guide's script, before (bare.py) and after (train.py), and its config."""


@dataclass(frozen=True)
class Project(Tiny):
    """The runs of a script; ``outputs`` is ``multirun_outputs`` beside it."""

    script: Path = Path()

    @classmethod
    def of(cls, source: Path, directory: Path) -> Project:
        """A copy of a project."""
        shutil.copytree(source, directory, ignore=shutil.ignore_patterns("__pycache__"))
        return cls(directory / "multirun_outputs", directory / "train.py")

    def start(self, *overrides: str, module: str = "", **options: Any) -> Any:
        return super().start(*overrides, module=module or str(self.script), **options)

    def edit(self, old: str, new: str) -> None:
        """Change the script."""
        text = self.script.read_text()
        assert old in text
        self.script.write_text(text.replace(old, new))

    def good(self, *overrides: str, **options: Any) -> Ended:
        """Run it to its end, which has to be a good one."""
        ended: Ended = self.launch(*overrides, **options)
        assert ended.status == 0, ended.err + ended.out + self.logs()
        return ended

    def logs(self) -> str:
        return "".join(log.read_text() for log in self.outputs.glob("*/*/log.txt"))


@dataclass(frozen=True)
class KillScript:
    """The process gets a signal within a step of the script; put into it before it starts."""

    step: int
    signal: str

    def __call__(self) -> None:
        original = launcher.session.session.Session.advance

        def dangerous(session: Any) -> None:
            if session.step + 1 == self.step:
                os.kill(os.getpid(), signal.Signals[self.signal])
            original(session)

        launcher.session.session.Session.advance = dangerous  # type: ignore[method-assign]


def kill_at_the_end() -> None:
    """The process is killed with the script through and its last step on disk; the record does not say so."""

    def dead(hooks: Any, *_: Any) -> None:
        hooks.saved()
        os.kill(os.getpid(), signal.SIGKILL)

    launcher.recording.Recording.finish = dead  # type: ignore[method-assign]
