"""The page itself: one HTML file that asks the network for nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.report.html.contents import DIGITS, OPEN_BRANCHES, Contents
from launcher.report.html.library import missing, plotly_js

if TYPE_CHECKING:
    import jinja2

_HERE = Path(__file__).parent


def page(contents: Contents, served: bool = False) -> str:
    """The page as HTML.

    Args:
        contents: what stands on it.
        served: whether ``launcher board`` serves it, and the scripts and the runs' files beside it; else
            everything goes into the page.

    Raises:
        ConfigError: a package of the extra ``report`` is not installed.
    """
    scripts = [] if served else [*([plotly_js()] if contents.drawn else []), page_js()]
    template = _environment().get_template("page.html.j2")
    return template.render(
        one=contents,
        policy=policy(["'self'"] if served else [_hash(text) for text in scripts]),
        style=_text("page.css"),
        scripts=scripts,
        served=served,
        open_branches=OPEN_BRANCHES,
        digits=DIGITS,
        data=_embedded(contents.data),
    )


def board_page(**values: Any) -> str:
    """The list of all groups, for a server."""
    template = _environment().get_template("board.html.j2")
    return template.render(style=_text("page.css"), **values)


def page_js() -> str:
    """What moves on the page."""
    return _text("page.js")


def policy(scripts: list[str]) -> str:
    """What the page may do: run these scripts, and ask nobody for anything."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(scripts)}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",  # The figure as an image, for its download button.
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


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
