"""torch.distributed.checkpoint: a directory that any number of processes wrote, each its parts.

PyTorch reads ``.metadata`` with plain pickle, and so runs whatever is in it. Here it is read as data, and a
name in it that such a file does not need is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from launcher.checkpoint.formats.archive import LARGEST_PICKLE
from launcher.checkpoint.formats.customary import customary
from launcher.checkpoint.formats.pickles import read_pickle
from launcher.checkpoint.formats.places import inside
from launcher.checkpoint.formats.protocol import (
    ITEM_BYTES,
    Entries,
    Opener,
    Piece,
    TensorFacts,
    Unread,
    refuse,
)
from launcher.errors import CheckpointError

_METADATA = ".metadata"
STRUCTURE = "structure"
"""Entry of the launcher's own directories; see :mod:`launcher.checkpoint.shards`."""
_EXPECTED = "the .metadata that torch.distributed.checkpoint writes"
_CLASSES = (
    *(f"metadata.{name}" for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
        "TensorProperties", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    )),
    "filesystem._StorageInfo",
)  # fmt: skip


class _Place(NamedTuple):
    name: str
    start: int
    length: int


class Distributed:
    """A directory with ``.metadata`` and ``__0_0.distcp``."""

    name = "torch-distributed"

    def recognises(self, path: Path) -> bool:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return (path / _METADATA).is_file()

    def files(self, path: Path) -> list[Path]:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        parts = sorted(one.name for one in path.iterdir() if one.suffix == ".distcp")
        return [path / _METADATA, *(inside(path, name) for name in parts)]

    def entries(self, path: Path, opener: Opener) -> Entries:
        """See :class:`~launcher.checkpoint.formats.protocol.Format`."""
        return customary(path, nested_entries(path, opener))


def nested_entries(path: Path, opener: Opener) -> dict[str, Any]:
    """What a directory holds, as nested dicts and lists.

    Raises:
        CheckpointError: it is damaged, or its ``.metadata`` names what no checkpoint needs.
    """
    entries, paths = flat_entries(path, opener)
    try:
        nested = _Nested(paths)
        for name, value in entries.items():
            nested.put(name, value)
    except Exception as error:
        # What the file says may be anything; that it is no checkpoint is all there is to tell.
        refuse(path / _METADATA, f"{type(error).__name__}: {error}", _EXPECTED)
    return nested.top


def flat_entries(path: Path, opener: Opener) -> tuple[dict[str, Any], Any]:
    """Each entry of a directory by its dotted name, and what the planner noted about these names.

    Raises:
        CheckpointError: it is damaged, or its ``.metadata`` names what no checkpoint needs.
    """
    metadata = read_metadata(path)
    try:
        places = _places(metadata["storage_data"])
        entries = {
            str(name): _entry(path, str(name), entry, places, opener)
            for name, entry in metadata["state_dict_metadata"].items()
        }
        return entries, metadata.get("planner_data")
    except CheckpointError:
        raise
    except Exception as error:
        refuse(path / _METADATA, f"{type(error).__name__}: {error}", _EXPECTED)


def read_metadata(path: Path) -> dict[str, Any]:
    """The fields of ``.metadata``, read without making any object of PyTorch's.

    Raises:
        CheckpointError: it is damaged, or names something that such a file does not need.
    """
    file = inside(path, _METADATA)
    try:
        if file.stat().st_size > LARGEST_PICKLE:
            raise ValueError("it is too large")
        strange: set[str] = set()
        held = read_pickle(file.read_bytes(), _known(), seen=strange)
    except Exception as error:
        refuse(file, f"{type(error).__name__}: {error}", _EXPECTED)
    if strange:
        raise CheckpointError(
            "The .metadata of the checkpoint names what no checkpoint needs. Nothing in it was executed.",
            where=str(file),
            found=", ".join(sorted(strange)),
            expected=_EXPECTED,
            do="do not load it with PyTorch, which would execute it",
        )
    if not isinstance(held, Unread) or not isinstance(held.state, dict):
        refuse(file, f"a {type(held).__name__}", _EXPECTED)
    return held.state


