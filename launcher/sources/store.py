"""Fetched files, each set of them once on a machine or a shared file system, however many processes want it.

``objects/KEY/`` is a set of files, complete and never changed; the key is made of their names and digests.
``fetching/KEY/`` is one on its way. Who fetches it has a lease there (:mod:`launcher.lease`): taken by the
rename of a directory, so that it holds where locks of files do nothing, and kept by signs of life, so that
the files of a process that died are gone on with by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from launcher.errors import BranchPointUnavailable
from launcher.files import canonical_json, disk_error, flush_to_disk, read_json_object, write_json
from launcher.layout import RunDirectory
from launcher.lease import Lease, Superseded, holder, newest_token
from launcher.lineage import utc_now
from launcher.process import Process
from launcher.sources.remote import RemoteFile

_T = TypeVar("_T")
LOOK_SECONDS = (0.02, 0.5)
"""The shortest and the longest pause of a process that waits for another one's download."""
LOOK_SHARE = 0.03
"""Pause, as a share of the time that it has waited."""

Pull = Callable[[RemoteFile, Path, Callable[[], object]], None]
"""Brings one file to a path; see :meth:`launcher.sources.remote.Source.pull`."""

Find = Callable[[Callable[[], object]], tuple[str, Path]]
"""What a reference leads to; see :meth:`Store.known`."""


def key_of(files: Sequence[RemoteFile]) -> str:
    """32 hex digits that sets of files share exactly if their names and contents are equal."""
    listing = sorted([one.name, one.size, one.digest or one.mark] for one in files)
    return hashlib.sha256(canonical_json(listing)).hexdigest()[:32]


class Store:
    """One directory of fetched files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def fetched(self, files: Sequence[RemoteFile], pull: Pull) -> Path:
        """The directory with ``files``, fetched by this process or by another one that was faster.

        Raises:
            BranchPointUnavailable: it cannot be had.
            RunFailed: the store cannot be written.
        """
        key = key_of(files)
        place = self._root / "objects" / key

        def there() -> Path | None:
            return place if _complete(place, [(one.name, one.size) for one in files]) else None

        work = self._root / "fetching" / key
        return self._once(key, there, lambda lease: self._fetch(place, work, files, pull, lease))

    def known(self, asked: str, find: Find, moves: bool = False) -> tuple[str, Path]:
        """What ``find`` finds for a reference, asked for once for all processes that want it.

        Args:
            asked: the reference, and whatever else decides what it means.
            find: the reference as it is recorded, and the path that it leads to; calls what it is given
                when it puts its question.
            moves: it may mean something else later. An answer then counts for those only who wanted it
                before the question was put: they would have been told the same.
        """
        key = hashlib.sha256(asked.encode()).hexdigest()[:32]
        note = self._root / "known" / f"{key}.json"
        machine, since = Process.this().machine, time.monotonic()

        def there() -> tuple[str, Path] | None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                told = read_json_object(note)
                if moves and (told["machine"] != machine or told["asked"] < since):
                    return None
                if told.get("failed"):
                    # Not one after the other: each may have to wait for long.
                    return find(lambda: None)
                if _complete(self._root, told["files"]):
                    return str(told["exact"]), self._root / told["path"]
            return None

        def ask(lease: Lease) -> tuple[str, Path]:
            # And not the reference: it may contain a key.
            told: dict[str, Any] = {"machine": machine, "asked": time.monotonic()}
            note.parent.mkdir(exist_ok=True)
            try:
                found, path = find(lambda: told.update(asked=time.monotonic()))
            except BranchPointUnavailable:
                if moves:
                    write_json(note, {**told, "failed": True}, lease.aside())
                raise
            if path.is_relative_to(self._root):
                top = self._root.joinpath(*path.relative_to(self._root).parts[:2])
                inside = [one for one in sorted(top.rglob("*")) if one.is_file()]
                files = [(str(one.relative_to(self._root)), one.stat().st_size) for one in inside]
                told |= {"exact": found, "path": str(path.relative_to(self._root)), "files": files}
                write_json(note, told, lease.aside())
            return found, path

        return self._once(key, there, ask)

    def _once(self, key: str, there: Callable[[], _T | None], do: Callable[[Lease], _T]) -> _T:
        """What is there, or what one process at a time does about it."""
        work = RunDirectory(self._root / "fetching" / key)
        begun = time.monotonic()
        while (found := there()) is None:
            seen = newest_token(work)
            last = holder(work)
            if last is not None and last.alive:
                shortest, longest = LOOK_SECONDS
                time.sleep(min(max(LOOK_SHARE * (time.monotonic() - begun), shortest), longest))
                continue
            try:
                lease = Lease(work, utc_now(), only_after=seen)
            except Superseded:
                continue
            except OSError as error:
                raise disk_error(error, work.path) from error
            try:
                # Somebody may have come to the end since we looked.
                found = there() or do(lease)
                break
            except Superseded:
                continue
            except OSError as error:
                raise disk_error(error, work.path) from error
            finally:
                lease.release()
        # The lease's directory stays: another process may be about to take its turn in it.
        return found

    def _fetch(self, place: Path, work: Path, files: Sequence[RemoteFile], pull: Pull, lease: Lease) -> Path:
        # The bytes at one offset are the same whoever writes them: what a dead process left is gone on with.
        parts = work / "parts"
        for one in files:
            part = parts / one.name
            if not part.resolve().is_relative_to(parts.resolve()):
                raise BranchPointUnavailable("A file's name leads out of its directory.", where=one.name)
            part.parent.mkdir(parents=True, exist_ok=True)
            pull(one, part, lease.aside)
            flush_to_disk(part)
        for one in files:
            (parts / one.name).chmod(0o444)
        lease.aside()
        place.parent.mkdir(parents=True, exist_ok=True)
        incomplete = lease.aside() / "incomplete"
        if place.exists():  # Somebody took files out of it.
            place.rename(incomplete)
        parts.rename(place)
        shutil.rmtree(incomplete, ignore_errors=True)
        flush_to_disk(place.parent)
        return place


def _complete(place: Path, files: Iterable[tuple[str, int | None]]) -> bool:
    with contextlib.suppress(OSError):
        return all(size in (None, (place / name).stat().st_size) for name, size in files)
    return False
