"""The task as the loop and preflight use it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from launcher.config import Config
from launcher.errors import ConfigError
from launcher.peptide.objective import judged
from launcher.peptide.residues import VOCABULARY, is_residue
from launcher.peptide.spectrum_loss import SpectrumLoss
from launcher.peptide.task import PeptideTask
from launcher.training.task import Batch
from tests.peptide.nodes import plain, task

LATE = 20_000
LOSSES: dict[str, dict[str, Any]] = {
    "fixed": {},
    "buggy": {"water_on_y_ions": False},
    "none": {"weight": 0.0},
}


def gradient(of: PeptideTask, batch: Batch, step: int) -> list[Tensor]:
    torch.manual_seed(0)
    model = of.build_model()
    total, _ = of.loss(model, batch, step)
    return list(torch.autograd.grad(total, list(model.parameters())))


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def test_metrics() -> None:
    one = task()
    total, metrics = one.loss(one.build_model(), one.batch(1), LATE)
    assert set(metrics) == {"total_loss", "cross_entropy", "spectrum_loss", "token_accuracy"}
    assert total.requires_grad
    assert not any(value.requires_grad for value in metrics.values())
    weight = Config.from_plain(plain()).loss["weight"]
    assert float(metrics["total_loss"]) == pytest.approx(
        float(metrics["cross_entropy"]) + weight * float(metrics["spectrum_loss"]), rel=1e-5
    )


def test_losses_differ_once_the_curriculum_brings_them_in() -> None:
    batch = task().batch(1)
    late = {name: gradient(task(loss=loss), batch, LATE) for name, loss in LOSSES.items()}
    assert not same(late["fixed"], late["buggy"])
    assert not same(late["fixed"], late["none"])
    early = {name: gradient(task(loss=loss), batch, 1) for name, loss in LOSSES.items()}
    assert same(early["fixed"], early["buggy"])
    assert same(early["fixed"], early["none"])


def test_settings_tell_just_that() -> None:
    tasks = {name: task(loss=loss) for name, loss in LOSSES.items()}
    early = [one.settings(1) for one in tasks.values()]
    assert early[0] == early[1] == early[2]
    late = {name: one.settings(LATE) for name, one in tasks.items()}
    differing = {key for key in late["fixed"] if late["fixed"][key] != late["buggy"][key]}
    assert differing == {"loss.water_on_y_ions"}
    assert set(late["fixed"]) - set(late["none"]) == {
        "curriculum.spectrum_share",
        "loss.weight",
        "loss.water_on_y_ions",
        "loss.peak_width",
    }


def test_settings_have_the_seed_and_the_model_and_no_names() -> None:
    settings = task(seed=7, loss={"label": "x", "facts": {"a": 1}}).settings(LATE)
    assert settings["seed"] == 7
    assert settings["model.width"] == 8
    assert not any(key.endswith((".label", ".facts")) for key in settings)
    assert settings == task(seed=7, loss={"label": "y"}).settings(LATE)


def test_curricula_that_have_ended_compute_the_same() -> None:
    early = task(curriculum={"length_start": 1, "length_full": 2, "spectrum_start": 1, "spectrum_full": 2})
    assert early.settings(LATE) == task().settings(LATE)
    assert early.settings(100) != task().settings(100)


def test_longer_peptides_do_not_count_before_their_time() -> None:
    short = task(curriculum={"initial_length": 8, "length_start": 10, "length_full": 20})
    batch = dict(short.batch(1))
    lengths = is_residue(batch["tokens"]).sum(dim=1)
    only_short = {name: values[lengths <= 8] for name, values in batch.items()}
    assert 0 < len(only_short["tokens"]) < len(batch["tokens"])
    model = short.build_model().eval()
    found, expected = (short.loss(model, each, 1)[1] for each in (batch, only_short))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=name)
    everything, later = short.loss(model, batch, 1)[0], short.loss(model, batch, 20)[0]
    assert everything != later


def test_a_batch_without_a_short_enough_peptide_is_no_accident() -> None:
    none_short = task(curriculum={"initial_length": 1, "length_start": 10, "length_full": 20})
    total, metrics = none_short.loss(none_short.build_model(), none_short.batch(1), 1)
    assert float(total.detach()) == 0.0
    total.backward()
    assert all(bool(torch.isfinite(value)) for value in metrics.values())


def test_siblings_are_evaluated_alike() -> None:
    metrics = []
    for loss in LOSSES.values():
        one = task(loss=loss)
        torch.manual_seed(0)
        with torch.no_grad():
            metrics.append(one.evaluate(one.build_model().eval(), LATE, torch.device("cpu")))
    assert metrics[0] == metrics[1] == metrics[2]
    assert metrics[0]["total_loss"] == metrics[0]["cross_entropy"] + metrics[0]["spectrum_loss"]
    assert set(metrics[0]) >= {"token_accuracy", "peptide_accuracy"}


def test_the_model_is_built_without_values_and_filled() -> None:
    one = task()
    model = one.build_model().eval()
    with torch.device("meta"):
        empty = one.build_model()
    assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
    empty.load_state_dict(model.state_dict(), assign=True)
    empty.eval()
    with torch.no_grad():
        expected = one.loss(model, one.batch(1), LATE)[0]
        assert torch.equal(one.loss(empty, one.batch(1), LATE)[0], expected)


def test_a_state_dict_is_everything() -> None:
    model = task().build_model()
    in_state = {*model.state_dict()}
    assert {name for name, _ in model.named_buffers()} <= in_state


def test_dropout_draws_and_evaluation_does_not() -> None:
    one = task(model={"dropout": 0.5})
    model, batch = one.build_model(), one.batch(1)
    with torch.no_grad():
        assert not torch.equal(one.loss(model, batch, 1)[0], one.loss(model, batch, 1)[0])
        model.eval()
        assert torch.equal(one.loss(model, batch, 1)[0], one.loss(model, batch, 1)[0])


def test_later_residues_and_padding_are_not_seen() -> None:
    one = task()
    model = one.build_model().eval()
    batch = {name: values.clone() for name, values in one.batch(1).items()}
    changed = copy.deepcopy(batch)
    changed["previous"][:, 5:] = 4
    changed["prefix_mass"][:, 5:] += 100.0
    nothing = batch["intensity"] == 0
    assert nothing.any()
    changed["mz"][nothing] = 333.0
    names = ("mz", "intensity", "precursor_mass", "charge", "previous", "prefix_mass")
    with torch.no_grad():
        a, b = (model(*(each[name] for name in names)) for each in (batch, changed))
    torch.testing.assert_close(a[:, :5], b[:, :5])
    assert not torch.allclose(a[:, 5:], b[:, 5:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_masses_exact(dtype: torch.dtype) -> None:
    one = task()
    model, batch = one.build_model().eval(), one.batch(1)
    _, full = one.loss(model, batch, LATE)
    with torch.autocast("cpu", dtype=dtype):
        total, half = one.loss(model, batch, LATE)
    assert total.dtype == torch.float32
    total.backward()
    assert float(half["spectrum_loss"]) == pytest.approx(float(full["spectrum_loss"]), abs=2e-3)


def test_nothing_is_judged_under_autocast() -> None:
    one = task()
    batch = one.batch(1)
    logits = torch.zeros(*batch["tokens"].shape, len(VOCABULARY), dtype=torch.bfloat16)
    seen = []

    class Watching(SpectrumLoss):
        def __call__(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
            seen.append((torch.is_autocast_enabled("cpu"), logits.dtype))
            return super().__call__(logits, batch)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        judged(logits, batch, batch["charge"] > 0, Watching(True, 0.2), train=False)
    assert seen == [(False, torch.float32)]


def test_steps_are_deterministic_algorithms() -> None:
    one = task()
    torch.use_deterministic_algorithms(True)
    try:
        assert same(gradient(one, one.batch(3), LATE), gradient(one, one.batch(3), LATE))
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_right_loss_wins_and_the_bug_costs() -> None:
    """A few hundred steps, no cross-entropy to speak of: what the spectrum loss alone teaches."""
    data = {"peptides": 500, "missing_fragments": 0.0, "noise_peaks": 0, "batch_size": 32}
    curriculum = {"initial_length": 12, "length_start": 0, "length_full": 0, "spectrum_start": 0}
    found = {}
    for name in ("fixed", "buggy"):
        one = task(
            loss={**LOSSES[name], "weight": 1_000.0},
            data=data,
            curriculum={**curriculum, "spectrum_full": 0},
            model={"width": 32, "heads": 4, "feed_forward": 32},
        )
        torch.manual_seed(0)
        model = one.build_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(1, 301):
            optimizer.zero_grad()
            one.loss(model, one.batch(step), step)[0].backward()
            optimizer.step()
        with torch.no_grad():
            found[name] = one.evaluate(model.eval(), 300, torch.device("cpu"))
    assert found["fixed"]["spectrum_loss"] < found["buggy"]["spectrum_loss"] - 0.05
    assert found["fixed"]["token_accuracy"] > found["buggy"]["token_accuracy"]


@pytest.mark.parametrize(
    ("nodes", "key"),
    [
        ({"data": {"batch_size": 0}}, "data.batch_size"),
        ({"data": {"missing_fragments": 1.0}}, "data.missing_fragments"),
        ({"data": {"mass_error": float("nan")}}, "data.mass_error"),
        ({"data": {"min_length": 9, "max_length": 8}}, "data.min_length"),
        ({"data": {"source": "nowhere"}}, "data.source"),
        ({"data": {"source": "mgf"}}, "data.path"),
        ({"data": {"source": "fasta", "path": "???"}}, "data.path"),
        ({"data": {"batchsize": 3}}, "data.batchsize"),
        ({"data": {"batch_size": "many"}}, "data.batch_size"),
        ({"model": {"width": 30}}, "model.width"),
        ({"model": {"heads": 3}}, "model.width"),
        ({"model": {"dropout": 1.0}}, "model.dropout"),
        ({"model": {"shortest_wavelength": 5000.0}}, "model.shortest_wavelength"),
        ({"loss": {"weight": -1.0}}, "loss.weight"),
        ({"loss": {"water_on_y_ions": "wet"}}, "loss.water_on_y_ions"),
        ({"curriculum": {"spectrum_start": 9, "spectrum_full": 8}}, "curriculum.spectrum_start"),
        ({"curriculum": {"length_start": -1}}, "curriculum.length_start"),
    ],
)
def test_a_value_that_cannot_be_meant_is_named(nodes: dict[str, dict[str, Any]], key: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        task(**nodes)
    assert key in str(refusal.value)
