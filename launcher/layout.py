"""Names and places: what runs, groups and checkpoints are called, and where they lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TRUNKS = "trunks"
"""Directory of the runs that started from nothing."""
SCRATCH = "scratch"
"""Directory of the runs that were asked to start from scratch because a branch point was not to be had."""

_STEP_WORD = r"(?:(?:global[_-]?)?step|ckpt|checkpoint|iter)"
_STEP_NAME = re.compile(rf"^(?:epoch=\d+-)?{_STEP_WORD}(?:[_-]?{_STEP_WORD})*[_=-]*(\d+)(k?)$", re.IGNORECASE)
_STEP_INSIDE_NAME = re.compile(
    r"(?:step|iter|ckpt|checkpoint)[^\dA-Za-z]{0,3}(\d+)(k?)(?![\dA-Za-z])", re.IGNORECASE
)
_SUFFIX = re.compile(r"(\.safetensors\.index\.json|\.(pt|pth|ckpt|bin|safetensors))$")
_CHECKPOINT = re.compile(r"^checkpoint_step_(\d+)(?:\.pt)?$")


@dataclass(frozen=True)
class RunDirectory:
    """The places inside one run's directory."""

    path: Path

    @property
    def record(self) -> Path:
        """The run record."""
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One line for each logged step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """States and their manifests."""
        return self.path / "checkpoints"

    @property
    def artifacts(self) -> Path:
        """Which checkpoints are in W&B, under which names."""
        return self.path / "artifacts.json"

    @property
    def leases(self) -> Path:
        """One directory for each start's fencing token; see :mod:`launcher.lease`."""
        return self.path / ".lease"

    @property
    def launch(self) -> Path:
        """How the run was launched; see :mod:`launcher.launchers.sibling`."""
        return self.path / "launch.json"

    @property
    def log(self) -> Path:
        """What the run's process printed, where a launcher caught it."""
        return self.path / "log.txt"

    @property
    def restored(self) -> Path:
        """Manifest of the live state that a control was restored to, before its first step."""
        return self.path / "restored.json"


def checkpoint_file(step: int) -> str:
    """``checkpoint_step_15000.pt``."""
    return f"checkpoint_step_{step}.pt"


def checkpoint_directory(step: int) -> str:
    """``checkpoint_step_15000``: of a run whose processes each write their shards."""
    return f"checkpoint_step_{step}"


def checkpoint_at(directory: Path, step: int) -> Path:
    """The checkpoint of a step in a run's directory of checkpoints, whichever of the two forms it has."""
    sharded = directory / checkpoint_directory(step)
    return sharded if sharded.is_dir() else directory / checkpoint_file(step)


def checkpoint_step(name: str) -> int | None:
    """The step of a checkpoint that the launcher named; None for any other name."""
    match = _CHECKPOINT.match(name)
    return int(match[1]) if match else None


def manifest_of(checkpoint: Path) -> Path:
    """The manifest beside a checkpoint."""
    return checkpoint.with_suffix(".json")


def pin_of(checkpoint: Path) -> Path:
    """The mark beside a checkpoint that keeps it from ever being removed."""
    return checkpoint.with_suffix(".pin")


def short_step(step: int) -> str:
    """``15k`` for 15 000, ``15500`` for 15 500."""
    return f"{step // 1000}k" if step and step % 1000 == 0 else str(step)


def step_in_name(name: str) -> int | None:
    """The step in a checkpoint's name: ``checkpoint-15000``, ``ckpt_15k.pt``, ``epoch=3-step=15000.ckpt``."""
    found = list(_STEP_INSIDE_NAME.finditer(_SUFFIX.sub("", name)))
    return _thousands(found[-1]) if found else None


def _thousands(match: re.Match[str] | None) -> int | None:
    return int(match[1]) * (1000 if match[2] else 1) if match else None


def group_name(checkpoint: str, step: int | None = None) -> str:
    """The group of the siblings that start from ``checkpoint``.

    Args:
        checkpoint: a checkpoint's file or directory name, or an artifact's ``entity/project/name:version``.
        step: the step inside it, where its name does not say.
    """
    stem = checkpoint.rstrip("/").rsplit("/", 1)[-1]
    stem = _SUFFIX.sub("", stem)
    named = _thousands(_STEP_NAME.match(stem))
    if named is not None:
        return f"checkpoint-{short_step(named)}-experiments"
    name = legal_name(stem)
    if step is not None and ":" not in stem:
        name = f"{name}-{short_step(step)}"
    return f"{name}-experiments"


def legal_name(text: str) -> str:
    """``text`` with everything replaced that a directory, a W&B id or a SLURM job may not contain."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")
    return name or "unnamed"


def run_id(job_type: str, signature: str, longest: int = 120) -> str:
    """``fixed-spectrum-1a2b3c4d``: also the run's directory name and its id in the trackers."""
    return f"{legal_name(job_type)[: longest - len(signature) - 1]}-{signature}"
