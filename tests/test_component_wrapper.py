"""Components in their wrapper: values go in and come back."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st
from wasmtime.component import Component, Linker

from procpool.component import wit
from procpool.component.binary import read_world
from procpool.component.errors import WasmResultError
from procpool.component.layout import flat
from procpool.component.values import Resource
from procpool.component.wit import Primitive
from procpool.component.wrapper import CannotWrap, Entry, wrap
from tests.components import CORE, ENGINE, OPTIONS, Instance, lifted, made
from tests.test_component_canonical import CASES, mentions, python_value, same, wit_type

FILLING = "".join(f'(param "p{at}" u64)' for at in range(17))


class Text:
    """The definitions of types, as text; each aggregate has a name."""

    def __init__(self) -> None:
        self.definitions: list[str] = []

    def of(self, type_: wit.Type) -> tuple[str, wit.Type]:
        """How to refer to the type; and the type with the names that it has there."""
        match type_:
            case Primitive(name):
                return name, type_
            case wit.Record():
                fields = [(name, *self.of(each)) for name, each in type_.fields]
                name = self.name("record " + " ".join(f'(field "{field}" {text})' for field, text, _ in fields))
                return f"${name}", wit.Record(name, tuple((field, each) for field, _, each in fields))
            case wit.Variant():
                cases = [(name, each and self.of(each)) for name, each in type_.cases]
                text = " ".join(f'(case "{case}" {each[0] if each else ""})' for case, each in cases)
                name = self.name(f"variant {text}")
                return f"${name}", wit.Variant(name, tuple((case, each and each[1]) for case, each in cases))
            case wit.Enum() | wit.Flags():
                kind = type(type_).__name__.lower()
                name = self.name(f"{kind} " + " ".join(f'"{label}"' for label in type_.labels))
                return f"${name}", type(type_)(name, type_.labels)
            case wit.Tuple():
                items = [self.of(each) for each in type_.items]
                text = self.structure("tuple " + " ".join(text for text, _ in items))
                return text, wit.Tuple(tuple(each for _, each in items))
            case wit.List() | wit.Option():
                text, inner = self.of(next(wit.parts(type_)))
                kind = type(type_).__name__.lower()
                return self.structure(f"{kind} {text}"), type(type_)(inner)
            case wit.Result():
                ok, error = (each and self.of(each) for each in (type_.ok, type_.error))
                text = f"result {ok[0] if ok else ''} {f'(error {error[0]})' if error else ''}"
                return self.structure(text), wit.Result(ok and ok[1], error and error[1])
        raise AssertionError(type_)

    def name(self, definition: str) -> str:
        name = f"t{len(self.definitions)}"
        self.definitions.append(f'(type ${name}-made ({definition})) (export ${name} "{name}" (type ${name}-made))')
        return name

    def structure(self, definition: str) -> str:
        name = f"$t{len(self.definitions)}"
        self.definitions.append(f"(type {name} ({definition}))")
        return name


def echoes(types: list[wit.Type]) -> tuple[str, list[wit.Type]]:
    """A component with three functions for each type, that give back what they get; and the types by their names there."""
    text, functions, named = Text(), [], []
    for at, type_ in enumerate(types):
        word, known = text.of(type_)
        named.append(known)
        listed = text.structure(f"list {word}")
        functions.append(f'(func (export "listed{at}") (param "x" {listed}) (result {listed}) {lifted("pair")})')
        core = flat(type_)
        if len(core) == 1:
            options = OPTIONS.rpartition("(post")[0]
            functions.append(f'(func (export "alone{at}") (param "x" {word}) (result {word}) {lifted(core[0], options)})')
        elif core == ("i32", "i32"):
            option = "(error" not in word
            assert option
        if len(core) > 1:
            functions.append(f'(func (export "among{at}") {FILLING} (param "x" {word}) (result {word}) {lifted("behind")})')
    return f"(component {CORE} {' '.join(text.definitions)} {' '.join(functions)})", named


def off_by_default(type_: wit.Type) -> bool:
    """Whether wasmtime has to be told that such types are wanted."""
    return any(isinstance(each, wit.Map) or (isinstance(each, wit.List) and each.length) for each in mentions(type_))


def renamed(value: Any, type_: wit.Type, known: wit.Type, written: Any) -> Any:
    return python_value(known, written)


GROUP = 20
PASSABLE = [(wit_type(kind), written) for kind, written, *_ in CASES[60:] if not off_by_default(wit_type(kind))]


@pytest.mark.parametrize("part", range(6))
def test_every_type_goes_in_and_comes_back(part: int) -> None:
    cases = PASSABLE[part * GROUP : (part + 1) * GROUP]
    text, known = echoes([type_ for type_, _ in cases])
    instance = Instance(made(text))
    functions = {function.name: function for function in instance.world.exports}
    for at, ((_, written), type_) in enumerate(zip(cases, known, strict=True)):
        value = python_value(type_, written)
        assert functions[f"listed{at}"].result == wit.List(type_)
        for several in ([], [value], [value] * 3):
            if type_ == Primitive("u8"):
                several = bytes(several)
            assert same(instance.call(f"listed{at}", several), several)
        if f"among{at}" in functions:
            called = instance.codec(f"among{at}")
            image = instance.raw(f"among{at}", called.pack((*range(17), value)))
            assert same(called.value(image), value)
        entry = instance.wrapped.entries.get(f"alone{at}")
        if entry is not None and entry.image:
            called = instance.codec(f"alone{at}")
            assert same(called.value(instance.raw(f"alone{at}", called.pack((value,)))), value)
