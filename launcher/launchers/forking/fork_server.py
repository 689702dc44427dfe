"""A process that forks processes: everything is imported once, and each further one costs milliseconds.

It is forked from the command's own process, before that has computed anything. What the command does later
would spoil its children: OpenMP's threads do not survive a fork, and a forked process that uses them after
its parent did hangs; CUDA cannot be used at all in the child of a process that has asked for a device. The
checks of a fan-out do either. So the server stays as it was born: it imports, reads what its children will
share, and forks; and what it computes meanwhile it computes with one thread, which is safe.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import mmap
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from launcher.interpreter import importing
from launcher.launchers.forking.forked import become

Work = Callable[[Any], int]
"""Done in a forked process with an order's payload; returns the exit status."""


@dataclass(frozen=True)
class Order:
    """A process that is to be forked."""

    number: int
    """What it is called in the reports."""
    payload: Any
    """What the work is given. Pickled."""
    log: Path
    """What it prints is appended here."""
    environment: Mapping[str, str]
    """All its environment variables."""
    threads: int
    """CPU threads that PyTorch may use."""


@dataclass(frozen=True)
class Started:
    """A process was forked."""

    number: int
    pid: int


@dataclass(frozen=True)
class Ended:
    """A process has ended."""

    number: int
    status: int
    """Exit status as a shell shows it."""
    killed_by: int | None = None
    """The signal that ended it."""
    untold: str = ""
    """Its error, where its log could not take it."""


@dataclass(frozen=True)
class _Prepare:
    call: Callable[[], object]


@dataclass(frozen=True)
class _Signal:
    number: int


class ServerLost(Exception):
    """The server is gone; whatever it had started goes on without anybody who waits for it."""


class ForkServer:
    """The command's side of the server.

    The server ends when this object or its process is gone. What it had started then goes on to its end.

    Args:
        work: what a forked process does.
        modules: what the server imports at once, while the command goes on.
    """

    def __init__(self, work: Work, modules: Iterable[str] = ()) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python 3.12 warns of threads at a fork: NumPy's BLAS has some, and restores them in the child.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self._connection.close()
            _Server(theirs, work).serve(tuple(modules))
        theirs.close()

    def fileno(self) -> int:
        """Readable when there is a report; for select."""
        return self._connection.fileno()

    def prepare(self, call: Callable[[], object]) -> None:
        """Let the server do this itself before it forks again. Pickled; what goes wrong there is passed over.

        It may leave neither threads nor processes behind.

        Raises:
            ServerLost: the server is gone.
        """
        self._send(_Prepare(call))

    def start(self, order: Order) -> None:
        """Fork a process.

        Raises:
            ServerLost: the server is gone.
        """
        self._send(order)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to each process that runs; SIGKILL also to the processes that those started.

        Raises:
            ServerLost: the server is gone.
        """
        self._send(_Signal(number))

    def reports(self) -> list[Started | Ended]:
        """What has happened since the last call.

        Raises:
            ServerLost: the server is gone, and will tell nothing more.
        """
        news: list[Started | Ended] = []
        try:
            while self._connection.poll():
                report = self._connection.recv()
                if isinstance(report, str):
                    raise ServerLost(report)
                news.append(report)
        except (EOFError, OSError) as error:
            if not news:
                raise ServerLost("it was killed") from error
        return news

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise ServerLost("it was killed") from error


class _Server:
    def __init__(self, connection: Connection, work: Work) -> None:
        self._connection = connection
        self._work = work
        self._running: dict[int, tuple[int, mmap.mmap]] = {}
        self._woken, self._wake = os.pipe()

    def serve(self, modules: tuple[str, ...]) -> NoReturn:
        """Never returns into the stack of the process that it was forked from."""
        try:
            self._detach()
            self._prepare(lambda: import_modules(modules))
            while True:
                if self._woken in wait([self._connection, self._woken]):
                    os.read(self._woken, 4096)
                # All of them first: if the command has gone meanwhile, nothing that it ordered starts.
                messages = []
                while self._connection.poll():
                    messages.append(self._connection.recv())
                for message in messages:
                    self._obey(message)
                self._reap()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass
        except BaseException:
            with contextlib.suppress(OSError):
                self._connection.send(traceback.format_exc())
        finally:
            os._exit(0)

    def _detach(self) -> None:
        # Out of reach of the terminal's Ctrl-C, and of a system that ends everything with SIGTERM: it
        # has to see its children's ends.
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def _prepare(self, call: Callable[[], object]) -> None:
        if "torch" in sys.modules:
            import torch

            torch.set_num_threads(1)
        # Whoever needs it will find out, and say, what is wrong with it.
        with contextlib.suppress(Exception):
            call()
        gc.collect()
        gc.freeze()  # A collection in a child would write to, and so copy, every page that it shares.

    def _obey(self, message: Order | _Prepare | _Signal) -> None:
        if isinstance(message, _Prepare):
            self._prepare(message.call)
        elif isinstance(message, _Signal):
            self._signal(message.number)
        else:
            untold = mmap.mmap(-1, mmap.PAGESIZE)
            pid = self._fork(message, untold)
            self._running[pid] = message.number, untold
            self._connection.send(Started(message.number, pid))

    def _fork(self, order: Order, untold: mmap.mmap) -> int:
        # A signal that comes before the child has its own handlers waits until it has them.
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for descriptor in (self._woken, self._wake, self._connection.fileno()):
                os.close(descriptor)
            work = partial(self._work, order.payload)
            become(order.log, order.environment, order.threads, signals, work, untold)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        return pid

    def _signal(self, number: int) -> None:
        for pid in self._running:
            # Not yet waited for, so the number still means the same process.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if number == signal.SIGKILL:
                    os.killpg(pid, number)
                os.kill(pid, number)

    def _reap(self) -> None:
        for pid in list(self._running):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                continue
            killed = ended.si_code != os.CLD_EXITED
            if killed:
                # What a crashed process leaves behind (data loaders, ranks) is asked to stop.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
            number, shared = self._running.pop(pid)
            untold = shared[:].rstrip(b"\0").decode(errors="replace")
            shared.close()
            if killed:
                self._connection.send(Ended(number, 128 + ended.si_status, ended.si_status))
            else:
                self._connection.send(Ended(number, ended.si_status, untold=untold))


def import_modules(modules: Iterable[str]) -> None:
    """Import modules by name; those that cannot be imported are passed over."""
    with importing():
        for name in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
