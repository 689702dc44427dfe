"""What is known about a checkpoint without opening it: a readable JSON file beside the state.

A manifest is written last. A checkpoint without one does not exist; a manifest whose own digest does
not hold is not believed.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blake3 import blake3

from launcher import files, layout
from launcher.checkpoint.fields import OLDER, Fields, refuse
from launcher.errors import CheckpointError

FORMAT = 1
"""Version of the manifest and of the canonical form behind its digests."""
LARGEST = 64 << 20
"""Bytes; about 300 000 tensors. A larger file is not a manifest."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor. Its digest is BLAKE3 over its elements, row-major and little-endian."""

    name: str
    """Its path in the state: ``model_state_dict.head.weight``, ``optimizer_state_dict.state.0.exp_avg``."""
    shape: tuple[int, ...]
    dtype: str
    digest: str


@dataclass(frozen=True)
class OptimizerGroup:
    """One of the optimizer's ``param_groups``: what preflight needs to know of it."""

    hyperparameters: dict[str, Any]
    parameters: int
    """How many parameter tensors belong to it."""


@dataclass(frozen=True)
class Content:
    """The digests of a state, whatever file it lies in and whichever run it belongs to."""

    tensors: tuple[TensorEntry, ...]
    components: dict[str, str]
    """A digest for each top-level key of the state: 64 hex digits."""
    sha256: str
    """The content digest: 64 hex digits over all components."""
    optimizer_groups: tuple[OptimizerGroup, ...] = ()


@dataclass(frozen=True)
class About:
    """What the run says about a state that it saves. JSON values only."""

    step: int
    absolute_step: int
    run: str
    parent: dict[str, Any] | None = None
    """The branch point that the run started from; None for a trunk."""
    config: dict[str, Any] = field(default_factory=dict)
    data_fingerprint: str | None = None
    versions: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    """Latest values by name; ``checkpoint.best_metric`` is looked up here."""
    progress: dict[str, Any] = field(default_factory=dict)

    def copied(self) -> About:
        """A deep copy, with tuples as lists, as it will read from the manifest.

        Raises:
            CheckpointError: a value is not JSON.
        """
        try:
            return About(**json.loads(json.dumps(asdict(self))))
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                "The facts about a checkpoint hold something that JSON cannot.",
                where=f"run {self.run}, step {self.step}",
                found=str(error),
                expected="None, bool, int, float, str, and lists and dicts of them",
            ) from error


@dataclass(frozen=True)
class StoredFile:
    """The file that a state was written to, or a directory of several."""

    name: str
    bytes: int
    digest: str
    """BLAKE3 of all its bytes; of a directory, :func:`parts_digest`."""


@dataclass(frozen=True)
class Manifest:
    """Everything about one state; ``file`` is None for a live state that was only described."""

    about: About
    content: Content
    file: StoredFile | None = None
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    parts: tuple[StoredFile, ...] = ()
    """The files of a directory that several processes wrote, each its shards; else none."""
    unsound: tuple[str, ...] = ()
    """What of a foreign state nobody can go on from; it is not written."""

    @property
    def step(self) -> int:
        """The step within the run."""
        return self.about.step

    @property
    def sha256(self) -> str:
        """The content digest: 64 hex digits, independent of run and file."""
        return self.content.sha256

    @property
    def tensors(self) -> tuple[TensorEntry, ...]:
        """Every tensor, in the order of the state."""
        return self.content.tensors


def content_digest(components: Mapping[str, str]) -> str:
    """The digest over all components, independent of their order."""
    listing = {"format": FORMAT, "components": dict(components)}
    return hashlib.sha256(files.canonical_json(listing)).hexdigest()


def parts_digest(parts: Iterable[StoredFile]) -> str:
    """One digest over the files of a directory, whatever their order."""
    listing = sorted([part.name, part.bytes, part.digest] for part in parts)
    return blake3(files.canonical_json(listing)).hexdigest()


