"""The data as tensors: training peptides in an order given by (seed, step), and held-out peptides."""

from __future__ import annotations

import logging
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from launcher.files import canonical_json, file_digest
from launcher.peptide.config import DataConfig, FastaData, MgfData, SimulatedData, SyntheticData
from launcher.peptide.fasta import read_peptides
from launcher.peptide.mgf import read_spectra
from launcher.peptide.notation import read_peptide
from launcher.peptide.records import Records, existing_file
from launcher.peptide.residues import (
    PEPTIDE_RESIDUES,
    START_TOKEN,
    TOKEN,
    unmodified,
)
from launcher.peptide.spectra import (
    Spectra,
    misannotated,
    prefix_masses,
    simulated,
    synthetic_peptides,
    token_matrix,
)

logger = logging.getLogger("launcher.peptide")

FORMAT = "peptide-data/1"
"""Changes when equal parameters would no longer mean equal batches."""

NOT_IN_BATCHES = frozenset({"label", "facts", "path", "strict", "validation_size"})
"""Keys of the node ``data`` that do not decide the content of batches, or not by themselves."""


class Dataset:
    """Annotated spectra in two disjoint parts, as the named tensors that a batch has.

    For N spectra with P peaks and T tokens: ``mz`` and ``intensity`` (N, P), ``precursor_mass`` and
    ``charge`` (N,), ``tokens``, ``previous`` and ``prefix_mass`` (N, T); masses and m/z in Da, float32.
    ``previous`` are the tokens shifted by the start token, ``prefix_mass`` the mass before each place.
    """

    def __init__(self, spectra: Spectra, config: DataConfig, records: Records | None = None) -> None:
        self.records = records
        """What was left out of the file that it comes from, if it comes from one."""
        held_out = _held_out(spectra.tokens, config.validation_share)
        tensors = _tensors(_as_annotated(spectra, held_out, config))
        self.training = {name: values[torch.from_numpy(~held_out)] for name, values in tensors.items()}
        kept = torch.from_numpy(np.flatnonzero(held_out)[: config.validation_size])
        self.validation = {name: values[kept] for name, values in tensors.items()}

    def batch(self, seed: int, step: int, size: int) -> dict[str, Tensor]:
        """``size`` training spectra, drawn with replacement: a pure function of (``seed``, ``step``).

        Philox is a counter-based generator (Salmon et al., SC 2011): each key is a stream of its own,
        so a step needs no state and none of the steps before it.
        """
        generator = np.random.Generator(np.random.Philox(key=[seed, step]))
        drawn = torch.from_numpy(generator.integers(0, len(self.training["charge"]), size=size))
        return {name: values[drawn] for name, values in self.training.items()}


def load(config: DataConfig) -> Dataset:
    """Read or compute the data that a config describes, and say in the log what was left out.

    Raises:
        DataError: a file that cannot be read or has fewer than two different usable peptides.
    """
    records: Records | None = None
    match config:
        case MgfData():
            spectra, records = read_spectra(
                Path(config.path),
                config.min_length,
                config.max_length,
                config.peaks,
                config.precursor_tolerance,
                config.strict,
            )
            _check_usable(spectra.tokens, records)
        case FastaData():
            peptides, records = read_peptides(
                Path(config.path),
                config.missed_cleavages,
                config.min_length,
                config.max_length,
                config.strict,
            )
            tokens = token_matrix([read_peptide(_alkylated(peptide)) for peptide in peptides])
            _check_usable(tokens, records)
            spectra = simulated(tokens, config, np.random.default_rng([config.simulation_seed, 1]))
        case SyntheticData():
            generator = np.random.default_rng([config.simulation_seed, 0])
            tokens = synthetic_peptides(
                config.peptides,
                config.min_length,
                config.max_length,
                np.array([TOKEN[name] for name in PEPTIDE_RESIDUES]),
                np.array([TOKEN["K"], TOKEN["R"]]),
                generator,
            )
            spectra = simulated(tokens, config, generator)
        case _:
            raise TypeError(f"no data from a {type(config).__name__}")
    return Dataset(spectra, config, records)


def fingerprint(config: DataConfig) -> str:
    """Digest of what decides the batches, given a seed: parameters, and the bytes of the file if any.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    described: dict[str, object] = {
        key: value for key, value in vars(config).items() if key not in NOT_IN_BATCHES
    }
    if isinstance(config, FastaData | MgfData):
        with existing_file(Path(config.path)) as path:
            described["file"] = file_digest(path)
    return blake2b(canonical_json([FORMAT, described]), digest_size=32).hexdigest()


def _check_usable(tokens: NDArray[np.int64], records: Records) -> None:
    records.report()
    if len({unmodified(row) for row in tokens}) < 2:
        raise records.no_usable("at least two different usable peptides, one of them to be held out")


def _alkylated(peptide: str) -> str:
    """Cysteine as it is measured: nearly every protocol caps it with iodoacetamide."""
    return peptide.replace("C", "C[Carbamidomethyl]")


def _held_out(tokens: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Which spectra are held out: all those of a peptide, or none, whatever its modifications.

    A peptide's place is given by a hash of its sequence, so another file that has it too holds it out as
    well. At least one peptide is held out and at least one is not.
    """
    places = np.array([_place(unmodified(row)) for row in tokens])
    threshold = min(max(share, float(places.min())), float(np.nextafter(places.max(), 0.0)))
    return np.asarray(places <= threshold)


def _as_annotated(spectra: Spectra, held_out: NDArray[np.bool_], config: DataConfig) -> Spectra:
    """Training annotations with the errors that a simulation asks for; the held-out ones stay right."""
    if not isinstance(config, SimulatedData) or config.annotation_errors == 0:
        return spectra
    generator = np.random.default_rng([config.simulation_seed, 2])
    wrong = misannotated(spectra.tokens, config.annotation_errors, generator)
    return replace(spectra, tokens=np.where(held_out[:, None], spectra.tokens, wrong))


def _place(peptide: str) -> float:
    """A peptide's place in [0, 1), uniformly distributed over peptides."""
    return int.from_bytes(blake2b(peptide.encode(), digest_size=6).digest(), "big") / 2.0**48


def _tensors(spectra: Spectra) -> dict[str, Tensor]:
    tokens = spectra.tokens
    start = np.full((len(tokens), 1), START_TOKEN)
    single = {
        "mz": spectra.mz,
        "intensity": spectra.intensity,
        "precursor_mass": spectra.precursor_mass,
        "prefix_mass": prefix_masses(tokens),
    }
    tensors = {name: torch.from_numpy(values.astype(np.float32)) for name, values in single.items()}
    tensors["charge"] = torch.from_numpy(spectra.charge)
    tensors["tokens"] = torch.from_numpy(tokens)
    tensors["previous"] = torch.from_numpy(np.concatenate([start, tokens[:, :-1]], axis=1))
    return tensors
