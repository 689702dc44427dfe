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
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher.errors import BranchPointUnavailable
from launcher.files import canonical_json, disk_error, flush_to_disk
from launcher.layout import RunDirectory
from launcher.lease import Lease, Superseded, holder, newest_token
from launcher.lineage import utc_now
from launcher.sources.remote import RemoteFile

LOOK_SECONDS = 0.1
"""How often a process that waits for another one's download looks at it."""

Pull = Callable[[RemoteFile, Path, Callable[[], object]], None]
"""Brings one file to a path; see :meth:`launcher.sources.remote.Source.pull`."""


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
        work = RunDirectory(self._root / "fetching" / key)
        while not _complete(place, files):
            seen = newest_token(work)
            there = holder(work)
            if there is not None and there.alive:
                time.sleep(LOOK_SECONDS)
                continue
            try:
                lease = Lease(work, utc_now(), only_after=seen)
            except Superseded:
                continue
            except OSError as error:
                raise disk_error(error, work.path) from error
            try:
                if not _complete(place, files):
                    self._fetch(place, work.path, files, pull, lease)
            except Superseded:
                continue
            except OSError as error:
                raise disk_error(error, work.path) from error
            finally:
                lease.release()
        shutil.rmtree(work.path, ignore_errors=True)
        return place

    def _fetch(self, place: Path, work: Path, files: Sequence[RemoteFile], pull: Pull, lease: Lease) -> None:
        # The bytes at one offset are the same whoever writes them: what a dead process left is gone on with.
        parts = work / "parts"
        for one in files:
            part = parts / one.name
            if not part.resolve().is_relative_to(parts.resolve()):
                raise BranchPointUnavailable("A file's name leads out of its directory.", where=one.name)
            part.parent.mkdir(parents=True, exist_ok=True)
            pull(one, part, lease.aside)
            part.chmod(0o444)
            flush_to_disk(part)
        lease.aside()
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():  # Somebody took files out of it.
            place.rename(lease.aside() / "incomplete")
        parts.rename(place)
        flush_to_disk(place.parent)


def _complete(place: Path, files: Sequence[RemoteFile]) -> bool:
    with contextlib.suppress(OSError):
        sizes = [(place / one.name).stat().st_size for one in files]
        return all(one.size in (None, size) for one, size in zip(files, sizes, strict=True))
    return False
