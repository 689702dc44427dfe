"""A script whose config names a task: every process calls its function, which trains by ``run.train()``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.script.project import Project
from tests.tiny_process import ROOT, Tiny, digest

SCRIPT = """
import launcher
from pathlib import Path

@launcher.main(config_path={conf!r})
def main(cfg, run):
    Path(run.directory, "before.txt").write_text(f"{{cfg.model.width}} {{run.end_step}}")
    {body}
    Path(run.directory, "after.txt").touch()

if __name__ == "__main__":
    main()
"""
HERE = (f"hydra.searchpath=[file://{ROOT / 'conf'}]", "hydra/launcher=pool")


def script(tmp_path: Path, body: str) -> Project:
    (tmp_path / "project").mkdir()
    path = tmp_path / "project" / "train.py"
    path.write_text(SCRIPT.format(conf=str(ROOT / "tests" / "conf"), body=body))
    return Project(path.with_name("multirun_outputs"), path)


def test_its_function_is_called_in_every_sibling(tmp_path: Path, trained: Tiny) -> None:
    project = script(tmp_path, "run.train()")
    project.good(*HERE)
    # Who calls the loop changes nothing in it: it is the same run.
    assert project.trunk.id == trained.trunk.id
    assert digest(project.trunk) == digest(trained.trunk)
    project.good("-m", "branch.from_step=20", "fanout.control=true", "loss.weight=0.5,0.7", *HERE)
    branches = [run for run in project.runs() if run.record.kind == "branch"]
    assert len(branches) == 3
    for run in branches:
        assert (run.directory.path / "before.txt").read_text() == "16 40"
        assert (run.directory.path / "after.txt").exists()
    assert digest(project.run("control-")) == digest(trained.trunk)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("pass", "ended without training"),
        ("run.train(); run.train()", "run.train() was called twice"),
        ("run.log({})", "run.log belongs to a loop of the script's own"),
        ("list(run.steps())", "run.begin belongs to a loop of the script's own"),
    ],
)
def test_a_script_that_does_not_train_its_task_is_told_so(tmp_path: Path, body: str, said: str) -> None:
    project = script(tmp_path, body)
    ended = project.launch("training.steps=6", *HERE)
    assert ended.status in {1, 2}
    assert said in ended.said
    assert project.trunk.record.state == "failed"
