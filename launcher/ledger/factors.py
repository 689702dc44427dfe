"""Factors and their levels, and factors that were changed at once."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher.differences import override
from launcher.files import canonical_json
from launcher.findings import Finding
from launcher.ledger.entry import Entry, arms_of

_OF_ANY_RUN = frozenset(
    {"branch", "paths", "tracker", "tracking", "checkpoint", "training", "launch", "hydra"}
)
"""Nodes of overrides that stay in a missing sibling's command, whichever sibling they were typed for."""
TRUNKS_OWN = "trunk's own"
"""Level that nobody typed, of a factor of several keys: a list of all their values would be no name."""
MOST_COMMANDS = 4
"""How many missing siblings a finding spells out."""


@dataclass(frozen=True)
class Factor:
    """Something in which siblings differ on purpose."""

    name: str
    """A config group or a dotted key: ``loss``, ``optimizer.lr``."""
    keys: list[str]
    """The dotted keys that it changes."""
    levels: dict[str, list[str]]
    """Level, as it was typed, to the runs that have it. The trunk's own comes first where there is one."""
    typed: dict[str, list[str]] = field(default_factory=dict)
    """Level to the overrides that give it; none for the trunk's own."""

    def by_run(self) -> dict[str, str]:
        """Run to the level that it has."""
        return {run: level for level, runs in self.levels.items() for run in runs}


@dataclass(frozen=True)
class Cell:
    """A sibling that is not there: one combination of levels."""

    levels: Mapping[str, str]
    """Factor to level."""
    overrides: tuple[str, ...]

    @property
    def command(self) -> str:
        """What launches it alone."""
        return shlex.join(["python", "train.py", *self.overrides])


def factors_of(entries: Sequence[Entry]) -> list[Factor]:
    """Everything in which the siblings differ on purpose, in the order in which it turns up."""
    trunk: dict[str, Any] = {}
    for one in entries:
        for key, (theirs, _) in one.changed.items():
            trunk.setdefault(key, theirs)
    varied = [key for key in trunk if len({_spelled(_own(one, key, trunk)) for one in entries}) > 1]
    names: dict[str, str] = {}
    for key in varied:
        units = {one.unit_of(key) for one in entries if key in one.changed}
        names[key] = min(units, key=len)
    named: dict[str, list[str]] = {}
    for key, name in names.items():
        named.setdefault(name, []).append(key)
    return [_factor(name, keys, entries, trunk) for name, keys in named.items()]


def _factor(name: str, keys: list[str], entries: Sequence[Entry], trunk: Mapping[str, Any]) -> Factor:
    having: dict[bytes, list[Entry]] = {_spelled([trunk[key] for key in keys]): []}
    for one in entries:
        having.setdefault(_spelled([_own(one, key, trunk) for key in keys]), []).append(one)
    levels: dict[str, list[str]] = {}
    typed: dict[str, list[str]] = {}
    theirs = next(iter(having))
    for spelled, runs in having.items():
        if not runs:
            continue
        values = {key: _own(runs[0], key, trunk) for key in keys}
        label = _label(name, values, runs, is_trunks=spelled == theirs)
        if label in levels:
            label = ",".join(f"{key}={_shown(value)}" for key, value in values.items())
        levels[label] = [one.run for one in runs]
        typed[label] = next((said for one in runs if (said := _typed(name, keys, one))), [])
    return Factor(name, keys, levels, typed)


def _label(name: str, values: Mapping[str, Any], runs: Iterable[Entry], is_trunks: bool) -> str:
    said = [one.said[name] for one in runs if name in one.said]
    if said:
        return _shown(said[0])
    if name in values:
        return _shown(values[name])
    if is_trunks and len(values) > 1:
        return TRUNKS_OWN
    return ",".join(f"{key.removeprefix(f'{name}.')}={_shown(value)}" for key, value in values.items())


def _typed(name: str, keys: Sequence[str], one: Entry) -> list[str]:
    """The overrides that give a sibling its level: as they were typed, or as a file has them."""
    typed = {_key(text): text for text in one.overrides}
    units = dict.fromkeys([*([name] if name in one.said else []), *(one.unit_of(key) for key in keys)])
    found = []
    for unit in (unit for unit in units if unit in one.said):
        leaf = unit in keys
        found.append(typed.get(unit) or ("++" if leaf else "") + override(unit, one.said[unit]))
    return found


