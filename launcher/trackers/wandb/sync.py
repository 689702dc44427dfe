"""What ran offline goes up later, and what W&B has is set against metrics.jsonl.

What the client wrote offline (a segment for each process) is uploaded by the client's own ``wandb sync``, in
order. Rows that no segment has, because a process was killed before they were written, or that never arrived,
are sent from metrics.jsonl: before the segment that follows them, or at the end. W&B only takes rows in
order, so a hole in the middle of what it has already can be filled only by rewinding the run there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import ConfigError, LauncherError
from launcher.layout import RunDirectory
from launcher.trackers.base import KeptCheckpoint, State, reason_of
from launcher.trackers.metrics_file import STEP, read_metrics
from launcher.trackers.trunk import TrunkValues
from launcher.trackers.wandb.artifacts import collection_of, full_name, logged, note, uploaded, version_of
from launcher.trackers.wandb.mode import has_key
from launcher.trackers.wandb.names import DEFAULT_PROJECT, told_of
from launcher.trackers.wandb.tracker import clients_environment, quiet_library

if TYPE_CHECKING:
    import wandb

UPLOAD_SECONDS = 3600
"""How long the upload of one segment may take."""
API_SECONDS = 60
"""How long the server may take over one answer."""


@dataclass(frozen=True)
class Local:
    """A run as its own files have it."""

    id: str
    """Its id in W&B."""
    directory: Path
    state: State
    """How it ended, as trackers are told."""
    project: str | None = None
    entity: str | None = None
    trunk: TrunkValues | None = None
    input: str | None = None
    """Artifact that the run began from; offline the client cannot declare it."""
    checkpoints: Sequence[KeptCheckpoint] = ()
    """Those that W&B is to have and may lack."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """What a tracker is told at the end."""
    run_id: str | None = None
    """The run's own id, which the collection of its checkpoints is called by; default: ``id``."""


@dataclass
class Synced:
    """What became of one run."""

    run: str
    tracker: str = "wandb"
    link: str | None = None
    lines: int = 0
    """Logged steps in metrics.jsonl."""
    uploaded: list[str] = field(default_factory=list)
    """Segments that went up now."""
    sent: int = 0
    """Rows that were sent from metrics.jsonl."""
    missing: list[int] = field(default_factory=list)
    """Steps that metrics.jsonl has and the tracker has not."""
    checkpoints: dict[int, str] = field(default_factory=dict)
    """Step to version, of the checkpoints that went up now."""
    not_uploaded: dict[int, str] = field(default_factory=dict)
    """Step to why it is not up."""
    problem: str | None = None

    @property
    def whole(self) -> bool:
        """Whether W&B has everything now."""
        return self.problem is None and not self.missing and not self.not_uploaded

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class _Segment:
    path: Path
    steps: tuple[int, ...]
    project: str | None
    entity: str | None


def was_tracked(directory: Path) -> bool:
    """Whether the client was ever told of the run in a directory."""
    return bool(told_of(directory)) or any((directory / "wandb").glob("*run-*"))


def require_key() -> None:
    """See that there is a key for the server.

    Raises:
        ConfigError: there is none.
    """
    with clients_environment():
        library = quiet_library()
        if not has_key(library.settings.base_url):
            raise ConfigError("wandb has no API key.", do="set WANDB_API_KEY, or run `wandb login`")


def sync_run(local: Local, rewind: bool = False) -> Synced:
    """Bring one run's W&B run up to what its own files have; whatever goes wrong is in the result.

    Args:
        local: the run.
        rewind: fill holes as well, by having W&B forget the run's history from there on and sending it anew.
    """
    found = Synced(local.run_id or local.id)
    try:
        with clients_environment():
            _Sync(local, found).bring_up(rewind)
    except LauncherError as error:
        found.problem = str(error).splitlines()[0]
    except Exception as error:  # The client's errors have no common base.
        found.problem = reason_of(error)
    return found


