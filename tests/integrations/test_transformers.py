"""Hugging Face's Trainer as it is: experts (LoRA adapters) on a small language model, branched exactly."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from launcher.checkpoint.content import describe
from launcher.checkpoint.formats.trainer_state import trainer_state
from launcher.files import read_json_object
from launcher.lineage import Run, read_run
from tests.script.project import KillScript, Project, kill_at_the_end
from tests.tiny_process import digest, metrics, preload
from tests.wandb_server.server import WandbServer

PROJECT = Path(__file__).parent / "project"
BASES = {"base-a": (1, 32), "base-b": (2, 32), "base-wide": (1, 64)}
"""Seed and width of each base model."""

preload("peft", "transformers.trainer")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with its base models and a trunk of 24 steps, 12 an epoch. To be copied, not used."""
    project = Project.of(PROJECT, tmp_path_factory.mktemp("experts") / "project")
    for name, (seed, width) in BASES.items():
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=256, n_positions=64, n_embd=width, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
        GPT2LMHeadModel(config).save_pretrained(project.script.parent / name)
    project.good()
    return project


@pytest.fixture
def project(trained: Project, tmp_path: Path) -> Project:
    return Project.of(trained.script.parent, tmp_path / "project")


def branch(project: Project, name: str) -> Run:
    [record] = project.outputs.glob(f"checkpoint-*/{name}-????????/run.json")
    return read_run(record.parent)


def saved_by_trainer(directory: Path) -> dict[str, Any]:
    """Everything that the Trainer's own checkpoint holds, comparable."""
    files = {str(file.relative_to(directory)): file for file in sorted(directory.rglob("*.*"))}
    weights = {name: load_file(file) for name, file in files.items() if file.suffix == ".safetensors"}
    states = {
        name: torch.load(directory / name, weights_only=True) for name in ("optimizer.pt", "scheduler.pt")
    }
    streams = torch.load(directory / "rng_state.pth", weights_only=False)
    return {
        "weights": describe(weights).sha256,
        "states": describe(states).sha256,
        "streams": [streams["python"], streams["numpy"][1].tolist(), streams["cpu"].tolist()],
        "state": trainer_state(read_json_object(directory / "trainer_state.json")),
    }


def test_a_trunk_and_its_control_are_what_the_trainer_alone_would_do(project: Project) -> None:
    assert project.launch(module=str(project.script.parent / "bare.py")).status == 0
    alone = saved_by_trainer(project.script.parent / "bare" / "checkpoint-24")
    assert saved_by_trainer(project.trunk.directory.path / "trainer" / "checkpoint-24") == alone
    # Within an epoch and within an interval of logging; and at the end of an epoch.
    for step in (6, 12):
        project.good(f"branch.from_step={step}", f"branch.from_run={project.trunk.id}")
        [control] = [run for run in project.runs() if run.record.start_step == step]
        assert control.record.branch_type == "control"
        assert digest(control, 24) == digest(project.trunk, 24)
        assert saved_by_trainer(control.directory.path / "trainer" / "checkpoint-24") == alone
        assert project.launcher("verify", control.id).status == 0


def test_siblings_differ_in_what_was_typed(project: Project) -> None:
    project.good(
        "-m", "branch.from_step=6", "fanout.control=true", "fanout.canary=true", "learning_rate=1e-2,1e-3",
        "text=digits,squares",
    )  # fmt: skip
    control = branch(project, "control")
    assert digest(control, 24) == digest(project.trunk, 24)
    slow, there = metrics(branch(project, "learning_rate-0.001"))[10], metrics(control)[10]
    assert slow["train/learning_rate"] == pytest.approx(there["train/learning_rate"] / 10)
    assert slow["train/loss"] != there["train/loss"]
    runs = [run for run in project.runs() if run.record.kind == "branch"]
    assert len(runs) == 4
    assert len({digest(run, 24) for run in runs}) == 4


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_killed_it_goes_on_to_the_same_end(trained: Project, project: Project, name: str) -> None:
    shutil.rmtree(project.outputs)
    ended = project.launch(prepare=[KillScript(16, name)])
    assert ended.status == {"SIGKILL": 137, "SIGTERM": 143}[name], ended.err
    project.good()
    assert [start.step for start in project.trunk.record.starts] == [0, {"SIGKILL": 12, "SIGTERM": 16}[name]]
    assert digest(project.trunk, 24) == digest(trained.trunk, 24)
    assert metrics(project.trunk) == metrics(trained.trunk)


def test_killed_after_early_stopping_it_stays_stopped_with_its_best_model(project: Project) -> None:
    """What a script does after training is done anew, with what it would have been done with."""
    shutil.rmtree(project.outputs)
    # The Trainer itself loads no best model of several adapters.
    project.edit("model=experts(cfg)", "model=experts(cfg).unload().requires_grad_(True)")
    typed = ("patience=1", "learning_rate=0.3", "save_steps=4", "best=true")
    assert project.launch(*typed, prepare=[kill_at_the_end]).status == 137
    final = project.trunk.directory.path / "final" / "model.safetensors"
    best, steps = final.read_bytes(), sorted(metrics(project.trunk))
    own = project.trunk.directory.path / "trainer" / "checkpoint-4" / "model.safetensors"
    assert best == own.read_bytes()
    project.good(*typed)
    assert [start.step for start in project.trunk.record.starts] == [0, 8]
    assert (project.trunk.record.state, project.trunk.record.step) == ("finished", 8)
    assert sorted(metrics(project.trunk)) == steps
    assert final.read_bytes() == best


