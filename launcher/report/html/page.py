"""The page itself: one HTML file that asks the network for nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.report.html.contents import OPEN_BRANCHES, Contents
from launcher.report.html.library import missing, plotly_js

if TYPE_CHECKING:
    import jinja2

_HERE = Path(__file__).parent


def page(contents: Contents, library_at: str | None = None, files_at: str | None = None) -> str:
    """The page as HTML.

    Args:
        contents: what stands on it.
        library_at: where a server has the plotting library; None: it goes into the page.
        files_at: where a server has the runs' files; None: no links to them.

    Raises:
        ConfigError: a package of the extra ``report`` is not installed.
    """
    library = "" if library_at else plotly_js()
    scripts = [_text("page.js")] + ([library] if library else [])
    template = _environment().get_template("page.html.j2")
    return template.render(
        one=contents,
        policy=_policy(scripts, served=library_at is not None),
        style=_text("page.css"),
        script=scripts[0],
        library=library,
        library_at=library_at,
        files_at=files_at,
        open_branches=OPEN_BRANCHES,
        data=_embedded(contents.data),
    )


def board_page(**values: Any) -> str:
    """The list of all groups, for a server."""
    template = _environment().get_template("board.html.j2")
    return template.render(policy=_policy([], served=True), style=_text("page.css"), **values)


def _policy(scripts: list[str], served: bool) -> str:
    """What the page may do: run exactly the scripts that it was written with, and ask for nothing."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = [f"'sha256-{one}'" for one in hashes] + (["'self'"] if served else [])
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(allowed)}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",  # The figure as an image, for its download button.
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _embedded(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@functools.cache
def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as error:
        raise missing("jinja2") from error
    # Names and notes come from records that anybody may have written.
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
