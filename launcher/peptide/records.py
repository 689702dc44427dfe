"""Data files read line by line, and the records in them that had to be left out."""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launcher.errors import DataError

logger = logging.getLogger("launcher.peptide")

NAMED = 5
"""How many of the records that were left out are named one by one."""

LONGEST_QUOTE = 60
"""Characters of a file that a message quotes at most."""


def quoted(text: str) -> str:
    """A piece of a file as it can be shown on one line of a terminal."""
    shown = ascii(text[:LONGEST_QUOTE])
    return shown + "..." if len(text) > LONGEST_QUOTE else shown


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file, plain or gzipped, without their ends, counted from 1.

    Bytes that are not UTF-8 are replaced: one damaged record must not hide the others.

    Raises:
        DataError: the file is missing, is no regular file, cannot be read, or is damaged gzip.
    """
    with existing_file(path), path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        plain = gzip.GzipFile(fileobj=raw) if zipped else raw
        with io.TextIOWrapper(plain, encoding="utf-8-sig", errors="replace", newline=None) as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.rstrip("\n")


@contextmanager
def existing_file(path: Path) -> Iterator[Path]:
    """Turns whatever goes wrong in opening and reading ``path`` into one error.

    Raises:
        DataError: the file is missing, is no regular file, cannot be read, or is damaged gzip.
    """
    try:
        if not path.exists():
            raise DataError(
                "The data file does not exist.",
                where=str(path),
                found=f"nothing there; the working directory is {Path.cwd()}",
                expected="a file",
                do="set data.path to a file; a relative path is relative to the working directory",
            )
        if not path.is_file():
            raise DataError(
                "The data path is not a file.",
                where=str(path),
                found="a directory" if path.is_dir() else "a special file",
                expected="a file",
                do="set data.path to a file",
            )
        yield path
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            "The data file cannot be read.",
            where=str(path),
            found=str(error) or type(error).__name__,
            expected="a readable text file, plain or gzipped",
            do="check the file's permissions, or fetch it again",
        ) from error


class Records:
    """Counts a file's records, and names those that are malformed."""

    def __init__(self, path: Path, kind: str, strict: bool) -> None:
        self.path = path
        self.kind = kind
        self.strict = strict
        self.total = 0
        self.malformed: list[tuple[int, str]] = []
        self.unused: Counter[str] = Counter()

    def skip(self, line: int, reason: str) -> None:
        """Leave out the malformed record that starts at, or is wrong in, ``line``.

        Raises:
            DataError: with ``data.strict``.
        """
        if self.strict:
            raise DataError(
                f"Malformed {self.kind} record.",
                where=f"{self.path}:{line}",
                found=reason,
                expected="no malformed record, because of data.strict=true",
                do="correct the file, or leave such records out with data.strict=false",
            )
        self.malformed.append((line, reason))

    def report(self) -> None:
        """Say in one line what was left out, if anything was."""
        if self.malformed:
            first = "; ".join(f"{self.path}:{line}: {reason}" for line, reason in self.malformed[:NAMED])
            more = len(self.malformed) - NAMED
            logger.warning(
                "%d of %d %s records skipped: %s%s",
                len(self.malformed),
                self.total,
                self.kind,
                first,
                f"; and {more} more" if more > 0 else "",
            )
        if self.unused:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.unused.items()))
            logger.info("%s: not used: %s", self.path, reasons)

    def no_usable(self, expected: str) -> DataError:
        """The error of a file in which nothing could be used."""
        reasons = [f"line {line}: {reason}" for line, reason in self.malformed[:NAMED]]
        reasons += [f"{count} {reason}" for reason, count in sorted(self.unused.items())]
        return DataError(
            f"The data file has too few usable {self.kind} records.",
            where=str(self.path),
            found=f"{self.total} records" + (": " + "; ".join(reasons) if reasons else ""),
            expected=expected,
            do="set data.path to another file, or correct this one",
        )
