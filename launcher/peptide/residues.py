"""The tokens that a peptide is written in, and their masses.

All masses are monoisotopic, in Da, and are computed by pyteomics from elemental compositions.
Leucine and isoleucine have the same composition, so no mass spectrum tells them apart: both are ``L``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

import numpy as np
from numpy.typing import NDArray
from pyteomics import mass
from torch import Tensor

RESIDUE_MODIFICATIONS: Mapping[str, tuple[str, str]] = {
    "C[Carbamidomethyl]": ("C", "C2H3NO"),
    "M[Oxidation]": ("M", "O"),
    "N[Deamidated]": ("N", "N-1H-1O"),
    "Q[Deamidated]": ("Q", "N-1H-1O"),
    "S[Phospho]": ("S", "HPO3"),
    "T[Phospho]": ("T", "HPO3"),
    "Y[Phospho]": ("Y", "HPO3"),
}
"""Modified residues: the residue and the composition that the modification adds."""

TERMINAL_MODIFICATIONS: Mapping[str, str] = {
    "[Acetyl]-": "C2H2O",
    "[Carbamyl]-": "CHNO",
    "[Ammonia-loss]-": "N-1H-3",
}
"""Modifications of the N-terminus, each a token of its own before the first residue."""

PEPTIDE_RESIDUES = (*"GASPVTLNDQEMHFYW", "C[Carbamidomethyl]")
"""What a synthetic peptide consists of before its last residue: trypsin would have cut after K and R."""

PADDING, START, END = "<pad>", "<start>", "<end>"
SPECIAL = (PADDING, START, END)
AMINO_ACIDS = tuple("GASPVTCLNDQKEMHFRYW")
"""The amino acids of the genetic code, with L for both L and I."""

RESIDUES = (*AMINO_ACIDS, *RESIDUE_MODIFICATIONS)
VOCABULARY = (*SPECIAL, *RESIDUES, *TERMINAL_MODIFICATIONS)
TOKEN: Mapping[str, int] = {name: index for index, name in enumerate(VOCABULARY)}
PADDING_TOKEN, START_TOKEN, END_TOKEN = (TOKEN[name] for name in SPECIAL)
FIRST_RESIDUE, FIRST_TERMINAL = len(SPECIAL), len(SPECIAL) + len(RESIDUES)


def modification_mass(composition: str) -> float:
    """Mass in Da that a modification of this elemental composition adds."""
    return float(mass.calculate_mass(formula=composition))


def _token_masses() -> NDArray[np.float64]:
    masses = dict.fromkeys(SPECIAL, 0.0)
    masses.update({name: float(mass.std_aa_mass[name]) for name in AMINO_ACIDS})
    for name, (residue, composition) in RESIDUE_MODIFICATIONS.items():
        masses[name] = masses[residue] + modification_mass(composition)
    masses.update({name: modification_mass(formula) for name, formula in TERMINAL_MODIFICATIONS.items()})
    return np.array([masses[name] for name in VOCABULARY])


TOKEN_MASSES = _token_masses()
"""(vocabulary,) mass in Da of each token; 0 for padding, start and end."""

WATER = float(mass.calculate_mass(formula="H2O"))
"""Mass of water in Da: what a peptide weighs more than its residues."""

PROTON = float(mass.nist_mass["H+"][0][0])
"""Mass of a proton in Da: what a singly charged ion weighs more than its neutral mass."""


def ion_offset(series: str) -> float:
    """m/z of a singly charged fragment less the masses of its residues, in Da.

    The composition of a series (``b`` or ``y``) relative to the whole molecule is pyteomics'
    ``std_ion_comp``; the molecule is its residues and one water.
    """
    return WATER + float(mass.calculate_mass(composition=mass.std_ion_comp[series])) + PROTON


@overload
def is_residue(tokens: Tensor) -> Tensor: ...
@overload
def is_residue(tokens: NDArray[np.int64]) -> NDArray[np.bool_]: ...
def is_residue(tokens: Tensor | NDArray[np.int64]) -> Tensor | NDArray[np.bool_]:
    """Where tokens are residues: not special, not a modification of the terminus. Boolean, same shape."""
    return (tokens >= FIRST_RESIDUE) & (tokens < FIRST_TERMINAL)


def spelled(tokens: NDArray[np.int64]) -> str:
    """A peptide's tokens as text, up to its end: ``[Acetyl]-AC[Carbamidomethyl]K``."""
    return "".join(VOCABULARY[token] for token in tokens if token >= FIRST_RESIDUE)


def unmodified(tokens: NDArray[np.int64]) -> str:
    """A peptide's residues as letters, without modifications."""
    return "".join(VOCABULARY[token][0] for token in tokens if FIRST_RESIDUE <= token < FIRST_TERMINAL)
