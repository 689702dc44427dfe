"""``launcher retry``: what failed or is missing is launched again, as it was launched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher.branch.declared import Declared
from launcher.config import Config, FanoutConfig
from launcher.fanout.check import Candidate, check
from launcher.fanout.launch import launch, print_findings, stop_if_bad
from launcher.fanout.status import RETRIED, jobs_of, launch_of, select, status_of
from launcher.fanout.written import Fanout
from launcher.launchers import pool, slurm
from launcher.launchers.sibling import Launch, RunSibling
from launcher.launchers.slurm_queries import release


def retry(outputs: Path, name: str, run: RunSibling) -> int:
    """Launch again what failed, was interrupted or cancelled, or never started; the number of runs.

    On SLURM if they were launched there, else in this machine's pool. A job that SLURM holds is released.

    Args:
        outputs: directory of all runs.
        name: a group, or a run.
        run: what a launcher calls in a sibling's process.

    Raises:
        UnknownRun: there is no such group or run.
        LauncherError: a run was not launched by a fan-out, or cannot be launched.
        SystemExit: 1 if one failed again.
    """
    runs = select(outputs, name)
    jobs = jobs_of(one.directory for one in runs)
    found = [(one, status_of(one.directory, jobs)) for one in runs]
    held = [status.job_id for _, status in found if status.state == "held" and status.job_id]
    if held:
        release(held)
    again: dict[str, list[tuple[Candidate, Launch]]] = {}
    for one, status in found:
        if status.state not in RETRIED or status.job_id in held:
            continue
        launched = launch_of(one.directory)
        if launched is None:
            continue
        again.setdefault(_launcher(launched), []).append((_candidate(launched), launched))
    count = sum(map(len, again.values()))
    for launcher_name, pairs in again.items():
        _launch(launcher_name, [one for one, _ in pairs], pairs[0][1], run)
    return count + len(held)


def _launcher(launched: Launch) -> str:
    return "slurm" if "slurm" in launched.launcher else "pool"


def _candidate(launched: Launch) -> Candidate:
    config = Config.from_plain(launched.config)
    config.fanout.id = None
    return Candidate(
        overrides=tuple(launched.command[2:]),
        swept=(launched.run,),
        config=config,
        declared=Declared(**launched.declared),
    )


def _launch(name: str, candidates: list[Candidate], launched: Launch, run: RunSibling) -> None:
    settings: dict[str, Any] = launched.settings if launched.launcher == name else {}
    launcher: Any
    if name == "slurm":
        launcher = slurm.restored(settings)
    else:
        assert candidates[0].config is not None
        launcher = pool.restored(settings, candidates[0].config)
    candidates = check(candidates, remote=launcher.remote)
    print_findings(candidates)
    options = FanoutConfig(skip_bad=True)
    stop_if_bad(candidates, options)
    launch(candidates, Fanout(name, settings, Path(launched.working_directory)), options, launcher, run)
