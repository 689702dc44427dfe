"""What preflight reads of a checkpoint, in a process without torch: prints seconds and bytes of memory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.paired import peak_memory
from launcher import layout
from launcher.checkpoint.verify import complete_manifest

if __name__ == "__main__":
    before = peak_memory()
    started = time.perf_counter()
    manifest = complete_manifest(Path(sys.argv[1]) / layout.checkpoint_file(1))
    parameters = sum(1 for entry in manifest.tensors if entry.shape)
    seconds = time.perf_counter() - started
    assert parameters
    assert manifest.content.optimizer_groups[0].hyperparameters["lr"]
    assert "torch" not in sys.modules
    print(json.dumps({"seconds": seconds, "memory": peak_memory() - before}))
