"""Annotated spectra from files that are sound, and from files that are not."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.errors import DataError
from launcher.peptide import dataset
from launcher.peptide.config import MgfData
from launcher.peptide.mgf import read_spectra
from launcher.peptide.records import Records
from launcher.peptide.residues import spelled
from launcher.peptide.spectra import Spectra
from tests.peptide.nodes import PEPTIDES, mgf_file, precursor, record


def read(path: Path, strict: bool = False) -> tuple[Spectra, Records]:
    return read_spectra(path, shortest=6, longest=20, peaks=10, tolerance=50.0, strict=strict)


def test_sound_records(tmp_path: Path) -> None:
    spectra, records = read(mgf_file(tmp_path / "a.mgf"), strict=True)
    assert [spelled(row) for row in spectra.tokens] == [one.replace("I", "L") for one in PEPTIDES]
    assert (records.total, records.malformed) == (len(PEPTIDES), [])
    assert spectra.mz.shape == spectra.intensity.shape == (len(PEPTIDES), 10)
    assert (np.diff(spectra.mz, axis=1)[spectra.intensity[:, 1:] > 0] > 0).all()
    assert spectra.intensity.max(axis=1) == pytest.approx(1.0)
    assert spectra.precursor_mass == pytest.approx(
        [precursor(one, 1) - 1.00727646677 for one in PEPTIDES], abs=1e-4
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("ACDEFGHK", SEQ=None), "no SEQ= field"),
        (record("ACDEFGHK", SEQ=""), "empty"),
        (record("ACDEFGHK", SEQ="ACDXFGHK"), "residue X"),
        (record("ACDEFGHK", SEQ="acdefghk"), "not a residue"),
        (record("ACDEFGHK", SEQ="ACDEFGHK[Nonsense]"), "modification K[Nonsense] is not known"),
        (record("ACDEFGHK", SEQ="ACDEFGHKK"), "ppm off"),
        (record("ACDEFGHK", PEPMASS="400.0"), "ppm off"),
        (record("ACDEFGHK", PEPMASS=None), "no PEPMASS"),
        (record("ACDEFGHK", PEPMASS=""), "no PEPMASS"),
        (record("ACDEFGHK", PEPMASS="heavy"), "not a spectrum"),
        (record("ACDEFGHK", PEPMASS="nan"), "no m/z"),
        (record("ACDEFGHK", PEPMASS="inf"), "no m/z"),
        (record("ACDEFGHK", PEPMASS="-452.7"), "no m/z"),
        (record("ACDEFGHK", PEPMASS="0"), "no m/z"),
        (record("ACDEFGHK", PEPMASS="1 2 3 4"), "not a spectrum"),
        (record("ACDEFGHK", CHARGE=None), "no CHARGE"),
        (record("ACDEFGHK", CHARGE=""), "not a spectrum"),
        (record("ACDEFGHK", CHARGE="two"), "not a spectrum"),
        (record("ACDEFGHK", CHARGE="0"), "not between"),
        (record("ACDEFGHK", CHARGE="2-"), "not between"),
        (record("ACDEFGHK", CHARGE="9999999999999999999"), "not between"),
        (record("ACDEFGHK", CHARGE="3+"), "ppm off"),
        (record("ACDEFGHK", PEAKS=None), "no peaks"),
        (record("ACDEFGHK", PEAKS="100.0"), "without an intensity"),
        (record("ACDEFGHK", PEAKS="100.0 1\n200.0"), "without an intensity"),
        (record("ACDEFGHK", PEAKS="100.0 many"), "not a spectrum"),
        (record("ACDEFGHK", PEAKS="here 1.0"), "not a spectrum"),
        (record("ACDEFGHK", PEAKS="100.0 nan"), "finite"),
        (record("ACDEFGHK", PEAKS="nan 1.0"), "finite"),
        (record("ACDEFGHK", PEAKS="100.0 inf"), "finite"),
        (record("ACDEFGHK", PEAKS="100.0 1e999"), "finite"),
        (record("ACDEFGHK", PEAKS="100.0 -1"), "negative"),
        (record("ACDEFGHK", PEAKS="-100.0 1"), "m/z outside"),
        (record("ACDEFGHK", PEAKS="0 1"), "m/z outside"),
        (record("ACDEFGHK", PEAKS="1e30 1"), "m/z outside"),
        (record("ACDEFGHK", PEAKS="100.0 0"), "no peak with an intensity"),
        (record("ACDEFGHK", PEAKS="5000.0 1"), "no peak with an intensity"),
        (record("ACDEFGHK").replace("END IONS", ""), "the file ends within the record"),
        (record("ACDEFGHK")[:60], "the file ends within the record"),
        (record("ACDEFGHK").replace("END IONS", "") + record("ACDEFGHK"), "END IONS is missing"),
    ],
)
def test_a_malformed_record_is_named_and_skipped_or_refused(tmp_path: Path, bad: str, reason: str) -> None:
    path = mgf_file(tmp_path / "a.mgf", bad)
    line = path.read_text().rsplit(bad, 1)[0].count("\n") + 1
    spectra, records = read(path)
    assert len(spectra.tokens) >= len(PEPTIDES)
    ((found_line, found_reason),) = records.malformed
    assert found_line == line
    assert reason in found_reason
    with pytest.raises(DataError) as refusal:
        read(path, strict=True)
    assert f"{path}:{line}" in str(refusal.value)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    "good",
    [
        record("TTYQVNLK", CHARGE="2"),
        record("TTYQVNLK", CHARGE="+2"),
        record("TTYQVNLK", CHARGE="2+ and 3+"),
        record("TTYQVNLK", CHARGE="1+, 2+ and 3+"),
        record("TTYQVNLK", CHARGE="3+,2+"),
        record("TTYQVNLK", PEPMASS=f"{precursor('TTYQVNLK', 2):.4f} 12345.6"),
        record("TTYQVNLK", CHARGE=None, PEPMASS=f"{precursor('TTYQVNLK', 2):.4f} 12345.6 2+"),
        record("TTYQVNLK", PEPMASS=f"{precursor('TTYQVNLK', 2) + 1.00335 / 2:.4f}"),
        record("TTYQVNLK", PEAKS="100.0 1 1+\n200.0 2 2+"),
        record("TTYQVNLK", PEAKS="100.0 1\n200.0 0\n300.0 2"),
        record("TTYQVNLK", PEAKS="300.0\t1\n\n100.0  2\n# a comment"),
        record("TTYQVNLK", TITLE="BEGIN = IONS"),
        record("TTYQVNLK").replace("BEGIN IONS", "begin ions").replace("SEQ", "seq"),
        record("TTYQVNLK").replace("\n", "\r\n"),
        record("TTYQVNLK").replace("\n", "\r"),
        "stray text\n" + record("TTYQVNLK"),
        record("C[Carbamidomethyl]M[Oxidation]AAAAK"),
        record("[Acetyl]-AC(+57.02)DEFK"),
    ],
)
def test_other_spellings_of_sound_records(tmp_path: Path, good: str) -> None:
    path = tmp_path / "a.mgf"
    path.write_bytes(good.encode())
    spectra, _ = read(path, strict=True)
    assert len(spectra.tokens) == 1
    assert spectra.charge[0] == 2


def test_a_charge_for_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mgf"
    path.write_text("COM=all of it\nCHARGE=2+ and 3+\n\n" + record("TTYQVNLK", charge=3, CHARGE=None))
    assert read(path, strict=True)[0].charge[0] == 3


def test_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.mgf.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + record("TTYQVNLK").encode()))
    assert len(read(path, strict=True)[0].tokens) == 1
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        read(path)


def test_lengths_out_of_range_are_counted_and_are_no_error(tmp_path: Path) -> None:
    spectra, records = read(mgf_file(tmp_path / "a.mgf", record("ACDK"), record("A" * 25 + "K")), strict=True)
    assert len(spectra.tokens) == len(PEPTIDES)
    assert sum(records.unused.values()) == 2


def test_the_summary_names_the_first_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = mgf_file(tmp_path / "a.mgf", *[record("ACDEFGHK", SEQ="ACDX")] * 9)
    with caplog.at_level(logging.INFO, logger="launcher.peptide"):
        dataset.load(MgfData(path=str(path)))
    (message,) = [entry.getMessage() for entry in caplog.records]
    assert "9 of 15 MGF records skipped" in message
    assert message.count(f"{path}:") == 5
    assert "and 4 more" in message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n\n",
        b"\x00\xff\xfe\x80" * 1000,
        b"\x1f\x8b broken",
        b"BEGIN IONS\n",
        b"END IONS\n",
        b">a protein\nACDEFGHK\n",
        record("TTYQVNLK").encode(),
        record("TTYQVNLK").encode("utf-16"),
        (record("TTYQVNLK") * 3).encode(),
    ],
)
def test_a_file_without_two_usable_peptides_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mgf"
    path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        dataset.load(MgfData(path=str(path)))
    error = refusal.value
    assert error.where == str(path)
    assert error.found
    assert error.expected
    assert error.do


def test_a_place_without_a_file_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("missing.mgf", "."):
        for use in (dataset.load, dataset.fingerprint):
            with pytest.raises(DataError) as refusal:
                use(MgfData(path=path))
            assert refusal.value.where == path
            assert refusal.value.do


def test_an_unreadable_file_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mgf_file(tmp_path / "a.mgf")

    def refused(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    # Not chmod: root, as in a container, reads everything.
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(DataError, match="Permission denied"):
        dataset.load(MgfData(path=str(path)))


@given(data=st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_give_an_error_that_was_meant(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.mgf"
    path.write_bytes(data)
    with pytest.raises(DataError):
        dataset.load(MgfData(path=str(path)))


FIELD = st.text(alphabet="ACDK0123456789+-.eE=[]() \tnaif,", max_size=15)


@given(
    seq=FIELD,
    charge=FIELD,
    pepmass=FIELD,
    peaks=st.lists(FIELD, max_size=4),
    cut=st.integers(0, 200),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_record_is_used_or_skipped(
    tmp_path: Path, seq: str, charge: str, pepmass: str, peaks: list[str], cut: int
) -> None:
    bad = record("ACDEFGHK", SEQ=seq, CHARGE=charge, PEPMASS=pepmass, PEAKS="\n".join(peaks))
    spectra, records = read(mgf_file(tmp_path / "a.mgf", bad, record("ACDEFGHK")[:cut]))
    assert len(spectra.tokens) + len(records.malformed) + sum(records.unused.values()) == records.total
    assert np.isfinite(spectra.mz).all()
    assert np.isfinite(spectra.intensity).all()
