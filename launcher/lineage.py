"""Run records: the truth about each run, one file a run, and the family that they form."""

from __future__ import annotations

import contextlib
import datetime
import functools
import glob
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from launcher.errors import LauncherError, UnknownRun
from launcher.files import read_json_object, write_json
from launcher.findings import Finding
from launcher.layout import RunDirectory
from launcher.lease import holder

_T = TypeVar("_T")
State = Literal["queued", "running", "interrupted", "failed", "pruned", "finished"]
Origin = Literal["nothing", "branch point", "own checkpoint"]


@dataclass(frozen=True)
class Parent:
    """The branch point that a run started from."""

    run: str | None
    """Id of the run that wrote the checkpoint; None where another program did."""
    checkpoint: str
    """Path of the checkpoint when the branch started."""
    step: int
    """Step in the parent's own numbering, in steps."""
    absolute_step: int
    """Optimizer steps since training began from nothing."""
    sha256: str
    """Content digest of the checkpoint."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The parent's last metrics at the branch point."""
    format: str = "launcher"
    """What wrote the checkpoint; see :mod:`launcher.checkpoint.formats`."""
    missing: list[str] = field(default_factory=list)
    """What an exact branch needs and the checkpoint did not have."""

    @property
    def name(self) -> str:
        """The run that wrote the checkpoint; of a foreign one, its file, directory or artifact."""
        return self.run or (self.source or self.checkpoint).rstrip("/").rpartition("/")[2]

    source: str | None = None
    """Where the checkpoint was fetched from (``wandb://entity/project/name:v3``); None: it lay here."""


@dataclass(frozen=True)
class Start:
    """One start of a run's process; a resumed run has several."""

    time: str
    """ISO 8601, UTC."""
    host: str
    pid: int
    origin: Origin
    """What the state was taken from."""
    step: int
    """Step that the state was at."""
    token: int = 0
    """Fencing token of the start; see :mod:`launcher.lease`."""
    job_id: str | None = None
    """Job on SLURM or Vertex AI that the process ran in."""

    @classmethod
    def now(cls, origin: Origin, step: int, token: int, job_id: str | None) -> Start:
        """A start of this process."""
        return cls(utc_now(), socket.gethostname(), os.getpid(), origin, step, token, job_id)


@dataclass
class RunRecord:
    """What is known about one run. Written aside, then renamed; trackers only mirror it."""

    id: str
    kind: str
    """``trunk``, ``branch`` or ``scratch`` (a branch that was asked to train from nothing instead)."""
    state: State
    group: str
    """Directory and tracker group."""
    group_source: str
    """Where the group's name came from."""
    job_type: str
    branch_type: str | None
    """``control``, ``factor``, ``weights`` or ``stream`` (a control with other random numbers); None for a
    trunk."""
    signature: str
    request: str
    """Digest of what was asked for; see :func:`launcher.differences.request_digest`."""
    step: int
    """Last step whose result is on disk, in steps."""
    start_step: int
    end_step: int
    horizon_steps: int
    """Steps over which the learning-rate schedule runs."""
    parent: Parent | None = None
    compare_to: str | None = None
    stream: int = 0
    """Which stream of data order and random numbers; 0 is the trunk's own continuation."""
    arm: str = ""
    """What the run shares with itself in other streams: its signature in stream 0. Empty for a trunk."""
    directions: dict[str, str] = field(default_factory=dict)
    """Metric without ``train/`` and ``val/``, to ``up`` or ``down``: which way is better, by the task."""
    overrides: list[str] = field(default_factory=list)
    """What was typed."""
    declared: dict[str, Any] = field(default_factory=dict)
    """Dotted keys and group choices that were typed or stand in the branch's config file."""
    differences: dict[str, list[Any]] = field(default_factory=dict)
    """Factors: dotted key to [the trunk's value, the own value]."""
    resharded: dict[str, list[Any]] = field(default_factory=dict)
    """``launch.nproc`` and ``launch.shard`` where they are not the trunk's: [the trunk's or None, the own].
    What such a run computes is equal within tolerance, never exactly."""
    findings: list[dict[str, str]] = field(default_factory=list)
    """What the checks had to say at the first start."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each metric."""
    starts: list[Start] = field(default_factory=list)
    seconds: float = 0.0
    """Time spent in training, over all starts whose end was recorded."""
    job_id: str | None = None
    """Job on SLURM or Vertex AI that it was submitted as."""
    error: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    """Where the run began: code, data fingerprint, device, threads, library versions."""
    allowed: list[str] = field(default_factory=list)
    """Kinds of undeclared differences from its siblings that ``fanout.allow`` let through."""
    states: dict[str, str] = field(default_factory=dict)
    """Digest of the weights by steps since the branch point: soon after the first step at which what was
    changed should show, and at the end."""
    trackers: dict[str, Any] = field(default_factory=dict)
    """What each tracker said of itself."""
    notes: str | None = None
    tags: list[str] = field(default_factory=list)
    created: str = ""
    updated: str = ""

    @property
    def parent_step(self) -> int:
        """Step of the branch point in the parent's numbering; 0 for a trunk."""
        return self.parent.step if self.parent is not None else 0

    def write(self, directory: Path, aside: Path | None = None) -> None:
        """Put the record on disk, atomically and durably; see :func:`launcher.files.written_aside`."""
        self.updated = utc_now()
        self.created = self.created or self.updated
        write_json(RunDirectory(directory).record, asdict(self), aside)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRecord:
        """The record in a JSON object; keys of a later version are ignored.

        Raises:
            ValueError: a key is missing or has the wrong type.
        """
        known = {one.name for one in fields(cls)}
        values = {key: value[key] for key in value if key in known}
        try:
            if values.get("parent") is not None:
                values["parent"] = _checked(Parent(**values["parent"]))
            values["starts"] = [_checked(Start(**start)) for start in values.get("starts", [])]
            record = _checked(cls(**values))
            for finding in record.findings:
                _checked(Finding(**finding))  # type: ignore[arg-type]
        except TypeError as error:
            raise ValueError(str(error)) from error
        for key, pair in record.differences.items():
            if len(pair) != 2:
                raise ValueError(f"differences.{key} is no pair of values")
        return record


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _checked(one: _T) -> _T:
    """A dataclass's object as it is, if every field has a value of its declared type.

    Raises:
        ValueError: names the field.
    """
    for name, hint in _hints(type(one)).items():  # type: ignore[arg-type]
        if not _fits(value := getattr(one, name), hint):
            raise ValueError(f"{name} = {str(value)[:80]!r}")
    return one


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in inner
    if origin is list:
        return type(value) is list and all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        return type(value) is dict and all(_fits(one, inner[1]) for one in value.values())
    if origin is not None:
        return any(_fits(value, one) for one in inner)
    return type(value) is hint or (hint is float and type(value) is int)


