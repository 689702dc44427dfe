"""A script that the launcher has never seen: a small GPT on the standard library's sources."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import set_num_threads

from docs import refresh
from launcher.checkpoint.content import describe
from launcher.checkpoint.manifest import read_manifest_file
from launcher.launchers.sibling import read_launch
from launcher.lineage import Run, read_run
from tests.script.project import GUIDE, KillScript, Project
from tests.tiny_process import digest, metrics

PAGE = refresh.GUIDE.read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)]
"""The guide's, in order: trunk, control, verify, siblings, compare, and a bare checkpoint."""


def test_the_guide_shows_the_difference_between_its_scripts() -> None:
    assert refresh.guide(PAGE) == PAGE, "python -m docs.refresh"
    [block] = re.findall(r"```diff\n(.+?)```", PAGE, re.DOTALL)
    assert "+@launcher.main(" in block
    count = re.search(r"(\d+) lines come, (\d+) go", PAGE)
    assert count is not None
    assert int(count[1]) < 20
    assert refresh.guide(PAGE.replace("+    main()", "+    mian()")) == PAGE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The guide's project with its trunk of 60 steps. To be copied, not used."""
    project = Project.of(GUIDE, tmp_path_factory.mktemp("guide") / "project")
    [trunk, *_] = COMMANDS
    project.good(*trunk[2:])
    return project


@pytest.fixture
def project(trained: Project, tmp_path: Path) -> Project:
    return Project.of(trained.script.parent, tmp_path / "project")


def sibling(project: Project, name: str) -> Run:
    [record] = project.outputs.glob(f"checkpoint-40-experiments/{name}-*/run.json")
    return read_run(record.parent)


def test_siblings_branch_exactly_in_one_group(project: Project) -> None:
    siblings = COMMANDS[3]
    assert siblings[2] == "-m"
    project.good(*siblings[2:], "fanout.canary=true")
    control = sibling(project, "control")
    assert digest(control, 60) == digest(project.trunk, 60)
    for command in COMMANDS[4], COMMANDS[2]:
        looked = project.launcher(*command[1:])
        assert looked.status == 0, looked.err
    assert "exact: control-" in looked.out
    runs = [run for run in project.runs() if run.record.kind == "branch"]
    assert len(runs) == 4
    assert {run.record.group for run in runs} == {"checkpoint-40-experiments"}
    assert len({digest(run, 60) for run in runs}) == 4
    slow = sibling(project, "learning_rate-0.0003")
    assert slow.record.differences == {"learning_rate": [1e-3, 3e-4]}
    assert metrics(slow)[50]["train/learning_rate"] < metrics(control)[50]["train/learning_rate"]
    assert {tuple(run.record.states) for run in runs} == {("2", "20")}
    # A process of its own, as a cluster starts it, finds the script: not another one of that name.
    assert read_launch(slow.directory.path).script == str(project.script.parent.resolve())
    expected = digest(slow, 60)
    shutil.rmtree(slow.directory.checkpoints)
    slow.record.state = "interrupted"
    slow.record.write(slow.directory.path)
    again = project.launch(str(slow.directory.path), module="launcher.job")
    assert again.status == 0, project.logs()
    assert digest(slow, 60) == expected


def test_the_bare_script_computes_the_same_and_its_checkpoint_can_be_branched(project: Project) -> None:
    """What is left of the loop is the loop that was there."""
    ended = project.good(
        module=str(project.script.with_name("bare.py")), prepare=[partial(set_num_threads, 1)]
    )
    said = {int(step): float(loss) for step, loss in re.findall(r"step (\d+): loss (\S+)", ended.out)}
    logged = metrics(project.trunk)
    assert said == {step: round(line["train/loss"], 4) for step, line in logged.items()}
    *point, require = COMMANDS[5][2:]
    assert require == "branch.require=state"
    assert "has no RNG state" in project.refuse(*point).said
    project.good(*point, require)
    [run] = [run for run in project.runs() if run.record.group == "ckpt-60-experiments"]
    assert run.record.parent is not None
    assert (run.record.start_step, run.record.parent.format) == (60, "torch")
    theirs = torch.load(project.script.with_name("ckpt.pt"), weights_only=True)
    restored = describe({"model_state_dict": theirs["model"]}).components
    assert (
        read_manifest_file(run.directory.restored).content.components["model_state_dict"]
        == (restored["model_state_dict"])
    )
    # What the optimizer was built with is in the checkpoint, and nobody typed another.
    project.edit("weight_decay=cfg.weight_decay", "weight_decay=0.3 + 0 * cfg.weight_decay")
    refused = project.refuse(*point, "branch.steps=10", require).said
    assert "optimizer: weight_decay" in refused
    assert "0.1, as the trunk" in refused
    assert "optimizer: betas" not in refused


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_killed_it_goes_on_to_the_same_end(trained: Project, tmp_path: Path, name: str) -> None:
    project = Project.of(trained.script.parent, tmp_path / "project")
    shutil.rmtree(project.outputs)
    ended = project.launch(prepare=[KillScript(33, name)])
    assert ended.status == {"SIGKILL": 137, "SIGTERM": 143}[name], ended.err
    project.good()
    trunk = project.trunk
    assert [start.step for start in trunk.record.starts] == [0, {"SIGKILL": 20, "SIGTERM": 33}[name]]
    assert trunk.id == trained.trunk.id
    assert digest(trunk, 60) == digest(trained.trunk, 60)
    assert metrics(trunk) == metrics(trained.trunk)


