"""Every config file composes into a valid config, and the door shows what there is to choose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException

import train
from launcher.branch.effect import build_task
from launcher.composition import config_from
from launcher.config import Config
from launcher.entry import register
from launcher.errors import ConfigError
from launcher.schema import in_our_words
from launcher.training.schedule import build_schedule
from tests.tiny_process import ROOT, Tiny, digest

assert train.main  # Importing the door makes the task's schemas known.
register("train.main")  # As the door does when it is entered.

CONFS = {"train": ROOT / "conf", "tests.tiny_train": ROOT / "tests" / "conf"}
GROUPS = ("branch", "curriculum", "loss", "model", "data", "optimizer", "scheduler", "tracker", "task")
ADDED = ("branch", "arm")
"""Groups that are not in the defaults list: ``+branch=NAME``."""
MANDATORY = {"data=fasta": ["data.path=proteins.fasta"], "data=mgf": ["data.path=spectra.mgf"]}


def options(conf: Path) -> list[str]:
    """``loss=fixed`` for every file of a config directory."""
    files = sorted(path.relative_to(conf) for path in conf.rglob("*.yaml") if path.parent != conf)
    listed = (conf / "config.yaml").read_text(encoding="utf-8")
    added = [group for group in ADDED if f"- {group}:" not in listed]
    return [f"{'+' if path.parts[0] in added else ''}{path.parent}={path.stem}" for path in files]


def composed(module: str, *overrides: str) -> Config:
    with initialize_config_dir(str(CONFS[module]), version_base="1.3"):
        return config_from(compose("config", overrides=list(overrides)))


@pytest.fixture(autouse=True)
def _as_from_the_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(ROOT)
    yield
    GlobalHydra.instance().clear()


ALL = [(module, option) for module, conf in CONFS.items() for option in ["", *options(conf)]]


@pytest.mark.parametrize(("module", "option"), ALL, ids=lambda value: str(value) or "defaults")
def test_every_option_composes(module: str, option: str) -> None:
    overrides = [option] if option else []
    config = composed(module, *overrides, *MANDATORY.get(option, []))
    build_task(config)
    build_schedule(config.scheduler, config.training.steps)


def test_there_are_options_in_every_group() -> None:
    there = {option.lstrip("+").partition("=")[0] for option in options(CONFS["train"])}
    assert set(GROUPS) <= there


@pytest.mark.parametrize("option", MANDATORY)
def test_a_file_that_has_to_be_named_is_asked_for(empty: Tiny, option: str) -> None:
    ended = empty.launch(option, f"paths.outputs={empty.outputs}", module="train")
    assert ended.status == 2
    assert "data.path has no value" in ended.err
    assert "data.path=VALUE" in ended.err
    assert not empty.outputs.exists()


@pytest.mark.parametrize("module", CONFS)
def test_help_lists_the_groups_and_their_options(empty: Tiny, module: str) -> None:
    ended = empty.launch("--help", module=module)
    assert (ended.status, ended.err) == (0, "")
    listed = dict(re.findall(r"^([\w/]+): (.+)$", ended.out, re.MULTILINE))
    for option in options(CONFS[module]):
        group, _, name = option.lstrip("+").partition("=")
        if not group.startswith("hydra/"):
            assert name in listed[group].split(", ")
    assert "from_step: null" in ended.out


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lo", {"loss=", "loss."}),
        ("loss=", {"loss=buggy", "loss=fixed", "loss=none"}),
        ("loss=f", {"loss=fixed"}),
        ("+branch=", {"+branch=ckpt15k"}),
        ("-m optimizer=", {"optimizer=adamw", "optimizer=sgd"}),
        ("branch.from", {"branch.from_step=", "branch.from_run=", "branch.from_checkpoint="}),
        ("training.st", {"training.steps="}),
    ],
)
def test_the_shell_completes_what_is_typed(empty: Tiny, line: str, offered: set[str]) -> None:
    typed = f"python train.py {line}"
    environment = {"COMP_LINE": typed, "COMP_POINT": str(len(typed))}
    ended = empty.launch("-sc", "query=bash", module="train", environment=environment)
    assert (ended.status, ended.err) == (0, "")
    assert set(ended.out.split()) == offered


def test_the_door_trains_branches_and_proves(empty: Tiny) -> None:
    small = [
        f"paths.outputs={empty.outputs}", "tracker=none", "model=tiny", "training.steps=4",
        "checkpoint.every=2", "training.validate_every=0", "scheduler.warmup_steps=1",
        "curriculum.spectrum_start=0", "curriculum.spectrum_full=1",
    ]  # fmt: skip
    ended = empty.launch(*small, module="train")
    assert ended.status == 0, ended.err
    point = ["branch.from_step=2", *(one for one in small if not one.startswith("training.steps"))]
    ended = empty.launch("-m", *point, "loss=buggy,fixed", module="train")
    assert ended.status == 0, ended.err
    control = empty.run("control-")
    assert digest(control, 4) == digest(empty.trunk, 4)
    assert empty.launcher("verify", control.id).status == 0


def test_a_misspelled_sibling_is_none() -> None:
    with pytest.raises(MissingConfigException, match="treatd"):
        composed("train", "arm=treatd")


@pytest.mark.parametrize(
    ("key", "meant"),
    [("launch.dry_run", "fanout.dry_run"), ("training.stepz", "training.steps"), ("tracker.wandb.on", None)],
)
def test_a_key_that_nobody_would_read_is_refused(key: str, meant: str | None) -> None:
    """With the plus that Hydra advises it would be in the config, and a dry run would be none."""
    with pytest.raises(ConfigError, match=f"The launcher has no key {key}") as caught:
        composed("train", f"+{key}=true")
    assert caught.value.do == ((f"{meant}=…",) if meant else ())
    with pytest.raises(ConfigCompositionException, match="To append") as by_hydra:
        composed("train", f"{key}=true")
    assert str(in_our_words(by_hydra.value)) == str(caught.value)


def test_an_override_that_hydra_cannot_read_is_named() -> None:
    typed = "branch.from_checkpoint=https://example.org/x.pt?signature=abc"
    with pytest.raises(OverrideParseException) as by_hydra:
        composed("train", typed)
    said = in_our_words(by_hydra.value)
    assert said is not None
    assert said.found == typed
    key, _, value = typed.partition("=")
    assert composed("train", f'{key}="{value}"').branch.from_checkpoint == value
    assert f"""'{key}="{value}"'""" in said.do[0]


def test_what_belongs_to_others_is_left_to_them() -> None:
    assert composed("train", "+optimizer.amsgrad=true").optimizer["amsgrad"] is True
    with pytest.raises(ConfigCompositionException) as by_hydra:
        composed("train", "optimizer.amsgrad=true")
    assert in_our_words(by_hydra.value) is None
