"""Reads the world of a component from its binary: what it imports and exports, with the types of WIT and their names.

wasmtime can tell the structure of these types once it has compiled a component, but not their names.  Code is skipped by
its length.  What is read has been validated by wasmtime, or will be before anything of it is used; here it is only made
sure that reading ends.

Format: the Binary.md of the component model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..binary import Reader
from ..errors import InvalidModule
from . import wit

PREAMBLE = b"\0asm\x0d\0\1\0"

#: More definitions than this in all, counting those of nested components as often as they are instantiated, are refused.
MOST = 100_000

_PRIMITIVES = {
    **{0x7F - index: name for index, name in enumerate(wit.PRIMITIVES[:13])},
    0x64: "error-context",
}

#: What follows the number of a definition that makes a core function: numbers, options or a result.
_CANON = {
    0x01: "nno",
    **dict.fromkeys((0x02, 0x03, 0x04, 0x06, 0x0C, 0x0E, 0x13, 0x14, 0x15, 0x1A, 0x1B, 0x29, 0x2A, 0x2B, 0x2C, 0x2D), "n"),
    **dict.fromkeys((0x0A, 0x0B, 0x11, 0x12, 0x18, 0x19, 0x20, 0x21, 0x27, 0x40), "nn"),
    **dict.fromkeys((0x0F, 0x10, 0x16, 0x17), "no"),
    **dict.fromkeys((0x1C, 0x1D), "o"),
    0x09: "ro",
    0x41: "nnn",
    0x42: "n",
}


def is_component(wasm: bytes) -> bool:
    """Whether a binary is a component; a module is none."""
    return wasm[:4] == PREAMBLE[:4] and wasm[6:8] == PREAMBLE[6:8]


def read_world(wasm: bytes) -> wit.World:
    """The world of a component.

    Raises:
        InvalidModule: it is none, or not one that is understood here.
    """
    if wasm[:8] != PREAMBLE:
        raise InvalidModule("not a component of a version that is known here" if is_component(wasm) else "not a component")
    try:
        return _finished(wasm)
    except (IndexError, KeyError, UnicodeDecodeError, RecursionError, AttributeError, TypeError) as error:
        raise InvalidModule(f"the component cannot be read: {error!r}") from error


@dataclass(eq=False)
class Definition:
    """A type while its component is read: names come after structures."""

    kind: str
    #: what it consists of: definitions, and words
    parts: tuple[Any, ...] = ()
    label: str | None = None
    interface: str | None = None
    imported: bool = False


@dataclass(eq=False)
class FunctionType:
    params: tuple[tuple[str, Definition], ...]
    result: Definition | None
    asynchronous: bool


@dataclass(eq=False)
class InstanceType:
    """Declarations, which are gone through for each instance, as each has its own resources."""

    declare: Callable[[], Items]


@dataclass(eq=False)
class ComponentType:
    """A component as far as it can be seen from outside: what its instances export."""

    instantiate: Callable[[Items], Items]


#: What an instance exports, by name.
Items = dict[str, Any]

#: How a sort is called in a scope; by its number.
_SORTS = {1: "functions", 2: "values", 3: "types", 4: "components", 5: "instances"}


class _Budget:
    def __init__(self) -> None:
        self._left = MOST

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise InvalidModule(f"the component consists of more than {MOST} definitions")


@dataclass
class Scope:
    """The index spaces of a component, or of the type of an instance or a component."""

    outer: Scope | None
    budget: _Budget
    functions: list[FunctionType] = field(default_factory=list)
    values: list[None] = field(default_factory=list)
    types: list[Any] = field(default_factory=list)
    components: list[Any] = field(default_factory=list)
    instances: list[Items] = field(default_factory=list)
    exports: Items = field(default_factory=dict)

    def space(self, sort: int) -> list[Any]:
        space: list[Any] = getattr(self, _SORTS[sort])
        return space

    def add(self, sort: int, item: Any) -> None:
        self.budget.spend()
        self.space(sort).append(item)


class ComponentReader(Reader):
    """Reads what sections of components consist of."""

    def signed(self) -> int:
        """A signed LEB128 of few bits."""
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result - (1 << shift) if byte & 0x40 else result

    def extern_name(self) -> str:
        """The name of an import or export."""
        form = self.byte()
        name = self.name()
        for _ in range(self.unsigned() if form == 2 else 0):
            self.byte()
            self.name()
        return name

    def sort(self) -> int | None:
        """What an index refers to; None for what is a core module's, but for a module itself, which is 0."""
        sort = self.byte()
        if sort:
            return sort
        return 0 if self.byte() == 0x11 else None

    def core_type(self, modules: bool = True) -> None:
        """Step over the type of a core function or module."""
        if modules and self.data[self.at] == 0x50:
            self.byte()
            for _ in range(self.unsigned()):
                self._module_declaration()
            return
        if self.data[self.at] == 0:
            self.byte()
        members = 1
        if self.data[self.at] == 0x4E:
            self.byte()
            members = self.unsigned()
        for _ in range(members):
            self.definition()

    def options(self) -> None:
        """Step over how values of a function are to be represented."""
        for _ in range(self.unsigned()):
            if self.byte() in (3, 4, 5, 7):
                self.unsigned()

    def step_over_canon(self, form: int) -> None:
        """Step over the definition of a core function, whose form has been read."""
        for each in _CANON.get(form, ""):
            if each == "o":
                self.options()
            elif each == "r":  # a result
                self.signed() if self.byte() == 0 else self.byte()
            else:
                self.signed()

    def _module_declaration(self) -> None:
        form = self.byte()
        if form == 0:
            self.name()
            self.name()
            self.description()
        elif form == 1:
            self.core_type(modules=False)
        elif form == 2:
            self.at: int = self.at + 3
            self.unsigned()
        else:
            self.name()
            self.description()


