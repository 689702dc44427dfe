"""Weights & Biases, by its real client; the only file that imports wandb, and only when a run starts."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from launcher.config import WandbConfig
from launcher.errors import ConfigError
from launcher.trackers.base import RunIdentity, State
from launcher.validation import CHOICES

if TYPE_CHECKING:
    import wandb

log = logging.getLogger("launcher.trackers")

DEFAULT_PROJECT = "checkpoint-branching"
LONGEST_TAG = 64
"""The client refuses longer ones at init, and the run with them."""
LONGEST_NAME = 128
"""Limit of an id, a name, a group and a job type."""
INIT_SECONDS = 60.0
"""How long the client may look for its server."""
UPLOAD_SECONDS = 100.0
"""How long the client may upload at the end; what is left stays on disk for ``wandb sync``."""
_KILL_SECONDS = 2.0

_ILLEGAL_IN_ID = re.compile(r"[^A-Za-z0-9._+-]")


class WandbTracker:
    """One run in W&B, under the run's own id, so that a resumed run goes on there as well.

    A chart's x-axis is ``global_step``. It is also given as W&B's own step, which must only grow: what
    the metrics file had before this process started is never sent again.
    """

    name = "wandb"

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
        self._last_step: int | None = None

    def start(self, identity: RunIdentity) -> str | None:
        """Begin or go on with the run; returns its page, or the directory that ``wandb sync`` takes."""
        asked = _asked(self._config.mode)
        if asked == "disabled":
            return None
        with _service_kept_from_children():
            # Before anything else: the client prints greetings until it is told not to.
            import wandb

            library = wandb.setup(settings=wandb.Settings(silent=True))
            mode = _possible(asked, library.settings.base_url)
            self._last_step = identity.last_logged_step
            self._run = run = wandb.init(
                **_described(identity),
                dir=identity.directory,
                mode=mode,
                resume="allow",
                reinit="finish_previous",
                allow_val_change=True,
                settings=self._settings(wandb),
            )
            run.define_metric("global_step")
            run.define_metric("*", step_metric="global_step")
        return run.url if mode == "online" else str(run.settings.sync_dir)

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

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one step's numbers, unless an earlier process of this run did."""
        if self._run is None or (self._last_step is not None and step <= self._last_step):
            return
        self._run.log({**metrics, "global_step": step}, step=step)
        self._last_step = step

    def finish(self, state: State, summary: Mapping[str, Any]) -> None:
        """Upload what is left; an interrupted run is marked as one that comes back."""
        if self._run is None:
            return
        with _service_kept_from_children():
            self._run.summary.update(dict(summary))
            if state == "interrupted":
                self._run.mark_preempting()
            self._run.finish(exit_code=0 if state == "finished" else 1)
        self._run = None

    def abandon(self) -> None:
        """Kill the client's service: at exit the client would wait for it without a limit.

        A later run in this process, such as the next sibling, gets a new one.
        """
        self._run = None
        with _service_kept_from_children():
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


def _described(identity: RunIdentity) -> dict[str, Any]:
    """The arguments of ``wandb.init`` that say who the run is."""
    shown = {
        "id": legal_id(identity.id),
        "name": shortened(identity.name, LONGEST_NAME),
        "group": identity.group and shortened(identity.group, LONGEST_NAME),
        "job_type": identity.job_type and shortened(identity.job_type, LONGEST_NAME),
    }
    tags = {tag: shortened(tag, LONGEST_TAG) for tag in identity.tags if tag}
    changes = [(getattr(identity, key), value) for key, value in shown.items()] + list(tags.items())
    changed = [f"{given!r} is {value!r} there" for given, value in changes if given != value]
    if changed:
        log.info("wandb does not take every name: %s.", "; ".join(changed))
    return {
        **shown,
        "tags": list(dict.fromkeys(tags.values())),
        "notes": identity.notes,
        "config": dict(identity.config),
        "project": identity.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
        "entity": identity.entity or os.environ.get("WANDB_ENTITY") or None,
    }


def legal_id(text: str) -> str:
    """``text`` as a run id that W&B takes: equal texts give equal ids, different ones different ids."""
    legal = _ILLEGAL_IN_ID.sub("-", text)
    return legal if legal == text and 0 < len(text) <= LONGEST_NAME else _marked(legal, text, LONGEST_NAME)


def shortened(text: str, longest: int) -> str:
    """``text``, or its beginning and a hash of it where it has more than ``longest`` characters."""
    return text if len(text) <= longest else _marked(text, text, longest)


def _marked(text: str, original: str, longest: int) -> str:
    mark = hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[: longest - len(mark) - 1]}-{mark}"


def _asked(configured: str) -> str:
    """The mode from the config, or of ``auto`` the one from the environment."""
    found = configured if configured != "auto" else os.environ.get("WANDB_MODE", "").strip() or "auto"
    asked = {"run": "online", "dryrun": "offline"}.get(found, found)
    if asked not in CHOICES["tracker.wandb.mode"]:
        expected = "online | offline | disabled"
        raise ConfigError("WANDB_MODE has no such value.", found=f"WANDB_MODE={found}", expected=expected)
    return asked


def _possible(asked: str, host: str) -> Literal["online", "offline"]:
    if asked == "offline":
        return "offline"
    if _has_key(host):
        return "online"
    if asked == "online":
        # With a terminal the client would ask for a key and wait for an answer.
        raise ConfigError("wandb has no API key.", do="set WANDB_API_KEY, or run `wandb login`")
    log.info("wandb has no API key: logging offline (`wandb sync` uploads later).")
    return "offline"


def _has_key(host: str) -> bool:
    """Whether the client would find a key: environment, netrc file, or its settings file."""
    from wandb.sdk.lib import wbauth

    found = wbauth.authenticate_session(
        host=host, source="launcher", prompt=False, update_session=False, no_create=True
    )
    return found is not None


@contextlib.contextmanager
def _service_kept_from_children() -> Iterator[None]:
    """No trace of the client's service in the environment: a child using it dies with its parent's."""
    os.environ.pop("WANDB_SERVICE", None)
    try:
        yield
    finally:
        os.environ.pop("WANDB_SERVICE", None)
