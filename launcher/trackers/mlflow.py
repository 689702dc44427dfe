"""MLflow, by its real client; the only file that imports mlflow, and only when a run starts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from launcher.config import MlflowConfig
from launcher.files import flatten
from launcher.layout import RunDirectory, checkpoint_at, checkpoint_step, manifest_of
from launcher.trackers.base import RunIdentity, State
from launcher.trackers.metrics_file import STEP
from launcher.trackers.mirror import missing
from launcher.trackers.mlflow_told import experiment_name, note_told, without_secret

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

RUN_ID = "launcher_run_id"
"""The tag that a run is found by after a requeue, and as the parent of its branches."""
METRICS_A_REQUEST = 1000
"""More the server refuses."""
METRICS_AT_ONCE = 200
"""Beside training; MLflow takes the interpreter for about 20 ms with them."""
PAUSE_SECONDS = 0.02
"""Between requests beside training, which has the interpreter to itself meanwhile."""
PARAMS_A_REQUEST = 100
LONGEST_KEY = 250
LONGEST_PARAM = 6000
LONGEST_TAG = 5000
ARTIFACTS = "mlflow-artifacts"
"""Directory of small artifacts beside an SQLite file."""

_SETTINGS = {
    # The client would go on for four minutes; what it could not send is in metrics.jsonl.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Set where the environment does not say otherwise; the client has no other way to be told."""
_STATUS: Mapping[State, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "SCHEDULED"}
_BRANCH_POINT = (
    "branch_type", "branched_from_checkpoint", "branched_from_step", "branched_from_run",
    "branched_from_sha256", "comparison_to_run",
)  # fmt: skip
_ILLEGAL_IN_KEY = re.compile(r"[^\w\-. /:]")


@dataclass(frozen=True)
class _Line:
    step: int
    milliseconds: int
    metrics: Mapping[str, float]


