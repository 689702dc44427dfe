"""Hydra's own suite for launchers: what ``hydra/launcher=pool`` does for other sweepers and applications."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)

from launcher.launchers import pool

RUN_WITH_POOL = Path(__file__).with_name("run_with_pool.py")

# The suite names no version_base; Hydra says what that will mean one day.
pytestmark = pytest.mark.filterwarnings("ignore:.*Future Hydra versions:UserWarning")


@pytest.fixture(autouse=True)
def registered(hydra_restore_singletons: None) -> None:
    """Hydra's fixture looks for plugins anew after each test, and finds only installed ones."""
    pool.register()


def test_it_is_among_hydras_launchers() -> None:
    assert pool.PoolLauncher in Plugins.instance().discover(Launcher)


@pytest.mark.parametrize(("launcher_name", "overrides"), [("pool", [])])
class TestPoolLauncher(LauncherTestSuite):
    pass


@pytest.mark.parametrize(("launcher_name", "overrides"), [("pool", ["hydra.sweeper.max_batch_size=2"])])
class TestPoolLauncherInBatches(BatchedSweeperTestSuite):
    pass


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [
        (
            {"defaults": [{"override hydra/launcher": "pool"}, {"override hydra/job_logging": "disabled"}]},
            ["-m"],
        )
    ],
)
class TestPoolLauncherIntegration(IntegrationTestSuite):
    def generate_custom_cmd(self) -> Callable[..., list[str]]:
        """The application as it is, with the launcher registered before it starts."""

        def command(original: list[str], filename: str) -> list[str]:
            return [original[0], str(RUN_WITH_POOL), *original[1:]]

        return command
