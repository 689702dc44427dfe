"""What a cluster has: partitions, limits, accounts. Asked before anything is submitted."""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass, field

from launcher.errors import ConfigError
from launcher.launchers.jobs.queries import SlurmError, ask, number


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike."""

    count: int
    cpus: int
    memory_mb: int
    gres: str
    """``gpu:a100:4,…``; empty if there are none."""
    features: tuple[str, ...]

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        found = re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", self.gres)
        return sum(int(number) for number in found)


@dataclass(frozen=True)
class Partition:
    """What a partition has."""

    name: str
    default: bool
    up: bool
    minutes: float | None
    """Longest time of a job; None: as long as it wants."""
    nodes: list[NodeKind] = field(default_factory=list)

    def __str__(self) -> str:
        limit = "no time limit" if self.minutes is None else f"at most {self.minutes:.0f} min"
        kinds = ", ".join(
            f"{kind.count} x {kind.cpus} CPUs {kind.memory_mb // 1024} GB"
            + (f" {kind.gpus} GPUs" if kind.gpus else "")
            for kind in self.nodes
        )
        return f"{self.name} ({'' if self.up else 'not up; '}{limit}; {kinds})"


def partitions() -> dict[str, Partition]:
    """The partitions that this user may see, by name.

    Raises:
        SlurmError: the controller gave no answer.
    """
    found: dict[str, Partition] = {}
    for line in ask("sinfo", "-h", "-e", "-o", "%P|%a|%l|%c|%m|%G|%f|%D").splitlines():
        name, state, limit, cpus, memory, gres, features, count = line.strip().split("|")
        bare = name.removesuffix("*")
        one = found.setdefault(bare, Partition(bare, name.endswith("*"), state == "up", minutes(limit)))
        one.nodes.append(
            NodeKind(
                int(count), number(cpus), number(memory), _given(gres), tuple(_given(features).split(","))
            )
        )
    return found


def minutes(limit: str) -> float | None:
    """Minutes of SLURM's ``[DAYS-]HOURS:MINUTES:SECONDS`` or ``MINUTES:SECONDS``; None: no limit."""
    if limit in ("infinite", "n/a", "UNLIMITED", "INVALID"):
        return None
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, mins, seconds = ([0] * (3 - len(parts)) + parts) if len(parts) > 1 else (0, parts[0], 0)
    return int(days or 0) * 1440 + hours * 60 + mins + seconds / 60


def largest_array() -> int:
    """How many tasks an array may have; 0: the cluster takes no arrays.

    Raises:
        SlurmError: the controller gave no answer.
    """
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    return int(match[1]) if match else 0


def accounts() -> list[str]:
    """``account (qos,qos)`` of each that this user may charge; empty without accounting."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name  # USER may be unset, or somebody else's after `su`.
        lines = ask("sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account,qos").splitlines()
    except (SlurmError, ConfigError, KeyError):
        return []
    return sorted({"{} ({})".format(*line.split("|", maxsplit=1)) for line in lines if "|" in line})


def qualities() -> list[str]:
    """The qualities of service that there are; empty without accounting."""
    try:
        return sorted(ask("sacctmgr", "-nP", "show", "qos", "format=name").split())
    except (SlurmError, ConfigError):
        return []


def _given(text: str) -> str:
    return "" if text in ("(null)", "N/A") else text