class MlflowTracker:
    """One MLflow run, found again by a tag, nested under the MLflow run of its trunk.

    Lines go out in batches, at the earliest ``flush_seconds`` after the batch before, in the thread that
    logs. ``global_step`` is a metric of its own: it says which steps are there.
    """

    name = "mlflow"
    remedy = "`launcher sync` hands it over later."

    def __init__(self, config: MlflowConfig) -> None:
        self._config = config
        self.ended: float | None = None
        """When the run ended, in seconds since 1970; None: when :meth:`finish` is called."""
        self._client: MlflowClient | None = None
        self._last_step: int | None = None
        self._held: list[_Line] = []
        self._names: set[str] = set()
        self._flushed = 0.0

    @property
    def held(self) -> int:
        """How many steps are not handed over yet."""
        return len(self._held)

    def start(self, identity: RunIdentity) -> str | None:
        """Begin or go on with the run; returns its page, or the database that ``mlflow ui`` takes."""
        uri = self._uri()
        note_told(identity, uri, self._config.store)
        client = new_client(uri)
        experiment = self._experiment(client, identity, uri)
        run = _own(client, experiment, identity) or client.create_run(
            experiment, run_name=identity.name, tags={RUN_ID: identity.id}
        )
        self._id, self._began = run.info.run_id, run.info.start_time
        self._directory = identity.directory
        _describe(client, run, identity, _parent(client, experiment, identity))
        now = _milliseconds()
        self._held = [_Line(step, now, metrics) for step, metrics in _lacking(client, run, identity)]
        self._last_step = identity.last_logged_step
        self._client = client
        self._flush()
        return _page(uri, experiment, run)

    def complete(
        self, identity: RunIdentity, state: State, summary: Mapping[str, Any]
    ) -> tuple[str | None, int]:
        """Bring a run that is over up to what its own files have; its page, and how many rows that took."""
        uri = self._uri()
        client = new_client(uri)
        experiment = self._experiment(client, identity, uri)
        run = _own(client, experiment, identity)
        lacking = None if run is None else len(_lacking(client, run, identity))
        if run is not None and lacking == 0 and run.info.status == _STATUS[state]:
            return _page(uri, experiment, run), 0
        link = self.start(identity)
        self.finish(state, summary)
        return link, len(missing(identity, ())) if lacking is None else lacking

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take one step's numbers, unless an earlier process of this run did."""
        if self._client is None or (self._last_step is not None and step <= self._last_step):
            return
        self._held.append(_Line(step, _milliseconds(), dict(metrics)))
        self._last_step = step
        if time.monotonic() - self._flushed >= self._config.flush_seconds:
            self._flush(METRICS_AT_ONCE, PAUSE_SECONDS)

    def finish(self, state: State, summary: Mapping[str, Any]) -> None:
        """Send what is held back, the list of the checkpoints, and how the run ended.

        What is in ``summary`` and no metric becomes a tag. An interrupted run is shown as scheduled.
        """
        if self._client is None:
            return
        self._flush()
        for key, value in summary.items():
            if key not in self._names:
                self._client.set_tag(self._id, _key(key), str(value)[:LONGEST_TAG])
        checkpoints = _checkpoints(RunDirectory(self._directory))
        if checkpoints:
            self._client.log_dict(self._id, {"checkpoints": checkpoints}, "checkpoints.json")
        ended = None if self.ended is None else max(int(self.ended * 1000), self._began)
        self._client.set_terminated(self._id, _STATUS[state], ended)
        self._client = None

    def abandon(self) -> None:
        """Let go; nothing runs in the background."""
        self._client = None

    def _uri(self) -> str:
        named = self._config.uri or os.environ.get("MLFLOW_TRACKING_URI")
        if named:
            return named
        store = Path(self._config.store).resolve()
        store.parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{store}"

    def _experiment(self, client: MlflowClient, identity: RunIdentity, uri: str) -> str:
        """Id of the experiment, which is the project."""
        from mlflow.exceptions import MlflowException

        name = experiment_name(identity)
        if (found := client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        own = None if _is_server(uri) else Path(self._config.store).resolve().parent / ARTIFACTS
        try:
            # Without a place for a local store, MLflow would use the directory that it was started in.
            return str(client.create_experiment(name, own.as_uri() if own else None))
        except MlflowException:
            # A sibling was faster.
            if (found := client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)

    def _flush(self, at_once: int = METRICS_A_REQUEST, pause: float = 0.0) -> None:
        from mlflow.entities import Metric

        assert self._client is not None
        self._flushed = time.monotonic()
        batch: list[Metric] = []
        for line in self._held:
            metrics = [
                Metric(_key(key), value, line.milliseconds, line.step)
                for key, value in {**line.metrics, STEP: line.step}.items()
            ]
            # A step is there whole or not at all.
            if batch and len(batch) + len(metrics) > at_once:
                self._client.log_batch(self._id, metrics=batch)
                time.sleep(pause)
                batch = []
            batch += metrics
            self._names.update(line.metrics)
        if batch:
            self._client.log_batch(self._id, metrics=batch)
        self._held.clear()


def new_client(uri: str) -> MlflowClient:
    """A client that does not go on for minutes where its server is gone.

    An SQLite file that is not there is made, whole or not at all, however many processes ask for it at once.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow.telemetry

    # It reads its switch when it is imported: perhaps in the process that this one was forked from.
    mlflow.telemetry.set_telemetry_client()
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        # What fails is raised as well; it would be logged with its traceback.
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.WARNING)
    if uri.startswith("sqlite:"):
        _make(uri)
    return mlflow.MlflowClient(uri)


def _make(uri: str) -> None:
    """Make the database. MLflow itself makes it in place, and siblings that begin together spoil it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.engine import make_url

    place = make_url(uri).database
    if place in (None, "", ":memory:"):
        return
    file = Path(place).resolve()
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(file.parent), TemporaryDirectory(prefix=".mlflow-", dir=file.parent) as directory:
        if file.exists():
            return
        made = Path(directory, file.name)
        store = SqlAlchemyStore(f"sqlite:///{made}", str(file.parent / ARTIFACTS))
        store.engine.dispose()
        # Where locks do nothing, one of several has it all the same.
        with contextlib.suppress(FileExistsError):
            os.link(made, file)


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Making it takes seconds of processor time: the others wait for the first, where locks work."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _page(uri: str, experiment: str, run: Run) -> str:
    """Where the run can be seen: its page, or the database that ``mlflow ui`` takes."""
    shown = without_secret(uri).rstrip("/")
    return f"{shown}/#/experiments/{experiment}/runs/{run.info.run_id}" if _is_server(uri) else shown


def _lacking(client: MlflowClient, run: Run, identity: RunIdentity) -> list[tuple[int, dict[str, float]]]:
    """The rows of metrics.jsonl that are not there."""
    history = client.get_metric_history(run.info.run_id, STEP) if STEP in run.data.metrics else []
    return missing(identity, {metric.step for metric in history})


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _found(client: MlflowClient, experiment: str, run_id: str) -> Run | None:
    """The newest MLflow run of a run."""
    query = f"tags.{RUN_ID} = '{run_id}'"
    runs = client.search_runs([experiment], query, max_results=1, order_by=["attributes.start_time DESC"])
    return runs[0] if runs else None


def _own(client: MlflowClient, experiment: str, identity: RunIdentity) -> Run | None:
    """The MLflow run that this run goes on with.

    A run that begins takes over none but an empty one: an equal run in another directory has the same id.
    """
    run = _found(client, experiment, identity.id)
    goes_on = identity.resumed or identity.last_logged_step is not None
    return run if run is not None and (goes_on or not run.data.metrics) else None


def _parent(client: MlflowClient, experiment: str, identity: RunIdentity) -> str | None:
    """Id of the trunk's MLflow run; None for a trunk, and where the trunk is not in this experiment."""
    trunk = identity.config.get("branched_from_run")
    run = _found(client, experiment, trunk) if trunk else None
    return None if run is None else str(run.info.run_id)


def _describe(client: MlflowClient, run: Run, identity: RunIdentity, parent: str | None) -> None:
    """Name, tags and params. A param is never changed: MLflow refuses that."""
    from mlflow.entities import Param, RunTag

    tags = {
        "group": identity.group,
        "job_type": identity.job_type,
        "tags": ", ".join(identity.tags) or None,
        "directory": str(identity.directory.resolve()),
        "mlflow.note.content": identity.notes,
        "mlflow.parentRunId": parent,
        **{key: identity.config.get(key) for key in _BRANCH_POINT},
    }
    told = [RunTag(key, str(value)[:LONGEST_TAG]) for key, value in tags.items() if value is not None]
    flat = {_key(key): _text(value) for key, value in flatten(identity.config).items()}
    new = [Param(key, value) for key, value in flat.items() if key not in run.data.params]
    client.update_run(run.info.run_id, status="RUNNING", name=identity.name)
    client.log_batch(run.info.run_id, tags=told)
    for first in range(0, len(new), PARAMS_A_REQUEST):
        client.log_batch(run.info.run_id, params=new[first : first + PARAMS_A_REQUEST])


def _checkpoints(directory: RunDirectory) -> list[dict[str, Any]]:
    """The checkpoints that are there, by reference: step, place, digest."""
    found = []
    for step in sorted(_steps(directory.checkpoints.iterdir() if directory.checkpoints.is_dir() else ())):
        path = checkpoint_at(directory.checkpoints, step)
        manifest = json.loads(manifest_of(path).read_text(encoding="utf-8"))
        found.append({"step": step, "uri": path.resolve().as_uri(), "sha256": manifest["sha256"]})
    return found


def _steps(paths: Iterable[Path]) -> list[int]:
    """Steps of the checkpoints among ``paths``: without a manifest there is none."""
    steps = ((checkpoint_step(path.name), manifest_of(path)) for path in paths)
    return [step for step, manifest in steps if step is not None and manifest.exists()]


def _key(text: str) -> str:
    """``text`` as a key that MLflow takes."""
    return _ILLEGAL_IN_KEY.sub("_", text)[:LONGEST_KEY]


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:LONGEST_PARAM]


def _milliseconds() -> int:
    return int(time.time() * 1000)
