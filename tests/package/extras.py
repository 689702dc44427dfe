"""The wheel in empty environments, alone and with each extra: python -m tests.package.extras [EXTRA ...]

Each environment is made by pip from the package index with the versions of constraints.txt, used and removed.
Without an extra, its feature has to be refused with the command that installs it; with it, to work.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.package.stranger import Stranger, build_wheel
from tests.tiny_process import ROOT, Ended

CORE = "core"
GROUP = "checkpoint-20-experiments"
ELSEWHERE = Path(__file__).with_name("trained_elsewhere.py")
CONTROL = f"multirun_outputs/{GROUP}/control-????????"
CHECKPOINT = "multirun_outputs/trunks/trunk-*/checkpoints/checkpoint_step_40.pt"


RERUN = ("branch.from_step=20", "loss=smoothed", "fanout.if_exists=rerun")


@dataclass(frozen=True)
class Feature:
    """Something that needs an extra, as a user comes upon it."""

    extra: str
    command: tuple[str, ...]
    says: str
    """With the extra."""
    status: int = 0


def _search(name: str) -> tuple[str, ...]:
    return (
        "python", "train.py", "-m", "hydra/sweeper=optuna", "branch.from_step=20", "hydra.sweeper.trials=2",
        "optimizer.lr=interval(1e-4,1e-2)", "hydra.sweeper.metric=val/accuracy", f"tracking.group={name}",
    )  # fmt: skip


def _tracked_by(tracker: str) -> tuple[str, ...]:
    return ("python", "train.py", *RERUN, f"tracker={{{tracker}:{{}}}}")


# The buckets and hubs are a server on this machine that has nothing.
FEATURES = (
    Feature("gs", ("python", "train.py", "branch.from_checkpoint=gs://bucket/x.pt"), "nothing is there", 2),
    Feature("hf", ("python", "train.py", "branch.from_checkpoint=hf://me/model/x.pt"), "nothing is there", 2),
    Feature("s3", ("python", "train.py", "branch.from_checkpoint=s3://bucket/x.pt"), "nothing is there", 2),
    Feature("mlflow", _tracked_by("mlflow"), "(finished)"),
    Feature(
        "mlflow", ("python", "train.py", "branch.from_checkpoint=mlflow://0123/x.pt"), "cannot be fetched", 2
    ),
    Feature("tensorboard", _tracked_by("tensorboard"), "(finished)"),
    Feature("trackio", _tracked_by("trackio"), "(finished)"),
    Feature("report", ("launcher", "report", GROUP, "--png"), "report.html"),
    Feature(
        "safetensors", ("launcher", "convert", CHECKPOINT, "converted.safetensors"), "converted.safetensors"
    ),
    Feature("search", _search("searched"), "best trial"),
    Feature(
        "vertex",
        ("python", "train.py", "-m", "hydra/launcher=vertex", *RERUN),
        "no credentials for Google Cloud",
        2,
    ),
    Feature("wandb-reports", ("launcher", "report", GROUP, "--wandb"), "report"),
)
LIGHTEST = next(one for one in FEATURES if one.extra == "safetensors")
TRAINED_ELSEWHERE = ("huggingface", "lightning")
"""Extras with whose library a checkpoint is made; reading it needs none."""


class _Nothing(BaseHTTPRequestHandler):
    """A server that has nothing of what is asked for."""

    def _answer(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.send_header("X-Error-Code", "RepoNotFound")  # Hugging Face's hub says it so.
        self.end_headers()

    do_GET = do_HEAD = do_POST = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def nothing_there() -> Iterator[str]:
    """The address of such a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def variables(address: str, directory: Path) -> dict[str, str]:
    """Where the libraries of all extras are to look and to write."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "STORAGE_EMULATOR_HOST": address,
        "HF_ENDPOINT": address,
        "NO_GCE_CHECK": "true",
        "CLOUDSDK_CONFIG": str(directory / "gcloud"),
        "HOME": str(directory / "home"),
        "TRACKIO_DIR": str(directory / "trackio"),
        "WANDB_MODE": "offline",
    }


def main(names: list[str]) -> int:
    """Examine the core and each extra, or those that are named; the exit status is 1 where one is bad."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [CORE, *(name for name in project["optional-dependencies"] if name not in ("dev", "docs"))]
    if unknown := set(names) - set(extras):
        print(f"error: no extra is called {', '.join(sorted(unknown))}; there are {', '.join(extras)}")
        return 2
    bad = 0
    with tempfile.TemporaryDirectory(prefix="extras-") as directory, nothing_there() as address:
        wheel = build_wheel(Path(directory))
        for name in names or extras:
            place = Path(directory, name)
            place.mkdir()
            complaints = examine(name, wheel, place, address)
            bad += bool(complaints)
            for complaint in complaints:
                print(f"  {complaint}", flush=True)
            shutil.rmtree(place)
    return int(bad > 0)


