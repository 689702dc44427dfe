"""The lines of the siblings on a terminal; and data that is read once for all of them."""

from __future__ import annotations

import os
import pty
import re
import threading
from functools import partial
from typing import Any

import pytest

from launcher.launchers.forking.display import Display
from launcher.launchers.sibling import Sibling
from launcher.layout import RunDirectory
from launcher.lease import Lease
from tests.launchers.siblings import acting, log, outcomes, queued, start
from tests.tiny_process import Tiny


def onto_a_terminal(name: str) -> None:
    terminal = os.open(name, os.O_RDWR | os.O_NOCTTY)
    os.dup2(terminal, 2)


def on_a_terminal(tiny: Tiny, siblings: list[Sibling], lines: int, **settings: Any) -> str:
    """What a terminal of so many lines was sent while the siblings ran."""
    ours, theirs = pty.openpty()
    sent: list[bytes] = []

    def listen() -> None:
        while True:
            try:
                sent.append(os.read(ours, 65536))
            except OSError:
                return

    listener = threading.Thread(target=listen)
    listener.start()
    environment = {"TERM": "xterm", "COLUMNS": "200", "LINES": str(lines), "NO_COLOR": "1"}
    started = start(
        tiny, siblings, environment=environment,
        prepare=[partial(onto_a_terminal, os.ttyname(theirs))], **settings,
    )  # fmt: skip
    status = started.end(60).status
    os.close(theirs)  # Only now: without any other end, reading would fail at once.
    assert status == 0
    listener.join(30)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(sent).decode())


def test_a_terminal_has_a_line_for_each_sibling(empty: Tiny) -> None:
    siblings = [queued(empty, "seed=1"), queued(empty, "seed=2")]
    shown = on_a_terminal(empty, siblings, 30, run="launcher.job:run_sibling", slots=1)
    last = [line.rstrip() for line in re.split(r"[\r\n]+", shown) if line.strip()][-2:]
    assert [line.split() for line in last] == [[one.id, "finished", "40/40"] for one in siblings]
    assert re.search(rf"{siblings[1].id} +waiting +0/40", shown)
    assert "started, process" not in shown


def test_a_crash_stands_above_the_lines(empty: Tiny) -> None:
    siblings = [acting(empty.outputs, 0, "segfault"), acting(empty.outputs, 1, "nothing")]
    shown = on_a_terminal(empty, siblings, 30)
    assert "sibling-0: killed by SIGSEGV; the last lines of" in shown
    assert "Fatal Python error: Segmentation fault" in shown
    assert re.search(r"sibling-0 +failed +0/0 +killed by SIGSEGV", shown)


def test_on_a_low_terminal_those_that_do_not_run_are_counted(empty: Tiny) -> None:
    siblings = [acting(empty.outputs, number, "nothing") for number in range(30)]
    shown = on_a_terminal(empty, siblings, 10, slots=1)
    last = [line.strip() for line in re.split(r"[\r\n]+", shown) if line.strip()][-1]
    assert last == "30 finished"


def test_a_line_tells_what_the_lease_tells(empty: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    sibling = queued(empty)
    display = Display([sibling])
    display.started(sibling, os.getpid())
    assert cells(display) == [sibling.id, "starting", "0/40", "", "", "", ""]
    lease = Lease(RunDirectory(sibling.directory), "2026-01-01T00:00:00+00:00")
    try:
        path = lease.aside() / "lease.json"
        told = '"step": 10, "steps_per_second": 0.25, "metrics": {"val/loss": 3, "train/total_loss": 1.25}'
        text = path.read_text()
        for name in ("step", "steps_per_second", "metrics"):
            text = re.sub(rf'"{name}": ([\d.]+|{{}}),? ?', "", text)
        path.write_text(text.replace("{", "{" + told + ", ", 1))
        display.look()
        assert cells(display) == [
            sibling.id, "running", "10/40", "0.25 steps/s", "total_loss 1.25", "2:00", "",
        ]  # fmt: skip
    finally:
        lease.release()


def cells(display: Display) -> list[str]:
    return [str(next(iter(column.cells))) for column in display.table().columns]


def test_data_is_read_once_before_the_siblings_are_forked(empty: Tiny) -> None:
    typed = ["task._target_=tests.launchers.sharing_task.SharingTask", "threads=2", "training.steps=6"]
    siblings = [queued(empty, *typed, f"seed={seed}") for seed in range(3)]
    ended = start(empty, siblings, "launcher.job:run_sibling", slots=1).end(60)
    assert [one[1:] for one in outcomes(ended.out)] == [(0, "")] * 3
    said = {line for one in siblings for line in log(one).splitlines() if line.startswith("data read by")}
    assert len(said) == 1, "each has read it for itself"
    assert re.fullmatch(r"data read by \[\d+\], 2 threads", said.pop())


def test_a_sibling_with_data_of_its_own_reads_it_itself(empty: Tiny) -> None:
    typed = ["task._target_=tests.launchers.sharing_task.SharingTask"]
    siblings = [queued(empty, *typed, f"data.shift={shift}") for shift in (0.0, 1.0)]
    ended = start(empty, siblings, "launcher.job:run_sibling", slots=2).end(60)
    assert [one[1:] for one in outcomes(ended.out)] == [(0, "")] * 2
    assert all("data read by []" in log(one) for one in siblings)
