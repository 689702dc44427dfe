"""Proteins from files that are sound, and from files that are not."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyteomics import parser

from launcher.errors import DataError
from launcher.peptide import dataset
from launcher.peptide.config import FastaData
from launcher.peptide.fasta import read_peptides
from launcher.peptide.records import Records

PROTEIN = "MSAMPLEKPEPTLDERACDEFGHKWVTRLLNSK"


def read(path: Path, text: str | bytes, strict: bool = False) -> tuple[list[str], Records]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_peptides(path, missed_cleavages=1, shortest=6, longest=20, strict=strict)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.fasta"


def test_peptides_are_those_of_pyteomics(path: Path) -> None:
    peptides, records = read(path, f">a protein\n{PROTEIN}\n", strict=True)
    expected = parser.cleave(PROTEIN, "trypsin", missed_cleavages=1, min_length=6, max_length=20)
    assert peptides == sorted(expected)
    assert len(peptides) > 3
    assert (records.total, records.malformed) == (1, [])


@pytest.mark.parametrize(
    "text",
    [
        f">a\r\n{PROTEIN}\r\n",
        f">a\n{PROTEIN.lower()}\n",
        f">a\n{PROTEIN[:10]}\n{PROTEIN[10:]}",
        f">a\n{PROTEIN[:10]} {PROTEIN[10:]}\n\n\n",
        f">a\n{PROTEIN}*\n",
        f"\n; a comment\n>a\n; another\n{PROTEIN}\n",
        f">a\n{PROTEIN}\n>the same again\n{PROTEIN}\n",
        f"\ufeff>a\n{PROTEIN}\n",
        gzip.compress(f">a\n{PROTEIN}\n".encode(), mtime=0),
    ],
)
def test_other_spellings(path: Path, text: str | bytes) -> None:
    assert read(path, text, strict=True)[0] == read(path, f">a\n{PROTEIN}\n")[0]


@pytest.mark.parametrize(
    ("bad", "line", "reason"),
    [
        (">empty\n", 3, "header without a sequence"),
        (">empty\n>b\nACDEFGHK\n", 3, "header without a sequence"),
        (">only a stop\n*\n", 3, "header without a sequence"),
        (">digits\nACD3FGHK\n", 3, "'3' is not an amino acid"),
        (">sharp s\nACDßFGHK\n", 3, "is not an amino acid"),
        (">aligned\nACD-FGHK\n", 3, "'-' is not an amino acid"),
        (">binary\n\x00\x01\x02\n", 3, "is not an amino acid"),
    ],
)
def test_a_malformed_record_is_named_and_skipped_or_refused(
    path: Path, bad: str, line: int, reason: str
) -> None:
    text = f">a\n{PROTEIN}\n{bad}"
    peptides, records = read(path, text)
    assert set(read(path, f">a\n{PROTEIN}\n")[0]) <= set(peptides)
    ((found_line, found_reason),) = records.malformed
    assert found_line == line
    assert reason in found_reason
    with pytest.raises(DataError, match=rf"a\.fasta:{line}"):
        read(path, text, strict=True)


def test_text_before_the_first_header_is_named(path: Path) -> None:
    peptides, records = read(path, f"hello\nworld\n>a\n{PROTEIN}\n")
    assert peptides
    assert records.malformed == [(1, "'hello' before the first header")]


@pytest.mark.parametrize("letter", "BOUXZ")
def test_peptides_with_a_residue_of_no_single_mass_are_left_out(path: Path, letter: str) -> None:
    peptides, records = read(path, f">a\n{PROTEIN}{letter}AAAAAAK\n", strict=True)
    assert peptides == read(path, f">a\n{PROTEIN}\n")[0]
    assert sum(records.unused.values()) > 0


def test_leucine_and_isoleucine_are_one(path: Path) -> None:
    assert read(path, ">a\nAIJLAAK\n")[0] == ["ALLLAAK"]


def test_a_very_long_protein(path: Path) -> None:
    peptides, _ = read(path, ">a\n" + PROTEIN * 2_000 + "\n>b\n" + "A" * 100_000 + "\n")
    assert len(peptides) < 20


def test_cysteine_is_alkylated(path: Path) -> None:
    path.write_text(f">a\n{PROTEIN}\n")
    tokens = dataset.load(FastaData(path=str(path), validation_share=0.5)).training["tokens"]
    held = dataset.load(FastaData(path=str(path), validation_share=0.5)).validation["tokens"]
    from launcher.peptide.residues import TOKEN

    values = {*tokens.flatten().tolist(), *held.flatten().tolist()}
    assert TOKEN["C[Carbamidomethyl]"] in values
    assert TOKEN["C"] not in values


@pytest.mark.parametrize(
    "content", [b"", b">a\n", b"\x00\xff" * 500, b">a\nACDEFGHK\n", b"\x1f\x8b\x08broken"]
)
def test_a_file_without_two_usable_peptides_is_one_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        dataset.load(FastaData(path=str(path)))
    assert refusal.value.where == str(path)
    assert refusal.value.do


def test_the_summary_is_one_line(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(f">a\n{PROTEIN}\n>b\n>c\n1\n")
    with caplog.at_level(logging.INFO, logger="launcher.peptide"):
        dataset.load(FastaData(path=str(path)))
    (message,) = [entry.getMessage() for entry in caplog.records]
    assert f"2 of 3 FASTA records skipped: {path}:3: a header without a sequence; {path}:4: '1'" in message


@given(data=st.binary(max_size=300) | st.text(alphabet=">ACKRP*x-\n\r", max_size=300).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_give_peptides_or_an_error_that_was_meant(path: Path, data: bytes) -> None:
    try:
        peptides, _ = read(path, data)
    except DataError:
        return
    assert all(6 <= len(peptide) <= 20 for peptide in peptides)