class _Sync:
    def __init__(self, local: Local, found: Synced) -> None:
        import wandb

        self._local, self._found = local, found
        self._lines = read_metrics(RunDirectory(local.directory).metrics)
        found.lines = len(self._lines)
        self._api = wandb.Api(timeout=API_SECONDS)
        self._told = told_of(local.directory)
        self._project = local.project or self._told.get("project")
        self._entity = local.entity or self._told.get("entity")
        self._is_there = True

    def bring_up(self, rewind: bool) -> None:
        """Upload, fill, compare."""
        segments = sorted(_unsynced(self._local.directory), key=lambda one: one.steps[:1])
        for one in segments:
            self._project, self._entity = self._project or one.project, self._entity or one.entity
        there = self._steps_there()
        for one in segments:
            if there and one.steps and one.steps[0] <= max(there):
                continue  # It was begun before: what it lacks comes from metrics.jsonl.
            if one.steps:
                self._fill(there, before=one.steps[0])
            _upload(one.path)
            self._found.uploaded.append(one.path.name)
            there = self._steps_there()
        self._fill(there)
        there = self._steps_there()
        holes = self._missing(there)
        if holes and rewind:
            self._send((line for line in self._lines if line[STEP] >= holes[0]), rewound_to=holes[0] - 1)
            there = self._steps_there()
        self._found.missing = self._missing(there)
        self._complete_artifacts()

    def _complete_artifacts(self) -> None:
        """Declare the run's input, and send the checkpoints that W&B lacks."""
        began, checkpoints = self._input_to_declare(), self._checkpoints_to_send()
        if not checkpoints and began is None:
            return
        with self._opened({"id": self._local.id, "resume": "allow"}) as run:
            if began is not None:
                self._declare(run, began)
            for kept in checkpoints:
                self._send_checkpoint(run, kept)
            self._end(run)

    def _input_to_declare(self) -> str | None:
        if self._local.input is None:
            return None
        used = self._api.run(self._path()).used_artifacts()
        return None if self._local.input in map(full_name, used) else self._local.input

    def _declare(self, run: wandb.Run, artifact: str) -> None:
        try:
            run.use_artifact(artifact)
        except Exception as error:  # It may be gone there; the checkpoints are not to suffer for it.
            self._found.problem = f"W&B does not show {artifact} as its input: {reason_of(error)}"

    def _checkpoints_to_send(self) -> list[KeptCheckpoint]:
        """Those that W&B lacks; of those that it has, the version is written down."""
        directory = RunDirectory(self._local.directory)
        wanted = {kept.step: kept for kept in self._local.checkpoints}
        # Offline the client only notes a checkpoint; `wandb sync` passes over one that is not on disk.
        noted = {step for step, name in uploaded(directory).items() if ":" not in name}
        if not wanted and not noted:
            return []
        there = self._checkpoints_there()
        for step in (wanted.keys() | noted) & there.keys():
            note(directory, step, there[step])
        for step in noted - wanted.keys() - there.keys():
            self._found.not_uploaded[step] = "it is not on disk any more"
        return [kept for step, kept in wanted.items() if step not in there]

    def _checkpoints_there(self) -> dict[int, str]:
        """Step to version."""
        self._api.flush()  # type: ignore[no-untyped-call]
        collection = collection_of(self._local.run_id or self._local.id)
        return {
            int(one.metadata["step"]): full_name(one)
            for one in self._api.run(self._path()).logged_artifacts()
            if one.source_name.rpartition(":")[0] == collection and one.state == "COMMITTED"
        }

    def _send_checkpoint(self, run: wandb.Run, kept: KeptCheckpoint) -> None:
        try:
            name = version_of(logged(run, self._local.run_id or self._local.id, kept))
        except Exception as error:  # One that cannot be read keeps no other back.
            self._found.not_uploaded[kept.step] = reason_of(error)
            return
        self._found.checkpoints[kept.step] = name
        note(RunDirectory(self._local.directory), kept.step, name)

    def _end(self, run: wandb.Run) -> None:
        run.summary.update(dict(self._local.summary))
        if self._local.state == "interrupted":
            run.mark_preempting()
        run.finish(exit_code=0 if self._local.state == "finished" else 1)

    def _missing(self, there: set[int]) -> list[int]:
        return [line[STEP] for line in self._lines if line[STEP] not in there]

    def _fill(self, there: set[int], before: int | None = None) -> None:
        """Send the rows that come after all that W&B has, up to the next segment."""
        last = max(there, default=-1)
        rows = [line for line in self._lines if line[STEP] > last and (before is None or line[STEP] < before)]
        if rows:
            self._send(rows)

    def _send(self, rows: Iterable[Mapping[str, Any]], rewound_to: int | None = None) -> None:
        how: dict[str, Any] = {"id": self._local.id, "resume": "allow"}
        if not self._is_there:  # Its start failed: nobody has told W&B yet what run it is.
            how = {**self._told, **how}
        if rewound_to is not None:
            how = {"resume_from": f"{self._local.id}?_step={rewound_to}"}
        with self._opened(how) as run:
            for line in rows:
                numbers = {key: value for key, value in line.items() if not isinstance(value, str)}
                beside = self._local.trunk.at(line[STEP]) if self._local.trunk is not None else {}
                run.log({**numbers, **beside}, step=line[STEP])
                self._found.sent += 1
            self._found.link = run.url
            self._end(run)

    def _opened(self, how: dict[str, Any]) -> wandb.Run:
        import wandb

        place = {"project": self._project or DEFAULT_PROJECT, "entity": self._entity}
        return wandb.init(
            **{**how, **place}, mode="online", reinit="finish_previous", dir=self._local.directory,
            settings=wandb.Settings(
                silent=True, console="off", symlink=False, disable_git=True, disable_code=True,
                disable_job_creation=True, x_disable_stats=True, x_disable_machine_info=True,
                x_save_requirements=False, init_timeout=API_SECONDS,
            ),
        )  # fmt: skip

    def _path(self) -> str:
        entity = self._entity or self._api.default_entity
        return f"{entity}/{self._project or DEFAULT_PROJECT}/{self._local.id}"

    def _steps_there(self) -> set[int]:
        try:
            self._api.flush()  # type: ignore[no-untyped-call]
            run = self._api.run(self._path())
        except Exception as error:
            if "could not find" in str(error).lower():
                self._is_there = False
                return set()
            raise
        self._is_there = True
        self._found.link = run.url
        return {int(row["_step"]) for row in run.scan_history(keys=["_step"])}


def _unsynced(directory: Path) -> list[_Segment]:
    """Segments that were written offline and not uploaded yet."""
    paths = sorted((directory / "wandb").glob("offline-run-*/*.wandb"))
    return [_inspected(path) for path in paths if not path.with_name(path.name + ".synced").exists()]


def _inspected(path: Path) -> _Segment:
    """What the client's own reader finds in a segment; of one that was cut off by a kill, its beginning."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path.parent.resolve())]
    # From there: these commands leave their logs where they are started.
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent)
    steps: list[int] = []
    about: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        if record["type"] == "history":
            steps.append(int(record["history"]["item"]["_step"]))
        elif record["type"] == "run":
            about = record["run"]
    return _Segment(path.parent, tuple(steps), about.get("project"), about.get("entity"))


def _upload(segment: Path) -> None:
    command = [sys.executable, "-m", "wandb", "sync", str(segment.resolve())]
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=UPLOAD_SECONDS, check=False,
            cwd=segment.parent,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise LauncherError(
            f"`wandb sync` did not come to an end within {UPLOAD_SECONDS} s.", where=str(segment)
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise LauncherError(f"`wandb sync` failed: {last}", where=str(segment))
