"""The tiny project, alone or with a trunk that has run."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from launcher.layout import RunDirectory
from launcher.lease import holder
from tests.tiny_process import Tiny

# The same examples each time, however slow the machine is.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=3000)
settings.load_profile("suite")

# A shell starts what runs in its background deaf to these; what the tests start would be as well.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real-wandb", action="store_true", help="test against W&B's service: WANDB_API_KEY")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Every worker imports every file: most of a million objects, among which nobody looks for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _group(nodeid: str) -> str:
    """One worker a file, and one for everything on SLURM, of which there is one on a machine."""
    file = nodeid.partition("::")[0]
    return "slurm" if file.startswith("tests/slurm/") else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first."""
    longest = ("slurm", "tests/test_readme.py")
    place = {group: index for index, group in enumerate(longest)}
    items.sort(key=lambda item: place.get(_group(item.nodeid), len(longest)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests out by ``_group``."""
    from xdist.scheduler import LoadScopeScheduling

    class Grouped(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return Grouped(config, log)


TrunkOf = Callable[..., Tiny]
"""The tiny project with a trunk for which these overrides were typed."""


@pytest.fixture(scope="session")
def trunks(tmp_path_factory: pytest.TempPathFactory) -> TrunkOf:
    """Each trunk that some test asks for, trained once. To be copied, not used."""
    made: dict[tuple[str, ...], Tiny] = {}

    def trunk(*typed: str) -> Tiny:
        if typed not in made:
            made[typed] = Tiny(tmp_path_factory.mktemp("trunk") / "outputs")
            made[typed].train(*typed)
        return made[typed]

    return trunk


@pytest.fixture(scope="session")
def trained(trunks: TrunkOf) -> Tiny:
    """A trunk of 40 steps with a checkpoint each 10. To be copied, not used."""
    return trunks()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Tiny]:
    """The tiny project before its first run."""
    tiny = Tiny(tmp_path / "outputs")
    yield tiny
    # What a test that failed has left behind would slow down all that come after it.
    for leases in tiny.outputs.glob("*/*/.lease"):
        last = holder(RunDirectory(leases.parent))
        if last is not None and last.alive and last.process.here and last.process.pid != os.getpid():
            os.kill(last.process.pid, signal.SIGKILL)


@pytest.fixture
def trunk_of(empty: Tiny, trunks: TrunkOf) -> TrunkOf:
    """Copies the trunk with these overrides into ``empty``."""

    def copied(*typed: str) -> Tiny:
        shutil.copytree(trunks(*typed).outputs, empty.outputs)
        return empty

    return copied


@pytest.fixture
def tiny(trunk_of: TrunkOf) -> Tiny:
    """The tiny project with its trunk."""
    return trunk_of()
