"""Python's garbage collector, kept from holding up training steps on account of trackers.

A full collection stops all threads of a process, whichever it falls into. Importing a tracker's library makes
enough objects to cause several, and beside torch each looks at some hundred thousand: tenths of a second.
"""

from __future__ import annotations

import gc
import threading

_NEVER = 2**31 - 1

_lock = threading.Lock()
_holding: set[object] = set()
_before = 0


def hold(who: object) -> None:
    """Have no full collection until ``who`` releases; younger objects are collected as ever."""
    global _before
    with _lock:
        if not _holding:
            youngest, middle, _before = gc.get_threshold()
            gc.set_threshold(youngest, middle, _NEVER)
        _holding.add(who)


def release(who: object) -> None:
    """Collect as before, passing over what is there by now, until :func:`thaw`; twice is once."""
    with _lock:
        if who not in _holding:
            return
        _holding.remove(who)
        if _holding:
            return
        gc.freeze()
        youngest, middle, oldest = gc.get_threshold()
        if oldest == _NEVER:
            gc.set_threshold(youngest, middle, _before)


def thaw() -> None:
    """Look at everything again: another run may follow in this process."""
    gc.unfreeze()