def examine(name: str, wheel: Path, place: Path, address: str) -> list[str]:
    """What is wrong with the wheel and this extra in an environment of their own."""
    stranger = Stranger.make(place)
    stranger.variables.update(variables(address, place))
    (place / "home").mkdir()
    what = str(wheel) if name == CORE else f"{wheel}[{name}]"
    begun = time.monotonic()
    installed = stranger.pip("install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", what)
    took = time.monotonic() - begun
    if installed.status:
        print(f"{name}: not installed", flush=True)
        return [installed.err]
    size = sum(path.stat().st_size for path in stranger.packages.rglob("*") if path.is_file())
    count = len(list(stranger.packages.glob("*.dist-info")))
    print(f"{name}: {count} packages, {size / 1e6:.0f} MB, {took:.0f} s", flush=True)
    return [*trained(stranger), *features(stranger, name)]


def trained(stranger: Stranger) -> Iterator[str]:
    """What goes wrong where no extra is needed: a trunk, its branches, the proof and the answer."""
    siblings = ("branch.from_step=20", "loss=plain,smoothed", "fanout.repeats=2", "tracker={wandb:{}}")
    for command in (
        ("python", "train.py"),
        ("python", "train.py", "-m", *siblings),
        ("launcher", "verify", CONTROL),
        ("launcher", "compare"),
    ):
        ended = stranger.run(*found(command, stranger.project))
        if ended.status:
            yield told(command, ended)
    ended = stranger.pip("check")
    if ended.status:
        yield told(("pip", "check"), ended)


def features(stranger: Stranger, name: str) -> Iterator[str]:
    """What goes wrong with the features of an extra; of the core, with those that it does not have."""
    for feature in FEATURES:
        if name in (CORE, "all", feature.extra):
            yield from tried(stranger, feature, name != CORE)
    if name == CORE:
        # The command of the message, where this version is on no index: what is installed is taken.
        ended = stranger.pip(
            "install", "-c", ROOT / "constraints.txt", f"checkpoint-launcher[{LIGHTEST.extra}]"
        )
        yield from [told(("pip", "install"), ended)] if ended.status else tried(stranger, LIGHTEST, True)
    for library in TRAINED_ELSEWHERE:
        if name in ("all", library):
            yield from read_checkpoint(stranger, library)


def tried(stranger: Stranger, feature: Feature, there: bool) -> Iterator[str]:
    """What goes wrong with a feature whose extra is there, or is not."""
    ended = stranger.run(*found(feature.command, stranger.project))
    refused = f"pip install 'checkpoint-launcher[{feature.extra}]'" in ended.said
    if there:
        good = ended.status == feature.status and feature.says in ended.said and not refused
    else:
        good = ended.status == 2 and refused
    good = good and "Traceback" not in ended.said
    print(f"  {feature.extra}: {'BAD' if not good else 'works' if there else 'refused'}", flush=True)
    if not good:
        yield told(feature.command, ended)


def read_checkpoint(stranger: Stranger, library: str) -> Iterator[str]:
    """What goes wrong with a checkpoint that a library makes in that environment."""
    made = stranger.run(stranger.python, ELSEWHERE, library)
    looked = stranger.launcher("inspect", made.out.split()[-1] if made.out else library)
    good = looked.status == 0 and library in looked.said
    print(f"  {library}: {'a checkpoint of it is read' if good else 'BAD'}", flush=True)
    if not good:
        yield told((str(ELSEWHERE), library), made) + told(("launcher", "inspect"), looked)


def found(command: tuple[str, ...], project: Path) -> list[str]:
    """A command with the one path that a pattern in it means."""
    return [str(next(project.glob(one), one)) if one in (CONTROL, CHECKPOINT) else one for one in command]


def told(command: tuple[object, ...], ended: Ended) -> str:
    """A command that did not end as it should."""
    return f"{' '.join(map(str, command))}\n  status {ended.status}\n{ended.out}{ended.err}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
