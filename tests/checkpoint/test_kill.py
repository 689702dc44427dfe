"""A writer that is killed anywhere leaves a good newest checkpoint, and never loses a published one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def rounds(kind: str, directory: Path) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.checkpoint.kill_rounds", kind, str(directory)],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen: dict[str, int] = json.loads(done.stdout)
    return seen


def test_killed_at_random_moments(tmp_path: Path) -> None:
    seen = rounds("300", tmp_path / "checkpoints")
    assert seen["rounds"] == 300
    # Otherwise the kills came too early, or never during a write, and nothing was tested.
    assert seen["newest"] > 50
    assert seen["torn"] > 10


def test_killed_before_every_call_that_changes_the_disk(tmp_path: Path) -> None:
    assert rounds("calls", tmp_path)["calls"] > 15
