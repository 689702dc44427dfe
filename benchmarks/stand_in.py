"""The tests' stand-in for W&B's server, in a process of its own.

The true one is another machine. This one has the lowest priority, so that it takes as little as it can of the
time that is measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("spawn")


def _serve(told: Any) -> None:
    os.nice(19)
    from tests.wandb_server.server import WandbServer

    with WandbServer() as server:
        server.artifacts.discards = True
        told.send(server.environment)
        told.recv()


@contextlib.contextmanager
def wandb_server(home: Path) -> Iterator[None]:
    """A server that this process's environment names, with the client's files under ``home``."""
    ours, theirs = _context.Pipe()
    server = _context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    os.environ.update(ours.recv(), HOME=str(home), XDG_CACHE_HOME=str(home), WANDB_ERROR_REPORTING="false")
    yield
    ours.send("done")
    server.join()
