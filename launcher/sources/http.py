"""``https://``, and every other source whose bytes come from a web server in the end.

With requests, which the wandb client brings, and not with fsspec: fsspec takes the whole file for the part
that was asked for where a server knows no ranges, and shows each refusal as a missing file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit, urlunsplit

from launcher.errors import BranchPointUnavailable
from launcher.layout import manifest_of
from launcher.sources import transfer
from launcher.sources.remote import Broken, RemoteFile, unavailable
from launcher.sources.transfer import Opened, bring

if TYPE_CHECKING:
    from requests import Response

CHUNK = 1 << 16
"""Bytes. What a break leaves of one is lost."""
_REFUSED = {
    401: "no key, or a wrong one",
    403: "no right to see it",
    404: "nothing is there",
    410: "it is gone",
}
_IDENTITY = {"Accept-Encoding": "identity"}


class WebFile:
    """One file at a URL; of a checkpoint of the launcher, its manifest beside it as well."""

    single = True

    def __init__(self, reference: str) -> None:
        parts = urlsplit(reference)
        # What follows is recorded, and a query or a name before the host may be a key.
        self.exact = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        path = unquote(parts.path)
        self._name = Path(path).name or "file"
        self._urls = {self._name: reference}
        if path.endswith(".pt"):
            beside = manifest_of(Path(parts.path)).as_posix()
            self._urls[manifest_of(Path(self._name)).name] = urlunsplit(parts._replace(path=beside))

    def files(self) -> Sequence[RemoteFile]:
        """The file, and its manifest if there is one."""
        found = []
        for name, url in self._urls.items():
            try:
                found.append(_about(name, url, self.exact))
            except BranchPointUnavailable:
                if name == self._name:
                    raise
        return found

    def pull(self, file: RemoteFile, part: Path, check: Callable[[], object]) -> None:
        """Fetch it, going on where an earlier try broke off."""
        url = self._urls[file.name]
        bring(part, file.size, lambda offset: opened(url, offset, self.exact), check, self.exact)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""


def opened(url: str, offset: int, reference: str) -> Opened:
    """The bytes at ``url`` from ``offset`` on, or from 0 where the server knows no ranges.

    Messages name ``reference``: an address may be signed, and is then as good as a key.

    Raises:
        BranchPointUnavailable: the server refuses.
        Broken: it fails.
    """
    ranged = {"Range": f"bytes={offset}-"} if offset else {}
    response = _asked("GET", url, ranged)
    if response.status_code == 416:
        response.close()
        response = _asked("GET", url, {})
    _refuse(response, reference)
    begins = response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
    return (offset if response.status_code == 206 and begins else 0), _chunks(response)


def _about(name: str, url: str, reference: str) -> RemoteFile:
    response = _asked("HEAD", url, {})
    if not response.ok and response.status_code not in (404, 410):
        # A signed URL is signed for one method.
        response = _asked("GET", url, {})
    with response:
        _refuse(response, reference)
        headers = response.headers
        length = headers.get("Content-Length")
        mark = headers.get("ETag") or headers.get("Last-Modified")
        return RemoteFile(name, int(length) if length is not None else None, mark=mark)


def _asked(method: str, url: str, headers: dict[str, str]) -> Response:
    import requests

    limits = (transfer.CONNECT_SECONDS, transfer.STALL_SECONDS)
    try:
        return requests.request(
            method, url, headers={**_IDENTITY, **headers}, stream=True, timeout=limits, allow_redirects=True
        )
    except requests.RequestException as error:
        raise _broken(error) from error


def _chunks(response: Response) -> Iterator[bytes]:
    import requests

    with response:
        try:
            yield from response.iter_content(CHUNK)
        except requests.RequestException as error:
            raise _broken(error) from error


def _refuse(response: Response, reference: str) -> None:
    status = response.status_code
    if response.ok:
        return
    response.close()
    said = f"the server answered {status} {response.reason}".rstrip()
    if status in _REFUSED:
        raise unavailable(reference, f"{said}: {_REFUSED[status]}")
    raise Broken(said)


def broken_off(error: BaseException) -> Broken | None:
    """What another try may change, of what somebody else's request raised; None of anything else."""
    import requests

    kinds = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return _broken(error) if isinstance(error, kinds) else None


def _broken(error: Any) -> Broken:
    import requests

    if isinstance(error, requests.ConnectTimeout):
        return Broken(f"no connection within {transfer.CONNECT_SECONDS:g} s")
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return Broken(f"nothing came for {transfer.STALL_SECONDS:g} s")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return Broken("the connection broke off")
    reason: Any = error
    while (inner := getattr(reason, "reason", None) or (reason.args or (None,))[0]) is not None:
        if not isinstance(inner, Exception):
            break
        reason = inner
    return Broken(f"{type(error).__name__}: {' '.join(str(reason).split())[:200]}")
