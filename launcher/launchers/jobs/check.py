"""Whether SLURM can run what the launcher's settings ask for; if not, what there is instead."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from launcher.errors import ConfigError, LauncherError
from launcher.launchers.jobs.limits import NodeKind, Partition, accounts, largest_array, partitions, qualities
from launcher.launchers.jobs.queries import SlurmError, ask
from launcher.launchers.jobs.submit import Code, environment, options, script, world_size
from launcher.launchers.sibling import Sibling

Settings = Mapping[str, Any]


def check_settings(settings: Settings, siblings: Sequence[Sibling]) -> list[LauncherError]:
    """Everything that is wrong with these settings for these siblings; a cluster that does not answer too."""
    wrong: list[LauncherError] = list(_world(settings, siblings))
    try:
        chosen, missing = _chosen(settings, partitions())
        wrong += [*missing, *_limits(settings, chosen), *_quality(settings)]
        if not largest_array():
            wrong.append(
                ConfigError(
                    "This cluster takes no job arrays.",
                    found="MaxArraySize = 0",
                    do="take another hydra/launcher",
                )
            )
        return wrong or list(_refused(settings))
    except LauncherError as error:
        return [*wrong, error]


def _world(settings: Settings, siblings: Sequence[Sibling]) -> Iterable[ConfigError]:
    size = world_size(settings)
    for unlike in sorted({sibling.nproc for sibling in siblings} - {size}):
        yield ConfigError(
            "The jobs would have another number of processes than the siblings.",
            found=f"launch.nproc={unlike}, hydra.launcher.nodes x hydra.launcher.tasks_per_node = {size}",
            do=f"launch.nproc={size}, or other nodes and tasks_per_node",
        )


def _chosen(settings: Settings, there: Mapping[str, Partition]) -> tuple[list[Partition], list[ConfigError]]:
    """The partitions that a job may run in, and what is wrong with their names."""
    named = settings.get("partition") or os.environ.get("SBATCH_PARTITION")
    names = named.split(",") if named else [one.name for one in there.values() if one.default]
    listed = "; ".join(str(one) for one in there.values()) or "none"
    if not names:
        return [], [
            ConfigError(
                "No partition is named, and the cluster has no default one.",
                expected=f"one of: {listed}",
                do="hydra.launcher.partition=NAME",
            )
        ]
    wrong = [
        ConfigError(
            f"There is no partition {name!r} that you may use."
            if name not in there
            else f"The partition {name!r} takes no jobs now.",
            found=f"hydra.launcher.partition={named or name}",
            expected=f"one of: {listed}",
            do="hydra.launcher.partition=NAME",
        )
        for name in names
        if name not in there or not there[name].up
    ]
    return [there[name] for name in names if name in there], wrong


def _limits(settings: Settings, chosen: Sequence[Partition]) -> Iterable[ConfigError]:
    """What is above every partition's limit, or more than any of its nodes has."""
    if not chosen:
        return
    asked = float(settings["timeout_min"])
    longest = max((one.minutes if one.minutes is not None else float("inf")) for one in chosen)
    if asked > longest:
        yield _too_much("timeout_min", asked, f"{longest:.0f} min", chosen)
    if asked * 60 <= float(settings.get("signal_delay_s") or 0):
        yield ConfigError(
            "Every job would be told to save as soon as it has started.",
            found=f"signal_delay_s={settings['signal_delay_s']}, timeout_min={settings['timeout_min']}",
            expected="a signal_delay_s that is a small part of the time limit",
            do="hydra.launcher.signal_delay_s=SECONDS",
        )
    kinds = [kind for one in chosen for kind in one.nodes]
    for key, wanted, has, unit in _wanted(settings):
        most = max(has(kind) for kind in kinds)
        if wanted > most:
            yield _too_much(key, wanted, f"{most} {unit}", chosen)
    nodes = max(sum(kind.count for kind in one.nodes) for one in chosen)
    if int(settings.get("nodes") or 1) > nodes:
        yield _too_much("nodes", settings["nodes"], f"{nodes} nodes", chosen)
    where = f"No node of {', '.join(one.name for one in chosen)} has the"
    features = {feature for kind in kinds for feature in kind.features if feature}
    named = re.findall(r"[A-Za-z_][\w.-]*", str(settings.get("constraint") or ""))
    for feature in sorted(set(named) - features):
        yield ConfigError(
            f"{where} feature {feature!r}.",
            found=f"hydra.launcher.constraint={settings['constraint']}",
            expected=f"of: {', '.join(sorted(features)) or 'there are no features'}",
            do="hydra.launcher.constraint=FEATURE",
        )
    resources = {name for kind in kinds for name in _resources(kind.gres)}
    for name in sorted(_resources(settings.get("gres")) - resources - {"none"}):
        yield ConfigError(
            f"{where} generic resource {name!r}.",
            found=f"hydra.launcher.gres={settings['gres']}",
            expected=f"of: {', '.join(sorted(resources)) or 'there are none'}",
            do="hydra.launcher.gres=NAME:COUNT",
        )


