"""A run in W&B. wandb is imported when the run starts and not before."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.config import WandbConfig
from launcher.layout import RunDirectory
from launcher.trackers.base import KeptCheckpoint, RunIdentity, State, reason_of
from launcher.trackers.metrics_file import STEP, read_metrics
from launcher.trackers.wandb.artifacts import KEEP_SECONDS, Uploads
from launcher.trackers.wandb.log_file import require_whole
from launcher.trackers.wandb.mode import asked_mode, possible_mode
from launcher.trackers.wandb.names import described, legal_id, note_told

if TYPE_CHECKING:
    import wandb

log = logging.getLogger("launcher.trackers")

INIT_SECONDS = 60.0
"""How long the client may look for its server."""
UPLOAD_SECONDS = 100.0
"""How long the client may upload at the end; what is left stays on disk for ``launcher sync``."""
_KILL_SECONDS = 2.0
_NICENESS = 10
TAKEN_OVER = ("WANDB_TAGS", "WANDB_RUN_ID", "WANDB_RUN_GROUP")
"""Variables that the launcher reads for the client. In a sweep the client takes its id from nowhere else."""


class WandbTracker:
    """One run in W&B, under the run's own id, so that a resumed run goes on there as well.

    A chart's x-axis is ``global_step``. It is also given as W&B's own step, which must only grow: what
    the server has is never sent again. What metrics.jsonl has and the server does not, because an earlier
    process was killed or found no server, is sent before anything new.
    """

    name = "wandb"
    patience = KEEP_SECONDS
    """Seconds that uploads at a run's end may take beyond what every tracker has."""
    remedy = "`launcher sync` uploads the steps that W&B lacks, and the checkpoints."

    def __init__(
        self,
        config: WandbConfig,
        *,
        init_seconds: float = INIT_SECONDS,
        upload_seconds: float = UPLOAD_SECONDS,
    ) -> None:
        self._config = config
        self._init_seconds = init_seconds
        self._upload_seconds = upload_seconds
        self._run: wandb.Run | None = None
        self._identity: RunIdentity | None = None
        self._last_step: int | None = None
        self._online = False
        self._uploads: Uploads | None = None
        self.held = 0
        """Every step of this process: the client does not say which have arrived."""
        self.facts: dict[str, Any] = {}
        """For the run record: mode, place, sources of the names, names that had to be changed."""

    def start(self, identity: RunIdentity) -> str | None:
        """Begin or go on with the run; returns its page, or the directory of its offline files."""
        asked = asked_mode(self._config.mode)
        if asked == "disabled":
            return None
        self._identity = identity
        told = described(identity, os.environ)
        note_told(identity.directory, told.arguments)
        with clients_environment():
            library = quiet_library()
            mode = possible_mode(asked, library.settings.base_url)
            if told.changed and not identity.resumed:
                pairs = "; ".join(f"{old!r} is {new!r} there" for old, new in told.changed.items())
                log.info("wandb does not take every name: %s.", pairs)
            self._last_step = identity.last_logged_step
            self._run = run = self._begun(told.arguments, mode)
            run.define_metric("global_step")
            run.define_metric("*", step_metric="global_step")
            place = {"id": run.id, "project": run.project, "entity": run.entity or None}
            self.facts = {
                "mode": mode,
                **place,
                "sources": told.sources,
                "changed": told.changed,
                **self.facts,
            }
            self._online = mode == "online"
            if self._online:
                self._send_what_is_missing(run, identity)
            if identity.input is not None:
                self._declare_input(run, identity.input)
        return run.url if mode == "online" else str(run.settings.sync_dir)

    def _begun(self, told: dict[str, Any], mode: str) -> wandb.Run:
        assert self._identity is not None
        import wandb

        common: dict[str, Any] = {
            **told,
            "dir": self._identity.directory,
            "mode": mode,
            "reinit": "finish_previous",
            "allow_val_change": True,
        }
        if self._config.fork and (point := self._fork_point(mode)) is not None:
            try:
                run = wandb.init(**common, fork_from=point, settings=self._settings(wandb))
                self.facts["fork"] = f"forked from {point}"
                return run
            except Exception as error:
                self._not_forked(f"W&B refused: {' '.join(str(error).split())}")
                # Its service holds on to the id of a run that it could not begin.
                self.abandon()
                quiet_library()
        return wandb.init(**common, resume="allow", settings=self._settings(wandb))

    def _fork_point(self, mode: str) -> str | None:
        """``RUN?_step=N`` where this start is to fork; a run is forked at its very first start or never."""
        identity = self._identity
        assert identity is not None
        if identity.forks_at is None:
            return None
        if identity.resumed or identity.last_logged_step is not None or _was_online(identity):
            return None  # It is there already, forked or not.
        trunk, step, start_step = identity.forks_at
        if mode != "online":
            self._not_forked("it is logged offline, where nobody can say whether the trunk is there")
        elif step != start_step:
            self._not_forked("its steps are numbered from 0, and W&B's steps only grow")
        else:
            return f"{legal_id(trunk)}?_step={step}"
        return None

    def _not_forked(self, reason: str) -> None:
        self.facts["fork"] = f"not forked: {reason}"
        log.warning("tracker.wandb.fork=true, but the run is not forked: %s. It goes on without.", reason)

    def _settings(self, wandb: Any) -> Any:
        return wandb.Settings(
            silent=True,
            console="off",
            symlink=False,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            init_timeout=self._init_seconds,
            finish_timeout=self._upload_seconds,
            finish_timeout_raises=True,
        )

    def _send_what_is_missing(self, run: wandb.Run, identity: RunIdentity) -> None:
        if identity.last_logged_step is None:
            return
        sent = 0
        for line in read_metrics(RunDirectory(identity.directory).metrics):
            if run.starting_step <= line[STEP] <= identity.last_logged_step:
                self._send(line[STEP], {k: v for k, v in line.items() if not isinstance(v, str)})
                sent += 1
        if sent:
            self.facts["sent_later"] = sent

    def _declare_input(self, run: wandb.Run, artifact: str) -> None:
        """Tell W&B that the run began from an artifact; offline the client cannot."""
        self.facts["input"] = artifact
        if not self._online:
            self.facts["input_lacks"] = "offline; `launcher sync` declares it"
            return
        try:
            run.use_artifact(artifact)
        except Exception as error:
            reason = reason_of(error)
            self.facts["input_lacks"] = reason
            log.warning("wandb does not show %s as the run's input: %s", artifact, reason)

    def keep(self, kept: KeptCheckpoint) -> None:
        """Have a checkpoint uploaded, or referred to, beside everything else."""
        if self._run is None or self._identity is None:
            kept.done()
            return
        if self._uploads is None:
            self._uploads = Uploads(self._run, self._identity, self._online)
        self._uploads.put(kept)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one step's numbers, unless an earlier process of this run did."""
        if self._run is None or (self._last_step is not None and step <= self._last_step):
            return
        self._send(step, metrics)
        self._last_step = step

    def _send(self, step: int, metrics: Mapping[str, float]) -> None:
        assert self._run is not None
        assert self._identity is not None
        self.held += 1
        trunk = self._identity.trunk.at(step) if self._identity.trunk is not None else {}
        self._run.log({**metrics, **trunk, "global_step": step}, step=step)

    def finish(self, state: State, summary: Mapping[str, Any]) -> None:
        """Upload what is left; an interrupted run is marked as one that comes back."""
        if self._run is None:
            return
        if self._uploads is not None:
            # Of a run that goes on later, or failed, its next process hands over what is not up yet.
            try:
                self._uploads.finish() if state == "finished" else self._uploads.stop()
            finally:
                if self._uploads.failed:
                    self.facts["not_uploaded"] = self._uploads.lacking()
        with clients_environment():
            self._run.summary.update(dict(summary))
            if state == "interrupted":
                self._run.mark_preempting()
            self._run.finish(exit_code=0 if state == "finished" else 1)
        if not self._online:
            require_whole(Path(self._run.settings.sync_file))
        self._run = None

    def abandon(self) -> None:
        """Kill the client's service: at exit the client would wait for it without a limit.

        A later run in this process, such as the next sibling, gets a new one.
        """
        self._run = None
        if self._uploads is not None:
            if lacking := self._uploads.lacking():
                self.facts["not_uploaded"] = lacking
            self._uploads.stop()
        with clients_environment():
            import wandb
            from wandb.sdk import wandb_setup

            connection = wandb_setup.singleton()._connection
            if connection is not None and connection._proc is not None:
                process = connection._proc._process
                process.kill()
                process.wait(_KILL_SECONDS)
            # It ends the client's threads; that it finds its service dead is expected.
            with contextlib.suppress(BaseException):
                wandb.teardown()


