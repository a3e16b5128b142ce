"""Components in their wrapper: values go in and come back."""

from __future__ import annotations

import struct

import pytest
import wasmtime
from component_texts import COUNTER
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
        if len(core) > 1:
            functions.append(f'(func (export "among{at}") {FILLING} (param "x" {word}) (result {word}) {lifted("behind")})')
    return f"(component {CORE} {' '.join(text.definitions)} {' '.join(functions)})", named


def off_by_default(type_: wit.Type) -> bool:
    """Whether wasmtime has to be told that such types are wanted."""
    return any(isinstance(each, wit.Map) or (isinstance(each, wit.List) and each.length) for each in mentions(type_))


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


BYTES = f"""(component {CORE}
  (func (export "echo") (param "x" (list u8)) (result (list u8)) {lifted("pair")})
  (func (export "text") (param "x" string) (result string) {lifted("pair")})
  (func (export "wide") (param "x" string) (result string) {lifted("pair", OPTIONS + " string-encoding=utf16")})
  (func (export "mixed") (param "x" string) (result string) {lifted("pair", OPTIONS + " string-encoding=latin1+utf16")})
  (func (export "nothing") {lifted("nothing", "")})
  (func (export "take") (param "x" string) {lifted("take", OPTIONS.rpartition("(post")[0])})
  (func (export "result") (param "x" (result u32 (error u32))) (result (result u32 (error u32))) {lifted("pair")})
)""".replace('(func (export "nothing"))', '(func (export "nothing")) (func (export "take") (param i32 i32))', 1)


@pytest.fixture(scope="module")
def instance() -> Instance:
    return Instance(made(BYTES))


