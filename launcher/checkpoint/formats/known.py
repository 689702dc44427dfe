"""Every format that is read, and what any of them gives: an inspection, a state, a manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import layout
from launcher.checkpoint.formats.accelerate import Accelerate
from launcher.checkpoint.formats.canonical import canonical, optimizer_steps
from launcher.checkpoint.formats.classes import refused_classes
from launcher.checkpoint.formats.distributed import Distributed
from launcher.checkpoint.formats.facts import Facts
from launcher.checkpoint.formats.hf_trainer import HuggingFaceTrainer
from launcher.checkpoint.formats.lightning import Lightning
from launcher.checkpoint.formats.own import Own
from launcher.checkpoint.formats.places import INDEX
from launcher.checkpoint.formats.protocol import Entries, Format, Opener, TensorFacts, refuse
from launcher.checkpoint.formats.safetensors import Safetensors
from launcher.checkpoint.formats.torch_file import TorchFile
from launcher.checkpoint.formats.unknown import has_tensors, no_checkpoint
from launcher.checkpoint.store import checkpoints
from launcher.checkpoint.verify import verify_file
from launcher.errors import CheckpointError

if TYPE_CHECKING:
    from launcher.checkpoint.manifest import Manifest

FORMATS: tuple[Format, ...] = (
    Own(), Distributed(), HuggingFaceTrainer(), Accelerate(), Safetensors(), Lightning(), TorchFile(),
)  # fmt: skip
"""In this order: what tells more of itself comes first."""

_MOST_VALUES = 5_000_000
"""Values in a state. A pickle of a few bytes can hold itself any number of times over."""
_DEEPEST = 100


@dataclass(frozen=True)
class Inspection:
    """What is in a checkpoint, told without loading a tensor."""

    format: str
    path: Path
    step: int | None
    """Optimizer steps done; None where nothing says so."""
    step_source: str
    """``inside``, ``name``, ``optimizer`` (it counts its own steps), or nothing."""
    epoch: int | None
    end_step: int | None
    bytes: int
    """Of all its files."""
    state: dict[str, Any]
    """As a branch restores it, with :class:`TensorFacts` in place of tensors."""
    tensors: Mapping[str, TensorFacts]
    """By their path in the state."""
    left_out: tuple[str, ...]
    """Parts that are there and cannot be used, and why."""
    unused: tuple[str, ...]
    unknown: tuple[str, ...]
    """Classes that it holds and that are not tensors or plain values."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What an exact branch needs and the checkpoint does not have."""
        return missing(self.state, self.tensors, self.step is not None)


def missing(components: Iterable[str], tensors: Iterable[str], step_known: bool) -> tuple[str, ...]:
    """What an exact branch needs of a state and is not there.

    The position in the data and in the learning-rate schedule follow from the step: batches and factors are
    functions of it.

    Args:
        components: the state's keys.
        tensors: the paths of its tensors.
        step_known: whether anything says how many steps were done.
    """
    lacking = [] if "optimizer_state_dict" in components else ["optimizer"]
    lacking += [] if step_known else ["step", "data position"]
    names = {name.split(".")[1] for name in tensors if name.startswith("rng_state.")}
    generators = [name for name in ("torch", "numpy", "python") if name not in names]
    if generators:
        lacking.append("RNG state" if len(generators) == 3 else f"RNG state of {' and '.join(generators)}")
    return tuple(lacking)


def recognise(path: Path) -> Format | None:
    """The format of a checkpoint; None if it is none of those that are known."""
    try:
        return next((one for one in FORMATS if one.recognises(path)), None)
    except OSError:
        return None


