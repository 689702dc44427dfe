"""Artifacts as the stand-in stores them, and the GraphQL fields over them.

A version is what the client commits: its manifest, and its files by name. Aliases and versions belong to a
collection, as with W&B; a client that logs equal contents again is given the version that is there.
"""

# ruff: noqa: N803 - arguments are called what the schema calls them
from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.wandb_server.graph import IMPLEMENTS, Fields
from tests.wandb_server.runs import ENTITY, Refused, Runs, StoredRun

Place = tuple[str, str, str]
"""Entity, project, collection."""


@dataclass
class StoredArtifact:
    """One version of one collection."""

    id: str
    place: Place
    version: int
    digest: str
    type: str = "model"
    metadata: dict[str, Any] = field(default_factory=dict)
    state: str = "PENDING"
    manifest: bytes = b""
    files: dict[str, bytes | Path] = field(default_factory=dict)
    """What was uploaded, by name; what is only referred to stands in the manifest."""
    aliases: set[str] = field(default_factory=set)
    created_by: str | None = None
    """Id of the run that logged it."""
    used_by: list[str] = field(default_factory=list)
    history_step: int | None = None

    @property
    def qualified(self) -> str:
        return f"{'/'.join(self.place)}:v{self.version}"

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The manifest's."""
        contents: dict[str, dict[str, Any]] = json.loads(self.manifest)["contents"]
        return contents


