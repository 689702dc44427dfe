"""``launcher retry``: what failed or is missing is launched again, as it was launched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher.branch.command import command
from launcher.branch.declared import Declared
from launcher.config import Config, FanoutConfig
from launcher.errors import LauncherError
from launcher.fanout.check import Candidate, check
from launcher.fanout.jobs import certain
from launcher.fanout.launch import launch, print_findings, stop_if_bad
from launcher.fanout.room import note_room
from launcher.fanout.status import RETRIED, launch_of, select, status_of
from launcher.fanout.written import Fanout
from launcher.launchers import pool, slurm, vertex
from launcher.launchers.jobs.queries import release
from launcher.launchers.sibling import Job, Launch, RunSibling
from launcher.lineage import Run


def retry(outputs: Path, name: str, run: RunSibling, allow: Sequence[str] = ()) -> int:
    """Launch again what failed, was interrupted or cancelled, or never started; the number of runs.

    On SLURM or Vertex AI if they were launched there, else in this machine's pool. A job that SLURM holds is
    released.

    Args:
        outputs: directory of all runs.
        name: a group, or a run.
        run: what a launcher calls in a sibling's process.
        allow: kinds of differences from the siblings that stop nothing; see ``fanout.allow``.

    Raises:
        UnknownRun: there is no such group or run.
        LauncherError: a run cannot be launched, no fan-out launched it, or who has its job gives no answer.
        SystemExit: 1 if one failed again.
    """
    runs = select(outputs, name)
    jobs = _jobs(runs)
    found = [(one, status_of(one.directory, jobs)) for one in runs]
    held = [status.job_id for _, status in found if status.state == "held" and status.job_id]
    if held:
        release(held)
    again: dict[str, list[tuple[Candidate, Launch]]] = {}
    alone: list[Run] = []
    for one, status in found:
        if status.state not in RETRIED or status.job_id in held:
            continue
        launched = launch_of(one.directory)
        if launched is None:
            alone.append(one)
            continue
        again.setdefault(_alike(launched), []).append((_candidate(launched, allow), launched))
    count = sum(map(len, again.values()))
    leaving: SystemExit | None = None
    for pairs in again.values():
        try:
            _launch([one for one, _ in pairs], pairs[0][1], run)
        except SystemExit as failed:
            if failed.code != 1:
                raise
            leaving = failed  # The others are not to suffer from it.
    if leaving is not None:
        raise leaving
    if alone:
        raise LauncherError(
            "What was not launched with -m goes on with its own command.",
            where=str(outputs),
            found=", ".join(one.id for one in alone),
            do=[command(one.record.overrides) for one in alone],
        )
    return count + len(held)


def _jobs(runs: Sequence[Run]) -> dict[str, Job]:
    """What SLURM and Vertex AI say of the jobs of runs that are not finished.

    Raises:
        LauncherError: it gave no answer; a job that may come back is not submitted a second time.
    """
    unfinished = (launch_of(one.directory) for one in runs if one.record.state != "finished")
    return certain([one.job_id for one in unfinished if one is not None and one.job_id is not None])


def _alike(launched: Launch) -> str:
    """Equal for runs that one launch can take: same launcher, same settings, same limits, same place."""
    fanout = launched.config.get("fanout", {})
    limits = [fanout.get("max_parallel"), fanout.get("stop_on_failure")]
    return json.dumps(
        [_launcher(launched), _settings(launched), limits, launched.working_directory], sort_keys=True
    )


def _launcher(launched: Launch) -> str:
    return next((name for name in ("slurm", "vertex") if name in launched.launcher), "pool")


def _settings(launched: Launch) -> dict[str, Any]:
    """Those of the launcher; another one's are not understood."""
    return launched.settings if launched.launcher == _launcher(launched) else {}


def _candidate(launched: Launch, allow: Sequence[str]) -> Candidate:
    config = Config.from_plain(launched.config)
    config.fanout.id = config.fanout.signature = None
    config.fanout.allow = list(dict.fromkeys([*config.fanout.allow, *allow]))
    return Candidate(
        overrides=tuple(launched.command[2:]),
        swept=(launched.run,),
        config=config,
        declared=Declared(**launched.declared),
    )


def _launch(candidates: list[Candidate], launched: Launch, run: RunSibling) -> None:
    name, settings = _launcher(launched), _settings(launched)
    launched.find_script()
    config = candidates[0].config
    assert config is not None
    launcher: Any
    if name == "slurm":
        launcher = slurm.restored(settings)
    elif name == "vertex":
        launcher = vertex.restored(settings)
    else:
        launcher = pool.restored(settings, config)
    options = FanoutConfig(
        skip_bad=True,
        max_parallel=config.fanout.max_parallel,
        stop_on_failure=config.fanout.stop_on_failure,
    )
    candidates = check(candidates, remote=launcher.remote)
    note_room(candidates)
    print_findings(candidates)
    stop_if_bad(candidates, options)
    fanout = Fanout(name, settings, Path(launched.working_directory), script=launched.script)
    launch(candidates, fanout, options, launcher, run)
