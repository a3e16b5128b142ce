"""Reads the interface of a WebAssembly binary: what it imports, exports and what their types are.

wasmtime could tell as well, but its C API aborts the whole process when asked for a type that mentions ``v128`` or a
typed reference (wasmtime 50), and a library must not die over a module it was only asked to look at.  The sections
read here are small; code and data are skipped by their length.  The input has been validated by wasmtime before, so
malformed bytes are not a concern of this file.

Format: https://webassembly.github.io/spec/core/binary/ (and the GC proposal for recursive and struct types).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

T = TypeVar("T")

#: The sections that an interface is read from.
_TELLING = (1, 2, 3, 4, 5, 6, 7, 8, 13)
_NUMBER = re.compile(rb"[\x80-\xff]*[\x00-\x7f]")  # an unsigned LEB128

PAGE = 65536  #: bytes in a page of linear memory, unless the module says otherwise

#: Instead of a type, behind an empty name: many imports of one module, each with its type; or of one type as well.
_SAME_MODULE, _SAME_TYPE = 0x7F, 0x7E
#: Begins the name of a module whose code was moved.
_MOVED = "procpool, moved by "
#: Begins the names of what is exported only for snapshots; and of what was the start function.
INNER = "procpool, inner "
INNER_START = f"{INNER}start"
_NUMERIC = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128", 0x78: "i8", 0x77: "i16"}
_HEAP = {
    0x74: "noexn",
    0x73: "nofunc",
    0x72: "noextern",
    0x71: "none",
    0x70: "func",
    0x6F: "extern",
    0x6E: "any",
    0x6D: "eq",
    0x6C: "i31",
    0x6B: "struct",
    0x6A: "array",
    0x69: "exn",
}
#: the value types that procpool can carry between processes
SCALARS = frozenset({"i32", "i64", "f32", "f64", "v128"})


def nullable(kind: str) -> bool:
    """Whether None is a value of a reference type, in the words of the text format."""
    return not kind.startswith("(") or kind.startswith("(ref null ")


def canonical(kind: str) -> str:
    """The one spelling that is used here of a value type: ``funcref`` for ``(ref null func)``."""
    heap = kind.removeprefix("(ref null ").removesuffix(")")
    return f"{heap}ref" if kind.startswith("(ref null ") and heap in _HEAP.values() else kind


@dataclass(frozen=True)
class FuncType:
    """A function's signature: the value types of its parameters and results, in the names of the text format."""

    params: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"({', '.join(self.params)}) -> ({', '.join(self.results)})"


@dataclass(frozen=True)
class MemoryType:
    """A linear memory: its size limits in pages, which are of 64 KiB unless it says otherwise."""

    minimum: int
    maximum: int | None = None
    shared: bool = False
    is_64: bool = False
    page_size: int = PAGE  #: bytes; a power of two

    def __str__(self) -> str:
        most = "" if self.maximum is None else f", at most {self.maximum}"
        kind = ("shared " if self.shared else "") + ("64-bit " if self.is_64 else "")
        size = "" if self.page_size == PAGE else f" of {self.page_size} byte{'s' if self.page_size > 1 else ''} each"
        return f"{kind}memory of {self.minimum} pages{most}{size}"


@dataclass(frozen=True)
class TableType:
    """A table of references: its element type and size limits."""

    element: str
    minimum: int
    maximum: int | None = None
    is_64: bool = False

    def __str__(self) -> str:
        most = "" if self.maximum is None else f", at most {self.maximum}"
        return f"{'64-bit ' if self.is_64 else ''}table of {self.minimum} {self.element}{most}"


@dataclass(frozen=True)
class GlobalType:
    """A global variable: the type of its content, and whether it can change."""

    content: str
    mutable: bool = False

    def __str__(self) -> str:
        return f"{'mutable ' if self.mutable else ''}global {self.content}"


@dataclass(frozen=True)
class TagType:
    """An exception tag."""

    signature: FuncType

    def __str__(self) -> str:
        return f"tag {self.signature}"


ExternType = FuncType | MemoryType | TableType | GlobalType | TagType


