"""Scalars to bytes and back: one precomputed codec per function signature.

Arguments cross the pipe already laid out as wasmtime's raw values (one 16-byte slot each, little endian,
``wasmtime_val_raw_t``), so a worker copies them into its slots without looking at them, and the results come back the
same way.  All conversion and checking happens once, in the caller's process.
"""

from __future__ import annotations

import operator
import struct
from typing import Any, NoReturn

from .binary import SCALARS, FuncType
from .errors import ArgumentOutOfRange, BadArguments

SLOT = 16  #: bytes per value

_FORMATS = {"i32": "i12x", "i64": "q8x", "f32": "f12x", "f64": "d8x", "v128": "16s"}
_BITS = {"i32": 32, "i64": 64}


class Codec:
    """Packs the arguments and unpacks the results of one export.

    Integers may be given in the signed or the unsigned range and come back signed; floats may be given as int or float;
    a ``v128`` is 16 bytes.  Objects with ``__index__`` or ``__float__`` (numpy scalars among them) are taken too;
    ``bool``, ``str`` and ``None`` are not, because they are nearly always a mistake.

    A float's bits survive the crossing, but for an ``f32`` signalling NaN: Python widens every ``f32`` to a double, and
    the processor makes the NaN quiet in doing so.
    """

    def __init__(self, export: str, signature: FuncType) -> None:
        self.export = export
        self.signature = signature
        unsupported = [t for t in signature.params + signature.results if t not in SCALARS]
        if unsupported:
            raise BadArguments(
                f"{export}{signature} uses the type {unsupported[0]}: references point into one worker's instance and"
                " cannot cross to another process; call it beside the instance, in a function given to submit, or export a"
                " function with i32, i64, f32, f64 or v128 instead"
            )
        #: the slots of arguments and of results, in the words of the module struct
        self.formats: tuple[str, str] = (
            "".join(_FORMATS[t] for t in signature.params),
            "".join(_FORMATS[t] for t in signature.results),
        )
        self._params, self._results = (struct.Struct("<" + each) for each in self.formats)
        #: the types that `pack` hands on as they are
        # What struct takes as it is and gets right, tested in one C call.  bool is no member of these sets (its type is
        # not `int`), a float for an integer makes struct fail, and bytes need their length checked.
        self.plain: frozenset[type] = frozenset(
            () if "v128" in signature.params else (int, float) if {"f32", "f64"} & set(signature.params) else (int,)
        )

    def pack(self, args: tuple[Any, ...]) -> bytes:
        """The arguments as raw slots.

        Raises:
            BadArguments: the number of arguments or the type of one does not fit.
            ArgumentOutOfRange: a number does not fit into its parameter's bits.
        """
        if self.plain.issuperset(map(type, args)):
            try:
                return self._params.pack(*args)
            except (struct.error, OverflowError):
                pass  # an unsigned value, or something to explain: convert one by one
        return self._params.pack(*self._convert(args))

    def unpack(self, data: bytes | memoryview, offset: int = 0) -> Any:
        """The results at ``offset``: None, the value itself, or a tuple of several."""
        values = self._results.unpack_from(data, offset)
        if len(values) == 1:
            return values[0]
        return values or None

    def unpack_all(self, data: Any) -> tuple[Any, ...]:
        """The results at the beginning of ``data``, always as a tuple."""
        return self._results.unpack_from(data)

    def _convert(self, args: tuple[Any, ...]) -> list[int | float | bytes]:
        params = self.signature.params
        if len(args) != len(params):
            raise BadArguments(
                f"{self.export} takes {len(params)} argument{'s'[: len(params) != 1]}, {self.signature}, got {len(args)}"
            )
        return [
            converted(f"{self.export}: argument {position}", value, kind)
            for position, (value, kind) in enumerate(zip(args, params, strict=False))
        ]


def converted(what: str, value: Any, kind: str) -> int | float | bytes:
    """A value of the user's as one of the wasm type ``kind``, by the rules of :class:`Codec`.

    Args:
        what: what the value is for, for the text of an exception.

    Raises:
        BadArguments: its type does not fit.
        ArgumentOutOfRange: it does not fit into the type's bits.
    """
    if kind == "v128":
        if isinstance(value, (bytes, bytearray, memoryview)) and len(bytes(value)) == SLOT:
            return bytes(value)
        _refuse(what, value, "a v128 as 16 bytes")
    # numpy's bool is no subclass of bool, and has both __index__-like and __float__ conversions
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        _refuse(what, value, f"an {kind}, and a bool is not a number here; use int(...)")
    if kind in _BITS:
        try:
            number = operator.index(value)
        except TypeError:
            _refuse(what, value, f"an {kind}, so an int")
        bits = _BITS[kind]
        if not -(1 << bits - 1) <= number < 1 << bits:
            raise ArgumentOutOfRange(
                f"{what} is {_shown(value)}, out of range for {kind} (from -2**{bits - 1} to 2**{bits}-1)"
            )
        return number - (1 << bits) if number >> bits - 1 > 0 else number
    if isinstance(value, (str, bytes, bytearray)) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        _refuse(what, value, f"an {kind}, so a float or an int")
    try:
        real = float(value)
        struct.pack("<f" if kind == "f32" else "<d", real)
    except OverflowError:
        raise ArgumentOutOfRange(f"{what} is {_shown(value)}, too large for {kind}") from None
    except (TypeError, ValueError):
        _refuse(what, value, f"an {kind}, so a float or an int")
    return real


def _refuse(what: str, value: Any, expected: str) -> NoReturn:
    raise BadArguments(f"{what} is {_shown(value)} ({type(value).__name__}), expected {expected}")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # a broken __repr__ must not hide the real error
        text = object.__repr__(value)
    return text if len(text) <= 60 else text[:57] + "..."
