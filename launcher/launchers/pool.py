"""``hydra/launcher=pool``: siblings side by side on this machine, each in a forked process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from launcher.config import Config, FanoutConfig
from launcher.differences import plain
from launcher.errors import ConfigError, LauncherError
from launcher.launchers.forking.fork_server import ForkServer, import_modules
from launcher.launchers.plugins import register_plugin
from launcher.launchers.sibling import Outcome, RunSibling, Sibling
from launcher.layout import RunDirectory

if TYPE_CHECKING:
    from launcher.launchers.forking.hydra_jobs import Hydra
    from launcher.launchers.forking.slots import Slots


@dataclass
class PoolConfig:
    """Where siblings run, and how many at a time."""

    slots: int | None = None
    """Processes at the same time. ``null``: all that fit, which is ``slots_per_gpu`` on each GPU, or, on the
    CPU, as many as the cores allow with ``threads`` threads each."""
    slots_per_gpu: int = 1
    """Processes that share one GPU."""


@dataclass(frozen=True)
class _SiblingJob:
    run: RunSibling
    directory: Path


class PoolLauncher(Launcher):
    """Runs siblings in parallel, in processes forked from one that has everything imported."""

    remote = False
    world_size = None

    def __init__(self, slots: int | None = None, slots_per_gpu: int = 1) -> None:
        super().__init__()
        self._slots, self._per_gpu = slots, slots_per_gpu

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Start the fork server; what it imports, it imports while the sweeper composes and checks."""
        self._context, self._task_function = hydra_context, task_function
        self.begin(config)

    def begin(self, config: DictConfig) -> None:
        """Start the fork server for siblings with such a config."""
        self._config = config
        if OmegaConf.select(config, "task._target_") is not None:
            # The sweeper's checks need it as well: once imported before the fork, it is there for both,
            # at the cost of one. After the fork each would import it for itself.
            import_modules(["torch"])
        self._server = ForkServer(self._work, _modules(config))

    def check(self, siblings: Sequence[Sibling]) -> list[LauncherError]:
        """What is wrong with the settings for these siblings."""
        gpus = self._gpus()
        wrong: list[LauncherError] = [
            ConfigError(
                f"hydra.launcher.{name}={value} leaves no room for any sibling.",
                where=f"hydra.launcher.{name}",
                expected="a number from 1",
            )
            for name, value in (("slots", self._slots), ("slots_per_gpu", self._per_gpu))
            if value is not None and value < 1
        ]
        processes = max((one.nproc for one in siblings), default=0)
        room = min(len(gpus), self._slots or len(gpus))
        if gpus and processes > room:
            wrong.append(
                ConfigError(
                    f"A sibling of {processes} processes does not fit on {room} GPUs.",
                    where="launch.nproc",
                    found=f"GPUs: {', '.join(gpus)}; hydra.launcher.slots={self._slots}",
                    expected="a GPU for each process of a sibling",
                    do=f"launch.nproc={room}, or device=cpu",
                )
            )
        return wrong

    def launch_siblings(
        self,
        siblings: Sequence[Sibling],
        fanout: FanoutConfig,
        run: RunSibling,
        canary: RunSibling | None = None,
    ) -> list[Outcome]:
        """Run all siblings to their ends; one outcome each, in the same order.

        Raises:
            Stopped: a signal asked to stop, and all siblings have; it has the outcomes.
        """
        from launcher.launchers.forking.dispatch import Dispatch, Job
        from launcher.launchers.forking.display import Display
        from launcher.launchers.forking.shared_data import most_shared, share_data

        # What the checks have imported meanwhile: once in the server instead of in each sibling.
        packages = {__name__.partition(".")[0], run.__module__.partition(".")[0]}
        names = [name for name in sys.modules if name.partition(".")[0] in packages]
        names += getattr(sys.modules[run.__module__], "IMPORTED_LATER", ())
        self._server.prepare(partial(import_modules, names))
        if (shared := most_shared([one.directory for one in siblings])) is not None:
            self._server.prepare(partial(share_data, shared))
        slots = self._room(siblings, fanout.max_parallel)

        def ran(some: Sequence[Sibling], what: RunSibling, *good_ends: str) -> list[Outcome]:
            jobs = [
                Job(one, _SiblingJob(what, one.directory), RunDirectory(one.directory).log) for one in some
            ]
            with Display(some, good_ends) as display:
                dispatch = Dispatch(self._server, slots, display, fanout.max_parallel, fanout.stop_on_failure)
                return dispatch.run(jobs)

        if canary is not None:
            [first] = ran(siblings[:1], canary, "interrupted", "finished")
            if first.status != 0:
                return [first]
        return ran(siblings, run, "finished", "pruned")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's own contract, for other sweepers: each job composed and run in a forked process."""
        from launcher.launchers.forking.hydra_jobs import launch_jobs

        return launch_jobs(self._hydra(), self._server, self._room, job_overrides, initial_job_idx)

    def _work(self, payload: Any) -> int:
        if isinstance(payload, _SiblingJob):
            return payload.run(payload.directory)
        status: int = payload.run(self._hydra())
        return status

    def _hydra(self) -> Hydra:
        from launcher.launchers.forking.hydra_jobs import Hydra

        return Hydra(self._context, self._task_function, self._config)

    def _room(self, siblings: Sequence[Sibling], max_parallel: int | None = None) -> Slots:
        from launcher.launchers.forking.slots import Slots

        return Slots(siblings, self._gpus(), self._per_gpu, self._slots, max_parallel)

    def _gpus(self) -> list[str]:
        """The GPUs to share out; none where the siblings run on the CPU."""
        from launcher.launchers.forking.slots import find_gpus

        device = OmegaConf.select(self._config, "device", default="cpu")
        if device == "auto":
            import torch

            device = "cuda" if torch.version.cuda is not None else "cpu"
        return find_gpus() if device == "cuda" else []


def _modules(config: DictConfig) -> Iterator[str]:
    """What every sibling will import, whatever it is."""
    target = OmegaConf.select(config, "task._target_")
    if target is None:
        return
    yield "launcher.training.trainer"
    yield str(target).rpartition(".")[0]
    if (main := OmegaConf.select(config, "task.main")) is not None:
        yield str(main).rpartition(".")[0]
    # The first optimizer of a process imports it, which takes as long as torch itself.
    yield "torch._dynamo"
    for tracker, settings in (OmegaConf.select(config, "tracker") or {}).items():
        if settings is not None:
            # A tracker's node is called like its package.
            yield str(tracker)


def restored(settings: Mapping[str, Any], config: Config) -> PoolLauncher:
    """The launcher with the settings that an earlier launch had, outside Hydra."""
    launcher = PoolLauncher(settings.get("slots"), settings.get("slots_per_gpu", 1))
    launcher.begin(OmegaConf.create(plain(config)))
    return launcher


def register() -> None:
    """Make ``hydra/launcher=pool`` known to Hydra."""
    register_plugin(PoolLauncher, "hydra/launcher", "pool", PoolConfig)
