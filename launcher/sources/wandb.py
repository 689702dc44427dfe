"""``wandb://ENTITY/PROJECT/NAME:VERSION``: an artifact in W&B, found by the real client.

The client says which files there are, with their digests, and where they can be fetched from. The bytes are
fetched here: the client would begin a broken download anew, check nothing, and keep a second copy.
"""

from __future__ import annotations

import base64
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

from launcher.errors import BranchPointUnavailable
from launcher.sources.filesystem import StoredFiles
from launcher.sources.http import WebFile, broken_off, opened
from launcher.sources.remote import Broken, RemoteFile, unavailable
from launcher.sources.transfer import Opened, bring, tried
from launcher.trackers.wandb.mode import has_key
from launcher.trackers.wandb.tracker import clients_environment, quiet_library

if TYPE_CHECKING:
    from wandb import Artifact

ASK_SECONDS = 60.0
"""How long the server may take to say what an artifact is; the client itself would try for longer."""

_T = TypeVar("_T")


class WandbArtifact:
    """One version of an artifact."""

    single = False

    def __init__(self, reference: str, asking: Callable[[], object] = lambda: None) -> None:
        """``asking`` is called when the server is about to be asked: the client takes its time until then."""
        self._reference, self._asking = reference, asking
        self.exact = reference

    def __enter__(self) -> Self:
        try:
            with clients_environment():
                self._artifact = tried(lambda: self._asked(self._found), self._reference)
        except BaseException:
            self.__exit__()
            raise
        artifact = self._artifact
        collection = artifact.name.partition(":")[0]
        self.exact = f"wandb://{artifact.entity}/{artifact.project}/{collection}:{artifact.version}"
        return self

    def __exit__(self, *_: object) -> None:
        """End the client's service: what is forked from here must not share it."""
        with clients_environment(), contextlib.suppress(BaseException):
            import wandb

            wandb.teardown()

    def _found(self) -> Artifact:
        import wandb

        library = quiet_library()
        if not has_key(library.settings.base_url):
            why = f"there is no API key for {library.settings.base_url}"
            raise unavailable(self._reference, why, "set WANDB_API_KEY, or run `wandb login`")
        # Its own limit comes later: it does not say what it waited for.
        api = wandb.Api(timeout=int(ASK_SECONDS) + 30)
        self._asking()
        found: Artifact = api.artifact(self._reference.removeprefix("wandb://"))
        return found

    def files(self) -> Sequence[RemoteFile]:
        """Every file of the artifact, by its manifest."""
        entries = self._asked(lambda: self._artifact.manifest.entries)
        return [_file(name, entry) for name, entry in sorted(entries.items())]

    def pull(self, file: RemoteFile, part: Path, check: Callable[[], object]) -> None:
        """Fetch it from where the server says at the moment: such a place is good for some minutes."""
        entry = self._artifact.manifest.entries[file.name]
        if entry.ref is not None:
            place = str(entry.ref)
            web = place.startswith(("http://", "https://"))
            with WebFile(place) if web else StoredFiles(place) as stored:
                stored.pull(tried(stored.files, place)[0], part, check)
            return

        named = f"{self.exact}, {file.name}"

        def at(offset: int) -> Opened:
            return opened(self._url(file.name), offset, named)

        bring(part, file.size, at, check, named)

    def _url(self, name: str) -> str:
        def url() -> str:
            return str(next(iter(self._artifact.files(names=[name], per_page=1))).direct_url)

        return self._asked(url)

    def _asked(self, question: Callable[[], _T]) -> _T:
        """The client's answer.

        Raises:
            BranchPointUnavailable: there is no such thing, or no right to it, or no answer in time.
        """
        answers: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put((question(), None))
            except BaseException as error:
                answers.put((None, error))

        threading.Thread(target=ask, name="wandb question", daemon=True).start()
        try:
            answer, error = answers.get(timeout=ASK_SECONDS)
        except queue.Empty:
            raise unavailable(self._reference, f"no answer within {ASK_SECONDS:g} s") from None
        if error is None:
            return answer  # type: ignore[return-value]
        if isinstance(error, (BranchPointUnavailable, Broken)):
            raise error
        if (broken := broken_off(error)) is not None:
            raise broken from error
        raise unavailable(self._reference, _line(error)) from error


def _file(name: str, entry: Any) -> RemoteFile:
    if entry.ref is not None:
        parts = urlsplit(str(entry.ref))
        local = Path(unquote(parts.path)) if parts.scheme == "file" else None
        return RemoteFile(name, entry.size, mark=f"{entry.ref} {entry.digest}", local=local)
    digest = base64.standard_b64decode(entry.digest).hex()
    algorithm = "xxh128" if "xxh" in entry.digest_algorithm().name.lower() else "md5"
    return RemoteFile(name, entry.size, f"{algorithm}:{digest}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
