"""The same against the true service, for whoever has an account: pytest --real-wandb, with WANDB_API_KEY set.

Everything goes into the project ``checkpoint-launcher-check`` (or WANDB_PROJECT) of the key's owner (or
WANDB_ENTITY), in a group of its own, and is left there to be looked at.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.trackers.wandb.sync import Local, sync_run
from tests.tiny_process import Tiny, digest
from tests.trackers.wandb_runs import identity, run, segments

GIVEN = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
"""As the person who runs the tests set them; taken before a test takes them away."""


@pytest.fixture
def account(
    request: pytest.FixtureRequest, nobody_logged_in: None, monkeypatch: pytest.MonkeyPatch
) -> str | None:
    """The entity that was named, if any."""
    if not request.config.getoption("--real-wandb"):
        pytest.skip("needs an account: pytest --real-wandb, with WANDB_API_KEY set")
    if not GIVEN.get("WANDB_API_KEY"):
        pytest.skip("--real-wandb needs WANDB_API_KEY")
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        if name in GIVEN:
            monkeypatch.setenv(name, GIVEN[name])
    return GIVEN.get("WANDB_ENTITY")


def soon(what: Callable[[], object], expected: object, seconds: float = 60.0) -> None:
    """The service shows what it was given some seconds later."""
    deadline = time.monotonic() + seconds
    while (found := what()) != expected and time.monotonic() < deadline:
        time.sleep(2)
    assert found == expected


def test_the_true_service_does_what_the_stand_in_does(tmp_path: Path, account: str | None) -> None:
    mark = uuid.uuid4().hex[:8]
    project = GIVEN.get("WANDB_PROJECT", "checkpoint-launcher-check")
    group = f"checkpoint-15k-experiments-{mark}"
    where = {"group": group, "project": project, "entity": account}
    for name in ("fixed", "buggy"):
        about = identity(tmp_path / name, id=f"{name}-{mark}", job_type=f"{name}-spectrum", **where)
        run(about, range(1, 6), mode="online", state="interrupted", init_seconds=60.0)
    again = {"resumed": True, "last_logged_step": 5}
    about = identity(tmp_path / "fixed", id=f"fixed-{mark}", **where, **again)
    run(about, range(3, 9), mode="online", init_seconds=60.0)
    run(identity(tmp_path / "late", id=f"late-{mark}", **where), range(1, 6))
    segments(tmp_path / "late")
    found = sync_run(Local(f"late-{mark}", tmp_path / "late", "finished", project, account))
    assert found.problem is None
    assert len(found.uploaded) == 1

    import wandb

    def there() -> dict[str, tuple[str, str, list[int]]]:
        api = wandb.Api()
        runs = api.runs(f"{account or api.default_entity}/{project}", filters={"group": group})
        return {
            one.id: (one.group, one.job_type, [row["_step"] for row in one.scan_history(keys=["_step"])])
            for one in runs
        }

    soon(
        there,
        {
            f"fixed-{mark}": (group, "fixed-spectrum", list(range(1, 9))),
            f"buggy-{mark}": (group, "buggy-spectrum", list(range(1, 6))),
            f"late-{mark}": (group, "fixed-spectrum", list(range(1, 6))),
        },
    )


def test_an_artifact_goes_out_of_a_trunk_and_into_a_branch(tmp_path: Path, account: str | None) -> None:
    project = GIVEN.get("WANDB_PROJECT", "checkpoint-launcher-check")
    environment = {name: GIVEN[name] for name in ("WANDB_API_KEY", "WANDB_BASE_URL") if name in GIVEN}
    environment["HOME"] = str(tmp_path / "home")
    seed = f"seed={uuid.uuid4().int % 2**31}"
    tracked = ["tracker=wandb", f"tracking.project={project}", seed]
    tracked += [f"tracking.entity={account}"] if account else []
    near, far = Tiny(tmp_path / "near"), Tiny(tmp_path / "far")
    trunk = near.train(*tracked, "checkpoint.artifact=all", environment=environment)

    import wandb

    owner = account or wandb.Api().default_entity
    collection = f"{owner}/{project}/model-{trunk.id}"
    branch = far.train(f"branch.from_checkpoint={collection}:step-20", *tracked, "checkpoint.artifact=last",
                       environment=environment)  # fmt: skip
    assert digest(branch) == digest(trunk)
    source = branch.record.parent.source if branch.record.parent else None
    assert source == f"wandb://{collection}:v1"

    def artifacts(name: str) -> tuple[list[str], list[str]]:
        found = wandb.Api().run(f"{owner}/{project}/{name}")
        used, logged = found.used_artifacts(), found.logged_artifacts()
        return [one.source_name for one in used], sorted(one.source_name for one in logged)

    soon(lambda: artifacts(trunk.id), ([], [f"model-{trunk.id}:v{version}" for version in range(4)]))
    soon(lambda: artifacts(branch.id), ([f"model-{trunk.id}:v1"], [f"model-{branch.id}:v0"]))
