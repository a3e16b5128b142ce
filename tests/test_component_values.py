"""Values of components as Python objects, and what is said of arguments that are none."""

from __future__ import annotations

import dataclasses
import math
import pickle
import subprocess
import sys
from array import array
from collections import namedtuple
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from procpool import ArgumentOutOfRange, BadArguments
from procpool.component import wit
from procpool.component.codec import ComponentCodec, Numbers
from procpool.component.errors import WasmResultError
from procpool.component.values import Err, Ok, Resource, Some, Types, camel, class_of, constant, snake
from procpool.component.wit import Primitive

U8, U32, S16, F32, F64, TEXT, BOOL, CHAR = (
    Primitive(name) for name in ("u8", "u32", "s16", "f32", "f64", "string", "bool", "char")
)
POINT = wit.Record("a:b/c#point", (("x", F64), ("the-y", F64)))
KEYWORDS = wit.Record("a:b/c#keywords", (("class", U8), ("from", U8), ("wit-type", U8)))
SHAPE = wit.Variant("a:b/c#shape", (("circle", F64), ("at", POINT), ("nothing", None)))
COLOR = wit.Enum("a:b/c#color", ("red", "sea-green"))
RIGHTS = wit.Flags("a:b/c#rights", ("read", "write", "run-it"))
FILE = wit.Resource("a:b/c#file", 1)
Point, Keywords, Shape, Color, Rights = map(class_of, (POINT, KEYWORDS, SHAPE, COLOR, RIGHTS))


def codec(*types: wit.Type, result: wit.Type | None = None, numbers: Numbers = "list") -> ComponentCodec:
    return ComponentCodec(
        wit.Function("a:b/c#f", tuple((f"p{at}", each) for at, each in enumerate(types)), result), numbers=numbers
    )


def taken(type_: wit.Type, value: Any) -> Any:
    """What a component gets for an argument."""
    passing = codec(type_)
    return passing.unpack_arguments(passing.pack((value,)))[0]


def test_names() -> None:
    assert [snake(name) for name in ("a-b", "class", "XML-parser", "x")] == ["a_b", "class_", "xml_parser", "x"]
    assert [camel(name) for name in ("http-error", "XML", "a2-b", "none", "true")] == [
        "HttpError",
        "XML",
        "A2B",
        "None_",
        "True_",
    ]
    assert constant("not-found") == "NOT_FOUND"