def known_as(name: str, nth: int) -> str:
    """The name that the ``nth`` type of a name has for itself; see `told_apart`."""
    return f"{name}\0{nth}" if nth else name


@dataclass(frozen=True)
class Import:
    """Something a module needs from outside, by its two names."""

    module: str
    name: str
    type: ExternType
    by: str | None = None  #: the linked module that needs it; None for the main one
    #: 0, unless the module has imports of the same names and other types before it: then how many, usually
    nth: int = 0

    @property
    def names(self) -> tuple[str, str]:
        """Its two names in the compiled module."""
        return self.module, known_as(self.name, self.nth)


@dataclass
class Declared:
    """The functions whose type is another than the plain one of their signature, and what it takes to name it.

    Such are the members of recursive groups and those declared as subtypes, which compilers of languages with garbage
    collection emit.  Who imports one by its signature is refused.
    """

    exports: dict[str, int] = field(default_factory=dict)  #: name -> index of its type
    imports: set[tuple[str, str]] = field(default_factory=set)  #: by their two names
    entries: int = 0  #: in the type section: definitions, and groups of them
    count: int = 0  #: types there, each member of a group for itself
    definitions: bytes = b""  #: what is in it, without the number of entries


@dataclass
class Interface:
    """What a module shows to the outside.  ``exports`` keeps the order of the module."""

    imports: list[Import] = field(default_factory=list)
    exports: dict[str, ExternType] = field(default_factory=dict)
    declared: Declared = field(default_factory=Declared)
    starts: bool = False  #: it has a start function, which may grow what it exports
    collected: bool = False  #: it has types of structs or arrays, whose values lie in the heap that the engine collects
    inner: dict[str, ExternType] = field(default_factory=dict)  #: what was exported for snapshots; see `exposed`

    @property
    def import_types(self) -> dict[tuple[str, str], ExternType]:
        """The types of the imports, by their two names."""
        return {needed.names: needed.type for needed in self.imports}


def simple(type_: TableType) -> bool:
    """Whether wasmtime-py can make such a table of any limits; of others, the very type that a module imports."""
    return type_.element in ("funcref", "externref") and not type_.is_64


#: what holds values: memories, tables and globals
STORAGE = MemoryType | TableType | GlobalType


def described(type_: ExternType) -> str:
    """A type, for people."""
    return f"function {type_}" if isinstance(type_, FuncType) else str(type_)


def with_article(kind: str) -> str:
    """The type of a value, for people."""
    return f"{'an' if kind[0] in 'aei' else 'a'} {kind}"


def is_shared(type_: ExternType) -> bool:
    """Whether it is a memory that threads share."""
    return isinstance(type_, MemoryType) and type_.shared


def joint(first: T, second: T) -> T | None:
    """A memory, table or global type that serves imports of either type; None if there is none."""
    if isinstance(first, (MemoryType, TableType)) and isinstance(second, (MemoryType, TableType)):
        minimum = max(first.minimum, second.minimum)
        bounds = [each.maximum for each in (first, second) if each.maximum is not None]
        maximum = min(bounds, default=None)
        if maximum is not None and maximum < minimum:
            return None
        made = replace(first, minimum=minimum, maximum=maximum)
        return made if made == replace(second, minimum=minimum, maximum=maximum) else None
    return first if first == second else None


def once_each(storage: Mapping[str, T]) -> dict[str, T]:
    """What `Program.storage` gave, each memory, table or global once: by its export, or else by the shorter name."""
    # Each has a type object of its own, also where types are equal, and its best name is its last.
    names = {id(type_): name for name, type_ in storage.items()}
    return {name: storage[name] for name in names.values()}