@given(st.binary(max_size=100))
def test_any_bytes(content: bytes) -> None:
    instance = SHARED
    assert instance.call("echo", content) == content


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 9, 65_535 - 24, 65_536, 131_072, 3_000_001])
def test_any_number_of_bytes(instance: Instance, size: int) -> None:
    content = bytes(at * 7 & 255 for at in range(min(size, 1000))) * (size // 1000 + 1)
    assert instance.call("echo", content[:size]) == content[:size]


@pytest.mark.parametrize("name", ["text", "wide", "mixed"])
@pytest.mark.parametrize("text", ["", "plain", "höher", "€ and 𝄞", "\0", "ab" * 40_000, "é" * 40_001, "𝄞" * 40_002])
def test_text_in_every_encoding_of_a_guest(instance: Instance, name: str, text: str) -> None:
    assert instance.call(name, text) == text
    assert instance.call("echo", b"after") == b"after"


def test_nothing_is_none(instance: Instance) -> None:
    assert instance.call("nothing") is None
    assert instance.call("take", "x" * 100_000) is None


def test_an_error_is_raised(instance: Instance) -> None:
    from procpool.component.values import Err, Ok

    assert instance.call("result", Ok(7)) == 7
    with pytest.raises(WasmResultError, match="result returned an error: 9") as raised:
        instance.call("result", Err(9))
    assert (raised.value.payload, raised.value.export) == (9, "result")


def test_numbers_go_as_they_are() -> None:
    params = "".join(f'(param "p{at}" u8)' for at in range(17))
    text = f"""(component
      (core module $m
        (func (export "add") (param i32 f64 i64 f32) (result i32) (i32.const 7))
        (func (export "many") (param i32) (result i32) (i32.const 7))
        (memory (export "memory") 1)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8)))
      (core instance $i (instantiate $m))
      (func (export "add") (param "a" u8) (param "b" f64) (param "c" s64) (param "d" f32) (result bool)
        (canon lift (core func $i "add")))
      (func (export "many") {params} (result bool)
        (canon lift (core func $i "many") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"""
    instance = Instance(made(text))
    assert instance.wrapped.entries["add"] == Entry("f0", False, (2, 10, 7, 9), 0)
    image = instance.codec("add").pack((200, 0.5, -2, 1.5))
    assert image == struct.pack("<Q d q f 4x", 200, 0.5, -2, 1.5)
    assert instance.call("many", *range(17)) is True  # too many to pass them one by one


def test_resources_are_handles() -> None:
    instance = Instance(made(COUNTER))
    counter = instance.call("counter.new", 41)
    assert isinstance(counter, Resource)
    other = instance.call("counter.new", 42)
    assert counter.handle != other.handle
    assert instance.call("counter.get", counter) == 41
    assert instance.call("counter.get", other) == 42
    assert instance.call("end", counter) == 41
    with pytest.raises(ValueError, match="given to the component"):
        counter.handle  # noqa: B018
    instance.drop(other)
    with pytest.raises(wasmtime.WasmtimeError, match="handle"):
        instance.drop(other)


IMPORTING = f"""(component
  (import "host:things/types@1.0.0" (instance $types
    (type $thing-made (record (field "size" u32)))
    (export "thing" (type $thing (eq $thing-made)))
    (export "store" (type $store (sub resource)))
    (export "make" (func (param "x" u32) (result $thing)))))
  (alias export $types "thing" (type $thing))
  (alias export $types "store" (type $store))
  (import "log" (func $log (param "text" string)))
  (core func $make (canon lower (func $types "make")))
  {CORE.replace("(core instance $i (instantiate $m))", "")}
  (core instance $i (instantiate $m))
  (func $echo (param "x" (list u32)) (result (list u32)) {lifted("pair")})
  (func $hold (param "x" (own $store)) (result (own $store)) {lifted("i32", "")})
  (component $shim
    (import "types" (instance $types
      (type $thing-made (record (field "size" u32)))
      (export "thing" (type (eq $thing-made)))
      (export "store" (type $store (sub resource)))))
    (alias export $types "thing" (type $thing))
    (alias export $types "store" (type $store))
    (import "echo" (func $echo (param "x" (list u32)) (result (list u32))))
    (import "hold" (func $hold (param "x" (own $store)) (result (own $store))))
    (export "echo" (func $echo))
    (export "hold" (func $hold)))
  (instance $out (instantiate $shim (with "types" (instance $types)) (with "echo" (func $echo)) (with "hold" (func $hold))))
  (export "host:things/out@1.0.0" (instance $out)))"""


def host(linker: Linker) -> None:
    from wasmtime.component import ResourceType

    with linker.root() as root:
        root.add_func("log", lambda store, text: None)
        with root.add_instance("host:things/types@1.0.0") as types:
            types.add_resource("store", ResourceType.host(1), lambda store, rep: None)
            types.add_func("make", lambda store, size: None)


def test_imports_are_passed_on() -> None:
    instance = Instance(made(IMPORTING), host)
    assert instance.call("echo", [1, 2, 3]) == [1, 2, 3]
    assert instance.world.needs == ("host:things/types@1.0.0", "log")
    (store,) = instance.wrapped.drops
    assert (store.name, store.imported) == ("host:things/types@1.0.0#store", True)


def test_imports_after_definitions_have_no_wrapper() -> None:
    with pytest.raises(CannotWrap, match="after it has defined"):
        wrap(made('(component (core module $m) (import "log" (func (param "text" string))))'))


def test_wasmtime_refuses_more_than_32_flags() -> None:
    labels = " ".join(f'"b{at}"' for at in range(33))
    wasm = made(f'(component (type $f (flags {labels})) (export "f" (type $f)))')
    with pytest.raises(wasmtime.WasmtimeError, match="more than 32 flags"):
        Component(ENGINE, wasm)


def test_the_wrapper_is_compiled_once_and_small() -> None:
    wasm = made(BYTES)
    assert len(wrap(wasm).wasm) - len(wasm) < 3000
    assert read_world(wrap(wasm).wasm).exports[0].signature == "func(image: string) -> string"
    Component(ENGINE, wrap(wasm).wasm)


def test_an_image_with_pointers_out_of_it_is_trapped_in_the_guest(instance: Instance) -> None:
    fresh = Instance(made(BYTES))
    with pytest.raises(wasmtime.WasmtimeError, match=r"out[- ]of[- ]bounds"):
        fresh.raw("echo", struct.pack("<I4xI4x", 2**31, 100))


SHARED = Instance(made(BYTES))
