"""How the canonical ABI lays values out: sizes and alignments in memory, and as arguments of core functions.

There are two layouts.  In *memory* a value takes the bytes that its type needs.  As *slots*, each core value that it
consists of takes eight bytes, which is how this package hands over arguments that a core function takes one by one.  With
eight bytes for everything that is no aggregate, the rules for records and variants are the same for both.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import zip_longest

from . import wit

#: More core parameters than this are passed in memory, and more results than that.
MOST_PARAMS, MOST_RESULTS = 16, 1

#: Where an image begins in the memory of the wrapper; see `procpool.component.wrapper`.
BASE = 16

#: The largest image, in bytes: wasmtime copies no more than 128 MiB of text in a call, and a byte is two digits.
MOST_BYTES = 1 << 26

#: An image is filled up to a multiple of so many bytes.
CHUNK = 4

_SIZES = {
    **dict.fromkeys(("bool", "s8", "u8"), 1),
    **dict.fromkeys(("s16", "u16"), 2),
    **dict.fromkeys(("s32", "u32", "f32", "char", "error-context"), 4),
    **dict.fromkeys(("s64", "u64", "f64"), 8),
}
_CORE = {"s64": "i64", "u64": "i64", "f32": "f32", "f64": "f64"}


def aligned(at: int, alignment: int) -> int:
    """The first multiple of the alignment, a power of two, from there."""
    return at + alignment - 1 & -alignment


def cases(type_: wit.Type) -> tuple[wit.Type | None, ...] | None:
    """The payloads of a type that is laid out as a variant; None for others."""
    if isinstance(type_, wit.Variant):
        return tuple(payload for _, payload in type_.cases)
    if isinstance(type_, wit.Enum):
        return (None,) * len(type_.labels)
    if isinstance(type_, wit.Option):
        return (None, type_.some)
    if isinstance(type_, wit.Result):
        return (type_.ok, type_.error)
    return None


def fields(type_: wit.Type) -> tuple[wit.Type, ...] | None:
    """The parts of a type that is laid out as a record; None for others."""
    if isinstance(type_, wit.Record):
        return tuple(each for _, each in type_.fields)
    if isinstance(type_, wit.Tuple):
        return type_.items
    if isinstance(type_, wit.List) and type_.length is not None:
        return (type_.element,) * type_.length
    return None


def discriminant_size(count: int) -> int:
    """Bytes that tell so many cases apart."""
    return 1 if count <= 1 << 8 else 2 if count <= 1 << 16 else 4


def flags_size(count: int) -> int:
    """Bytes for so many flags, of which there are at most 32 (wasmtime, and the specification, refuse more)."""
    return 1 if count <= 8 else 2 if count <= 16 else 4


def scalar_size(type_: wit.Type) -> int | None:
    """Bytes in memory of what is one core value and no variant; None for other types."""
    if isinstance(type_, wit.Primitive):
        return _SIZES.get(type_.name)
    if isinstance(type_, wit.Flags):
        return flags_size(len(type_.labels))
    return 4 if isinstance(type_, (wit.Handle, wit.Channel)) else None


@cache
def placed(type_: wit.Type, slots: bool) -> tuple[int, int]:
    """Size and alignment of a type, in bytes."""
    size = scalar_size(type_)
    if size is not None:
        return (8, 8) if slots else (size, size)
    if (payloads := cases(type_)) is not None:
        start, size, alignment = payload_at(payloads, slots)
        return aligned(start + size, alignment), alignment
    if (inner := fields(type_)) is not None:
        return record_size(inner, slots)
    return (16, 8) if slots else (8, 4)  # a pointer and a length


def record_size(inner: Iterable[wit.Type], slots: bool) -> tuple[int, int]:
    """Size and alignment of a record of these fields, in bytes."""
    at, most = 0, 1
    for each in inner:
        size, alignment = placed(each, slots)
        at, most = aligned(at, alignment) + size, max(most, alignment)
    return aligned(at, most), most


def payload_at(payloads: tuple[wit.Type | None, ...], slots: bool) -> tuple[int, int, int]:
    """Of a variant: where payloads begin, the size of the largest, and the alignment of the whole, in bytes."""
    tag = 8 if slots else discriminant_size(len(payloads))
    sizes = [placed(each, slots) for each in payloads if each is not None]
    inner = max((alignment for _, alignment in sizes), default=1)
    return aligned(tag, inner), max((size for size, _ in sizes), default=0), max(tag, inner)


@cache
def flat(type_: wit.Type) -> tuple[str, ...]:
    """The core types that a value of this type consists of."""
    if isinstance(type_, wit.Primitive) and type_.name != "string":
        return (_CORE.get(type_.name, "i32"),)
    if scalar_size(type_) is not None:
        return ("i32",)
    if (payloads := cases(type_)) is not None:
        joined: list[str] = []
        for each in (flat(payload) for payload in payloads if payload is not None):
            joined = [_join(*pair) for pair in zip_longest(joined, each)]
        return ("i32", *joined)
    if (inner := fields(type_)) is not None:
        return tuple(core for each in inner for core in flat(each))
    return ("i32", "i32")


def _join(one: str | None, other: str | None) -> str:
    """The core type that holds values of both."""
    if one is None or other is None or one == other:
        return one or other or ""
    return "i32" if {one, other} == {"i32", "f32"} else "i64"


def flat_params(function: wit.Function) -> tuple[str, ...] | None:
    """The core types of a function's parameters; None if they are passed in memory."""
    found = tuple(core for _, each in function.params for core in flat(each))
    return found if len(found) <= MOST_PARAMS else None


def flat_results(function: wit.Function) -> tuple[str, ...] | None:
    """The core types of a function's result, at most one; None if it is passed in memory."""
    found = () if function.result is None else flat(function.result)
    return found if len(found) <= MOST_RESULTS else None
