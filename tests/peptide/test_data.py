"""Batches are functions of (seed, step); held-out peptides stay out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.peptide import dataset
from launcher.peptide.config import MgfData, SyntheticData
from launcher.peptide.residues import unmodified
from launcher.training.task import Batch
from tests.peptide.nodes import mgf_file, plain, task

ONE = task()
SAME = task()


def equal(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@given(steps=st.lists(st.integers(0, 2**40), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_a_batch_depends_on_seed_and_step_alone(steps: list[int], seed: int) -> None:
    forwards = [ONE._dataset.batch(seed, step, 16) for step in steps]
    torch.manual_seed(0)
    np.random.seed(0)
    backwards = [SAME._dataset.batch(seed, step, 16) for step in reversed(steps)][::-1]
    assert all(map(equal, forwards, backwards))


@given(step=st.integers(0, 2**32), seed=st.integers(0, 2**32 - 2))
@settings(deadline=None, max_examples=30)
def test_other_steps_and_seeds_give_other_batches(step: int, seed: int) -> None:
    batch = ONE._dataset.batch(seed, step, 16)
    assert not equal(batch, ONE._dataset.batch(seed, step + 1, 16))
    assert not equal(batch, ONE._dataset.batch(seed + 1, step, 16))


def test_siblings_see_the_same_batch_whatever_their_loss_and_curriculum() -> None:
    sibling = task(loss={"water_on_y_ions": False}, curriculum={"initial_length": 6, "length_full": 10**6})
    assert equal(ONE.batch(15_001), sibling.batch(15_001))


def test_no_global_generator_is_touched() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    fresh = task()
    fresh.batch(1)
    model = fresh.build_model().eval()
    torch_after_model = torch.get_rng_state()
    with torch.no_grad():
        fresh.evaluate(model, 1, torch.device("cpu"))
    fresh.settings(1)
    assert torch.equal(torch.get_rng_state(), torch_after_model)
    assert np.random.get_state()[1].tolist() == numpy_state
    torch.set_rng_state(torch_state)


def peptides_of(part: Batch) -> set[str]:
    return {unmodified(row) for row in part["tokens"].numpy()}


def test_held_out_peptides_are_never_trained_on() -> None:
    data = dataset.load(SyntheticData(peptides=2_000, annotation_errors=0.0))
    training, held_out = peptides_of(data.training), peptides_of(data.validation)
    assert not training & held_out
    assert 100 < len(held_out) < 300


def test_a_peptide_is_held_out_in_every_modification_and_every_file(tmp_path: Path) -> None:
    one = dataset.load(MgfData(path=str(mgf_file(tmp_path / "a.mgf")), validation_share=0.4))
    two = dataset.load(
        MgfData(
            path=str(mgf_file(tmp_path / "b.mgf", (tmp_path / "a.mgf").read_text())), validation_share=0.4
        )
    )
    assert peptides_of(one.validation) == peptides_of(two.validation)
    assert not peptides_of(two.training) & peptides_of(two.validation)
    assert len(two.validation["charge"]) == 2 * len(one.validation["charge"])


@pytest.mark.parametrize("share", [1e-6, 1 - 1e-6])
def test_neither_part_is_empty(tmp_path: Path, share: float) -> None:
    data = dataset.load(MgfData(path=str(mgf_file(tmp_path / "a.mgf")), validation_share=share))
    assert len(data.training["charge"])
    assert len(data.validation["charge"])


def test_only_training_annotations_are_wrong() -> None:
    right = dataset.load(SyntheticData(peptides=500, annotation_errors=0.0))
    wrong = dataset.load(SyntheticData(peptides=500, annotation_errors=1.0))
    assert equal(right.validation, wrong.validation)
    assert torch.equal(right.training["mz"], wrong.training["mz"])
    assert not torch.equal(right.training["tokens"], wrong.training["tokens"])
    assert torch.equal(right.training["tokens"].sort().values, wrong.training["tokens"].sort().values)


def test_the_fingerprint_follows_what_decides_the_batches(tmp_path: Path) -> None:
    def of(**data: object) -> str:
        return task(data=data).fingerprint()

    assert of() == of() == task(seed=5).fingerprint()
    assert of(validation_size=3, label="x") == of()
    for change in ({"batch_size": 8}, {"peaks": 9}, {"simulation_seed": 1}, {"validation_share": 0.2}):
        assert of(**change) != of()
    first = mgf_file(tmp_path / "a.mgf")
    copied = shutil.copy(first, tmp_path / "b.mgf")
    changed = mgf_file(tmp_path / "c.mgf", "\n")
    digests = [of(source="mgf", path=str(path)) for path in (first, copied, changed)]
    assert digests[0] == digests[1] != digests[2]


def test_asking_reads_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(config: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr(dataset, "load", refused)
    asked = task()
    asked.build_model()
    asked.settings(15_000)
    asked.fingerprint()
    asked.stateful()


def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mgf_file(tmp_path / "a.mgf")
    monkeypatch.chdir(tmp_path)
    assert task(data={"source": "mgf", "path": "a.mgf"}).batch(1)
    assert plain()["data"]["source"] == "synthetic"
