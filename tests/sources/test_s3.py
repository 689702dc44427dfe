"""``s3://``, by s3fs against a real server of moto's on 127.0.0.1."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import BranchPointUnavailable
from launcher.files import file_digest
from launcher.layout import checkpoint_file
from launcher.sources import filesystem, transfer
from launcher.sources.fetch import fetch
from tests.tiny_process import Tiny, digest

s3fs = pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Where the server is, and somebody's keys."""
    variables = {
        **KEYS,
        "AWS_ENDPOINT_URL": address,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(tmp_path),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transfer, "PAUSES", (0.01, 0.01, 0.01))
    s3fs.S3FileSystem.clear_instance_cache()
    return variables


@pytest.fixture
def bucket(environment: dict[str, str], trained: Tiny) -> Iterator[str]:
    """The trunk's checkpoints under ``s3://bucket/runs``."""
    fs = s3fs.S3FileSystem()
    fs.mkdir("bucket")
    for path in trained.trunk.directory.checkpoints.iterdir():
        fs.put_file(str(path), f"bucket/runs/{path.name}")
    yield "s3://bucket/runs"
    fs.rm("bucket", recursive=True)


def test_a_branch_from_a_directory_takes_one_checkpoint(
    empty: Tiny, trained: Tiny, bucket: str, environment: dict[str, str]
) -> None:
    branch = empty.train(f"branch.from_checkpoint='{bucket}'", "branch.from_step=20", environment=environment)
    assert digest(branch) == digest(trained.trunk)
    assert branch.record.parent is not None
    assert (branch.record.parent.source, branch.record.group) == (bucket, "checkpoint-20-experiments")
    cached = sorted(path.name for path in (empty.outputs / ".cache" / "objects").rglob("*") if path.is_file())
    assert cached == ["checkpoint_step_20.json", "checkpoint_step_20.pt"]


def test_blocks_are_put_together_and_what_is_there_is_not_asked_for(
    trained: Tiny, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "BLOCK", 1000)
    name = checkpoint_file(30)
    original = trained.trunk.directory.checkpoints / name
    with filesystem.StoredFiles(f"{bucket}/{name}") as source:
        [state] = [one for one in source.files() if one.name == name]
        part = tmp_path / "part"
        part.write_bytes(b"x" * 2500)
        source.pull(state, part, lambda: None)
    got = part.read_bytes()
    assert got == b"x" * 2500 + original.read_bytes()[2500:]
    found = fetch(f"{bucket}/{name}", tmp_path / "cache")
    assert file_digest(found.path) == file_digest(original)


@pytest.mark.parametrize(("place", "told"), [
    ("s3://bucket/runs/checkpoint_step_21.pt", "nothing is there"),
    ("s3://no-such-bucket/x.pt", "nothing is there"),
    pytest.param("gs://bucket/x.pt", "the package gcsfs is not installed", marks=pytest.mark.skipif(
        importlib.util.find_spec("gcsfs") is not None, reason="it is installed")),
    ("nope://bucket/x.pt", "nothing reads nope://"),
])  # fmt: skip
def test_what_cannot_be_had_says_why(bucket: str, tmp_path: Path, place: str, told: str) -> None:
    with pytest.raises(BranchPointUnavailable) as caught:
        fetch(place, tmp_path / "cache")
    assert told in caught.value.what
    if "gcsfs" in told:
        assert caught.value.do == ("pip install 'checkpoint-launcher[gs]'",)


def test_without_a_key(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(BranchPointUnavailable, match="no key"), contextlib.chdir(tmp_path):
        fetch(f"{bucket}/{checkpoint_file(20)}", tmp_path / "cache")
