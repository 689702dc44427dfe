"""Who may write into a run's directory: a fencing token for each start, and a sign of life beside it.

``.lease/7/`` is the directory of token 7, ``.lease/7/lease.json`` says which process has it and how far it
is. Taking a token is the rename of a directory, which is atomic on every file system and needs no lock.
Whoever takes one moves the directories of all smaller tokens away. Files are written aside *inside* the
token's directory and renamed from there: once a newer start began, an older process has nothing left to
rename, however late it wakes up.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from launcher.errors import RunsElsewhere
from launcher.files import read_json_object
from launcher.layout import RunDirectory
from launcher.process import Process

RENEW_SECONDS = 2.0
"""How often the sign of life is renewed."""
DEAD_SECONDS = 60.0
"""A process on another machine that gave no sign of life for so long is taken to be dead."""
_LEASE = "lease.json"


class Superseded(RunsElsewhere):
    """A newer process has taken the run over; this one may not write any more."""

    exit_status = 1


@dataclass(frozen=True)
class Holder:
    """The process that has a token, and its last sign of life."""

    token: int
    process: Process
    job_id: str | None
    """Its job on SLURM or Vertex AI, where it runs as one."""
    restarts: int = 0
    """How often that job had been started again by then."""
    time: str = ""
    """Start of the process, ISO 8601, UTC."""
    released: bool = False
    """Whether it has ended and said so."""
    step: int = 0
    end_step: int = 0
    steps_per_second: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    """The last metrics that it logged."""
    age_seconds: float = 0.0
    """Seconds since the last sign of life, by the file system's own clock; 0 for one of this machine."""

    @property
    def alive(self) -> bool:
        """Whether the process is there, as far as can be told from here."""
        if self.released:
            return False
        if self.process.here:
            return self.process.there
        return self.age_seconds < DEAD_SECONDS

    def __str__(self) -> str:
        job = f", job {self.job_id}" if self.job_id else ""
        return f"process {self.process.pid} on {self.process.host}{job}, since {self.time}"


def newest_token(directory: RunDirectory) -> int:
    """The newest token that anybody took; 0 if nobody ever did."""
    return _newest(directory.leases) or 0


def holder(directory: RunDirectory) -> Holder | None:
    """Who has the newest token of a run; None if nobody ever had one."""
    token = _newest(directory.leases)
    while token is not None:
        path = directory.leases / str(token) / _LEASE
        try:
            value = read_json_object(path)
            known = {one.name for one in fields(Holder)}
            found = {key: value[key] for key in value if key in known}
            process = Process(**found.pop("process"))
            age = 0.0 if process.here else _age(directory.leases, path)
            return Holder(**{**found, "process": process, "age_seconds": age})
        except FileNotFoundError:
            # A newer start moved it away while we looked.
            newer = _newest(directory.leases)
            if newer == token:
                return None
            token = newer
        except (OSError, ValueError, TypeError, KeyError):
            return None
    return None


