"""Checkpoints on their way into W&B, in a thread of their own: neither training nor a line of metrics waits.

One collection a run, ``model-RUN``, a version for each checkpoint. Nothing is copied on this machine: the
client is told that the files never change, and they are not removed before they are up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import ssl
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from launcher.files import read_json_object, write_json
from launcher.layout import RunDirectory, manifest_of
from launcher.trackers.base import KeptCheckpoint, RunIdentity, reason_of
from launcher.trackers.wandb.names import LONGEST_NAME, legal_id, shortened

if TYPE_CHECKING:
    import wandb

log = logging.getLogger("launcher.trackers")

KEEP_SECONDS = 1800
"""How long the upload of one checkpoint may take, and at a run's end all that are not up yet together."""
GONE_SECONDS = 60.0
"""How long a run's end waits for checkpoints while the server answers nothing, or 5xx only."""
LOOK_SECONDS = 5.0
"""How often it asks whether there is a server, and how long that may take."""
PAUSES = (2.0, 10.0, 30.0)
"""Seconds before each further try."""
TYPE = "model"
_NICENESS = 19


def collection_of(run_id: str) -> str:
    """The collection of a run's checkpoints."""
    return shortened(f"model-{legal_id(run_id)}", LONGEST_NAME)


def uploaded(directory: RunDirectory) -> dict[int, str]:
    """What is up already: step to ``entity/project/name:version``."""
    with contextlib.suppress(OSError, ValueError):
        return {int(step): str(name) for step, name in read_json_object(directory.artifacts).items()}
    return {}


class Uploads:
    """Feeds the client one checkpoint after the other."""

    def __init__(self, run: wandb.Run, identity: RunIdentity, online: bool) -> None:
        self._run, self._identity, self._online = run, identity, online
        self._waiting: queue.Queue[KeptCheckpoint | None] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="wandb uploads", daemon=True)
        self.failed: dict[int, str] = {}
        """Step to why it is not up."""
        self._under_way: set[int] = set()
        self._thread.start()

    def put(self, kept: KeptCheckpoint) -> None:
        """Have it uploaded some time soon."""
        self._under_way.add(kept.step)
        self._waiting.put(kept)

    def lacking(self) -> dict[str, str]:
        """Step to why it is not up, with those that are on their way still."""
        waiting = dict.fromkeys(self._under_way.copy(), "its upload did not end")
        return {str(step): why for step, why in sorted({**waiting, **self.failed}.items())}

    def finish(self) -> None:
        """Wait until everything is up or has failed, as long as there is a server.

        Raises:
            TimeoutError: there is none. The client would wait for it without a limit.
        """
        self._waiting.put(None)
        self._thread.join(LOOK_SECONDS)
        if not self._thread.is_alive():
            return
        log.info(
            "The run is finished. wandb is still taking its checkpoints (steps %s): up to %d min are waited, "
            "%g s where its server does not answer; Ctrl-C leaves them to `launcher sync`.",
            ", ".join(map(str, sorted(self._under_way))), KEEP_SECONDS / 60, GONE_SECONDS,
        )  # fmt: skip
        answered = time.monotonic()
        deadline = answered + KEEP_SECONDS
        while self._thread.is_alive() and not self._stop.is_set() and time.monotonic() < deadline:
            if _answers(self._run.settings.base_url):
                answered = time.monotonic()
            elif time.monotonic() - answered > GONE_SECONDS:
                self.stop()
                self.failed.update(dict.fromkeys(self._under_way, "its server does not answer"))
                raise TimeoutError(f"its server has not answered for {GONE_SECONDS:g} s")
            self._thread.join(LOOK_SECONDS)

    def stop(self) -> None:
        """Begin no further upload."""
        self._stop.set()
        self._waiting.put(None)

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Digests take processor time that training needs.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (kept := self._waiting.get()) is not None and not self._stop.is_set():
            self._upload(kept)

    def _upload(self, kept: KeptCheckpoint) -> None:
        name = None
        for pause in (*PAUSES, None):
            try:
                name = self._log(kept)
                break
            except Exception as error:
                if self._stop.is_set():  # It was broken off.
                    break
                reason = reason_of(error)
                if pause is None or self._stop.wait(pause):
                    self.failed[kept.step] = reason
                    break
        if name is not None:
            self._note(kept.step, name)
            self._under_way.discard(kept.step)
        elif not self._stop.is_set():
            log.warning(
                "wandb did not take the checkpoint of step %d (%s). It stays at %s, and `launcher sync` "
                "uploads it later; training goes on.",
                kept.step, self.failed[kept.step].removesuffix("."), kept.path,
            )  # fmt: skip
        kept.done()

    def _log(self, kept: KeptCheckpoint) -> str:
        """Log it; the version's name, or the collection's where nobody can say the version yet."""
        artifact = logged(self._run, self._identity.id, kept)
        return version_of(artifact) if self._online else collection_of(self._identity.id)

    def _note(self, step: int, name: str) -> None:
        note(RunDirectory(self._identity.directory), step, name)


def _answers(address: str) -> bool:
    """Whether there is a server that says anything but 5xx."""
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=LOOK_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except urllib.error.URLError as error:
        # A certificate that is not known here is the client's to judge.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, HTTPException):
        return False


def logged(run: wandb.Run, run_id: str, kept: KeptCheckpoint) -> wandb.Artifact:
    """Hand a checkpoint to the client, as a version of the collection of the run ``run_id``."""
    import wandb

    about = json.loads(manifest_of(kept.path).read_text(encoding="utf-8"))
    told = ("step", "absolute_step", "run", "sha256", "parent", "metrics")
    artifact = wandb.Artifact(collection_of(run_id), TYPE, metadata={key: about.get(key) for key in told})
    # Offline the client writes the path down as it is given, and `wandb sync` runs somewhere else.
    for path in (kept.path.resolve(), manifest_of(kept.path).resolve()):
        if kept.by == "reference":
            artifact.add_reference(path.as_uri())
        else:
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
    return run.log_artifact(artifact, aliases=list(kept.aliases))


def version_of(artifact: wandb.Artifact) -> str:
    """``entity/project/name:version`` of what was logged, once it is up."""
    artifact.wait(KEEP_SECONDS)
    return full_name(artifact)


def full_name(artifact: wandb.Artifact) -> str:
    """``entity/project/name:version``."""
    return f"{artifact.entity}/{artifact.project}/{artifact.source_name}"


def note(directory: RunDirectory, step: int, name: str) -> None:
    """Write down in a run's directory under which name a checkpoint is up."""
    there: dict[Any, str] = {**uploaded(directory), step: name}
    with contextlib.suppress(OSError):
        write_json(directory.artifacts, {str(key): there[key] for key in sorted(there)})