class Reader:
    def __init__(self, data: bytes, start: int, end: int) -> None:
        self.data = data
        self.at: int = start
        self.end = end

    def byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def unsigned(self) -> int:
        result = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
            shift += 7

    def name(self) -> str:
        size = self.unsigned()
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def value_type(self) -> str:
        byte = self.byte()
        if byte in _NUMERIC:
            return _NUMERIC[byte]
        if byte in (0x63, 0x64):  # (ref null ht) and (ref ht)
            heap = self.byte()
            name = _HEAP.get(heap)
            if name is None:  # a type index: a signed LEB128, of which the first byte is read
                self.at -= 1
                name = str(self.unsigned())
            elif byte == 0x63:
                return f"{name}ref"  # the same type has a shorter spelling
            return f"(ref {'null ' if byte == 0x63 else ''}{name})"
        return f"{_HEAP.get(byte, hex(byte))}ref"

    def value_types(self) -> tuple[str, ...]:
        return tuple(self.value_type() for _ in range(self.unsigned()))

    def limits(self) -> tuple[int, int, int | None]:
        """The flags byte, the minimum, and the maximum where one is given."""
        flags = self.byte()
        minimum = self.unsigned()
        return flags, minimum, self.unsigned() if flags & 1 else None

    def memory(self) -> MemoryType:
        flags, minimum, maximum = self.limits()
        page_size = 1 << self.unsigned() if flags & 8 else PAGE
        return MemoryType(minimum, maximum, bool(flags & 2), bool(flags & 4), page_size)

    def table(self) -> TableType:
        element = self.value_type()
        flags, minimum, maximum = self.limits()
        return TableType(element, minimum, maximum, bool(flags & 4))

    def global_(self) -> GlobalType:
        content = self.value_type()
        return GlobalType(content, bool(self.byte()))

    def tag(self) -> int:
        """The index of its type."""
        self.byte()  # the attribute, always an exception
        return self.unsigned()

    def imports(self, read: Callable[[Reader], T]) -> Iterator[tuple[str, str, T]]:
        """The entries of an import section: the two names of each, and what it is, as ``read`` reads that."""
        for _ in range(self.unsigned()):
            module, name = self.name(), self.name()
            form = self.data[self.at]
            if name or form not in (_SAME_MODULE, _SAME_TYPE):
                yield module, name, read(self)
                continue
            self.at += 1
            same = self.at
            if form == _SAME_TYPE:
                self.description()
            for _ in range(self.unsigned()):
                name = self.name()
                yield module, name, read(Reader(self.data, same, self.end) if form == _SAME_TYPE else self)

    def description(self) -> bytes:
        """What one import is: its kind, and its type or the index of that."""
        start = self.at
        kind = self.byte()
        (self.unsigned, self.table, self.memory, self.global_, self.tag)[kind]()
        return self.data[start : self.at]

    def definition(self) -> tuple[FuncType | None, bool]:
        """One type definition, and whether its structure alone says which type it is; None for those of no function."""
        form = self.byte()
        plain = True
        if form in (0x50, 0x4F):  # sub, sub final: supertypes first
            supertypes = self.unsigned()
            for _ in range(supertypes):
                self.unsigned()
            plain = form == 0x4F and not supertypes
            form = self.byte()
        return self._composite_type(form), plain

    def _composite_type(self, form: int) -> FuncType | None:
        if form == 0x60:
            return FuncType(self.value_types(), self.value_types())
        for _ in range(self.unsigned() if form == 0x5F else 1):  # the fields of a struct, or the one of an array
            self.value_type()
            self.byte()
        return None


def sections(wasm: bytes) -> list[tuple[int, int, int]]:
    """The sections of a binary as (id, start, end), in order."""
    found = []
    reader = Reader(wasm, 8, len(wasm))
    while reader.at < len(wasm):
        section = reader.byte()
        size = reader.unsigned()
        found.append((section, reader.at, reader.at + size))
        reader.at += size
    return found


