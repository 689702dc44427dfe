"""What a freshly forked process does to become one of its own: session, signals, streams, environment."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from launcher.errors import LauncherError


def become(
    log: Path,
    environment: Mapping[str, str],
    threads: int,
    blocked: Iterable[signal.Signals],
    work: Callable[[], int],
    untold: mmap.mmap,
) -> NoReturn:
    """Make the calling process independent of the one that forked it, do the work, and exit.

    Args:
        log: file that stdout and stderr are appended to.
        environment: all environment variables.
        threads: CPU threads of PyTorch.
        blocked: signals that were blocked over the fork; they may come once the handlers are set.
        work: returns the exit status.
        untold: shared with the parent; it gets the error that the log cannot take, on a disk that is full.
    """
    status, logged = 1, False
    try:
        os.setsid()
        atexit._clear()  # What the parent registered is the parent's to do.
        _streams(log)
        logged = True
        os.environ.clear()
        os.environ.update(environment)
        if "torch" in sys.modules:
            # OMP_NUM_THREADS was read when torch was imported, long ago.
            import torch

            torch.set_num_threads(threads)
        _signals(blocked)
        status = work()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException as error:
        status = error.exit_status if isinstance(error, LauncherError) else 1
        if not (logged and _printed()):
            kind = "error" if isinstance(error, LauncherError) else type(error).__name__
            said = f"{kind}: {error}".encode()[: len(untold)]
            untold[: len(said)] = said
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _printed() -> bool:
    """Whether the traceback of what was raised could be printed."""
    try:
        traceback.print_exc()
    except OSError:
        return False
    return True


def print_to(log: Path) -> None:
    """Append stdout and stderr of this process, and of those that it starts, to a file."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _streams(log: Path) -> None:
    print_to(log)
    # The parent may have put others in their place. By line: a crash takes buffers with it.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.enable(file=2)


def _signals(blocked: Iterable[signal.Signals]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
