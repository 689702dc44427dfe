"""An extension of Griffe, which reads the docstrings: what it shows as a reader of the manual wants it.

Roles of reST (``:class:`Task```) become links, and a default is shown as its value, not as what makes it.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Attribute, Extension, Object

_ROLE = re.compile(r":(?:class|func|mod|data|meth|attr):`(?P<short>~?)(?P<name>[\w.]+)`")
_EMPTY = {"field(default_factory=list)": "[]", "field(default_factory=dict)": "{}"}


class Docstrings(Extension):
    """Called once for each module, class, function and attribute."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrite what is said of it. What a role names and no page has stays plain code."""
        if isinstance(obj, Attribute):
            obj.value = _EMPTY.get(str(obj.value), obj.value)
        if obj.docstring is None:
            return

        def link(match: re.Match[str]) -> str:
            name = match["name"]
            whole = name if "." in name else f"{obj.module.path}.{name}"
            shown = name.rpartition(".")[2] if match["short"] else name
            return f'<autoref identifier="{whole}" optional>`{shown}`</autoref>'

        obj.docstring.value = _ROLE.sub(link, obj.docstring.value)
