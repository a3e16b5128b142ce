"""Python values to typed columns and back: what the batch lane carries.

A column holds one parameter or result of many items, packed like a C array.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from .binary import FuncType
from .codec import SLOT, Codec
from .errors import BadArguments

#: bytes per item and struct format of a column, by value type
WIDTH = {"i32": 4, "i64": 8, "f32": 4, "f64": 8, "v128": 16}
_FORMAT = {"i32": "i", "i64": "q", "f32": "f", "f64": "d"}
_PLAIN: dict[str, frozenset[type]] = {
    "i32": frozenset({int}),
    "i64": frozenset({int}),
    "f32": frozenset({int, float}),
    "f64": frozenset({int, float}),
    "v128": frozenset({bytes}),
}


def pack_column(kind: str, values: Sequence[Any]) -> bytes | None:
    """The column of ``values``; None if one of them is not a plain number in (signed) range."""
    if not _PLAIN[kind].issuperset(map(type, values)):
        return None
    if kind == "v128":
        return b"".join(values) if all(len(value) == WIDTH[kind] for value in values) else None
    try:
        return struct.pack(f"<{len(values)}{_FORMAT[kind]}", *values)
    except (struct.error, OverflowError):
        return None


class Packed(NamedTuple):
    """Items as columns of bytes, up to the first unfit one."""

    columns: list[bytes]
    fit: int
    error: Exception | None  #: what is wrong with the item after those


class ColumnCodec:
    """Packs many argument tuples of one export, and unpacks their results."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.signature: FuncType = codec.signature
        # Where each argument lies in the scalar codec's slots.
        self._cuts = [(SLOT * n, SLOT * n + WIDTH[kind]) for n, kind in enumerate(codec.signature.params)]

    def pack_columns(self, columns: Sequence[Sequence[Any]], first: int) -> Packed:
        """Pack one sequence per parameter, all of one length.  ``first`` is the index of the first item, for errors."""
        params = self.signature.params
        if columns and len(columns) == len(params):
            packed = [pack_column(kind, values) for kind, values in zip(params, columns, strict=True)]
            if None not in packed:
                return Packed(packed, len(columns[0]), None)  # type: ignore[arg-type]
        # Unsigned values, numpy scalars, vectors, or a mistake: one by one.
        return self._pack_each(list(zip(*columns, strict=True)), first)

    def pack_rows(self, rows: Sequence[Sequence[Any]], first: int) -> Packed:
        """Pack argument tuples, which may be ragged."""
        try:
            columns = list(zip(*rows, strict=True))
        except Exception:  # they are ragged, or no rows at all, or their own code raises: see one by one
            columns = []
        return self.pack_columns(columns, first) if columns else self._pack_each(rows, first)

    def _pack_each(self, rows: Sequence[Sequence[Any]], first: int) -> Packed:
        slots: list[bytes] = []
        error: Exception | None = None
        for index, row in enumerate(rows):
            try:
                slots.append(self._codec.pack(tuple(row)))
            except BadArguments as refusal:
                error = type(refusal)(f"item {first + index}: {refusal}")
                break
            except TypeError:
                error = BadArguments(f"item {first + index}: {row!r} is no tuple of arguments")
                break
            except Exception as raised:  # by the item's own __iter__, __index__ or __float__
                error = raised
                break
        return Packed([b"".join([row[start:stop] for row in slots]) for start, stop in self._cuts], len(slots), error)

    def unpack(self, columns: Sequence[bytearray], count: int) -> list[Any]:
        """The results of ``count`` items: None, values, or tuples."""
        values = [unpack_column(kind, column) for kind, column in zip(self.signature.results, columns, strict=True)]
        if len(values) == 1:
            return values[0]
        return list(zip(*values, strict=True)) if values else [None] * count


def unpack_column(kind: str, column: bytearray) -> list[Any]:
    """The values of a column."""
    if kind == "v128":
        return [bytes(column[at : at + 16]) for at in range(0, len(column), 16)]
    values: list[Any] = memoryview(column).cast(_FORMAT[kind]).tolist()  # type: ignore[call-overload]
    return values
