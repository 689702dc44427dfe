"""Everything that a run leaves behind while it goes on: record, metrics, trackers, checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from omegaconf import OmegaConf

from launcher.branch.metadata import comparison, tags, tracker_config
from launcher.branch.plan import Plan
from launcher.checkpoint.manifest import About
from launcher.checkpoint.writer import CheckpointWriter
from launcher.differences import plain
from launcher.errors import ConfigError, LauncherError
from launcher.files import disk_error, only_process, write_text
from launcher.findings import Finding
from launcher.lineage import Origin, Parent, RunRecord, Start, State, branched_steps, read_run
from launcher.report.progress_bar import ProgressBar
from launcher.trackers.base import RunIdentity
from launcher.trackers.metrics_file import MetricsFile
from launcher.trackers.trackers import Trackers, trackers_of
from launcher.training.progress import Progress
from launcher.training.trainer import Trainer


class Recording:
    """The hooks of the training loop. Entered, it owns the run's directory; left, everything is on disk.

    Leaving it with an exception marks the run as failed, or as interrupted if someone pressed Ctrl-C
    twice; what was saved before stays.
    """

    def __init__(self, plan: Plan, findings: list[Finding], environment: dict[str, Any]) -> None:
        self.plan = plan
        self.record = _record(plan, findings, environment)
        self._trainer: Trainer | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Recording:
        try:
            self._open()
        except BaseException:
            self._held.close()
            raise
        return self

    def _open(self) -> None:
        directory = self.plan.directory
        try:
            directory.checkpoints.mkdir(parents=True, exist_ok=True)
            if not self._held.enter_context(only_process(directory.lock)):
                raise self._trained_elsewhere()
            write_text(directory.config, OmegaConf.to_yaml(OmegaConf.create(plain(self.plan.config))))
            self.record.write(directory.path)
        except OSError as error:
            raise disk_error(error, directory.path) from error
        self._trackers = Trackers(MetricsFile(directory.metrics), trackers_of(self.plan.config.tracker))
        self._writer = CheckpointWriter(
            directory.checkpoints, self.plan.config.checkpoint, self._branched_from
        )
        self._bar = ProgressBar(self.plan.id, self.plan.end_step)

    def start(self, trainer: Trainer, origin: Origin) -> None:
        """The live objects are ready: tell the record and the trackers."""
        self._trainer = trainer
        step = trainer.live.progress.step
        self.record.starts.append(Start.now(origin, step))
        self.record.step = step
        self._trackers.start(self._identity(resumed=origin == "own checkpoint"))
        self.record.trackers = dict(self._trackers.links)
        self._write_record()
        self._bar.start(step)

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
        self._bar.show(numbers)

    def save(self) -> None:
        """A checkpoint of the present state, written beside the training."""
        assert self._trainer is not None
        progress = self._trainer.live.progress
        self._trackers.sync()
        self._writer.save(self._trainer.state_dict(), self._about(progress))
        self._note_saved()
        self._write_record()

    def after_step(self) -> None:
        """Fail the run if a write failed meanwhile."""
        assert self._trainer is not None
        self._writer.check()
        step = self._trainer.live.progress.step
        if step == self.record.starts[-1].step + 1:
            self._writer.reserve(self._trainer.state_dict())
        self._bar.advance(step)

    def finish(self, state: State) -> None:
        """The loop is over: everything onto the disk, then say so in the record."""
        assert self._trainer is not None
        self._writer.close()
        self._writer.check()
        self._end(state, None)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        with self._held:
            if error is not None:
                self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, LauncherError) and error.where is None:
            error.where = str(self.plan.directory.path)
        with contextlib.suppress(LauncherError):  # The error that is already on its way came first.
            self._writer.close()
        state: State = "failed" if isinstance(error, Exception) else "interrupted"
        # A disk that is full cannot take the record either; the error itself is shown.
        with contextlib.suppress(OSError, LauncherError):
            self._end(state, (str(error) or type(error).__name__).splitlines()[0])

    def _trained_elsewhere(self) -> ConfigError:
        last = self.record.starts[-1] if self.record.starts else None
        return ConfigError(
            f"Another process is training {self.plan.id}.",
            where=str(self.plan.directory.path),
            found=f"process {last.pid} on {last.host}, since {last.time}"
            if last
            else "a process that starts",
            expected="one process a run",
            do="let it finish, or stop it and give this command again",
        )

    def _end(self, state: State, error: str | None) -> None:
        self._bar.stop()
        self._note_saved()
        ended = "interrupted" if state == "running" else state
        self._trackers.finish(ended, {**self.record.metrics, "step": self.record.step})
        self.record.state = state
        self.record.error = error
        self.record.trackers.update({f"{k}_dropped": v for k, v in self._trackers.dropped.items()})
        self._write_record()

    def _note_saved(self) -> None:
        if self._writer.saved is not None:
            self.record.step = self._writer.saved

    def _write_record(self) -> None:
        try:
            self.record.write(self.plan.directory.path)
        except OSError as error:
            raise disk_error(error, self.plan.directory.record) from error

    def _branched_from(self) -> set[int]:
        return branched_steps(Path(self.plan.config.paths.outputs), self.plan.id)

    def _about(self, progress: Progress) -> About:
        assert self._trainer is not None
        return About(
            step=progress.step,
            absolute_step=progress.absolute_step,
            run=self.plan.id,
            parent=asdict(self.record.parent) if self.record.parent else None,
            config=plain(self.plan.config),
            data_fingerprint=self._trainer.task.fingerprint(),
            environment=self.record.environment,
            metrics=dict(self.record.metrics),
            progress={
                **progress.state_dict(),
                "end_step": self.plan.end_step,
                "horizon_steps": self.plan.horizon_steps,
                "schedule_step": self._trainer.live.scheduler.last_epoch,
            },
        )

    def _identity(self, resumed: bool) -> RunIdentity:
        tracking = self.plan.config.tracking
        return RunIdentity(
            id=self.plan.id,
            name=self.plan.id,
            group=self.plan.tracker_group,
            job_type=self.plan.job_type,
            directory=self.plan.directory.path,
            project=tracking.project,
            entity=tracking.entity,
            tags=tags(self.plan),
            notes=self.plan.config.branch.notes,
            config=tracker_config(self.plan),
            resumed=resumed,
            last_logged_step=self._trackers.metrics.last_step,
        )


def _record(plan: Plan, findings: list[Finding], environment: dict[str, Any]) -> RunRecord:
    """The record that is there, going on; or a new one."""
    if plan.directory.record.is_file():
        record = read_run(plan.directory.path).record
        record.state, record.error = "running", None
        return record
    parent = None
    if plan.point is not None:
        manifest = plan.point.manifest
        parent = Parent(
            run=manifest.about.run,
            checkpoint=str(plan.point.checkpoint),
            step=manifest.step,
            absolute_step=manifest.about.absolute_step,
            sha256=manifest.sha256,
            metrics=dict(manifest.about.metrics),
        )
    return RunRecord(
        id=plan.id,
        kind=plan.kind,
        state="running",
        group=plan.group,
        group_source=plan.group_source,
        job_type=plan.job_type,
        branch_type=plan.branch_type,
        signature=plan.signature,
        request=plan.request,
        step=plan.start.step,
        start_step=plan.start.step,
        end_step=plan.end_step,
        horizon_steps=plan.horizon_steps,
        parent=parent,
        compare_to=comparison(plan),
        overrides=list(plan.declared.overrides),
        declared={key: _plain(value) for key, value in plan.declared.values.items()},
        differences={key: [left, right] for key, (left, right) in plan.differences.items()},
        findings=[finding.to_json() for finding in findings],
        environment=environment,
        notes=plan.config.branch.notes,
        tags=list(tags(plan)),
    )


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | list | dict) or value is None else str(value)
