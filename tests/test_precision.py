"""Controls are exact in every precision, with the gradient scaler in the state, and on a GPU where one is."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from launcher.checkpoint.reader import read_state
from launcher.layout import checkpoint_file
from launcher.lineage import Run
from tests import tiny_faults
from tests.tiny_faults import Kill
from tests.tiny_process import Tiny, digest, manifests, metrics

POINT = "branch.from_step=20"


def scaler(run: Run, step: int = 40) -> dict[str, Any]:
    state: dict[str, Any] = read_state(run.directory.checkpoints / checkpoint_file(step))["scaler_state_dict"]
    return state


@pytest.fixture(scope="module", params=["bf16", "fp16"])
def low(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, str]:
    """A trunk in low precision."""
    tiny = Tiny(tmp_path_factory.mktemp(request.param))
    precision = f"precision={request.param}"
    tiny.train(precision)
    return tiny, precision


def test_a_control_is_exact(low: tuple[Tiny, str], trained: Tiny) -> None:
    tiny, precision = low
    control = tiny.train(POINT, precision)
    assert control.record.branch_type == "control"
    assert digest(control) == digest(tiny.trunk)
    assert metrics(control)[40]["train/error"] == metrics(tiny.trunk)[40]["train/error"]
    assert digest(tiny.trunk) != digest(trained.trunk)


def test_a_killed_run_resumes_exactly(low: tuple[Tiny, str], empty: Tiny) -> None:
    tiny, precision = low
    for step, name in ((17, "SIGTERM"), (29, "SIGKILL")):
        empty.launch(precision, prepare=[Kill(step, name)])
    run = empty.train(precision)
    assert digest(run) == digest(tiny.trunk)
    assert metrics(run) == metrics(tiny.trunk)


def test_the_weights_stay_in_full_precision(low: tuple[Tiny, str]) -> None:
    tiny, _ = low
    model = [one for one in manifests(tiny.trunk)[40].tensors if one.name.startswith("model_state_dict.")]
    assert {one.dtype for one in model} == {"float32", "int64"}


def test_the_scaler_is_in_the_state_where_there_is_one(low: tuple[Tiny, str]) -> None:
    tiny, precision = low
    state = scaler(tiny.trunk)
    if precision == "precision=bf16":
        assert state == {}
        return
    assert state["scale"] > 0
    assert state["_growth_tracker"] == scaler(tiny.trunk, 20)["_growth_tracker"] + 20


def test_a_scaler_that_is_not_restored_would_show(low: tuple[Tiny, str]) -> None:
    tiny, precision = low
    if precision == "precision=bf16":
        assert scaler(tiny.trunk) == {}
        return
    lossy = [partial(tiny_faults.after_restoring, tiny_faults.other_scale)]
    branch = tiny.train(POINT, precision, "branch.steps=19", prepare=lossy)
    verdict = tiny.launcher("verify", branch.id)
    assert verdict.status == 3
    assert "optimizer, at step 20, in scaler_state_dict" in verdict.out


def test_a_step_that_overflows_is_skipped_and_repeats(empty: Tiny) -> None:
    """Of a loss that is too large for fp16 the scaler skips the step; a control skips the same one."""
    huge = [tiny_faults.huge_scale]
    trunk = empty.train("precision=fp16", "training.steps=20", prepare=huge)
    scales = [scaler(trunk, step)["scale"] for step in (10, 20)]
    assert scales[0] < 2.0**60
    control = empty.train("branch.from_step=10", "precision=fp16", prepare=huge)
    assert digest(control, 20) == digest(trunk, 20)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_another_precision_is_a_factor_like_any_other(tiny: Tiny, precision: str) -> None:
    branch = tiny.train(POINT, f"precision={precision}")
    assert branch.record.differences == {"precision": ["fp32", precision]}
    assert digest(branch) != digest(tiny.trunk)


def test_back_to_full_precision_the_scaler_is_gone(empty: Tiny) -> None:
    empty.train("precision=fp16")
    branch = empty.train(POINT, "precision=fp32")
    assert scaler(branch) == {}


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has a CUDA device, so asking for one is right"
)
def test_a_gpu_that_is_not_there_is_refused_readably(tiny: Tiny) -> None:
    for point in ([], [POINT]):
        ended = tiny.refuse(*point, "device=cuda", "seed=1")
        assert "device=cuda" in ended.err
        assert "device=cpu" in ended.err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here; exactness on one needs one")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_a_control_and_a_resumed_run_are_exact(empty: Tiny, precision: str) -> None:
    typed = ["device=cuda", f"precision={precision}"]
    trunk = empty.train(*typed)
    assert trunk.record.environment["device"] != "cpu"
    assert digest(empty.train(POINT, *typed)) == digest(trunk)
    again = Tiny(empty.outputs.parent / "again")
    assert again.launch(*typed, prepare=[Kill(23, "SIGTERM")]).status == 143
    assert digest(again.train(*typed)) == digest(trunk)
