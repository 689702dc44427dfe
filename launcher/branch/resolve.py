"""From what the user wrote to a branch point: an exact place to start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.branch.command import command, said_again
from launcher.checkpoint.formats.known import foreign_in, missing, recognise, verified
from launcher.checkpoint.formats.own import Own
from launcher.checkpoint.manifest import Manifest
from launcher.checkpoint.store import checkpoints
from launcher.config import BranchConfig, PathsConfig
from launcher.errors import BranchPointUnavailable, CheckpointError, LauncherError, UnknownRun
from launcher.layout import (
    RunDirectory,
    checkpoint_at,
    checkpoint_file,
    checkpoint_step,
    group_name,
    step_in_name,
)
from launcher.lineage import Run, find_run, read_run, read_runs
from launcher.sources.fetch import Fetched, called, fetch, lies_elsewhere


@dataclass(frozen=True)
class BranchPoint:
    """Checkpoint, step and content digest."""

    checkpoint: Path
    manifest: Manifest
    run: Run | None
    """The run that wrote it, where its record lies beside it."""
    group: str
    """What its siblings are grouped under unless the user says otherwise."""
    passed_over: tuple[str, ...] = ()
    """Places that were asked for first and could not be had."""
    format: str = "launcher"
    """What wrote it; see :mod:`launcher.checkpoint.formats`."""
    foreign: bool = False
    """Whether it does not tell its run's config: another program wrote it, or it was converted."""
    step_known: bool = True
    """Whether the checkpoint, its name or the user said how many steps it is behind."""
    source: str | None = None
    """Where it was fetched from, with everything resolved that can move; None: it lies on this machine."""

    @property
    def run_id(self) -> str:
        """Id of the run that wrote the checkpoint; of a foreign one, its name."""
        return self.manifest.about.run

    @property
    def name(self) -> str:
        """What a person calls the checkpoint."""
        return called(self.checkpoint, self.source)

    @property
    def missing(self) -> tuple[str, ...]:
        """What an exact branch needs and the checkpoint does not have."""
        content = self.manifest.content
        names = [entry.name for entry in content.tensors]
        return missing(content.components, names, self.step_known)


def handed_on(point: BranchPoint) -> str:
    """A branch point as the sweeper hands it to each sibling: PATH@SHA256; see :func:`taken_over`."""
    return f"{point.checkpoint.resolve()}@{point.manifest.sha256}"


def taken_over(handed: str, branch: BranchConfig, source: str | None = None) -> BranchPoint:
    """The branch point that the sweeper resolved once for all siblings, and where it had fetched it from.

    Raises:
        BranchPointUnavailable: it is not there any more, or it is not what it was.
    """
    path, _, sha256 = handed.rpartition("@")
    try:
        return _point(Path(path), replace(branch, sha256=sha256), (), source)
    except CheckpointError as failure:
        named = failure if source is None else _fetched_from(source, failure)
        raise _unavailable(named) from failure


def cache_of(paths: PathsConfig) -> Path:
    """The directory of what was fetched from elsewhere."""
    return Path(paths.cache) if paths.cache is not None else Path(paths.outputs) / ".cache"


def resolve(
    branch: BranchConfig, outputs: Path, typed: Sequence[str] = (), cache: Path | None = None
) -> BranchPoint:
    """The branch point that ``branch`` names, from the first place that has it.

    Args:
        branch: what was asked for.
        outputs: directory of all runs.
        typed: the command line's overrides, for the commands in messages.
        cache: see :func:`cache_of`; by default that of ``outputs``.

    Raises:
        BranchPointUnavailable: no place has it, or the digest is not the one that was asked for.
    """
    failures: list[LauncherError] = []
    places = [branch.from_checkpoint, *branch.mirrors]
    for place in places:
        found: Fetched | None = None
        try:
            if place is not None and lies_elsewhere(place):
                found = fetch(place, cache or outputs / ".cache", branch.from_step)
                checkpoint = _in_reachable_place(str(found.path), branch.from_step)
            elif place is not None:
                checkpoint = _in_reachable_place(place, branch.from_step)
            elif branch.from_run is not None or branch.from_step is not None:
                checkpoint = _in_runs(branch, outputs, typed)
            else:
                continue
            source = None if found is None else found.exact
            return _point(checkpoint, branch, tuple(map(_told, failures)), source)
        except (BranchPointUnavailable, CheckpointError, UnknownRun) as failure:
            failures.append(failure if found is None else _fetched_from(found.exact, failure))
    if len(failures) == 1:
        raise _unavailable(failures[0]) from failures[0]
    raise BranchPointUnavailable(
        f"The branch point cannot be had from any of {len(failures)} places.",
        where="branch.from_checkpoint, branch.mirrors",
        found="\n            ".join(map(_told, failures)),
        do=failures[0].do or "check the paths",
    )


