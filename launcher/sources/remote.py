"""What every kind of source offers, and how its failures are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from launcher.errors import BranchPointUnavailable


class Broken(Exception):
    """A transfer broke off, or a server failed, in a way that the next try may not; says why."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a source."""

    name: str
    """Its path below what the reference names, with slashes."""
    size: int | None
    """Bytes, where the source says."""
    digest: str | None = None
    """``md5:HEX`` and the like, as :func:`launcher.sources.transfer.digest_of` gives it."""
    mark: str | None = None
    """What changes when the file does (an ETag, a time), where there is no digest."""
    local: Path | None = None
    """The file itself, where the source only refers to one that can be read from here."""


class Source(Protocol):
    """Files behind one reference. Entered, it can be asked; left, nothing of it goes on."""

    exact: str
    """The reference with everything resolved that can move: a version instead of ``latest``."""
    single: bool
    """Whether the reference names one file; a manifest beside it comes with it."""

    def files(self) -> Sequence[RemoteFile]:
        """What is there; only names, sizes, digests.

        Raises:
            BranchPointUnavailable: nothing is there, or nobody may see it.
            Broken: it could not be found out.
        """

    def pull(self, file: RemoteFile, part: Path, check: Callable[[], object]) -> None:
        """Bring ``part`` up to the whole file, going on from the bytes that it has where that can be done.

        Args:
            file: one of ``files``.
            part: what is there so far; it may not exist.
            check: called now and again before a write; raises if this process may not write any more.

        Raises:
            BranchPointUnavailable: it cannot be had.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def unavailable(reference: str, why: str, do: str = "check the reference, or give others: branch.mirrors"
                ) -> BranchPointUnavailable:  # fmt: skip
    """A source that cannot be had, and why."""
    return BranchPointUnavailable(f"It cannot be fetched: {why}.", where=reference, do=do)


def not_installed(reference: str, package: str, extra: str) -> BranchPointUnavailable:
    """A source whose package is missing."""
    why = f"the package {package} is not installed"
    return unavailable(reference, why, f"pip install 'checkpoint-launcher[{extra}]'")
