"""What a fan-out leaves on disk: each sibling's record and launch file, and ``fanout.json`` in the group."""

from __future__ import annotations

import contextlib
import datetime
import sys
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher.branch.command import command
from launcher.branch.record import new_record
from launcher.branch.resolve import handed_on
from launcher.config import Config
from launcher.differences import override, plain
from launcher.errors import LauncherError
from launcher.fanout.check import Candidate
from launcher.files import disk_error, read_json_object, write_json
from launcher.launchers.jobs.snapshot import script_directory
from launcher.launchers.sibling import Launch, Sibling
from launcher.layout import SCRATCH, RunDirectory
from launcher.lease import Lease, Superseded, holder
from launcher.ledger.code import code_of
from launcher.lineage import read_run, utc_now
from launcher.process import Process

KEPT = 50
"""How many fan-outs ``fanout.json`` remembers; every sibling has its own ``launch.json`` besides."""


def _beside_script() -> str | None:
    # ``python -m package.train`` looks for modules where it was typed, and not within the package.
    by_name = getattr(sys.modules.get("__main__"), "__spec__", None) is not None
    return None if by_name else str(script_directory())


@dataclass(frozen=True)
class Fanout:
    """One ``-m`` command."""

    launcher: str
    """``pool``, ``slurm``, ``vertex``, or the name of Hydra's launcher."""
    settings: dict[str, Any]
    """The launcher's own settings."""
    directory: Path
    """Where the command was typed."""
    id: str = field(
        default_factory=lambda: f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    )
    time: str = field(default_factory=utc_now)
    code: str | None = field(default_factory=lambda: code_of(script_directory()))
    """Which code is launched, as git names it."""
    script: str | None = field(default_factory=_beside_script)
    """Where the script's own modules are, of one that was started by its file."""


def command_of(one: Candidate) -> str:
    """What launches this sibling alone; what was let through is again, or it would be refused."""
    allowed = one.config.fanout.allow if one.config is not None else []
    return command(one.overrides, *([override("fanout.allow", allowed)] if allowed else []))


def launched_config(one: Candidate, fanout: Fanout) -> Config:
    """The config that a sibling is launched with: what was found out stands in it, and cannot move."""
    assert one.plan is not None
    config, planned = one.plan.config, one.plan
    point = handed_on(planned.point) if planned.point else SCRATCH if planned.kind == SCRATCH else None
    tracking = config.tracking
    if planned.group_source == "WANDB_RUN_GROUP":
        # Where the sibling starts, the variable may have another value.
        tracking = replace(tracking, group=planned.group)
    source = planned.point.source if planned.point else None
    handed = replace(
        config.fanout,
        id=fanout.id,
        point=point,
        source=source,
        unavailable=planned.unavailable if point == SCRATCH else None,
        signature=planned.signature,
        if_exists="resume",
        code=fanout.code,
        looks=one.looks or config.fanout.looks,
    )
    return replace(config, fanout=handed, tracking=tracking)


def handed_overrides(config: Config) -> list[str]:
    """What a sibling's overrides need besides those that were typed, under a launcher of Hydra's."""
    fanout = config.fanout
    said = [override("fanout.id", fanout.id), override("fanout.repeat", fanout.repeat)]
    said.append(f"fanout.stop_on_failure={str(fanout.stop_on_failure).lower()}")
    said += [
        override(f"fanout.{key}", value)
        for key in ("code", "looks", "allow", "trial")
        if (value := getattr(fanout, key))
    ]
    for key in ("point", "source", "unavailable"):
        if (value := getattr(fanout, key)) is not None:
            said.append(override(f"fanout.{key}", value))
    if config.tracking.group is not None:
        said.append(override("tracking.group", config.tracking.group))
    if config.launch.nproc != 1:
        said.append(override("launch.nproc", config.launch.nproc))
    return said


def sibling_of(one: Candidate, fanout: Fanout) -> Sibling:
    """A planned candidate as launchers are handed it."""
    assert one.plan is not None
    config = launched_config(one, fanout)
    launch = Launch(
        run=one.plan.id,
        command=["python", "train.py", *one.overrides],
        working_directory=str(fanout.directory),
        config=plain(config),
        declared=one.declared.to_json(),
        launcher=fanout.launcher,
        fanout=fanout.id,
        time=fanout.time,
        by=Process.this(),
        settings=fanout.settings,
        script=fanout.script,
    )
    return Sibling(
        id=one.plan.id,
        directory=one.plan.directory.path.resolve(),
        end_step=one.plan.end_step,
        nproc=config.launch.nproc,
        threads=config.threads,
        launch=launch,
        overrides=(*one.overrides, *handed_overrides(config)),
    )


