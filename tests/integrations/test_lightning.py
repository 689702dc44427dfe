"""Lightning's Trainer on the launcher's runs: exact, resumed, branched, refused; its own things go on."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from launcher.checkpoint.content import describe
from launcher.checkpoint.reader import read_state
from launcher.integrations.lightning_state import LauncherCheckpointIO
from launcher.layout import checkpoint_file
from launcher.lineage import Run
from tests.script.project import KillScript, Project
from tests.tiny_process import digest, metrics, preload

# Where this file has a worker of its own, its processes have imported what takes longest.
preload("launcher.integrations.lightning")

SOURCE = Path(__file__).parent / "lightning_project"
END = 24
"""Two epochs of ten steps, and four steps of a third."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with its trunk. To be copied, not used."""
    project = Project.of(SOURCE, tmp_path_factory.mktemp("lightning") / "project")
    project.good()
    return project


@pytest.fixture
def project(trained: Project, tmp_path: Path) -> Project:
    return Project.of(trained.script.parent, tmp_path / "project")


def sibling(project: Project, step: int, name: str) -> Run:
    [run] = [
        run
        for run in project.runs()
        if run.record.group == f"checkpoint-{step}-experiments" and run.id.startswith(f"{name}-")
    ]
    return run


def state(run: Run, step: int = END) -> dict[str, Any]:
    return read_state(run.directory.checkpoints / checkpoint_file(step))


def test_controls_are_exact_and_what_was_typed_takes_effect(project: Project) -> None:
    """From within an epoch, after a validation in it, and from the end of one."""
    project.good("-m", "branch.from_step=5,10,15,20")
    trunk = project.trunk
    for step in (5, 10, 15, 20):
        control = sibling(project, step, "control")
        assert digest(control, END) == digest(trunk, END), step
        assert project.launcher("verify", control.id).status == 0
    later = {step: line for step, line in metrics(trunk).items() if step > 5}
    told = {
        step: {name: value for name, value in line.items() if not name.startswith("branch")}
        for step, line in metrics(sibling(project, 5, "control")).items()
    }
    assert told == {
        step: {name: value for name, value in line.items() if not name.startswith("branch")}
        for step, line in later.items()
    }
    assert [step for step, line in metrics(trunk).items() if "val/loss" in line] == [5, 10, 15, 20]


def test_a_typed_learning_rate_takes_effect(project: Project) -> None:
    project.good("branch.from_step=15", "lr=0.002")
    branch, trunk = sibling(project, 15, "lr-0.002"), project.trunk
    there, here = (
        [line["train/learning_rate"] for step, line in metrics(run).items() if step > 15 and step % 2 == 0]
        for run in (trunk, branch)
    )
    assert here == pytest.approx([rate / 10 for rate in there])
    assert branch.record.differences == {"lr": [0.02, 0.002]}
    group = state(branch)["optimizer_state_dict"]["param_groups"][0]
    assert group["initial_lr"] == 0.002
    assert digest(branch, END) != digest(trunk, END)


def test_the_trunk_is_what_lightning_alone_computes(tmp_path: Path) -> None:
    """A plain ``trainer.fit`` of the same module: weights, moments, schedule, to the last bit."""
    project = Project.of(SOURCE, tmp_path / "project")
    # What shuffles a loader is the run's seed, and in a plain script the global stream.
    other = ("shuffle=false", "accumulate=3", "workers=1", "plateau=true", "training.steps=14",
             "val_interval=0.7")  # fmt: skip
    project.good(*other, "checkpoint.every=1")
    alone = project.launch(*other, module=str(project.script.with_name("plain.py")))
    assert alone.status == 0, alone.err
    told = torch.load(project.script.with_name("plain.ckpt"), weights_only=True)
    assert told["global_step"] == 14
    ours = state(project.trunk, 14)
    for left, right in (
        (ours["model_state_dict"], told["state_dict"]),
        (ours["optimizer_state_dict"], told["optimizer_states"][0]),
        (ours["scheduler_state_dict"], told["lr_schedulers"][0]),
    ):
        assert describe({"all": dict(left)}).sha256 == describe({"all": dict(right)}).sha256
    # Within an epoch and at its end, when the schedule looks at what was measured before the branch point.
    project.good("-m", "branch.from_step=7,8", *other)
    for step in (7, 8):
        assert digest(sibling(project, step, "control"), 14) == digest(project.trunk, 14), step


@pytest.mark.parametrize("lost", [15, 18])
def test_killed_it_goes_on_to_the_same_end(trained: Project, tmp_path: Path, lost: int) -> None:
    """Stopped within an epoch at a step that is not saved otherwise, killed within the next one.

    Killed within step 15, Lightning has saved that step and the launcher has not.
    """
    project = Project.of(SOURCE, tmp_path / "project")
    stopped = project.launch(prepare=[KillScript(8, "SIGTERM")])
    assert stopped.status == 143, stopped.err
    killed = project.launch(prepare=[KillScript(lost, "SIGKILL")])
    assert killed.status == 137, killed.err
    project.good()
    steps = [start.step for start in project.trunk.record.starts]
    assert steps[:2] == [0, 8]
    # What was being written at the time may be lost.
    assert steps[2] in ({10} if lost == 15 else {10, 15})
    assert digest(project.trunk, END) == digest(trained.trunk, END)
    assert metrics(project.trunk) == metrics(trained.trunk)
    kept, expected = (
        sorted(path.name for path in run.directory.path.glob("lightning/*"))
        for run in (project.trunk, trained.trunk)
    )
    assert kept == expected


