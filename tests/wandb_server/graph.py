"""GraphQL documents answered from plain values: what is not there is an error that names the field."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    parse,
    value_from_ast_untyped,
)

Fields = Mapping[str, Any]
"""Field to value, or to a function that is called with the field's arguments."""


IMPLEMENTS = "__implements"
"""Where a value says of which interfaces its type is."""


class NotModelled(Exception):
    """The client asked for something that the stand-in does not have."""


def answer(document: str, variables: Mapping[str, Any], root: Fields) -> dict[str, Any]:
    """The ``data`` of a response.

    Raises:
        NotModelled: names the field.
        GraphQLSyntaxError: the document is none.
    """
    parsed = parse(document)
    [operation] = [one for one in parsed.definitions if isinstance(one, OperationDefinitionNode)]
    defaults = {
        one.variable.name.value: value_from_ast_untyped(one.default_value)
        for one in operation.variable_definitions or ()
        if one.default_value is not None
    }
    walk = _Walk(_fragments(parsed), {**defaults, **variables})
    return walk.selected(root, operation.selection_set, operation.operation.value)


def _fragments(document: DocumentNode) -> dict[str, FragmentDefinitionNode]:
    return {one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)}


class _Walk:
    def __init__(self, fragments: Mapping[str, FragmentDefinitionNode], variables: Mapping[str, Any]) -> None:
        self._fragments, self._variables = fragments, variables

    def selected(self, fields: Fields, selection: SelectionSetNode, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for one in selection.selections:
            if not self._included(one):
                continue
            if isinstance(one, FieldNode):
                name = one.name.value
                found[one.alias.value if one.alias else name] = self._field(fields, one, f"{path}.{name}")
            elif isinstance(one, FragmentSpreadNode):
                fragment = self._fragments[one.name.value]
                if self._applies(fragment.type_condition.name.value, fields):
                    found.update(self.selected(fields, fragment.selection_set, path))
            elif isinstance(one, InlineFragmentNode) and (
                one.type_condition is None or self._applies(one.type_condition.name.value, fields)
            ):
                found.update(self.selected(fields, one.selection_set, path))
        return found

    def _applies(self, condition: str, fields: Fields) -> bool:
        return condition in (fields.get("__typename", condition), *fields.get(IMPLEMENTS, ()))

    def _included(self, node: Any) -> bool:
        for directive in node.directives or ():
            [condition] = [
                value_from_ast_untyped(one.value, self._variables) for one in directive.arguments or ()
            ]
            if bool(condition) is (directive.name.value == "skip"):
                return False
        return True

    def _field(self, fields: Fields, node: FieldNode, path: str) -> Any:
        if node.name.value not in fields:
            raise NotModelled(f"the stand-in does not model {path}")
        value = fields[node.name.value]
        if callable(value):
            value = _called(value, node, self._variables, path)
        return self._shaped(value, node.selection_set, path)

    def _shaped(self, value: Any, selection: SelectionSetNode | None, path: str) -> Any:
        if selection is None or value is None:
            return value
        if isinstance(value, list):
            return [self._shaped(one, selection, path) for one in value]
        return self.selected(value, selection, path)


def _called(function: Callable[..., Any], node: FieldNode, variables: Mapping[str, Any], path: str) -> Any:
    given = {one.name.value: value_from_ast_untyped(one.value, variables) for one in node.arguments or ()}
    try:
        bound = inspect.signature(function).bind(**given)
    except TypeError as error:
        raise NotModelled(f"the stand-in does not model {path} with {sorted(given)}: {error}") from error
    return function(*bound.args, **bound.kwargs)