def _told(failure: LauncherError) -> str:
    return f"{failure.where}: {failure.what}"


def _fetched_from(source: str, failure: LauncherError) -> LauncherError:
    """The same failure under the name that people know: where it came from, and not only where it lies."""
    failure.where = f"{source}, which was fetched to {failure.where}"
    return failure


def _unavailable(failure: LauncherError) -> BranchPointUnavailable:
    if isinstance(failure, BranchPointUnavailable):
        return failure
    return BranchPointUnavailable(
        failure.what, where=failure.where, found=failure.found, expected=failure.expected, do=failure.do
    )


def _point(
    checkpoint: Path, branch: BranchConfig, passed_over: tuple[str, ...], source: str | None = None
) -> BranchPoint:
    manifest = verified(checkpoint, branch.allow_globals, branch.from_step)
    if branch.sha256 is not None and manifest.sha256 != branch.sha256:
        raise BranchPointUnavailable(
            "The checkpoint is not the one that was pinned.",
            where=str(checkpoint),
            found=f"content digest {manifest.sha256}",
            expected=f"branch.sha256={branch.sha256}",
            do="find the pinned checkpoint, or pin this one: "
            + (
                f"launcher pin {manifest.about.run}@{manifest.step} NAME"
                if manifest.about.config
                else f"branch.sha256={manifest.sha256}"
            ),
        )
    directory = checkpoint.parent.parent
    run = read_run(directory) if RunDirectory(directory).record.is_file() else None
    if manifest.about.run == checkpoint.name:  # Nobody knows its run: what it is called stands for that.
        manifest = replace(manifest, about=replace(manifest.about, run=called(checkpoint, source)))
    named = branch.name or called(checkpoint, source)
    if named == checkpoint.name and step_in_name(checkpoint.name) not in (None, manifest.step):
        # Some number their checkpoints and not their steps.
        named = f"{checkpoint.stem}-at"
    form = recognise(checkpoint)
    return BranchPoint(
        checkpoint=checkpoint,
        manifest=manifest,
        run=run,
        group=group_name(named, manifest.step),
        source=source,
        passed_over=passed_over,
        format=form.name if form is not None else Own.name,
        foreign=not manifest.about.config,
        step_known="step" in manifest.about.progress,
    )


def _in_reachable_place(place: str, step: int | None) -> Path:
    try:
        return _in_place(Path(place).expanduser(), step)
    except (OSError, RuntimeError, ValueError) as error:
        # Too long a name, an unknown user's home, a zero byte: no path at all.
        raise BranchPointUnavailable(
            "That is no path of a checkpoint.", where=repr(place)[:120], found=str(error)[:200], do="check it"
        ) from error


def _in_place(place: Path, step: int | None) -> Path:
    """The checkpoint in a file or a directory; :mod:`launcher.sources` gives such a path."""
    if place.is_file() or (place.is_dir() and Own().recognises(place)):
        found = checkpoint_step(place.name)
        if step is not None and found is not None and found != step:
            raise BranchPointUnavailable(
                "branch.from_checkpoint and branch.from_step name different steps.",
                where=str(place),
                found=f"step {found}",
                expected=f"branch.from_step={step}",
                do="drop branch.from_step",
            )
        return place
    if place.is_dir() and (foreign := foreign_in(place, step)) is not None:
        return foreign
    if not place.is_dir():
        raise BranchPointUnavailable(
            "There is no such checkpoint.",
            where=str(place),
            found=_nearest(place),
            expected="a checkpoint, or a directory with checkpoints",
            do="see what there is: launcher tree",
        )
    directory = place / "checkpoints" if (place / "checkpoints").is_dir() else place
    there = checkpoints(directory)
    if step is None and there:
        return there[-1]
    for checkpoint in there:
        if checkpoint_step(checkpoint.name) == step:
            return checkpoint
    raise BranchPointUnavailable(
        f"No complete checkpoint{'' if step is None else f' at step {step}'} lies there.",
        where=str(directory),
        found=_steps(there),
        expected="a checkpoint with its manifest" if step is None else checkpoint_file(step),
        do="take one of the steps found" if there else "see what there is: launcher tree",
    )


