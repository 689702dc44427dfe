"""JSON objects that may come from anywhere: a wrong type is a message, not a traceback."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from launcher.errors import CheckpointError

OLDER = "take an older checkpoint of the run, or copy this one again from where it is whole"

_HEX = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


class Fields:
    """Typed access to a JSON object that may come from anywhere."""

    def __init__(self, plain: dict[str, Any], path: Path, prefix: str) -> None:
        self._plain, self._path, self._prefix = plain, path, prefix

    def refuse(self, key: str, found: object, expected: str) -> NoReturn:
        """Raise the error that names ``key``."""
        refuse(self._path, f"{self._prefix}{key} = {str(found)[:80]}", expected)

    def of(self, key: str, kind: type[_T]) -> _T:
        """A value of exactly this type: ``True`` is no int."""
        value = self._plain.get(key)
        if type(value) is not kind:
            self.refuse(key, value, f"a value of type {kind.__name__}")
        return value

    def optional(self, key: str, kind: type[_T]) -> _T | None:
        """A value of this type, or None."""
        return None if self._plain.get(key) is None else self.of(key, kind)

    def count(self, key: str) -> int:
        """A whole number, 0 or more."""
        value = self.of(key, int)
        if value < 0:
            self.refuse(key, value, "0 or more")
        return value

    def digest(self, key: str) -> str:
        """64 lower-case hex digits."""
        value = self.of(key, str)
        if not _HEX.fullmatch(value):
            self.refuse(key, value, "64 hex digits")
        return value

    def rows(self, key: str) -> list[Fields]:
        """A list of objects."""
        rows = self.of(key, list)
        if any(type(row) is not dict for row in rows):
            self.refuse(key, rows, "a list of objects")
        return [Fields(row, self._path, f"{key}[{index}].") for index, row in enumerate(rows)]


def refuse(path: Path, found: str, expected: str) -> NoReturn:
    """Raise the error of a manifest that cannot be believed."""
    raise CheckpointError(
        "The manifest is damaged, or is not a manifest.",
        where=str(path),
        found=found,
        expected=expected,
        do=OLDER,
    )
