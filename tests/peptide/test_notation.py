"""How peptides with modifications are written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.peptide.notation import NotationError, read_peptide
from launcher.peptide.residues import END_TOKEN, VOCABULARY, spelled

CARBAMIDOMETHYL = "AC[Carbamidomethyl]K"
OXIDATION = "AM[Oxidation]K"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("ACDK", "ACDK"),
        ("  ACDK ", "ACDK"),
        ("AIJLK", "ALLLK"),
        ("AC[Carbamidomethyl]K", CARBAMIDOMETHYL),
        ("AC[carbamidomethyl]K", CARBAMIDOMETHYL),
        ("AC(Carbamidomethyl)K", CARBAMIDOMETHYL),
        ("_AC(Carbamidomethyl (C))K_", CARBAMIDOMETHYL),
        ("AC[UNIMOD:4]K", CARBAMIDOMETHYL),
        ("AC[+57.021]K", CARBAMIDOMETHYL),
        ("AC[+57.021464]K", CARBAMIDOMETHYL),
        ("AC(+57.02)K", CARBAMIDOMETHYL),
        ("AC(+57)K", CARBAMIDOMETHYL),
        ("AC+57.021K", CARBAMIDOMETHYL),
        ("AC[160.03]K", CARBAMIDOMETHYL),
        ("R.AC[+57.02]K.G", CARBAMIDOMETHYL),
        ("-.AC[+57.02]K.G", CARBAMIDOMETHYL),
        ("AM[Oxidation]K", OXIDATION),
        ("AM(+15.99)K", OXIDATION),
        ("AM+15.995K", OXIDATION),
        ("AM[+15.9949]K", OXIDATION),
        ("AM[ox]K", OXIDATION),
        ("M(ox)AK", "M[Oxidation]AK"),
        ("AN(+.98)K", "AN[Deamidated]K"),
        ("AQ[Deamidated]K", "AQ[Deamidated]K"),
        ("AQ+0.984K", "AQ[Deamidated]K"),
        ("AS(+79.97)T[Phospho]Y[+79.966]K", "AS[Phospho]T[Phospho]Y[Phospho]K"),
        ("[Acetyl]-ACK", "[Acetyl]-ACK"),
        ("[+42.011]-ACK", "[Acetyl]-ACK"),
        ("(+42.01)ACK", "[Acetyl]-ACK"),
        ("+42.011ACK", "[Acetyl]-ACK"),
        ("A(+42.01)CK", "[Acetyl]-ACK"),
        ("[Carbamyl]-ACK", "[Carbamyl]-ACK"),
        ("+43.006ACK", "[Carbamyl]-ACK"),
        ("-17.027ACK", "[Ammonia-loss]-ACK"),
        ("Q(-17.03)ACK", "[Ammonia-loss]-QACK"),
        ("Q[Gln->pyro-Glu]ACK", "[Ammonia-loss]-QACK"),
        ("+43.006-17.027ACK", "[Carbamyl]-[Ammonia-loss]-ACK"),
        ("[+25.980265]-ACK", "[Carbamyl]-[Ammonia-loss]-ACK"),
        ("[Acetyl]-M[Oxidation]AK", "[Acetyl]-M[Oxidation]AK"),
        ("M[Acetyl][Oxidation]AK", "[Acetyl]-M[Oxidation]AK"),
    ],
)
def test_spellings(written: str, expected: str) -> None:
    assert spelled(np.array(read_peptide(written))) == expected


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("AXK", "residue X"),
        ("ABK", "residue B"),
        ("AZK", "residue Z"),
        ("AUK", "residue U"),
        ("acdk", "not a residue"),
        ("ACDk", "not a residue"),
        ("AC DK", "not a residue"),
        ("AC[Nonsense]K", "modification C[Nonsense]"),
        ("AC[+99.99]K", "modification C[+99.99]"),
        ("AC[+57.1]K", "modification C[+57.1]"),
        ("AG(+15.99)K", "modification G(+15.99)"),
        ("AM(+15.99)(+15.99)K", "modification M(+15.99)"),
        ("[Nonsense]-ACK", "at the N-terminus"),
        ("[Acetyl]-", "no residue"),
        ("AC[Carbamidomethyl", "not a residue"),
        ("AC]K", "not a residue"),
        ("AC[]K", "modification C[]"),
        ("ACK-[Amidated]", "not a residue"),
        ("A" * 3000, "more than"),
        ("[" * 1500, "not a residue"),
        ("(" * 1500, "not a residue"),
        ("A(" + "()" * 700, "not a residue"),
    ],
)
def test_refusals_say_what_is_wrong(written: str, complaint: str) -> None:
    with pytest.raises(NotationError) as refusal:
        read_peptide(written)
    assert complaint in str(refusal.value)


@given(st.text(max_size=60) | st.text(alphabet="ACKM[](){}+-.0157_ ->", max_size=60))
def test_any_text_gives_tokens_or_a_refusal(written: str) -> None:
    try:
        tokens = read_peptide(written)
    except NotationError:
        return
    assert tokens[-1] == END_TOKEN
    assert len(tokens) >= 2


@given(
    st.lists(st.sampled_from(VOCABULARY[3:-3]), min_size=1, max_size=20),
    st.sampled_from(["", *VOCABULARY[-3:]]),
)
def test_what_is_spelled_is_read_back(residues: list[str], terminal: str) -> None:
    written = terminal + "".join(residues)
    assert spelled(np.array(read_peptide(written))) == written