class _Component:
    """Goes through a component at the root, whose imports come from nowhere."""

    def __init__(self, wasm: bytes) -> None:
        self.imports: list[tuple[str, int, Any]] = []
        self.scope = Scope(None, _Budget())
        _Body(self.scope, wasm, self._imported).read(8, len(wasm))

    def _imported(self, name: str, sort: int, made: Any) -> Any:
        self.imports.append((name, sort, made))
        if isinstance(made, Definition) and made.label is None:
            made.label = name
        return made


class _Body:
    """Goes through the sections of a component.

    Args:
        imported: is given the name of an import, its sort and what its type makes of it; what it is.
    """

    def __init__(self, scope: Scope, wasm: bytes, imported: Callable[[str, int, Any], Any]) -> None:
        self._scope = scope
        self._wasm = wasm
        self._imported = imported

    def read(self, start: int, end: int) -> Items:
        for section, first, after in sections_between(self._wasm, start, end):
            reader = ComponentReader(self._wasm, first, after)
            if section == 4:
                self._scope.add(4, self._component(first + 8, after))
            elif section in (5, 6, 7, 8, 10, 11):
                read = {5: self._instance, 6: self.alias, 7: self.type_, 8: self._canon, 10: self.import_, 11: self._export}
                for _ in range(reader.unsigned()):
                    read[section](reader)
        return self._scope.exports

    def _component(self, start: int, end: int) -> ComponentType:
        scope = self._scope

        def instantiate(args: Items) -> Items:
            inner = Scope(scope, scope.budget)
            return _Body(inner, self._wasm, lambda name, _, made: args.get(name, made)).read(start, end)

        return ComponentType(instantiate)

    def _instance(self, reader: ComponentReader) -> None:
        scope = self._scope
        if reader.byte():
            items: Items = {}
            for _ in range(reader.unsigned()):
                name = reader.extern_name()
                self._give(items, name, *self._indexed(reader))
        else:
            component = scope.components[reader.unsigned()]
            args: Items = {}
            for _ in range(reader.unsigned()):
                name = reader.name()
                args[name] = self._indexed(reader)[1]
            items = component.instantiate(args)
        scope.add(5, items)

    def _indexed(self, reader: ComponentReader) -> tuple[int | None, Any]:
        sort, index = reader.sort(), reader.unsigned()
        return sort, self._scope.space(sort)[index] if sort else None

    def _give(self, items: Items, name: str, sort: int | None, item: Any) -> None:
        if isinstance(item, Definition) and item.label is None:
            item.label = name
        items[name] = item

    def alias(self, reader: ComponentReader) -> None:
        sort, target = reader.sort(), reader.byte()
        if target == 2:
            outwards, index = reader.unsigned(), reader.unsigned()
            if sort:
                scope = self._scope
                for _ in range(outwards):
                    assert scope.outer is not None
                    scope = scope.outer
                self._scope.add(sort, scope.space(sort)[index])
            return
        index = reader.unsigned()
        if target == 0 and sort:
            self._scope.add(sort, self._scope.instances[index][reader.name()])
        else:  # a large component has thousands, of core instances
            size = reader.unsigned()
            reader.at += size

    def _canon(self, reader: ComponentReader) -> None:
        """A function made of a core one; all others are core functions, of which only their place matters."""
        form = reader.byte()
        if form == 0:
            reader.at += 1
            reader.unsigned()
            reader.options()
            self._scope.add(1, self._scope.types[reader.unsigned()])
        else:
            reader.step_over_canon(form)

    def import_(self, reader: ComponentReader) -> None:
        name = reader.extern_name()
        sort, made = self.extern_type(reader)
        item = self._imported(name, sort, made)
        if sort:
            self._scope.add(sort, item)

    def _export(self, reader: ComponentReader) -> None:
        name = reader.extern_name()
        sort, item = self._indexed(reader)
        if reader.byte():
            _, ascribed = self.extern_type(reader)
            if sort == 1:  # its names may be better; an instance would get other resources
                item = ascribed
        self._give(self._scope.exports, name, sort, item)
        if sort:
            self._scope.add(sort, item)

    def extern_type(self, reader: ComponentReader) -> tuple[int, Any]:
        """The sort of what is imported or exported, and one of it."""
        sort = reader.byte()
        if sort == 0:
            reader.byte()
            reader.unsigned()
            return 0, None
        if sort == 3:
            if reader.byte():
                return 3, Definition("resource")
            return 3, self._scope.types[reader.unsigned()]
        if sort == 2:
            if reader.byte():
                self._value_type(reader)
            else:
                reader.unsigned()
            return 2, None
        type_ = self._scope.types[reader.unsigned()]
        return sort, type_.declare() if isinstance(type_, InstanceType) and sort == 5 else type_

    def type_(self, reader: ComponentReader) -> None:
        self._scope.add(3, self._type(reader))

    def _type(self, reader: ComponentReader) -> Any:
        form = reader.byte()
        if form in (0x40, 0x43):
            params = tuple((reader.name(), self._value_type(reader)) for _ in range(reader.unsigned()))
            if reader.byte() == 0:
                return FunctionType(params, self._value_type(reader), form == 0x43)
            reader.byte()
            return FunctionType(params, None, form == 0x43)
        if form in (0x41, 0x42):
            start, made = reader.at, [self._declared(reader, {})]  # whose end is found by that

            def again(args: Items) -> Items:
                return self._declared(ComponentReader(self._wasm, start, reader.end), args)

            return ComponentType(again) if form == 0x41 else InstanceType(lambda: made.pop() if made else again({}))
        if form == 0x3F:
            reader.byte()
            if reader.byte():
                reader.unsigned()
            return Definition("resource")
        return self._value_definition(form, reader)

    def _declared(self, reader: ComponentReader, args: Items) -> Items:
        scope = Scope(self._scope, self._scope.budget)
        body = _Body(scope, self._wasm, lambda name, _, made: args.get(name, made))
        for _ in range(reader.unsigned()):
            form = reader.byte()
            if form == 0:
                reader.core_type()
            elif form == 1:
                body.type_(reader)
            elif form == 2:
                body.alias(reader)
            elif form == 3:
                body.import_(reader)
            else:
                name = reader.extern_name()
                sort, item = body.extern_type(reader)
                body._give(scope.exports, name, sort, item)
                if sort:
                    scope.add(sort, item)
        return scope.exports

    def _value_type(self, reader: ComponentReader) -> Definition:
        index = reader.signed()
        if index < 0:
            return Definition("primitive", (_PRIMITIVES[index & 0x7F],))
        type_ = self._scope.types[index]
        assert isinstance(type_, Definition)
        return type_

    def _optional(self, reader: ComponentReader) -> Definition | None:
        return self._value_type(reader) if reader.byte() else None

    def _value_definition(self, form: int, reader: ComponentReader) -> Definition:
        many = range(reader.unsigned()) if form in (0x72, 0x71, 0x6F, 0x6E, 0x6D) else range(0)
        if form in _PRIMITIVES:
            return Definition("primitive", (_PRIMITIVES[form],))
        if form == 0x72:
            return Definition("record", tuple((reader.name(), self._value_type(reader)) for _ in many))
        if form == 0x71:
            return Definition("variant", tuple(self._case(reader) for _ in many))
        if form == 0x70:
            return Definition("list", (self._value_type(reader), None))
        if form == 0x67:
            return Definition("list", (self._value_type(reader), reader.unsigned()))
        if form == 0x6F:
            return Definition("tuple", tuple(self._value_type(reader) for _ in many))
        if form in (0x6E, 0x6D):
            return Definition("flags" if form == 0x6E else "enum", tuple(reader.name() for _ in many))
        if form == 0x6B:
            return Definition("option", (self._value_type(reader),))
        if form == 0x6A:
            return Definition("result", (self._optional(reader), self._optional(reader)))
        if form in (0x69, 0x68):
            return Definition("handle", (self._scope.types[reader.unsigned()], form == 0x69))
        if form in (0x66, 0x65):
            return Definition("stream" if form == 0x66 else "future", (self._optional(reader),))
        if form == 0x63:
            return Definition("map", (self._value_type(reader), self._value_type(reader)))
        raise InvalidModule(f"the component has a type of the form {form:#x}, which is not known here")

    def _case(self, reader: ComponentReader) -> tuple[str, Definition | None]:
        case = reader.name(), self._optional(reader)
        if reader.byte():  # what a case refined, once
            reader.unsigned()
        return case


