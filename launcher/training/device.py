"""Where and how numbers are computed: device, precision, threads, determinism."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from typing import Any

import numpy as np
import torch

from launcher.config import Config
from launcher.errors import ConfigError
from launcher.files import cores
from launcher.interpreter import importing
from launcher.training.rendezvous import ALONE, Place

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, place: Place = ALONE) -> torch.device:
    """The device that ``device`` means here; of several processes, this one's.

    Raises:
        ConfigError: CUDA was asked for and there is none, or no GPU for each process.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "device=cuda, but PyTorch finds no CUDA device.",
            where="device",
            found=f"torch {torch.__version__}, {torch.cuda.device_count()} CUDA devices",
            do="use device=cpu or device=auto, or install a CUDA build of PyTorch",
        )
    if device_type(name) == "cuda" and place.size > 1:
        return _gpu_of(place)
    return torch.device(device_type(name))


def device_type(name: str) -> str:
    """``cpu`` or ``cuda``: what ``device`` means, also on a machine that only submits and has no GPU."""
    return "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"


def _gpu_of(place: Place) -> torch.device:
    count = torch.cuda.device_count()
    # Where each process was given a GPU of its own, it sees only that one.
    index = 0 if place.of_slurm and count == 1 else place.local_rank
    if max(index + 1, 1 if place.of_slurm else place.local_size) > count:
        raise ConfigError(
            "Each process that trains the run needs a GPU of its own.",
            where="launch.nproc",
            found=f"launch.nproc={place.size}; {count} GPUs for local rank {place.local_rank}",
            do=f"launch.nproc={count} or device=cpu",
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


_prepared = False


def prepared() -> bool:
    """Whether this process has computed; a forked copy would then hang in its first parallel region."""
    return _prepared


def prepare_process(config: Config, device: torch.device, sharing: int = 1) -> None:
    """Set threads and determinism for this process; before anything is computed.

    With ``threads: null``, ``sharing`` processes divide the cores between them.
    """
    global _prepared  # noqa: PLW0603 - it is a fact about the process
    _prepared = True
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif sharing > 1:
        torch.set_num_threads(max(1, cores() // sharing))
    if config.deterministic and device.type == "cuda":
        # cuBLAS reads it when its handle is made; without it matrix products are not repeatable.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with importing():  # The compiler, which takes as long as torch itself.
        torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.benchmark = not config.deterministic


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context of a forward pass."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def build_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """A gradient scaler; does nothing but in ``fp16``."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def environment(device: torch.device) -> dict[str, Any]:
    """What an exact repetition needs besides config and code."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        **({"cuda": str(torch.version.cuda)} if device.type == "cuda" else {}),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **({"launcher": version} if (version := _own_version()) else {}),
    }


def _own_version() -> str | None:
    """The installed launcher's version; None where it is only found on the path.

    Git names the code of a project, and an installed launcher is no part of that.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("checkpoint-launcher")
    return None
