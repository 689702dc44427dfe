"""Files opened for their facts: names, shapes, dtypes and plain values, without PyTorch, in any size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launcher.checkpoint.formats.archive import Archive, Record, read_archive
from launcher.checkpoint.formats.pickles import Named, read_pickle
from launcher.checkpoint.formats.protocol import ITEM_BYTES, Piece, TensorFacts, Unread, refuse
from launcher.errors import CheckpointError

_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexFloat": "complex64", "ComplexDouble": "complex128", "Untyped": "uint8",
    "QInt8": "qint8", "QUInt8": "quint8", "QInt32": "int32",
}  # fmt: skip
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32",
    "U64": "uint64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64",
}  # fmt: skip
_LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""


class Facts:
    """Opens files for their facts.

    Attributes:
        unknown: names of classes that the pickles hold and that are not tensors or plain values.
    """

    def __init__(self) -> None:
        self.unknown: set[str] = set()

    def torch_file(self, path: Path) -> Any:
        """See :class:`~launcher.checkpoint.formats.protocol.Opener`."""
        return self._pickled(path, read_archive(path), 0)

    def torch_bytes(self, path: Path, start: int, length: int) -> Any:
        """See :class:`~launcher.checkpoint.formats.protocol.Opener`."""
        return self._pickled(path, read_archive(path, start, length), start)

    def safetensors(self, path: Path) -> dict[str, Any]:
        """See :class:`~launcher.checkpoint.formats.protocol.Opener`."""
        return safetensors_header(path)

    def assembled(self, facts: TensorFacts, pieces: Sequence[Piece]) -> Any:
        """See :class:`~launcher.checkpoint.formats.protocol.Opener`."""
        if facts.numel != 1 or len(pieces) != 1:
            return facts
        path, start, length, *_ = pieces[0]
        return TensorFacts(facts.shape, facts.dtype, lambda: self.torch_bytes(path, start, length).item())

    def integers(self, values: Sequence[int]) -> Any:
        """See :class:`~launcher.checkpoint.formats.protocol.Opener`."""
        return TensorFacts((len(values),), "int64")

    def _pickled(self, path: Path, archive: Archive, start: int) -> Any:
        storages = _Storages(path, archive.storages, start)
        try:
            return read_pickle(archive.pickle, _KNOWN, storages, self.unknown)
        except CheckpointError:
            raise
        except Exception as error:
            # A reader that is fed with anything can raise anything.
            refuse(path, f"{type(error).__name__}: {error}", "a pickle as torch.save writes it")


class _Storage(NamedTuple):
    path: Path
    start: int
    dtype: str
    elements: int


class _Storages:
    """What the persistent ids of a file stand for."""

    def __init__(self, path: Path, records: Mapping[str, Record], start: int) -> None:
        self._path, self._records, self._start = path, records, start

    def __call__(self, pid: Any) -> _Storage:
        kind, storage, key, _location, count = pid
        dtype = _STORAGES.get(storage.name.rpartition(".")[2].removesuffix("Storage"))
        if kind != "storage" or dtype is None or type(count) is not int or count < 0:
            raise ValueError(f"an unknown storage {str(pid)[:80]}")
        record = self._records.get(str(key))
        if record is None or record.length < count * ITEM_BYTES[dtype]:
            raise ValueError(f"storage {str(key)[:40]} claims {count} elements that are not in the file")
        return _Storage(self._path, self._start + record.start, dtype, count)


def _tensor(
    storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *more: Any
) -> TensorFacts:
    """A tensor over a storage; its last element has to lie in it."""
    # A tensor of a dtype that has no storage class of its own lies in an untyped storage.
    own = next((one for one in more if isinstance(one, str) and one in ITEM_BYTES), None)
    dtype = own or storage.dtype
    count = storage.elements // (ITEM_BYTES[own] if own else 1)
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or any(type(one) is not int or one < 0 for one in numbers):
        raise ValueError("a tensor whose shape is no shape")
    if 0 not in size and offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) >= count:
        raise ValueError("a tensor that is larger than its storage")
    return TensorFacts(tuple(size), dtype, lambda: _value(storage, dtype, offset))


def _value(storage: _Storage, dtype: str, offset: int) -> Any:
    if dtype not in _CODES:
        return None
    with storage.path.open("rb") as file:
        file.seek(storage.start + offset * ITEM_BYTES[dtype])
        return memoryview(file.read(ITEM_BYTES[dtype])).cast(_CODES[dtype])[0]


_CODES: Mapping[str, Any] = {"float32": "f", "float64": "d", "int64": "q", "int32": "i"}


def _typed(function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    if not isinstance(function, Named) or function.make is None:
        raise ValueError("a tensor that an unknown function makes")
    return function.make(*arguments)


def _dict(items: Any = ()) -> dict[Any, Any]:
    return dict(items)


_KNOWN: Mapping[str, Any] = {
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "builtins.set": lambda items=(): list(items),
    "builtins.bytearray": lambda *_: Unread("bytearray"),
    "builtins.complex": complex,
    "_codecs.encode": lambda text, _encoding: text.encode("latin1"),
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *parts: ":".join(map(str, parts)),
    "torch.serialization._get_layout": str,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _typed,
    **{
        f"torch{module}.{name}Storage": lambda *_: Unread("storage")
        for name in _STORAGES
        for module in ("", ".storage")
    },
    "torch.Tensor": lambda *_: Unread("torch.Tensor"),
    "torch.nn.parameter.Parameter": lambda *_: Unread("torch.nn.parameter.Parameter"),
    **{f"torch.{dtype}": dtype for dtype in ITEM_BYTES},
}


def safetensors_header(path: Path) -> dict[str, Any]:
    """Name to facts, from the header of a safetensors file.

    Raises:
        CheckpointError: it is none, is damaged, or claims what a file of its length cannot hold.
    """
    header, data = _header(path)
    tensors: dict[str, Any] = {}
    spans = []
    for name, one in header.items():
        if name == "__metadata__":
            continue
        facts = _entry(path, name, one)
        begin, end = one["data_offsets"]
        if not 0 <= begin <= end <= data or end - begin != facts.bytes:
            refuse(path, f"{name} lies about its size or place", "a safetensors file")
        spans.append((begin, end))
        tensors[name] = facts
    ends = [0, *(end for _, end in sorted(spans))]
    if any(begin != end for (begin, _), end in zip(sorted(spans), ends, strict=False)) or ends[-1] != data:
        refuse(path, "tensors that overlap, or bytes that belong to none", "a safetensors file")
    return tensors


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The texts in a header's ``__metadata__``."""
    told = _header(path)[0].get("__metadata__", {})
    return {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {}


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and how many bytes of tensors follow it."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_LARGEST_HEADER, size - 8):
                refuse(path, f"a header of {length} bytes in a file of {size}", "a safetensors file, whole")
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        refuse(path, str(error), "a safetensors file")
    if not isinstance(header, dict):
        refuse(path, "a header that is no object", "a safetensors file")
    return header, size - 8 - length


def _entry(path: Path, name: str, one: Any) -> TensorFacts:
    try:
        shape, offsets = one["shape"], one["data_offsets"]
        if any(type(number) is not int or number < 0 for number in (*shape, *offsets)) or len(offsets) != 2:
            raise ValueError
        return TensorFacts(tuple(shape), _SAFETENSORS[one["dtype"]])
    except (KeyError, TypeError, ValueError):
        refuse(path, f"{name}: {str(one)[:80]}", "dtype, shape and data_offsets of a tensor")
