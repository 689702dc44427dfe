"""Saving a divided state beside training: each rank its shards, rank 0 the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher import files, layout
from launcher.checkpoint import store
from launcher.checkpoint.buffers import Snapshot
from launcher.checkpoint.manifest import (
    About,
    Content,
    Manifest,
    StoredFile,
    parts_digest,
    write_manifest,
)
from launcher.checkpoint.shards import write_shards
from launcher.checkpoint.together import Division, FailedElsewhere, Peers, describe_divided, division
from launcher.checkpoint.writer import CheckpointWriter, is_there
from launcher.config import CheckpointConfig
from launcher.errors import LauncherError


class ShardWriter(CheckpointWriter):
    """A rank's part in writing a run's directory of checkpoints; every rank saves at the same steps.

    The directory of a checkpoint is written aside, below rank 0's lease, and renamed when all shards are on
    disk; the manifest follows. What fails at one rank is told by rank 0, or by that rank if it dies of it.
    """

    def __init__(
        self,
        directory: Path,
        retention: CheckpointConfig,
        peers: Peers,
        protected: Callable[[], Collection[int]] = frozenset,
        aside: Callable[[], Path | None] = lambda: None,
    ) -> None:
        """See :class:`CheckpointWriter`; of the other ranks only ``peers`` is looked at."""
        self._peers = peers
        self._shapes: Mapping[str, tuple[int, ...]] = {}
        super().__init__(directory, retention, protected, aside)

    def _open(self) -> None:
        if self._peers.first:
            super()._open()

    def _path(self, step: int) -> Path:
        return self._directory / layout.checkpoint_directory(step)

    def _own(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        own = division(state)
        self._shapes = own.shapes
        return own.state

    def _write(self, snapshot: Snapshot, about: About) -> None:
        super()._write(snapshot, about)
        if isinstance(self._failure, FailedElsewhere):
            self._failure = None

    def _report(self, failure: BaseException) -> None:
        # That another rank is gone shows in training too, where it is told in words.
        if isinstance(failure, LauncherError):
            super()._report(failure)

    def _publish(self, path: Path, state: dict[str, Any], about: About) -> None:
        peers, own = self._peers, Division(state, self._shapes)
        content = describe_divided(own, peers, all_cores=False)
        temporary = peers.told(lambda: self._place(path, content))
        if temporary is None:
            return
        try:
            parts = write_shards(own, temporary, peers)
            if peers.first:
                self._put(temporary, path, Manifest(about, content, parts=parts))
        except BaseException:
            if peers.first:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _place(self, path: Path, content: Content) -> Path | None:
        """Where the shards are written to; None if this very checkpoint is there."""
        if is_there(path, content):
            return None
        temporary = files.temporary_path(path, self._aside())
        temporary.mkdir()
        return temporary

    def _put(self, temporary: Path, path: Path, manifest: Manifest) -> None:
        files.flush_to_disk(temporary)
        # From here to the manifest there is no checkpoint of this step.
        store.unpublish(path, self._aside())
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        files.flush_to_disk(path.parent)
        size = sum(part.bytes for part in manifest.parts)
        stored = StoredFile(path.name, size, parts_digest(manifest.parts))
        write_manifest(layout.manifest_of(path), replace(manifest, file=stored), self._aside())

    def _retain(self, just_saved: int) -> None:
        if self._peers.first:
            super()._retain(just_saved)
