"""The tiny project, alone or with a trunk that has run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiny_process import Tiny

# The same examples each time, however slow the machine is.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=3000)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A trunk of 40 steps with a checkpoint each 10. To be copied, not used."""
    tiny = Tiny(tmp_path_factory.mktemp("trained") / "outputs")
    ended = tiny.launch()
    assert ended.status == 0, ended.err
    return tiny


@pytest.fixture
def empty(tmp_path: Path) -> Tiny:
    """The tiny project before its first run."""
    return Tiny(tmp_path / "outputs")


@pytest.fixture
def tiny(empty: Tiny, trained: Tiny) -> Tiny:
    """The tiny project with its trunk."""
    shutil.copytree(trained.outputs, empty.outputs)
    return empty
