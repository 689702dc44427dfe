"""Which process: told from every other one, on this machine or another, now or later."""

from __future__ import annotations

import functools
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process, told from every other one on any machine."""

    host: str
    pid: int
    machine: str
    """Identifies the running kernel and the process namespace in which ``pid`` means something."""
    pid_started: str
    """Its start in clock ticks since boot, which tells it from a later process with its number."""

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _machine(), _process_start(pid))

    @property
    def here(self) -> bool:
        """Whether it runs where it can be looked at."""
        return self.machine == _machine()

    @property
    def there(self) -> bool:
        """Whether it is there, if it is ``here``."""
        return _process_start(self.pid) == self.pid_started


@functools.cache
def _machine() -> str:
    """The running kernel and the namespace of process numbers; two containers of one host differ."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _process_start(pid: int) -> str:
    """When a process began; empty if there is none. Where /proc is missing, only whether it is there."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A zombie has ended; only its exit status is still to be read.
        return "" if state in "ZX" else rest[18]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    except (OSError, IndexError, ValueError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "there"
