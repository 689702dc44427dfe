"""Saving beside training: the loop waits for a copy in memory, a thread does the rest."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from launcher import files, layout
from launcher.checkpoint import store
from launcher.checkpoint.buffers import Buffers, Snapshot
from launcher.checkpoint.content import describe
from launcher.checkpoint.manifest import About, Content, Manifest, StoredFile, write_manifest
from launcher.checkpoint.sink import write_state
from launcher.checkpoint.verify import verify_file
from launcher.config import CheckpointConfig
from launcher.errors import CheckpointError, LauncherError, RunFailed

_log = logging.getLogger(__name__)


class CheckpointWriter:
    """The one writer of a run's directory of checkpoints.

    ``save`` returns when the state is copied; digests, the file, the manifest and retention follow in one
    background thread, which the process cannot end without. What fails there is raised by the next
    ``check``, ``save``, ``wait`` or ``close``.

    Attributes:
        saved: the newest step that this writer published, or None.
        stall_seconds: how long the last ``save`` stopped training, waiting included.
        waits: how many saves had to wait for the one before to be on disk.
        waited_seconds: how long they did, together.
    """

    def __init__(
        self,
        directory: Path,
        retention: CheckpointConfig,
        protected: Callable[[], Collection[int]] = frozenset,
        aside: Callable[[], Path | None] = lambda: None,
    ) -> None:
        """Open ``directory``, which is created, and remove what a dead writer left half written.

        Args:
            directory: ``layout.RunDirectory.checkpoints``; no other process may write there.
            retention: which checkpoints are removed after each save.
            protected: steps that some run branched from; asked only when something would be removed.
            aside: asked before each change of the directory; gives the place to write aside in, or raises
                if this process may not write any more (:meth:`launcher.lease.Lease.aside`).

        Raises:
            RunFailed: the directory cannot be written.
        """
        self.saved: int | None = None
        self.stall_seconds = 0.0
        self.waits = 0
        self.waited_seconds = 0.0
        self._directory = directory
        self._retention = retention
        self._protected = protected
        self._aside = aside
        self._buffers = Buffers()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._open()

    def _open(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            store.remove_temporaries(self._directory)
        except OSError as error:
            raise write_failure(error, self._directory) from error

    def _path(self, step: int) -> Path:
        return self._directory / layout.checkpoint_file(step)

    def _own(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """What this process keeps a copy of."""
        return state

    def reserve(self, state: Mapping[str, Any]) -> None:
        """Prepare memory for a copy of ``state`` in the background.

        Call it once the optimizer has its state, after the first step: then the first save is as fast as
        the later ones.

        Raises:
            CheckpointError: the state holds something that a checkpoint cannot.
            RunFailed: there is not so much memory.
        """
        self.wait()
        with _memory_errors(self._directory):
            self._buffers.reserve(self._own(state))

    def save(self, state: Mapping[str, Any], about: About) -> None:
        """Copy ``state``, and write it as the checkpoint of ``about.step`` in the background.

        Raises:
            CheckpointError: the state or ``about`` holds something that a checkpoint cannot.
            RunFailed: an earlier save failed, or there is no memory for the copy.
        """
        started = time.perf_counter()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()
            self.waits += 1
            self.waited_seconds += time.perf_counter() - started
        self.wait()
        about = about.copied()
        with _memory_errors(self._directory):
            snapshot = self._buffers.copy(self._own(state))
        self._thread = threading.Thread(
            target=self._write, args=(snapshot, about), name=f"checkpoint-{about.step}"
        )
        self._thread.start()
        self.stall_seconds = time.perf_counter() - started

    def check(self) -> None:
        """Raise what failed in the background; costs nothing otherwise, so call it each step."""
        if self._failure is not None:
            self._raise_failure()

    def wait(self) -> None:
        """Return once the last save is on disk.

        Raises:
            RunFailed: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Wait, and give the memory back.

        Raises:
            RunFailed: the last save could not be written.
        """
        try:
            self.wait()
        finally:
            self._buffers.release()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What ended the block is told, not what failed beside it; that is in the log already.
        with contextlib.suppress(Exception) if error is not None else contextlib.nullcontext():
            self.close()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        assert failure is not None
        raise failure

    def _write(self, snapshot: Snapshot, about: About) -> None:
        path = self._path(about.step)
        try:
            self._publish(path, snapshot.state(), about)
        except OSError as error:
            self._failure = self._superseded() or write_failure(error, path, snapshot.bytes)
        except BaseException as error:
            self._failure = error
        if self._failure is not None:
            self._report(self._failure)
            return
        self.saved = about.step
        try:
            self._retain(about.step)
        except Exception as error:
            _log.warning("older checkpoints were kept, because they could not be removed: %s", error)

    def _report(self, failure: BaseException) -> None:
        # Logged as well: nobody may call check() any more.
        _log.error("%s", failure)

    def _publish(self, path: Path, state: dict[str, Any], about: About) -> None:
        content = describe(state, all_cores=False)
        if is_there(path, content):
            return
        with files.written_aside(path, self._aside()) as temporary:
            size, digest = write_state(state, temporary)
            # From here to the manifest there is no checkpoint of this step.
            store.unpublish(path, self._aside())
        stored = StoredFile(path.name, size, digest)
        write_manifest(layout.manifest_of(path), Manifest(about, content, stored), self._aside())

    def _superseded(self) -> LauncherError | None:
        """What a failed write means if the directory is another process's by now."""
        try:
            self._aside()
        except LauncherError as error:
            return error
        return None

    def _retain(self, just_saved: int) -> None:
        retention, directory = self._retention, self._directory
        if retention.keep_last is None:
            return
        steps = [store.step_of(each) for each in store.checkpoints(directory)]
        metric = retention.best_metric
        values = store.metric_by_step(directory, metric) if metric is not None else {}
        kept = {just_saved, *store.pinned(directory)}
        if store.removable(steps, retention, values, kept):
            kept.update(self._protected())
            for step in store.removable(steps, retention, values, kept):
                store.remove(layout.checkpoint_at(directory, step), self._aside())


def write_failure(error: OSError, path: Path, needed: int | None = None) -> RunFailed:
    """A failed write as the user is told of it: what, where, how much room there is, what to do."""
    found = None
    with contextlib.suppress(OSError):
        found = f"{files.readable_bytes(files.free_bytes(path))} free"
    return RunFailed(
        f"The checkpoint could not be written: {error.strerror or error}.",
        where=str(path),
        found=found,
        expected=f"{files.readable_bytes(needed)} free" if needed else None,
        do=(
            "make the place writable, with enough room",
            "then give the same command again: it goes on from the newest whole checkpoint",
        ),
    )


def is_there(path: Path, content: Content) -> bool:
    """Whether a whole checkpoint of this content lies at ``path``."""
    if not layout.manifest_of(path).exists():
        return False
    try:
        return verify_file(path).content.sha256 == content.sha256
    except CheckpointError:
        return False


@contextlib.contextmanager
def _memory_errors(directory: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise RunFailed(
            "There is not enough memory to copy the state for a checkpoint.",
            where=str(directory),
            found=error.strerror or str(error),
            do="train with less memory: the copy takes as much as the model and the optimizer together",
        ) from error
