"""What was typed wins over what was restored, in whatever optimizer and schedule a script builds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import lr_scheduler as schedules

from launcher.errors import CheckpointError, ConfigError
from launcher.script.hyperparameters import fresh, new_schedules, settle
from launcher.script.parts import FRESH, Parts, collected
from launcher.script.schedules import counts_steps, position, put_behind, rates_behind, untouched

SCHEDULES: dict[str, Callable[[Optimizer, dict[str, Any]], Any]] = {
    "none": lambda optimizer, typed: None,
    "lambda": lambda optimizer, typed: schedules.LambdaLR(optimizer, lambda step: 0.9**step),
    "cosine": lambda optimizer, typed: schedules.CosineAnnealingLR(optimizer, typed.get("T_max", 20)),
    "cosine to a floor": lambda optimizer, typed: schedules.CosineAnnealingLR(optimizer, 20, eta_min=1e-3),
    "two at once": lambda optimizer, typed: schedules.ChainedScheduler(
        [schedules.ExponentialLR(optimizer, 0.9), schedules.LinearLR(optimizer, 0.1, total_iters=4)]
    ),
    "warm restarts": lambda optimizer, typed: schedules.CosineAnnealingWarmRestarts(optimizer, 4, 2),
    "step": lambda optimizer, typed: schedules.StepLR(optimizer, 3, typed.get("gamma", 0.5)),
    "one cycle": lambda optimizer, typed: schedules.OneCycleLR(
        optimizer, max_lr=10 * typed.get("lr", 0.01), total_steps=20
    ),
    "warm-up, then cosine": lambda optimizer, typed: schedules.SequentialLR(
        optimizer,
        [
            schedules.LinearLR(optimizer, 0.1, total_iters=4),
            schedules.CosineAnnealingLR(optimizer, typed.get("T_max", 16)),
        ],
        milestones=[4],
    ),
}


def built(schedule: str, **typed: Any) -> Parts:
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    groups = [
        {"params": [model.weight], "weight_decay": typed.get("weight_decay", 0.1)},
        {"params": [model.bias], "lr": 2 * typed.get("lr", 0.01)},
    ]
    optimizer = AdamW(groups, lr=typed.get("lr", 0.01), betas=typed.get("betas", (0.9, 0.99)))
    scheduler = SCHEDULES[schedule](optimizer, typed)
    given = {"optimizer": optimizer, "scheduler": scheduler}
    return collected(model, given, None, {}, lambda data: (data, None, ()))


def step(parts: Parts, count: int) -> list[list[float]]:
    rates = []
    for _ in range(count):
        parts.optimizers["optimizer"].zero_grad()
        parts.model(torch.ones(1, 2)).sum().backward()
        parts.optimizers["optimizer"].step()
        for one in parts.schedulers.values():
            one.step()
        rates.append([group["lr"] for group in parts.optimizers["optimizer"].param_groups])
    return rates


def branched(schedule: str, left_out: tuple[str, ...] = (), **typed: Any) -> tuple[Parts, Parts, list[str]]:
    """A trunk of six steps, a branch from there with what was typed, and the names of what was changed."""
    trunk = built(schedule)
    state = {FRESH: copy.deepcopy(fresh(trunk))}
    step(trunk, 6)
    state |= copy.deepcopy(trunk.state_dict())
    branch = built(schedule, **typed)
    own, new = fresh(branch), new_schedules(branch)
    restored = branch.load({key: value for key, value in state.items() if key not in left_out})
    return trunk, branch, settle(branch, own, state[FRESH], restored, new)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nothing_typed_changes_nothing(schedule: str) -> None:
    trunk, branch, changed = branched(schedule)
    assert changed == []
    assert step(branch, 6) == step(trunk, 6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_typed_rate_keeps_its_place_in_the_schedule(schedule: str) -> None:
    _, branch, changed = branched(schedule, lr=0.03)
    assert "optimizer.lr" in changed
    straight = built(schedule, lr=0.03)
    step(straight, 6)
    now, expected = (
        [group["lr"] for group in parts.optimizers["optimizer"].param_groups] for parts in (branch, straight)
    )
    assert now == expected
    assert step(branch, 6) == step(straight, 6)


def test_whatever_else_was_typed_is_in_the_groups() -> None:
    _, branch, changed = branched("cosine", weight_decay=0.3, betas=(0.8, 0.95))
    groups = branch.optimizers["optimizer"].param_groups
    assert set(changed) == {"optimizer.weight_decay", "optimizer.betas"}
    assert [group["weight_decay"] for group in groups] == [0.3, 0.01]
    assert [group["betas"] for group in groups] == [(0.8, 0.95)] * 2
    # What was restored and not typed stays.
    assert groups[0]["lr"] != groups[0]["initial_lr"] == 0.01


@pytest.mark.parametrize(
    ("schedule", "key"), [("cosine", "T_max"), ("warm-up, then cosine", "T_max"), ("step", "gamma")]
)
def test_a_typed_argument_of_the_schedule_takes_effect(schedule: str, key: str) -> None:
    trunk, branch, changed = branched(schedule, **{key: 0.9 if key == "gamma" else 40})
    assert changed == [f"scheduler.{key}"]
    assert step(branch, 3) != step(trunk, 3)


def test_a_schedule_that_starts_anew_begins_at_its_first_rate() -> None:
    _, branch, _ = branched("lambda", left_out=("scheduler_state_dict",), lr=0.03)
    assert branch.optimizers["optimizer"].param_groups[0]["lr"] == 0.03
    assert step(branch, 2) == step(built("lambda", lr=0.03), 2)


def test_a_new_optimizer_begins_at_its_place_in_the_schedule() -> None:
    trunk, branch, _ = branched("cosine", left_out=("optimizer_state_dict",))
    assert branch.optimizers["optimizer"].state == {}
    assert step(branch, 3) == step(trunk, 3)


def test_of_a_foreign_trunk_the_groups_themselves_tell() -> None:
    trunk = built("lambda")
    step(trunk, 6)
    state = copy.deepcopy(trunk.state_dict())
    branch = built("lambda", lr=0.03)
    own = fresh(branch)
    assert settle(branch, own, None, branch.load(state), {}) == ["optimizer.lr", "optimizer.lr"]
    assert branch.optimizers["optimizer"].param_groups[0]["lr"] == 0.03 * 0.9**6


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "none"])
def test_of_a_foreign_schedule_its_place_is_enough(schedule: str) -> None:
    trunk, branch = built(schedule), built(schedule)
    before = copy.deepcopy(branch.schedulers["scheduler"].state_dict())
    new = untouched(branch.schedulers["scheduler"])
    assert rates_behind(new, 6) == step(trunk, 6)[-1]
    assert branch.schedulers["scheduler"].state_dict() == before
    put_behind(branch.schedulers["scheduler"], position({"last_epoch": 6}, 20))
    own = fresh(branch)
    restored = branch.load(
        {"optimizer_state_dict": copy.deepcopy(trunk.state_dict()["optimizer_state_dict"])}
    )
    assert settle(branch, own, None, {*restored, "scheduler"}, {}) == []
    assert step(branch, 6) == step(trunk, 6)


def test_a_schedule_that_ends_before_its_place_is_refused() -> None:
    with pytest.raises(CheckpointError, match="shorter than what the checkpoint has behind it"):
        put_behind(built("one cycle").schedulers["scheduler"], 21)
    assert not counts_steps(schedules.ReduceLROnPlateau(SGD([torch.zeros(1, requires_grad=True)], lr=0.1)))


def test_two_optimizers_each_keep_their_own() -> None:
    def pair(rate: float) -> Parts:
        one, two = nn.Linear(2, 2), nn.Linear(2, 2)
        given = {"optimizer": SGD(one.parameters(), lr=0.1), "critic": two}
        given["critic_optimizer"] = SGD(two.parameters(), lr=rate)
        return collected(one, given, None, {}, lambda data: (data, None, ()))

    trunk, branch = pair(0.2), pair(0.4)
    own = fresh(branch)
    changed = settle(branch, own, fresh(trunk), branch.load(trunk.state_dict()), {})
    assert changed == ["critic_optimizer.lr"]
    assert torch.equal(branch.stateful["critic"].weight, trunk.stateful["critic"].weight)  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="other parts"):
        built("none").load(trunk.state_dict())


def test_what_has_no_state_is_refused() -> None:
    with pytest.raises(ConfigError, match="as scheduler that has no state"):
        collected(nn.Linear(1, 1), {"scheduler": lambda step: 1.0}, None, {}, lambda data: (data, None, ()))
