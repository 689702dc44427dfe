"""The interpreter's start and end, without looking for garbage among what was imported.

PyTorch's modules are most of a million objects, and no garbage. Python looks through all of them again and
again while they come, and once more at its end: a third of the processor time of a run of a few steps.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage meanwhile. Objects are freed as ever; only cycles stay until later."""
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looking:
            gc.enable()


def leave_garbage() -> None:
    """Let what is there now go with the process: for its last moment, before the handlers of its exit."""
    gc.freeze()
