"""Annotated spectra as arrays, and spectra computed from peptides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launcher.peptide.config import SimulatedData
from launcher.peptide.residues import END_TOKEN, PADDING_TOKEN, TOKEN_MASSES, WATER, ion_offset, is_residue

Floats = NDArray[np.float64]
Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Spectra:
    """N annotated spectra with up to P peaks and T tokens each."""

    mz: Floats
    """(N, P) m/z of the peaks in ascending order; 0 at padding."""
    intensity: Floats
    """(N, P) square root of the intensity relative to the highest peak, in [0, 1]; 0 at padding."""
    precursor_mass: Floats
    """(N,) neutral monoisotopic mass in Da."""
    charge: Tokens
    """(N,) charge of the precursor."""
    tokens: Tokens
    """(N, T) the peptide: an optional terminal modification, residues, the end token, padding."""


def token_matrix(peptides: list[list[int]]) -> Tokens:
    """(N, T) tokens of N peptides, padded to the longest; T is at least 2."""
    width = max([2, *map(len, peptides)])
    tokens = np.full((len(peptides), width), PADDING_TOKEN, dtype=np.int64)
    for row, peptide in zip(tokens, peptides, strict=True):
        row[: len(peptide)] = peptide
    return tokens


def prefix_masses(tokens: Tokens) -> Floats:
    """(N, T) mass in Da of the tokens before each place."""
    masses = TOKEN_MASSES[tokens]
    return np.asarray(np.cumsum(masses, axis=1) - masses)


def peptide_masses(tokens: Tokens) -> Floats:
    """(N,) neutral monoisotopic mass in Da."""
    return np.asarray(TOKEN_MASSES[tokens].sum(axis=1) + WATER)


def fragments(tokens: Tokens) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """m/z of the singly charged b- and y-ions, each (N, T - 1), and where there are any.

    Column i belongs to the bond between tokens i and i + 1, which breaks only between two residues:
    b is the part before the bond, y the part after it (Roepstorff and Fohlman, 1984).
    """
    before = np.cumsum(TOKEN_MASSES[tokens], axis=1)
    b = before[:, :-1] + ion_offset("b")
    y = before[:, -1:] - before[:, :-1] + ion_offset("y")
    return b, y, is_residue(tokens[:, :-1]) & is_residue(tokens[:, 1:])


def simulated(tokens: Tokens, config: SimulatedData, rng: np.random.Generator) -> Spectra:
    """Spectra of peptides as an instrument might see them: fragments lost, masses off, peaks of noise."""
    b, y, breaks = fragments(tokens)
    shape = b.shape
    strength = np.exp(rng.normal(0.0, config.intensity_spread, size=(2, *shape)))
    seen = (rng.random((2, *shape)) >= config.missing_fragments) & breaks
    ions = np.concatenate([b, y], axis=1)
    heights = np.concatenate([config.b_intensity * strength[0] * seen[0], strength[1] * seen[1]], axis=1)
    mass = peptide_masses(tokens)
    noise_shape = (len(tokens), config.noise_peaks)
    noise = rng.uniform(100.0, np.maximum(mass, 101.0)[:, None], size=noise_shape)
    noise_heights = config.noise_intensity * rng.exponential(1.0, size=noise_shape)
    mz = np.concatenate([ions, noise], axis=1)
    mz = mz + rng.normal(0.0, config.mass_error, size=mz.shape)
    mz, intensity = highest_peaks(mz, np.concatenate([heights, noise_heights], axis=1), config.peaks)
    charge = rng.integers(2, 4, size=len(tokens))
    return Spectra(mz, intensity, mass, charge, tokens)


def misannotated(tokens: Tokens, share: float, rng: np.random.Generator) -> Tokens:
    """Peptides of which a ``share`` has its residues, except the last, in a random order.

    That is what a wrong match of a database search looks like: the precursor's mass fits, and the peptide
    ends as trypsin makes it end. The terminal modification, if any, stays where it is.
    """
    order = rng.random(tokens.shape)
    place = np.arange(tokens.shape[1])
    residue = is_residue(tokens)
    last = tokens.shape[1] - 1 - np.argmax(residue[:, ::-1], axis=1)
    movable = residue & (place < last[:, None])
    chosen = rng.random(len(tokens)) < share
    # Everything that stays is sorted by its own place, and what moves by chance between those.
    first = np.argmax(residue, axis=1)[:, None]
    keys = np.where(movable & chosen[:, None], first + order, place.astype(np.float64))
    keys = np.where(movable & ~chosen[:, None], first + (place - first) / tokens.shape[1], keys)
    return np.asarray(np.take_along_axis(tokens, np.argsort(keys, axis=1, kind="stable"), axis=1))


def highest_peaks(mz: Floats, intensity: Floats, count: int) -> tuple[Floats, Floats]:
    """The ``count`` highest peaks of each row by m/z, as ``Spectra`` keeps them: (N, count) each."""
    missing = max(0, count - mz.shape[1])
    mz, intensity = (np.pad(x, ((0, 0), (0, missing))) for x in (mz, intensity))
    order = np.argsort(-intensity, axis=1, kind="stable")[:, :count]
    mz, intensity = (np.take_along_axis(x, order, axis=1) for x in (mz, intensity))
    order = np.argsort(np.where(intensity > 0, mz, np.inf), axis=1, kind="stable")
    mz, intensity = (np.take_along_axis(x, order, axis=1) for x in (mz, intensity))
    relative = np.sqrt(intensity / np.maximum(intensity.max(axis=1, keepdims=True), 1e-300))
    return np.where(relative > 0, mz, 0.0), relative


def synthetic_peptides(
    count: int, shortest: int, longest: int, residues: Tokens, last: Tokens, rng: np.random.Generator
) -> Tokens:
    """Distinct peptides of equally frequent lengths: (up to ``count``, longest + 1) tokens.

    They look like products of trypsin: ``last`` residues at their end and nowhere else.
    """
    lengths = rng.integers(shortest, longest + 1, size=count)
    tokens = rng.choice(residues, size=(count, longest + 1))
    place = np.arange(longest + 1)
    tokens[np.arange(count), lengths - 1] = rng.choice(last, size=count)
    tokens[np.arange(count), lengths] = END_TOKEN
    tokens[place[None, :] > lengths[:, None]] = PADDING_TOKEN
    _, first = np.unique(tokens, axis=0, return_index=True)
    return np.asarray(tokens[np.sort(first)])
