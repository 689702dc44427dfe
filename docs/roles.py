"""An extension of Griffe: what docstrings refer to in reST (``:class:`Task```) as links of Markdown."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:class|func|mod|data|meth|attr):`(?P<short>~?)(?P<name>[\w.]+)`")


class Roles(Extension):
    """Rewrites the roles in every docstring. What has no page of its own stays plain code."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is None:
            return

        def link(match: re.Match[str]) -> str:
            name = match["name"]
            whole = name if "." in name else f"{obj.module.path}.{name}"
            shown = name.rpartition(".")[2] if match["short"] else name
            return f'<autoref identifier="{whole}" optional>`{shown}`</autoref>'

        obj.docstring.value = _ROLE.sub(link, obj.docstring.value)