class Lease:
    """One start's right to write into a run's directory.

    Attributes:
        token: counts the starts of the run, from 1.
    """

    def __init__(
        self,
        directory: RunDirectory,
        time_now: str,
        job_id: str | None = None,
        restarts: int = 0,
        only_after: int | None = None,
    ) -> None:
        """Take the next token; from here on no older process can write.

        Args:
            directory: the run's; ``.lease`` in it is created.
            time_now: ISO 8601, UTC; for people.
            job_id: the job that this process runs in.
            restarts: how often that job has been started again.
            only_after: the token that the last holder had. Of several that find it dead one takes its place.

        Raises:
            OSError: the directory cannot be written.
            Superseded: somebody else took the place of the holder of ``only_after``.
        """
        self._root = directory.leases
        self._run = directory.path
        self._lost = False
        self._written = threading.Lock()
        self._stop = threading.Event()
        self._rate = _Rate()
        self._root.mkdir(parents=True, exist_ok=True)
        self._holder = Holder(
            token=0,
            process=Process.this(),
            job_id=job_id,
            restarts=restarts,
            time=time_now,
        )
        self.token, self._place = self._taken(only_after)
        self._move_older_away()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _taken(self, only_after: int | None) -> tuple[int, Path]:
        """The token that no other start has, and its directory."""
        new = self._root / f"new-{uuid.uuid4().hex}"
        new.mkdir()
        while True:
            token = (_newest(self._root) or 0) + 1
            if only_after not in (None, token - 1):
                shutil.rmtree(new, ignore_errors=True)
                where, found = str(self._run), f"start {token - 1}"
                raise Superseded("Another process was faster.", where=where, found=found)
            self._holder = replace(self._holder, token=token)
            (new / _LEASE).write_text(json.dumps(asdict(self._holder)), encoding="utf-8")
            place = self._root / str(token)
            try:
                new.rename(place)
            except OSError:
                if not place.exists() and (_newest(self._root) or 0) < token:
                    raise
                continue
            if _newest(self._root) == token:
                return token, place
            # Two newer starts came by: one took this token, the other moved it away.
            with contextlib.suppress(OSError):
                place.rename(new)
            new.mkdir(exist_ok=True)

    def aside(self) -> Path:
        """The directory to write files aside in, before they are renamed to where they belong.

        Raises:
            Superseded: a newer start has taken the run over.
        """
        if self._lost or _newest(self._root) != self.token:
            self._lost = True
            raise self._superseded()
        return self._place

    def note(self, step: int, end_step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Remember how far the run is, for the next sign of life. Cheap: call it each step.

        Raises:
            Superseded: the last sign of life found a newer start.
        """
        if self._lost:
            raise self._superseded()
        self._rate.step, self._rate.end = step, end_step
        if metrics is not None:
            self._rate.metrics = dict(metrics)

    @property
    def lost(self) -> bool:
        """Whether a newer start is known to have taken the run over."""
        return self._lost

    def release(self) -> None:
        """Say that the process has ended its work; a second time does nothing."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._sign(released=True)

    def _superseded(self) -> Superseded:
        newer = holder(RunDirectory(self._run))
        return Superseded(
            "Another process has taken this run over; this one stops, and writes nothing more.",
            where=str(self._run),
            found=f"start {newer.token}: {newer}" if newer else "a newer start",
            expected=f"start {self.token} to be the newest",
            do="nothing: the newer process goes on from the newest checkpoint",
        )

    def _move_older_away(self) -> None:
        for name in _names(self._root):
            older = self._root / name
            if not name.isdecimal() or int(name) >= self.token:
                continue
            gone = self._root / f"old-{uuid.uuid4().hex}"
            with contextlib.suppress(OSError):
                older.rename(gone)
        for name in _names(self._root):
            if name.startswith("old-") or (name.startswith(("new-", "now-")) and self._abandoned(name)):
                shutil.rmtree(self._root / name, ignore_errors=True)

    def _abandoned(self, name: str) -> bool:
        """Whether a process died over this name; one that is about to take a token lives for moments."""
        with contextlib.suppress(OSError):
            return _age(self._root, self._root / name) > DEAD_SECONDS
        return False

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                self._sign(released=False)
                self._lost = self._lost or _newest(self._root) != self.token
            except FileNotFoundError:
                self._lost = True
            except OSError:
                continue  # A full disk takes no sign of life; the run itself may still go on.
            if self._lost:
                return

    def _sign(self, released: bool) -> None:
        rate = self._rate
        told = {
            **asdict(self._holder),
            "released": released,
            "step": rate.step,
            "end_step": rate.end,
            "steps_per_second": rate.per_second(),
            "metrics": rate.metrics,
        }
        with self._written:
            aside = self._place / f"{_LEASE}.new"
            aside.write_text(json.dumps(told), encoding="utf-8")
            aside.replace(self._place / _LEASE)


class _Rate:
    """Steps a second between two signs of life."""

    def __init__(self) -> None:
        self.step = self.end = 0
        self.metrics: dict[str, float] = {}
        self._last: tuple[float, int] | None = None

    def per_second(self) -> float:
        now, last = time.monotonic(), self._last
        self._last = (now, self.step)
        if last is None or now <= last[0] or last[1] == 0:
            return 0.0
        return (self.step - last[1]) / (now - last[0])


def _names(directory: Path) -> list[str]:
    try:
        return [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _newest(leases: Path) -> int | None:
    return max((int(name) for name in _names(leases) if name.isdecimal()), default=None)


def _age(leases: Path, lease: Path) -> float:
    """Seconds since ``lease`` was renewed. Two machines' clocks differ: the file system's is asked."""
    renewed = lease.stat().st_mtime
    probe = leases / f"now-{uuid.uuid4().hex}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        now = time.time()
    return max(0.0, now - renewed)
