"""Everything that a run leaves behind while it goes on: record, metrics, trackers, checkpoints."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from launcher.branch.metadata import identity_of
from launcher.branch.plan import Plan
from launcher.branch.record import going_on, new_record
from launcher.checkpoint.manifest import About, Content, read_manifest
from launcher.differences import plain
from launcher.errors import LauncherError, in_one_line
from launcher.files import disk_error, write_text
from launcher.findings import Finding
from launcher.layout import RunDirectory, checkpoint_at
from launcher.lease import Superseded
from launcher.lineage import Origin, Start, State, branched_steps
from launcher.publishing import Publishing, input_of
from launcher.report.progress_bar import ProgressBar
from launcher.shards import WEIGHTS, checkpoint_writer, described, weights_of
from launcher.taking import take
from launcher.trackers.base import RunIdentity
from launcher.trackers.base import State as Ended
from launcher.trackers.metrics_file import MetricsFile
from launcher.trackers.trackers import Trackers, trackers_of
from launcher.trackers.trunk import TrunkValues
from launcher.training.distributed import Ranks
from launcher.training.loop import Trained
from launcher.training.progress import Progress

if TYPE_CHECKING:
    from launcher.search.pruning import Pruning


class Recording:
    """The hooks of the training loop. Entered, it owns the run's directory; left, everything is on disk.

    Leaving it with an exception marks the run as failed, or as interrupted if someone pressed Ctrl-C
    twice; what was saved before stays.
    """

    def __init__(
        self, plan: Plan, findings: list[Finding], environment: dict[str, Any], ranks: Ranks
    ) -> None:
        self.plan, self._ranks = plan, ranks
        self._findings, self._environment = findings, environment
        self._trained: Trained | None = None
        self._pruning: Pruning | None = None
        self._pruned = False
        self._since = time.monotonic()

    def __enter__(self) -> Recording:
        directory = self.plan.directory
        try:
            directory.checkpoints.mkdir(parents=True, exist_ok=True)
            self.lease, self._job = take(directory, self.plan.id)
        except OSError as error:
            raise disk_error(error, directory.path) from error
        try:
            self._open(directory)
        except BaseException:
            self.lease.release()
            raise
        return self

    def _open(self, directory: RunDirectory) -> None:
        # Only now: until the lease was taken, an older process could still write.
        self.record = going_on(directory) or new_record(self.plan, self._findings, self._environment)
        self.record.job_id = self._job.id or None
        if not self.record.starts:
            # Where it was launched it may have been asked for in other words.
            self.record.request = self.plan.request
        try:
            config = OmegaConf.to_yaml(OmegaConf.create(plain(self.plan.config)))
            write_text(directory.config, config, self.lease.aside())
            self.record.write(directory.path, self.lease.aside())
        except OSError as error:
            raise disk_error(error, directory.path) from error
        metrics = MetricsFile(directory.metrics, self.lease.aside)
        self._trackers = Trackers(metrics, trackers_of(self.plan.config.tracker))
        self._writer = checkpoint_writer(
            directory.checkpoints, self.plan.config.checkpoint, self._ranks, self._needed, self.lease.aside
        )
        self._publishing = Publishing(directory, self.plan.config.checkpoint, self._trackers.keep)
        self._bar = ProgressBar(self.plan.id, self.plan.end_step)

    def start(self, trained: Trained, origin: Origin) -> None:
        """The live objects are ready: tell the record and the trackers."""
        self._trained, self._since = trained, time.monotonic()
        step = trained.progress.step
        self.record.starts.append(Start.now(origin, step, self.lease.token, self._job.id or None))
        self.record.step = step
        self._note_environment(trained, going_on=origin == "own checkpoint")
        self.record.directions = {**self.record.directions, **trained.directions}
        self.lease.note(step, self.plan.end_step)
        # An earlier start's count; what was dropped then may be sent now.
        said = self.record.trackers.items()
        self.record.trackers = {name: value for name, value in said if not name.endswith("_dropped")}
        self._trackers.start(self._identity(resumed=origin == "own checkpoint"))
        self._publishing.start()
        self._write_record()
        self._bar.start(step)
        if (trial := self.plan.config.fanout.trial) is not None:
            # Only a trial needs Optuna.
            from launcher.search.pruning import Pruning

            self._pruning = Pruning(self.plan.directory.path.parent, trial)

    def _note_environment(self, trained: Trained, going_on: bool) -> None:
        """What the run began with; of what it goes on with, only other code is noted."""
        began, now = self.record.environment, self._environment
        if not going_on or "device" not in began:
            config = self.plan.config
            facts = {"world_size": config.launch.nproc, "seed": config.seed}
            self.record.environment = {**now, **facts, "data": trained.fingerprint()}
        elif "code" in began and began["code"].rpartition(", then ")[2] != now.get("code", began["code"]):
            began["code"] = f"{began['code']}, then {now['code']}"

    def log(self, progress: Progress, metrics: Mapping[str, float | str]) -> None:
        """One line of metrics; a step that is on record already is not logged again."""
        line: dict[str, float | str] = {
            "global_step": progress.step,
            "branch_step": progress.step - self.record.start_step,
        }
        if progress.absolute_step != progress.step:
            line["absolute_step"] = progress.absolute_step
        self._trackers.log({**line, **metrics})
        numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
        self.record.metrics.update(numbers)
        self.lease.note(progress.step, self.plan.end_step, self.record.metrics)
        self._bar.show(numbers)

    def save(self) -> None:
        """A checkpoint of the present state, written beside the training."""
        assert self._trained is not None
        progress = self._trained.progress
        self._trackers.sync()
        self._publishing.saving(progress.step, self.record.metrics)
        self._writer.save(self._trained.state_dict(), self._about(progress))
        self._note_saved()
        self._write_record()

    def after_step(self) -> None:
        """Fail the run if a write failed meanwhile."""
        assert self._trained is not None
        self._writer.check()
        self._publishing.saved(self._writer.saved)
        step = self._trained.progress.step
        self.lease.note(step, self.plan.end_step)
        if step == self.record.starts[-1].step + 1:
            self._writer.reserve(self._trained.state_dict())
        if step - self.record.start_step in self.plan.config.fanout.looks:
            self._note_weights(step, described(weights_of(self._trained), self._ranks))
            self._write_record()
        self._bar.advance(step)

    def prune(self, progress: Progress, metrics: Mapping[str, float | str]) -> bool:
        """Tell the search how the run does; True if it is not worth going on with."""
        assert self._pruning is not None
        self._pruned = self._pruning.look(progress.step - self.record.start_step, metrics)
        return self._pruned

    def finish(self, state: State, hurried: Callable[[], bool]) -> None:
        """The loop is over: everything onto the disk, then say so in the record.

        ``hurried``: whether a signal asks to stop, so that trackers are not waited for any longer.
        """
        assert self._trained is not None
        if state == "interrupted" and self._pruned:
            state = "pruned"
        self._writer.close()
        self._writer.check()
        ended = state == "finished" and self._writer.saved == self.plan.end_step
        if ended and self.record.parent is not None:
            last = checkpoint_at(self.plan.directory.checkpoints, self.plan.end_step)
            self._note_weights(self.plan.end_step, read_manifest(last).content)
        self._end(state, None, hurried)

    def _note_weights(self, step: int, content: Content) -> None:
        self.record.states[str(step - self.record.start_step)] = content.components[WEIGHTS][:16]

    def saved(self) -> Path:
        """The newest checkpoint, once it is on disk."""
        self._writer.wait()
        self._writer.check()
        assert self._writer.saved is not None
        return checkpoint_at(self.plan.directory.checkpoints, self._writer.saved)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        try:
            if error is not None:
                self._failed(error)
        finally:
            self.lease.release()

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, Superseded) or self.lease.lost:
            # The run is the newer process's; its record and its tracker run go on there.
            self._trackers.leave()
            return
        if isinstance(error, LauncherError) and error.where is None:
            error.where = str(self.plan.directory.path)
        with contextlib.suppress(Exception):  # The error that is already on its way came first.
            self._writer.close()
        state: State = "failed" if isinstance(error, Exception) else "interrupted"
        # A disk that is full cannot take the record either; the error itself is shown.
        with contextlib.suppress(OSError, LauncherError):
            self._end(state, in_one_line(error))

    def _end(self, state: State, error: str | None, hurried: Callable[[], bool] = lambda: False) -> None:
        self._bar.stop()
        self._note_saved()
        self._publishing.saved(self._writer.saved)
        # To a tracker, a pruned run is one that will not go on.
        done = state in {"finished", "pruned"}
        self._publishing.end(finished=done)
        ended: Ended = "finished" if done else "failed" if state == "failed" else "interrupted"
        self._trackers.finish(ended, {**self.record.metrics, "step": self.record.step}, hurried)
        self.record.state = state
        self.record.error = error
        self.record.seconds += time.monotonic() - self._since
        self._write_record()

    def _note_saved(self) -> None:
        if self._writer.saved is not None:
            self.record.step = self._writer.saved

    def _write_record(self) -> None:
        # What a tracker says of itself is known some time after its start.
        self.record.trackers.update(self._trackers.facts())
        try:
            self.record.write(self.plan.directory.path, self.lease.aside())
        except OSError as error:
            self.lease.aside()  # A write that a newer start made impossible says so.
            raise disk_error(error, self.plan.directory.record) from error

    def _needed(self) -> set[int]:
        """Steps that some run branched from, or whose checkpoints are on their way to a tracker."""
        return branched_steps(Path(self.plan.config.paths.outputs), self.plan.id) | self._publishing.under_way

    def _about(self, progress: Progress) -> About:
        assert self._trained is not None
        return About(
            step=progress.step,
            absolute_step=progress.absolute_step,
            run=self.plan.id,
            parent=asdict(self.record.parent) if self.record.parent else None,
            config=plain(self.plan.config),
            data_fingerprint=self._trained.fingerprint(),
            environment=self.record.environment,
            metrics=dict(self.record.metrics),
            progress={
                **progress.state_dict(),
                "end_step": self.plan.end_step,
                "horizon_steps": self.plan.horizon_steps,
                "schedule_step": self._trained.schedule_step,
            },
        )

    def _identity(self, resumed: bool) -> RunIdentity:
        told, point = identity_of(self.plan), self.plan.point
        trunk = point.run.directory if point is not None and point.run is not None else None
        return replace(
            told,
            # What launches a sibling hands it the group as a setting; its record says where it came from.
            group_source=self.record.group_source if self.plan.kind == "branch" else told.group_source,
            resumed=resumed,
            known=dict(self.record.trackers),
            last_logged_step=self._trackers.metrics.last_step,
            trunk=self._trunk_values(),
            forks_at=self._forks_at(),
            input=input_of(self.record.parent, trunk),
        )

    def _trunk_values(self) -> TrunkValues | None:
        point = self.plan.point
        if point is None or point.run is None:
            return None
        metrics = point.run.directory.metrics
        return TrunkValues(metrics, point.manifest.step, self.record.start_step)

    def _forks_at(self) -> tuple[str, int, int] | None:
        parent = self.record.parent
        if parent is None or parent.run is None:
            return None
        return parent.run, parent.step, self.record.start_step
