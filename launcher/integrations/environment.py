"""W&B's environment, for what another library logs there itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from launcher.lineage import RunRecord
from launcher.trackers.wandb.names import legal_id


@contextlib.contextmanager
def told_wandb(record: RunRecord) -> Iterator[None]:
    """W&B's environment says which run this is, for as long as Lightning's ``WandbLogger`` may start one."""
    tags = [*record.tags, *filter(None, os.environ.get("WANDB_TAGS", "").split(","))]
    told = {
        "WANDB_RUN_GROUP": record.group,
        "WANDB_JOB_TYPE": os.environ.get("WANDB_JOB_TYPE") or record.job_type,
        "WANDB_NAME": os.environ.get("WANDB_NAME") or record.id,
        "WANDB_NOTES": os.environ.get("WANDB_NOTES") or record.notes,
        "WANDB_TAGS": ",".join(dict.fromkeys(tags)),
        "WANDB_RUN_ID": legal_id(record.id),
        "WANDB_RESUME": "allow",
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update({name: value for name, value in told.items() if value})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
