"""A run of W&B that another library begins: the same run, told by W&B's own environment variables."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.trackers.base import RunIdentity
from launcher.trackers.wandb.mode import asked_mode, possible_mode
from launcher.trackers.wandb.names import described
from launcher.trackers.wandb.tracker import clients_environment, quiet_library


@contextlib.contextmanager
def their_run(identity: RunIdentity) -> Iterator[None]:
    """Whoever calls ``wandb.init`` within this goes on with, or begins, the run of ``identity``.

    Name, group, job type, tags and place come as environment variables, the config as a file that the
    client reads, because its variable for such files does not work. At the end the run is finished, so
    that the next one in this process is another; and the environment is as it was.
    """
    import wandb
    from wandb.sdk import wandb_setup

    before = dict(os.environ)
    told = described(identity, os.environ).arguments
    with tempfile.TemporaryDirectory(prefix="wandb-config-") as directory, clients_environment():
        config = Path(directory, "config.yaml")
        # JSON is YAML as well.
        config.write_text(json.dumps({key: {"value": one} for key, one in told["config"].items()}))
        os.environ.update(_environment(told, identity))
        # It would go by what it read when it was first used in this process, for an earlier sibling.
        wandb_setup.singleton()._settings = None
        wandb.setup(settings=wandb.Settings(config_paths=(str(config),)))
        try:
            yield
        except BaseException as error:
            _finish(stopped=not isinstance(error, Exception), status=1)
            raise
        else:
            _finish(stopped=False, status=0)
        finally:
            os.environ.clear()
            os.environ.update(before)


def _environment(told: Mapping[str, Any], identity: RunIdentity) -> dict[str, str]:
    mode = asked_mode("auto")
    if mode == "auto":
        mode = possible_mode(mode, quiet_library().settings.base_url)
    variables = {
        "WANDB_RUN_ID": told["id"],
        "WANDB_RESUME": "allow",
        "WANDB_NAME": told["name"],
        "WANDB_RUN_GROUP": told["group"],
        "WANDB_JOB_TYPE": told["job_type"],
        # The client takes a comma for the end of a tag.
        "WANDB_TAGS": ",".join(tag.replace(",", " ") for tag in told["tags"]),
        "WANDB_NOTES": told["notes"],
        "WANDB_PROJECT": told["project"],
        "WANDB_ENTITY": told["entity"],
        "WANDB_DIR": str(identity.directory),
        "WANDB_MODE": mode,
    }
    return {name: value for name, value in variables.items() if value}


def _finish(stopped: bool, status: int) -> None:
    import wandb

    if wandb.run is not None:
        if stopped:
            wandb.run.mark_preempting()  # It goes on later.
        wandb.finish(exit_code=status)
