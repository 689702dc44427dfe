"""Lightning's Trainer on the launcher's runs: exact, resumed, branched, refused; its own things go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checkpoint.reader import read_state
from launcher.layout import checkpoint_file
from launcher.lineage import Run
from tests.script.project import KillScript, Project
from tests.tiny_process import digest, metrics

SOURCE = Path(__file__).parent / "lightning_project"
END = 24
"""Two epochs of ten steps, and four steps of a third."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with its trunk; tests add branches to it, and each knows its own by name."""
    project = Project.of(SOURCE, tmp_path_factory.mktemp("lightning") / "project")
    project.good()
    return project


def sibling(project: Project, step: int, name: str) -> Run:
    [run] = [
        run
        for run in project.runs()
        if run.record.group == f"checkpoint-{step}-experiments" and run.id.startswith(f"{name}-")
    ]
    return run


def state(run: Run, step: int = END) -> dict[str, Any]:
    return read_state(run.directory.checkpoints / checkpoint_file(step))


def test_controls_are_exact_and_what_was_typed_takes_effect(trained: Project) -> None:
    """From within an epoch, after a validation in it, and from the end of one."""
    trained.good("-m", "branch.from_step=5,10,15,20")
    trunk = trained.trunk
    for step in (5, 10, 15, 20):
        control = sibling(trained, step, "control")
        assert digest(control, END) == digest(trunk, END), step
        assert trained.launcher("verify", control.id).status == 0
    later = {step: line for step, line in metrics(trunk).items() if step > 5}
    told = {
        step: {name: value for name, value in line.items() if not name.startswith("branch")}
        for step, line in metrics(sibling(trained, 5, "control")).items()
    }
    assert told == {
        step: {name: value for name, value in line.items() if not name.startswith("branch")}
        for step, line in later.items()
    }
    assert [step for step, line in metrics(trunk).items() if "val/loss" in line] == [5, 10, 15, 20]


def test_a_typed_learning_rate_takes_effect(trained: Project) -> None:
    trained.good("branch.from_step=15", "lr=0.002")
    branch, trunk = sibling(trained, 15, "lr-0.002"), trained.trunk
    there, here = (
        [line["train/learning_rate"] for step, line in metrics(run).items() if step > 15 and step % 2 == 0]
        for run in (trunk, branch)
    )
    assert here == pytest.approx([rate / 10 for rate in there])
    assert branch.record.differences == {"lr": [0.02, 0.002]}
    group = state(branch)["optimizer_state_dict"]["param_groups"][0]
    assert group["initial_lr"] == 0.002
    assert digest(branch, END) != digest(trunk, END)
