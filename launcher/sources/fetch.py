"""From a reference to a path on this machine: the one way in for everything that lies elsewhere."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from launcher.checkpoint.manifest import read_manifest_file
from launcher.errors import BranchPointUnavailable, CheckpointError, ConfigError
from launcher.layout import checkpoint_file, checkpoint_step, manifest_of
from launcher.sources.filesystem import StoredFiles
from launcher.sources.http import WebFile
from launcher.sources.mlflow import MlflowArtifacts
from launcher.sources.remote import RemoteFile, Source, unavailable
from launcher.sources.store import Store
from launcher.sources.transfer import digest_of, tried
from launcher.sources.wandb import WandbArtifact

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_ARTIFACT = re.compile(r"^(?:[\w.-]+/){2}[\w.-]+:[\w.-]+$")
"""``entity/project/name:version``, as W&B prints it."""
_WANDB = re.compile(r"^wandb://(?:[\w.-]+/){1,2}[\w.-]+:[\w.-]+$")
_ONE_VERSION = re.compile(r"^wandb://(?:[\w.-]+/){2}[\w.-]+:v\d+$")
_KEY = re.compile(r"^[0-9a-f]{32}$")
"""What the store calls a directory that was fetched whole."""

_SERVERS = ("WANDB_BASE_URL", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_PROFILE")
"""Variables that decide whose answer it is."""


@dataclass(frozen=True)
class Fetched:
    """What a reference led to."""

    path: Path
    """A file, or a directory."""
    exact: str
    """The reference with everything resolved that can move: a version instead of ``latest``."""


def called(path: Path, exact: str | None) -> str:
    """What a person calls a checkpoint: an artifact's name and version, or what the file or directory is
    called in the place that it was fetched from.

    Args:
        path: where it lies on this machine.
        exact: where it was fetched from; None: it lies here.
    """
    if exact is not None and (exact.startswith("wandb://") or _KEY.match(path.name)):
        return exact.rstrip("/").rpartition("/")[2]
    return path.name


def lies_elsewhere(place: str) -> bool:
    """Whether ``place`` is a reference, and no path."""
    return bool(_SCHEME.match(place)) or (bool(_ARTIFACT.match(place)) and not Path(place).exists())


def fetch(place: str, cache: Path, step: int | None = None) -> Fetched:
    """Have what ``place`` names on this machine, checked against its digests where there are any.

    Args:
        place: ``wandb://``, ``mlflow://``, ``https://``, ``file://``, or a URL that fsspec reads.
        cache: directory of what was fetched; each set of files lies there once.
        step: which one, of a place with several of the launcher's checkpoints; default: the newest.

    Raises:
        BranchPointUnavailable: it cannot be had; says why.
        ConfigError: it is no reference.
    """
    reference = f"wandb://{place}" if _ARTIFACT.match(place) else place
    scheme = reference.partition("://")[0].lower()
    if scheme == "file":
        path = Path(unquote(urlsplit(reference).path))
        return Fetched(path, reference)

    def found(asking: Callable[[], object]) -> tuple[str, Path]:
        fetched = _fetched(reference, scheme, cache, step, asking)
        return fetched.exact, fetched.path

    # One version always means the same, so that nobody has to be asked twice, or be reachable at all.
    moves = not _ONE_VERSION.match(reference)
    servers = " ".join(os.environ.get(name, "") for name in _SERVERS)
    exact, path = Store(cache).known(f"{servers} {reference} {step}", found, moves)
    return Fetched(path, exact)


def _fetched(
    reference: str, scheme: str, cache: Path, step: int | None, asking: Callable[[], object]
) -> Fetched:
    with _source(scheme, reference, cache, asking) as source:
        there = tried(source.files, reference)
        files = _chosen(there, step, reference)
        if (here := _here(files)) is not None:
            return Fetched(here, source.exact)
        files = _identified(files, source.pull)
        unproved = [one for one in files if one.digest is None]

        def pull(file: RemoteFile, part: Path, check: Callable[[], object]) -> None:
            _pulled(source, file, part, check)
            if file in unproved[-1:] and list(tried(source.files, reference)) != list(there):
                part.unlink()
                why, do = "it changed while it was fetched", "give the same command again"
                raise unavailable(reference, why, do)

        directory = Store(cache).fetched(files, pull)
        return Fetched(directory / _within(files, source.single), source.exact)


def _source(scheme: str, reference: str, cache: Path, asking: Callable[[], object]) -> Source:
    if scheme == "wandb":
        if not _WANDB.match(reference):
            raise ConfigError(
                "That names no version of an artifact.",
                found=reference,
                expected="wandb://ENTITY/PROJECT/NAME:VERSION, where VERSION is v3, latest, best, ...",
            )
        return WandbArtifact(reference, asking)
    asking()
    if scheme == "mlflow":
        return MlflowArtifacts(reference, cache.parent / "mlflow.db")
    if scheme in ("http", "https"):
        return WebFile(reference)
    return StoredFiles(reference)


def _chosen(there: Sequence[RemoteFile], step: int | None, reference: str) -> list[RemoteFile]:
    """Of a place with checkpoints of the launcher, the one that is meant; otherwise everything."""
    by_name = {one.name: one for one in there}
    whole: dict[int, list[RemoteFile]] = {}
    for one in there:
        number = checkpoint_step(PurePosixPath(one.name).name)
        manifest = by_name.get(manifest_of(Path(one.name)).as_posix())
        if number is not None and manifest is not None:
            whole[number] = [manifest, one]
    if not there:
        raise unavailable(reference, "it is empty")
    if not whole:
        return list(there)
    if step is not None and step not in whole:
        raise BranchPointUnavailable(
            f"No complete checkpoint at step {step} lies there.",
            where=reference,
            found=", ".join(f"step {one}" for one in sorted(whole)),
            expected=checkpoint_file(step),
            do="take one of the steps found",
        )
    return whole[max(whole) if step is None else step]


def _here(files: Sequence[RemoteFile]) -> Path | None:
    """What an artifact only refers to, where it can be read from here as it lies."""
    paths = [one.local for one in files if one.local is not None and one.local.is_file()]
    if len(paths) < len(files) or len({path.parent for path in paths}) > 1:
        return None
    states = [path for path in paths if checkpoint_step(path.name) is not None]
    return states[0] if states else paths[0].parent if len(paths) > 1 else paths[0]


def _identified(
    files: Sequence[RemoteFile], pull: Callable[[RemoteFile, Path, Callable[[], object]], None]
) -> list[RemoteFile]:
    """The files with everything that tells their contents; where nothing does, they are fetched anew."""
    known = {one.name: one for one in files}
    for one in files:
        manifest = known.get(manifest_of(Path(one.name)).as_posix())
        if one.digest is not None or manifest is None or manifest is one:
            continue
        with TemporaryDirectory() as directory:
            path = Path(directory, "manifest.json")
            pull(manifest, path, lambda: None)
            try:
                stored = read_manifest_file(path).file
            except CheckpointError:
                continue  # Somebody else's JSON.
            known[manifest.name] = replace(manifest, digest=digest_of(path, "blake3"))
        if stored is not None:
            known[one.name] = replace(one, size=stored.bytes, digest=f"blake3:{stored.digest}")
    unknown = uuid.uuid4().hex
    return [
        one if one.digest or one.mark else replace(one, mark=f"unknown {unknown}") for one in known.values()
    ]


def _pulled(source: Source, file: RemoteFile, part: Path, check: Callable[[], object]) -> None:
    source.pull(file, part, check)
    if file.digest is None or (found := digest_of(part, file.digest.partition(":")[0])) == file.digest:
        return
    # From the beginning: what a process left that died may be what is wrong.
    part.unlink()
    source.pull(file, part, check)
    found = digest_of(part, file.digest.partition(":")[0])
    if found != file.digest:
        part.unlink()
        raise BranchPointUnavailable(
            "It was fetched twice, and its digest is not the one that it should have.",
            where=f"{source.exact}, {file.name}",
            found=found,
            expected=file.digest,
            do="have it uploaded again, or give others: branch.mirrors",
        )


def _within(files: Sequence[RemoteFile], single: bool) -> str:
    """The path below the store's directory that was meant."""
    states = [one.name for one in files if checkpoint_step(PurePosixPath(one.name).name) is not None]
    if len(states) == 1 and len(files) == 2:
        return states[0]
    return files[0].name if single else ""
