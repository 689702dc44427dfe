"""Eight processes that want the same 500 MB at once, against one alone; and what then lies on disk.

The artifact comes from the stand-in for W&B's server, by its exact version and by an alias, and the same file
from a plain web server. The processes have everything imported before the clock starts; W&B's client starts
its service within it. Run: python -m benchmarks.fetching [--quick] [--rounds N]
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import command_line, median, save
from launcher.sources.fetch import fetch
from tests.sources.file_server import FileServer
from tests.wandb_server.server import WandbServer

BAR = 1.3
PROCESSES = 8
NAME = "model.pt"
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["launcher.sources.fetch", "wandb", "requests"])


def _child(place: str, cache: str, ready: Any, go: Any) -> None:
    logging.disable(logging.CRITICAL)
    ready.release()
    go.wait()
    fetch(place, Path(cache))


def seconds(count: int, place: str, cache: Path) -> float:
    """From the starting signal until the last of ``count`` processes has it."""
    ready, go = _context.Semaphore(0), _context.Event()
    children = [_context.Process(target=_child, args=(place, str(cache), ready, go)) for _ in range(count)]
    for one in children:
        one.start()
    for _ in children:
        ready.acquire()
    begun = time.perf_counter()
    go.set()
    for one in children:
        one.join()
    taken = time.perf_counter() - begun
    if any(one.exitcode for one in children):
        raise SystemExit("a process failed: there is nothing to measure.")
    return taken


def used(directory: Path) -> int:
    """Bytes below ``directory``."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def measure(size: int, rounds: int, root: Path) -> dict[str, Any]:
    served = root / "served"
    served.mkdir()
    data = served / NAME
    with data.open("wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size)))
    size = data.stat().st_size
    with WandbServer() as wandb, FileServer(served) as web:
        wandb.artifacts.put("stand-in/benchmark/model", {NAME: data}, "best")
        os.environ.update(wandb.environment, HOME=str(root), WANDB_ERROR_REPORTING="false")
        places = {
            "wandb, version": "stand-in/benchmark/model:v0",
            "wandb, alias": "stand-in/benchmark/model:best",
            "https": web.url(NAME),
        }
        found: dict[str, Any] = {name: {"alone": [], "eight": [], "disk": []} for name in places}
        for index in range(rounds):
            for name, place in places.items():
                for count in (1, PROCESSES) if index % 2 == 0 else (PROCESSES, 1):
                    cache = root / "cache"
                    shutil.rmtree(cache, ignore_errors=True)
                    found[name]["alone" if count == 1 else "eight"].append(seconds(count, place, cache))
                    found[name]["disk"].append(used(cache) / size)
        downloads = (wandb.sent[NAME] + web.sent[NAME]) / size
    for each in found.values():
        each["ratio"] = median(b / a for a, b in zip(each["alone"], each["eight"], strict=True))
        each["disk"] = max(each["disk"])
    return {"kinds": found, "downloads_of_one": downloads / (2 * rounds * len(places))}


def main() -> None:
    options = command_line(__doc__, rounds=7).parse_args()
    size, rounds = (20_000_000, 1) if options.quick else (500_000_000, options.rounds)
    with tempfile.TemporaryDirectory() as directory:
        found = measure(size, rounds, Path(directory))
    shown = ", ".join(
        f"{name} {each['ratio']:.2f} ({median(each['alone']):.2f} s alone; disk {each['disk']:.2f})"
        for name, each in found["kinds"].items()
    )
    save(
        "fetching",
        {"bytes": size, "bar": BAR, **found},
        f"fetching, {PROCESSES} processes against one: {shown}; {found['downloads_of_one']:.2f} downloads "
        f"each (bars: at most {BAR}, disk and downloads 1)",
        quick=options.quick,
    )


if __name__ == "__main__":
    main()
