"""The spectrum loss against pyteomics' fragments and against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyteomics import mass
from torch import Tensor

from launcher.peptide.notation import read_peptide
from launcher.peptide.residues import END_TOKEN, TOKEN, TOKEN_MASSES, is_residue
from launcher.peptide.spectra import peptide_masses, prefix_masses, token_matrix
from launcher.peptide.spectrum_loss import SpectrumLoss

RIGHT = SpectrumLoss(water_on_y_ions=True, peak_width=0.2)
BUGGY = SpectrumLoss(water_on_y_ions=False, peak_width=0.2)
WATER = mass.calculate_mass(formula="H2O")
peptides = st.text(alphabet="GASPVTCLNDQKEMHFRYW", min_size=2, max_size=15)


def spectrum(*written: str) -> dict[str, Tensor]:
    """A batch of spectra with a peak of full height at every b- and y-ion, by pyteomics."""
    tokens = token_matrix([read_peptide(one) for one in written])
    mz = np.zeros((len(written), 2 * max(map(len, written))))
    for row, one in zip(mz, written, strict=True):
        cuts = range(1, len(one))
        ions = [mass.fast_mass(one[:cut], ion_type="b", charge=1) for cut in cuts]
        ions += [mass.fast_mass(one[cut:], ion_type="y", charge=1) for cut in cuts]
        row[: len(ions)] = ions
    return {
        "mz": torch.from_numpy(mz),
        "intensity": torch.from_numpy((mz > 0).astype(np.float64)),
        "precursor_mass": torch.from_numpy(peptide_masses(tokens)),
        "prefix_mass": torch.from_numpy(prefix_masses(tokens)),
        "tokens": torch.from_numpy(tokens),
    }


def certain(tokens: Tensor) -> Tensor:
    """Logits of a model that is sure of ``tokens``."""
    return torch.nn.functional.one_hot(tokens, len(TOKEN_MASSES)).double() * 100.0


@given(peptides)
@settings(deadline=None)
def test_fragments_are_those_of_pyteomics(peptide: str) -> None:
    batch = spectrum(peptide)
    b, y = RIGHT.fragments(batch["prefix_mass"], batch["precursor_mass"])
    for place, letter in enumerate(peptide[:-1]):
        left, right = peptide[: place + 1], peptide[place + 1 :]
        found = b[0, place, TOKEN[letter]], y[0, place, TOKEN[letter]]
        assert float(found[0]) == pytest.approx(mass.fast_mass(left, ion_type="b", charge=1), abs=1e-6)
        assert float(found[1]) == pytest.approx(mass.fast_mass(right, ion_type="y", charge=1), abs=1e-6)


@given(peptides)
@settings(deadline=None)
def test_the_bug_is_the_mass_of_water_on_y_ions_and_nothing_else(peptide: str) -> None:
    batch = spectrum(peptide)
    right_b, right_y = RIGHT.fragments(batch["prefix_mass"], batch["precursor_mass"])
    buggy_b, buggy_y = BUGGY.fragments(batch["prefix_mass"], batch["precursor_mass"])
    assert torch.equal(right_b, buggy_b)
    assert pytest.approx(18.0106, abs=5e-5) == WATER
    torch.testing.assert_close(right_y - buggy_y, torch.full_like(right_y, WATER), rtol=0, atol=1e-9)


@given(peptides)
@settings(deadline=None)
def test_the_right_peptide_has_no_loss_and_with_the_bug_it_has(peptide: str) -> None:
    batch = spectrum(peptide)
    loss, bonds = RIGHT(certain(batch["tokens"]), batch)
    assert bonds.sum() == len(peptide) - 1
    assert float((loss * bonds).abs().max()) < 1e-6
    assert float(RIGHT(certain(torch.full_like(batch["tokens"], END_TOKEN)), batch)[0].min()) == 1.0


def test_with_the_bug_the_right_peptide_loses_its_y_ions() -> None:
    batch = spectrum("PEPTGDEK")
    batch["intensity"] = batch["intensity"] * 0.5
    right, bonds = RIGHT(certain(batch["tokens"]), batch)
    buggy, _ = BUGGY(certain(batch["tokens"]), batch)
    assert right[bonds].abs().max() < 1e-6
    assert buggy[bonds] == pytest.approx(0.5, abs=0.01)


def test_gradient_against_finite_differences() -> None:
    batch = spectrum("PEPTK", "SAMPLER")
    generator = torch.Generator().manual_seed(0)
    batch["mz"] = batch["mz"] + 0.15 * torch.randn(
        batch["mz"].shape, generator=generator, dtype=torch.float64
    )
    shape = (*batch["tokens"].shape, len(TOKEN_MASSES))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    for loss in (RIGHT, BUGGY):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, batch)[0], (logits,), atol=1e-8)


def test_gradient_is_the_one_in_the_docstring() -> None:
    batch = spectrum("PEPTK")
    logits = torch.randn(1, 6, len(TOKEN_MASSES), dtype=torch.float64, requires_grad=True)
    RIGHT(logits, batch)[0].sum().backward()
    p, support = logits.detach().softmax(-1)[:, :-1], RIGHT.support(batch)[:, :-1]
    expected = p * ((p * support).sum(-1, keepdim=True) - support)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[:, :-1], expected)


def test_gradient_descent_finds_residues_without_their_annotation() -> None:
    """One step at a time towards the peaks: the right loss finds the residues, the buggy one others."""
    batch = spectrum("WGFHSR")
    found = {}
    for name, loss in (("right", RIGHT), ("buggy", BUGGY)):
        logits = torch.zeros(1, 7, len(TOKEN_MASSES), dtype=torch.float64, requires_grad=True)
        for _ in range(200):
            values, bonds = loss(logits, batch)
            (gradient,) = torch.autograd.grad((values * bonds).sum(), logits)
            logits = (logits - 5.0 * gradient).detach().requires_grad_()
        probabilities = logits.detach().softmax(-1)[0, torch.arange(5), batch["tokens"][0, :5]]
        found[name] = float(probabilities.mean())
    assert found["right"] > 0.7
    assert found["buggy"] < found["right"]


def test_only_residues_are_supported() -> None:
    batch = spectrum("PEPTIDEK".replace("I", "L"))
    support = RIGHT.support(batch)
    vocabulary = torch.arange(len(TOKEN_MASSES))
    assert float(support[..., ~is_residue(vocabulary)].max()) == 0.0
    assert 0.0 <= float(support.min()) <= float(support.max()) <= 1.0
