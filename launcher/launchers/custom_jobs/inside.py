"""Inside a job of Vertex AI: which job this process is in."""

from __future__ import annotations

import os
from collections.abc import Mapping

JOB_VARIABLE = "LAUNCHER_VERTEX_JOB"
"""Environment variable of a job: its token, see :data:`launcher.launchers.custom_jobs.states.JOB_LABEL`."""
SWEEPER = "vertex_job"
"""Name of the sweeper by which one job runs several siblings."""


def vertex_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The token of the job of Vertex AI that this process runs in, if any."""
    return environment.get(JOB_VARIABLE) or None
