"""What serves imports that nothing was given for.  Made in the parent, run in the workers."""

from __future__ import annotations

from typing import Any

from .binary import SCALARS, FuncType, nullable
from .errors import MissingImport


class Trapping:
    """A host function whose call fails, and says which one it was."""

    def __init__(self, module: str, name: str, signature: FuncType) -> None:
        self._what = f"{module}.{name} {signature}"

    def __call__(self, *args: Any) -> Any:
        raise MissingImport(f"the guest called its import {self._what}, and nothing was given for that")


class Zero:
    """A host function that returns zeros and nulls; whose call fails where there is no such value."""

    def __init__(self, module: str, name: str, signature: FuncType) -> None:
        self._never_null = [kind for kind in signature.results if kind not in SCALARS and not nullable(kind)]
        self._what = f"{module}.{name} {signature}"
        values = tuple(zero(kind) for kind in signature.results)
        self._returned = None if not values else values[0] if len(values) == 1 else values

    def __call__(self, *args: Any) -> Any:
        if self._never_null:
            raise MissingImport(
                f"the guest called its import {self._what}, and nothing was given for that: a {self._never_null[0]} is"
                " never null, so there is no zero to return"
            )
        return self._returned


def zero(kind: str) -> Any:
    """The zero of a value type: a number, the bytes of a vector, or None for a reference."""
    if kind == "v128":
        return bytes(16)
    return None if kind not in SCALARS else 0 if kind in ("i32", "i64") else 0.0
