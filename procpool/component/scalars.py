"""Functions of numbers and the like alone: their values travel as they lie in wasmtime's, one to a slot of 8 bytes."""

from __future__ import annotations

import operator
import struct
from typing import Any, NoReturn, SupportsFloat, SupportsIndex

from ..checks import shown
from ..errors import ArgumentOutOfRange, BadArguments
from . import wit

SLOT = 8
_FORMATS = {
    **{
        "bool": "?7x",
        "s8": "b7x",
        "u8": "B7x",
        "s16": "h6x",
        "u16": "H6x",
        "s32": "i4x",
        "u32": "I4x",
        "s64": "q",
        "u64": "Q",
    },
    **{"f32": "f4x", "f64": "d", "char": "I4x"},
}
_FLOATS = ("f32", "f64")
_SURROGATES = range(0xD800, 0xE000)


class ScalarCodec:
    """Packs the arguments and unpacks the result of one function.

    Integers are ints in the type's range, a bool is a bool, a char is a str of one character, floats may be ints.
    """

    def __init__(self, function: wit.Function) -> None:
        self.export = function.name
        self._shown = str(function)
        self._names = [name for name, _ in function.params]
        self._kinds = [str(type_) for _, type_ in function.params]
        self._result = None if function.result is None else str(function.result)
        #: the slots of arguments and of results, in the words of the module struct
        self.formats: tuple[str, str] = (
            "".join(_FORMATS[kind] for kind in self._kinds),
            "" if self._result is None else _FORMATS[self._result],
        )
        self._pack, self._unpack = (struct.Struct("<" + each) for each in self.formats)
        #: the types that `pack` hands on as they are
        self.plain: frozenset[type] = frozenset(
            () if {"bool", "char"} & set(self._kinds) else (int, float) if set(_FLOATS) & set(self._kinds) else (int,)
        )

    def pack(self, args: tuple[Any, ...]) -> bytes:
        """The arguments as slots.

        Raises:
            BadArguments: their number, or the type of one, does not fit.
            ArgumentOutOfRange: a number does not fit into its type.
        """
        if self.plain.issuperset(map(type, args)):
            try:
                return self._pack.pack(*args)
            except (struct.error, OverflowError):
                pass  # for `converted` to explain
        if len(args) != len(self._kinds):
            raise BadArguments(f"{self._shown} takes {len(self._kinds)} arguments, got {len(args)}")
        each = zip(self._names, self._kinds, args, strict=True)
        return self._pack.pack(*[converted(f"{self.export}: {name}", kind, value) for name, kind, value in each])

    def unpack(self, data: bytes | memoryview, offset: int = 0) -> Any:
        """The result at ``offset``, or None."""
        if self._result is None:
            return None
        (value,) = self._unpack.unpack_from(data, offset)
        return chr(value) if self._result == "char" else value


def converted(what: str, kind: str, value: Any) -> Any:
    """A value of the user's as one of a scalar type, by the rules of :class:`ScalarCodec`; of a char, its code.

    Args:
        what: what it is for, for the text of an exception.

    Raises:
        BadArguments: its type does not fit.
        ArgumentOutOfRange: it does not fit into the type's bits.
    """
    if kind == "bool":
        if isinstance(value, bool):
            return value
        _refuse(what, value, "a bool")
    if kind == "char":
        if isinstance(value, str) and len(value) == 1 and ord(value) not in _SURROGATES:
            return ord(value)
        _refuse(what, value, "a char, so a str of one character")
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        _refuse(what, value, f"{kind}, and a bool is not a number here; use int(...)")
    if kind in _FLOATS:
        if isinstance(value, (str, bytes, bytearray)) or not isinstance(value, (SupportsFloat, SupportsIndex)):
            _refuse(what, value, f"{kind}, so a float or an int")
        try:
            real = float(value)
            struct.pack("<f" if kind == "f32" else "<d", real)
            return real
        except OverflowError:
            raise ArgumentOutOfRange(f"{what} is {shown(value)}, too large for {kind}") from None
    try:
        number = operator.index(value)
        struct.pack("<" + _FORMATS[kind], number)
        return number
    except TypeError:
        _refuse(what, value, f"{kind}, so an int")
    except struct.error:
        raise ArgumentOutOfRange(f"{what} is {shown(value)}, out of range for {kind}") from None


def _refuse(what: str, value: Any, expected: str) -> NoReturn:
    raise BadArguments(f"{what} is {shown(value)}, expected {expected}")
