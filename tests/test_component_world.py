"""Worlds: read from binaries, and their functions by name."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wasmtime import component as wt

from procpool import InvalidModule, UnknownExport
from procpool.component import wit
from procpool.component.binary import is_component, read_world
from procpool.component.names import Functions
from procpool.component.values import Types
from procpool.component.wit import Function, Primitive
from tests.components import CORE, ENGINE, lifted, made
from tests.test_component_canonical import CASES, wit_type
from tests.test_component_wrapper import BYTES, COUNTER, IMPORTING, echoes, off_by_default


def names(functions: tuple[Function, ...]) -> list[str]:
    return [function.name for function in functions]


def test_a_component_is_no_module() -> None:
    assert is_component(made("(component)"))
    assert not is_component(made("(module)"))
    assert not is_component(b"\0asm")
    with pytest.raises(InvalidModule, match="not a component"):
        read_world(made("(module)"))
    with pytest.raises(InvalidModule, match="version"):
        read_world(b"\0asm\x0c\0\1\0")


def test_an_empty_world() -> None:
    assert read_world(made("(component)")) == wit.World((), (), (), ())


def test_exports_and_signatures() -> None:
    world = read_world(made(BYTES))
    assert [str(function) for function in world.exports][:2] == [
        "echo: func(x: list<u8>) -> list<u8>",
        "text: func(x: string) -> string",
    ]
    assert str(world.exports[-1]) == "result: func(x: result<u32, u32>) -> result<u32, u32>"
    assert world.imports == world.needs == ()


def test_resources_and_their_functions() -> None:
    world = read_world(made(COUNTER))
    assert [str(function) for function in world.exports][:3] == [
        "counter.new: func(start: u32) -> counter",
        "counter.get: func(self: borrow<counter>) -> u32",
        "end: func(c: counter) -> u32",
    ]
    (counter,) = world.types
    assert isinstance(counter, wit.Resource) and not counter.imported
    assert wit.resources(world.exports) == [counter]


def test_imports_and_interfaces() -> None:
    world = read_world(made(IMPORTING))
    assert names(world.imports) == ["host:things/types@1.0.0#make", "log"]
    assert str(world.imports[0]) == "make: func(x: u32) -> thing"
    assert names(world.exports) == ["host:things/out@1.0.0#echo", "host:things/out@1.0.0#hold"]
    assert world.exports[1].interface == "host:things/out@1.0.0"
    assert {each.name for each in world.types if isinstance(each, wit.Named)} == {
        "host:things/types@1.0.0#thing",
        "host:things/types@1.0.0#store",
    }


#: As wit-component writes what Rust or C has compiled: an interface comes out of a component of its own, which gives types
#: and functions their names.
NESTED = f"""(component
  {CORE}
  (type $point (record (field "x" f64)))
  (type $shape (variant (case "at" $point) (case "nothing")))
  (func $grow (param "s" (list $shape)) (result (list $shape)) {lifted("pair")})
  (component $shim
    (type $point-given (record (field "x" f64)))
    (import "import-type-point" (type $point (eq $point-given)))
    (type $shape-given (variant (case "at" $point) (case "nothing")))
    (import "import-type-shape" (type $shape (eq $shape-given)))
    (type $shapes (list $shape))
    (import "import-func-grow" (func $grow (param "s" $shapes) (result $shapes)))
    (export $out-point "point" (type $point))
    (type $out-shape-made (variant (case "at" $out-point) (case "nothing")))
    (export $out-shape "shape" (type $shape))
    (type $out-shapes (list $out-shape))
    (export "grow" (func $grow) (func (param "s" $out-shapes) (result $out-shapes))))
  (instance $geometry (instantiate $shim
    (with "import-type-point" (type $point))
    (with "import-type-shape" (type $shape))
    (with "import-func-grow" (func $grow))))
  (export "a:b/geometry@0.2.0" (instance $geometry)))"""


def test_types_get_their_names_from_where_they_are_exported() -> None:
    world = read_world(made(NESTED))
    (grow,) = world.exports
    assert str(grow) == "grow: func(s: list<shape>) -> list<shape>"
    assert [each.name for each in world.types if isinstance(each, wit.Named)] == [
        "a:b/geometry@0.2.0#point",
        "a:b/geometry@0.2.0#shape",
    ]
    types = Types(world)
    assert list(types) == ["Point", "Shape"]
    assert types.Shape.At(types.Point(1.0)).value.x == 1.0
    with pytest.raises(AttributeError, match="no type 'Form': it has Point, Shape"):
        types.Form  # noqa: B018


def same_type(theirs: Any, ours: wit.Type | None) -> bool:
    """Whether wasmtime says the same of a type."""
    match ours:
        case None:
            return theirs is None
        case Primitive(name):
            return type(theirs).__name__ == (name.upper() if name[-1].isdigit() else name.capitalize())
        case wit.Record():
            return [name for name, _ in theirs.fields] == [name for name, _ in ours.fields] and all(
                same_type(one, other) for (_, one), (_, other) in zip(theirs.fields, ours.fields, strict=True)
            )
        case wit.Variant():
            return [name for name, _ in theirs.cases] == [name for name, _ in ours.cases] and all(
                same_type(one, other) for (_, one), (_, other) in zip(theirs.cases, ours.cases, strict=True)
            )
        case wit.Enum() | wit.Flags():
            labels = theirs.names
            return (
                type(theirs).__name__ in (type(ours).__name__, f"{type(ours).__name__}Type")
                and tuple(labels) == ours.labels
            )
        case wit.List():
            return same_type(theirs.element, ours.element)
        case wit.Tuple():
            return all(same_type(*each) for each in zip(theirs.elements, ours.items, strict=True))
        case wit.Option():
            return same_type(theirs.payload, ours.some)
        case wit.Result():
            return same_type(theirs.ok, ours.ok) and same_type(theirs.err, ours.error)
    raise AssertionError(ours)


def test_wasmtime_says_the_same_of_every_type() -> None:
    types = [each for each in (wit_type(made_) for made_, *_ in CASES[60:400]) if not off_by_default(each)][:100]
    wasm = made(echoes(types)[0])
    exports = wt.Component(ENGINE, wasm).type.exports(ENGINE)
    world = read_world(wasm)
    for function in world.exports:
        theirs = exports[function.name].ty
        if isinstance(theirs, wt.FuncType):
            assert [name for name, _ in theirs.params] == [name for name, _ in function.params]
            assert all(
                same_type(*each)
                for each in zip((t for _, t in theirs.params), (t for _, t in function.params), strict=True)
            )
            assert same_type(theirs.result, function.result)
    assert len(world.exports) > 150


@pytest.mark.parametrize("text", [BYTES, COUNTER, IMPORTING, NESTED])
def test_a_world_is_plain_data(text: str) -> None:
    world = read_world(made(text))
    assert pickle.loads(pickle.dumps(world)) == world
    assert hash(world) == hash(read_world(made(text)))


BINARIES = [made(text) for text in (BYTES, COUNTER, IMPORTING, NESTED)]


@given(st.sampled_from(BINARIES), st.data())
def test_a_broken_component_is_refused_or_read(wasm: bytes, data: st.DataObject) -> None:
    broken = bytearray(wasm[: data.draw(st.integers(0, len(wasm)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_world(bytes(broken))
    except InvalidModule:
        pass


def test_a_component_of_components_is_read_once_for_each_instance_up_to_a_limit() -> None:
    text = '(component $c0 (type $t (record (field "x" u8))) (export "t" (type $t)))'
    for level in range(1, 24):
        text += f"(component $c{level} (alias outer {level and 1} $c{level - 1} (component $inner)) "
        text += "(instance (instantiate $inner)) (instance (instantiate $inner)))"
    with pytest.raises(InvalidModule, match="more than 100000 definitions"):
        read_world(made(f"(component {text} (instance (instantiate $c23)))"))


def function(name: str) -> Function:
    return Function(name, (), None)


FUNCTIONS = Functions(
    map(
        function,
        (
            "eval",
            "fetch-all",
            "run",
            "my:pkg/shapes@1.0.0#area",
            "my:pkg/shapes@1.0.0#run",
            "my:pkg/shapes@1.0.0#[constructor]counter",
            "my:pkg/shapes@1.0.0#[method]counter.inc",
            "my:pkg/shapes@2.0.0#scale",
            "my:pkg/solids@1.0.0#volume",
            "my:pkg/solids@1.0.0#scale",
            "plain#go",
        ),
    )
)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("eval", "eval"),
        ("fetch-all", "fetch-all"),
        ("fetch_all", "fetch-all"),
        ("run", "run"),  # what is at the root comes first
        ("shapes#run", "my:pkg/shapes@1.0.0#run"),
        ("area", "my:pkg/shapes@1.0.0#area"),
        ("pkg/shapes#area", "my:pkg/shapes@1.0.0#area"),
        ("my:pkg/shapes#area", "my:pkg/shapes@1.0.0#area"),
        ("my:pkg/shapes@1.0.0#area", "my:pkg/shapes@1.0.0#area"),
        ("counter.inc", "my:pkg/shapes@1.0.0#[method]counter.inc"),
        ("[method]counter.inc", "my:pkg/shapes@1.0.0#[method]counter.inc"),
        ("shapes#counter.new", "my:pkg/shapes@1.0.0#[constructor]counter"),
        ("go", "plain#go"),
        ("plain#go", "plain#go"),
    ],
)
def test_the_shortest_name_will_do(name: str, full: str) -> None:
    assert FUNCTIONS.find(name).name == full


def test_every_function_has_a_shortest_name_that_finds_it() -> None:
    shortest = {each.name: FUNCTIONS.shortest(each) for each in FUNCTIONS}
    assert all(FUNCTIONS.find(short).name == name for name, short in shortest.items())
    assert shortest["my:pkg/shapes@1.0.0#area"] == "area"
    assert shortest["my:pkg/shapes@2.0.0#scale"] == "shapes#scale"
    assert shortest["my:pkg/shapes@1.0.0#run"] == "shapes#run"
    assert shortest["run"] == "run"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("scale", r"'scale' \(str\) may be 'shapes#scale' or 'solids#scale'"),
        ("evil", "exports no function 'evil' .*; did you mean 'eval'"),
        ("counter.in", "did you mean 'counter.inc'"),
        ("zzz", "did you mean 'area' or 'counter.inc'"),
        ("other:pkg/shapes#area", "did you mean 'area'"),
    ],
)
def test_near_misses_are_explained(name: str, why: str) -> None:
    with pytest.raises(UnknownExport, match=why):
        FUNCTIONS.find(name)


def test_what_is_no_name() -> None:
    with pytest.raises(TypeError, match="expected the name of an export, got 7"):
        FUNCTIONS.find(7)
    with pytest.raises(UnknownExport, match="no function at all"):
        Functions(()).find("eval")