def test_averages_and_stateful_loaders_come_back(tmp_path: Path) -> None:
    """From an epoch's end, where the loader has not begun the next one; and means of an epoch cut short."""
    project = Project.of(SOURCE, tmp_path / "project")
    typed = ("average=true", "stateful=true", "means=true")
    project.good(*typed)
    project.good("-m", "branch.from_step=10,20", *typed)
    for step in (10, 20):
        control = sibling(project, step, "control")
        assert digest(control, END) == digest(project.trunk, END), step
        assert project.launcher("verify", control.id).status == 0
    average = state(project.trunk)["task"]["lightning"]["state_dict"]
    weights = state(project.trunk)["model_state_dict"]
    assert describe({"all": average}).sha256 != describe({"all": weights}).sha256


def test_killed_after_a_validation_between_two_steps(tmp_path: Path) -> None:
    """Gradients are accumulated: Lightning saves the step that the run goes on from after the launcher."""
    typed = ("accumulate=3", "training.steps=14", "checkpoint.every=3")
    projects = [Project.of(SOURCE, tmp_path / name) for name in ("killed", "undisturbed")]
    assert projects[0].launch(*typed, prepare=[KillScript(11, "SIGKILL")]).status == 137
    for project in projects:
        project.good(*typed)
    killed, undisturbed = (project.trunk for project in projects)
    assert digest(killed, 14) == digest(undisturbed, 14)
    kept, expected = (
        sorted(path.name for path in run.directory.path.glob("lightning/*")) for run in (killed, undisturbed)
    )
    assert kept == expected


def test_what_cannot_go_on_exactly_is_refused(project: Project) -> None:
    project.edit('ModelCheckpoint(monitor="val/loss", ', 'ModelCheckpoint("best", monitor="val/loss", ')
    assert "ModelCheckpoint(dirpath=...)" in project.refuse("branch.from_step=10").said
    project.edit('ModelCheckpoint("best", monitor="val/loss", ', 'ModelCheckpoint(monitor="val/loss", ')
    project.edit("*([EMA", 'L.pytorch.callbacks.ModelPruning("l1_unstructured"), *([EMA')
    assert "found: ModelPruning" in project.refuse("branch.from_step=10").said


def test_another_width_is_refused_in_the_words_of_the_config(project: Project) -> None:
    wider = project.refuse("branch.from_step=15", "width=16")
    assert "width: checkpoint 8, config 16" in wider.said
    assert "net.0.weight" in wider.said


def test_callbacks_and_loggers_of_lightning_go_on(project: Project) -> None:
    """Early stopping ends a run within an epoch; ModelCheckpoint saves beside it; W&B is told who it is."""
    ended = project.good("branch.from_step=10", "patience=1", "min_delta=100", "wandb=true", "lr=0.03")
    assert "Restored" not in ended.said
    [run] = [run for run in project.runs() if run.record.kind == "branch"]
    assert (run.record.state, run.record.step, max(metrics(run))) == ("finished", 15, 15)
    saved = state(run, 15)["task"]["lightning"]["callbacks"]
    [early] = [one for name, one in saved.items() if name.startswith("EarlyStopping")]
    assert (early["patience"], early["wait_count"], early["stopped_epoch"]) == (1, 1, 1)
    own = {path.name for path in (run.directory.path / "lightning").iterdir()}
    assert own == {"epoch=1-step=15.ckpt"}
    assert {path.name for path in (project.trunk.directory.path / "lightning").iterdir()} >= own
    [offline] = (run.directory.path / "wandb").glob("offline-run-*")
    assert offline.name.endswith(run.id)
    told = json.loads((project.script.parent / "wandb.json").read_text())
    assert told["group"] == "checkpoint-10-experiments"
    assert told["job_type"] == run.record.job_type
    assert told["id"] == run.id
    assert told["branched_from_step"] == 10
    assert told["branched_from_sha256"] == digest(project.trunk, 10)


def test_a_checkpoint_of_lightnings_own_is_a_branch_point(project: Project) -> None:
    """It has no random streams, so that no control can be exact: that is said, and asked for."""
    own = next(project.trunk.directory.path.glob("lightning/*-step=15.ckpt"))
    where = f"branch.from_checkpoint='{own}'"
    assert "no RNG state, no data position" in project.refuse(where).said
    project.good(where, "branch.require=state")
    [run] = [run for run in project.runs() if run.record.kind == "branch"]
    assert (run.record.start_step, run.record.step) == (15, END)
    there, here = metrics(project.trunk), metrics(run)
    assert here[16]["train/learning_rate"] == there[16]["train/learning_rate"]
    assert here[16]["train/loss"] != there[16]["train/loss"]
    # Lightning reads the launcher's as well, with nothing of it executed.
    plugin = LauncherCheckpointIO(TorchCheckpointIO())
    read = plugin.load_checkpoint(run.directory.checkpoints / checkpoint_file(END))
    assert read["global_step"] == END
    assert set(read["state_dict"]) == set(state(run)["model_state_dict"])
    hostile = project.script.with_name("hostile.ckpt")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2", "payload": Path("x")}, hostile)
    with pytest.raises(pickle.UnpicklingError, match="Weights only"):
        plugin.load_checkpoint(hostile, weights_only=False)
