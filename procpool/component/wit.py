"""The types of WIT as plain data: what a component's functions take and give.

All of it is immutable, hashable and can be pickled.  Equal types are the same type, wherever they were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

#: The names of the types that need no definition.
PRIMITIVES = (
    *("bool", "s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64", "f32", "f64", "char", "string", "error-context"),
)


@dataclass(frozen=True)
class Primitive:
    """A type that WIT has a word for: ``u32``, ``string``, ..."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Named:
    """What a type definition has beside its structure."""

    #: as the world knows it: ``shape``, or ``ns:pkg/iface@1.0.0#shape`` for one of an interface
    name: str

    @property
    def label(self) -> str:
        """The name without that of its interface."""
        return self.name.rpartition("#")[2]

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Record(Named):
    """Fields: each a name and a type."""

    fields: tuple[tuple[str, Type], ...]


@dataclass(frozen=True)
class Variant(Named):
    """Cases: each a name, and the type of its payload if it has one."""

    cases: tuple[tuple[str, Type | None], ...]


@dataclass(frozen=True)
class Enum(Named):
    """One of some names."""

    labels: tuple[str, ...]


@dataclass(frozen=True)
class Flags(Named):
    """Any of some names."""

    labels: tuple[str, ...]


@dataclass(frozen=True)
class Resource(Named):
    """What handles refer to; the number tells resources apart that are called the same."""

    number: int
    imported: bool = False  #: the component is given it; or else it defines and exports it


@dataclass(frozen=True)
class List:
    """Any number of elements; exactly so many, where a length is given."""

    element: Type
    length: int | None = None

    def __str__(self) -> str:
        return f"list<{self.element}>" if self.length is None else f"list<{self.element}, {self.length}>"


@dataclass(frozen=True)
class Map:
    """Values by key."""

    key: Type
    value: Type

    def __str__(self) -> str:
        return f"map<{self.key}, {self.value}>"


@dataclass(frozen=True)
class Tuple:
    """A value of each of these types."""

    items: tuple[Type, ...]

    def __str__(self) -> str:
        return f"tuple<{', '.join(map(str, self.items))}>"


@dataclass(frozen=True)
class Option:
    """A value or none."""

    some: Type

    def __str__(self) -> str:
        return f"option<{self.some}>"


@dataclass(frozen=True)
class Result:
    """What went well, or what went wrong; either may carry nothing."""

    ok: Type | None = None
    error: Type | None = None

    def __str__(self) -> str:
        if self.error is None:
            return "result" if self.ok is None else f"result<{self.ok}>"
        return f"result<{'_' if self.ok is None else self.ok}, {self.error}>"


@dataclass(frozen=True)
class Handle:
    """A reference to a resource: one that owns it, or one that is lent for a call."""

    resource: Resource
    owned: bool

    def __str__(self) -> str:
        return self.resource.label if self.owned else f"borrow<{self.resource.label}>"


@dataclass(frozen=True)
class Channel:
    """A ``stream`` or a ``future``."""

    kind: str
    element: Type | None

    def __str__(self) -> str:
        return self.kind if self.element is None else f"{self.kind}<{self.element}>"


Type = Primitive | Record | Variant | Enum | Flags | List | Map | Tuple | Option | Result | Handle | Channel


def parts(type_: Type) -> Iterator[Type]:
    """The types that a type is directly made of."""
    if isinstance(type_, Record):
        yield from (each for _, each in type_.fields)
    elif isinstance(type_, Variant):
        yield from (each for _, each in type_.cases if each is not None)
    elif isinstance(type_, List):
        yield type_.element
    elif isinstance(type_, Map):
        yield from (type_.key, type_.value)
    elif isinstance(type_, Tuple):
        yield from type_.items
    elif isinstance(type_, Option):
        yield type_.some
    elif isinstance(type_, Result):
        yield from (each for each in (type_.ok, type_.error) if each is not None)
    elif isinstance(type_, Channel) and type_.element is not None:
        yield type_.element


@dataclass(frozen=True)
class Function:
    """A function that a world imports or exports."""

    #: as the world knows it: ``eval``, or ``ns:pkg/iface@1.0.0#eval`` for one of an interface
    name: str
    params: tuple[tuple[str, Type], ...]  #: each a name and a type
    result: Type | None
    asynchronous: bool = False

    @property
    def types(self) -> tuple[Type, ...]:
        """Those of its parameters and its result."""
        return (*(type_ for _, type_ in self.params), *(() if self.result is None else (self.result,)))

    @property
    def interface(self) -> str | None:
        """The interface it belongs to, if any."""
        return self.name.rpartition("#")[0] or None

    @property
    def raw_label(self) -> str:
        """Its name in its interface, as the binary has it."""
        return self.name.rpartition("#")[2]

    @property
    def label(self) -> str:
        """Its name in its interface, for people: ``counter.inc`` for ``[method]counter.inc``."""
        return shown_name(self.raw_label)

    @property
    def signature(self) -> str:
        """What it takes and gives, as WIT has it."""
        params = ", ".join(f"{name}: {type_}" for name, type_ in self.params)
        result = "" if self.result is None else f" -> {self.result}"
        return f"{'async ' if self.asynchronous else ''}func({params}){result}"

    def __str__(self) -> str:
        return f"{self.label}: {self.signature}"


def within(types: Iterable[Type | None]) -> Iterator[Type]:
    """These types and all that they consist of, each object once."""
    waiting = [each for each in types if each is not None]
    seen: set[int] = set()
    while waiting:
        type_ = waiting.pop()
        if id(type_) not in seen:
            seen.add(id(type_))
            yield type_
            waiting.extend(parts(type_))


def resources(functions: Iterable[Function]) -> list[Resource]:
    """The resources that functions take or give handles of."""
    handles = (each for each in within(type_ for each in functions for type_ in each.types) if isinstance(each, Handle))
    return sorted({each.resource for each in handles}, key=lambda each: each.number)


def shown_name(name: str) -> str:
    """The name of a function for people, which has no ``[method]`` before it; a constructor is ``counter.new``."""
    kind, bracket, rest = name.rpartition("]")
    return f"{rest}.new" if kind == "[constructor" else rest if bracket else name


@dataclass(frozen=True)
class World:
    """What a component needs and gives."""

    exports: tuple[Function, ...]
    imports: tuple[Function, ...]
    #: the types that have names, by these: of exports, and of imports; the same name may be in both
    types: tuple[Type | Resource, ...]
    #: the names of what it imports: interfaces and functions, as the binary has them
    needs: tuple[str, ...]
    #: what it imports that is neither an interface nor a function nor a type, each with its kind
    other_needs: tuple[tuple[str, str], ...] = field(default=())
