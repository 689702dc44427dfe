"""``s3://``, ``gs://``, ``hf://`` and whatever else fsspec and the packages around it read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Self

from launcher.errors import BranchPointUnavailable
from launcher.layout import manifest_of
from launcher.sources.remote import Broken, RemoteFile, not_installed, unavailable
from launcher.sources.transfer import Opened, bring

BLOCK = 8 << 20
"""Bytes of one request."""
AT_ONCE = 4
"""Requests under way together, and blocks in memory."""
EXTRAS = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "gcs": ("gcsfs", "gs"),
    "hf": ("huggingface_hub", "hf"),
}
"""Protocol to package and extra."""
_MARKS = ("ETag", "etag", "blob_id", "md5Hash", "generation", "VersionId", "LastModified", "mtime")


class StoredFiles:
    """A file or a directory in a store that fsspec knows."""

    def __init__(self, reference: str) -> None:
        self.exact, self._reference = reference, reference
        self._fs, self._path = _opened(reference)
        self._name = PurePosixPath(self._path.rstrip("/")).name
        self.single = True

    def files(self) -> Sequence[RemoteFile]:
        """The file and its manifest, or everything below the directory."""
        with _told(self._reference):
            self._fs.invalidate_cache()
            about = self._fs.info(self._path)
            self.single = about["type"] != "directory"
            if not self.single:
                below = self._fs.find(self._path, detail=True)
                start = len(self._path.rstrip("/")) + 1
                return [_file(path[start:], info) for path, info in sorted(below.items())]
            found = [_file(self._name, about)]
            beside = manifest_of(Path(self._path)).as_posix()
            if self._path.endswith(".pt") and self._fs.exists(beside):
                found.append(_file(PurePosixPath(beside).name, self._fs.info(beside)))
            return found

    def pull(self, file: RemoteFile, part: Path, check: Callable[[], object]) -> None:
        """Fetch it, some blocks at a time."""
        directory = str(PurePosixPath(self._path).parent) if self.single else self._path.rstrip("/")
        path = f"{directory}/{file.name}"

        def at(offset: int) -> Opened:
            return offset, self._blocks(path, offset, file.size)

        bring(part, file.size, at, check, self._reference)

    def _blocks(self, path: str, offset: int, size: int | None) -> Iterator[bytes]:
        with _told(self._reference):
            if size is None:
                yield self._fs.cat_file(path, start=offset)
                return
            for first in range(offset, size, BLOCK * AT_ONCE):
                starts = list(range(first, min(first + BLOCK * AT_ONCE, size), BLOCK))
                ends = [min(start + BLOCK, size) for start in starts]
                blocks = self._fs.cat_ranges([path] * len(starts), starts, ends, on_error="raise")
                for block, start, end in zip(blocks, starts, ends, strict=True):
                    if len(block) != end - start:
                        raise Broken(f"{len(block)} bytes came instead of {end - start}")
                    yield block

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The connections are fsspec's."""


def _opened(reference: str) -> tuple[Any, str]:
    import fsspec

    protocol = reference.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(reference)  # type: ignore[no-any-return]
    except ImportError as error:
        package, extra = EXTRAS.get(protocol, (str(error), protocol))
        raise not_installed(reference, package, extra) from error
    except ValueError as error:
        raise unavailable(reference, f"nothing reads {protocol}://") from error


def _file(name: str, info: dict[str, Any]) -> RemoteFile:
    mark = next((str(info[key]) for key in _MARKS if info.get(key)), None)
    return RemoteFile(name, info.get("size"), mark=mark)


@contextlib.contextmanager
def _told(reference: str) -> Iterator[None]:
    """What these packages raise, in two kinds: what another try may change, and what it may not."""
    try:
        yield
    except (Broken, BranchPointUnavailable):
        raise
    except FileNotFoundError as error:
        raise unavailable(reference, f"nothing is there ({_line(error)})") from error
    except PermissionError as error:
        raise unavailable(reference, f"no right to see it ({_line(error)})") from error
    except ImportError as error:
        raise unavailable(reference, _line(error)) from error
    except Exception as error:  # Each package has errors of its own.
        if "credentials" in f"{type(error).__name__} {error}".lower():
            raise unavailable(reference, f"no key ({_line(error)})") from error
        raise Broken(f"{type(error).__name__}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
