"""Room for the siblings of a fan-out together: each alone may fit where all of them do not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from launcher.branch.room import Need, nearest, need, no_room
from launcher.fanout.check import Candidate


def note_room(candidates: Iterable[Candidate]) -> None:
    """Tell every sibling that is to be launched where its file system has no room for all of them.

    Which of them to leave out is not for a program to say.
    """
    together: dict[int, list[tuple[Candidate, Path, Need]]] = {}
    for one in candidates:
        if one.plan is not None and one.wanted and (needed := need(one.plan, one.there.step)) is not None:
            place = nearest(one.plan.directory.path)
            together.setdefault(place.stat().st_dev, []).append((one, place, needed))
    for members in together.values():
        # One that goes on has a directory of its own; all of them are told of one place.
        place = min((place for _, place, _ in members), key=lambda path: len(path.parts))
        for finding in no_room(place, [needed for _, _, needed in members]):
            for one, _, _ in members:
                one.findings.append(finding)
