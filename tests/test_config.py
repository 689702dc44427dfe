"""Values and combinations that cannot be meant are refused before anything starts, by their dotted key."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from launcher import config
from launcher.config import BranchConfig, Config
from launcher.errors import ConfigError
from launcher.validation import CHOICES, value_at

TASK = {"task": {"_target_": "tests.tiny_task.TinyTask"}}


def made(**plain: Any) -> Config:
    return Config.from_plain({**TASK, **plain})


def refused(**plain: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        made(**plain)
    assert caught.value.exit_status == 2
    return str(caught.value)


POINT = {"from_step": 20}


@pytest.mark.parametrize(
    ("branch", "named"),
    [
        ({"from_run": "a", "from_checkpoint": "b"}, ["branch.from_run", "branch.from_checkpoint"]),
        ({**POINT, "restore": "weights", "reset": ["optimizer"]}, ["branch.restore=weights", "branch.reset"]),
        ({**POINT, "restore": "weights", "reset": ["rng"]}, ["branch.restore=weights", "branch.reset"]),
        ({**POINT, "include": ["encoder.*"]}, ["branch.include", "branch.restore=weights"]),
        ({**POINT, "exclude": ["head.*"]}, ["branch.exclude", "branch.restore=weights"]),
        ({**POINT, "schedule": "restart", "reset": ["scheduler"]}, ["branch.schedule", "branch.reset"]),
        ({**POINT, "reset": ["rng", "rng"]}, ["branch.reset", "twice"]),
        ({**POINT, "sha256": "abc"}, ["branch.sha256"]),
        ({**POINT, "sha256": "G" * 64}, ["branch.sha256"]),
        ({**POINT, "steps": 0}, ["branch.steps"]),
        ({"from_step": -1}, ["branch.from_step"]),
        ({**POINT, "restore": "some"}, ["branch.restore", "full | weights"]),
        ({**POINT, "reset": ["optimiser"]}, ["branch.reset", "optimizer"]),
        ({**POINT, "step_mode": "restart"}, ["branch.step_mode", "continue | reset"]),
        ({**POINT, "schedule": "cosine"}, ["branch.schedule", "keep | restart"]),
        ({**POINT, "require": "all"}, ["branch.require", "exact | state | weights"]),
        ({**POINT, "on_unavailable": "ignore"}, ["branch.on_unavailable", "error | scratch"]),
    ],
)
def test_a_branch_that_cannot_be_meant(branch: dict[str, Any], named: list[str]) -> None:
    message = refused(branch=branch)
    assert [name for name in named if name not in message] == []


SET_ALONE = {
    "name": "x", "restore": "weights", "reset": ["rng"], "include": ["a"], "exclude": ["a"],
    "rename": {"a": "b"}, "step_mode": "reset", "steps": 5, "schedule": "restart",
    "on_unavailable": "scratch", "require": "state", "allow_globals": ["a.B"],
    "sha256": "0" * 64, "compare_to": "x",
}  # fmt: skip


@pytest.mark.parametrize("key", SET_ALONE)
def test_a_branch_without_a_branch_point(key: str) -> None:
    """``branch.restore=weights`` with the branch point forgotten would train a trunk."""
    branch = {key: SET_ALONE[key]}
    if key in ("include", "exclude", "rename"):
        branch["restore"] = "weights"
    message = refused(branch=branch)
    assert "no branch point is named" in message
    assert "branch.from_step" in message
    assert made(branch={**branch, **POINT}).branch.asked


def test_every_key_of_branch_was_thought_of() -> None:
    points = {"from_step", "from_run", "from_checkpoint", "mirrors"}
    of_any_run = {"notes", "tags"}
    assert {one.name for one in fields(BranchConfig)} == points | of_any_run | SET_ALONE.keys()
    assert not made(branch={"notes": "n", "tags": ["t"]}).branch.asked


@pytest.mark.parametrize(
    ("plain", "named"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"seed": "one"}, "seed"),
        ({"threads": 0}, "threads"),
        ({"training": {"steps": 0}}, "training.steps"),
        ({"training": {"steps": 1.5}}, "training.steps"),
        ({"training": {"steps": 10**30}}, "training.steps"),
        ({"branch": {"from_step": 10**30}}, "branch.from_step"),
        ({"checkpoint": {"every": 2**53 + 1}}, "checkpoint.every"),
        ({"training": {"log_every": 0}}, "training.log_every"),
        ({"training": {"validate_every": -1}}, "training.validate_every"),
        ({"training": {"gradient_clip": -0.1}}, "training.gradient_clip"),
        ({"training": {"stepz": 3}}, "stepz"),
        ({"checkpoint": {"every": 0}}, "checkpoint.every"),
        ({"checkpoint": {"keep_last": 0}}, "checkpoint.keep_last"),
        ({"checkpoint": {"keep_every": 0}}, "checkpoint.keep_every"),
        ({"checkpoint": {"best_mode": "avg"}}, "checkpoint.best_mode"),
        ({"device": "gpu"}, "device"),
        ({"precision": "fp64"}, "precision"),
        ({"tracker": {"wandb": {"mode": "on"}}}, "tracker.wandb.mode"),
        ({"deterministic": "perhaps"}, "deterministic"),
        ({"no_such": 1}, "no_such"),
        ({"branch": {"from_step": "many"}}, "branch.from_step"),
    ],
)
def test_a_value_that_cannot_be_meant(plain: dict[str, Any], named: str) -> None:
    assert named in refused(**plain)


def test_the_defaults_are_valid_and_survive_a_round() -> None:
    from launcher.differences import plain

    one = made()
    assert Config.from_plain(plain(one)) == one
    full = made(branch={**POINT, "tags": ["a"]}, tracker={"wandb": {"mode": "offline"}}, model={"width": 3})
    assert Config.from_plain(plain(full)) == full


@pytest.mark.parametrize("key", CHOICES)
def test_every_choice_is_accepted_and_its_default_is_one(key: str) -> None:
    default = value_at(made(tracker={"wandb": {}}), key)
    assert default in (*CHOICES[key], [])


def nodes(cls: type[Any]) -> list[type[Any]]:
    found = [cls]
    for hint in get_type_hints(cls).values():
        for one in (hint, *getattr(hint, "__args__", ())):
            if is_dataclass(one) and isinstance(one, type):
                found += nodes(one)
    return found


def test_every_field_says_what_it_means() -> None:
    source = Path(config.__file__).read_text(encoding="utf-8")
    undocumented = [
        f"{node.__name__}.{one.name}"
        for node in nodes(Config)
        for one in fields(node)
        if not re.search(rf'^    {one.name}: .*?\n    """\S', source, re.MULTILINE)
        and one.name not in of_own_class()
    ]
    assert undocumented == []


def of_own_class() -> set[str]:
    """Fields that are nodes of their own; their class says what they mean."""
    nodes = {"task", "training", "checkpoint", "branch", "fanout", "launch", "paths"}
    return nodes | {"tracker", "tracking", "wandb", "tensorboard", "mlflow", "trackio"}
