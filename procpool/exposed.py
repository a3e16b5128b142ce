"""Has a module export all of its state, for snapshots: its memories, mutable globals and tables, under names of ours.

Nothing that the module has gets another index: what is added comes last in its section.  Beside what holds state these are
added:

* the start function as an export: who begins from a snapshot has it behind him;
* a table of all functions that may be referred to, by which references are known again in another instance;
* for each passive segment that the code may drop, a function that traps if it was dropped, and one that drops it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .binary import (
    INNER,
    INNER_START,
    ExternType,
    GlobalType,
    Import,
    MemoryType,
    Reader,
    Spaces,
    TableType,
    framed,
    functions_of,
    is_shared,
    named,
    sections,
    unsigned,
)
from .errors import BadSnapshot, InvalidModule
from .program import Program
from .wasi import THREAD_SPAWN

#: The table of functions; of a linked module, the name begins so.
FUNCTIONS = f"{INNER}functions"
#: Begins the names of functions that trap if a segment was dropped, and of those that drop it.
KEPT, DROP = f"{INNER}kept ", f"{INNER}drop "

#: What globals and tables may hold that a snapshot can keep.
_KEEPABLE = frozenset({"i32", "i64", "f32", "f64", "v128", "funcref", "externref"})
#: The sections in the order that they have in a binary.
_ORDER = (1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11)
_FUNCTION, _TABLE, _MEMORY, _GLOBAL = range(4)
#: data.drop and elem.drop, however their numbers are written.  Other bytes may look like them; then an instance is made
#: anew where one could have been put back, which costs time and nothing else.
_DATA_DROP = re.compile(rb"\xfc(\x09|\x89\x80{0,3}\x00)")
_ELEM_DROP = re.compile(rb"\xfc(\x0d|\x8d\x80{0,3}\x00)")


class _Segment(NamedTuple):
    """A passive segment."""

    number: int
    size: int  #: in bytes or elements
    element: str = ""  #: type of its elements


def exposed(wasm: bytes) -> bytes:
    """The binary of a valid module that exports its state.

    Raises:
        InvalidModule: it has an export under a name of ours.
    """
    spaces, parts = Spaces(), _Parts(wasm)
    for section, start, end in sections(wasm):
        spaces.read(section, Reader(wasm, start, end))
    taken = next(iter(spaces.interface.inner), None)
    if taken is not None:
        raise InvalidModule(f"no snapshot can be taken of a module that exports {taken!r}: such names are procpool's own")
    exports = [_export(f"{INNER}memory {at}", _MEMORY, at) for at in range(len(spaces.memories))]
    exports += [_export(f"{INNER}global {at}", _GLOBAL, at) for at, each in enumerate(spaces.globals) if each.mutable]
    exports += [_export(f"{INNER}table {at}", _TABLE, at) for at in range(len(spaces.tables))]
    starting = parts.take(8)
    if starting is not None:
        exports.append(named(INNER_START) + bytes((_FUNCTION,)) + starting)
    functions, elements = _elements(parts.get(9))
    functions |= spaces.referred | _exported_functions(parts.get(7))
    if functions:
        count = unsigned(len(functions))
        exports.append(_export(FUNCTIONS, _TABLE, len(spaces.tables)))
        parts.add(4, [b"\x70\x01" + count + count])
        listed = b"".join(map(unsigned, sorted(functions)))
        parts.add(9, [b"\x02" + unsigned(len(spaces.tables)) + b"\x41\0\x0b\0" + count + listed])
    probes = list(_probes(parts, spaces, elements))
    if probes:
        declared = spaces.interface.declared
        parts.add(1, [b"\x60\0\0"])
        parts.add(3, [unsigned(declared.count)] * len(probes))
        parts.add(10, [unsigned(len(body) + 2) + b"\0" + body + b"\x0b" for _, body in probes])
        exports += [_export(name, _FUNCTION, len(spaces.funcs) + at) for at, (name, _) in enumerate(probes)]
    parts.add(7, exports)
    return wasm[:8] + b"".join(framed(section, content) for section, content in parts)


def check_keepable(program: Program) -> None:
    """Whether a snapshot can keep all that instances of a program may hold.

    Raises:
        BadSnapshot: it cannot; names what.
    """
    refusal = next(_refusals(program), None)
    if refusal is not None:
        raise BadSnapshot(f"no snapshot can be taken of this module: {refusal}")


def _refusals(program: Program) -> Iterator[str]:
    if any(each.names == THREAD_SPAWN or is_shared(each.type) for each in program.needed):
        yield "it has threads, and what a thread is in the middle of cannot be kept"
    if any(part.interface.collected for part in program.parts):
        yield "it has structs or arrays (the proposal gc), and the heap that they lie in cannot be read"
    for name, type_ in program.inner.items():
        what = f"its {_known_as(program, name, type_)}"
        if is_shared(type_):
            yield f"{what} is shared with threads"
        elif isinstance(type_, MemoryType) and type_.page_size % 4096:
            yield f"{what} has pages of {type_.page_size} bytes, which cannot be mapped"
        elif isinstance(type_, GlobalType) and type_.content not in _KEEPABLE:
            yield f"{what} holds a {type_.content}, which cannot be made again in another instance"
        elif isinstance(type_, TableType) and type_.element not in _KEEPABLE:
            yield f"{what} holds values of the type {type_.element}, which cannot be made again in another instance"


def _known_as(program: Program, name: str, type_: ExternType) -> str:
    """What holds state, for people: by its index, and the name that a module exports it under, if it does."""
    found = [f"exported as {known!r}" for known, each in program.exports.items() if each is type_]
    found += [f"imported as {_names(each)}" for each in program.needed if each.type is type_]
    return f"{name.removeprefix(INNER)} ({found[0]})" if found else name.removeprefix(INNER)


def _names(needed: Import) -> str:
    return repr(f"{needed.module}.{needed.name}")


class _Parts:
    """The sections of a binary, to be added to."""

    def __init__(self, wasm: bytes) -> None:
        self._parts = [(section, wasm[start:end]) for section, start, end in sections(wasm)]

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return iter(self._parts)

    def get(self, section: int) -> bytes:
        """What is in the section of that number; an empty list if there is none."""
        return next((content for each, content in self._parts if each == section), b"\0")

    def take(self, section: int) -> bytes | None:
        """The same, and it is gone; None if there was none."""
        found = next((content for each, content in self._parts if each == section), None)
        self._parts = [(each, content) for each, content in self._parts if each != section]
        return found

    def add(self, section: int, entries: Sequence[bytes]) -> None:
        """Put entries behind those that it has."""
        order = _ORDER.index(section)
        at = next(
            (at for at, (each, _) in enumerate(self._parts) if each and _ORDER.index(each) >= order), len(self._parts)
        )
        content = b"\0"
        if at < len(self._parts) and self._parts[at][0] == section:
            content = self._parts.pop(at)[1]
        reader = Reader(content, 0, len(content))
        count = reader.unsigned() + len(entries)
        self._parts.insert(at, (section, unsigned(count) + content[reader.at :] + b"".join(entries)))


def _export(name: str, kind: int, index: int) -> bytes:
    return named(name) + bytes((kind,)) + unsigned(index)


def _exported_functions(section: bytes) -> set[int]:
    reader = Reader(section, 0, len(section))
    entries = [(reader.name(), reader.byte(), reader.unsigned()) for _ in range(reader.unsigned())]
    return {index for _, kind, index in entries if kind == _FUNCTION}


def _elements(section: bytes) -> tuple[set[int], list[_Segment]]:
    """The functions that element segments refer to, and the passive ones of these."""
    functions: set[int] = set()
    passive = []
    reader = Reader(section, 0, len(section))
    for index in range(reader.unsigned()):
        flags = reader.unsigned()
        if flags & 2 and not flags & 1:
            reader.unsigned()  # its table
        if not flags & 1:
            functions_of(reader)  # the offset
        element = "funcref"
        if flags & 3 and flags & 4:
            element = reader.value_type()
        elif flags & 3:
            reader.byte()  # the kind, always functions
        size = reader.unsigned()
        for _ in range(size):
            functions.update(functions_of(reader) if flags & 4 else (reader.unsigned(),))
        if flags & 3 == 1:
            passive.append(_Segment(index, size, element))
    return functions, passive


def _data(section: bytes) -> Iterator[_Segment]:
    """The passive data segments."""
    reader = Reader(section, 0, len(section))
    for index in range(reader.unsigned()):
        flags = reader.unsigned()
        if flags == 2:
            reader.unsigned()  # its memory
        if flags != 1:
            functions_of(reader)  # the offset
        size = reader.unsigned()
        reader.at += size
        if flags == 1:
            yield _Segment(index, size)


def _probes(parts: _Parts, spaces: Spaces, elements: Sequence[_Segment]) -> Iterator[tuple[str, bytes]]:
    """The names and bodies of functions that trap if a segment was dropped, and that drop it.

    One that is empty is as good as dropped, and so is one that no memory or table could take anything from.
    """
    code = parts.get(10)
    if spaces.memories and _DATA_DROP.search(code):
        for segment in _data(parts.get(11)):
            if segment.size:
                index = unsigned(segment.number)
                yield f"{KEPT}data {segment.number}", _at_end(segment, spaces.memories[0]) + b"\xfc\x08" + index + b"\0"
                yield f"{DROP}data {segment.number}", b"\xfc\x09" + index
    if _ELEM_DROP.search(code):
        for segment in elements:
            at = next((at for at, each in enumerate(spaces.tables) if each.element == segment.element), None)
            if segment.size and at is not None:
                index = unsigned(segment.number)
                body = _at_end(segment, spaces.tables[at]) + b"\xfc\x0c" + index + unsigned(at)
                yield f"{KEPT}elements {segment.number}", body
                yield f"{DROP}elements {segment.number}", b"\xfc\x0d" + index


def _at_end(segment: _Segment, into: MemoryType | TableType) -> bytes:
    """Operands for taking nothing from the end of a segment, which is out of its bounds once it was dropped."""
    size, value = bytearray(), segment.size
    while value >= 0x40:  # signed LEB128, which has a bit less for the last digit
        size.append(value & 0x7F | 0x80)
        value >>= 7
    size.append(value)
    return (b"\x42\0" if into.is_64 else b"\x41\0") + b"\x41" + bytes(size) + b"\x41\0"
