"""Values of components as text."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procpool import ArgumentOutOfRange, BadArguments
from procpool.component import wit
from procpool.component.values import Err, Ok, Some, class_of
from procpool.component.wave import json_text, parse, parse_argument, show
from procpool.component.wit import Primitive
from tests.test_component_canonical import CASES, python_value, same, wit_type

U8, TEXT, CHAR, F32, F64, BOOL = (Primitive(name) for name in ("u8", "string", "char", "f32", "f64", "bool"))
POINT = wit.Record("a:b/c#point", (("x", F64), ("the-y", wit.Option(F64))))
SHAPE = wit.Variant("a:b/c#shape", (("circle", F64), ("at", POINT), ("nothing", None), ("true", None)))
COLOR = wit.Enum("a:b/c#color", ("red", "sea-green", "none"))
RIGHTS = wit.Flags("a:b/c#rights", ("read", "write", "run-it"))
Point, Shape, Color, Rights = map(class_of, (POINT, SHAPE, COLOR, RIGHTS))


@pytest.mark.parametrize("part", range(10))
def test_what_is_shown_is_read(part: int) -> None:
    for made, written, *_ in CASES[part::10]:
        type_ = wit_type(made)
        value = python_value(type_, written)
        for text in (show(value, type_), json_text(value, type_)):
            assert same(parse(text, type_), value), text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_read_back(text: str) -> None:
    assert parse(show(text, TEXT), TEXT) == parse(json_text(text, TEXT), TEXT) == text
    for char in text:
        assert parse(show(char, CHAR), CHAR) == char


@pytest.mark.parametrize(
    ("type_", "value", "wave", "json"),
    [
        (BOOL, True, "true", "true"),
        (U8, 255, "255", "255"),
        (F32, 0.10000000149011612, "0.1", None),
        (F64, -math.inf, "-inf", "-Infinity"),
        (CHAR, "'", r"'\''", '"\'"'),
        (TEXT, 'a"\n\\é\x07', r'"a\"\n\\é\u{7}"', r'"a\"\n\\é\u0007"'),
        (wit.List(U8), b"\1\2", "[1, 2]", "[1, 2]"),
        (wit.Tuple((U8, TEXT)), (1, "x"), '(1, "x")', '[1, "x"]'),
        (POINT, Point(1.0, 2.0), "{x: 1.0, the-y: some(2.0)}", '{"x": 1.0, "the-y": 2.0}'),
        (POINT, Point(1.0, None), "{x: 1.0}", '{"x": 1.0, "the-y": null}'),
        (SHAPE, Shape.Circle(1.5), "circle(1.5)", '{"circle": 1.5}'),
        (SHAPE, Shape.Nothing(), "nothing", '"nothing"'),
        (SHAPE, Shape.True_(), "%true", '"true"'),
        (COLOR, Color.SEA_GREEN, "sea-green", '"sea-green"'),
        (RIGHTS, Rights.READ | Rights.RUN_IT, "{read, run-it}", '["read", "run-it"]'),
        (RIGHTS, Rights(0), "{}", "[]"),
        (wit.Option(wit.Option(U8)), Some(None), "some(none)", '{"some": null}'),
        (wit.Option(COLOR), Color.NONE, "some(%none)", '"none"'),
        (wit.Result(U8, TEXT), Err("no"), 'err("no")', '{"err": "no"}'),
        (wit.Result(), Ok(), "ok", '{"ok": null}'),
        (wit.Map(TEXT, U8), {"a": 1}, '[("a", 1)]', '{"a": 1}'),
    ],
)
def test_both_formats(type_: wit.Type, value: Any, wave: str, json: str | None) -> None:
    assert show(value, type_) == wave
    if json is not None:
        assert json_text(value, type_) == json
        assert parse(json, type_) == value
    assert show(parse(wave, type_), type_) == wave
    assert parse(wave, type_) == value


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (POINT, " { the-y : 2 , x : 1 , } // a comment", Point(1.0, 2.0)),
        (
            wit.Record("a:b/c#o", (("a", wit.Option(U8)),)),
            "{:}",
            class_of(wit.Record("a:b/c#o", (("a", wit.Option(U8)),)))(None),
        ),
        (wit.Option(U8), "7", 7),
        (wit.Option(wit.Option(U8)), "7", Some(7)),
        (wit.Result(U8, TEXT), "7", Ok(7)),
        (wit.Tuple((U8, U8)), "[1, 2]", (1, 2)),
        (TEXT, r'"\ud834\udd1e"', "𝄞"),
        (TEXT, '"""\n  one\n    two\n  """', "one\n  two"),
        (TEXT, '"\\u{1d11e}"', "𝄞"),
        (F64, "-0.0e-5", -0.0),
    ],
)
def test_what_is_taken_as_well(type_: wit.Type, text: str, value: Any) -> None:
    assert parse(text, type_) == value


@pytest.mark.parametrize(
    ("type_", "text", "why"),
    [
        (U8, "", "expected a number, u8 at character 0, got the end"),
        (U8, "1.5", "an integer, u8 at character 0"),
        (U8, "1 2", "expected the end at character 2, got '2'"),
        (BOOL, "yes", "true or false"),
        (TEXT, "plain", "a string in quotation marks"),
        (TEXT, '"open', "'\"' at character 5, got the end"),
        (TEXT, r'"\q"', "what can follow a backslash"),
        (TEXT, r'"\u{110000}"', "the number of a character"),
        (TEXT, r'"\ud800"', "surrogates"),
        (POINT, "{x: 1.0, z: 2.0}", "other fields than 'z': x, the-y"),
        (POINT, "{the-y: 1.0}", "has no 'x'"),
        (POINT, "{x: 1.0, x: 1.0}", "other fields than 'x'"),
        (SHAPE, "square(1)", "another case than 'square': circle, at, nothing, true"),
        (SHAPE, "circle", r"expected '\(' at character 6, got the end"),
        (COLOR, "blue", "expected color"),
        (RIGHTS, "{read, fly}", "some of READ, WRITE, RUN_IT"),
        (wit.Tuple((U8, U8)), "(1)", "expected ','"),
        (wit.List(U8), "[1, 2", "expected ']'"),
        (wit.Result(None, U8), "7", "ok or err"),
        (wit.Handle(wit.Resource("r", 1), True), "1", "cannot be written as text"),
    ],
)
def test_what_is_wrong_is_said(type_: wit.Type, text: str, why: str) -> None:
    with pytest.raises(BadArguments, match=why):
        parse(text, type_)


def test_numbers_have_bounds() -> None:
    with pytest.raises(ArgumentOutOfRange, match="argument 1 is 256"):
        parse("256", U8, "argument 1")


def test_an_argument_may_be_plain_text() -> None:
    assert parse_argument("1 + 1", TEXT) == parse_argument('"1 + 1"', TEXT) == "1 + 1"
    assert parse_argument("1", U8) == 1


def test_nothing_is_shown_as_nothing() -> None:
    assert show(None, None) == ""
