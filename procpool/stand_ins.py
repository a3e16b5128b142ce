"""What serves imports that nothing was given for.  Made in the parent, run in the workers."""

from __future__ import annotations

from typing import Any

from .binary import SCALARS, FuncType, nullable, with_article
from .errors import MissingImport


class Trapping:
    """A host function whose call fails, and says which one it was."""

    def __init__(self, module: str, name: str, signature: FuncType, why: str = "") -> None:
        self._text = f"the guest called its import {module}.{name} {signature}, and nothing was given for that{why}"

    def __call__(self, *args: Any) -> Any:
        raise MissingImport(self._text)


class Zero:
    """A host function that returns zeros and nulls."""

    def __init__(self, signature: FuncType) -> None:
        values = tuple(zero(kind) for kind in signature.results)
        self._returned = None if not values else values[0] if len(values) == 1 else values

    def __call__(self, *args: Any) -> Any:
        return self._returned


def zeros(module: str, name: str, signature: FuncType) -> Trapping | Zero:
    """A host function that returns zeros and nulls, or whose call fails where there is no such value."""
    for kind in signature.results:
        if not has_zero(kind):
            return Trapping(module, name, signature, f": {with_article(kind)} is never null, so there is no zero to return")
    return Zero(signature)


def has_zero(kind: str) -> bool:
    """Whether a value type has a zero or a null."""
    return kind in SCALARS or nullable(kind)


def zero(kind: str) -> Any:
    """The zero of a value type: a number, the bytes of a vector, or None for a reference."""
    if kind == "v128":
        return bytes(16)
    return None if kind not in SCALARS else 0 if kind in ("i32", "i64") else 0.0
