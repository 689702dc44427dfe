"""In what two states differ, told from their digests alone."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.checkpoint.manifest import Content, TensorEntry


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that is not the same on both sides; None where a side does not have it."""

    name: str
    a: TensorEntry | None
    b: TensorEntry | None

    def __str__(self) -> str:
        if self.a is None or self.b is None:
            return f"{self.name}: only in the {'first' if self.b is None else 'second'}"
        if (self.a.shape, self.a.dtype) != (self.b.shape, self.b.dtype):
            return f"{self.name}: {self.a.dtype}{list(self.a.shape)} and {self.b.dtype}{list(self.b.shape)}"
        return f"{self.name}: other values"


@dataclass(frozen=True)
class Difference:
    """Everything in which two states differ; false where they are equal."""

    components: tuple[str, ...] = ()
    """Top-level keys whose digests differ, or that one side lacks; in the first state's order."""
    tensors: tuple[TensorDifference, ...] = ()
    plain: tuple[str, ...] = ()
    """Those components in which every tensor is equal: only their plain values, or their shape, differ."""

    def __bool__(self) -> bool:
        return bool(self.components)


def differing(a: Content, b: Content) -> Difference:
    """Components and tensors in which ``a`` and ``b`` differ, in the order of ``a``, then of ``b``."""
    components = tuple(
        name
        for name in dict.fromkeys([*a.components, *b.components])
        if a.components.get(name) != b.components.get(name)
    )
    of_a = {entry.name: entry for entry in a.tensors}
    of_b = {entry.name: entry for entry in b.tensors}
    tensors = tuple(
        TensorDifference(name, of_a.get(name), of_b.get(name))
        for name in dict.fromkeys([*of_a, *of_b])
        if of_a.get(name) != of_b.get(name)
    )
    plain = tuple(
        component
        for component in components
        if not any(each.name == component or each.name.startswith(f"{component}.") for each in tensors)
    )
    return Difference(components, tensors, plain)
