"""A script with loaders and a schedule, in real processes: exact where it can be, refused where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from launcher.checkpoint.reader import read_state
from launcher.layout import checkpoint_file
from launcher.lineage import Run
from tests.script.project import KillScript, Project
from tests.tiny_process import digest, metrics

SOURCE = Path(__file__).parent / "loading"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A trunk of 16 steps, of five batches an epoch. To be copied, not used."""
    project = Project.of(SOURCE, tmp_path_factory.mktemp("loading") / "project")
    project.good()
    return project


@pytest.fixture
def project(trained: Project, tmp_path: Path) -> Project:
    return Project.of(trained.script.parent, tmp_path / "project")


def state(run: Run, step: int) -> dict[str, object]:
    return read_state(run.directory.checkpoints / checkpoint_file(step))


@pytest.mark.parametrize("kind", ["plain", "torchdata"])
def test_with_workers_a_control_is_exact_and_so_is_a_killed_run(tmp_path: Path, kind: str) -> None:
    project = Project.of(SOURCE, tmp_path / "project")
    loader = [f"loader.kind={kind}", "loader.workers=2"]
    ended = project.launch(*loader, prepare=[KillScript(11, "SIGTERM")])
    assert ended.status == 143, ended.err
    assert not list(project.outputs.rglob("done.txt"))
    project.good(*loader)
    trunk = project.trunk
    assert (trunk.directory.path / "done.txt").read_text() == "16 None"
    project.good("branch.from_step=8", *loader)
    control = project.run("control-")
    assert digest(control, 16) == digest(trunk, 16)
    assert {step: line["train/loss"] for step, line in metrics(control).items()} == {
        step: line["train/loss"] for step, line in metrics(trunk).items() if step > 8
    }
    assert (control.directory.path / "done.txt").read_text() == "16 8"
    assert control.record.findings == []


def test_a_typed_rate_goes_through_the_schedule(project: Project) -> None:
    project.good("branch.from_step=8", "lr=0.02")
    run, trunk = project.run("lr-0.02"), project.trunk
    for step, line in metrics(run).items():
        theirs = metrics(trunk)[step]["train/learning_rate"]
        assert line["train/learning_rate"] == pytest.approx(theirs / 5, rel=1e-12)
    assert digest(run, 16) != digest(trunk, 16)
    # Of a branch from there, what the branch was told is what counts.
    project.good(f"branch.from_run={run.id}", "branch.from_step=16", "branch.steps=2", "lr=0.02")
    [child] = [one for one in project.runs() if one.record.parent and one.record.parent.run == run.id]
    assert child.record.branch_type == "control"
    assert run.record.directions == {"loss": "down"}


def test_groups_and_keys_of_its_own_are_pinned_with_the_branch_point(tmp_path: Path) -> None:
    project = Project.of(SOURCE, tmp_path / "project")
    project.good("noise=much", "lr=0.05")
    trunk = project.trunk
    undeclared = project.refuse("branch.from_step=8", "lr=0.05").said
    assert "noise.amount: trunk 0.5, here 0.1" in undeclared
    assert "as the trunk: noise=much" in undeclared
    pinned = project.launcher("pin", f"{trunk.id}@8", "here", f"--conf={project.script.parent / 'conf'}")
    assert pinned.status == 0, pinned.err
    project.good("+branch=here")
    assert digest(project.run("control-"), 16) == digest(trunk, 16)
    project.good("+branch=here", "lr=0.01")
    assert project.run("lr-0.01").record.differences == {"lr": [0.05, 0.01]}
    project.good("branch.from_step=8", "noise=little", "lr=0.05")
    assert project.run("noise-little").record.job_type == "noise-little"


def test_what_is_read_and_changes_nothing_is_marked(project: Project) -> None:
    project.good(
        "-m", "branch.from_step=8", "fanout.control=true", "save_at=-2,-3", "lr=0.1", "hydra/launcher=pool"
    )
    compared = project.launcher("compare", "checkpoint-8-experiments")
    assert compared.said.count("NO EFFECT") >= 2