class Artifacts:
    """All artifacts, and the fields that ask for them."""

    def __init__(self, runs: Runs) -> None:
        self.stored: dict[str, StoredArtifact] = {}
        self.discards = False
        """Whether what is uploaded is counted as there, and forgotten."""
        self._runs = runs
        self._uploads: dict[str, tuple[str, str]] = {}

    def of(self, collection: str) -> list[StoredArtifact]:
        """The committed versions of a collection, in order."""
        there = [one for one in self.stored.values() if one.place[2] == collection]
        return sorted((one for one in there if one.state == "COMMITTED"), key=lambda one: one.version)

    def put(
        self, qualified: str, files: Mapping[str, bytes | Path | str], *aliases: str, metadata: Any = None
    ) -> StoredArtifact:
        """A committed version, as if some client had logged it; text is a URL that is only referred to.

        Args:
            qualified: entity/project/collection.
        """
        entity, project, collection = qualified.split("/")
        contents = {name: _entry(data) for name, data in files.items()}
        digest = hashlib.md5(json.dumps(contents).encode()).hexdigest()
        one = self._new((entity, project, collection), digest)
        one.files = {name: data for name, data in files.items() if not isinstance(data, str)}
        one.state, one.metadata = "COMMITTED", dict(metadata or {})
        one.manifest = _manifest(contents)
        self.name(one, [*aliases, "latest"])
        return one

    def find(self, place: Place, name: str) -> StoredArtifact | None:
        """By ``v3`` or an alias."""
        for one in self.of(place[2]):
            if one.place == place and (name in one.aliases or name == f"v{one.version}"):
                return one
        return None

    def root(self) -> dict[str, Any]:
        """The root fields about artifacts."""
        return {
            "createArtifact": self._create, "createArtifactManifest": self._create_manifest,
            "updateArtifactManifest": self._update_manifest, "createArtifactFiles": self._create_files,
            "commitArtifact": self._commit, "useArtifact": self._use, "artifact": self._artifact,
            "addAliases": self._add_aliases, "deleteAliases": self._delete_aliases,
            "updateArtifact": self._update,
        }  # fmt: skip

    def of_project(self, entity: str, project: str) -> dict[str, Any]:
        """The fields of a project about artifacts."""

        def membership(name: str) -> Fields | None:
            collection, _, version = name.partition(":")
            found = self.find((entity, project, collection), version or "latest")
            return None if found is None else self._membership(found)

        def collection(name: str) -> Fields:
            place = (entity, project, name)

            def member(aliasName: str) -> Fields | None:
                found = self.find(place, aliasName)
                return None if found is None else self._membership(found)

            # In an inline fragment the client asks for what only some servers know.
            return {**self._collection(place), "artifactMembership": member, "digestAlgorithm": None}

        return {
            "artifactCollectionMembership": membership,
            "artifactCollection": collection,
            "artifactType": lambda name: {"name": name, "artifactCollection": collection},
            "artifact": lambda name: _first(membership(name)),
        }

    def of_run(self, run: StoredRun) -> dict[str, Any]:
        """The fields of a run about artifacts."""

        def listed(those: list[StoredArtifact]) -> Any:
            edges = [{"node": self._about(one), "cursor": one.id} for one in those]
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return lambda **_: {"edges": edges, "totalCount": len(edges), "pageInfo": page}

        committed = [one for one in self.stored.values() if one.state == "COMMITTED"]
        return {
            "outputArtifacts": listed([one for one in committed if one.created_by == run.id]),
            "inputArtifacts": listed([one for one in committed if run.id in one.used_by]),
        }

    def received(self, token: str, body: bytes) -> bool:
        """Take what is uploaded to a place that was given out."""
        if token not in self._uploads:
            return False
        artifact, name = self._uploads[token]
        if name:
            self.stored[artifact].files[name] = b"" if self.discards else body
        else:
            self.stored[artifact].manifest = body
        return True

    def contents(self, artifact: str, name: str) -> bytes | Path | None:
        """What is downloaded; the manifest has no name."""
        one = self.stored.get(artifact)
        if one is None:
            return None
        return one.files.get(name) if name else one.manifest

    def _new(self, place: Place, digest: str) -> StoredArtifact:
        version = len([one for one in self.stored.values() if one.place == place])
        one = StoredArtifact(_id(len(self.stored)), place, version, digest)
        self.stored[one.id] = one
        return one

    def _create(self, input: dict[str, Any]) -> Fields:
        collection = input["artifactCollectionName"]
        place = (input["entityName"] or ENTITY, input["projectName"], collection)
        there = [one for one in self.of(collection) if one.place == place and one.digest == input["digest"]]
        wanted = [one["alias"] for one in input.get("aliases") or []]
        if there:
            self.name(there[-1], wanted)
            return {"artifact": self._about(there[-1])}
        one = self._new(place, input["digest"])
        one.type = input["artifactTypeName"]
        one.metadata = json.loads(input.get("metadata") or "{}")
        one.created_by, one.history_step = input.get("runName"), input.get("historyStep")
        one.aliases = set(wanted)
        return {"artifact": self._about(one)}

    def _create_manifest(self, input: dict[str, Any]) -> Fields:
        return self._manifest_upload(input["artifactID"], input["name"], input.get("digest"))

    def _update_manifest(self, input: dict[str, Any]) -> Fields:
        return self._manifest_upload(input["artifactManifestID"].removeprefix("manifest-"), "", None)

    def _manifest_upload(self, artifact: str, name: str, digest: str | None) -> Fields:
        url = self._upload(artifact, "")
        file = {"id": "f", "name": name, "displayName": name, "uploadUrl": url, "uploadHeaders": []}
        return {"artifactManifest": {"id": f"manifest-{artifact}", "file": file}}

    def _create_files(self, input: dict[str, Any]) -> Fields:
        edges = []
        for one in input["artifactFiles"]:
            artifact, name = one["artifactID"], one["name"]
            # What the server has already need not be sent again: no URL.
            node = {
                "id": "f", "name": name, "displayName": name, "uploadUrl": self._upload(artifact, name),
                "uploadHeaders": [], "uploadMultipartUrls": None, "storagePath": f"{artifact}/{name}",
                "artifact": {"id": artifact},
            }  # fmt: skip
            edges.append({"node": node})
        return {"files": {"edges": edges}}

    def _upload(self, artifact: str, name: str) -> str:
        token = f"u{len(self._uploads)}"
        self._uploads[token] = (artifact, name)
        return f"{{base}}/upload/{token}"

    def _commit(self, input: dict[str, Any]) -> Fields:
        one = self.stored[input["artifactID"]]
        missing = [
            name for name, each in one.entries.items() if not each.get("ref") and name not in one.files
        ]
        if missing:
            raise Refused(f"{one.qualified} lacks {', '.join(missing)}")
        one.state = "COMMITTED"
        self.name(one, list(one.aliases))
        return {"artifact": self._about(one)}

    def name(self, one: StoredArtifact, aliases: list[str]) -> None:
        """An alias means one version of a collection."""
        if one.state != "COMMITTED":
            return
        for other in self.stored.values():
            if other.place == one.place:
                other.aliases -= set(aliases)
        one.aliases |= set(aliases)

    def _use(self, input: dict[str, Any]) -> Fields:
        run = self._runs.find(input["entityName"], input["projectName"], input["runName"])
        if run is None:
            raise Refused(f"there is no run {input['runName']}")
        one = self.stored[input["artifactID"]]
        if run.id not in one.used_by:
            one.used_by.append(run.id)
        return {"artifact": self._about(one)}

    def _artifact(self, id: str) -> Fields | None:
        one = self.stored.get(id)
        return None if one is None else self._about(one)

    def _add_aliases(self, input: dict[str, Any]) -> Fields:
        for each in input["aliases"]:
            place = (each["entityName"], each["projectName"], each["artifactCollectionName"])
            self.name(self.stored[input["artifactID"]], [each["alias"]])
            assert self.stored[input["artifactID"]].place == place
        return {"success": True}

    def _delete_aliases(self, input: dict[str, Any]) -> Fields:
        self.stored[input["artifactID"]].aliases -= {each["alias"] for each in input["aliases"]}
        return {"success": True}

    def _update(self, input: dict[str, Any]) -> Fields:
        one = self.stored[input["artifactID"]]
        one.metadata = json.loads(input.get("metadata") or "{}")
        return {"artifact": self._about(one)}

    def _collection(self, place: Place) -> dict[str, Any]:
        entity, project, name = place
        return {
            "__typename": "ArtifactSequence", IMPLEMENTS: ("ArtifactCollection",),
            "id": "/".join(place), "name": name,
            "project": {"id": f"project-{project}", "internalId": "UHJvamVjdDox", "name": project,
                        "entity": {"name": entity, "id": entity}},
        }  # fmt: skip

    def _membership(self, one: StoredArtifact) -> Fields:
        return {
            "__typename": "ArtifactCollectionMembership", "id": f"member-{one.id}", "createdAt": _THEN,
            "versionIndex": one.version, "aliases": _aliases(one), "artifact": self._about(one),
            "artifactCollection": self._collection(one.place), "files": lambda **how: _files(one, **how),
        }  # fmt: skip

    def _about(self, one: StoredArtifact) -> Fields:
        collection = self._collection(one.place)
        there = [each for each in self.of(one.place[2]) if each.place == one.place]
        latest = {"id": there[-1].id, "versionIndex": there[-1].version} if there else None
        return {
            "__typename": "Artifact", "id": one.id, "digest": one.digest, "digestAlgorithm": None,
            "state": one.state, "versionIndex": one.version, "description": None, "commitHash": one.id,
            "metadata": json.dumps(one.metadata), "ttlDurationSeconds": -2, "ttlIsInherited": True,
            "tags": [], "historyStep": one.history_step, "createdAt": _THEN, "updatedAt": _THEN,
            "size": sum(each.get("size", 0) for each in one.entries.values()) if one.manifest else 0,
            "fileCount": len(one.files), "artifactType": {"name": one.type},
            "artifactSequence": {**collection, "latestArtifact": latest},
            "aliases": [{**each, "artifactCollection": collection} for each in _aliases(one)],
            "currentManifest": {"file": {"directUrl": f"{{base}}/download/{one.id}/"}},
        }  # fmt: skip


