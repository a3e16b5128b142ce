"""The stubs of a world, as type checkers see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from procpool.component import wit
from procpool.component.binary import read_world
from procpool.component.stubs import stubs
from procpool.component.wit import Function, Primitive
from tests.components import made
from tests.test_component_wrapper import BYTES, COUNTER
from tests.test_typed_program import checked, mypy

U8, TEXT, F64 = Primitive("u8"), Primitive("string"), Primitive("f64")
POINT = wit.Record("a:b/c#point", (("x", F64), ("the-y", wit.Option(F64))))
#: Its fields are called as types are.
ODD = wit.Record(
    "a:b/c#odd", (("str", TEXT), ("int", U8), ("class", wit.List(U8)), ("list", wit.List(TEXT)), ("sequence", U8))
)
SHAPE = wit.Variant("a:b/c#shape", (("circle", F64), ("at", POINT), ("nothing", None)))
COLOR = wit.Enum("a:b/c#color", ("red", "sea-green"))
RIGHTS = wit.Flags("a:b/c#rights", ("read", "write"))
LITERAL = wit.Enum("a:b/d#literal", ("any", "optional"))
RESOURCE = wit.Resource("a:b/c#file", 1)
WORLD = wit.World(
    (
        Function("eval", (("src", TEXT),), wit.Result(TEXT, TEXT)),
        Function("draw", (("shape", SHAPE), ("color", COLOR), ("rights", RIGHTS)), wit.List(POINT)),
        Function("odd", (("self", ODD), ("timeout", LITERAL)), ODD),
        Function("a:b/c#[method]file.read", (("self", wit.Handle(RESOURCE, False)), ("count", U8)), wit.List(U8)),
        Function("maybe", (("x", wit.Option(wit.Option(U8))),), wit.Tuple((wit.Result(U8), wit.Option(wit.Option(U8))))),
        Function("map", (("x", wit.Map(TEXT, U8)),), wit.Map(TEXT, POINT)),
        Function("nothing", (), None),
    ),
    (),
    (POINT, ODD, SHAPE, COLOR, RIGHTS, LITERAL, RESOURCE),
    (),
)

PROGRAM = """
from __future__ import annotations
from typing import TYPE_CHECKING, cast
from procpool import ProcessWasmPool

if TYPE_CHECKING:
    from app import Pool, Types

def work(shape: Types.Shape) -> float:
    pool = cast("Pool", ProcessWasmPool("app.wasm"))
    text: str = pool.call("eval", "1 + 1", timeout=3)
    types = pool.types
    points = pool.call("draw", types.Shape.At(types.Point(1, None)), "red", types.Rights.READ | types.Rights.WRITE)
    pool.call("draw", types.Shape.Nothing(), types.Color.SEA_GREEN, ["read"])
    read: bytes = types.Odd("a", 1, b"", [], 2).class_
    result, option = pool.call("maybe", None)
    if isinstance(shape, types.Shape.Circle):
        return shape.value
    return points[0].x + len(text) + len(read) + (0 if option is None else option.value or 1)
"""

WRONG = """
from app import Pool

def wrong(pool: Pool) -> None:
    pool.call("eval", 1)
    pool.call("evil", "1")
    number: int = pool.call("eval", "1")
    pool.types.Point("x", None)
    pool.types.Point(1, None).z
"""


@mypy
def test_a_program_is_checked_against_the_world(tmp_path: Path) -> None:
    (tmp_path / "app.pyi").write_text(stubs(WORLD))
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(WRONG)
    for name, world in (
        ("one", read_world(made(COUNTER))),
        ("none", wit.World((), (), (), ())),
        ("bytes_", read_world(made(BYTES))),
    ):
        (tmp_path / f"{name}.pyi").write_text(stubs(world, f"{name}.wasm"))
    files = ["app.pyi", "program.py", "one.pyi", "none.pyi", "bytes_.pyi", "wrong.py"]
    run = checked(tmp_path, "mypy", "--strict", "--follow-imports=silent", *files)
    told = [line for line in run.stdout.splitlines() if ": error:" in line]
    assert [line.split(":")[0] for line in told] == ["wrong.py"] * 5, run.stdout


def test_the_stub_says_how_it_is_used() -> None:
    text = stubs(WORLD, "/some/where/my-app.wasm")
    assert text.startswith('"""The world of my-app.wasm, for editors and type checkers.')
    assert "from my_app import Pool" in text


@pytest.mark.parametrize("world", [WORLD, read_world(made(BYTES))])
def test_it_is_python(world: wit.World) -> None:
    compile(stubs(world), "app.pyi", "exec")