def test_what_cannot_be_is_refused_before_anything_runs(project: Project) -> None:
    project.edit("    data = read_text()", "    print('reading')\n    data = read_text()")
    wider = project.refuse("branch.from_step=40", "n_embd=64", "learning_rate=3e-4")
    assert "n_embd: checkpoint 32, config 64" in wider.said
    assert "learning_rate:" not in wider.said
    assert "n_embd=32, or restore a part" in wider.said
    assert "Key 'n_embdd' is not in struct" in project.refuse("branch.from_step=40", "n_embdd=64").said
    assert "launch.nproc=2" in project.refuse("launch.nproc=2").said
    scheduled = "scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 9)"
    project.edit("optimizer=optimizer)", f"optimizer=optimizer, {scheduled})")
    assert "did not register its scheduler" in project.refuse("branch.from_step=40").said
    project.edit("data = read_text()", "data = read_text()[: cfg.bytes]")
    broken = project.refuse("branch.from_step=40").said
    assert "failed before it registered anything" in broken
    assert "project/train.py:" in broken
    assert "Key 'bytes' is not in struct" in broken


def test_a_canary_finds_state_that_nobody_registered(project: Project) -> None:
    project.edit("    run.register(", "    decay = iter([1 - n / 99 for n in range(99)])\n    run.register(")
    project.edit("loss.backward()", "(loss * next(decay)).backward()")
    ended = project.launch(
        "-m", "branch.from_step=40", "fanout.control=true", "fanout.canary=true", "learning_rate=3e-4"
    )
    assert ended.status == 1
    assert "The canary did not pass: a step after loading again is not the step" in project.logs()
    assert "not started" in ended.said


def test_what_can_be_seen_of_state_that_nobody_registered_is_said(project: Project) -> None:
    shutil.rmtree(project.outputs)
    project.edit("class Block", "OWN = torch.Generator().manual_seed(1)\n\n\nclass Block")
    project.edit("(cfg.batch_size,))", "(cfg.batch_size,), generator=OWN)")
    project.edit("    run.register(", "    run.register(own=OWN, ")
    assert "drawn between" not in (first := project.good()).said
    assert "not registered" not in first.said
    project.good("branch.from_step=40")
    # A generator that is registered goes on where it was.
    assert digest(sibling(project, "control"), 60) == digest(project.trunk, 60)
    project.edit("    for step in run", "    torch.rand(1)\n    for step in run")
    project.edit(
        "    run.register(", "    other = torch.optim.SGD([model.ln_f.weight], lr=1e-3)\n    run.register("
    )
    project.edit("        optimizer.step()", "        optimizer.step()\n        other.step()")
    said = project.good("training.steps=2", "paths.outputs=elsewhere").said
    assert "Random numbers were drawn between run.register and run.steps()" in said
    assert said.count("SGD: takes steps and is not registered") == 1


def test_an_override_that_nothing_reads_is_an_error(project: Project) -> None:
    project.edit("weight_decay=cfg.weight_decay", "weight_decay=0.1")
    ended = project.launch("branch.from_step=40", "weight_decay=0.2")
    assert ended.status == 1
    assert "weight_decay had no effect: the script never read it" in ended.said
    assert (
        json.loads((sibling(project, "weight_decay-0.2").directory.record).read_text())["state"] == "failed"
    )