def outline(wasm: bytes) -> bytes:
    """What `read_interface` needs of a valid binary: no code, no data, and of its own functions those that it exports.

    A large module has 100,000 functions, and is read in a moment without them.  Those that stay get new indexes.
    """
    imported = sum(isinstance(needed.type, FuncType) for needed in read_interface(wasm).imports)
    parts = {section: wasm[start:end] for section, start, end in sections(wasm) if section in _TELLING}
    exports = bytearray()
    reader = Reader(parts.pop(7, b"\0"), 0, 0)
    entries = [(reader.name(), reader.byte(), reader.unsigned()) for _ in range(reader.unsigned())]
    exported = sorted({index for _, kind, index in entries if kind == 0 and index >= imported})
    moved = {index: imported + place for place, index in enumerate(exported)}
    for name, kind, index in entries:
        exports += named(name) + bytes((kind,))
        exports += unsigned(moved.get(index, index) if kind == 0 else index)
    _, *types = _NUMBER.findall(parts.get(3, b"\0"))
    parts[3] = unsigned(len(exported)) + b"".join(types[index - imported] for index in exported)
    parts[7] = unsigned(len(entries)) + exports
    return wasm[:8] + b"".join(framed(section, content) for section, content in parts.items())


def read_interface(wasm: bytes) -> Interface:
    """Read the imports and exports of a valid WebAssembly binary, or of its outline."""
    found = Spaces()
    for section, start, end in sections(wasm):
        found.read(section, Reader(wasm, start, end))
    return found.interface


class _Numbers:
    """The numbers of imports, `Import.nth`, given out in the order of the module.

    Those that hold values keep their names: where there are several of one name, they share it.

    Args:
        imports: all that there are: their two names, and what `of` takes of each.
    """

    def __init__(self, imports: Sequence[tuple[str, str, tuple[ExternType, int | None]]]) -> None:
        self._often = Counter((module, name) for module, name, _ in imports)
        self._next = {(module, name): 1 for module, name, (type_, _) in imports if isinstance(type_, STORAGE)}
        self._given: dict[object, int] = {}

    def of(self, names: tuple[str, str], type_: ExternType, untold: int | None) -> int:
        """The number of an import with these names, whose type is of that index if its signature does not tell it."""
        if self._often[names] == 1 or isinstance(type_, STORAGE):
            return 0
        told = names, type_, untold
        if told not in self._given:
            nth = self._next.get(names, 0)
            while nth and (names[0], known_as(names[1], nth)) in self._often:  # the module has an import of that name
                nth += 1
            self._next[names] = nth + 1  # never from the start again: whoever wrote the module may have taken many
            self._given[told] = nth
        return self._given[told]


