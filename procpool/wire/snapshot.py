"""A snapshot as a file: what an instance held.

First a head, then the memories, each at a multiple of a page of the system's, for they are mapped.  The head is text that
`json` reads, so that nothing is run by reading what somebody has saved.

What is kept goes by the names of `exposed`.  A reference to a function is its place in the table of functions there.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import BadSnapshot
from ..files import CHUNK, filled, write_at

#: Where memories may begin: at a multiple of every size of pages that a processor has.
ALIGNMENT = CHUNK
_HEAD = struct.Struct("<8sQ")
_MAGIC = b"procsnp\1"


@dataclass(frozen=True)
class MemoryState:
    """A linear memory."""

    name: str
    size: int  #: bytes
    at: int = 0  #: where in the file, counted from the end of the head


@dataclass(frozen=True)
class GlobalState:
    """A mutable global."""

    name: str
    type: str
    value: int | None  #: its bits, or the number of a function; None for null


@dataclass(frozen=True)
class TableState:
    """A table, as far as it is another than that of a new instance."""

    name: str
    size: int  #: in elements
    elements: tuple[tuple[int, int | None], ...]  #: index -> number of a function, or None for null


@dataclass(frozen=True)
class State:
    """What an instance held."""

    memories: tuple[MemoryState, ...] = ()
    globals: tuple[GlobalState, ...] = ()
    tables: tuple[TableState, ...] = ()
    dropped: tuple[str, ...] = ()  #: the functions that drop the segments which were

    @property
    def size(self) -> int:
        """Bytes of memories, and what lies between them."""
        return sum(_aligned(each.size) for each in self.memories)


def write_state(fd: int, state: State, contents: Sequence[memoryview]) -> None:
    """Write a snapshot into an empty file.

    Pages of zeros are left out, and take no room where the file system can do that.

    Args:
        contents: those of the memories.

    Raises:
        OSError: there is no room for it.
    """
    placed, at = [], 0
    for each in state.memories:
        placed.append(MemoryState(each.name, each.size, at))
        at += _aligned(each.size)
    text = json.dumps(asdict(State(tuple(placed), state.globals, state.tables, state.dropped))).encode()
    write_at(fd, _HEAD.pack(_MAGIC, len(text)) + text, 0)
    start = _aligned(_HEAD.size + len(text))
    os.ftruncate(fd, start + at)
    for each, content in zip(placed, contents, strict=True):
        for offset, chunk in filled(content):
            write_at(fd, chunk, start + each.at + offset)


def read_state(fd: int) -> State:
    """What is in such a file, but for the memories: where these are, it says by their place in the whole file.

    Raises:
        BadSnapshot: it is none, or not whole.
    """
    try:
        magic, length = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
        size = os.fstat(fd).st_size
        if magic != _MAGIC or length > size:
            raise ValueError("it does not begin as one")
        told = json.loads(os.pread(fd, length, _HEAD.size))
        start = _aligned(_HEAD.size + length)
        memories = tuple(_made(MemoryState, each) for each in told["memories"])
        for each in memories:
            if each.at < 0 or each.size < 0 or each.at % ALIGNMENT or start + each.at + each.size > size:
                raise ValueError("a memory is not in it")
        return State(
            tuple(MemoryState(each.name, each.size, start + each.at) for each in memories),
            tuple(_made(GlobalState, each) for each in told["globals"]),
            tuple(_table(each) for each in told["tables"]),
            tuple(_checked("dropped", each, str) for each in told["dropped"]),
        )
    except (struct.error, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadSnapshot(f"this is no snapshot, or a part of one: {error}") from None


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "int | None": (int, type(None)),
    "tuple[tuple[int, int | None], ...]": (tuple,),
}


def _made(kind: Any, told: Any) -> Any:
    """An object of a class above, from what the file says of it.

    Raises:
        ValueError, TypeError: it says something else.
    """
    for field in fields(kind):
        _checked(field.name, told[field.name], *_TYPES[str(field.type)])
    return kind(**told)


def _table(told: Any) -> TableState:
    elements = tuple(
        (_checked("index", at, int), _checked("element", value, int, type(None))) for at, value in told["elements"]
    )
    made: TableState = _made(TableState, {**told, "elements": elements})
    return made


def _checked(name: str, value: Any, *types: type) -> Any:
    if type(value) not in types:
        raise ValueError(f"{name} is {value!r:.80}")
    return value


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
