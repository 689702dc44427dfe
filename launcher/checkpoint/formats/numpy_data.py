"""NumPy's arrays and numbers in pickles, as plain data: no function of NumPy is called.

``torch.load(weights_only=True)`` refuses them. Random states and best losses are saved so nonetheless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_CODES: Mapping[str, Any] = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H",
    "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f4": "f", "f8": "d",
}  # fmt: skip


class DType:
    """``numpy.dtype``: its code, as ``u4``."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = str(code)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] not in ("<", "|", "="):
            raise ValueError(f"a NumPy array in byte order {state[1]!r}")


class Array:
    """``numpy.ndarray``: its elements."""

    def __init__(self, *_: Any) -> None:
        self._code, self._data = "", b""

    def __setstate__(self, state: Any) -> None:
        _, _, dtype, _, data = state
        if not isinstance(dtype, DType) or dtype.code not in _CODES or not isinstance(data, bytes):
            raise ValueError("a NumPy array of something else than numbers")
        self._code, self._data = dtype.code, data

    def values(self) -> list[Any]:
        """The elements as they lie in memory."""
        return list(memoryview(self._data).cast(_CODES[self._code])) if self._code else []


def scalar(dtype: Any, data: Any = b"") -> Any:
    """A NumPy number as Python's."""
    if not isinstance(dtype, DType) or dtype.code not in _CODES or not isinstance(data, bytes):
        raise ValueError("a NumPy scalar that is no number")
    return memoryview(data).cast(_CODES[dtype.code])[0]


STAND_INS: Mapping[str, Callable[..., Any]] = {
    "numpy.dtype": DType,
    "numpy.ndarray": Array,
    **{
        f"{module}.{name}": made
        for module in ("numpy._core.multiarray", "numpy.core.multiarray")
        for name, made in (("_reconstruct", Array), ("scalar", scalar))
    },
}
"""What is made where a pickle names one of NumPy's."""
