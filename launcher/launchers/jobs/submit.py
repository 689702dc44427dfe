"""One sbatch for many siblings; their job ids are on record before the first of them may start."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError
from launcher.files import write_text
from launcher.launchers.jobs.queries import SlurmError, ask, cancel, queued_as, release
from launcher.launchers.sibling import Sibling, read_launch
from launcher.layout import legal_name
from launcher.lineage import read_run

SBATCH_SECONDS = 120.0
"""How long sbatch has; a busy controller may take a minute."""
FIND_SECONDS = 60.0
"""How long a job is looked for that sbatch did not confirm."""
_UNSURE = ("no answer", "timed out", "communication", "zero bytes", "transport", "unexpected message")

# Until launcher.job has its handlers, a signal would kill it, or be lost if it were ignored. A blocked signal
# waits. Where `env` cannot block (coreutils before 8.31), ignoring is the lesser evil.
_GUARDED = (
    'trap "" USR2 TERM; '
    "if env --block-signal=USR2 true 2>/dev/null; "
    'then exec env --block-signal=USR2,TERM "$@"; fi; exec "$@"'
)
_OF_SUBMITTER = ("SLURM_", "SLURMD_", "SUBMITIT_")
_OF_CLUSTER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CONF_SERVER")


@dataclass(frozen=True)
class Code:
    """What the jobs run."""

    working_directory: str
    """Where the launch was typed."""
    import_path: tuple[str, ...]
    """``PYTHONPATH``, first entry first."""
    snapshot: str | None
    """Directory of the snapshot; None: the code as it is."""


@dataclass(frozen=True)
class Array:
    """A job array that SLURM has accepted."""

    job: str
    """``123``."""
    siblings: tuple[Sibling, ...]

    def job_of(self, index: int) -> str:
        """``123_4``."""
        return f"{self.job}_{index}"


def script(
    settings: Mapping[str, Any], folder: Path, tasks: Path, code: Code, count: int, canary: bool = False
) -> str:
    """The text of the batch script, made by submitit from the launcher's settings.

    Args:
        settings: the launcher's.
        folder: where sbatch and srun print to.
        tasks: a file of run directories; each task of the array takes the line that its index says.
        code: what the tasks run.
        count: tasks of the array.
        canary: whether its one task is the canary.
    """
    # Lazily: the file is also imported to look at runs.
    from submitit.slurm.slurm import _convert_mem, _make_sbatch_string

    renamed = {"name": "job_name", "timeout_min": "time", "tasks_per_node": "ntasks_per_node"}
    ours = {"submitit_folder", "max_num_timeout", "mem_gb", "wait", "python", "setup"}
    given: dict[str, Any] = {
        renamed.get(key, key): value
        for key, value in settings.items()
        if key not in ours and value is not None and not key.startswith("_")
    }
    # Submitit's key for accounting is "submitit"; where such keys are kept, nobody knows that one.
    given["wckey"] = None
    if settings.get("mem_gb") is not None:
        given["mem"] = _convert_mem(settings["mem_gb"])
    cpus = settings.get("cpus_per_task")
    # Since 22.05 srun does not take over what sbatch was told.
    steps = [f"--cpus-per-task={cpus}"] if cpus is not None else []
    # Where one rank fails the others would wait for it for ever.
    steps += ["--kill-on-bad-exit=1"] if world_size(settings) > 1 else []
    given["srun_args"] = [*steps, *(settings.get("srun_args") or [])]
    python = settings.get("python") or shlex.quote(sys.executable)
    path = shlex.quote(os.pathsep.join(code.import_path))
    setup = [
        *(settings.get("setup") or []),
        "unset WANDB_SERVICE",  # It names a service of the launching process, and dies with it.
        f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"readarray -t launcher_runs < {shlex.quote(str(tasks))}",
    ]
    command = f'bash -c {shlex.quote(_GUARDED)} launcher {python} -P -m launcher.job "$launcher_run"'
    command += " --canary" if canary else ""
    setup.append("launcher_run=${launcher_runs[$SLURM_ARRAY_TASK_ID]}")
    text: str = _make_sbatch_string(command=command, folder=folder, map_count=count, setup=setup, **given)
    return text


def options(text: str) -> list[str]:
    """The options in a batch script, for the command line.

    In the script alone, a variable like ``SBATCH_PARTITION`` would win over what was typed.
    """
    lines = (line for line in text.splitlines() if line.startswith("#SBATCH "))
    return [option for line in lines for option in shlex.split(line.removeprefix("#SBATCH "))]


def world_size(settings: Mapping[str, Any]) -> int:
    """Processes that train one sibling together under these launcher settings."""
    return int(settings.get("nodes") or 1) * int(settings.get("tasks_per_node") or 1)


def submit(
    siblings: Sequence[Sibling],
    settings: Mapping[str, Any],
    folder: Path,
    code: Code,
    after: str | None = None,
    gate: str | None = None,
) -> Array:
    """One array for these siblings. Its job ids are on record before its first task may start.

    Args:
        siblings: at most as many as an array may have tasks.
        settings: the launcher's.
        folder: gets the script, the list of tasks, and what sbatch and srun print.
        code: what the jobs run.
        after: an array that has to be over first.
        gate: a job that has to end well first; if it does not, none of these ever starts.

    Raises:
        SlurmError: sbatch refused, or gave no answer and there is no such job.
        OSError: the folder or a record cannot be written.
    """
    # A canary that fails drops the first array; the next one must not take that for its turn.
    first = [*([f"afterok:{gate}"] if gate else []), *([f"afterany:{after}"] if after else [])]
    dependency = [f"--dependency={','.join(first)}"] if first else []
    dependency += ["--kill-on-invalid-dep=yes"] if gate else []
    job = _held(siblings, settings, folder, code, dependency)
    array = Array(job, tuple(siblings))
    try:
        _record(array, settings, code)
    except BaseException:
        # Nobody would know of the jobs; they are held, so nothing has run.
        with contextlib.suppress(LauncherError):
            cancel([job])
        raise
    _insistently(lambda: release([job]))
    return array


def hold_canary(sibling: Sibling, settings: Mapping[str, Any], folder: Path, code: Code) -> str:
    """The job of a canary, held: it may write into its sibling's record only when all else has.

    Raises:
        SlurmError: as :func:`submit`.
        OSError: the folder cannot be written.
    """
    return _held([sibling], settings, folder, code, [], canary=True)


def _held(
    siblings: Sequence[Sibling],
    settings: Mapping[str, Any],
    folder: Path,
    code: Code,
    dependency: Sequence[str],
    canary: bool = False,
) -> str:
    """The id of a held array for these siblings."""
    kind = "-canary" if canary else ""
    name = f"{legal_name(str(settings.get('name') or 'launcher'))}{kind}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    tasks, batch = folder / f"{name}.tasks", folder / f"{name}.sh"
    write_text(tasks, "".join(f"{sibling.directory}\n" for sibling in siblings))
    text = script({**settings, "name": name}, folder, tasks, code, len(siblings), canary)
    write_text(batch, text)
    more = ["--parsable", "--hold", "--requeue", "--export=ALL", f"--chdir={code.working_directory}"]
    return _accepted(["sbatch", *options(text), *more, *dependency, str(batch)], name)


def environment() -> dict[str, str]:
    """What travels with a job: everything, less what belongs to a job around this process."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _OF_CLUSTER or not name.startswith(_OF_SUBMITTER)
    }


