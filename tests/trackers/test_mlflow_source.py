"""``mlflow://RUN_ID/PATH`` is a branch point; by the real client, over a local store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import BranchPointUnavailable
from launcher.layout import checkpoint_file, manifest_of
from launcher.sources.fetch import fetch
from tests.tiny_process import Tiny, digest
from tests.trackers.mirrors import needs

pytestmark = [needs("mlflow"), pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")]


@pytest.fixture
def run_id(tiny: Tiny, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An MLflow run with a checkpoint of the trunk, and some other files, among its artifacts."""
    from launcher.trackers.mlflow import new_client

    store = tiny.outputs.parent / "mlflow.db"
    shutil.copyfile(mlflow_database, store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    client: Any = new_client(f"sqlite:///{store}")
    experiment = client.create_experiment("kept", (tiny.outputs.parent / "artifacts").as_uri())
    found = client.create_run(experiment).info.run_id
    checkpoint = tiny.trunk.directory.checkpoints / checkpoint_file(20)
    for path in (checkpoint, manifest_of(checkpoint)):
        client.log_artifact(found, str(path), "kept")
    client.log_text(found, "{}", "foreign/config.json")
    client.log_text(found, "x", "foreign/deep/weights.bin")
    return str(found)


def test_files_and_directories_and_what_is_not_there(tiny: Tiny, run_id: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    name = checkpoint_file(20)
    one = fetch(f"mlflow://{run_id}/kept/{name}", cache)
    same = fetch(f"mlflow://{run_id}/kept", cache, 20)
    assert one.path == same.path
    assert one.path.read_bytes() == (tiny.trunk.directory.checkpoints / name).read_bytes()
    foreign = fetch(f"mlflow://{run_id}/foreign", cache).path
    assert (foreign / "deep" / "weights.bin").read_text() == "x"
    with pytest.raises(BranchPointUnavailable, match="no artifact 'nothing/here'"):
        fetch(f"mlflow://{run_id}/nothing/here", cache)
    with pytest.raises(BranchPointUnavailable, match="not found"):
        fetch("mlflow://0123456789abcdef0123456789abcdef/kept", cache)


def test_a_branch(tiny: Tiny, trained: Tiny, run_id: str, tmp_path: Path) -> None:
    far = Tiny(tmp_path / "elsewhere")
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tiny.outputs.parent / 'mlflow.db'}"}
    branch = far.train(f"branch.from_checkpoint=mlflow://{run_id}/kept", environment=environment)
    assert digest(branch) == digest(trained.trunk)
    assert branch.record.parent is not None
    assert branch.record.parent.source == f"mlflow://{run_id}/kept"