def _known() -> Mapping[str, Any]:
    known: dict[str, Any] = {
        f"torch.distributed.checkpoint.{name}": lambda *arguments, name=name: Unread(name, arguments)
        for name in _CLASSES
    }
    return {
        **known,
        "collections.OrderedDict": lambda items=(): dict(items),
        "torch.Size": lambda sizes=(): tuple(sizes),
        "torch.serialization._get_layout": str,
        "pathlib.PosixPath": lambda *parts: "/".join(map(str, parts)),
        "pathlib._local.PosixPath": lambda *parts: "/".join(map(str, parts)),
        **{f"torch.{dtype}": dtype for dtype in ITEM_BYTES},
    }


def _places(storage: Any) -> dict[tuple[str, tuple[int, ...] | None], _Place]:
    """Where each part of each entry lies: by its name and its offset in the whole."""
    places = {}
    for index, info in storage.items():
        if info.state.get("transform_descriptors"):
            raise ValueError("parts that are compressed or encrypted")
        start, length = info.state["offset"], info.state["length"]
        if type(start) is not int or type(length) is not int or start < 0 or length < 0:
            raise ValueError("a part at no place")
        offset = index.state.get("offset")
        key = (index.state["fqn"], None if offset is None else tuple(offset))
        places[key] = _Place(info.state["relative_path"], start, length)
    return places


def _entry(path: Path, name: str, entry: Any, places: Mapping[Any, _Place], opener: Opener) -> Any:
    if entry.name.endswith("BytesStorageMetadata"):
        place = places[name, None] if (name, None) in places else places[name, ()]
        return opener.torch_bytes(inside(path, place.name), place.start, place.length)
    size = _numbers(entry.state["size"])
    facts = TensorFacts(size, str(entry.state["properties"].state[0]))
    pieces = {}
    for chunk in entry.state["chunks"]:
        offsets, sizes = _numbers(chunk.state["offsets"]), _numbers(chunk.state["sizes"])
        within = all(o + n <= whole for o, n, whole in zip(offsets, sizes, size, strict=True))
        if not within or facts.dtype not in ITEM_BYTES:
            raise ValueError(f"{name} has a part that lies outside it")
        place = places[name, offsets]
        pieces[offsets] = Piece(inside(path, place.name), place.start, place.length, offsets, sizes)
    if sum(math.prod(piece.sizes) for piece in pieces.values()) != facts.numel:
        raise ValueError(f"{name} is not whole: parts of it are missing")
    _refuse_short(name, pieces.values())
    return opener.assembled(facts, list(pieces.values()))


def _refuse_short(name: str, pieces: Any) -> None:
    """A file that ends before a part of it does was not copied whole."""
    for piece in pieces:
        if piece.start + piece.length > piece.path.stat().st_size:
            raise ValueError(f"{piece.path.name} ends before {name} does")


def _numbers(value: Any) -> tuple[int, ...]:
    numbers = tuple(value)
    if any(type(one) is not int or one < 0 for one in numbers):
        raise ValueError("a size that is no size")
    return numbers


class _Nested:
    """Entries with dotted names as the nested dicts and lists that were saved."""

    def __init__(self, paths: Any) -> None:
        self.top: dict[Any, Any] = {}
        self._paths = paths if isinstance(paths, Mapping) else {}

    def put(self, name: str, value: Any) -> None:
        """Put an entry where the planner's data say; an entry that it does not mention goes to the top."""
        steps = self._paths.get(name, (name,))
        if not isinstance(steps, tuple) or not 0 < len(steps) < 50:
            raise ValueError(f"{name} has no path")
        holder: Any = self.top
        for step, following in itertools.pairwise(steps):
            holder = self._below(holder, step, [] if type(following) is int else {})
        self._below(holder, steps[-1], value)

    def _below(self, holder: Any, step: Any, new: Any) -> Any:
        if isinstance(holder, dict):
            return holder.setdefault(step, new)
        # The entries of a list may come in any order, but no list has more of them than there are names.
        if type(step) is not int or not 0 <= step <= len(self._paths):
            raise ValueError("a list without numbers")
        holder.extend([None] * (step + 1 - len(holder)))
        if holder[step] is None:
            holder[step] = new
        return holder[step]
