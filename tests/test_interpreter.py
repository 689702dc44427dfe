"""Garbage is not looked for while modules are imported, and is looked for afterwards."""

from __future__ import annotations

import gc

import pytest

from launcher.interpreter import importing


def test_garbage_is_looked_for_again_whatever_happens() -> None:
    seen: list[bool] = []

    def fail() -> None:
        with importing():
            seen.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert (seen, gc.isenabled()) == ([False], True)


def test_who_does_not_look_for_it_is_left_alone() -> None:
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
