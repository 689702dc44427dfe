"""The YAML files of the task compose, and keep the schemas out of sight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher.config import Config
from launcher.peptide import config as peptide_config
from launcher.peptide.task import PeptideTask

CONF = Path(__file__).parents[2] / "conf"
DEFAULTS = {
    "task": "peptide",
    "model": "small",
    "data": "synthetic",
    "loss": "buggy",
    "curriculum": "original",
}
LABELS = {
    ("loss", "fixed"): "fixed-spectrum",
    ("loss", "buggy"): "buggy-spectrum",
    ("loss", "none"): "no-spectrum",
    ("curriculum", "original"): "original-curriculum",
    ("curriculum", "delayed"): "delayed-curriculum",
}


@pytest.fixture(autouse=True)
def registered() -> None:
    if "schema" not in ConfigStore.instance().repo or "model" not in ConfigStore.instance().repo["schema"]:
        peptide_config.register()


def composed(**choices: str) -> dict[str, Any]:
    values = [choices.pop(key) for key in list(choices) if key.startswith("set")]
    nodes: dict[str, Any] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for group, name in {**DEFAULTS, **choices}.items():
            mine = [value for value in values if value.startswith(f"{group}.")]
            node = compose(f"{group}/{name}", overrides=mine)
            nodes.update(OmegaConf.to_container(node, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    return nodes


@pytest.mark.parametrize(
    ("group", "name"),
    [(path.parent.name, path.stem) for group in DEFAULTS for path in sorted((CONF / group).glob("*.yaml"))],
)
def test_every_choice_builds_a_task(group: str, name: str) -> None:
    choices = {group: name}
    if name in ("fasta", "mgf"):
        choices["set_path"] = "data.path=a.file"
    plain = composed(**choices)
    task = PeptideTask(Config.from_plain(plain))
    task.build_model()
    if (group, name) in LABELS:
        assert plain[group]["label"] == LABELS[group, name]
        assert plain[group]["facts"]
    elif group != "task":
        assert plain[group]["label"] is None


@pytest.mark.parametrize("name", ["fasta", "mgf"])
def test_a_file_must_be_named(name: str) -> None:
    with pytest.raises(OmegaConfBaseException, match="path"):
        composed(data=name)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(Exception, match="batchsize"):
        composed(set_wrong="data.batchsize=3")


def test_delayed_and_original_still_differ_after_step_15000() -> None:
    tasks = [PeptideTask(Config.from_plain(composed(curriculum=name))) for name in ("original", "delayed")]
    for step, equal in ((15_001, False), (16_499, False), (16_500, True)):
        assert (tasks[0].settings(step) == tasks[1].settings(step)) is equal


def test_the_three_losses_differ_as_their_names_say() -> None:
    fixed, buggy, none = (composed(loss=name)["loss"] for name in ("fixed", "buggy", "none"))
    settings = [
        {key: value for key, value in node.items() if key not in ("label", "facts")}
        for node in (fixed, buggy, none)
    ]
    assert settings[1] == {**settings[0], "water_on_y_ions": False}
    assert settings[2] == {**settings[0], "weight": 0.0}
    assert fixed["facts"]["spectrum_loss_bug_fixed"] is True
    assert buggy["facts"]["spectrum_loss_bug_fixed"] is False
