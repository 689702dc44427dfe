"""Every random number generator that a run can draw from: Python, NumPy, PyTorch on CPU and each GPU."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from launcher.errors import CheckpointError

_NUMPY_WORDS = 624


def seed_all(seed: int) -> None:
    """Start every generator from ``seed`` (0 to 2**32 - 1)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rng_state(*, own_gpu: bool = False) -> dict[str, Any]:
    """The state of every generator, as tensors and plain values; ``own_gpu``: of the current GPU only."""
    version, internal, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)
    assert isinstance(legacy, dict)
    return {
        "python": {
            "version": version,
            "internal": torch.tensor(internal, dtype=torch.int64),
            "gauss": gauss,
        },
        "numpy": {
            "key": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": _cuda_states(own_gpu),
    }


def restore_rng(state: dict[str, Any], *, own_gpu: bool = False) -> None:
    """Put every generator where ``state`` says; ``own_gpu``: its one GPU is the current one here.

    Generators that ``state`` leaves out, and those of GPUs that are not there, or were not there, keep
    their seeded state.

    Raises:
        CheckpointError: a state is none of such a generator.
    """
    try:
        _restore(state, own_gpu)
    except (TypeError, ValueError, LookupError, RuntimeError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            "The checkpoint's RNG state is none.",
            where="rng_state",
            found=str(error) or type(error).__name__,
            expected="the states that the generators of Python, NumPy and PyTorch give",
            do="start them anew: branch.reset=[rng]",
        ) from error


def _restore(state: dict[str, Any], own_gpu: bool) -> None:
    if (python := state.get("python")) is not None:
        random.setstate((python["version"], tuple(python["internal"].tolist()), python["gauss"]))
    if (numpy := state.get("numpy")) is not None:
        if not 0 <= numpy["pos"] <= _NUMPY_WORDS:
            # NumPy takes any, and then reads what lies beyond its state.
            raise ValueError(f"position {numpy['pos']} in {_NUMPY_WORDS} words")
        np.random.set_state(
            {
                "bit_generator": "MT19937",
                "state": {"key": numpy["key"].numpy().astype(np.uint32), "pos": numpy["pos"]},
                "has_gauss": numpy["has_gauss"],
                "gauss": numpy["gauss"],
            }
        )
    if "torch" in state:
        torch.set_rng_state(state["torch"].cpu())
    if own_gpu and torch.cuda.is_available():
        for stream in state["cuda"][:1]:
            torch.cuda.set_rng_state(stream.cpu())
        return
    for index, stream in enumerate(state["cuda"]):
        if index < torch.cuda.device_count():
            torch.cuda.set_rng_state(stream.cpu(), index)


def rng_digest(*, own_gpu: bool = False) -> str:
    """Sixteen hex digits over the state of every generator."""
    hasher = blake3(repr(random.getstate()).encode())
    legacy = np.random.get_state(legacy=False)
    assert isinstance(legacy, dict)
    hasher.update(legacy["state"]["key"].tobytes())
    hasher.update(repr((int(legacy["state"]["pos"]), legacy["has_gauss"], legacy["gauss"])).encode())
    hasher.update(torch.get_rng_state().numpy().data)
    for stream in _cuda_states(own_gpu):
        hasher.update(stream.numpy().data)
    return hasher.hexdigest()[:16]


def _cuda_states(own_gpu: bool) -> list[torch.Tensor]:
    """One state a GPU; none where CUDA was never used, because asking would start it."""
    if own_gpu:
        return [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
