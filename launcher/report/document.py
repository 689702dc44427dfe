"""What ``launcher report`` leaves on disk: the page, and the figures if they are asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.files import disk_error, write_text
from launcher.report.compare.comparison import Asked
from launcher.report.figures import write_figures
from launcher.report.group import draw, read_group
from launcher.report.html.contents import contents
from launcher.report.html.page import page

PAGE = "report.html"
FIGURES = "figures"


@dataclass(frozen=True)
class Document:
    """What was asked for."""

    outputs: Path
    group: str
    asked: Asked
    place: Path
    """The HTML file."""
    width_cm: float | None = None
    """Width of PNG figures; None: there are none."""


@dataclass(frozen=True)
class Written:
    """What was written."""

    page: str
    bytes: int
    figures: list[str]
    question: str
    sentence: str
    proof: str
    """``exact``, ``not exact`` or ``not proven``."""
    holds: bool
    """Whether everything that was expected is so."""
    answers: list[str]
    """What came of each expectation, in words."""

    def to_json(self) -> dict[str, Any]:
        """The facts as a JSON object."""
        return asdict(self)


def write(document: Document, live: bool = False, every: float = 0.0) -> Written:
    """Write page and figures, each whole or not at all.

    Args:
        document: what is written, and where.
        live: whether the page will be written again, and is to reload itself.
        every: seconds after which it does.

    Raises:
        LauncherError: the group cannot be read, a package is missing, or a file cannot be written.
    """
    group = read_group(document.outputs, document.group, document.asked)
    drawn = draw(group)
    found = contents(group, drawn, live, every)
    text = page(found)
    figures: list[Path] = []
    try:
        document.place.parent.mkdir(parents=True, exist_ok=True)
        write_text(document.place, text)
        if document.width_cm is not None:
            figures = write_figures(group, drawn, document.place.parent / FIGURES, document.width_cm)
    except OSError as error:
        raise disk_error(error, document.place) from error
    return Written(
        page=str(document.place),
        bytes=len(text.encode()),
        figures=[str(path) for path in figures],
        question=found.answer.question,
        sentence=found.answer.sentence,
        proof=found.proof_state,
        holds=group.comparison is None or group.comparison.holds,
        answers=[text for _, text in found.comparison.answers] if found.comparison is not None else [],
    )