_THEN = "2026-01-01T00:00:00Z"


def _id(number: int) -> str:
    """As W&B's: base64."""
    return base64.b64encode(f"Artifact:{number}".encode()).decode()


def _aliases(one: StoredArtifact) -> list[dict[str, Any]]:
    names = sorted({*one.aliases, f"v{one.version}"})
    return [{"__typename": "ArtifactAlias", "id": f"{one.id}-{name}", "alias": name} for name in names]


def _files(
    one: StoredArtifact, names: list[str] | None = None, after: str | None = None, first: int = 50
) -> Fields:
    nodes = []
    for name, entry in one.entries.items():
        if names is not None and name not in names:
            continue
        # What is only referred to is listed as well, by where it lies.
        url = entry.get("ref") or f"{{base}}/download/{one.id}/{name}"
        nodes.append({
            "__typename": "File", "id": name, "name": name, "displayName": name, "url": url, "directUrl": url,
            "sizeBytes": entry.get("size", 0), "storagePath": name, "mimetype": None, "updatedAt": _THEN,
            "digest": entry["digest"], "md5": entry["digest"],
        })  # fmt: skip
    edges = [{"node": node, "cursor": node["id"]} for node in nodes]
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    return {"edges": edges, "totalCount": len(edges), "pageInfo": page}


def _first(membership: Fields | None) -> Any:
    return None if membership is None else membership["artifact"]


def _entry(data: bytes | Path | str) -> dict[str, Any]:
    if isinstance(data, str):
        return {"digest": "etag", "ref": data}
    if isinstance(data, bytes):
        digest, size = hashlib.md5(data), len(data)
    else:
        size = data.stat().st_size
        with data.open("rb") as file:
            digest = hashlib.file_digest(file, "md5")
    return {"digest": base64.b64encode(digest.digest()).decode(), "size": size, "birthArtifactID": "x"}


def _manifest(contents: dict[str, Any]) -> bytes:
    return json.dumps({
        "version": 1, "storagePolicy": "wandb-storage-policy-v1",
        "storagePolicyConfig": {"storageLayout": "V2"}, "contents": contents,
    }).encode()  # fmt: skip
