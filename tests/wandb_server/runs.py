"""Runs as the stand-in stores them, and the GraphQL fields over them."""

# ruff: noqa: N803 - arguments are called what the schema calls them
from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.wandb_server.graph import Fields

ENTITY = "stand-in"
"""Whose everything is that names no entity."""
HISTORY, EVENTS, SUMMARY = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json"


class Refused(Exception):
    """What the true service, too, would not do."""


@dataclass
class StoredRun:
    """What the client said about one run."""

    id: str
    project: str
    entity: str
    config: dict[str, Any] = field(default_factory=dict)
    """As sent: ``{key: {"value": value}}``, with the client's own facts under ``_wandb``."""
    about: dict[str, Any] = field(default_factory=dict)
    """The fields of UpsertBucket's input: groupName, jobType, displayName, tags, notes, ..."""
    streams: dict[str, dict[int, str]] = field(default_factory=dict)
    """File streams: lines by offset."""
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    complete: bool = False
    preempting: bool = False
    upserts: int = 0
    rewinds: list[int] = field(default_factory=list)
    """Steps that the client had the run rewound to."""
    created: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    )

    @property
    def group(self) -> str | None:
        return self.about.get("groupName")

    @property
    def job_type(self) -> str | None:
        return self.about.get("jobType")

    @property
    def tags(self) -> list[str]:
        return self.about.get("tags") or []

    @property
    def notes(self) -> str | None:
        return self.about.get("notes")

    @property
    def name(self) -> str:
        return self.about.get("displayName") or self.id

    @property
    def values(self) -> dict[str, Any]:
        """The config as its user gave it."""
        return {key: one["value"] for key, one in self.config.items() if key != "_wandb"}

    @property
    def lines(self) -> list[str]:
        """History lines in order; a hole in the stream is an error."""
        stream = self.streams.get(HISTORY, {})
        assert sorted(stream) == list(range(len(stream))), (
            f"holes in the history of {self.id}: {sorted(stream)}"
        )
        return [stream[offset] for offset in sorted(stream)]

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def summary(self) -> dict[str, Any]:
        stream = self.streams.get(SUMMARY, {})
        return json.loads(stream[max(stream)]) if stream else {}

    @property
    def state(self) -> str:
        if self.complete:
            return "finished" if self.exit_code == 0 else "preempted" if self.preempting else "crashed"
        return "running"

    @property
    def branch_point(self) -> dict[str, Any] | None:
        """The run and step that it was forked from."""
        return self.config.get("_wandb", {}).get("value", {}).get("branch_point")

    def tail(self, stream: str) -> str:
        """The last line as the client is given it: a JSON list of JSON texts."""
        there = self.streams.get(stream, {})
        return json.dumps([there[max(there)]] if there else [])

    def stream(self, body: dict[str, Any]) -> None:
        """Take one request of the file stream."""
        for name, part in (body.get("files") or {}).items():
            lines = self.streams.setdefault(name, {})
            for number, line in enumerate(part["content"], start=part["offset"]):
                lines[number] = line
        self.preempting = bool(body.get("preempting", self.preempting))
        if body.get("complete"):
            self.complete, self.exit_code = True, body.get("exitcode")

    def rewind(self, step: int) -> None:
        """Forget the history after ``step``."""
        kept = [line for line in self.lines if json.loads(line)["_step"] <= step]
        self.streams[HISTORY] = dict(enumerate(kept))
        self.streams[SUMMARY] = {0: kept[-1]} if kept else {}
        self.rewinds.append(step)