class Spaces:
    """What a module has of each kind, by index, as far as it has been read; and what of that it shows."""

    def __init__(self) -> None:
        self.interface: Interface = Interface()
        self._types: list[FuncType | None] = []
        self._untold: set[int] = set()  # the types that a signature does not tell
        self.funcs: list[int] = []  #: their types
        self.tables: list[TableType] = []
        self.memories: list[MemoryType] = []
        self.globals: list[GlobalType] = []
        self.referred: set[int] = set()  #: the functions that globals and tables refer to where they are declared
        self._tags: list[TagType] = []

    def read(self, section: int, reader: Reader) -> None:
        """Take in one section; they come in the order of the binary."""
        if section == 1:
            self._read_types(reader)
        elif section == 2:
            self._read_imports(reader)
        elif section == 3:
            self.funcs.extend(reader.unsigned() for _ in range(reader.unsigned()))
        elif section == 4:
            self._read_tables(reader)
        elif section == 5:
            self.memories.extend(reader.memory() for _ in range(reader.unsigned()))
        elif section == 6:
            for _ in range(reader.unsigned()):
                self.globals.append(reader.global_())
                self.referred.update(functions_of(reader))
        elif section == 7:
            self._read_exports(reader)
        elif section == 8:
            self.interface.starts = True
        elif section == 13:
            self._tags.extend(TagType(self._func(reader.tag())) for _ in range(reader.unsigned()))

    def _func(self, type_: int) -> FuncType:
        return self._types[type_] or FuncType()

    def _read_types(self, reader: Reader) -> None:
        declared = self.interface.declared
        declared.entries = reader.unsigned()
        declared.definitions = reader.data[reader.at : reader.end]
        for _ in range(declared.entries):
            members = 1
            if reader.data[reader.at] == 0x4E:  # a recursive group stands for each of its members
                reader.byte()
                members = reader.unsigned()
            for _ in range(members):
                definition, plain = reader.definition()
                self.interface.collected |= definition is None
                if members > 1 or not plain:
                    self._untold.add(len(self._types))
                self._types.append(definition)
        declared.count = len(self._types)

    def _read_imports(self, reader: Reader) -> None:
        entries = list(reader.imports(self._imported))
        numbers = _Numbers(entries)
        for module, name, (type_, untold) in entries:
            needed = Import(module, name, type_, None, numbers.of((module, name), type_, untold))
            self.interface.imports.append(needed)
            if untold is not None:
                self.interface.declared.imports.add(needed.names)

    def _imported(self, reader: Reader) -> tuple[ExternType, int | None]:
        """The type of an import, which is in the space of its kind now; and its index, if it is a function's that needs it.

        Each memory, table or global has a type object of its own; see `once_each`.
        """
        kind = reader.byte()
        if kind == 0:
            index = reader.unsigned()
            self.funcs.append(index)
            return self._func(index), index if index in self._untold else None
        type_: ExternType
        if kind == 1:
            self.tables.append(type_ := reader.table())
        elif kind == 2:
            self.memories.append(type_ := reader.memory())
        elif kind == 3:
            self.globals.append(type_ := reader.global_())
        else:
            self._tags.append(type_ := TagType(self._func(reader.tag())))
        return type_, None

    def _read_tables(self, reader: Reader) -> None:
        for _ in range(reader.unsigned()):
            initialised = reader.data[reader.at] == 0x40
            if initialised:
                reader.at += 2
            self.tables.append(reader.table())
            if initialised:
                self.referred.update(functions_of(reader))

    def _read_exports(self, reader: Reader) -> None:
        spaces: tuple[Sequence[ExternType], ...] = (self.tables, self.memories, self.globals, self._tags)
        for _ in range(reader.unsigned()):
            name, kind, index = reader.name(), reader.byte(), reader.unsigned()
            if name.startswith(INNER):
                self.interface.inner[name] = spaces[kind - 1][index] if kind else self._func(self.funcs[index])
                self.interface.starts |= name == INNER_START
                continue
            if kind:
                self.interface.exports[name] = spaces[kind - 1][index]
                continue
            self.interface.exports[name] = self._func(self.funcs[index])
            if self.funcs[index] in self._untold:
                self.interface.declared.exports[name] = self.funcs[index]


def told_apart(wasm: bytes, imports: Sequence[Import]) -> bytes:
    """A module in which each import of a name that comes with several types has a name of its own: `Import.names`.

    wasmtime's linker has one definition for a name.

    Args:
        imports: what the module's interface says.
    """
    if not any(needed.nth for needed in imports):
        return wasm
    before = 8  # the end of the section before
    for section, start, end in sections(wasm):
        if section == 2:
            return marked(wasm[:before] + framed(2, _renamed(wasm[start:end], imports)) + wasm[end:], wasm)
        before = end
    raise AssertionError("imports come from an import section")


def marked(wasm: bytes, given: bytes) -> bytes:
    """A module made of the given one, with a name that says how far its code has moved; see `moved`.

    What wasmtime tells of a frame has no other trace of which module it is in.
    """
    name = named(f"{_MOVED}{_code_at(wasm) - _code_at(given)}")
    return wasm + framed(0, named("name") + b"\0" + unsigned(len(name)) + name)


def _code_at(wasm: bytes) -> int:
    """Where the first function's code begins; 0 if there is none."""
    for section, start, end in sections(wasm):
        if section == 10:
            reader = Reader(wasm, start, end)
            reader.unsigned()
            return reader.at
    return 0


def moved(module: str | None) -> int:
    """How many bytes the code of a compiled module lies behind its place in what the user gave, by the module's name.

    Whoever gives a module such a name has the offsets of its own frames wrong, and nothing else.
    """
    found = re.fullmatch(rf"{_MOVED}(-?[0-9]{{1,10}})", module or "")
    return 0 if found is None else int(found[1])


def _renamed(section: bytes, imports: Sequence[Import]) -> bytes:
    """An import section with other names."""
    what = [description for _, _, description in Reader(section, 0, len(section)).imports(Reader.description)]
    entries = (b"".join(map(named, needed.names)) + each for needed, each in zip(imports, what, strict=True))
    return unsigned(len(what)) + b"".join(entries)


