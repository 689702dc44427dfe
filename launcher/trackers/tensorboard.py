"""TensorBoard's event files; the only file that imports tensorboard, and only when a run starts."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.config import TensorboardConfig
from launcher.differences import compared
from launcher.trackers.base import RunIdentity, State
from launcher.trackers.mirror import missing

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.summary.writer.record_writer import RecordWriter

_FILES = "events.out.tfevents.*"
_NOT_SHOWN = (
    "branched_from_checkpoint", "branched_from_sha256", "branched_from_format", "branched_from_metrics",
    "branch_unavailable",
)  # fmt: skip
"""Metadata too long for a column, or one column a metric, and equal for all siblings."""


class TensorboardTracker:
    """Event files in the run's own directory, so that TensorBoard calls the run by that directory's name.

    ``tensorboard --logdir <group>`` shows the siblings, the directory of all runs every group. Each process
    of a run adds a file. It is written by this class alone, without a thread: an error of the disk is
    raised where it happens.
    """

    name = "tensorboard"

    def __init__(self, config: TensorboardConfig) -> None:
        self._config = config
        self._writer: RecordWriter | None = None
        self._last_step: int | None = None
        self._flushed = 0.0
        self.held = 0
        """How many steps are written and not flushed yet."""

    def start(self, identity: RunIdentity) -> str | None:
        """Begin a file, and put into it what earlier processes logged and the files before lack."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        files = sorted(identity.directory.glob(_FILES))
        there = _steps(files)
        lacking = missing(identity, there)
        if lacking and there and lacking[0][0] < max(there):
            # TensorBoard takes a smaller step after a larger one for a restart and hides what lies between.
            for file in files:
                file.unlink()
            files, lacking = [], missing(identity, ())
        self._last_step = identity.last_logged_step
        self._writer = RecordWriter(_next_file(identity.directory, files).open("xb"))
        self._write(file_version="brain.Event:2")
        self._write(summary=_session_start(identity))
        for step, metrics in lacking:
            self._scalars(step, metrics)
        self._flush()
        return str(identity.directory)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one step's numbers, unless an earlier process of this run did."""
        if self._writer is None or (self._last_step is not None and step <= self._last_step):
            return
        self._scalars(step, metrics)
        self._last_step = step
        if time.monotonic() - self._flushed >= self._config.flush_seconds:
            self._flush()

    def finish(self, state: State, summary: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Say how it ended, for the HParams tab, and close the file. It has no place for a summary."""
        if self._writer is None:
            return
        self._write(summary=_session_end(state))
        self._writer.close()
        self._writer = None

    def abandon(self) -> None:
        """Close the file, with what it has."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.held += 1
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()]
        self._write(step=step, summary=Summary(value=values))

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        assert self._writer is not None
        self._writer.write(Event(wall_time=time.time(), **event).SerializeToString())

    def _flush(self) -> None:
        assert self._writer is not None
        self._writer.flush()
        self._flushed = time.monotonic()
        self.held = 0


def hyperparameters(config: Mapping[str, Any]) -> dict[str, float | str | bool]:
    """What the HParams tab compares: everything that decides what is computed, and the branch point."""
    flat = {key: value for key, value in compared(config).items() if key.split(".")[0] not in _NOT_SHOWN}
    return {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in flat.items()
        if value is not None
    }


def _next_file(directory: Path, files: list[Path]) -> Path:
    """A new file's name; TensorBoard reads a run's files in the order of the number in their names."""
    earlier = [int(text) for file in files if (text := file.name.split(".")[3]).isdecimal()]
    number = max([int(time.time()), *(each + 1 for each in earlier)])
    return directory / f"events.out.tfevents.{number:010d}.{socket.gethostname()}.{os.getpid()}"


def _steps(files: list[Path]) -> set[int]:
    """The steps that event files have scalars of, without a torn last record."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    events = (Event.FromString(record) for file in files for record in RawEventFileLoader(str(file)).Load())
    return {
        event.step
        for event in events
        if any(not value.metadata.plugin_data.plugin_name for value in event.summary.value)
    }


def _session_start(identity: RunIdentity) -> Summary:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    session = SessionStartInfo(group_name=identity.name, start_time_secs=time.time())
    for key, value in hyperparameters(identity.config).items():
        kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
        setattr(session.hparams[key], f"{kind}_value", value)
    return _of_hparams(
        "_hparams_/session_start_info", HParamsPluginData(version=0, session_start_info=session)
    )


def _session_end(state: State) -> Summary:
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    shown = {"finished": "STATUS_SUCCESS", "failed": "STATUS_FAILURE", "interrupted": "STATUS_RUNNING"}[state]
    session = SessionEndInfo(status=Status.Value(shown), end_time_secs=time.time())
    return _of_hparams("_hparams_/session_end_info", HParamsPluginData(version=0, session_end_info=session))


def _of_hparams(tag: str, content: HParamsPluginData) -> Summary:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])
