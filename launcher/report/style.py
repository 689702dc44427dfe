"""How arms are told apart in every figure: colours that colour-blind people can tell, and dashes."""

from __future__ import annotations

from dataclasses import dataclass

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""Okabe and Ito's palette (2008), the one that is hard to see on white last; its black is the baseline's."""
DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")
"""Plotly's names. The baseline is solid. Five and seven have no common factor: 35 arms differ in the pair."""
BASELINE = "#000000"
TRUNK = "#8C8C8C"


@dataclass(frozen=True)
class Style:
    """One arm's line."""

    colour: str
    """``#RRGGBB``."""
    dash: str
    """One of :data:`DASHES`, or ``solid``."""


def styles(baselines: list[bool]) -> list[Style]:
    """A style for each arm; ``baselines`` says which of them is the baseline."""
    found, number = [], 0
    for is_baseline in baselines:
        if is_baseline:
            found.append(Style(BASELINE, "solid"))
            continue
        found.append(Style(COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]))
        number += 1
    return found
