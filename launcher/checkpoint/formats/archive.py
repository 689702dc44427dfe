"""The zip container of ``torch.save``: records that are stored as they are, and nothing else.

A zip can lie: entries that unpack to more than the file holds, that overlap, or that lie outside it.
``torch.save`` writes none of these, so none is read.
"""

from __future__ import annotations

import io
import mmap
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

from launcher import files
from launcher.checkpoint.formats.protocol import refuse

LARGEST_PICKLE = 256 << 20
"""Bytes of the part of a file that is not tensors; some millions of tensors need less."""
_HEADER = 30
_EXPECTED = "a file as torch.save writes it"


class Record(NamedTuple):
    """A storage's bytes in the file."""

    start: int
    length: int
    crc: int


class Archive(NamedTuple):
    """What is in the container."""

    pickle: bytes
    storages: Mapping[str, Record]


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def read_archive(path: Path, start: int = 0, length: int | None = None, *, crc: bool = False) -> Archive:
    """The container in a file, or in a slice of it; no storage is read, unless ``crc`` asks to check all.

    Raises:
        CheckpointError: it is none, is damaged, or claims what a file of its length cannot hold.
    """
    try:
        with path.open("rb") as file:
            if length is not None:
                file.seek(start)
                data = file.read(length)
                archive = _read(path, io.BytesIO(data), len(data))
                if crc:
                    _check_crc(path, memoryview(data), archive)
                return archive
            archive = _read(path, file, file.seek(0, io.SEEK_END))
            if crc:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages, memoryview(pages) as view:
                    _check_crc(path, view, archive)
            return archive
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, RuntimeError) as error:
        refuse(path, str(error) or type(error).__name__, f"{_EXPECTED}, since PyTorch 1.6")


def _read(path: Path, file: IO[bytes], size: int) -> Archive:
    with zipfile.ZipFile(file) as container:
        entries = sorted(container.infolist(), key=lambda entry: entry.header_offset)
        reached = 0
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                refuse(path, f"{entry.filename} is compressed or encrypted", _EXPECTED)
            if entry.file_size != entry.compress_size or entry.header_offset < reached:
                refuse(path, f"{entry.filename} lies about its size or place", _EXPECTED)
            reached = entry.header_offset + _HEADER + len(entry.filename) + entry.file_size
            if reached > size:
                refuse(path, f"{entry.filename} ends after the file does", _EXPECTED)
        names = {entry.filename: entry for entry in entries}
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1 or len(names) != len(entries):
            refuse(path, f"a zip with {len(pickles)} pickles of torch.save", _EXPECTED)
        prefix = pickles[0].removesuffix("data.pkl")
        if prefix + "constants.pkl" in names:
            refuse(path, "a TorchScript archive, which holds code", _EXPECTED)
        if names[pickles[0]].file_size > LARGEST_PICKLE:
            refuse(
                path, "a pickle that is too large", f"at most {files.readable_bytes(LARGEST_PICKLE)} of it"
            )
        storages = {
            name.removeprefix(prefix + "data/"): _record(path, file, entry, size)
            for name, entry in names.items()
            if name.startswith(prefix + "data/")
        }
        return Archive(container.read(pickles[0]), storages)


def _record(path: Path, file: IO[bytes], entry: zipfile.ZipInfo, size: int) -> Record:
    # The name and the padding before the data are as long as the record's own header says.
    file.seek(entry.header_offset)
    header = file.read(_HEADER)
    if len(header) < _HEADER or header[:4] != b"PK\x03\x04":
        refuse(path, f"no record at the place of {entry.filename}", _EXPECTED)
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    start = entry.header_offset + _HEADER + name + extra
    if start + entry.file_size > size:
        refuse(path, f"{entry.filename} ends after the file does", _EXPECTED)
    return Record(start, entry.file_size, entry.CRC)


def _check_crc(path: Path, view: memoryview, archive: Archive) -> None:
    def whole(one: tuple[str, Record]) -> str | None:
        with view[one[1].start : one[1].start + one[1].length] as data:
            return None if zlib.crc32(data) == one[1].crc else one[0]

    with ThreadPoolExecutor(files.cores()) as pool:
        damaged = [name for name in pool.map(whole, archive.storages.items()) if name is not None]
    if damaged:
        refuse(
            path,
            f"{len(damaged)} storages with other bytes than were written: {', '.join(damaged[:3])}",
            "checksums that hold; torch.serialization.set_crc32_options(False) leaves them out",
            "The checkpoint is damaged.",
        )