def test_records_are_frozen_dataclasses() -> None:
    point = Point(1.0, the_y=2.0)
    assert repr(point) == "Point(x=1.0, the_y=2.0)"
    assert point == Point(1.0, 2.0) != Point(2.0, 1.0)
    assert len({point, Point(1.0, 2.0)}) == 1
    assert dataclasses.asdict(point) == {"x": 1.0, "the_y": 2.0}
    assert dataclasses.replace(point, x=3.0) == Point(3.0, 2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2.0
    assert Keywords(1, 2, 3).class_ == 1
    assert Keywords(1, 2, 3).wit_type == 3
    match point:
        case Point(x, y):
            assert (x, y) == (1.0, 2.0)


def test_variants_match() -> None:
    def area(shape: Any) -> float:
        match shape:
            case Shape.Circle(radius):
                return float(radius)
            case Shape.At(Point(x=x)):
                return float(x)
            case Shape.Nothing():
                return 0.0
        raise AssertionError(shape)

    assert [area(each) for each in (Shape.Circle(2.0), Shape.At(Point(1.0, 2.0)), Shape.Nothing())] == [2.0, 1.0, 0.0]
    assert Shape.Circle(2.0).value == 2.0
    assert isinstance(Shape.Nothing(), Shape)
    assert Shape.Nothing() == Shape.Nothing() != Shape.Circle(0.0)
    assert len({Shape.Circle(2.0), Shape.Circle(2.0)}) == 1
    assert repr(Shape.At(Point(1.0, 2.0))) == "Shape.At(Point(x=1.0, the_y=2.0))"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Shape.Circle(2.0).value = 3.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        del Shape.Circle(2.0).value
    with pytest.raises(TypeError, match="make one of its cases"):
        Shape()


def test_enumerations() -> None:
    assert list(Color) == [Color.RED, Color.SEA_GREEN]
    assert Color("sea-green") is Color.SEA_GREEN
    assert (Rights.READ | Rights.RUN_IT).value == 5
    assert Rights.READ in Rights.READ | Rights.WRITE


VALUES = [
    Point(1.0, 2.0),
    Shape.At(Point(1.0, 2.0)),
    Shape.Nothing(),
    Color.RED,
    Rights.READ | Rights.WRITE,
    Rights(0),
    Some(None),
    Ok(1),
    Err(),
]
CLASSES = [Point, Shape, Shape.Circle, Color, Rights]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_values_pickle(protocol: int) -> None:
    for value in (*VALUES, *CLASSES):
        assert pickle.loads(pickle.dumps(value, protocol)) == value


def test_values_are_known_in_a_process_that_never_saw_their_component() -> None:
    program = """
import pickle, sys
values, classes = pickle.load(sys.stdin.buffer)
again = pickle.loads(pickle.dumps(values))
assert values == again and [type(each) for each in values][:1] == classes[:1]
sys.stdout.buffer.write(pickle.dumps((values, classes)))
"""
    given = pickle.dumps((VALUES, CLASSES))
    run = subprocess.run([sys.executable, "-c", program], input=given, capture_output=True, timeout=60, check=True)
    assert pickle.loads(run.stdout) == (VALUES, CLASSES)


def test_classes_are_made_once() -> None:
    other = wit.Record("a:b/c#point", (("x", F64), ("the-y", F64)))
    assert class_of(other) is Point
    assert class_of(wit.Record("a:b/d#point", other.fields)) is not Point


def test_types_of_the_same_name_are_told_apart() -> None:
    types = (
        wit.Enum("a:b/one-more@1.0.0#error", ("x",)),
        wit.Enum("a:b/two@1.0.0#error", ("x",)),
        wit.Enum("error", ("x",)),
        POINT,
    )
    assert list(Types(wit.World((), (), types, ()))) == ["OneMoreError", "TwoError", "Error", "Point"]


@pytest.mark.parametrize(
    ("type_", "given", "value"),
    [
        (POINT, {"x": 1, "the_y": 2}, Point(1.0, 2.0)),
        (POINT, {"x": 1, "the-y": np.float32(2)}, Point(1.0, 2.0)),
        (POINT, SimpleNamespace(x=1.0, the_y=2.0, z=3.0), Point(1.0, 2.0)),
        (POINT, namedtuple("P", "x the_y")(1.0, 2.0), Point(1.0, 2.0)),
        (KEYWORDS, {"class": 1, "from": 2, "wit_type": 3}, Keywords(1, 2, 3)),
        (KEYWORDS, {"class_": 1, "from_": 2, "wit-type": 3}, Keywords(1, 2, 3)),
        (SHAPE, Shape.Nothing, Shape.Nothing()),
        (SHAPE, Shape.At({"x": 1, "the_y": 2}), Shape.At(Point(1.0, 2.0))),
        (COLOR, "sea-green", Color.SEA_GREEN),
        (COLOR, "SEA_GREEN", Color.SEA_GREEN),
        (RIGHTS, ["read", "run-it"], Rights.READ | Rights.RUN_IT),
        (RIGHTS, {Rights.WRITE}, Rights.WRITE),
        (U8, np.uint8(7), 7),
        (BOOL, np.bool_(True), True),
        (F64, Decimal("0.5"), 0.5),
        (F32, 0.1, 0.10000000149011612),
        (TEXT, np.str_("text"), "text"),
        (wit.List(U8), bytearray(b"ab"), b"ab"),
        (wit.List(U8), memoryview(b"abcd")[::2], b"ac"),
        (wit.List(U8), [1, np.uint8(2)], b"\1\2"),
        (wit.List(U8), (1, 2), b"\1\2"),
        (wit.List(U8), np.array([1, 2], np.uint8), b"\1\2"),
        (wit.List(U8), np.array([1, 2], np.int64), b"\1\2"),
        (wit.List(U8), range(3), b"\0\1\2"),
        (wit.List(U32), array("I", [1, 2]), [1, 2]),
        (wit.List(U32), array("b", [1, 2]), [1, 2]),
        (wit.List(U32), np.arange(3, dtype=np.uint32), [0, 1, 2]),
        (wit.List(U32), np.arange(6, dtype=np.uint32)[::2], [0, 2, 4]),
        (wit.List(S16), np.array([-1, 2], ">i2"), [-1, 2]),
        (wit.List(F64), np.array([1, 2]), [1.0, 2.0]),
        (wit.List(F64), [1, 2.5], [1.0, 2.5]),
        (wit.List(F32), np.array([1, 2], np.float32), [1.0, 2.0]),
        (wit.List(TEXT), ("a", "b"), ["a", "b"]),
        (wit.List(TEXT), (each for each in "ab"), ["a", "b"]),
        (wit.List(POINT), [{"x": 1, "the_y": 2}, Point(3.0, 4.0)], [Point(1.0, 2.0), Point(3.0, 4.0)]),
        (wit.Tuple((U8, TEXT)), [1, "a"], (1, "a")),
        (wit.Option(POINT), {"x": 1, "the_y": 2}, Point(1.0, 2.0)),
        (wit.Option(wit.Option(U8)), Some(None), Some(None)),
        (wit.Result(U8), Ok(np.uint8(1)), Ok(1)),
        (wit.Result(None, TEXT), Ok(), Ok()),
        (wit.Map(TEXT, U8), {"a": np.uint8(1)}, {"a": 1}),
    ],
)
def test_what_is_taken_for_a_value(type_: wit.Type, given: Any, value: Any) -> None:
    assert taken(type_, given) == value


@pytest.mark.parametrize(
    ("type_", "given", "why"),
    [
        (U8, "1", r"is '1' \(str\), expected u8, so an int"),
        (U8, True, "a bool is not a number here"),
        (U8, 1.0, r"is 1.0 \(float\), expected u8"),
        (U8, None, "is None"),
        (F64, True, r"is True \(bool\), expected f64"),
        (F64, "1.0", "expected f64, so a float or an int"),
        (BOOL, 1, "expected bool, so True or False"),
        (CHAR, "ab", "expected char, so a str of one character"),
        (CHAR, 65, "expected char"),
        (TEXT, b"ab", "expected string, so a str"),
        (POINT, (1, 2), r"expected point, so a Point, or a dict with 'x', 'the_y'"),
        (POINT, Point(1.0, "2"), r"\(p0\).the_y is '2'"),
        (POINT, {"x": 1}, "has no 'the_y', which is a field of point: x, the_y"),
        (POINT, {"x": 1, "the_y": 2, "z": 3}, "has the key 'z'"),
        (POINT, {"x": 1, "the_y": 2, "the-y": 3}, "has a field twice"),
        (wit.List(U8), np.array(5, dtype="u1"), "expected list<u8>, so a list"),
        (SHAPE, Shape.Circle("x"), r"\(p0\).value is 'x'"),
        (SHAPE, Shape.Circle, "so one of Shape.Circle\\(f64\\), Shape.At\\(point\\), Shape.Nothing\\(\\)"),
        (SHAPE, Point(1.0, 2.0), "expected shape"),
        (COLOR, "blue", "expected color, so one of Color.RED, Color.SEA_GREEN, or its name"),
        (COLOR, Rights.READ, "expected color"),
        (RIGHTS, ["fly"], "some of READ, WRITE, RUN_IT"),
        (RIGHTS, 1, "a Rights of READ | WRITE | RUN_IT"),
        (wit.List(U8), "text", "so bytes"),
        (wit.List(U8), 5, "expected list<u8>, so bytes"),
        (wit.List(U8), [1, True], r"\(p0\)\[1\] is True"),
        (wit.List(U32), [1, 1.5], r"\(p0\)\[1\] is 1.5"),
        (wit.List(TEXT), "text", "so a list"),
        (wit.List(TEXT), ["a", 1], r"\(p0\)\[1\] is 1 "),
        (wit.List(wit.List(POINT)), [[], [Point(1.0, None)]], r"\(p0\)\[1\]\[0\].the_y is None"),
        (wit.List(U8, 3), b"ab", r"has 2 elements, expected list<u8, 3>"),
        (wit.Tuple((U8, U8)), (1,), "has 1 items, expected 2: tuple<u8, u8>"),
        (wit.Tuple((U8, U8)), 5, "so a tuple"),
        (wit.Option(wit.Option(U8)), 5, "a Some of what is an option itself"),
        (wit.Result(U8, TEXT), 5, r"so an Ok\(u8\) or Err\(string\)"),
        (wit.Result(), Ok(1), "expected result"),
        (wit.Map(TEXT, U8), {1: 1}, r"key is 1 \(int\), expected string"),
        (wit.Map(TEXT, U8), {"a": "b"}, r"\['a' \(str\)\] is 'b'"),
        (wit.Handle(FILE, True), 3, "a file that a call with the same lease returned"),
        (wit.Handle(FILE, True), Resource(3, wit.Resource("other", 2)), "expected file"),
    ],
)
def test_what_is_no_value(type_: wit.Type, given: Any, why: str) -> None:
    with pytest.raises(BadArguments, match=f"^f: argument 0 .*{why}"):
        codec(type_).pack((given,))


def test_the_number_of_arguments() -> None:
    with pytest.raises(BadArguments, match=r"f takes 2 arguments, func\(p0: u8, p1: u8\), got 1"):
        codec(U8, U8).pack((1,))
    with pytest.raises(BadArguments, match=r"f takes 0 arguments, func\(\), got 1"):
        codec().pack((1,))


def test_numbers_in_lists_have_bounds() -> None:
    with pytest.raises(ArgumentOutOfRange, match=r"argument 0 \(p0\)\[1\] is 256 \(int\), out of range for u8"):
        codec(wit.List(U8)).pack(([1, 256],))
    with pytest.raises(ArgumentOutOfRange, match=r"\[0\] is -1"):
        codec(wit.List(U32)).pack((np.array([-1]),))
    with pytest.raises(ArgumentOutOfRange, match="too large for f32"):
        codec(wit.List(F32)).pack(([1e300],))
    with pytest.raises(ArgumentOutOfRange, match="too large for f64"):
        codec(F64).pack((10**400,))


def test_values_may_be_too_large_for_a_call() -> None:
    assert len(codec(wit.List(U8)).pack((bytes((1 << 26) - 16),))) == 1 << 26
    with pytest.raises(
        BadArguments, match="f: the values take 67108865 bytes, more than the 67108864 that one call can pass"
    ):
        codec(wit.List(U8)).pack((bytes((1 << 26) - 15),))


def test_lists_of_numbers_come_back_as_asked_for() -> None:
    image = codec(result=wit.List(U32)).pack_result([1, 2, 3])
    as_array = codec(result=wit.List(U32), numbers="array").unpack(image)
    assert as_array == array("I", [1, 2, 3])
    as_numpy = codec(result=wit.List(U32), numbers="numpy").unpack(image)
    assert as_numpy.dtype == np.uint32 and as_numpy.tolist() == [1, 2, 3]
    image = codec(result=wit.List(U8)).pack_result(b"ab")
    assert codec(result=wit.List(U8), numbers="numpy").unpack(image) == b"ab"


def test_a_result_of_a_function_is_a_value_or_an_exception() -> None:
    passing = codec(result=wit.Result(U8, SHAPE))
    assert passing.unpack(passing.pack_result(7)) == 7
    assert passing.unpack(passing.pack_result(Ok(7))) == 7
    with pytest.raises(WasmResultError) as raised:
        passing.unpack(passing.pack_result(Err(Shape.Circle(1.0))))
    assert raised.value.payload == Shape.Circle(1.0)
    assert str(raised.value) == "f returned an error: Shape.Circle(1.0)"
    again = pickle.loads(pickle.dumps(raised.value))
    assert (again.payload, again.export) == (Shape.Circle(1.0), "f")
    assert str(WasmResultError("f")) == "f returned an error"


def test_what_a_function_of_pythons_returns() -> None:
    with pytest.raises(BadArguments, match=r"f: what it returned is 'x' \(str\), expected u8"):
        codec(result=U8).pack_result("x")
    with pytest.raises(BadArguments, match=r"f returned 1 \(int\), expected None"):
        codec().pack_result(1)
    assert codec().pack_result(None) == b""


def test_a_nan_in_a_list() -> None:
    (back,) = taken(wit.List(F32), [math.nan])
    assert math.isnan(back)


def test_resources() -> None:
    dropped: list[int] = []
    resource = Resource(7, FILE, None, dropped.append)
    assert repr(resource) == "<file 7>"
    assert taken(wit.Handle(FILE, False), resource).handle == 7
    with resource:
        pass
    resource.close()
    assert dropped == [7]
    assert repr(resource) == "<file closed>"
    with pytest.raises(BadArguments, match="this file has been closed, or given to the component"):
        codec(wit.Handle(FILE, False)).pack((resource,))


def test_a_resource_that_is_given_away_is_not_dropped() -> None:
    dropped: list[int] = []
    resource = Resource(7, FILE, None, dropped.append)
    with pytest.raises(BadArguments):
        codec(wit.Handle(FILE, True), U8).pack((resource, "x"))
    assert resource.handle == 7  # nothing has been sent
    codec(wit.Handle(FILE, True), U8).pack((resource, 1))
    resource.close()
    assert dropped == []


def test_a_resource_cannot_leave() -> None:
    for value in (Resource(7, FILE), [Resource(7, FILE)], Shape.At(Resource(7, FILE))):
        with pytest.raises(TypeError, match="<file 7> cannot be pickled, as it lives in an instance of one worker"):
            pickle.dumps(value)


def test_types_that_cannot_be_passed() -> None:
    with pytest.raises(BadArguments, match="uses the type stream<u8>, whose values cannot be passed"):
        codec(wit.Channel("stream", U8))
    with pytest.raises(BadArguments, match="the type error-context, whose values"):
        codec(Primitive("error-context"))