def parameter_names(wasm: bytes, export: str) -> tuple[str, ...] | None:
    """What the module's name section calls the parameters of an exported function; None if it does not name them all.

    A name section is for people: wasmtime does not look whether it is well-formed.
    """
    try:
        index, count = _function_at(wasm, export)
        names = _local_names(wasm, index)
        return tuple(names[local] for local in range(count))
    except (IndexError, KeyError, UnicodeDecodeError):
        return None


def _function_at(wasm: bytes, export: str) -> tuple[int, int]:
    """The index of an exported function, and how many parameters it has."""
    for section, start, end in sections(wasm):
        if section == 7:
            reader = Reader(wasm, start, end)
            for _ in range(reader.unsigned()):
                name, kind, index = reader.name(), reader.byte(), reader.unsigned()
                if (name, kind) == (export, 0):
                    type_ = read_interface(wasm).exports[export]
                    assert isinstance(type_, FuncType)
                    return index, len(type_.params)
    raise KeyError(export)


def _local_names(wasm: bytes, function: int) -> dict[int, str]:
    for section, start, end in sections(wasm):
        if section:
            continue
        reader = Reader(wasm, start, end)
        if reader.name() != "name":
            continue
        while reader.at < end:
            subsection, size = reader.byte(), reader.unsigned()
            if subsection != 2:  # those of locals
                reader.at += size
                continue
            for _ in range(reader.unsigned()):
                index = reader.unsigned()
                names = {reader.unsigned(): reader.name() for _ in range(reader.unsigned())}
                if index == function:
                    return names
    return {}


def unsigned(value: int) -> bytes:
    """An unsigned LEB128, the format of all numbers in a binary."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def named(text: str) -> bytes:
    encoded = text.encode()
    return unsigned(len(encoded)) + encoded


def framed(number: int, content: bytes) -> bytes:
    return bytes((number,)) + unsigned(len(content)) + content


def importing(wasm: bytes, declared: Declared, export: str) -> bytes:
    """A module of ours whose first import, a function, is to be an export of such a type.

    The other module's definitions are put before its own, so that both mean the same type.  Only its imports and
    functions may refer to types, and what it imports beside the first must be no function.
    """
    result = bytearray(wasm[:8])
    for section, start, end in sections(wasm):
        reader = Reader(wasm, start, end)
        count = reader.unsigned()
        content = wasm[reader.at : end]
        if section == 1:
            content = unsigned(declared.entries + count) + declared.definitions + content
        elif section == 2:
            at = reader.at
            for _ in range(2):
                reader.name()
            reader.byte()
            names = wasm[at : reader.at]
            reader.unsigned()
            content = unsigned(count) + names + unsigned(declared.exports[export]) + wasm[reader.at : end]
        elif section == 3:
            content = unsigned(count) + b"".join(unsigned(declared.count + reader.unsigned()) for _ in range(count))
        else:
            content = wasm[start:end]
        result += framed(section, content)
    return bytes(result)


def functions_of(reader: Reader) -> list[int]:
    """Step over a constant expression, up to and with its ``end``; the functions that it refers to."""
    found: list[int] = []
    while True:
        opcode = reader.byte()
        if opcode == 0x0B:
            return found
        if opcode == 0x43:
            reader.at += 4
        elif opcode == 0x44:
            reader.at += 8
        elif opcode == 0xD2:  # ref.func
            found.append(reader.unsigned())
        elif opcode in (0x41, 0x42, 0x23, 0xD0):  # i32/i64.const, global.get, ref.null
            reader.unsigned()
        elif opcode == 0xFD:  # v128.const
            reader.unsigned()
            reader.at += 16
        elif opcode == 0xFB:  # the constructors of structs, arrays and i31
            operator = reader.unsigned()
            for _ in range({0: 1, 1: 1, 6: 1, 7: 1, 8: 2, 9: 2, 10: 2}.get(operator, 0)):
                reader.unsigned()