def foreign_in(place: Path, step: int | None) -> Path | None:
    """The foreign checkpoint that a directory is, or the one of several in it; None where there is none.

    Args:
        place: a directory.
        step: the step that the name of one of several tells; without it, the latest is taken.
    """
    if checkpoints(place) or (place / "checkpoints").is_dir():
        return None
    steps = {layout.step_in_name(one.name): one for one in sorted(place.iterdir())}
    wanted = max((one for one in steps if one is not None), default=None) if step is None else step
    of_several = steps.get(wanted) if wanted is not None else None
    if of_several is not None and recognise(of_several) is None:
        of_several = None
    if step is not None and of_several is not None:
        return of_several
    return place if recognise(place) is not None else of_several


def only_one(path: Path) -> Path:
    """The checkpoint that ``path`` is, or the only one of the launcher's in this directory.

    Raises:
        CheckpointError: there are several.
    """
    if not path.is_dir() or recognise(path) is not None:
        return path
    inner = path / "checkpoints"
    there = checkpoints(inner if inner.is_dir() else path)
    if len(there) > 1:
        raise CheckpointError(
            "This directory holds several checkpoints.",
            where=str(there[0].parent),
            found=", ".join(one.name for one in there),
            do="name one of them",
        )
    return there[0] if there else path


def inspect(path: Path) -> Inspection:
    """Look into a checkpoint of any format; needs neither PyTorch nor the library that wrote it.

    Raises:
        CheckpointError: it is of no known format, damaged, or made to do harm.
    """
    form = _format(path)
    opener = Facts()
    try:
        entries = form.entries(path, opener)
        state, left_out = canonical(path, *_with_step(path, entries), opener)
    except CheckpointError as error:
        if opener.unknown:
            # That a part is not what it should be follows from its class.
            raise refused_classes(path, opener.unknown) from error
        raise
    tensors = dict(_tensors(path, state))
    size = sum(one.stat().st_size for one in form.files(path))
    claimed = sum(one.bytes for one in tensors.values())
    if claimed > 4 * size + (64 << 20):
        refuse(path, f"tensors of {claimed} bytes in files of {size}", "tensors that are in the file")
    step, source = _step(path, entries)
    return Inspection(
        format=form.name,
        path=path,
        step=step,
        step_source=source,
        epoch=entries.epoch,
        end_step=entries.end_step,
        bytes=size,
        state=state,
        tensors=tensors,
        left_out=left_out,
        unused=entries.unused,
        unknown=tuple(sorted(opener.unknown)),
    )


def load(path: Path, allowed: Sequence[str] = (), by_rows: bool = False) -> dict[str, Any]:
    """The state in a checkpoint of any format, as a branch restores it.

    Args:
        path: the checkpoint.
        allowed: classes that may be made besides tensors and plain values; ``branch.allow_globals``.
        by_rows: see :func:`launcher.checkpoint.reader.read_state`.

    Raises:
        CheckpointError: it is damaged, or holds something that would have to be executed.
        ConfigError: ``allowed`` names what cannot be imported.
    """
    from launcher.checkpoint.formats.values import Values

    form = _format(path)
    if isinstance(form, Own):
        from launcher.checkpoint.reader import read_state

        return read_state(path, digests=False, by_rows=by_rows)
    inspect(path)  # It refuses what was made to do harm.
    opener: Opener = Values(allowed)
    entries = form.entries(path, opener)
    return canonical(path, *_with_step(path, entries), opener)[0]


def verified(path: Path, allowed: Sequence[str] = (), said: int | None = None) -> Manifest:
    """The manifest of a checkpoint of any format, every byte of which was read; see :func:`described`.

    Raises:
        CheckpointError: it is damaged, of no known format, or holds what would have to be executed.
    """
    if not Own().recognises(path):
        return described(path, allowed, said)
    manifest = verify_file(path)
    if said is None:
        return manifest
    about = manifest.about
    known = about.progress.get("step")
    _refuse_another_step(path, known, "told by the checkpoint", said)
    # It was converted from what does not tell its step.
    counted = (
        about if known is not None else replace(about, step=said, absolute_step=said, progress=_at(said))
    )
    return replace(manifest, about=counted)


