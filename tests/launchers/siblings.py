"""Siblings as a sweeper leaves them: planned, with their ``launch.json`` and a record in state ``queued``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.singleton import Singleton

from launcher.branch.declared import declared
from launcher.branch.plan import plan
from launcher.branch.record import new_record
from launcher.composition import config_from
from launcher.differences import plain
from launcher.entry import register
from launcher.launchers.sibling import Launch, Sibling
from launcher.layout import RunDirectory
from launcher.lineage import RunRecord, read_run, utc_now
from launcher.process import Process
from tests.tiny_process import ROOT, Started, Tiny

CONF = ROOT / "tests" / "conf"


def queued(tiny: Tiny, *overrides: str) -> Sibling:
    """A sibling of the tiny task that waits for its turn."""
    register()
    # Hydra keeps which version's defaults it follows; its own suite wants to choose for itself.
    before = Singleton.get_state()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose(
                "config", overrides=[*overrides, f"paths.outputs={tiny.outputs}"], return_hydra_config=True
            )
        choices = dict(composed.hydra.runtime.choices)
        del composed.hydra
    finally:
        Singleton.set_state(before)
    decided = plan(config_from(composed), declared(overrides, choices, [CONF, ROOT / "conf"]))
    directory = decided.directory.path.absolute()
    directory.mkdir(parents=True)
    new_record(decided, [], {}, "queued").write(directory)
    launch = Launch(
        run=decided.id,
        command=["python", "-m", "tests.tiny_train", *overrides],
        working_directory=str(ROOT),
        config=plain(decided.config),
        declared=decided.declared.to_json(),
        launcher="pool",
        fanout="test",
        time=utc_now(),
        by=Process.this(),
    )
    launch.write(directory)
    return Sibling(
        decided.id, directory, decided.end_step, decided.config.launch.nproc, decided.config.threads
    )


def acting(directory: Path, number: int, act: str, **more: Any) -> Sibling:
    """A sibling without a run, whose process does what :mod:`tests.launchers.acts` has under that name."""
    place = directory / f"sibling-{number}"
    place.mkdir(parents=True)
    (place / "act").write_text(act)
    return Sibling(place.name, place, 0, **more)


def start(
    tiny: Tiny, siblings: list[Sibling], run: str = "tests.launchers.acts:act", **settings: Any
) -> Started:
    """Launch siblings with the pool from a process of their own; see :mod:`tests.launchers.drive_pool`."""
    options = {name: settings.pop(name) for name in ("environment", "prepare") if name in settings}
    told = {**settings, "run": run, "siblings": [asdict(one) for one in siblings]}
    return tiny.start(json.dumps(told, default=str), module="tests.launchers.drive_pool", **options)


def outcomes(out: str) -> list[tuple[str, int | None, str]]:
    """What the pool returned: id, status, reason."""
    return [(one["id"], one["status"], one["reason"]) for one in json.loads(out)]


def record(sibling: Sibling) -> RunRecord:
    return read_run(sibling.directory).record


def log(sibling: Sibling) -> str:
    return RunDirectory(sibling.directory).log.read_text()


def seen(sibling: Sibling) -> Mapping[str, Any]:
    """What its process saw of itself."""
    found: Mapping[str, Any] = json.loads((sibling.directory / "seen.json").read_text())
    return found


def alive(pid: int) -> bool:
    """Whether the process is there, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(true: Callable[[], object]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
