"""Sweeps as the stand-in runs them: a grid, one run at a time to each agent that asks."""

# ruff: noqa: N803 - arguments are called what the schema calls them
from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.wandb_server.graph import Fields
from tests.wandb_server.runs import ENTITY


@dataclass
class StoredSweep:
    """One sweep, and the runs that it handed out."""

    name: str
    project: str
    config: dict[str, Any]
    waiting: list[dict[str, Any]] = field(default_factory=list)
    given: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Run id to its arguments."""

    def __post_init__(self) -> None:
        parameters = self.config["parameters"]
        assert self.config["method"] == "grid", "the stand-in searches grids only"
        for values in itertools.product(*(one["values"] for one in parameters.values())):
            self.waiting.append(dict(zip(parameters, values, strict=True)))

    def next(self) -> list[dict[str, Any]]:
        """What an agent is told to do: start the next run, or, after the last, leave."""
        if not self.waiting:
            return [{"type": "exit"}]
        chosen = self.waiting.pop(0)
        run = f"{self.name}-{len(self.given)}"
        self.given[run] = chosen
        arguments = {key: {"value": value} for key, value in chosen.items()}
        return [{"type": "run", "run_id": run, "args": arguments, "program": self.config["program"]}]


class Sweeps:
    """All sweeps, and the fields that ask for them."""

    def __init__(self) -> None:
        self.stored: dict[str, StoredSweep] = {}

    def root(self) -> dict[str, Any]:
        """The root fields of mutations about sweeps."""
        return {
            "upsertSweep": self._upsert,
            "createAgent": lambda input: {"agent": {"id": input["sweep"]}},
            "agentHeartbeat": self._heartbeat,
        }

    def find(self, sweepName: str) -> Fields | None:
        """What a project's field ``sweep`` has of it."""
        sweep = self.stored.get(sweepName)
        if sweep is None:
            return None
        return {
            "id": sweep.name, "name": sweep.name, "method": "grid", "state": "RUNNING", "description": None,
            "config": yaml.safe_dump(sweep.config), "createdAt": None, "heartbeatAt": None, "updatedAt": None,
            "earlyStopJobRunning": False, "bestLoss": None, "controller": None, "scheduler": None,
            "runs": {"edges": []},
        }  # fmt: skip

    def _upsert(self, input: dict[str, Any]) -> Fields:
        name = f"sweep{len(self.stored)}"
        project = input.get("projectName") or "uncategorized"
        self.stored[name] = StoredSweep(name, project, yaml.safe_load(input["config"]))
        entity = {"id": ENTITY, "name": ENTITY}
        found = {"name": name, "project": {"id": f"project-{project}", "name": project, "entity": entity}}
        return {"sweep": found, "configValidationWarnings": []}

    def _heartbeat(self, input: dict[str, Any]) -> Fields:
        busy = any(json.loads(input["runState"]).values())
        commands = [] if busy else self.stored[input["id"]].next()
        return {"agent": {"id": input["id"]}, "commands": json.dumps(commands)}
