"""What workers run of a component, and how they call it."""

from __future__ import annotations

from typing import NamedTuple

from . import wit

#: WIT's types of numbers and the like, which the C API passes without an allocation, by the kinds it gives them.
SCALARS = {"bool": 0, "s8": 1, "u8": 2, "s16": 3, "u16": 4, "s32": 5, "u32": 6, "s64": 7, "u64": 8, "f32": 9, "f64": 10}
SCALARS["char"] = 11


class Entry(NamedTuple):
    """How a worker calls one function of what it runs."""

    name: str  #: for people
    path: tuple[str, ...]  #: of exports: an instance, if it is in one, and the function
    params: tuple[str, ...] | None  #: the names of scalar types; None if it takes and returns an image as text
    result: str | None  #: likewise


def entry(function: wit.Function) -> Entry:
    """How to call a function of a wrapped component."""
    path = tuple(function.name.split("#", 1))
    if is_scalar(function):
        result = function.result
        return Entry(function.name, path, tuple(str(each) for _, each in function.params), result and str(result))
    return Entry(function.name, path, None, None)


def is_scalar(function: wit.Function) -> bool:
    """Whether a function takes and returns numbers and the like alone."""
    types = [type_ for _, type_ in function.params] + ([] if function.result is None else [function.result])
    return all(isinstance(type_, wit.Primitive) and type_.name in SCALARS for type_ in types)


def wrapped(wasm: bytes, world: wit.World) -> bytes:
    """The component in one that passes on values as images, but for functions of scalars."""
    return wasm
