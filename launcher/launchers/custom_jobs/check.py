"""Whether Vertex AI can run what the settings ask for; found out before anything is submitted."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence

from launcher.config import FanoutConfig
from launcher.errors import ConfigError, LauncherError
from launcher.launchers.custom_jobs.inside import JOB_VARIABLE
from launcher.launchers.custom_jobs.spec import (
    MOUNT,
    Settings,
    bucket_of,
    job_outputs,
    planned_jobs,
    point_of,
    shares_outputs,
)
from launcher.launchers.custom_jobs.states import JOB_LABEL, VertexError, custom_jobs
from launcher.launchers.sibling import Sibling

log = logging.getLogger("launcher.launchers.vertex")
LONGEST_ARGUMENTS = 100_000
"""Characters of all arguments of a job."""
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")


def parent(settings: Settings) -> str:
    """``projects/PROJECT/locations/REGION``.

    Raises:
        ConfigError: no project is named anywhere, or the package is missing.
        VertexError: there are no credentials.
    """
    project = settings.get("project") or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        custom_jobs()
        from launcher.launchers.custom_jobs.client import default_project

        project = default_project()
    if not project:
        raise ConfigError(
            "No project of Google Cloud is named.",
            expected="hydra.launcher.project, GOOGLE_CLOUD_PROJECT, or credentials that belong to one",
            do="hydra.launcher.project=PROJECT",
        )
    return f"projects/{project}/locations/{settings['region']}"


def check_settings(settings: Settings, siblings: Sequence[Sibling]) -> list[LauncherError]:
    """Everything that is wrong with these settings for these siblings; a refusal of Google's too."""
    wrong: list[LauncherError] = [*_own(settings, siblings)]
    try:
        jobs = custom_jobs()
        where = parent(settings)
        wrong += _of_the_api(settings, siblings)
        # What would be refused anyway is not asked about.
        if not wrong:
            jobs(where).labelled(JOB_LABEL, "none")
            wrong += _of_the_bucket(settings, siblings)
    except LauncherError as error:
        wrong.append(error)
    return wrong


def _own(settings: Settings, siblings: Sequence[Sibling]) -> Iterator[ConfigError]:
    if not settings.get("image"):
        yield ConfigError(
            "There is no image for the jobs to run.",
            where="hydra.launcher.image",
            expected="an image with this project: REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME@sha256:…",
            do="make image, push it, and name it: hydra.launcher.image=…",
        )
    if not _REGION.fullmatch(str(settings["region"])):
        yield ConfigError(
            "That is no region of Google Cloud.",
            where="hydra.launcher.region",
            found=str(settings["region"]),
            expected="one like us-central1",
        )
    for name in ("siblings_per_job", "accelerator_count"):
        if int(settings[name]) < 1:
            yield ConfigError(
                f"hydra.launcher.{name} is out of range.", found=str(settings[name]), expected="at least 1"
            )
    yield from _places(settings, siblings)
    yield from _processes(settings, siblings)
    yield from _words("labels", settings.get("labels") or {})
    yield from _words("env", settings.get("env") or {})


def _places(settings: Settings, siblings: Sequence[Sibling]) -> Iterator[ConfigError]:
    """Where jobs find their branch point, and leave what they make."""
    launches = [one.launch for one in siblings if one.launch is not None]
    outputs = {launch.config["paths"]["outputs"] for launch in launches}
    lost = sorted(place for place in outputs if job_outputs(settings, place) is None)
    if lost:
        yield ConfigError(
            "What the jobs make would end with them.",
            where="paths.outputs",
            found=", ".join(lost),
            expected=f"a directory that outlives a job: {MOUNT}BUCKET/…, or one of hydra.launcher.nfs_mounts",
            do=[
                "hydra.launcher.staging_bucket=gs://BUCKET",
                "or hydra.launcher.outputs=DIRECTORY_IN_THE_JOB",
            ],
        )
        return
    for launch in launches:
        point = point_of(launch, settings)
        if point is None or point[0] is not None:
            continue
        path = str(launch.config["fanout"]["point"]).rpartition("@")[0]
        shared = shares_outputs(settings, launch.config["paths"]["outputs"])
        yield ConfigError(
            "No job can see the branch point: it lies on this machine.",
            where="branch",
            found=path,
            expected="a checkpoint in a cloud: gs://, wandb://, s3://, https://"
            + (f", or in {launch.config['paths']['outputs']}" if shared else ""),
            do=[
                f"gcloud storage cp {path} {path.removesuffix('.pt')}.json gs://BUCKET/checkpoints/",
                "then: branch.from_checkpoint=gs://BUCKET/checkpoints/" + path.rpartition("/")[2],
            ],
        )
        return


