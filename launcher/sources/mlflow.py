"""``mlflow://RUN_ID/PATH``: artifacts of a run in MLflow, by its real client."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from launcher.layout import manifest_of
from launcher.sources.remote import RemoteFile, not_installed, unavailable
from launcher.trackers.mlflow import new_client

if TYPE_CHECKING:
    from mlflow import MlflowClient


class MlflowArtifacts:
    """A file or a directory among the artifacts of an MLflow run.

    MLflow's client fetches whole files: what broke off begins again.
    """

    def __init__(self, reference: str, store: Path) -> None:
        """``store``: the SQLite file that is used without ``MLFLOW_TRACKING_URI``."""
        self.exact, self._reference = reference, reference
        self._run, _, path = reference.removeprefix("mlflow://").partition("/")
        self._path = path.strip("/")
        self.single = False
        try:
            uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.resolve()}"
            self._client: MlflowClient = new_client(uri)
        except ImportError as error:
            raise not_installed(reference, "mlflow", "mlflow") from error

    def files(self) -> Sequence[RemoteFile]:
        """The file and its manifest, or everything below the directory."""
        parent = str(PurePosixPath(self._path).parent) if "/" in self._path else ""
        try:
            beside = {one.path: one for one in self._client.list_artifacts(self._run, parent)}
            own = beside.get(self._path)
            self.single = own is not None and not own.is_dir
            if not self.single:
                found = list(self._below(self._path))
            else:
                manifest = beside.get(manifest_of(Path(self._path)).as_posix())
                found = [one for one in (own, manifest) if one is not None]
        except Exception as error:  # MLflow's, SQLAlchemy's, those of its stores.
            raise unavailable(self._reference, " ".join(str(error).split())[:200]) from error
        if not found:
            raise unavailable(self._reference, f"the run has no artifact {self._path!r}")
        start = PurePosixPath(self._path).parent if self.single else PurePosixPath(self._path)
        return [
            RemoteFile(PurePosixPath(one.path).relative_to(start).as_posix(), one.file_size) for one in found
        ]

    def _below(self, path: str) -> Iterator[Any]:
        for one in self._client.list_artifacts(self._run, path or None):
            if one.is_dir:
                yield from self._below(one.path)
            else:
                yield one

    def pull(self, file: RemoteFile, part: Path, check: Callable[[], object]) -> None:
        """Fetch it whole."""
        start = PurePosixPath(self._path).parent if self.single else PurePosixPath(self._path)
        with tempfile.TemporaryDirectory(dir=part.parent) as directory:
            try:
                path = str(start / file.name)
                fetched = self._client.download_artifacts(self._run, path, directory)
            except Exception as error:
                raise unavailable(self._reference, " ".join(str(error).split())[:200]) from error
            check()
            Path(fetched).replace(part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""
