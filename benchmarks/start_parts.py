"""A branch's start with the clock read between its parts; started by benchmarks/start.py."""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import functools  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

PARTS: dict[str, float] = {}


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, with its seconds added to PARTS."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            PARTS[name] = PARTS.get(name, 0.0) + time.perf_counter() - started

    return wrapper


def main() -> None:
    started = time.perf_counter()
    import torch  # noqa: F401

    PARTS["import torch"] = time.perf_counter() - started
    started = time.perf_counter()
    import hydra

    from launcher import entry, run
    from launcher.training.trainer import Trainer

    PARTS["import hydra and launcher"] = time.perf_counter() - started
    started = time.perf_counter()
    import train

    entry.register()
    PARTS["import the task"] = time.perf_counter() - started
    watched = (
        ("plan", "resolve the branch point, read its digest"),
        ("preflight", "preflight"),
        ("branch", "build and restore"),
    )
    for function, name in watched:
        setattr(run, function, timed(name, getattr(run, function)))
    Trainer.step = timed("first step", Trainer.step)  # type: ignore[method-assign]
    whole: dict[str, float] = {}

    def job(composed: Any) -> None:
        whole["composed"] = time.perf_counter()
        entry.run_job(composed)

    started = time.perf_counter()
    with_hydra = hydra.main(version_base="1.3", config_path="../conf", config_name="config")(job)
    with_hydra()
    PARTS["Hydra composes"] = whole["composed"] - started
    assert train.main is not None
    print(json.dumps(PARTS))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