def test_what_gives_other_weights_is_refused_in_the_words_of_the_config(project: Project) -> None:
    refused = {
        "lora_r=8": "lora_r: checkpoint 4, config 8",
        "num_experts=3": "num_experts: checkpoint 2, config 3",
        "base_model=base-wide": "base_model: checkpoint base-a, config base-wide",
        # Of equal shapes: restoring would overwrite it, and the branch would be the control.
        "base_model=base-b": "base_model: checkpoint base-a, config base-b",
    }
    for override, said in refused.items():
        ended = project.refuse("branch.from_step=6", override, "learning_rate=1e-3", "patience=3")
        assert said in ended.said
        assert "learning_rate:" not in ended.said
        assert "patience:" not in ended.said


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WandbServer]:
    """A stand-in for W&B; nothing may be asked of it that it does not model."""
    with WandbServer() as server:
        yield server
        # The client greets, where nobody keeps it from it.
        assert [one for one in server.complaints if "OrganizationCoreWeave" not in one] == []


def to(server: WandbServer, home: Path) -> dict[str, str]:
    return {**server.environment, "HOME": str(home), "WANDB_ERROR_REPORTING": "false"}


def test_the_trainers_wandb_callback_begins_the_siblings_own_runs(
    project: Project, server: WandbServer, tmp_path: Path
) -> None:
    # In one process, where the client would merge them.
    project.good(
        "-m", "branch.from_step=6", "report_to=wandb", "learning_rate=2e-3,1e-3", "hydra/launcher=basic",
        "tracking.tags=[mine]", environment=to(server, tmp_path),
    )  # fmt: skip
    siblings = [run for run in project.runs() if run.record.kind == "branch"]
    assert sorted(stored.id for stored in server.all()) == sorted(run.id for run in siblings)
    for run in siblings:
        stored = server.run(run.id)
        assert (stored.group, stored.job_type) == ("checkpoint-6-experiments", run.record.job_type)
        assert {"from-checkpoint", "mine"} <= set(stored.tags)
        assert stored.values["branched_from_step"] == 6
        assert stored.values["branched_from_run"] == project.trunk.id
        assert stored.values["learning_rate"] == run.record.differences["learning_rate"][1]
        assert [row["train/global_step"] for row in stored.history] == [8, 10, 12, 15, 16, 20, 20, 24, 24]
        assert stored.exit_code == 0


def test_with_the_launchers_own_tracker_there_is_one_run_in_wandb(
    project: Project, server: WandbServer, tmp_path: Path
) -> None:
    project.good("branch.from_step=6", "report_to=wandb", "tracker=wandb", environment=to(server, tmp_path))
    [stored] = server.all()
    run = branch(project, "report_to-wandb")
    assert stored.id == run.id
    assert [row["global_step"] for row in stored.history] == list(metrics(run))
    assert {"train/loss", "val/loss"} <= {name for row in stored.history for name in row}


def test_early_stopping_counts_on_from_the_trunk(project: Project) -> None:
    project.good("-m", "branch.from_step=18", "patience=3,50", "batch_size=4,8")
    # The validation loss hardly falls from step 12 on: the trunk has counted twice, at 12 and 16.
    stopped, control = branch(project, "patience-3"), branch(project, "control")
    assert (stopped.record.state, stopped.record.step) == ("finished", 20)
    assert (control.record.state, control.record.step) == ("finished", 24)
    assert digest(control, 24) == digest(project.trunk, 24)
    assert list(metrics(stopped)) == [20]


def test_a_checkpoint_of_the_trainers_own_is_an_exact_branch_point(project: Project) -> None:
    plain = ("num_experts=0", "save_steps=10")
    assert project.launch(*plain, module=str(project.script.parent / "bare.py")).status == 0
    bare = project.script.parent / "bare"
    project.good(*plain, f"branch.from_checkpoint={bare / 'checkpoint-10'}")
    [run] = [run for run in project.runs() if run.record.kind == "branch"]
    own = run.directory.path / "trainer" / "checkpoint-24"
    assert saved_by_trainer(own) == saved_by_trainer(bare / "checkpoint-24")
    project.good(*plain, f"branch.from_checkpoint={bare / 'checkpoint-10'}", "learning_rate=1e-3")
    [slower] = [one for one in project.runs() if "learning_rate" in one.record.differences]
    slow = metrics(slower)[15]
    assert slow["train/learning_rate"] == pytest.approx(metrics(run)[15]["train/learning_rate"] / 10)


NOISY = """
class Noisy(Text):
    def __getitem__(self, index):
        torch.rand(())
        return super().__getitem__(index)


@launcher.main"""


def test_what_cannot_go_on_exactly_is_said(project: Project) -> None:
    project.edit("train_dataset=Text(cfg.text)", "train_dataset=Noisy(cfg.text)")
    project.edit("@launcher.main", NOISY)
    project.edit("import launcher\n", "import torch\n\nimport launcher\n")
    said = project.refuse("branch.from_step=6", "learning_rate=1e-3").said
    assert "Noisy draws random numbers, ahead of the step that they are for" in said
    project.edit("train_dataset=Noisy", "train_dataset=Text")
    assert (
        "no position in the data is registered"
        in project.refuse("branch.from_step=6", "branch.reset=[data]").said
    )
    project.edit("seed=run.seed", "seed=1")
    assert "seed=run.seed" in project.refuse("branch.from_step=6", "learning_rate=1e-3").said
