"""Room on this machine: how many processes fit, on which GPU each runs, and with how many threads."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.files import cores
from launcher.launchers.sibling import Sibling

_GPU = re.compile(r"^(\s*)(?:GPU|MIG)\b.*\(UUID: ((?:GPU|MIG)-[^)]+)\)")


def find_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that a process may use, each as ``CUDA_VISIBLE_DEVICES`` names it.

    CUDA itself is not asked: a process that has once used it cannot fork others that do. A GPU that is
    divided (MIG) counts as its parts.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        named = [name.strip() for name in visible.split(",")]
        # CUDA ignores everything after the first name that is none.
        end = next((at for at, name in enumerate(named) if name in ("", "-1", "NoDevFiles")), len(named))
        return named[:end]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"],
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    found: list[str] = []
    whole = ""
    for match in filter(None, map(_GPU.match, listed.stdout.splitlines())):
        part, uuid = bool(match[1]), match[2]
        if part and whole in found:
            found.remove(whole)
        if not part:
            whole = uuid
        found.append(uuid)
    return found


@dataclass(frozen=True)
class Place:
    """What a sibling runs on."""

    slots: tuple[int, ...]
    gpus: tuple[str, ...]
    """As ``CUDA_VISIBLE_DEVICES`` names them; none: it runs on the CPU."""


class Slots:
    """Places to run, each of which is taken by one sibling at a time.

    On the CPU a slot is a core, or, where their number is given, room for a process; with GPUs it is a
    share of one, for one process.

    Args:
        siblings: who will come.
        gpus: GPUs to share out; none: the CPU.
        per_gpu: processes on one GPU.
        limit: processes at the same time; None: as many as there are GPU shares or cores for.
        max_parallel: siblings at the same time; None: as many as fit. Who is alone has all cores.
    """

    def __init__(
        self,
        siblings: Sequence[Sibling],
        gpus: Sequence[str] = (),
        per_gpu: int = 1,
        limit: int | None = None,
        max_parallel: int | None = None,
    ) -> None:
        self._gpus = list(gpus)
        self._by_core = not gpus and limit is None
        room = len(gpus) * per_gpu or cores()
        self.count = room if limit is None else min(limit, room) if gpus else limit
        self._free = set(range(self.count))
        processes = sum(sorted((one.nproc for one in siblings), reverse=True)[:max_parallel])
        # Threads that fight for a core cost more than a core that idles.
        self._share = max(1, cores() // max(1, min(self.count, processes)))

    def threads(self, sibling: Sibling) -> int:
        """CPU threads of each of a sibling's processes: its own wish, else an equal share of the cores."""
        return sibling.threads or self._share

    def needed(self, sibling: Sibling) -> int:
        """Slots that a sibling takes; on the CPU at most all there are."""
        wanted = sibling.nproc * (self.threads(sibling) if self._by_core else 1)
        return wanted if self._gpus else min(wanted, self.count)

    def take(self, sibling: Sibling) -> Place | None:
        """A place for a sibling; None while there is none."""
        wanted = self.needed(sibling)
        chosen = self._on_gpus(wanted) if self._gpus else sorted(self._free)[:wanted]
        if len(chosen) < wanted:
            return None
        self._free.difference_update(chosen)
        return Place(tuple(chosen), tuple(self._gpu(slot) for slot in chosen) if self._gpus else ())

    def give_back(self, place: Place) -> None:
        """The place is free again."""
        self._free.update(place.slots)

    def _gpu(self, slot: int) -> str:
        return self._gpus[slot % len(self._gpus)]

    def _on_gpus(self, wanted: int) -> list[int]:
        """Free slots on different GPUs, those with the most room first."""
        room = Counter(self._gpu(slot) for slot in self._free)
        best: dict[str, int] = {}
        for slot in sorted(self._free, key=lambda slot: (-room[self._gpu(slot)], slot)):
            best.setdefault(self._gpu(slot), slot)
        return list(best.values())[:wanted]
