"""Sweep files, and the runs that W&B's own agent starts from one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from launcher.errors import ConfigError
from launcher.layout import RunDirectory
from launcher.trackers.base import RunIdentity
from launcher.trackers.wandb.names import described
from launcher.trackers.wandb.sweep_config import sweep_config
from tests.tiny_process import ROOT, Tiny
from tests.wandb_server.server import WandbServer


class TestSweepConfig:
    @pytest.mark.parametrize(
        "text",
        [
            "optimizer.lr=1e-4,5e-5", "loss=fixed,buggy", "+branch=a,b", "curriculum.on=true,false",
            "a=null,1", "a='x,y','1',z", "a=[1,2],[3]", "a={b:1,c:'d e'},{}", "seed=range(1,4)",
            "a=choice('',b)", "a=inf,nan", r"a='it\'s',b c",
        ],
    )  # fmt: skip
    def test_an_agents_arguments_are_what_m_would_give(self, text: str) -> None:
        """Through YAML, JSON and ``str``, as W&B takes them to the command line."""
        parser = OverridesParser.create()
        swept = parser.parse_override(text)
        [(key, parameter)] = sweep_config([text])["parameters"].items()
        values = json.loads(json.dumps(yaml.safe_load(yaml.safe_dump(parameter))["values"]))
        arguments = [
            create_sweep_command_args({"args": {key: {"value": value}}})["args_no_hyphens"][0]
            for value in values
        ]
        expected = [f"{key}={value}" for value in swept.sweep_string_iterator()]
        found = [parser.parse_override(one) for one in arguments]
        assert [one.get_key_element() for one in found] == [key] * len(expected)
        assert list(map(repr, (one.value() for one in found))) == list(
            map(repr, (parser.parse_override(one).value() for one in expected))
        )

    def test_bounds(self) -> None:
        plain = sweep_config(["lr=interval(0.1,1.0)"], method="random")["parameters"]
        assert plain == {"lr": {"min": 0.1, "max": 1.0}}
        log = sweep_config(["lr=tag(log,interval(1e-5,1e-3))"], method="bayes", metric="val/error")
        assert log["parameters"]["lr"] == {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3}
        assert log["metric"] == {"name": "val/error", "goal": "maximize"}

    @pytest.mark.parametrize(
        ("overrides", "more", "said"),
        [
            (["a=1"], {}, "Nothing is swept"),
            (["a=1,2", "b=("], {}, "cannot be read"),
            (["a=interval(0,1)"], {}, "no interval"),
            (["loss=glob(*)"], {}, "cannot sweep"),
            (["a=1,2"], {"method": "bayes"}, "needs a metric"),
        ],
    )
    def test_what_does_not_go(self, overrides: list[str], more: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            sweep_config(overrides, **more)

    def test_the_file_in_conf_is_what_the_command_writes(self, tiny: Tiny, tmp_path: Path) -> None:
        file = ROOT / "conf" / "sweep.yaml"
        typed = file.read_text().splitlines()[0].removeprefix("# Written by: launcher ").split()
        out = tmp_path / "sweep.yaml"
        done = tiny.launch(*typed, "--write", str(out), module="launcher.cli")
        assert (done.status, out.read_text()) == (0, file.read_text())
        again = tiny.launch(*typed, "--write", str(out), module="launcher.cli")
        assert again.status == 2
        assert "there already" in again.err


class TestId:
    def test_of_an_agents_run(self, tmp_path: Path) -> None:
        def told(environment: dict[str, str], **about: Any) -> tuple[str, str]:
            identity = RunIdentity("mine-1", "mine-1", None, None, tmp_path, **about)
            found = described(identity, environment)
            return found.arguments["id"], found.sources["id"]

        agent = {"WANDB_RUN_ID": "given", "WANDB_SWEEP_ID": "s"}
        assert told(agent) == ("given", "WANDB_RUN_ID")
        assert told(agent, alone=False) == ("mine-1", "run id")
        assert told({"WANDB_RUN_ID": "given"}) == ("mine-1", "run id")
        # Launched again by hand, or by another agent: W&B knows it by the first one's id.
        known = {"wandb_settings": {"id": "given", "sources": {"id": "WANDB_RUN_ID"}}}
        assert told({}, known=known) == told({**agent, "WANDB_RUN_ID": "x"}, known=known)


def test_what_an_agent_starts_are_siblings(tiny: Tiny, server: WandbServer, tmp_path: Path) -> None:
    environment = {
        **os.environ, **server.environment, "PYTHONPATH": str(ROOT), "WANDB_DIR": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "WANDB_PROJECT": "checkpoint-branching",
    }  # fmt: skip

    def wandb(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", *arguments],
            env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    swept = ["branch.from_step=20", "optimizer.lr=0.002,0.003", "tracker=wandb"]
    typed = ["sweep-config", *swept, f"paths.outputs={tiny.outputs}", "--write", str(tmp_path / "sweep.yaml")]
    written = tiny.launch(*typed, f"--program={ROOT / 'tests' / 'tiny_train.py'}", module="launcher.cli")
    assert written.status == 0, written.err
    wandb("sweep", str(tmp_path / "sweep.yaml"))
    [sweep] = server.sweeps.stored.values()
    wandb("agent", sweep.name)

    branches = [run for run in tiny.runs() if run.record.kind == "branch"]
    assert {run.record.differences["optimizer.lr"][1] for run in branches} == {0.002, 0.003}
    assert {run.record.group for run in branches} == {"checkpoint-20-experiments"}
    by_id = {run.record.trackers["wandb_settings"]["id"]: run for run in branches}
    assert set(by_id) == set(sweep.given)
    for given, arguments in sweep.given.items():
        stored = server.run(given)
        assert stored.group == "checkpoint-20-experiments"
        assert stored.values["optimizer"]["lr"] == arguments["optimizer.lr"]
        assert len(stored.history) == len(
            RunDirectory(by_id[given].directory.path).metrics.read_text().splitlines()
        )
        assert stored.state == "finished"
    # The same fan-out by hand finds them done.
    again = tiny.launch("-m", *swept, environment=server.environment)
    assert again.status == 0, again.err
    assert len([run for run in tiny.runs() if run.record.kind == "branch"]) == 2