def write_launches(candidates: Iterable[Candidate], fanout: Fanout) -> list[Sibling]:
    """Put every sibling's launch file and record on disk; from here on it is known to everybody.

    Raises:
        RunFailed: a directory cannot be written.
    """
    siblings = []
    for one in candidates:
        assert one.plan is not None
        directory, sibling = one.plan.directory, sibling_of(one, fanout)
        assert sibling.launch is not None
        try:
            directory.path.mkdir(parents=True, exist_ok=True)
            sibling.launch.write(directory.path)
            if directory.record.is_file():
                _wait_again(directory)
            else:
                known = {"code": fanout.code} if fanout.code else {}
                new_record(one.plan, one.findings, known, "queued").write(directory.path)
        except OSError as error:
            raise disk_error(error, directory.path) from error
        siblings.append(sibling)
    return siblings


def write_fanout(candidates: Sequence[Candidate], fanout: Fanout) -> Path | None:
    """Add the fan-out to ``fanout.json`` of the siblings' group; its path, or None if all were bad.

    Of a fan-out that is there already, as a search's is from its second trials on, the siblings are added.

    Two fan-outs into one group at the same moment may leave only one of them there; what they launched is
    told by each sibling's own files.

    Raises:
        RunFailed: it cannot be written.
    """
    planned = [one for one in candidates if one.plan is not None]
    if not planned:
        return None
    assert planned[0].plan is not None
    path = planned[0].plan.directory.path.parent / "fanout.json"
    before: list[Any] = []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = list(read_json_object(path)["fanouts"])
    told = _told(planned, fanout)
    if before and before[-1].get("id") == fanout.id:
        now = {each["run"] for each in told["siblings"]}
        earlier = [each for each in before.pop()["siblings"] if each["run"] not in now]
        told["siblings"] = [*earlier, *told["siblings"]]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"fanouts": [*before[1 - KEPT :], told]})
    except OSError as error:
        raise disk_error(error, path) from error
    return path


def _told(planned: Sequence[Candidate], fanout: Fanout) -> dict[str, Any]:
    return {
        "id": fanout.id,
        "time": fanout.time,
        "launcher": fanout.launcher,
        "code": fanout.code,
        "allow": planned[0].plan.config.fanout.allow if planned[0].plan else [],
        "settings": fanout.settings,
        "working_directory": str(fanout.directory),
        "siblings": [_sibling(one) for one in planned],
    }


def _sibling(one: Candidate) -> dict[str, Any]:
    assert one.plan is not None
    point = one.plan.point
    return {
        "run": one.plan.id,
        "directory": str(one.plan.directory.path),
        "signature": one.plan.signature,
        "branch_point": None
        if point is None
        else {
            "run": point.run_id,
            "step": point.manifest.step,
            "sha256": point.manifest.sha256,
            "source": point.source,
        },
        "swept": list(one.swept),
        "differences": {key: list(pair) for key, pair in one.plan.differences.items()},
        "command": command_of(one),
        "before": one.there.state,
        "launched": one.wanted,
        "findings": [finding.to_json() for finding in one.findings],
    }


def _wait_again(directory: RunDirectory) -> None:
    """Have the record of a run that is to go on say that it waits, as a new one's does."""
    last = holder(directory)
    if last is not None and last.alive:
        return
    with contextlib.suppress(Superseded):  # Somebody else goes on with it just now.
        lease = Lease(directory, utc_now(), only_after=last.token if last is not None else None)
        try:
            record = read_run(directory.path).record
            if record.state != "finished":  # By somebody else, since it was checked.
                record.state = "queued"
                record.write(directory.path, lease.aside())
        finally:
            lease.release()


def not_started(directory: RunDirectory, why: str) -> None:
    """Say of a sibling that was written down but never started that it does not wait any more."""
    with contextlib.suppress(LauncherError, OSError):
        run = read_run(directory.path)
        if run.record.state == "queued":
            run.record.state, run.record.error = "interrupted", why
            run.record.write(directory.path)