def confounded(factors: Sequence[Factor], entries: Sequence[Entry]) -> list[list[Factor]]:
    """Factors that no siblings tell apart: wherever one changes, the other does too.

    Each list is of two or more that hang together.
    """
    arms = arms_of(entries)
    levels = {factor.name: factor.by_run() for factor in factors}
    at = {name: [by_run[one.run] for one in arms] for name, by_run in levels.items()}
    together: list[list[Factor]] = []
    for first, second in itertools.combinations(factors, 2):
        one, other = at[first.name], at[second.name]
        if not (_follows(one, other) or _follows(other, one)):
            continue
        joined = [group for group in together if first in group or second in group]
        merged = [factor for group in joined for factor in group]
        merged += [factor for factor in (first, second) if factor not in merged]
        together = [group for group in together if group not in joined] + [merged]
    return together


def _follows(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the second never changes without the first."""
    return len(set(zip(one, other, strict=True))) == len(set(one))


def missing_cells(
    together: Sequence[Factor], factors: Sequence[Factor], entries: Sequence[Entry]
) -> Iterator[Cell]:
    """The siblings that would tell these factors apart: each level with each, whatever the others are."""
    arms = arms_of(entries)
    others = [factor for factor in factors if factor not in together]
    there = _cells([*together, *others], arms)
    rests = dict.fromkeys(_cells(others, arms))
    common = _common(factors, arms)
    for rest, levels in itertools.product(rests, itertools.product(*(one.levels for one in together))):
        if (*levels, *rest) not in there:
            named = list(zip([*together, *others], (*levels, *rest), strict=True))
            typed = [text for factor, level in named for text in factor.typed[level]]
            chosen = {factor.name: level for factor, level in named}
            yield Cell(chosen, (*common, *typed))


def _common(factors: Sequence[Factor], arms: Sequence[Entry]) -> list[str]:
    """What was typed beside the factors."""
    names = [factor.name for factor in factors]
    kept = []
    for text in arms[0].overrides:
        key = _key(text)
        of_a_factor = any(key == name or key.startswith(f"{name}.") for name in names)
        shared = all(text in one.overrides for one in arms) or key.partition(".")[0] in _OF_ANY_RUN
        if shared and not of_a_factor:
            kept.append(text)
    return kept


def confounded_finding(
    together: Sequence[Factor], factors: Sequence[Factor], entries: Sequence[Entry]
) -> Finding:
    """What is to be said of factors that were changed at once."""
    count = _count_missing(together, factors, entries)
    first = itertools.islice(missing_cells(together, factors, entries), MOST_COMMANDS)
    commands = "; ".join(cell.command for cell in first)
    more = f"; and {count - MOST_COMMANDS} more" if count > MOST_COMMANDS else ""
    return Finding(
        "warning",
        ", ".join(factor.name for factor in together),
        "changed at once between all siblings: which of them has an effect cannot be told",
        f"each with each: {count} more siblings",
        f"fanout.complete=true launches them; one by one: {commands}{more}",
    )


def _count_missing(together: Sequence[Factor], factors: Sequence[Factor], entries: Sequence[Entry]) -> int:
    """How many cells are missing, without making them: of a random search they are its square."""
    arms = arms_of(entries)
    others = [factor for factor in factors if factor not in together]
    rests = set(_cells(others, arms))
    there = set(_cells([*others, *together], arms))
    return len(rests) * math.prod(len(factor.levels) for factor in together) - len(there)


def _cells(factors: Sequence[Factor], arms: Sequence[Entry]) -> dict[tuple[str, ...], None]:
    """The combinations of levels that some arm has."""
    levels = [factor.by_run() for factor in factors]
    return dict.fromkeys(tuple(by_run[one.run] for by_run in levels) for one in arms)


def _own(one: Entry, key: str, trunk: Mapping[str, Any]) -> Any:
    return one.changed[key][1] if key in one.changed else trunk[key]


def _spelled(value: Any) -> bytes:
    return canonical_json(value)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else override("", value)[1:]


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")