def _resources(gres: object) -> set[str]:
    """The names in ``gpu:a100:2,nvme``."""
    return {one.removeprefix("gres:").split(":")[0] for one in str(gres or "").split(",") if one}


def _quality(settings: Settings) -> Iterable[ConfigError]:
    """A quality of service that is not there; a cluster that enforces none would take the job without it."""
    if not (asked := settings.get("qos")):
        return
    there = qualities()
    if there and str(asked).lower() not in there:
        yield ConfigError(
            f"There is no quality of service {asked!r}.",
            found=f"hydra.launcher.qos={asked}",
            expected=f"one of: {', '.join(there)}",
            do="hydra.launcher.qos=NAME",
        )


def _wanted(settings: Settings) -> Iterable[tuple[str, float, Callable[[NodeKind], int], str]]:
    """Of each node: the setting's name, how much it asks for, how much a node has, the unit."""
    tasks = int(settings.get("tasks_per_node") or 1)
    yield "cpus_per_task", tasks * int(settings.get("cpus_per_task") or 1), lambda kind: kind.cpus, "CPUs"
    if (memory := settings.get("mem_gb")) is not None:
        yield "mem_gb", float(memory), lambda kind: kind.memory_mb // 1024, "GB"
    gpus = int(settings.get("gpus_per_node") or 0)
    gpus = max(gpus, tasks * int(settings.get("gpus_per_task") or 0))
    match = re.search(r"(?:^|,)gpu(?::[^:,]+)?:(\d+)", str(settings.get("gres") or ""))
    if gpus:
        yield "gpus_per_node", gpus, lambda kind: kind.gpus, "GPUs"
    if match:
        yield "gres", int(match[1]), lambda kind: kind.gpus, "GPUs"


def _too_much(key: str, asked: float, most: str, chosen: Sequence[Partition]) -> ConfigError:
    return ConfigError(
        f"hydra.launcher.{key} is more than there is.",
        found=f"{asked:g}" + (" min" if key == "timeout_min" else " on each node" if key != "nodes" else ""),
        expected=f"at most {most}: {'; '.join(str(one) for one in chosen)}",
        do=f"a smaller hydra.launcher.{key}, or another hydra.launcher.partition",
    )


def _refused(settings: Settings) -> Iterable[ConfigError]:
    """What sbatch itself says of the script, without submitting it: account, qos, anything else."""
    with TemporaryDirectory() as place:
        text = script(settings, Path(place), Path(place) / "tasks", Code(place, (), None), 1)
        batch = Path(place) / "batch.sh"
        batch.write_text(text, encoding="utf-8")
        try:
            ask("sbatch", "--test-only", *options(text), str(batch), environment=environment())
        except SlurmError as error:
            if error.found is None:
                raise
            mine = accounts()
            yield ConfigError(
                "SLURM would refuse these jobs.",
                found=error.found,
                expected=f"of your accounts (qos): {', '.join(mine)}" if mine else None,
                do="correct hydra.launcher, or ask SLURM for what you may use: sacctmgr show assoc, sinfo",
            )