@dataclass(frozen=True)
class Run:
    """A run's record and where it lies."""

    directory: RunDirectory
    record: RunRecord

    @property
    def id(self) -> str:
        """The run's id."""
        return self.record.id


def utc_now() -> str:
    """ISO 8601 with seconds, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_run(directory: Path) -> Run:
    """The run in a directory.

    Raises:
        LauncherError: there is no readable record there.
    """
    place = RunDirectory(directory)
    try:
        return Run(place, RunRecord.from_json(read_json_object(place.record)))
    except (OSError, ValueError, RecursionError) as error:
        raise LauncherError(
            "A run record cannot be read.",
            where=str(place.record),
            found=str(error),
            do="restore the file from a backup, or move the run's directory away",
        ) from error


def read_runs(outputs: Path) -> tuple[list[Run], list[LauncherError]]:
    """All runs under ``outputs``, by id, and the records that could not be read."""
    runs: list[Run] = []
    problems: list[LauncherError] = []
    for record in sorted(outputs.glob("*/*/run.json")):
        try:
            runs.append(read_run(record.parent))
        except LauncherError as problem:
            problems.append(problem)
    return runs, problems


def find_run(outputs: Path, name: str) -> Run:
    """The run that ``name`` means: its id, its directory, or an unambiguous prefix of id or signature.

    Raises:
        UnknownRun: there is none, or there are several.
    """
    directory = Path(name)
    with contextlib.suppress(OSError, ValueError):  # Not every name can be a directory's.
        if name and (directory / "run.json").is_file():
            return read_run(directory.resolve())
        # A run's directory has its id: most often no other record has to be read.
        places = [record.parent for record in outputs.glob(f"*/{glob.escape(name)}/run.json")]
        if len(places) == 1 and (run := read_run(places[0])).id == name:
            return run
    runs, problems = read_runs(outputs)
    exact = [run for run in runs if run.id == name]
    found = exact or [
        run for run in runs if name and (run.id.startswith(name) or run.record.signature.startswith(name))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownRun(
            f"Several runs are called {name!r}.",
            where=str(outputs),
            found=_listing(found),
            do="give more of the id, or the run's directory",
        )
    raise UnknownRun(
        f"There is no run {name!r}.",
        where=str(outputs),
        found="; ".join(
            [_listing(runs) if runs else "no runs"]
            + [f"and a record that cannot be read: {problem.where}" for problem in problems]
        ),
        do="see what there is: launcher tree",
    )


def _listing(runs: Iterable[Run], most: int = 12) -> str:
    ids = [run.id for run in runs]
    return ", ".join(ids[:most]) + (f", and {len(ids) - most} more" if len(ids) > most else "")


def children(runs: Iterable[Run], parent: str) -> list[Run]:
    """The branches that started from the run with id ``parent``."""
    return [run for run in runs if run.record.parent is not None and run.record.parent.run == parent]


def state_now(run: Run) -> State:
    """The record's state; a run that says it is running but whose process is gone was interrupted."""
    if run.record.state != "running":
        return run.record.state
    last = holder(run.directory)
    return "running" if last is not None and last.alive else "interrupted"


def branched_steps(outputs: Path, run_id: str) -> set[int]:
    """Steps of the run ``run_id`` from which some run branched.

    Raises:
        LauncherError: a record cannot be read, so that nobody knows what its run branched from.
    """
    runs, problems = read_runs(outputs)
    if problems:
        raise problems[0]
    return {run.record.parent.step for run in children(runs, run_id) if run.record.parent is not None}
