"""One sibling, as it is held against the others: what was chosen for it, and what nobody chose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from launcher.config import LAUNCHERS
from launcher.lineage import RunRecord

_KIND = {"code": "code", "data": "data", "device": "device", "machine": "device", "threads": "threads",
         "world_size": "world_size", "seed": "seed", "branch point": "branch point"}  # fmt: skip
_EXCUSES = {
    "data": ("data", "task"),
    "device": ("device",),
    "threads": ("threads", "launch"),
    "world_size": ("launch",),
    "seed": ("seed",),
}
"""Kind to the config's nodes that decide on it: where one of these is a factor, the fact follows from it."""
_BRANCH: Mapping[str, Any] = {
    "branch.restore": "full", "branch.reset": [], "branch.include": [], "branch.exclude": [],
    "branch.rename": {}, "branch.schedule": "keep",
}  # fmt: skip
"""Keys of ``branch`` that change what is computed, with what they are where nobody says anything. How steps
are numbered does not."""


@dataclass(frozen=True)
class Entry:
    """One sibling in the ledger."""

    run: str
    """Its id."""
    arm: str
    """What it shares with itself in other streams."""
    stream: int
    control: bool
    """Whether nothing was changed in it; in another stream it still is one."""
    overrides: tuple[str, ...]
    """What was typed."""
    said: Mapping[str, Any]
    """Dotted keys and nodes that were typed or stand in a file that was chosen, with their values."""
    changed: Mapping[str, tuple[Any, Any]]
    """Dotted key to (the trunk's value, the own one). A stream's seed is none of them."""
    facts: Mapping[str, str]
    """What nobody chose, by name (``code``, ``torch``, ``threads``); what is not known is not there."""
    allowed: tuple[str, ...] = ()
    """Kinds of facts that ``fanout.allow`` let through."""

    def unit_of(self, key: str) -> str:
        """What was typed to change ``key``: the longest key or node that covers it, else the key itself."""
        parts = key.split(".")
        above = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        return next((one for one in above if one in self.said), key)

    def follows(self, kind: str) -> bool:
        """Whether a fact of that kind follows from what was chosen for this sibling."""
        nodes = {key.partition(".")[0] for key in self.changed}
        # Which of a script's own keys speak of its data, nobody here knows.
        own = kind == "data" and bool(nodes - LAUNCHERS)
        return own or not nodes.isdisjoint(_EXCUSES.get(kind, ()))


def kind_of(fact: str) -> str:
    """What ``fanout.allow`` calls a fact: ``libraries`` for ``torch``."""
    return _KIND.get(fact, "libraries")


def entry_of(record: RunRecord) -> Entry:
    """The entry of a run, from its record alone; also of one that is only planned."""
    drawn = {"seed"} if record.stream else set()
    changed = {key: (pair[0], pair[1]) for key, pair in record.differences.items() if key not in drawn}
    for key, default in _BRANCH.items():
        value = record.declared.get(key, default)
        if key == "branch.reset" and record.stream and isinstance(value, list):
            value = [part for part in value if part != "rng"]
        if value != default:
            changed[key] = (default, value)
    facts = {name: str(value) for name, value in record.environment.items() if name not in drawn}
    if record.parent is not None:
        facts["branch point"] = record.parent.sha256
    return Entry(
        run=record.id,
        arm=record.arm or record.signature,
        stream=record.stream,
        control=record.branch_type in {"control", "stream"},
        overrides=tuple(record.overrides),
        said=dict(record.declared),
        changed=changed,
        facts=facts,
        allowed=tuple(record.allowed),
    )


def arms_of(entries: Iterable[Entry]) -> list[Entry]:
    """One entry for each arm: that of its lowest stream."""
    first: dict[str, Entry] = {}
    for one in entries:
        there = first.get(one.arm)
        if there is None or one.stream < there.stream:
            first[one.arm] = one
    return list(first.values())