def _refuse_another_step(path: Path, step: int | None, source: str, said: int | None) -> None:
    if None not in (step, said) and step != said:
        raise CheckpointError(
            "branch.from_checkpoint and branch.from_step name different steps.",
            where=str(path),
            found=f"step {step} ({source})",
            expected=f"branch.from_step={said}",
            do="drop branch.from_step",
        )


def _at(step: int) -> dict[str, int]:
    counts = ("step", "absolute_step", "task_step", "data_step", "schedule_step")
    return dict.fromkeys(counts, step)


def described(path: Path, allowed: Sequence[str] = (), said: int | None = None) -> Manifest:
    """The manifest of a foreign checkpoint: what there is to know, with a digest of every tensor.

    Args:
        path: the checkpoint.
        allowed: see :func:`load`.
        said: its step, where the checkpoint itself does not tell.

    Raises:
        CheckpointError: as :func:`load`, or it is of another step than ``said``.
    """
    from launcher.checkpoint.content import describe
    from launcher.checkpoint.formats.soundness import unsound
    from launcher.checkpoint.manifest import About, Manifest, StoredFile

    found = inspect(path)
    _refuse_another_step(path, found.step, found.step_source, said)
    step = said if found.step is None else found.step
    about = About(step=step or 0, absolute_step=step or 0, run=path.name, progress=_progress(found, step))
    with _one_thread():
        state = load(path, allowed)
        content = describe(state)
        return Manifest(about, content, StoredFile(path.name, found.bytes, ""), unsound=unsound(state))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Siblings may be forked from this process; copies of one that computed with several threads hang."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _progress(found: Inspection, step: int | None) -> dict[str, int]:
    """The counts that are known; where the run was going to end is known of few."""
    known = _at(step) if step is not None else {}
    position = found.state.get("scheduler_state_dict", {}).get("last_epoch")
    if type(position) is int and found.format != Accelerate.name:
        known["schedule_step"] = position
    if found.end_step is not None:
        known.update(end_step=found.end_step, horizon_steps=found.end_step)
    return known


def _format(path: Path) -> Format:
    form = recognise(path)
    # Some formats are told from a name alone.
    if form is None or (path.suffix in (".pt", ".safetensors") and path.is_file() and not has_tensors(path)):
        raise no_checkpoint(path, [one.name for one in FORMATS])
    return form


def _with_step(path: Path, entries: Entries) -> tuple[Entries]:
    """The entries with the step only where the content tells it: a name is no content."""
    step, source = _step(path, entries)
    return (replace(entries, step=step if source in ("inside", "optimizer") else None),)


def _step(path: Path, entries: Entries) -> tuple[int | None, str]:
    if entries.step is not None:
        return entries.step, "inside"
    # An index is named like any other; what it belongs to, its directory tells.
    name = path.parent.name if path.name.endswith(INDEX) else path.name
    named = layout.step_in_name(name)
    if named is not None and re.search(r"step|iter", name, re.IGNORECASE):
        return named, "name"
    optimizer = entries.optimizer
    counted = optimizer_steps(optimizer[0] if isinstance(optimizer, list) and optimizer else optimizer)
    # Accelerate numbers its checkpoints, not their steps: what the optimizer counted goes before a name.
    return (counted, "optimizer") if counted is not None else (named, "name" if named is not None else "")


def _tensors(path: Path, state: dict[str, Any]) -> Iterator[tuple[str, TensorFacts]]:
    waiting: list[tuple[tuple[str, ...], Any]] = [((), state)]
    count = 0
    while waiting:
        names, value = waiting.pop()
        count += 1
        if count > _MOST_VALUES or len(names) > _DEEPEST:
            refuse(path, "values that hold themselves, or far too many of them", "a checkpoint's values")
        if isinstance(value, TensorFacts):
            yield ".".join(names), value
        elif isinstance(value, Mapping):
            waiting.extend(((*names, str(key)), one) for key, one in reversed([*value.items()]))
        elif isinstance(value, list | tuple):
            waiting.extend(((*names, str(at)), value[at]) for at in reversed(range(len(value))))
