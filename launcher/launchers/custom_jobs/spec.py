"""From siblings and settings to a CustomJob, as REST spells it. Nothing here asks anybody."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from launcher.config import FanoutConfig
from launcher.differences import override
from launcher.launchers.custom_jobs.inside import JOB_VARIABLE, SWEEPER
from launcher.launchers.custom_jobs.states import JOB_LABEL
from launcher.launchers.sibling import Launch, Sibling
from launcher.layout import SCRATCH

MOUNT = "/gcs/"
"""Where Vertex AI mounts every bucket that the job may read: ``/gcs/BUCKET``."""
CACHE = "/tmp/launcher-cache"
"""Where a job has what it fetches: its own disk, which ends with it."""
_FETCHED = re.compile(r"^(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|PWD|AUTH|CRED", re.IGNORECASE)
_REPLACED = frozenset({"paths.outputs", "paths.cache", "fanout.point", "fanout.source"})

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class PlannedJob:
    """A job that is to be submitted."""

    siblings: tuple[Sibling, ...]
    """One; or several, which the job runs with the pool."""
    spec: dict[str, Any]
    """The CustomJob, without what tells one submission from another."""

    def submitted_as(self, token: str) -> dict[str, Any]:
        """The CustomJob with its token."""
        spec = self.spec["jobSpec"]
        [pool] = spec["workerPoolSpecs"]
        container = {**pool["containerSpec"], "env": [*pool["containerSpec"]["env"], _variable(token)]}
        return {
            **self.spec,
            "labels": {**self.spec["labels"], JOB_LABEL: token},
            "jobSpec": {**spec, "workerPoolSpecs": [{**pool, "containerSpec": container}]},
        }


def planned_jobs(siblings: Sequence[Sibling], settings: Settings, fanout: FanoutConfig) -> list[PlannedJob]:
    """The jobs for these siblings, ``siblings_per_job`` in each."""
    size = max(1, int(settings.get("siblings_per_job") or 1))
    return [
        PlannedJob(tuple(part), _job(part, settings, fanout))
        for part in (siblings[at : at + size] for at in range(0, len(siblings), size))
    ]


def shown(job: PlannedJob) -> dict[str, Any]:
    """The job for people's eyes: without the values of secrets."""
    whole = job.submitted_as("(new with each submission)")
    for one in whole["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["env"]:
        if _SECRET.search(one["name"]):
            one["value"] = "(not shown)"
    return whole


def job_outputs(settings: Settings, outputs: str) -> str | None:
    """The directory of all runs as a job sees it; None where it would be lost with the job.

    Args:
        settings: the launcher's.
        outputs: ``paths.outputs``.
    """
    if settings.get("outputs"):
        return str(settings["outputs"]).rstrip("/")
    if outputs.startswith(MOUNT):
        return outputs.rstrip("/")
    if bucket := settings.get("staging_bucket"):
        return f"{MOUNT}{str(bucket).removeprefix('gs://').strip('/')}/{PurePosixPath(outputs).name}"
    return None


def shares_outputs(settings: Settings, outputs: str) -> bool:
    """Whether the job's directory of runs and the launching machine's are one."""
    return bool(settings.get("outputs")) or outputs.startswith(MOUNT)


def bucket_of(place: str) -> str | None:
    """The bucket that a path of a job lies in; None where it lies in none."""
    return place.removeprefix(MOUNT).partition("/")[0] if place.startswith(MOUNT) else None


def point_of(launch: Launch, settings: Settings) -> tuple[str | None, str] | None:
    """The branch point of a sibling: where a job finds it, and its content digest; None for no branch.

    The place is None where no job can see it.
    """
    fanout, branch, paths = (launch.config[name] for name in ("fanout", "branch", "paths"))
    handed = fanout.get("point")
    if handed is None or handed == SCRATCH:
        return None
    path, _, digest = handed.rpartition("@")
    source = fanout.get("source") or branch.get("from_checkpoint") or ""
    if _FETCHED.match(source):
        return source, digest
    if path.startswith(MOUNT):
        return path, digest
    if shares_outputs(settings, paths["outputs"]):
        outputs = PurePosixPath(launch.working_directory, paths["outputs"])
        there = job_outputs(settings, paths["outputs"])
        if PurePosixPath(path).is_relative_to(outputs):
            return f"{there}/{PurePosixPath(path).relative_to(outputs)}", digest
    return None, digest


def arguments(sibling: Sibling, settings: Settings) -> list[str]:
    """What the job's ``train.py`` is told to be this sibling: nothing that it would look for elsewhere."""
    launch = sibling.launch
    assert launch is not None
    outputs = job_outputs(settings, launch.config["paths"]["outputs"])
    own: dict[str, str | None] = {"paths.outputs": outputs, "paths.cache": CACHE}
    if (point := point_of(launch, settings)) is not None:
        own["branch.from_checkpoint"], own["branch.sha256"] = point
        if launch.config["branch"].get("from_run") is not None:
            own["branch.from_run"] = None
    elif launch.config["fanout"].get("point") == SCRATCH:
        own["fanout.point"] = SCRATCH
    own["fanout.signature"] = str(launch.config["fanout"]["signature"])
    gone = _REPLACED | set(own)
    kept = [one for one in sibling.overrides if one.partition("=")[0].lstrip("+") not in gone]
    return [*kept, *(override(key, value) for key, value in own.items())]


def _job(siblings: Sequence[Sibling], settings: Settings, fanout: FanoutConfig) -> dict[str, Any]:
    launch = siblings[0].launch
    assert launch is not None
    outputs = job_outputs(settings, launch.config["paths"]["outputs"]) or ""
    place = f"{outputs}/{siblings[0].directory.parent.name}"
    if len(siblings) == 1:
        place = f"{place}/{siblings[0].id}"
    spec: dict[str, Any] = {"workerPoolSpecs": [_pool(siblings, settings, fanout)]}
    if scheduling := _scheduling(settings):
        spec["scheduling"] = scheduling
    for name, key in (("service_account", "serviceAccount"), ("network", "network")):
        if settings.get(name):
            spec[key] = settings[name]
    if bucket_of(place) is not None:
        spec["baseOutputDirectory"] = {"outputUriPrefix": f"gs://{place.removeprefix(MOUNT)}"}
    name = siblings[0].id if len(siblings) == 1 else f"{siblings[0].directory.parent.name}, {len(siblings)}"
    return {
        "displayName": name[:128],
        "labels": {**_labels(siblings, settings), **dict(settings.get("labels") or {})},
        "jobSpec": _merged(spec, dict(settings.get("additional_parameters") or {})),
    }


def _pool(siblings: Sequence[Sibling], settings: Settings, fanout: FanoutConfig) -> dict[str, Any]:
    machine: dict[str, Any] = {"machineType": settings["machine_type"]}
    if settings.get("accelerator_type"):
        machine["acceleratorType"] = settings["accelerator_type"]
        machine["acceleratorCount"] = settings["accelerator_count"]
    pool: dict[str, Any] = {
        "machineSpec": machine,
        "replicaCount": 1,
        "containerSpec": {
            "imageUri": settings["image"],
            "command": list(settings["command"]),
            "args": _arguments(siblings, settings, fanout),
            "env": [
                {"name": str(name), "value": str(value)}
                for name, value in sorted(dict(settings.get("env") or {}).items())
            ],
        },
    }
    if settings.get("disk_gb"):
        pool["diskSpec"] = {"bootDiskSizeGb": settings["disk_gb"]}
    if settings.get("nfs_mounts"):
        pool["nfsMounts"] = [
            {"server": one["server"], "path": one["path"], "mountPoint": one["mount_point"]}
            for one in settings["nfs_mounts"]
        ]
    return pool


def _arguments(siblings: Sequence[Sibling], settings: Settings, fanout: FanoutConfig) -> list[str]:
    if len(siblings) == 1:
        return arguments(siblings[0], settings)
    launch = siblings[0].launch
    assert launch is not None
    said = ["-m", f"hydra/sweeper={SWEEPER}", "hydra/launcher=pool"]
    if fanout.max_parallel is not None:
        said.append(f"hydra.launcher.slots={min(fanout.max_parallel, len(siblings))}")
    # Relative to paths.outputs: what a sibling prints goes to the log in its directory.
    each = [
        [*arguments(one, settings), f"hydra.sweep.subdir={one.directory.parent.name}/{one.id}"]
        for one in siblings
    ]
    outputs = job_outputs(settings, launch.config["paths"]["outputs"])
    return [*said, override("paths.outputs", outputs), override("hydra.sweeper.siblings", each)]


def _scheduling(settings: Settings) -> dict[str, Any]:
    scheduling: dict[str, Any] = {}
    if settings.get("timeout_min"):
        scheduling["timeout"] = f"{int(settings['timeout_min']) * 60}s"
    if settings.get("spot"):
        scheduling["strategy"] = "SPOT"
    if not settings.get("retries", True):
        scheduling["disableRetries"] = True
    return scheduling


def _labels(siblings: Sequence[Sibling], settings: Settings) -> dict[str, str]:
    launch = siblings[0].launch
    assert launch is not None
    point = point_of(launch, settings)
    said = {
        "launcher-group": siblings[0].directory.parent.name,
        "launcher-fanout": launch.fanout,
        "launcher-siblings": str(len(siblings)),
        # Two siblings whose names are cut alike still differ in their signature.
        "launcher-sibling": siblings[0].id if len(siblings) == 1 else "",
        "launcher-signature": str(launch.config["fanout"]["signature"]) if len(siblings) == 1 else "",
        "launcher-digest": point[1] if point is not None else "",
    }
    return {key: label(value) for key, value in said.items() if value}


def label(text: str) -> str:
    """``text`` as Google's labels may have it: lowercase, digits, ``-`` and ``_``, 63 of them at most."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:63].strip("-")


def _merged(spec: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(spec)
    for key, value in more.items():
        there = merged.get(key)
        both = isinstance(there, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(there, value) if both else value  # type: ignore[arg-type]
    return merged


def _variable(token: str) -> dict[str, str]:
    return {"name": JOB_VARIABLE, "value": token}
