"""Configs and small files for the tests of the peptide task."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyteomics import mass

from launcher.config import Config
from launcher.peptide.config import (
    CurriculumConfig,
    FastaData,
    LossConfig,
    MgfData,
    ModelConfig,
    SyntheticData,
)
from launcher.peptide.notation import read_peptide
from launcher.peptide.residues import PROTON, TOKEN_MASSES, WATER
from launcher.peptide.task import PeptideTask

PEPTIDES = ("ACDEFGHK", "LLNSPEPTIDER", "MQSTVWYK", "GGAVLEEK", "SAMPLEPEPTIDEK", "TTYQVNLK")


def plain(seed: int = 0, **nodes: dict[str, Any]) -> dict[str, Any]:
    """A config as plain values; ``data``, ``model``, ``loss``, ``curriculum`` change single keys."""
    model = {**asdict(ModelConfig(width=8, heads=2, feed_forward=8)), **nodes.get("model", {})}
    data = nodes.get("data", {})
    schema = {"fasta": FastaData, "mgf": MgfData}.get(data.get("source", ""), SyntheticData)
    small = {"peptides": 200} if schema is SyntheticData else {}
    return {
        "task": {"_target_": "launcher.peptide.task.PeptideTask"},
        "model": model,
        "data": {**asdict(schema()), **small, **data},  # type: ignore[operator]
        "loss": {**asdict(LossConfig()), **nodes.get("loss", {})},
        "curriculum": {**asdict(CurriculumConfig()), **nodes.get("curriculum", {})},
        "seed": seed,
    }


def task(seed: int = 0, **nodes: dict[str, Any]) -> PeptideTask:
    return PeptideTask(Config.from_plain(plain(seed, **nodes)))


def precursor(annotation: str, charge: int) -> float:
    """m/z in Da of an annotated peptide's precursor."""
    neutral = float(TOKEN_MASSES[read_peptide(annotation)].sum()) + WATER
    return neutral / charge + PROTON


def record(annotation: str, charge: int = 2, **changed: str | None) -> str:
    """One well-formed MGF record with the peptide's y-ions; keywords replace a field, or drop it."""
    bare = (
        "".join(letter for letter in annotation if letter.isupper()) if annotation.isalpha() else "PEPTIDEK"
    )
    ions = [mass.fast_mass(bare[i:], ion_type="y", charge=1) for i in range(1, len(bare))]
    fields: dict[str, str | None] = {
        "TITLE": "a spectrum",
        "PEPMASS": f"{precursor(annotation, charge):.5f}",
        "CHARGE": f"{charge}+",
        "SEQ": annotation,
    }
    peaks: str | None = "\n".join(f"{mz:.5f} {height + 1}" for height, mz in enumerate(sorted(ions)))
    if "PEAKS" in changed:
        peaks = changed.pop("PEAKS")
    fields.update(changed)
    lines = [f"{key}={value}" for key, value in fields.items() if value is not None]
    return "\n".join(["BEGIN IONS", *lines, *([peaks] if peaks else []), "END IONS", "", ""])


def mgf_file(path: Path, *extra: str) -> Path:
    """A file with the usable records of ``PEPTIDES``, then further text."""
    path.write_text("".join(map(record, PEPTIDES)) + "".join(extra))
    return path
