"""Real annotated spectra: Mascot Generic Format, with the peptide in each record's ``SEQ=`` field.

A record's grammar is pyteomics'; finding where records begin and end is done here, because one
malformed record must not end the reading, and because a refusal has to name a line.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyteomics import mass
from pyteomics import mgf as pyteomics_mgf
from pyteomics.auxiliary import PyteomicsError

from launcher.peptide.notation import NotationError, read_peptide
from launcher.peptide.records import Records, numbered_lines, quoted
from launcher.peptide.residues import PROTON, TOKEN_MASSES, WATER, is_residue
from launcher.peptide.spectra import Spectra, highest_peaks, token_matrix

ISOTOPE_STEP = float(mass.nist_mass["C"][13][0] - mass.nist_mass["C"][12][0])
"""Difference in Da by which a precursor is heavier if its first 13C peak was selected."""

HIGHEST_CHARGE = 20
HEAVIEST_PEAK = 1e5
"""m/z above which a number in a peak list is no m/z."""


class MalformedRecord(ValueError):
    """What is wrong with a record, for a message."""


@dataclass(frozen=True)
class AnnotatedSpectrum:
    """One record, checked: the peptide fits the precursor."""

    tokens: list[int]
    charge: int
    precursor_mass: float
    """Neutral mass in Da, as measured."""
    mz: np.ndarray[Any, np.dtype[np.float64]]
    intensity: np.ndarray[Any, np.dtype[np.float64]]


def read_spectra(
    path: Path, shortest: int, longest: int, peaks: int, tolerance: float, strict: bool
) -> tuple[Spectra, Records]:
    """All usable spectra of a file, in its order.

    Spectra of peptides shorter than ``shortest`` or longer than ``longest`` residues are not used;
    malformed records, and those whose precursor is off the peptide's mass by more than ``tolerance``
    ppm, are skipped. ``peaks`` is how many of the highest peaks are kept.

    Raises:
        DataError: the file cannot be read; with ``strict``, it has a malformed record.
    """
    records = Records(path, "MGF", strict)
    spectra: list[AnnotatedSpectrum] = []
    for line, lines in _raw_records(path, records):
        try:
            spectrum = _annotated(lines, tolerance)
        except MalformedRecord as error:
            records.skip(line, str(error))
            continue
        length = int(is_residue(np.array(spectrum.tokens)).sum())
        if shortest <= length <= longest:
            spectra.append(spectrum)
        else:
            records.unused[f"spectra of peptides outside {shortest} to {longest} residues"] += 1
    return _stacked(spectra, peaks), records


def _annotated(lines: list[str], tolerance: float) -> AnnotatedSpectrum:
    fields, mz, intensity = _parsed(lines)
    annotation = fields.get("seq")
    if annotation is None:
        raise MalformedRecord("no SEQ= field")
    try:
        tokens = read_peptide(str(annotation))
    except NotationError as error:
        raise MalformedRecord(f"SEQ={quoted(str(annotation))}: {error}") from error
    expected = float(TOKEN_MASSES[tokens].sum()) + WATER
    charge, measured = _precursor(fields, expected, tolerance)
    highest = max(measured, expected) + 2 * PROTON
    fragment = (intensity > 0) & (mz <= highest)
    if not fragment.any():
        raise MalformedRecord("no peak with an intensity above 0 and an m/z below the peptide's mass")
    return AnnotatedSpectrum(tokens, charge, measured, mz[fragment], intensity[fragment])


def _parsed(lines: list[str]) -> tuple[dict[str, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    try:
        with pyteomics_mgf.MGF(
            io.StringIO("\n".join(lines) + "\n"), use_header=False, convert_arrays=0, read_charges=False
        ) as reader:
            record = next(iter(reader))
    except (PyteomicsError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        text = str(getattr(error, "message", "") or error)
        raise MalformedRecord(f"not a spectrum: {quoted(' '.join(text.split()))}") from error
    mz, intensity = (np.array(record[f"{name} array"], dtype=np.float64) for name in ("m/z", "intensity"))
    if not len(mz):
        raise MalformedRecord("no peaks")
    if len(mz) != len(intensity):
        raise MalformedRecord("a peak without an intensity")
    if not (np.isfinite(mz).all() and np.isfinite(intensity).all()):
        raise MalformedRecord("a peak that is not a finite number")
    if (mz <= 0).any() or (mz > HEAVIEST_PEAK).any():
        raise MalformedRecord(f"a peak's m/z outside 0 to {HEAVIEST_PEAK:g}")
    if (intensity < 0).any():
        raise MalformedRecord("a peak with a negative intensity")
    return record["params"], mz, intensity


def _precursor(fields: dict[str, Any], expected: float, tolerance: float) -> tuple[int, float]:
    """Charge and neutral mass in Da: of several charges the one that fits the peptide best."""
    pepmass = (fields.get("pepmass") or (None,))[0]
    if pepmass is None:
        raise MalformedRecord("no PEPMASS")
    if not (math.isfinite(pepmass) and pepmass > 0):
        raise MalformedRecord(f"PEPMASS={pepmass:g} is no m/z")
    charges = [int(charge) for charge in fields.get("charge") or ()]
    if not charges:
        raise MalformedRecord("no CHARGE")
    if not all(1 <= charge <= HIGHEST_CHARGE for charge in charges):
        raise MalformedRecord(f"CHARGE={fields['charge']} is not between 1+ and {HIGHEST_CHARGE}+")
    fits = []
    for charge in charges:
        measured = pepmass * charge - charge * PROTON
        for isotope in (0, 1):
            corrected = measured - isotope * ISOTOPE_STEP
            fits.append((abs(corrected - expected), charge, corrected))
    difference, charge, measured = min(fits)
    if difference > tolerance * 1e-6 * expected:
        raise MalformedRecord(
            f"SEQ weighs {expected:.4f} Da, PEPMASS and CHARGE give {measured:.4f} Da "
            f"({difference / expected * 1e6:.0f} ppm off)"
        )
    return charge, measured


def _stacked(spectra: list[AnnotatedSpectrum], peaks: int) -> Spectra:
    rows = []
    for one in spectra:
        rows.append(highest_peaks(one.mz[None], one.intensity[None], peaks))
    return Spectra(
        mz=np.concatenate([row[0] for row in rows]) if rows else np.zeros((0, peaks)),
        intensity=np.concatenate([row[1] for row in rows]) if rows else np.zeros((0, peaks)),
        precursor_mass=np.array([one.precursor_mass for one in spectra], dtype=np.float64),
        charge=np.array([one.charge for one in spectra], dtype=np.int64),
        tokens=token_matrix([one.tokens for one in spectra]),
    )


def _raw_records(path: Path, records: Records) -> Iterator[tuple[int, list[str]]]:
    """Line number of ``BEGIN IONS`` and the lines of each complete record, file-wide fields first."""
    file_wide: list[str] = []
    start: int | None = None
    lines: list[str] = []
    for number, text in numbered_lines(path):
        line = text.strip()
        keyword = line.upper()
        if keyword == "BEGIN IONS":
            if start is not None:
                records.skip(start, "END IONS is missing")
            records.total += 1
            start, lines = number, ["BEGIN IONS", *file_wide]
        elif keyword == "END IONS" and start is not None:
            yield start, [*lines, "END IONS"]
            start = None
        elif start is not None:
            lines.append(line)
        elif not records.total and keyword.startswith("CHARGE="):
            file_wide = [line]
    if start is not None:
        records.skip(start, "END IONS is missing: the file ends within the record")
