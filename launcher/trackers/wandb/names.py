"""What a run is called in W&B: which source wins, and how names that W&B refuses are made legal."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.files import read_json_object, write_json
from launcher.trackers.base import RunIdentity

DEFAULT_PROJECT = "checkpoint-branching"
RUN_ID = "run id"
"""What the launcher itself calls the run, as the source of a name."""
LONGEST_TAG = 64
"""The client refuses longer ones at init, and the run with them."""
LONGEST_NAME = 128
"""Limit of an id, a name, a group and a job type."""

_TOLD = "wandb/told.json"

_ILLEGAL_IN_ID = re.compile(r"[^A-Za-z0-9._+-]")


@dataclass(frozen=True)
class Described:
    """Who a run is, as ``wandb.init`` is told."""

    arguments: dict[str, Any]
    sources: dict[str, str]
    """Argument to where its value came from."""
    changed: dict[str, str]
    """What W&B would refuse, and what stands for it there."""


def described(identity: RunIdentity, environment: Mapping[str, str]) -> Described:
    """Who a run is in W&B.

    What is set in the config wins over W&B's environment variables, and those over what the launcher derives.
    Tags are put together from all three. The group comes resolved already. The id is the run's own, so that
    a requeued job finds itself again. Only what an agent of a W&B sweep started has the id that the agent was
    given: the sweep knows it by no other.
    """
    sources: dict[str, str] = {}

    def chosen(
        key: str, variable: str, configured: str | None, otherwise: tuple[str | None, str]
    ) -> str | None:
        by_environment = environment.get(variable, "").strip()
        options = [(configured, f"tracking.{key}"), (by_environment, variable), otherwise]
        value, source = next(((value, source) for value, source in options if value), (None, "nothing"))
        sources[key] = source
        return value

    run_id, sources["id"] = _id(identity, environment)
    told = {
        "id": run_id,
        "name": chosen("name", "WANDB_NAME", None, (identity.name, RUN_ID)),
        "group": identity.group,
        "job_type": chosen("job_type", "WANDB_JOB_TYPE", None, (identity.job_type, "factors")),
        "notes": chosen("notes", "WANDB_NOTES", identity.notes, (None, "")),
        "project": chosen("project", "WANDB_PROJECT", identity.project, (DEFAULT_PROJECT, "default")),
        "entity": chosen("entity", "WANDB_ENTITY", identity.entity, (None, "")),
    }
    sources["group"] = identity.group_source or "nothing"
    sources["notes"] = sources["notes"].replace("tracking.", "branch.")
    more = [tag.strip() for tag in environment.get("WANDB_TAGS", "").split(",")]
    tags = [tag for tag in (*identity.tags, *more) if tag]
    sources["tags"] = "factors and config" + (" and WANDB_TAGS" if any(more) else "")
    changed = {identity.id: run_id} if run_id != identity.id and sources["id"] == RUN_ID else {}
    for key, longest in (("name", LONGEST_NAME), ("group", LONGEST_NAME), ("job_type", LONGEST_NAME)):
        told[key] = _fitting(told[key], longest, changed)
    legal_tags = [_fitting(tag, LONGEST_TAG, changed) for tag in tags]
    arguments = {**told, "tags": list(dict.fromkeys(legal_tags)), "config": dict(identity.config)}
    return Described(arguments, {key: value for key, value in sources.items() if value}, changed)


def note_told(directory: Path, arguments: Mapping[str, Any]) -> None:
    """Keep what ``wandb.init`` is told in a run's directory: where it fails, ``launcher sync`` needs it."""
    with contextlib.suppress(OSError, TypeError, ValueError):
        (directory / _TOLD).parent.mkdir(parents=True, exist_ok=True)
        write_json(directory / _TOLD, dict(arguments))


def told_of(directory: Path) -> dict[str, Any]:
    """What ``wandb.init`` was told about the run in a directory; empty if it never was."""
    with contextlib.suppress(OSError, ValueError):
        return read_json_object(directory / _TOLD)
    return {}


def _id(identity: RunIdentity, environment: Mapping[str, str]) -> tuple[str, str]:
    """The id, and where it comes from; the same at every start of the run."""
    settings = identity.known.get("wandb_settings") or {}
    if "id" in settings:
        return settings["id"], settings.get("sources", {}).get("id", RUN_ID)
    given = environment.get("WANDB_RUN_ID")
    if given and environment.get("WANDB_SWEEP_ID") and identity.alone:
        return given, "WANDB_RUN_ID"
    return legal_id(identity.id), RUN_ID


def _fitting(text: str | None, longest: int, changed: dict[str, str]) -> str | None:
    if text is None:
        return None
    made = shortened(text, longest)
    if made != text:
        changed[text] = made
    return made


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