def _processes(settings: Settings, siblings: Sequence[Sibling]) -> Iterator[ConfigError]:
    most = max((one.nproc for one in siblings), default=1)
    if settings.get("accelerator_type") and most > int(settings["accelerator_count"]):
        yield ConfigError(
            f"A sibling of {most} processes does not fit on the job's GPUs.",
            where="launch.nproc",
            found=f"hydra.launcher.accelerator_count={settings['accelerator_count']}",
            do=f"hydra.launcher.accelerator_count={most}",
        )

    if most > 1 and int(settings["siblings_per_job"]) > 1:
        yield ConfigError(
            "Siblings of several processes do not share a job.",
            where="hydra.launcher.siblings_per_job",
            found=f"launch.nproc={most}",
            do="hydra.launcher.siblings_per_job=1",
        )


def _words(name: str, given: Mapping[str, object]) -> Iterator[ConfigError]:
    """Labels and variables as Google takes them."""
    ours = "launcher-" if name == "labels" else JOB_VARIABLE
    for key, value in given.items():
        key_ok = (_LABEL_KEY if name == "labels" else _VARIABLE).fullmatch(str(key))
        value_ok = name != "labels" or _LABEL_VALUE.fullmatch(str(value))
        if key_ok and value_ok and not str(key).startswith(ours):
            continue
        legal = "lowercase letters, digits, - and _; 63 at most; a key begins with a letter"
        yield ConfigError(
            f"hydra.launcher.{name} has what Google Cloud does not take, or what is the launcher's own.",
            where=f"hydra.launcher.{name}.{key}",
            found=f"{key}={value}" if name == "labels" else str(key),
            expected=f"{legal}; not {ours}…" if name == "labels" else f"a variable's name; not {ours}",
        )


def _of_the_api(settings: Settings, siblings: Sequence[Sibling]) -> Iterator[ConfigError]:
    """What Google's own schema says of the jobs."""
    from launcher.launchers.custom_jobs.client import accelerators, check_job

    wanted, there = settings.get("accelerator_type"), accelerators()
    if wanted and wanted not in there:
        yield ConfigError(
            "Vertex AI has no such accelerator.",
            where="hydra.launcher.accelerator_type",
            found=str(wanted),
            expected=", ".join(there),
        )
        return
    if not settings.get("image"):
        return
    for job in planned_jobs(siblings, settings, FanoutConfig()):
        spec = job.submitted_as("none")
        try:
            check_job(spec)
        except ConfigError as error:
            yield error
            return  # The others have the same settings.
        said = sum(map(len, spec["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"]))
        if said > LONGEST_ARGUMENTS:
            yield ConfigError(
                "A job would be told too much.",
                where="hydra.launcher.siblings_per_job",
                found=f"{said} characters",
                expected=f"at most {LONGEST_ARGUMENTS}",
                do="fewer siblings in each job",
            )
            return


def _of_the_bucket(settings: Settings, siblings: Sequence[Sibling]) -> Iterator[LauncherError]:
    """Whether runs can live in the bucket: whoever takes a run over renames a directory."""
    from launcher.launchers.custom_jobs.client import hierarchical

    places = {
        job_outputs(settings, one.launch.config["paths"]["outputs"]) or "" for one in siblings if one.launch
    }
    for bucket in sorted({name for place in places if (name := bucket_of(place)) is not None}):
        try:
            able = hierarchical(bucket)
        except VertexError as error:
            yield error
            continue
        if able is None:
            log.warning(
                "gs://%s could not be looked at (storage.buckets.get): it needs a hierarchical namespace.",
                bucket,
            )
        elif not able:
            yield ConfigError(
                "Directories of this bucket cannot be renamed, which is how a run is taken over.",
                where=f"gs://{bucket}",
                found="a flat namespace",
                expected="a bucket with hierarchical namespace",
                do=[
                    f"gcloud storage buckets create gs://NAME --location={settings['region']} "
                    "--uniform-bucket-level-access --enable-hierarchical-namespace",
                    "or a file system of hydra.launcher.nfs_mounts",
                ],
            )
