"""A plain loop of Accelerate's: what ``Accelerator.prepare`` returns is registered as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.script.project import Project
from tests.tiny_process import digest, metrics


def test_a_control_is_exact_and_a_typed_learning_rate_takes_effect(tmp_path: Path) -> None:
    project = Project.of(Path(__file__).parent / "accelerate_project", tmp_path / "project")
    project.good()
    project.good("-m", "branch.from_step=15", "lr=0.02,0.002")
    control, slow, trunk = project.run("control-"), project.run("lr-"), project.trunk
    assert digest(control, 24) == digest(trunk, 24)
    # The schedule lies in a wrapper, and so does the optimizer that it drives.
    there, here = (
        [metrics(run)[step]["train/learning_rate"] for step in (16, 20, 24)] for run in (trunk, slow)
    )
    assert here == pytest.approx([rate / 10 for rate in there])
