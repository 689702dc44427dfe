"""A directory of checkpoints: which are there, which may go, and how they go."""

from __future__ import annotations

import contextlib
import math
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from launcher import files, layout
from launcher.checkpoint.manifest import read_manifest
from launcher.config import CheckpointConfig
from launcher.errors import CheckpointError

_TEMPORARY = re.compile(
    r"^\.checkpoint_step_\d+(\.pt|\.json)?\.\d+" + re.escape(files.TEMPORARY_SUFFIX) + "$"
)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's file name.

    Raises:
        CheckpointError: the launcher does not name checkpoints so.
    """
    step = layout.checkpoint_step(checkpoint.name)
    if step is None or checkpoint.name not in (
        layout.checkpoint_file(step),
        layout.checkpoint_directory(step),
    ):
        raise CheckpointError(
            "This is not the name of a checkpoint.",
            where=str(checkpoint.parent),
            found=checkpoint.name,
            expected=layout.checkpoint_file(15000),
        )
    return step


def checkpoints(directory: Path) -> list[Path]:
    """Checkpoints of which state and manifest are there, by ascending step; nothing is opened.

    A directory that does not exist holds none.
    """
    names = _names(directory)
    return [path for path in _published(directory, names) if path.name in names]


def newest_step(directory: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none.

    The record of a run that was killed may not know of it yet.
    """
    return max(map(step_of, checkpoints(directory)), default=0)


def published(directory: Path) -> list[Path]:
    """Checkpoints that have a manifest, by ascending step, even where the state itself is lost."""
    return _published(directory, _names(directory))


def _published(directory: Path, names: set[str]) -> list[Path]:
    found = {}
    for name in names:
        stem = name.removesuffix(".json")
        step = layout.checkpoint_step(stem) if stem != name else None
        if step is not None and stem == layout.checkpoint_directory(step):
            found[step] = stem if stem in names else layout.checkpoint_file(step)
    return [directory / found[step] for step in sorted(found)]


def _names(directory: Path) -> set[str]:
    try:
        return {path.name for path in directory.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def removable(
    steps: Iterable[int],
    retention: CheckpointConfig,
    metrics: Mapping[int, float],
    protected: Collection[int],
) -> list[int]:
    """The steps whose checkpoints may be removed, ascending. The newest never is one.

    Args:
        steps: of the checkpoints that are there.
        retention: ``keep_last``, ``keep_every``, ``best_metric``, ``best_mode`` are looked at.
        metrics: value of ``best_metric`` by step, where it is known; NaN counts as unknown.
        protected: steps that stay whatever else holds: pinned, or branched from.
    """
    present = sorted(set(steps))
    if retention.keep_last is None:
        return []
    kept = {*protected, *present[-max(retention.keep_last, 1) :]}
    if retention.keep_every is not None:
        kept.update(step for step in present if step % retention.keep_every == 0)
    if retention.best_metric is not None:
        known = [step for step in present if not math.isnan(metrics.get(step, math.nan))]
        sign = 1 if retention.best_mode == "max" else -1
        kept.update([max(known, key=lambda step: (sign * metrics[step], -step))] if known else [])
    return [step for step in present if step not in kept]


def metric_by_step(directory: Path, metric: str) -> dict[int, float]:
    """The value of ``metric`` in every manifest that has it and can be read."""
    values: dict[int, float] = {}
    for checkpoint in checkpoints(directory):
        with contextlib.suppress(CheckpointError):
            value = read_manifest(checkpoint).about.metrics.get(metric)
            if isinstance(value, (int, float)):
                values[step_of(checkpoint)] = float(value)
    return values


def pinned(directory: Path) -> set[int]:
    """Steps whose checkpoints were pinned."""
    return {step_of(each) for each in checkpoints(directory) if layout.pin_of(each).exists()}


def unpublish(checkpoint: Path, aside: Path | None = None) -> None:
    """Take the manifest away, durably: from here on the checkpoint does not exist.

    Args:
        checkpoint: the state's file or directory.
        aside: where the manifest is moved to before it is removed; see :func:`launcher.files.written_aside`.

    Raises:
        OSError: the directory cannot be written, or ``aside`` is gone.
    """
    manifest = layout.manifest_of(checkpoint)
    if not manifest.exists():
        return
    if aside is not None:
        manifest = manifest.replace(aside / manifest.name)
    manifest.unlink(missing_ok=True)
    files.flush_to_disk(checkpoint.parent)


def remove(checkpoint: Path, aside: Path | None = None) -> None:
    """Remove a checkpoint: the manifest first, so that after a kill in between there is none.

    Raises:
        OSError: the directory cannot be written, or ``aside`` is gone.
    """
    unpublish(checkpoint, aside)
    _remove_state(checkpoint)
    files.flush_to_disk(checkpoint.parent)


def _remove_state(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_temporaries(directory: Path) -> list[str]:
    """Remove what dead writers left half written; their names.

    Whose they are is not asked: a process id says nothing on a network file system that other hosts
    write to, and a run's directory has one writer. A second one that still lives fails when it renames.
    """
    names = sorted(name for name in _names(directory) if _TEMPORARY.match(name))
    for name in names:
        _remove_state(directory / name)
    return names