def write_manifest(path: Path, manifest: Manifest, aside: Path | None = None) -> None:
    """Write a manifest, atomically and durably. A checkpoint's belongs at ``layout.manifest_of``.

    ``aside``: see :func:`launcher.files.written_aside`.
    """
    files.write_text(path, _sealed(_plain(manifest)), aside)


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest beside a checkpoint; the checkpoint itself is not looked at.

    Raises:
        CheckpointError: there is none, or it is damaged, or it is not one.
    """
    return read_manifest_file(layout.manifest_of(checkpoint))


def read_manifest_file(path: Path) -> Manifest:
    """The manifest in ``path``.

    Raises:
        CheckpointError: it is missing, damaged, or not a manifest.
    """
    text = _read_text(path)
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse(path, f"not JSON: {error}", "a JSON object")
    if not isinstance(plain, dict):
        refuse(path, f"a JSON {type(plain).__name__}", "a JSON object")
    if plain.get("format") != FORMAT:
        raise CheckpointError(
            "The manifest has a format that this version does not know.",
            where=str(path),
            found=f"format {str(plain.get('format'))[:40]}",
            expected=f"format {FORMAT}",
            do="read it with the version of the launcher that wrote it",
        )
    try:
        whole = _sealed({key: value for key, value in plain.items() if key != "digest"})
    except RecursionError:
        refuse(path, "values nested too deeply", "a manifest")
    if whole != text:
        refuse(path, "text that its own digest does not fit", "the manifest as it was written")
    return _parsed(plain, path)


def _read_text(path: Path) -> str:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            refuse(path, "not a regular file", "a JSON file")
        if facts.st_size > LARGEST:
            refuse(path, files.readable_bytes(facts.st_size), f"at most {files.readable_bytes(LARGEST)}")
        return path.read_bytes().decode()
    except FileNotFoundError as error:
        raise CheckpointError(
            "There is no such checkpoint: it has no manifest, so it was never completely written.",
            where=str(path),
            do=OLDER,
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"The manifest cannot be read: {error.strerror or error}.", where=str(path)
        ) from error
    except UnicodeDecodeError as error:
        refuse(path, f"not text: {error}", "a JSON object")


def _plain(manifest: Manifest) -> dict[str, Any]:
    content, about = manifest.content, manifest.about
    return {
        "format": FORMAT,
        **{each.name: getattr(about, each.name) for each in fields(about)},
        "created": manifest.created,
        "file": asdict(manifest.file) if manifest.file else None,
        **({"parts": [asdict(part) for part in manifest.parts]} if manifest.parts else {}),
        "sha256": content.sha256,
        "components": content.components,
        "optimizer_groups": [asdict(group) for group in content.optimizer_groups],
        "tensors": [asdict(entry) for entry in content.tensors],
    }


def _sealed(plain: Mapping[str, Any]) -> str:
    """The text of a manifest, a tensor a line, ending with the digest of everything before.

    A manifest is accepted only if it equals this to the last byte: JSON has spellings (``1E-5``) that a
    flipped bit turns into one another.
    """
    lines = []
    for key, value in plain.items():
        if key == "tensors" and isinstance(value, list) and value:
            rows = ",\n".join(f"    {json.dumps(row)}" for row in value)
            lines.append(f"  {json.dumps(key)}: [\n{rows}\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    body = ",\n".join(lines)
    return f'{{\n{body},\n  "digest": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def _parsed(plain: dict[str, Any], path: Path) -> Manifest:
    take = Fields(plain, path, "")
    about = About(
        step=take.count("step"),
        absolute_step=take.count("absolute_step"),
        run=take.of("run", str),
        parent=take.optional("parent", dict),
        config=take.of("config", dict),
        data_fingerprint=take.optional("data_fingerprint", str),
        versions=take.of("versions", dict),
        environment=take.of("environment", dict),
        metrics=take.of("metrics", dict),
        progress=take.of("progress", dict),
    )
    components = take.of("components", dict)
    parts = Fields(components, path, "components.")
    content = Content(
        tensors=tuple(_entry(row) for row in take.rows("tensors")),
        components={name: parts.digest(name) for name in components},
        sha256=take.digest("sha256"),
        optimizer_groups=tuple(
            OptimizerGroup(row.of("hyperparameters", dict), row.count("parameters"))
            for row in take.rows("optimizer_groups")
        ),
    )
    if content.sha256 != content_digest(content.components):
        refuse(path, "a content digest that its components do not give", "digests that fit together")
    stored = take.optional("file", dict)
    return Manifest(
        about,
        content,
        None if stored is None else _stored(Fields(stored, path, "file.")),
        take.of("created", str),
        tuple(_stored(row) for row in take.rows("parts")) if "parts" in plain else (),
    )


def _entry(row: Fields) -> TensorEntry:
    shape = row.of("shape", list)
    if any(type(size) is not int or size < 0 for size in shape):
        row.refuse("shape", shape, "whole numbers")
    return TensorEntry(row.of("name", str), tuple(shape), row.of("dtype", str), row.digest("digest"))


def _stored(take: Fields) -> StoredFile:
    return StoredFile(take.of("name", str), take.count("bytes"), take.digest("digest"))