def _accepted(command: Sequence[str], name: str) -> str:
    """The id of the array that sbatch submits; looked for by its name where sbatch does not tell.

    It is submitted once. If it was lost it is held and does nothing, however late it should turn up.
    """
    try:
        said = ask(*command, seconds=SBATCH_SECONDS, environment=environment())
        return said.strip().splitlines()[-1].split(";")[0]
    except SlurmError as error:
        unsure = any(text in f"{error.what} {error.found}".lower() for text in _UNSURE)
        end = time.monotonic() + (FIND_SECONDS if unsure else 0)
        while True:
            with contextlib.suppress(SlurmError):
                for job in queued_as(name):
                    return job.partition("_")[0]
            if time.monotonic() >= end:
                break
            time.sleep(2)
        if unsure:
            error.do = (*error.do, f"if it turns up later: scancel --name={name}", "then launch again")
        raise


def _record(array: Array, settings: Mapping[str, Any], code: Code) -> None:
    """Put the job ids into every ``launch.json`` and record. Nothing has started, so nobody else writes."""

    def note(index: int) -> None:
        directory = array.siblings[index].directory
        launch = read_launch(directory).with_job(array.job_of(index))
        replace(launch, code=code.snapshot, settings=dict(settings)).write(directory)
        record = read_run(directory).record
        record.job_id = array.job_of(index)
        record.write(directory)

    # Most of it is waiting for the disk.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(note, range(len(array.siblings))))


def _insistently(action: Callable[[], None]) -> None:
    for pause in (1, 3, 5, 10, None):
        try:
            return action()
        except SlurmError:
            if pause is None:
                raise
            time.sleep(pause)
    return None
