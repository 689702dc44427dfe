"""The measurements behind ``python -m benchmarks.save``, each run in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.paired import forget_peak, in_turn, peak_memory
from launcher import files, layout
from launcher.checkpoint.content import describe
from launcher.checkpoint.manifest import About
from launcher.checkpoint.reader import read_state
from launcher.checkpoint.writer import CheckpointWriter
from launcher.config import CheckpointConfig

WIDTH = 1024


def state_of(megabytes: int) -> dict[str, Any]:
    """A transformer's parameters and AdamW's moments, in tensors of the usual sizes."""
    shapes: dict[str, tuple[int, ...]] = {
        "qkv": (3 * WIDTH, WIDTH),
        "out": (WIDTH, WIDTH),
        "up": (4 * WIDTH, WIDTH),
        "down": (WIDTH, 4 * WIDTH),
    }
    shapes |= {f"{name}.bias": shape[:1] for name, shape in shapes.items()}
    shapes |= {"norm1": (WIDTH,), "norm2": (WIDTH,)}
    names = [f"layers.{layer}.{name}" for layer in range(1000) for name in shapes]
    model: dict[str, torch.Tensor] = {}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    left = megabytes * 1_000_000
    for index, name in enumerate(names):
        shape = shapes[name.split(".", 2)[2]]
        if left <= 0:
            break
        model[name] = torch.rand(shape)
        moments[index] = {
            "step": torch.tensor(1.0),
            "exp_avg": torch.rand(shape),
            "exp_avg_sq": torch.rand(shape),
        }
        left -= 12 * model[name].numel()
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "params": list(moments)}]
    return {
        "model_state_dict": model,
        "optimizer_state_dict": {"state": moments, "param_groups": groups},
        "rng_state": {"torch": torch.get_rng_state()},
        "step": 1,
    }


def size_of(state: dict[str, Any]) -> int:
    tensors = [*state["model_state_dict"].values()]
    tensors += [
        each for moment in state["optimizer_state_dict"]["state"].values() for each in moment.values()
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def about(step: int) -> About:
    return About(step, step, "benchmark")


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def emptied(directory: Path) -> None:
    """Neither way finds files of the other, or a disk that is still busy."""
    for path in directory.iterdir():
        path.unlink()
    os.sync()


def stall(megabytes: int, rounds: int, directory: Path) -> dict[str, Any]:
    """How long training stands still, and how long until all is on disk."""
    state, step = state_of(megabytes), 0
    until_on_disk: dict[str, list[float]] = {"ours": [], "plain": []}
    first: list[float] = []
    with CheckpointWriter(directory, CheckpointConfig()) as writer:
        writer.reserve(state)
        time.sleep(settled(megabytes))

        def ours() -> float:
            nonlocal step
            emptied(directory)
            step += 1
            started = time.perf_counter()
            writer.save(state, about(step))
            stood_still = time.perf_counter() - started
            writer.wait()
            until_on_disk["ours"].append(time.perf_counter() - started)
            return stood_still

        def plain() -> float:
            emptied(directory)
            path = directory / "plain.pt"
            started = time.perf_counter()
            torch.save(state, path)
            stood_still = time.perf_counter() - started
            files.flush_to_disk(path)
            until_on_disk["plain"].append(time.perf_counter() - started)
            return stood_still

        first.append(ours())
        plain()
        seconds = in_turn(rounds, ours=ours, plain=plain)
    return {"bytes": size_of(state), "first": first[0], "stall": seconds, "until_on_disk": until_on_disk}


def memory(kind: str, megabytes: int, directory: Path) -> dict[str, Any]:
    """Memory beside the state while it is saved twice, in bytes."""
    state = state_of(megabytes)
    forget_peak()
    before = peak_memory()
    if kind == "ours":
        with CheckpointWriter(directory, CheckpointConfig()) as writer:
            for step in (1, 2):
                writer.save({**state, "step": step}, about(step))
    else:
        for _ in range(2):
            torch.save(state, directory / "plain.pt")
    return {"bytes": size_of(state), "beside": peak_memory() - before}


def training(megabytes: int, rounds: int, directory: Path) -> dict[str, Any]:
    """What a save costs training in all: the stall, and steps that are slower while it is written.

    A step is matrix products on all threads. The time lost is what passes until the file is on disk, less
    the time that as many steps take before and after.
    """
    state = state_of(megabytes)
    a, b = torch.rand(768, 768), torch.rand(768, 768)

    def one_step() -> None:
        for _ in range(6):
            torch.mm(a, b)

    def steps(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            one_step()
        return (time.perf_counter() - started) / count

    found: dict[str, list[float]] = {
        "step": [],
        "slower": [],
        "longest": [],
        "ours": [],
        "plain": [],
        "until": [],
    }
    steps(20)
    with CheckpointWriter(directory, CheckpointConfig()) as writer:
        writer.reserve(state)
        time.sleep(settled(megabytes))
        for step in range(1, rounds + 1):
            emptied(directory)
            before, seconds = steps(60), []
            started = time.perf_counter()
            writer.save(state, about(step))
            while writer.saved != step:
                seconds.append(timed(one_step))
                writer.check()
            until = time.perf_counter() - started
            undisturbed = (before + steps(60)) / 2
            found["step"].append(undisturbed)
            found["slower"].append(sum(seconds) / len(seconds) / undisturbed)
            found["longest"].append(max(seconds))
            found["until"].append(until)
            found["ours"].append(until - len(seconds) * undisturbed)
            emptied(directory)
            found["plain"].append(timed(lambda: torch.save(state, directory / "plain.pt")))
    return found


def settled(megabytes: int) -> float:
    """Seconds in which memory that was reserved has been touched, with a margin."""
    return 0.5 + megabytes / 150


def digests(megabytes: int, rounds: int, directory: Path) -> dict[str, Any]:
    """Digests of a state in memory and of its file, and loading with and without them."""
    state = state_of(megabytes)
    with CheckpointWriter(directory, CheckpointConfig()) as writer:
        writer.save(state, about(1))
    path = directory / layout.checkpoint_file(1)

    def sha256_tensors() -> None:
        hasher = hashlib.sha256()
        for tensor in state["model_state_dict"].values():
            hasher.update(tensor.numpy().data.cast("B"))
        for moment in state["optimizer_state_dict"]["state"].values():
            for tensor in moment.values():
                hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)

    def sha256_file() -> None:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")

    ways = {
        "state_blake3_one_thread": lambda: describe(state, all_cores=False),
        "state_blake3_all_cores": lambda: describe(state),
        "state_sha256": sha256_tensors,
        "file_blake3": lambda: files.file_digest(path),
        "file_sha256": sha256_file,
        "load_verified": lambda: read_state(path),
        "load_unverified": lambda: read_state(path, digests=False),
        "load_plain": lambda: torch.load(path, weights_only=True),
    }
    timers = {name: (lambda work=work: timed(work)) for name, work in ways.items()}
    return {"bytes": size_of(state), "seconds": in_turn(rounds, **timers)}


def load(directory: Path) -> dict[str, Any]:
    """What preflight would cost with a plain ``torch.load``: seconds and bytes of memory."""
    before = peak_memory()
    seconds = timed(lambda: torch.load(directory / layout.checkpoint_file(1), weights_only=True))
    return {"seconds": seconds, "memory": peak_memory() - before}


def write_one(megabytes: int, directory: Path) -> dict[str, Any]:
    with CheckpointWriter(directory, CheckpointConfig()) as writer:
        writer.save(state_of(megabytes), about(1))
    return {"threads": threading.active_count()}


def main(kind: str, megabytes: str, rounds: str, directory: str) -> dict[str, Any]:
    place = Path(directory)
    with tempfile.TemporaryDirectory(dir=place) as temporary:
        own = Path(temporary)
        measurements: dict[str, Callable[[], dict[str, Any]]] = {
            "stall": lambda: stall(int(megabytes), int(rounds), own),
            "memory-ours": lambda: memory("ours", int(megabytes), own),
            "memory-plain": lambda: memory("plain", int(megabytes), own),
            "training": lambda: training(int(megabytes), min(int(rounds), 4), own),
            "digests": lambda: digests(int(megabytes), int(rounds), own),
            "write": lambda: write_one(int(megabytes), place),
            "load": lambda: load(place),
        }
        return measurements[kind]()


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
