"""Room on disk: what the checkpoints to come will take, and whether it is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.checkpoint.store import checkpoints
from launcher.files import free_bytes, readable_bytes
from launcher.findings import Finding

if TYPE_CHECKING:
    # Looking at runs uses this file too, and does without Hydra, which plans need.
    from launcher.branch.plan import Plan


@dataclass(frozen=True)
class Need:
    """What a run's checkpoints will take, beyond what is there of them."""

    count: int
    """Checkpoints that there will be more at its end."""
    each: int
    """Bytes of one: the branch point's."""
    aside: bool
    """Whether an old one goes only once a new one is there, so that there is one more for a moment."""

    @property
    def bytes(self) -> int:
        """What there will be more on disk at the run's end."""
        return self.count * self.each


def need(planned: Plan, reached: int = 0) -> Need | None:
    """What a run will take; None where nobody knows how large its checkpoints are.

    Args:
        planned: the run.
        reached: step of its newest checkpoint, of a run that goes on.
    """
    if planned.point is None or planned.point.manifest.file is None:
        return None
    kept = planned.config.checkpoint
    left = planned.end_step - max(planned.start.step, reached)
    count = math.ceil(left / kept.every)
    if kept.keep_last is not None:
        there = len(checkpoints(planned.directory.checkpoints)) if reached else 0
        count = min(count, max(kept.keep_last - there, 0))
    return Need(count, planned.point.manifest.file.bytes, kept.keep_last is not None)


def nearest(place: Path) -> Path:
    """The directory itself, or that of its parents which is there."""
    while not place.exists():
        place = place.parent
    return place


def no_room(place: Path, needs: Sequence[Need]) -> list[Finding]:
    """Whether the checkpoints of these runs fit on the file system of ``place``, all together.

    No more is asked for than will surely be there: of old checkpoints that go once a new one is there, one
    at a time.
    """
    total = sum(each.bytes for each in needs)
    total += max((each.each for each in needs if each.aside), default=0)
    free = free_bytes(place)
    if free >= total:
        return []
    sizes = {each.each for each in needs}
    count = sum(each.count for each in needs) or 1
    what = f"{readable_bytes(total)}: {count} checkpoint{'s' if count > 1 else ''}"
    if len(sizes) == 1:
        what += f" of {readable_bytes(sizes.pop())}"
    do = "free some space, or paths.outputs=DIR, checkpoint.every=N, checkpoint.keep_last=N"
    if len(needs) > 1:
        what += f", of {len(needs)} siblings together"
        do += ", or launch fewer siblings"
    return [Finding("error", "paths.outputs", f"{readable_bytes(free)} free at {place}", what, do)]