@dataclass
class Leading:
    """What a component begins with that has to do with imports only."""

    end: int  #: where the first section of another kind begins
    scope: Scope  #: what there is at that point
    imports: list[tuple[str, int, int]]  #: each import's name, sort, and index among those of its sort


def leading(wasm: bytes) -> Leading:
    """What a component begins with that has to do with imports only: types, aliases and imports."""
    end = 8
    for section, _, after in sections_between(wasm, 8, len(wasm)):
        if section not in (0, 3, 6, 7, 10):
            break
        end = after
    found = Leading(end, Scope(None, _Budget()), [])

    def imported(name: str, sort: int, made: Any) -> Any:
        found.imports.append((name, sort, len(found.scope.space(sort)) if sort else -1))
        return made

    _Body(found.scope, wasm, imported).read(8, end)
    return found


def sections_between(wasm: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The sections of a component as (id, start, end), in order."""
    reader = Reader(wasm, start, end)
    while reader.at < end:
        section, size = reader.byte(), reader.unsigned()
        yield section, reader.at, reader.at + size
        reader.at += size


class _Frozen:
    """Makes types of definitions, each once."""

    def __init__(self) -> None:
        self._made: dict[int, wit.Type | wit.Resource] = {}
        self._kept: list[Definition] = []  # for their ids

    def named(self) -> tuple[wit.Type | wit.Resource, ...]:
        """Those that have names."""
        return tuple(dict.fromkeys(each for each in self._made.values() if isinstance(each, wit.Named)))

    def of(self, definition: Definition) -> Any:
        made = self._made.get(id(definition))
        if made is None:
            made = self._made[id(definition)] = self._of(definition)
            self._kept.append(definition)
        return made

    def _maybe(self, definition: Definition | None) -> Any:
        return None if definition is None else self.of(definition)

    def _of(self, definition: Definition) -> wit.Type | wit.Resource:
        kind, parts = definition.kind, definition.parts
        label = definition.label or kind
        name = f"{definition.interface}#{label}" if definition.interface else label
        if kind == "primitive":
            return wit.Primitive(*parts)
        if kind == "record":
            return wit.Record(name, tuple((label, self.of(each)) for label, each in parts))
        if kind == "variant":
            return wit.Variant(name, tuple((label, self._maybe(each)) for label, each in parts))
        if kind == "enum":
            return wit.Enum(name, parts)
        if kind == "flags":
            return wit.Flags(name, parts)
        if kind == "resource":
            return wit.Resource(name, len(self._kept), definition.imported)
        if kind == "list":
            return wit.List(self.of(parts[0]), parts[1])
        if kind == "map":
            return wit.Map(*map(self.of, parts))
        if kind == "tuple":
            return wit.Tuple(tuple(map(self.of, parts)))
        if kind == "option":
            return wit.Option(self.of(parts[0]))
        if kind == "result":
            return wit.Result(*map(self._maybe, parts))
        if kind == "handle":
            return wit.Handle(self.of(parts[0]), parts[1])
        return wit.Channel(kind, self._maybe(parts[0]))

    def function(self, name: str, type_: FunctionType) -> wit.Function:
        params = tuple((param, self.of(each)) for param, each in type_.params)
        return wit.Function(name, params, self._maybe(type_.result), type_.asynchronous)


def imported_interfaces(wasm: bytes) -> dict[str, dict[str, wit.Function | wit.Type | wit.Resource]]:
    """What is in the interfaces that a component imports, by their names and its own."""
    read = _Component(wasm)
    _belong(read)
    frozen = _Frozen()
    found: dict[str, dict[str, wit.Function | wit.Type | wit.Resource]] = {}
    for interface, _, items in read.imports:
        for name, item in items.items() if isinstance(items, dict) else ():
            if isinstance(item, FunctionType):
                found.setdefault(interface, {})[name] = frozen.function(f"{interface}#{name}", item)
            elif isinstance(item, Definition):
                found.setdefault(interface, {})[name] = frozen.of(item)
    return found


def _belong(read: _Component) -> dict[str, Any]:
    """Say to which interface each type belongs; what is imported, by name."""
    imports = {name: item for name, _, item in read.imports}
    # A type belongs to where it is met first, which is an import if it is one's.
    for items in (imports, read.scope.exports):
        for name, item in items.items():
            for each in item.values() if isinstance(item, dict) else (item,):
                if isinstance(each, Definition) and each.interface is None:
                    each.interface = name if isinstance(item, dict) else ""
                    each.imported = items is imports
    return imports


def _finished(wasm: bytes) -> wit.World:
    read = _Component(wasm)
    imports = _belong(read)
    frozen = _Frozen()
    exported, imported = (
        tuple(frozen.function(name, type_) for name, type_ in _functions(items)) for items in (read.scope.exports, imports)
    )
    return wit.World(
        exported,
        imported,
        frozen.named(),
        tuple(name for name, sort, _ in read.imports if sort in (1, 5)),
        tuple(
            (name, _SORTS[sort].rstrip("s") if sort else "module")
            for name, sort, _ in read.imports
            if sort not in (1, 3, 5)
        ),
    )


def _functions(items: Items) -> Iterator[tuple[str, FunctionType]]:
    for name, item in items.items():
        if isinstance(item, FunctionType):
            yield name, item
        elif isinstance(item, dict):
            for label, each in item.items():
                if isinstance(each, FunctionType):
                    yield f"{name}#{label}", each
