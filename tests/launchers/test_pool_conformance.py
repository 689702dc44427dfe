"""Hydra's own suite for launchers: what ``hydra/launcher=pool`` does for other sweepers and applications."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import version
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)
from hydra.test_utils.test_utils import SweepTaskFunction, TSweepRunner
from omegaconf import DictConfig

from launcher.errors import RunFailed
from launcher.launchers import pool

RUN_WITH_POOL = Path(__file__).with_name("run_with_pool.py")

# The suite names no version_base; Hydra says what that will mean one day.
pytestmark = pytest.mark.filterwarnings("ignore:.*Future Hydra versions:UserWarning")


@pytest.fixture(autouse=True)
def registered(hydra_restore_singletons: None) -> None:
    """Hydra's fixture looks for plugins anew after each test, and finds only installed ones."""
    pool.register()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # What the suite expects; other tests of this process may have set another.
        version.setbase("1.1")


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


def sweep_of(runner: TSweepRunner, task: Callable[[DictConfig], int], directory: Path) -> SweepTaskFunction:
    return runner(
        calling_file=None,
        calling_module="hydra.test_utils.a_module",
        task_function=task,
        config_path="configs",
        config_name="compose",
        overrides=["hydra/launcher=pool", "group1=file1,file2", "bar=1,2"],
        temp_dir=directory,
    )


def test_each_job_is_a_process_with_a_log(
    hydra_sweep_runner: TSweepRunner, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def task(config: DictConfig) -> int:
        print("a job says hello")
        return os.getpid()

    with sweep_of(hydra_sweep_runner, task, tmp_path) as sweep:
        assert sweep.returns is not None
        jobs: list[JobReturn] = sweep.returns[0]
        assert (tmp_path / "3" / "log.txt").read_text().startswith("a job says hello\n")
    assert "hello" not in capfd.readouterr().out
    assert len({os.getpid(), *(job.return_value for job in jobs)}) == 5


def test_a_job_that_crashes_is_a_failed_one_and_the_others_end(
    hydra_sweep_runner: TSweepRunner, tmp_path: Path
) -> None:
    def task(config: DictConfig) -> int:
        if (config.foo, config.bar) == (10, 2):
            os.kill(os.getpid(), signal.SIGSEGV)
        return 0

    with (
        pytest.raises(RunFailed, match="Job 1 ended without a result: killed by SIGSEGV"),
        sweep_of(hydra_sweep_runner, task, tmp_path),
    ):
        pass
    assert all((tmp_path / str(number) / "a_module.log").exists() for number in range(4))


@pytest.mark.parametrize(
    ("local", "raised", "message"),
    [
        (False, ValueError, "a bug in the task"),
        (True, RunFailed, r"cannot be sent: Can't pickle local object"),
    ],
)
def test_a_job_that_fails_does_so_with_its_own_exception(
    hydra_sweep_runner: TSweepRunner, tmp_path: Path, local: bool, raised: type[Exception], message: str
) -> None:
    class Local(Exception):
        """One that cannot be pickled."""

    def task(config: DictConfig) -> int:
        if (config.foo, config.bar) == (20, 1):
            raise Local("a bug in the task") if local else ValueError("a bug in the task")
        return 0

    with pytest.raises(raised, match=message), sweep_of(hydra_sweep_runner, task, tmp_path):
        pass
    assert (tmp_path / "3" / "a_module.log").exists()
