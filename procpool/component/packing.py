"""How the arguments of a function become the payload of a job, and the payload of its reply the result."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from . import wit
from .codec import NUMBERS, ComponentCodec, WrapHandle
from .values import Resource
from .wrapper import is_scalar

#: Bytes of a number's payload.
_SLOT = 8


class Packing:
    """Packs the arguments and unpacks the results of one function, with a shorter way for those of numbers alone.

    Args:
        function: the function.
        wrap: makes the object for a handle that it returns.
    """

    def __init__(self, function: wit.Function, wrap: WrapHandle = Resource) -> None:
        codec = ComponentCodec(function, wrap)
        self.export: str = function.name
        #: the slots of arguments and of results, in the words of the module struct; of no use if `plain` is empty
        self.formats: tuple[str, str] = "", ""
        #: the types of arguments that `pack` hands on as they are, if all are of these
        self.plain: frozenset[type] = frozenset()
        self._convert = codec.pack
        #: the payload of a reply, from an offset on -> what it stands for
        self.unpack: Callable[..., Any] = _from(codec)
        params = [str(type_) for _, type_ in function.params]
        result = [] if function.result is None else [str(function.result)]
        if is_scalar(function) and all(each in NUMBERS for each in params + result):
            self.formats = "".join(map(_slot, params)), "".join(map(_slot, result))
            self.plain = frozenset((int, float) if {"f32", "f64"} & set(params) else (int,))
            if result:
                self.unpack = _number(struct.Struct("<" + self.formats[1]))
        self._struct = struct.Struct("<" + self.formats[0])

    def pack(self, args: tuple[Any, ...]) -> bytes:
        """The arguments as a payload.

        Raises:
            BadArguments: their number, or the type of one, does not fit.
            ArgumentOutOfRange: a number does not fit into its type.
        """
        if self.plain and self.plain.issuperset(map(type, args)):
            try:
                return self._struct.pack(*args)
            except (struct.error, OverflowError):
                pass  # for the codec to explain
        return self._convert(args)


def _slot(kind: str) -> str:
    word = NUMBERS[kind]
    return f"{word}{_SLOT - struct.calcsize('<' + word)}x"


def _number(read: struct.Struct) -> Callable[..., Any]:
    unpack_from = read.unpack_from

    def unpack(data: bytes | memoryview, offset: int = 0) -> Any:
        return unpack_from(data, offset)[0]

    return unpack


def _from(codec: ComponentCodec) -> Callable[..., Any]:
    whole = codec.unpack

    def unpack(data: bytes | memoryview, offset: int = 0) -> Any:
        return whole(memoryview(data)[offset:] if offset else data)

    return unpack


def resources_in(value: Any) -> Iterator[Resource]:
    """The resources among values, and within them."""
    if isinstance(value, Resource):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from resources_in(each)
    elif isinstance(value, dict):
        yield from resources_in([*value.values()])
    elif hasattr(value, "__dict__"):  # a record or a case
        yield from resources_in([*vars(value).values()])
