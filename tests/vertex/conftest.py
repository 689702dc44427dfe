"""A project of Google Cloud with one service account, one bucket, and machines that are processes here."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from google.auth.credentials import CredentialsWithRegionalAccessBoundary as Account

from launcher.checkpoint.manifest import read_manifest
from launcher.fanout.status import statuses
from launcher.launchers.custom_jobs import client
from launcher.launchers.sibling import Launch, Sibling, read_launch
from launcher.launchers.vertex import VertexLauncher, restored
from launcher.process import Process
from tests.tiny_process import Ended, Prepare, Tiny
from tests.vertex.vertex_server import StoredJob, VertexServer

PROJECT = "my-project"
_LOOKUP = "_is_regional_access_boundary_lookup_required"
PARENT = f"projects/{PROJECT}/locations/us-central1"


def _forget() -> None:
    """Each test has a server and credentials of its own."""
    client._client.cache_clear()
    client._credentials.cache_clear()


def without_lookup() -> None:
    """Have Google's client not ask, in a thread, in which regions the account may be used.

    It asks at an address that cannot be changed, and goes on after its test, with streams that are closed.
    """
    setattr(Account, _LOOKUP, lambda _: False)


def impatient(module: str, name: str, seconds: float) -> None:
    """In a process that is about to start: wait less long than one has to for Google."""
    setattr(importlib.import_module(f"launcher.launchers.custom_jobs.{module}"), name, seconds)


@dataclass(frozen=True)
class Key:
    """Of a service account that is made for the tests."""

    private: str
    public: bytes

    def write(self, path: Path, url: str) -> None:
        """As ``gcloud iam service-accounts keys create`` writes it."""
        about = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": self.private,
            "client_email": f"me@{PROJECT}.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{url}/token",
        }
        path.write_text(json.dumps(about))


@pytest.fixture(scope="session")
def key() -> Key:
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Key(private, made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@dataclass
class Cloud:
    """The stand-in, seen from a machine with the tiny project, whose bucket ``runs`` is mounted on both."""

    server: VertexServer
    tiny: Tiny
    mount: Path
    """What a job has as ``/gcs``."""
    environment: dict[str, str]
    prepare: list[Prepare] = field(default_factory=list)
    """What goes wrong in the processes of jobs."""

    @property
    def settings(self) -> tuple[str, ...]:
        return (
            "hydra/launcher=vertex",
            "hydra.launcher.image=us-docker.pkg.dev/my-project/images/tiny:1",
            "hydra.launcher.outputs=/gcs/runs/outputs",
        )

    def launch(self, *overrides: str, **options: Any) -> Ended:
        prepare = [*options.pop("prepare", ()), without_lookup]
        options.update(environment=self.environment, prepare=prepare)
        return self.tiny.launch("-m", *overrides, *self.settings, **options)

    def launcher(self, *arguments: str) -> Ended:
        return self.tiny.launch(
            *arguments,
            f"--outputs={self.tiny.outputs}",
            module="launcher.cli",
            environment=self.environment,
            prepare=[without_lookup],
        )

    def states(self) -> list[str]:
        """Of all branches, as ``launcher status`` has them, at the price of no process."""
        found = statuses(self.tiny.outputs)
        return sorted(one.state for one in found if not one.run.startswith("trunk-"))

    def launches(self) -> list[Launch]:
        return [read_launch(path.parent) for path in sorted(self.tiny.outputs.glob("*/*/launch.json"))]

    def machine(self, job: StoredJob) -> int:
        """A machine of Vertex AI: the mount, the container's command and variables, and nothing else."""
        said = [one.replace("/gcs/", f"{self.mount}/") for one in job.container["args"]]
        return self.tiny.launch(*said, environment=job.environment, prepare=self.prepare).status

    def run_all(self) -> list[int]:
        pending = [job for job in self.server.jobs if job.state == "JOB_STATE_PENDING"]
        return [self.server.run(job, self.machine) for job in pending]


@pytest.fixture
def cloud(tmp_path: Path, trained: Tiny, key: Key, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    mount = tmp_path / "gcs"
    tiny = Tiny(mount / "runs" / "outputs")
    shutil.copytree(trained.outputs, tiny.outputs)
    with VertexServer(key.public) as server:
        account = tmp_path / "account.json"
        key.write(account, server.url)
        environment = {**server.environment, "GOOGLE_APPLICATION_CREDENTIALS": str(account)}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        # Put back after the test.
        monkeypatch.setattr(Account, _LOOKUP, getattr(Account, _LOOKUP))
        without_lookup()
        _forget()
        yield Cloud(server, tiny, mount, environment)
        _forget()
        assert server.complaints == []


@dataclass
class Asked:
    """The launcher in this process, and a sibling for it that nobody has launched."""

    cloud: Cloud
    sibling: Sibling

    def launcher(self, **settings: Any) -> VertexLauncher:
        named = {"image": "images/tiny:1", "outputs": "/gcs/runs/outputs", **settings}
        return restored({"project": PROJECT, **named})

    def with_config(self, config: dict[str, Any]) -> Sibling:
        assert self.sibling.launch is not None
        return replace(self.sibling, launch=replace(self.sibling.launch, config=config))


@pytest.fixture
def asked(cloud: Cloud) -> Asked:
    trunk = cloud.tiny.trunk
    point = trunk.directory.checkpoints / "checkpoint_step_20.pt"
    manifest = read_manifest(point)
    config = dict(manifest.about.config)
    config["paths"] = {**config["paths"], "outputs": str(cloud.tiny.outputs)}
    config["fanout"] = {**config["fanout"], "point": f"{point}@{manifest.sha256}", "signature": "12345678"}
    directory = cloud.tiny.outputs / "group" / "control-12345678"
    launch = Launch(directory.name, [], "/", config, {}, "vertex", "f", "now", Process.this())
    directory.mkdir(parents=True)
    launch.write(directory)
    return Asked(cloud, Sibling(directory.name, directory, 40, launch=launch, overrides=("seed=0",)))