class Runs:
    """All runs, and the fields that ask for them."""

    def __init__(self, sweep: Callable[[str], Fields | None]) -> None:
        """``sweep``: what a project has of one, by name."""
        self.stored: dict[tuple[str, str, str], StoredRun] = {}
        self._sweep = sweep

    def find(self, entity: str | None, project: str, run: str) -> StoredRun | None:
        return self.stored.get((entity or ENTITY, project, run))

    def root(self) -> dict[str, Any]:
        """The root fields of queries and mutations about runs."""
        viewer = {
            "id": "viewer", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "flags": "{}",
            "admin": False, "deletedAt": None, "teams": {"edges": []}, "apiKeys": {"edges": []},
        }  # fmt: skip
        return {
            "viewer": viewer,
            "serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None},
            "upsertBucket": self._upsert,
            "rewindRun": self._rewind,
            "createRunFiles": self._create_files,
            "model": self._project,
            "project": self._project,
            "models": self._projects,
        }

    def _upsert(self, input: dict[str, Any]) -> Fields:
        place = (input.get("entityName") or ENTITY, input.get("modelName") or "uncategorized", input["name"])
        config = json.loads(input.get("config") or "{}")
        inserted = place not in self.stored
        point = config.get("_wandb", {}).get("value", {}).get("branch_point") if inserted else None
        trunk = self.find(place[0], place[1], point["run_id"]) if point else None
        if point and trunk is None:
            raise Refused(f"there is no run {point['run_id']} to fork from")
        run = self.stored.setdefault(place, StoredRun(place[2], place[1], place[0]))
        run.upserts += 1
        run.complete = False
        run.about.update({key: value for key, value in input.items() if value is not None})
        run.config.update(config)
        if trunk is not None:
            kept = [line for line in trunk.lines if json.loads(line)["_step"] <= point["step"]]
            run.streams[HISTORY] = dict(enumerate(kept))
        return {"bucket": self._bucket(run), "inserted": inserted}

    def _rewind(self, input: dict[str, Any]) -> Fields:
        run = self.find(input.get("entityName"), input["projectName"], input["runName"])
        assert run is not None
        run.rewind(int(input["metricValue"]))
        return {"rewoundRun": self._bucket(run)}

    def _create_files(self, input: dict[str, Any]) -> Fields:
        where = f"{input['entityName']}/{input['projectName']}/{input['runName']}"
        files = [{"name": name, "uploadUrl": f"{{base}}/storage/{where}/{name}"} for name in input["files"]]
        return {"createRunFiles": None, "uploadHeaders": [], "files": files, "runID": "", "success": True}

    def _projects(self, entityName: str, first: int = 50, after: str | None = None) -> Fields:
        """Those that have runs."""
        names = sorted({project for entity, project, _ in self.stored if entity == entityName})
        nodes = [
            {
                "__typename": "Project", "id": f"project-{name}", "name": name, "entityName": entityName,
                "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None,
            }
            for name in names
        ]  # fmt: skip
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"pageInfo": page, "edges": [{"node": node} for node in nodes]}

    def _project(self, name: str, entityName: str | None = None) -> Fields:
        entity = entityName or ENTITY

        def bucket(name: str, missingOk: bool = True) -> Fields | None:
            run = self.find(entity, project, name)
            return None if run is None else self._bucket(run)

        def several(filters: str | None = None, order: str | None = None, first: int = 50,
                    after: str | None = None) -> Fields:  # fmt: skip
            there = [run for place, run in self.stored.items() if place[:2] == (entity, project)]
            chosen = [run for run in there if _matches(run, json.loads(filters or "{}"))]
            edges = [{"node": self._bucket(run), "cursor": run.id} for run in chosen]
            return {
                "edges": edges,
                "totalCount": len(edges),
                "pageInfo": {"endCursor": None, "hasNextPage": False},
            }

        project = name
        return {
            "__typename": "Project", "id": f"project-{name}", "internalId": "UHJvamVjdDox", "name": name,
            "entity": {"name": entity, "id": entity}, "entityName": entity, "readOnly": False,
            "bucket": bucket, "run": bucket, "runs": several, "sweep": self._sweep,
            "runCount": lambda filters=None: several(filters)["totalCount"],
        }  # fmt: skip

    def _bucket(self, run: StoredRun) -> Fields:
        project = {"id": f"project-{run.project}", "internalId": "UHJvamVjdDox", "name": run.project,
                   "entity": {"name": run.entity, "id": run.entity}}  # fmt: skip
        keys = sorted({key for row in run.history for key in row})
        last = run.history[-1]["_step"] if run.history else -1
        internal = run.config.get("_wandb", {}).get("value", {})
        return {
            "__typename": "Run", "id": f"storage-{run.id}", "projectId": "1", "name": run.id,
            "displayName": run.name, "description": "", "notes": run.notes, "config": json.dumps(run.config),
            "group": run.group, "jobType": run.job_type, "tags": run.tags, "state": run.state,
            "project": project, "sweepName": None, "commit": None, "readOnly": False, "stopped": False,
            "createdAt": run.created, "updatedAt": run.created, "heartbeatAt": run.created,
            "systemMetrics": "{}", "user": {"name": ENTITY, "username": ENTITY, "id": "viewer"},
            "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.lines),
            "historyTail": run.tail(HISTORY), "eventsTail": run.tail(EVENTS),
            "eventsLineCount": len(run.streams.get(EVENTS, {})), "logLineCount": 0,
            "historyKeys": {"lastStep": last, "keys": {key: {} for key in keys}},
            "wandbConfig": lambda keys: json.dumps({key: internal.get(key) for key in keys}),
            "history": lambda minStep=0, maxStep=10**12, samples=0: [
                line for line in run.lines if minStep <= json.loads(line)["_step"] < maxStep
            ],
            "sampledHistory": lambda specs: [_sampled(run, json.loads(spec)) for spec in specs],
            "parquetHistory": lambda liveKeys: {"parquetUrls": [], "liveData": run.history},
            "files": lambda **_: {"edges": [{"node": {"name": name}} for name in run.files]},
        }  # fmt: skip


def _sampled(run: StoredRun, spec: dict[str, Any]) -> list[dict[str, Any]]:
    keys = spec.get("keys")
    rows = [row for row in run.history if not keys or all(key in row for key in keys)]
    return [{key: row[key] for key in keys or row} for row in rows]


def _matches(run: StoredRun, wanted: dict[str, Any]) -> bool:
    known = {
        "group": run.group,
        "jobType": run.job_type,
        "name": run.id,
        "displayName": run.name,
        "state": run.state,
    }
    for key, value in wanted.items():
        if key == "$and":
            if not all(_matches(run, one) for one in value):
                return False
        elif key == "$or":
            if not any(_matches(run, one) for one in value):
                return False
        elif key not in known:
            raise NotImplementedError(f"the stand-in does not filter by {key}")
        elif known[key] != value:
            return False
    return True
