"""Reports as the stand-in stores them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.wandb_server.graph import Fields


@dataclass(frozen=True)
class StoredView:
    """One report."""

    entity: str
    project: str
    title: str
    description: str
    spec: dict[str, Any]


class Views:
    """All reports, and the field that makes one."""

    def __init__(self) -> None:
        self.stored: list[StoredView] = []

    def root(self) -> dict[str, Any]:
        """The root fields of mutations about reports."""
        return {"upsertView": self._upsert}

    def _upsert(self, input: dict[str, Any]) -> Fields:
        made = StoredView(
            input["entityName"], input["projectName"], input["displayName"], input["description"],
            json.loads(input["spec"]),
        )  # fmt: skip
        self.stored.append(made)
        project = {"id": f"project-{made.project}", "name": made.project, "entityName": made.entity}
        view = {
            "id": f"view-{len(self.stored)}", "type": input["type"], "name": input["name"],
            "displayName": made.title, "description": made.description, "project": project,
            "spec": input["spec"], "updatedAt": None,
        }  # fmt: skip
        return {"view": view, "inserted": True}