def _in_runs(branch: BranchConfig, outputs: Path, typed: Sequence[str]) -> Path:
    if branch.from_run is not None:
        run = find_run(outputs, branch.from_run)
        try:
            return _in_place(run.directory.path, branch.from_step)
        except BranchPointUnavailable as error:
            raise _none_at(branch, [run], outputs, typed) from error
    runs, problems = read_runs(outputs)
    if problems:
        raise BranchPointUnavailable(
            "A run record cannot be read, so that the one run with this step cannot be told.",
            where=problems[0].where,
            found=problems[0].found,
            do="say which run: branch.from_run=RUN; or restore the record, or move its directory away",
        )
    assert branch.from_step is not None
    having = [run for run in runs if _has(run, branch.from_step)]
    if len(having) > 1:
        having = _without_siblings(having, branch.from_step)
    if len(having) == 1:
        return checkpoint_at(having[0].directory.checkpoints, branch.from_step)
    if having:
        raise BranchPointUnavailable(
            f"{len(having)} runs have a checkpoint at step {branch.from_step}.",
            where=str(outputs),
            found=", ".join(run.id for run in having),
            expected="one run; say which",
            do=[command(typed, f"branch.from_run={run.id}") for run in having],
        )
    raise _none_at(branch, runs, outputs, typed)


def _without_siblings(runs: list[Run], step: int) -> list[Run]:
    """Without those that branched from another of them at this very step: it is their branch point.

    A sibling that numbers its steps anew comes by the same number again.
    """
    ids = {run.id for run in runs}
    parents = {run.id: run.record.parent for run in runs}
    return [
        run
        for run in runs
        if (parent := parents[run.id]) is None or parent.step != step or parent.run not in ids
    ]


def _has(run: Run, step: int) -> bool:
    path = checkpoint_at(run.directory.checkpoints, step)
    return path in checkpoints(run.directory.checkpoints)


def _none_at(
    branch: BranchConfig, runs: list[Run], outputs: Path, typed: Sequence[str]
) -> BranchPointUnavailable:
    step = branch.from_step
    lines = [f"{run.id}: {_steps(checkpoints(run.directory.checkpoints))}" for run in runs]
    return BranchPointUnavailable(
        "No run has a checkpoint." if step is None else f"No run has a checkpoint at step {step}.",
        where=branch.from_run or str(outputs),
        found="\n            ".join(lines[:20]) or "no runs",
        do=_commands_that_make(step, runs, typed),
    )


def _commands_that_make(step: int | None, runs: list[Run], typed: Sequence[str]) -> list[str]:
    """A control branch up to ``step`` from the nearest checkpoint before it is the exact way there."""
    place = [one for one in typed if one.startswith("paths.")]
    if not runs or step is None:
        return [f"train a trunk first: {command(place)}"]
    before = [
        (there, run.record.kind == "trunk", run.id, run)
        for run in runs
        if (run.record.kind == "trunk" or run.record.branch_type == "control")
        for path in checkpoints(run.directory.checkpoints)
        if (there := checkpoint_step(path.name) or 0) < step
    ]
    if not before:
        # The trunk that is there is finished; one of another seed is another trunk.
        return [
            f"train a trunk with checkpoints there: {command(place, 'seed=1', f'checkpoint.every={step}')}",
            f"then branch from it: {command(typed, 'seed=1')}",
        ]
    nearest, _, name, run = max(before, key=lambda one: one[:3])
    point = [f"branch.from_run={name}", f"branch.from_step={nearest}", f"branch.steps={step - nearest}"]
    return [
        "take a step that there is, or make this one: "
        + command([*said_again(run.record.overrides, run.record.declared), *place], *point)
    ]


def _steps(paths: list[Path]) -> str:
    numbers = [str(checkpoint_step(path.name)) for path in paths]
    if len(numbers) > 12:
        numbers = [*numbers[:4], "…", *numbers[-4:]]
    return "steps " + ", ".join(numbers) if numbers else "no checkpoints"


def _nearest(place: Path) -> str:
    parent = place.parent
    if not parent.is_dir():
        return f"there is no directory {parent} either"
    names = sorted(path.name for path in parent.iterdir() if path.suffix == ".pt")
    return f"in {parent}: {', '.join(names[:8]) or 'no .pt files'}"
