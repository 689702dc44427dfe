"""Peptides with modifications as search engines and sequencing tools write them, read into tokens.

Understood, alone or together: ``C[Carbamidomethyl]`` and ``[Acetyl]-AK`` (ProForma 2.0, LeDuc et al.,
Journal of Proteome Research 2022), ``C[UNIMOD:4]``, ``C[+57.021]``, ``C(+57.02)`` (PEAKS, DeepNovo),
``C(Carbamidomethyl (C))`` (MaxQuant), ``C+57.021`` (Casanovo), ``C[160.03]`` (the whole residue's mass,
Trans-Proteomic Pipeline), flanking residues ``K.AK.G``, and a first residue that carries the terminal
modification (``A(+42.01)K``).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping

from launcher.peptide.residues import (
    AMINO_ACIDS,
    END_TOKEN,
    RESIDUE_MODIFICATIONS,
    TERMINAL_MODIFICATIONS,
    TOKEN,
    TOKEN_MASSES,
    modification_mass,
)

LONGEST_ANNOTATION = 2_000
"""Characters; a longer annotation is not read at all."""

CLOSE = 2e-3
"""Da by which a written mass may be off, however many digits it has: some tools' tables are."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_MODIFICATION = r"(?:\[[^\[\]]*\]|\((?:[^()]|\([^()]*\))*\)|[+-](?:\d+\.?\d*|\.\d+))"
_TERMINAL = re.compile(rf"((?:{_MODIFICATION})+)-?")
_RESIDUE = re.compile(rf"([A-Z])((?:{_MODIFICATION})*)")
_ONE_MODIFICATION = re.compile(_MODIFICATION)
_FLANKED = re.compile(r"[A-Z-]\.(.+)\.[A-Z-]")

_SYNONYMS: Mapping[str, str] = {
    "carbamidomethylation": "carbamidomethyl",
    "cam": "carbamidomethyl",
    "unimod:4": "carbamidomethyl",
    "u:4": "carbamidomethyl",
    "ox": "oxidation",
    "oxidized": "oxidation",
    "unimod:35": "oxidation",
    "u:35": "oxidation",
    "deamidation": "deamidated",
    "unimod:7": "deamidated",
    "u:7": "deamidated",
    "ph": "phospho",
    "phosphorylation": "phospho",
    "unimod:21": "phospho",
    "u:21": "phospho",
    "ac": "acetyl",
    "acetylation": "acetyl",
    "unimod:1": "acetyl",
    "u:1": "acetyl",
    "carbamylation": "carbamyl",
    "unimod:5": "carbamyl",
    "u:5": "carbamyl",
    "ammonia loss": "ammonia-loss",
    "gln->pyro-glu": "ammonia-loss",
    "pyro-glu": "ammonia-loss",
    "unimod:28": "ammonia-loss",
    "u:28": "ammonia-loss",
    "unimod:385": "ammonia-loss",
    "u:385": "ammonia-loss",
}
"""Other names of a modification in lower case; UNIMOD's accession numbers among them."""


class NotationError(ValueError):
    """An annotation that is not a peptide of known residues; the text says what is wrong with it."""


def _bare_name(token: str) -> str:
    return token[token.index("[") + 1 : token.index("]")].lower()


_RESIDUES_OWN = {
    residue: [
        (_bare_name(token), modification_mass(formula), token)
        for token, (modified, formula) in RESIDUE_MODIFICATIONS.items()
        if modified == residue
    ]
    for residue in AMINO_ACIDS
}
"""By residue: name, mass in Da and token of the modifications it is known with."""

_TERMINUS_OWN = [
    (_bare_name(token), modification_mass(formula), (token,))
    for token, formula in TERMINAL_MODIFICATIONS.items()
]
_TERMINUS_PAIRS = [
    ("", first[1] + second[1], first[2] + second[2])
    for first, second in itertools.combinations(_TERMINUS_OWN, 2)
]
"""Two modifications written as one mass: ``+25.980`` is a carbamyl that lost ammonia."""


def read_peptide(text: str) -> list[int]:
    """Tokens of an annotated peptide, with the end token last.

    Isoleucine (I) and the code for either (J) become leucine (L).

    Raises:
        NotationError: an unknown residue or modification, lower case, or anything that is no peptide.
    """
    text = text.strip()
    if not text:
        raise NotationError("the sequence is empty")
    if len(text) > LONGEST_ANNOTATION:
        raise NotationError(f"the sequence has more than {LONGEST_ANNOTATION} characters")
    flanked = _FLANKED.fullmatch(text)
    text = flanked.group(1) if flanked else text.strip("_")
    terminal = _TERMINAL.match(text)
    place = terminal.end() if terminal else 0
    names = list(_terminal_tokens(terminal.group(1))) if terminal else []
    first = len(names)
    while place < len(text):
        match = _RESIDUE.match(text, place)
        if match is None:
            raise NotationError(f"{text[place : place + 12]!r} is not a residue")
        names += _residue_tokens(match.group(1), match.group(2), at_terminus=len(names) == first == 0)
        place = match.end()
    if len(names) == first:
        raise NotationError("the sequence has no residue")
    return [*(TOKEN[name] for name in names), END_TOKEN]


def _residue_tokens(letter: str, modifications: str, at_terminus: bool) -> list[str]:
    residue = "L" if letter in "IJ" else letter
    if residue not in AMINO_ACIDS:
        raise NotationError(f"residue {letter} has no known mass of its own")
    terminal: list[str] = []
    written = residue
    for found in _ONE_MODIFICATION.findall(modifications):
        own = _own_token(residue, found) if written == residue else None
        if own is not None:
            written = own
        elif at_terminus:
            terminal += _terminal_tokens(found)
        else:
            raise NotationError(f"modification {letter}{found} is not known")
    return [*terminal, written]


def _own_token(residue: str, written: str) -> str | None:
    value = _stripped(written)
    mass = float(TOKEN_MASSES[TOKEN[residue]])
    for name, difference, token in _RESIDUES_OWN[residue]:
        if _same_name(value, name) or _same_mass(value, difference):
            return token
        if value[:1] not in ("+", "-") and _same_mass(value, mass + difference):
            return token
    return None


def _terminal_tokens(modifications: str) -> Iterator[str]:
    for written in _ONE_MODIFICATION.findall(modifications):
        value = _stripped(written)
        for name, difference, tokens in (*_TERMINUS_OWN, *_TERMINUS_PAIRS):
            if _same_name(value, name) or (value[:1] in ("+", "-") and _same_mass(value, difference)):
                yield from tokens
                break
        else:
            raise NotationError(f"modification {written} is not known at the N-terminus")


def _stripped(written: str) -> str:
    return written[1:-1].strip() if written[0] in "[(" else written


def _same_name(value: str, name: str) -> bool:
    bare = re.sub(r"\s*\([^()]*\)$", "", value).lower()
    return bool(name) and _SYNONYMS.get(bare, bare) == name


def _same_mass(value: str, mass: float) -> bool:
    """Whether a written number is ``mass``, rounded to as many digits as were written."""
    if re.fullmatch(_NUMBER, value) is None:
        return False
    decimals = len(value.partition(".")[2])
    return math.isclose(float(value), mass, rel_tol=0.0, abs_tol=max(0.5 * 10.0**-decimals + 1e-4, CLOSE))
