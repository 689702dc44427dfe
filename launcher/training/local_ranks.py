"""Starts the processes that train one run on this machine, and ends as the run does.

They get torchrun's environment. Its elastic agent itself is not used: it ends ranks with SIGKILL 30 s after
a signal, which is no time for a large checkpoint, does not pass SIGUSR2 on, and turns every exit status
into 1 below a table of its own. ``torchrun --nproc-per-node=N train.py launch.nproc=N`` works beside this.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import torch

from launcher.errors import LauncherError, RunFailed
from launcher.files import write_text
from launcher.handlers import Handling
from launcher.training.device import prepared
from launcher.training.rendezvous import LOST, MEETING, word_of_end
from launcher.training.signals import ASKING, Interruption

_T = TypeVar("_T")
GRACE_SECONDS = 30.0
"""How long the other ranks may go on once one has failed: they notice by themselves, unless they hang."""


def may_fork(device: str) -> bool:
    """Whether a copy of this process can compute on ``device``, as the config names it."""
    on_gpu = device != "cpu" and (torch.version.cuda is not None or torch.version.hip is not None)
    return not on_gpu and not prepared()


class _Rank(NamedTuple):
    process: BaseProcess
    result: Connection


def start_ranks(
    function: Callable[[], _T], nproc: int, fork: bool, interruption: Interruption | None = None
) -> _T:
    """Call ``function`` in ``nproc`` processes, the ranks; what it gives, or raises, at rank 0.

    Signals that ask to stop are passed on to all ranks. If this process is killed, so are they.

    Args:
        function: can be pickled.
        nproc: how many.
        fork: copy this process, which takes milliseconds but must not have computed anything in parallel
            nor used a GPU; else start new interpreters.
        interruption: entered already; it is told of the signals that come meanwhile.

    Raises:
        RunFailed: a rank ended without a word.
        SystemExit: rank 0 ended with an exit status other than 0.
        Exception: what ``function`` raised at rank 0.
    """
    context = multiprocessing.get_context("fork" if fork else "spawn")
    meeting = Path(tempfile.gettempdir()) / f"launcher-{uuid.uuid4().hex}" / "rendezvous.json"
    ranks: list[_Rank] = []
    sys.stdout.flush()
    sys.stderr.flush()
    with _passing_on(ranks, interruption or Interruption()) as asked:
        for rank in range(nproc):
            receiving, sending = context.Pipe(duplex=False)
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(nproc),
                "LOCAL_WORLD_SIZE": str(nproc),
                MEETING: str(meeting),
            }
            arguments = (function, environment, sending, os.getpid())
            process = context.Process(target=_be_rank, args=arguments, name=f"rank-{rank}")  # type: ignore[attr-defined]
            process.start()
            sending.close()
            ranks.append(_Rank(process, receiving))
        for number in tuple(asked):  # While some were not there yet.
            for one in ranks:
                _send(one.process, number)
        try:
            results = _awaited(ranks, word_of_end(meeting))
        finally:
            word_of_end(meeting).unlink(missing_ok=True)
    codes = [one.process.exitcode or 0 for one in ranks]
    pids = [one.process.pid for one in ranks]
    return _outcome(results.get(0), codes, pids, asked)  # type: ignore[no-any-return]


def _be_rank(
    function: Callable[[], Any], environment: dict[str, str], result: Connection, parent: int
) -> None:
    # A Ctrl-C reaches the whole process group of a terminal; each rank gets it once, passed on.
    os.setpgrp()
    for number in ASKING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _die_with(parent)
    os.environ.update(environment)
    try:
        result.send_bytes(pickle.dumps((function(), None)))
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        if environment["RANK"] != "0":
            if isinstance(error, LauncherError):  # Rank 0 has it too.
                raise SystemExit(error.exit_status) from None
            raise
        result.send_bytes(_pickled(error))
        raise SystemExit(1) from None


def _pickled(error: Exception) -> bytes:
    error.add_note("In rank 0:\n" + "".join(traceback.format_exception(error)))
    try:
        pickled = pickle.dumps((None, error))
        pickle.loads(pickled)
    except Exception:
        return pickle.dumps((None, RunFailed(f"{type(error).__name__}: {error}")))
    return pickled


def _die_with(parent: int) -> None:
    """Be killed when the process that started the ranks is: nobody would pass on signals any more."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _passing_on(ranks: list[_Rank], interruption: Interruption) -> Iterator[list[int]]:
    """Passes signals that ask to stop on to the ranks; gives the list of those that came."""
    asked: list[int] = list(interruption.received)

    def handle(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        interruption.note(signal.Signals(number))
        for one in ranks:
            _send(one.process, number)

    with Handling(ASKING, handle, ignored_too=True):
        yield asked


def _send(process: BaseProcess, number: int) -> None:
    if process.is_alive() and process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _awaited(ranks: list[_Rank], word: Path) -> dict[int, tuple[Any, Exception | None]]:
    """What each rank sent before it ended; all have ended. ``word`` names the first that a signal ended."""
    results: dict[int, tuple[Any, Exception | None]] = {}
    deadline: float | None = None
    open_ends: dict[Any, int] = {one.result: rank for rank, one in enumerate(ranks)}
    alive: dict[Any, BaseProcess] = {one.process.sentinel: one.process for one in ranks}
    while alive:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        for ready in wait([*open_ends, *alive], left):
            if (rank := open_ends.pop(ready, None)) is not None:
                assert isinstance(ready, Connection)
                with contextlib.suppress(EOFError, OSError):
                    results[rank] = pickle.loads(ready.recv_bytes())
            elif (process := alive.pop(ready, None)) is not None:
                process.join()
                if process.exitcode != 0 and deadline is None:
                    _tell(word, [one.process for one in ranks].index(process), process)
                    deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for process in alive.values():
                _send(process, signal.SIGKILL)
    return results


def _tell(word: Path, rank: int, process: BaseProcess) -> None:
    if process.exitcode is not None and process.exitcode < 0:
        with contextlib.suppress(OSError):  # Rank 0 looks there, for the record.
            write_text(word, _ended_by(rank, process.pid, process.exitcode))


def _ended_by(rank: int, pid: int | None, code: int) -> str:
    return f"rank {rank} (process {pid}) was ended by {signal.Signals(-code).name}"


def _outcome(
    result: tuple[Any, Exception | None] | None, codes: list[int], pids: list[int | None], asked: list[int]
) -> Any:
    killed = [rank for rank, code in enumerate(codes) if code < 0 and -code not in asked]
    told = "; ".join(_ended_by(rank, pids[rank], codes[rank]) for rank in killed)
    if result is not None and result[1] is None:
        return result[0]
    if result is not None:
        error = result[1]
        if isinstance(error, RunFailed) and told:
            error.found = told
        assert error is not None
        raise error
    if told:
        raise RunFailed(
            f"{LOST}: {told}.",
            do="give the same command again: it goes on from the newest whole checkpoint",
        )
    raise SystemExit(codes[0] if codes[0] >= 0 else 128 - codes[0])
