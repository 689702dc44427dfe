"""Plotly's own JavaScript, as its Python package brings it along."""

from __future__ import annotations

from launcher.errors import ConfigError


def plotly_js() -> str:
    """The library, minified, some 4.8 MB.

    Raises:
        ConfigError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise missing("plotly") from error
    return str(get_plotlyjs())


def missing(package: str) -> ConfigError:
    """What is said where a package of the extra ``report`` is not there."""
    return ConfigError(
        f"A report needs the package {package}.",
        found="it is not installed",
        do="pip install 'checkpoint-launcher[report]'",
    )