def quiet_library() -> Any:
    """The client's library, its service running and nowhere in the environment."""
    # Before anything else: the client prints greetings until it is told not to.
    import wandb

    library = wandb.setup(settings=wandb.Settings(silent=True))
    library.ensure_service()
    _yield_to_training()
    # At once: training goes on meanwhile and may start processes.
    os.environ.pop("WANDB_SERVICE", None)
    return library


def _yield_to_training() -> None:
    """Give the client's service, a process group of its own, a low priority: it can wait, a step cannot."""
    from wandb.sdk import wandb_setup

    connection = wandb_setup.singleton()._connection
    if connection is not None and connection._proc is not None:
        with contextlib.suppress(OSError, AttributeError):  # Not every system has priorities of groups.
            if (group := os.getpgid(connection._proc._process.pid)) != os.getpgrp():
                os.setpriority(os.PRIO_PGRP, group, _NICENESS)


def _was_online(identity: RunIdentity) -> bool:
    return any((identity.directory / "wandb").glob("run-*"))


@contextlib.contextmanager
def clients_environment() -> Iterator[None]:
    """The environment that the client may see, and no trace of its service in it afterwards.

    A child that uses the service dies with its parent's. The client reads names from the environment by
    itself, gives up where it would refuse one, and puts a run that is in no group into the variable's: so it
    does not see those that it is told. Where its own log cannot be written it says so nowhere: Python would
    print a traceback for each line of it.
    """
    said, logging.raiseExceptions = logging.raiseExceptions, False
    hidden = set(TAKEN_OVER) - ({"WANDB_RUN_ID"} if "WANDB_SWEEP_ID" in os.environ else set())
    kept = {name: os.environ.pop(name) for name in hidden & os.environ.keys()}
    os.environ.pop("WANDB_SERVICE", None)
    try:
        yield
    finally:
        logging.raiseExceptions = said
        os.environ.update(kept)
        os.environ.pop("WANDB_SERVICE", None)