def test_parts_are_reset_by_name(project: Project) -> None:
    project.good("branch.from_step=8", "branch.reset=[data,optimizer,scheduler]", "branch.steps=1")
    anew = state(project.run("reset-"), 9)
    assert anew["data_state"] == {"epoch": 1, "batch": 1, "open": True}
    assert state(project.trunk, 8)["data_state"] == {"epoch": 2, "batch": 3, "open": True}
    project.good("branch.from_step=8", "branch.restore=weights", "branch.steps=1", "model.width=8")
    weights = project.run("weights-")
    assert weights.record.branch_type == "weights"
    part = ["branch.restore=weights", "branch.include=[0.*]", "branch.steps=1", "model.width=8"]
    project.good("branch.from_step=8", *part)
    assert "reset" not in project.run("part-").id


def test_other_data_and_data_without_a_position_are_refused(project: Project) -> None:
    other = project.refuse("branch.from_step=8", environment={"DATA": "other"})
    assert "fingerprint other" in other.said
    assert "noisy, as trunk-" in other.said
    stream = ("branch.from_step=8", "loader.kind=stream")
    refused = project.refuse(*stream)
    assert "Stream is an IterableDataset without a state: it begins anew" in refused.said
    assert "branch.require=state" in refused.said
    project.good(*stream, "branch.require=state", "branch.steps=1")
    [finding] = project.run("kind-stream").record.findings
    assert finding["level"] == "warning"
    trunk = Project.of(SOURCE, project.script.parent / "other")
    assert "begins anew" in trunk.good("loader.kind=stream", "training.steps=2").err


def test_a_foreign_checkpoint_gives_the_place_in_the_schedule(project: Project, tmp_path: Path) -> None:
    trunk = read_state(project.trunk.directory.checkpoints / checkpoint_file(8))
    optimizer = trunk["optimizer_state_dict"]
    # As it was, the seed's generators included, in somebody else's keys.
    generators = {"rng": trunk["rng_state"], "task": trunk["task"]}
    whole = {"model": trunk["model_state_dict"], "optimizer": optimizer, "step": 8, **generators}
    torch.save({**whole, "scheduler": trunk["scheduler_state_dict"]}, tmp_path / "whole.pt")
    torch.save(whole, tmp_path / "functional.pt")
    del whole["step"]
    torch.save(whole, tmp_path / "uncounted.pt")
    place = f"branch.from_checkpoint={tmp_path}"
    anew = "branch.reset=[data]"
    assert "has no position in the schedule" in project.refuse(f"{place}/functional.pt", anew).said
    uncounted = project.refuse(f"{place}/uncounted.pt", anew).said
    assert "has no step" in uncounted
    assert "branch.from_step=N" in uncounted
    project.good(f"{place}/functional.pt", anew, "branch.require=state")
    project.good(f"{place}/whole.pt", anew)
    theirs = {step: line["train/learning_rate"] for step, line in metrics(project.trunk).items() if step > 8}
    for run in project.runs():
        if run.record.parent is not None:
            assert {step: line["train/learning_rate"] for step, line in metrics(run).items()} == theirs
    project.edit("T_max=run.horizon_steps", "T_max=2 * run.horizon_steps")
    other = project.refuse(f"{place}/whole.pt", anew, "tracking.group=other").said
    assert "behind step 8" in other
    assert "build the trunk's schedule" in other


def test_it_stops_early_and_saves_when_it_is_asked_to(tmp_path: Path) -> None:
    project = Project.of(SOURCE, tmp_path / "project")
    project.good("stop_at=6", "save_at=3")
    trunk = project.trunk
    assert trunk.record.state == "finished"
    assert sorted(path.name for path in trunk.directory.checkpoints.glob("*.pt")) == [
        checkpoint_file(3),
        checkpoint_file(6),
    ]
    assert (trunk.directory.path / "done.txt").read_text() == "6 None"
    assert "finished already" in project.good("stop_at=6", "save_at=3").said
    saved = state(trunk, 6)
    assert isinstance(saved["task"], dict)
    assert torch.equal(saved["task"]["average"]["n_averaged"], torch.tensor(6))
