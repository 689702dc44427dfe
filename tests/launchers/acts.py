"""What a sibling's process may do instead of training."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from launcher.layout import RunDirectory
from launcher.lease import Lease


def act(directory: Path) -> int:
    """Put down what the process sees of itself, then do what the file ``act`` in its directory says."""
    begun = time.monotonic()
    name, _, argument = (directory / "act").read_text().partition(" ")
    _see(directory, begun)
    print(f"{directory.name} says hello")
    status = globals()[name](directory, argument)
    _see(directory, begun)
    return int(status or 0)


def _see(directory: Path, begun: float) -> None:
    streams = [str(Path(f"/proc/self/fd/{number}").readlink()) for number in (0, 1, 2)]
    seen = {
        "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "streams": streams,
        "begun": begun, "ended": time.monotonic(), "threads": torch.get_num_threads(),
        "environment": dict(os.environ), "torch": id(torch),
    }  # fmt: skip
    aside = directory / "seen.new"
    aside.write_text(json.dumps(seen))
    aside.replace(directory / "seen.json")


def nothing(directory: Path, argument: str) -> None: ...


def linger(directory: Path, seconds: str) -> None:
    time.sleep(float(seconds))


def leave(directory: Path, status: str) -> int:
    return int(status)


def vanish(directory: Path, status: str) -> None:
    os._exit(int(status))


def fail(directory: Path, argument: str) -> None:
    raise ValueError("the task has a bug")


def kill(directory: Path, name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])


def segfault(directory: Path, argument: str) -> None:
    ctypes.string_at(0)


def meet(directory: Path, others: str) -> None:
    """Go on only once so many others are running."""
    while len(list(directory.parent.glob("*/seen.json"))) < int(others):
        time.sleep(0.01)


def wait_for_go(directory: Path, argument: str) -> None:
    while not (directory.parent / "go").exists():
        time.sleep(0.01)


def compute(directory: Path, argument: str) -> None:
    (torch.randn(600, 600) @ torch.randn(600, 600)).sum()


def stay(directory: Path, argument: str) -> None:
    """Deaf to every polite signal, and not alone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (directory / "helper").write_text(str(helper.pid))
    (directory / "ready").touch()
    time.sleep(600)


def crash_beside_a_helper(directory: Path, argument: str) -> None:
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (directory / "helper").write_text(str(helper.pid))
    kill(directory, "SIGKILL")


def hand_over(directory: Path, argument: str) -> None:
    """Another process takes the run up, and this one is killed."""
    ready, said = os.pipe()
    if os.fork() == 0:
        os.setsid()
        Lease(RunDirectory(directory), "2026-01-01T00:00:00+00:00")
        os.write(said, b".")
        wait_for_go(directory, "")
        os._exit(0)
    os.read(ready, 1)
    kill(directory, "SIGKILL")
