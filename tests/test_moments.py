"""An optimizer's state that others saved: of which parameters it is, in what shape, and how sound."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from launcher.branch.moments import held, lost, misfits
from launcher.checkpoint.formats.known import described, inspect
from tests.conftest import TrunkOf
from tests.tiny_process import Tiny

OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], Optimizer]] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, amsgrad=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, centered=True, momentum=0.9),
    "Rprop": torch.optim.Rprop,
    "NAdam": torch.optim.NAdam,
    "ASGD": torch.optim.ASGD,
    "Adafactor": torch.optim.Adafactor,
    "LBFGS": torch.optim.LBFGS,
}


class Net(nn.Module):
    """Parameters of no, one and two dimensions, one of a single element, one frozen, one of another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.one = nn.Linear(2, 1)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.wide = nn.Parameter(torch.ones(4, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.one(self.linear(inputs)).sum() * self.scale + self.wide.sum()
        return output


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_kept_itself_is_whole(name: str, tmp_path: Path) -> None:
    """Of each of PyTorch's, saved after a step and held against a new one on the meta device."""
    model = Net()
    optimizer = OPTIMIZERS[name](model.parameters())
    loss = model(torch.ones(4, 3))
    loss.backward()
    optimizer.step(loss.item)
    path = tmp_path / "c.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}, path)
    with torch.device("meta"):
        again = Net()
    parameters = held(
        inspect(path).state["optimizer_state_dict"]["state"], again, OPTIMIZERS[name](again.parameters())
    )
    assert (len(parameters), lost(parameters), misfits(parameters)) == (6, [], [])
    assert described(path).unsound == ()


Save = Callable[..., list[str]]


@pytest.fixture(scope="module")
def trunk(trunks: TrunkOf) -> Tiny:
    return trunks("task._target_=tests.tiny_variants.StatelessTask")


@pytest.fixture
def saved(trunk: Tiny, tmp_path: Path) -> Save:
    """The trunk's checkpoint without its manifest and under other people's keys, its optimizer changed."""
    from launcher.layout import checkpoint_file

    state = torch.load(trunk.trunk.directory.checkpoints / checkpoint_file(20), weights_only=True)

    def save(change: Callable[[dict[str, Any]], object], scheduler: Any = None) -> list[str]:
        optimizer = copy.deepcopy(state["optimizer_state_dict"])
        change(optimizer)
        path = tmp_path / "changed.pt"
        torch.save(
            {
                "model": state["model_state_dict"],
                "optimizer": optimizer,
                "iter_num": 20,
                "rng": state["rng_state"],
                "scheduler": {**state["scheduler_state_dict"], **(scheduler or {})},
            },
            path,
        )
        return ["+branch=foreign", f"branch.from_checkpoint={path}", "branch.steps=2"]

    return save


def test_state_of_some_parameters_only_is_no_exact_branch_point(saved: Save, empty: Tiny) -> None:
    typed = saved(lambda optimizer: [optimizer["state"].pop(number) for number in (0, 3)])
    said = "no optimizer state of 2 of 6 parameters (0.weight, 1.bias)"
    ended = empty.refuse(*typed)
    assert said in ended.said
    assert "branch.require=state" in ended.said
    run = empty.train(*typed, "branch.require=state")
    assert f"{said} in the checkpoint" in [one["found"] for one in run.record.findings]
    # What is not taken over is not asked for.
    assert "optimizer state" not in str(
        empty.train(*typed, "branch.reset=[optimizer,scheduler]").record.findings
    )


def test_no_state_at_all_is_no_optimizer(saved: Save, empty: Tiny) -> None:
    typed = saved(lambda optimizer: optimizer["state"].clear())
    assert "has no optimizer" in empty.refuse(*typed, "branch.require=state").said


FAULTS: dict[str, tuple[Callable[[dict[int, Any]], object], str]] = {
    "shape": (
        lambda state: state[0].update(exp_avg=torch.zeros(3, 3)),
        "exp_avg of 0.weight: float32[3, 3], here float32[16, 8]",
    ),
    "order": (
        lambda state: state.update({0: state[4], 4: state[0]}),
        "exp_avg of 0.weight: float32[4, 16], here float32[16, 8]",
    ),
    "absent": (lambda state: state[1].pop("exp_avg_sq"), "exp_avg_sq of 0.bias: absent, here float32[16]"),
    "count": (lambda state: state[1].pop("step"), "step of 0.bias: absent, here a number"),
    "counts": (lambda state: state[1].update(step=torch.ones(3)), "step of 0.bias: float32[3], here a num"),
    "whole": (
        lambda state: state[1].update(exp_avg=torch.zeros(16, dtype=torch.int64)),
        "exp_avg of 0.bias: int64[16], here float32[16]",
    ),
    "precision": (
        lambda state: state[0].update(exp_avg=state[0]["exp_avg"].double()),
        "no optimizer state of this run's precision (exp_avg float64, here float32)",
    ),
    "nan": (lambda state: state[0]["exp_avg"][2].fill_(float("nan")), "exp_avg is not finite, of 1"),
    "infinite": (lambda state: state[1]["exp_avg_sq"][2].fill_(float("inf")), "exp_avg_sq is not finite"),
    "negative": (lambda state: state[1]["step"].fill_(-3), "step -3.0, which is no count, of 1 parameter"),
    "fraction": (lambda state: state[1].update(step=2.5), "step 2.5, which is no count"),
    "number": (lambda state: state.update({0: 7}), "no optimizer state of 1 of 6 parameters (0.weight)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_state_that_cannot_be_gone_on_from_is_a_finding(fault: str, saved: Save, empty: Tiny) -> None:
    change, said = FAULTS[fault]
    ended = empty.refuse(*saved(lambda optimizer: change(optimizer["state"])))
    assert said in ended.said


GROUPS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "switch": (
        lambda one: one["param_groups"][0].update(amsgrad=True),
        "max_exp_avg_sq of 0.weight: absent, here float32[16, 8]",
    ),
    "members": (lambda one: one["param_groups"][0].pop("params"), "no optimizer"),
    "number": (lambda one: one["param_groups"][0].update(params=7), "no optimizer"),
    "fewer": (lambda one: one["param_groups"][0]["params"].pop(), "no optimizer"),
    "more": (
        lambda one: one["param_groups"].append({**one["param_groups"][0], "params": []}),
        "keep the trunk's optimizer, or start a new one: branch.reset=[optimizer,scheduler]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", GROUPS)
def test_groups_that_are_not_this_runs_are_a_finding(fault: str, saved: Save, empty: Tiny) -> None:
    change, said = GROUPS[fault]
    assert said in empty.refuse(*saved(change)).said


def test_a_schedule_of_epochs_is_told_of(saved: Save, empty: Tiny) -> None:
    def whole(optimizer: dict[str, Any]) -> None:
        pass

    said = "its schedule stands at 2, its step is 20"
    assert said in str(empty.train(*saved(whole, {"last_epoch": 2})).record.findings)
    ended = empty.launch(*saved(whole, {"base_lrs": [1.0, 2.0, 3.0]}), "branch.name=three")
    assert (ended.status, "Traceback" in ended.err) == (2, False)
    assert "base rates of 3 groups, and the optimizer has 1" in ended.said
