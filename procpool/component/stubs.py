"""A world as a stub file, by which editors and type checkers know what its functions take and return."""

from __future__ import annotations

import builtins
from collections.abc import Iterator

from . import wit
from .names import Functions
from .values import camel, constant, names_of, snake

#: Names that a WIT name cannot be, as it has no underscore at its beginning.
_MODULES = {"_abc": "collections.abc", "_builtins": "builtins", "_enum": "enum", "_typing": "typing"}
_PRIMITIVES = {"bool": "bool", "f32": "float", "f64": "float", "char": "str", "string": "str"}

_HEAD = '''\
"""The world of {name}, for editors and type checkers.

It is there for these alone, so it is imported where they look, and says what a pool is:

    from typing import TYPE_CHECKING, cast

    if TYPE_CHECKING:
        from {module} import Pool

    pool = cast("Pool", ProcessWasmPool({name!r}))
"""

{imports}

from procpool import Lease as _Lease
from procpool import ProcessWasmPool as _ProcessWasmPool
from procpool.component import values as _values

'''


def stubs(world: wit.World, name: str = "app.wasm") -> str:
    """A stub file.

    Args:
        name: of the component's file, for what the stub says of itself.
    """
    return _Stubs(world).text(name)


class _Stubs:
    def __init__(self, world: wit.World) -> None:
        self._world = world
        named = names_of(world)
        self._named: dict[str, wit.Named] = named
        fields = {snake(name) for each in world.types if isinstance(each, wit.Record) for name, _ in each.fields}
        #: before the names of builtins, if those are also the names of fields
        self._before: str = "_builtins." if fields & {*dir(builtins)} else ""
        self._names: dict[wit.Named, str] = {type_: name for name, type_ in named.items()}

    def text(self, name: str) -> str:
        stem = name.replace("\\", "/").rpartition("/")[2]
        calls = list(self._calls())
        lines = [
            *self._types(),
            "",
            "class Pool(_ProcessWasmPool):",
            "    @property",
            "    def types(self) -> Types: ...",
            *calls,
            "",
            "class Lease(_Lease):",
            *(calls or ["    ..."]),
            "",
        ]
        body = "\n".join(lines)
        imports = "\n".join(f"import {known} as {name}" for name, known in _MODULES.items() if f"{name}." in body)
        return _HEAD.format(name=stem, module=snake(stem.rpartition(".")[0] or stem), imports=imports) + body

    def _types(self) -> Iterator[str]:
        yield "class Types(_values.Types):"
        for name, type_ in self._named.items():
            yield f"    # {type_.name}"
            for line in self._class(name, type_):
                yield f"    {line}"
        if not self._named:
            yield "    ..."

    def _class(self, name: str, type_: wit.Named) -> Iterator[str]:
        if isinstance(type_, wit.Record):
            yield "@_typing.final"
            yield f"class {name}:"
            for field, each in type_.fields:
                yield "    @property"
                yield f"    def {snake(field)}(self) -> {self._out(each)}: ..."
            params = ", ".join(f"{snake(field)}: {self._in(each)}" for field, each in type_.fields)
            yield f"    def __init__(self, {params}) -> None: ..."
        elif isinstance(type_, wit.Variant):
            yield from self._variant(name, type_)
        elif isinstance(type_, (wit.Enum, wit.Flags)):
            yield f"class {name}(_enum.{'Enum' if isinstance(type_, wit.Enum) else 'Flag'}):"
            for index, label in enumerate(type_.labels):
                yield (
                    f"    {constant(label)} = {label!r}"
                    if isinstance(type_, wit.Enum)
                    else f"    {constant(label)} = {1 << index}"
                )

    def _variant(self, name: str, type_: wit.Variant) -> Iterator[str]:
        yield f"class {name}:"
        for case, payload in type_.cases:
            yield "    @_typing.final"
            yield f"    class {camel(case)}(Types.{name}):"
            if payload is None:
                yield "        def __init__(self) -> None: ..."
            else:
                yield '        __match_args__ = ("value",)'
                yield "        @property"
                yield f"        def value(self) -> {self._out(payload)}: ..."
                yield f"        def __init__(self, value: {self._in(payload)}) -> None: ..."

    def _calls(self) -> Iterator[str]:
        functions = Functions(self._world.exports)
        several = len(self._world.exports) > 1
        # Any name and any arguments are what the class that is inherited from takes: these here take less.  mypy says so of
        # the first of several, pyright of the last.
        ignored = "  # type: ignore[override]"
        timeout = f"timeout: {self._builtin('float')} | None = None"
        for function in self._world.exports:
            names = dict.fromkeys((functions.shortest(function), function.label, function.name))
            known = ", ".join(repr(each) for each in names if _means(functions, each, function))
            params = "".join(f", {_param(param)}: {self._in(type_)}" for param, type_ in function.params)
            result = function.result.ok if isinstance(function.result, wit.Result) else function.result
            text = (
                f"def call(self, export: _typing.Literal[{known}]{params}, /, *, {timeout}) -> {self._maybe(result)}: ..."
            )
            if several:
                yield f"    @_typing.overload{ignored}"
                ignored = ""
            if function is self._world.exports[-1]:
                text += "  # pyright: ignore[reportIncompatibleMethodOverride]" if several else ignored
            yield f"    {text}"

    def _maybe(self, type_: wit.Type | None) -> str:
        return "None" if type_ is None else self._out(type_)

    def _name(self, type_: wit.Named) -> str:
        return f"Types.{self._names[type_]}"

    def _builtin(self, name: str) -> str:
        return self._before + name

    def _out(self, type_: wit.Type) -> str:
        """What comes out of a call."""
        match type_:
            case wit.Primitive(name):
                return self._builtin(_PRIMITIVES.get(name, "int"))
            case wit.Record() | wit.Variant() | wit.Enum() | wit.Flags():
                return self._name(type_)
            case wit.List(wit.Primitive("u8")):
                return self._builtin("bytes")
            case wit.List():
                return f"{self._builtin('list')}[{self._out(type_.element)}]"
            case wit.Map():
                return f"{self._builtin('dict')}[{self._out(type_.key)}, {self._out(type_.value)}]"
            case wit.Tuple():
                return f"{self._builtin('tuple')}[{', '.join(map(self._out, type_.items))}]"
            case wit.Option():
                return self._option(type_, self._out(type_.some))
            case wit.Result():
                return self._result(*(self._maybe(each) for each in (type_.ok, type_.error)))
            case wit.Handle():
                return "_values.Resource"
        return "_typing.Any"

    def _in(self, type_: wit.Type) -> str:
        """What goes into a call, which may be more than comes out."""
        match type_:
            case wit.Record():
                return f"{self._name(type_)} | _abc.Mapping[{self._builtin('str')}, _typing.Any]"
            case wit.Enum():
                return f"{self._name(type_)} | {self._builtin('str')}"
            case wit.Flags():
                return f"{self._name(type_)} | _abc.Collection[{self._builtin('str')}]"
            case wit.List(wit.Primitive("u8")):
                either = " | ".join(map(self._builtin, ("bytes", "bytearray", "memoryview")))
                return f"{either} | _abc.Sequence[{self._builtin('int')}]"
            case wit.List():
                return f"_abc.Sequence[{self._in(type_.element)}]"
            case wit.Map():
                return f"_abc.Mapping[{self._in(type_.key)}, {self._in(type_.value)}]"
            case wit.Tuple():
                return f"{self._builtin('tuple')}[{', '.join(map(self._in, type_.items))}]"
            case wit.Option():
                return self._option(type_, self._in(type_.some))
            case wit.Result():
                return self._result(*("None" if each is None else self._in(each) for each in (type_.ok, type_.error)))
        return self._out(type_)

    def _option(self, type_: wit.Option, some: str) -> str:
        return f"_values.Some[{some}] | None" if isinstance(type_.some, wit.Option) else f"{some} | None"

    def _result(self, ok: str, error: str) -> str:
        return f"_values.Ok[{ok}] | _values.Err[{error}]"


def _param(name: str) -> str:
    """A parameter's name, which is for people only, as arguments are given by position."""
    return {"self": "self_", "export": "export_", "timeout": "timeout_"}.get(snake(name), snake(name))


def _means(functions: Functions, name: str, function: wit.Function) -> bool:
    try:
        return functions.find(name) is function
    except LookupError:
        return False
