"""Peak memory of restoring one branch from a 2 GB checkpoint, against torch.load and load_state_dict.

Each in a process of its own; what counts is memory that no file backs (the checkpoint's own pages are the
page cache's, shared by all siblings) after imports: the peak of anonymous memory, sampled by the kernel.
Both build a model, an optimizer and restore both. Run: python -m benchmarks.restoring [--quick]
"""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.paired import child
from benchmarks.report import command_line, save

BAR_OF_BARE, BAR_OF_STATE = 0.6, 1.15


class Wide(nn.Module):
    """So many linear layers of 2048 x 2048 (16 MB each)."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2048, 2048, bias=False) for _ in range(layers))


class WideTask:
    """As much of the task's protocol as restoring asks for."""

    def __init__(self, layers: int) -> None:
        self.layers = layers

    def build_model(self) -> nn.Module:
        return Wide(self.layers)

    def stateful(self) -> dict[str, Any]:
        return {}


def write(path: Path, layers: int) -> int:
    """A checkpoint of the model and AdamW's two moments; the bytes of its tensors."""
    from launcher.checkpoint.content import describe
    from launcher.checkpoint.manifest import About, Manifest, StoredFile, write_manifest
    from launcher.checkpoint.sink import write_state
    from launcher.layout import manifest_of

    model = Wide(layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {
        "step": 1,
        "model_state_dict": dict(model.state_dict()),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    size, digest = write_state(state, path)
    about = About(step=1, absolute_step=1, run="wide")
    write_manifest(manifest_of(path), Manifest(about, describe(state), StoredFile(path.name, size, digest)))
    return 3 * sum(parameter.nbytes for parameter in model.parameters())


def ours(path: Path, layers: int) -> object:
    from launcher.checkpoint.reader import read_state
    from launcher.training.restore import model_from

    state = read_state(path, digests=False)
    model = model_from(WideTask(layers), state["model_state_dict"], torch.device("cpu"))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.load_state_dict(state["optimizer_state_dict"])
    return model, optimizer


def bare(path: Path, layers: int) -> object:
    state = torch.load(path, weights_only=True)
    model = Wide(layers)
    model.load_state_dict(state["model_state_dict"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.load_state_dict(state["optimizer_state_dict"])
    return model, optimizer


def touch(restored: Any) -> None:
    """What one optimizer step does to memory: every weight and both moments are written."""
    model, optimizer = restored
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
            for name in ("exp_avg", "exp_avg_sq"):
                optimizer.state[parameter][name].add_(1.0)


class Peak:
    """The most memory of this process that no file backs, sampled beside what it does."""

    def __enter__(self) -> Peak:
        self.bytes, self._before = 0, anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def now(self) -> int:
        """The peak so far."""
        self.bytes = max(self.bytes, anonymous() - self._before)
        return self.bytes

    def _sample(self) -> None:
        while not self._stop.wait(0.001):
            self.now()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.now()


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--part", choices=("write", "ours", "bare"))
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    layers = 4 if options.quick else 40
    if options.part == "write":
        print(write(options.path, layers))
        return
    if options.part:
        with Peak() as peak:
            restored = (ours if options.part == "ours" else bare)(options.path, layers)
            restoring = peak.now()
            touch(restored)
        print(json.dumps({"restoring": restoring, "with_a_step": peak.bytes}))
        return
    quick = ["--quick"] if options.quick else []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "checkpoint_step_1.pt"
        state = child("benchmarks.restoring", "--part", "write", "--path", str(path), *quick)
        found = {
            part: child("benchmarks.restoring", "--part", part, "--path", str(path), *quick)
            for part in ("ours", "bare")
        }
    mine, theirs = found["ours"], found["bare"]
    of_bare = mine["restoring"] / theirs["restoring"]
    save(
        "restoring",
        {
            "state_bytes": state, "peak_bytes": found,
            "of_bare": of_bare, "of_state": mine["restoring"] / state, "bars": [BAR_OF_BARE, BAR_OF_STATE],
            "with_a_step_of_bare": mine["with_a_step"] / theirs["with_a_step"],
            "with_a_step_of_state": mine["with_a_step"] / state,
        },
        f"restoring {state / 1e9:.1f} GB: peak {mine['restoring'] / 1e9:.2f} GB, bare "
        f"{theirs['restoring'] / 1e9:.2f} GB: {of_bare:.2f} of bare (bar: at most {BAR_OF_BARE}), "
        f"{mine['restoring'] / state:.2f} of the state (bar: at most {BAR_OF_STATE}); after a step "
        f"{mine['with_a_step'] / theirs['with_a_step']:.2f} of bare and "
        f"{mine['with_a_step'] / state:.2f} of the state",
        quick=options.quick,
    )  # fmt: skip


if __name__ == "__main__":
    main()
