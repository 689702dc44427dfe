"""Peptides of proteins: a FASTA file, digested with trypsin by pyteomics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pyteomics import parser

from launcher.peptide.records import Records, numbered_lines, quoted
from launcher.peptide.residues import AMINO_ACIDS

DIGESTIBLE = frozenset(AMINO_ACIDS) | {"I", "J"}
"""Letters with one mass; the other codes of the standard (B, O, U, X, Z) have several or a rare one."""


def read_peptides(
    path: Path, missed_cleavages: int, shortest: int, longest: int, strict: bool
) -> tuple[list[str], Records]:
    """Distinct tryptic peptides of all proteins in a file, sorted, I and J written as L.

    Lower-case letters (masked regions) count as upper case, ``*`` ends a chain. Peptides with letters
    that have no single mass are not used; records that are no protein at all are skipped.

    Raises:
        DataError: the file cannot be read; with ``strict``, it has a malformed record.
    """
    records = Records(path, "FASTA", strict)
    peptides: set[str] = set()
    for line, sequence in _proteins(path, records):
        wrong = re.search(r"[^A-Za-z*]", sequence)
        if not sequence.strip("*"):
            records.skip(line, "a header without a sequence")
        elif wrong is not None:
            records.skip(line, f"{quoted(wrong.group())} is not an amino acid")
        else:
            for chain in sequence.upper().split("*"):
                peptides |= _digested(chain, missed_cleavages, shortest, longest, records)
    return sorted(peptides), records


def _digested(chain: str, missed_cleavages: int, shortest: int, longest: int, records: Records) -> set[str]:
    if len(chain) < shortest:
        return set()
    found = parser.cleave(
        chain, "trypsin", missed_cleavages=missed_cleavages, min_length=shortest, max_length=longest
    )
    known = {peptide for peptide in found if DIGESTIBLE.issuperset(peptide)}
    if len(known) < len(found):
        records.unused["peptides with a residue of no single mass (B, O, U, X, Z)"] += len(found) - len(known)
    return {peptide.replace("I", "L").replace("J", "L") for peptide in known}


def _proteins(path: Path, records: Records) -> Iterator[tuple[int, str]]:
    """The header's line number and the sequence of each record."""
    start: int | None = None
    parts: list[str] = []
    stray = False
    for number, text in numbered_lines(path):
        line = text.strip()
        if line.startswith(">"):
            if start is not None:
                yield start, "".join(parts)
            start, parts = number, []
            records.total += 1
        elif start is not None:
            if not line.startswith(";"):
                parts.append(re.sub(r"\s", "", line))
        elif line and not line.startswith(";") and not stray:
            stray = True
            records.total += 1
            records.skip(number, f"{quoted(line)} before the first header")
    if start is not None:
        yield start, "".join(parts)
