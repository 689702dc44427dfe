"""Masses and ion series are pyteomics'."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyteomics import mass

from launcher.peptide import residues
from launcher.peptide.notation import read_peptide
from launcher.peptide.spectra import fragments, misannotated, peptide_masses, prefix_masses, token_matrix

LETTERS = "GASPVTCLINDQKEMHFRYW"
peptides = st.text(alphabet=LETTERS, min_size=2, max_size=30)


@given(peptides)
def test_peptide_mass(peptide: str) -> None:
    tokens = token_matrix([read_peptide(peptide)])
    assert peptide_masses(tokens)[0] == pytest.approx(mass.fast_mass(peptide), abs=1e-6)


@given(peptides)
def test_ions_are_those_of_pyteomics(peptide: str) -> None:
    b, y, breaks = fragments(token_matrix([read_peptide(peptide)]))
    bonds = np.flatnonzero(breaks[0])
    assert list(bonds) == list(range(len(peptide) - 1))
    for bond in bonds:
        left, right = peptide[: bond + 1], peptide[bond + 1 :]
        assert b[0, bond] == pytest.approx(mass.fast_mass(left, ion_type="b", charge=1), abs=1e-6)
        assert y[0, bond] == pytest.approx(mass.fast_mass(right, ion_type="y", charge=1), abs=1e-6)


@pytest.mark.parametrize(
    ("annotation", "composition"),
    [
        ("AC[Carbamidomethyl]K", {"formula": "C2H3NO"}),
        ("AM[Oxidation]K", {"formula": "O"}),
        ("AN[Deamidated]K", {"formula": "N-1H-1O"}),
        ("AS[Phospho]K", {"formula": "HPO3"}),
        ("[Acetyl]-AK", {"formula": "C2H2O"}),
        ("[Carbamyl]-AK", {"formula": "CHNO"}),
        ("[Ammonia-loss]-QK", {"formula": "N-1H-3"}),
    ],
)
def test_modified_peptide_mass(annotation: str, composition: dict[str, str]) -> None:
    letters = residues.unmodified(np.array(read_peptide(annotation)))
    expected = mass.fast_mass(letters) + mass.calculate_mass(**composition)
    assert peptide_masses(token_matrix([read_peptide(annotation)]))[0] == pytest.approx(expected, abs=1e-6)


def test_no_fragment_splits_a_terminal_modification_off() -> None:
    b, _, breaks = fragments(token_matrix([read_peptide("[Acetyl]-AGK")]))
    assert list(np.flatnonzero(breaks[0])) == [1, 2]
    acetyl = mass.calculate_mass(formula="C2H2O")
    assert b[0, 1] == pytest.approx(mass.fast_mass("A", ion_type="b", charge=1) + acetyl, abs=1e-6)


def test_prefix_masses_count_what_is_before_a_place() -> None:
    prefix = prefix_masses(token_matrix([read_peptide("GAK")]))[0]
    g, a = mass.std_aa_mass["G"], mass.std_aa_mass["A"]
    assert prefix[:3] == pytest.approx([0.0, g, g + a])


@given(st.lists(peptides, min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_a_wrong_annotation_has_the_right_mass_and_the_right_last_residue(
    written: list[str], seed: int
) -> None:
    tokens = token_matrix([read_peptide("[Acetyl]-" + one) for one in written])
    wrong = misannotated(tokens, 1.0, np.random.default_rng(seed))
    for right_row, wrong_row, letters in zip(tokens, wrong, written, strict=True):
        assert sorted(right_row) == sorted(wrong_row)
        assert residues.spelled(wrong_row).startswith("[Acetyl]-")
        assert residues.unmodified(wrong_row)[-1] == letters[-1].replace("I", "L")
        end = len(letters) + 1
        assert wrong_row[end] == residues.END_TOKEN
    assert (misannotated(tokens, 0.0, np.random.default_rng(seed)) == tokens).all()
