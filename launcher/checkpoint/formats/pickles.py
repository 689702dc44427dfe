"""Pickles read as data: whatever class or function they name, none is imported and none is called.

A pickle is a program. Here each name in it stands for a function of this package that makes plain data,
or for nothing: then what is made of it is only its name, :class:`Unread`.
"""

from __future__ import annotations

import _compat_pickle
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from launcher.checkpoint.formats.numpy_data import STAND_INS, Array, DType
from launcher.checkpoint.formats.protocol import Unread

MOST_VALUES = 20_000_000
"""A pickle of some bytes can hold itself many times over; walking it would not end."""


class Named:
    """A class or function that a pickle names; ``make`` is what is called in its place."""

    def __init__(self, name: str, make: Callable[..., Any] | None) -> None:
        self.name, self.make = name, make


def read_pickle(
    data: bytes,
    known: Mapping[str, Any],
    storage: Callable[[Any], Any] | None = None,
    seen: set[str] | None = None,
) -> Any:
    """The object in a pickle.

    Args:
        data: the pickle.
        known: what stands for a name: a function that makes data, or the data itself.
        storage: makes what a persistent id stands for.
        seen: takes the names that are not known.

    Raises:
        Exception: of whatever kind; nothing is known of the bytes.
    """
    return _Reader(
        io.BytesIO(data), {**STAND_INS, **known}, storage, seen if seen is not None else set()
    ).load()


_Unpickler: Any = pickle._Unpickler


class _Reader(_Unpickler):  # type: ignore[misc]
    """The reader written in Python: the one in C takes memory for whatever index a pickle mentions."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(
        self,
        file: io.BytesIO,
        known: Mapping[str, Any],
        storage: Callable[[Any], Any] | None,
        seen: set[str],
    ) -> None:
        super().__init__(file)
        self._known, self._storage, self._seen = known, storage, seen

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _compat_pickle.NAME_MAPPING:
            module, name = _compat_pickle.NAME_MAPPING[(module, name)]
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        full = f"{module}.{name}"
        if full not in self._known:
            self._seen.add(full)
            return Named(full, None)
        known = self._known[full]
        return Named(full, known) if callable(known) else known

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None:
            raise pickle.UnpicklingError("a persistent id")
        return self._storage(pid)

    def _make(self, named: Any, arguments: Any) -> Any:
        if not isinstance(named, Named) or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"a call of {str(named)[:80]}")
        return Unread(named.name) if named.make is None else named.make(*arguments)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], arguments)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, Array | DType):
            made.__setstate__(state)
        elif isinstance(made, Unread):
            made.state = state
        elif not isinstance(made, dict):
            raise pickle.UnpicklingError(f"a state for {type(made).__name__}")

    dispatch[pickle.BUILD[0]] = load_build

    def load_nothing(self) -> None:
        raise pickle.UnpicklingError("an instruction that no checkpoint needs")

    for _code in (
        pickle.NEWOBJ_EX, pickle.OBJ, pickle.INST, pickle.EXT1, pickle.EXT2, pickle.EXT4,
        pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
    ):  # fmt: skip
        dispatch[_code[0]] = load_nothing
