"""A stand-in for Vertex AI's jobs and Cloud Storage's buckets: the few REST calls, and what goes wrong.

What a client sends is read by the schema that Google publishes with its package, ignoring nothing.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from google.auth import jwt
from google.cloud.aiplatform_v1.types import CustomJob
from google.protobuf import json_format

GRANTED = "granted"
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Fault:
    """What happens to requests instead of an answer."""

    does: str
    """``status``; ``lost``: it is done, and the connection closed; ``close``: not even done; ``hang``: it is
    done, and no answer comes."""
    on: str
    """``METHOD PATH`` begins so."""
    status: int = 500
    message: str = "something"
    after: int = 0
    """So many requests are answered first."""
    times: int = 10**9


@dataclass
class StoredJob:
    name: str
    body: dict[str, Any]
    """As the published schema reads and writes it."""
    raw: dict[str, Any]
    """As it was sent."""
    state: str = "JOB_STATE_PENDING"
    error: str = ""

    @property
    def container(self) -> dict[str, Any]:
        value: dict[str, Any] = self.body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
        return value

    @property
    def environment(self) -> dict[str, str]:
        return {one["name"]: one["value"] for one in self.container["env"]}

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.body["labels"])

    def answer(self) -> dict[str, Any]:
        error = {"error": {"code": 3, "message": self.error}} if self.error else {}
        return {**self.body, "name": self.name, "state": self.state, **error}


Machine = Callable[[StoredJob], int]
"""Runs a job's container to its end; the exit status."""


class VertexServer:
    """A server in threads of its own, on a port of its own. Use it as a context manager."""

    def __init__(self, public_key: bytes) -> None:
        self.jobs: list[StoredJob] = []
        self.buckets = {"runs": True, "flat": False}
        """Name to whether it has a hierarchical namespace."""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.machine: Machine | None = None
        """Where jobs run as soon as they are created; None: they wait for :meth:`run`."""
        self.lock = threading.RLock()
        self._key = public_key
        self._faults: list[list[Any]] = []
        self._running: list[threading.Thread] = []
        self._released = threading.Event()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.stand_in = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": f"{self.url}/",
            "STORAGE_EMULATOR_HOST": self.url,
        }

    def misbehave(self, does: str, on: str, **how: Any) -> None:
        fault = Fault(does, on, **how)
        self._faults.append([fault, fault.after, fault.times])

    def behave(self) -> None:
        self._faults.clear()
        self._released.set()

    def run(self, job: StoredJob, machine: Machine) -> int:
        """Run a job here and now."""
        job.state = "JOB_STATE_RUNNING"
        status = machine(job)
        if job.state == "JOB_STATE_RUNNING":
            job.state = "JOB_STATE_SUCCEEDED" if status == 0 else "JOB_STATE_FAILED"
            job.error = (
                "" if status == 0 else f"The replica workerpool0-0 exited with a non-zero status of {status}."
            )
        return status

    def created(self, job: StoredJob) -> None:
        self.jobs.append(job)
        if self.machine is not None:
            self._running.append(threading.Thread(target=self.run, args=(job, self.machine)))
            self._running[-1].start()

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for one in self._faults:
                if request.startswith(one[0].on) and one[2] > 0:
                    if one[1] > 0:
                        one[1] -= 1
                        continue
                    one[2] -= 1
                    found: Fault = one[0]
                    return found
        return None

    def held(self) -> None:
        self._released.wait(60)

    def allowed(self, header: str | None) -> bool:
        """Whether the token was signed with the key of the one service account, or was given for one."""
        token = (header or "").removeprefix("Bearer ")
        try:
            return token == GRANTED or bool(jwt.decode(token, certs=self._key, audience=None))
        except ValueError:
            return False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        for one in self._running:
            one.join()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    stand_in: VertexServer


@dataclass
class Refused(Exception):
    status: int
    message: str
    reason: str = field(default="")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        there = self.server.stand_in
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        fault = there.fault(f"{self.command} {url.path}")
        if fault is not None and fault.does == "close":
            return self._cut()
        if fault is not None and fault.does == "status":
            return self._send(fault.status, _error(fault.status, fault.message))
        if url.path == "/token":
            [assertion] = parse_qs(body.decode())["assertion"]
            granted = {"access_token": GRANTED, "expires_in": 3600, "token_type": "Bearer"}
            return self._send(200, granted) if there.allowed(assertion) else self._send(401, {})
        try:
            if not there.allowed(self.headers.get("Authorization")):
                raise Refused(401, "Request had invalid authentication credentials.")
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            with there.lock:
                value = self._done(url.path, query, body)
        except Refused as refused:
            return self._send(refused.status, _error(refused.status, refused.message))
        if fault is not None:
            if fault.does == "hang":
                there.held()
            return self._cut()
        return self._send(200, value)

    def _done(self, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)", path):
            return self._bucket(match[1])
        if match := re.fullmatch(r"/v1/(projects/[^/]+/locations/[^/]+)/customJobs", path):
            return self._created(match[1], body) if self.command == "POST" else self._listed(match[1], query)
        if match := re.fullmatch(r"/v1/(projects/[^/]+/locations/[^/]+/customJobs/\d+)(:cancel)?", path):
            job = next((one for one in self.server.stand_in.jobs if one.name == match[1]), None)
            if job is None:
                raise Refused(404, f"CustomJob `{match[1]}` not found.")
            if not match[2]:
                return job.answer()
            if job.state in ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"):
                raise Refused(400, f"{job.name} is over.")
            job.state = "JOB_STATE_CANCELLED"
            return {}
        self.server.stand_in.complaints.append(self.path)
        raise Refused(404, f"not modelled: {path}")

    def _bucket(self, name: str) -> dict[str, Any]:
        there = self.server.stand_in.buckets
        if name not in there:
            raise Refused(404, "The specified bucket does not exist.")
        more = {"hierarchicalNamespace": {"enabled": True}} if there[name] else {}
        return {"kind": "storage#bucket", "id": name, "name": name, **more}

    def _created(self, parent: str, body: bytes) -> dict[str, Any]:
        message = CustomJob.pb(CustomJob())
        try:
            json_format.Parse(body, message, ignore_unknown_fields=False)
        except json_format.ParseError as error:
            raise Refused(400, f"Invalid JSON payload received. {error}") from error
        value = json.loads(json_format.MessageToJson(message))
        wrong = [
            f"{key}={text}" for key, text in value["labels"].items() if not _LABEL.fullmatch(f"{key}={text}")
        ]
        container = value["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
        if wrong or not 0 < len(value["displayName"]) <= 128 or not container["imageUri"]:
            raise Refused(400, f"Invalid CustomJob: {wrong} {value['displayName']}")
        there = self.server.stand_in
        job = StoredJob(f"{parent}/customJobs/{7_000 + len(there.jobs)}", value, json.loads(body))
        there.created(job)
        return job.answer()

    def _listed(self, parent: str, query: dict[str, str]) -> dict[str, Any]:
        match = re.fullmatch(r"labels\.([a-z0-9_-]+)=([a-z0-9_-]+)", query.get("filter", ""))
        if match is None:
            raise Refused(400, f"not modelled: {query}")
        found = [
            one.answer()
            for one in self.server.stand_in.jobs
            if one.name.startswith(f"{parent}/") and one.labels.get(match[1]) == match[2]
        ]
        return {"customJobs": found[: int(query.get("pageSize", 100))]}

    def _send(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _cut(self) -> None:
        self.close_connection = True


_STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
           429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}  # fmt: skip


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": _STATUS[status]}}


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
