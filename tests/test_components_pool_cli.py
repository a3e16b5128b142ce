"""The command line with components."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wasmtime
from command_line import procpool
from component_texts import CALLER, COMMAND, SHAPES


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("components")
    for name, text in (("shapes", SHAPES), ("caller", CALLER), ("command", COMMAND)):
        (directory / f"{name}.wasm").write_bytes(bytes(wasmtime.wat2wasm(text)))
    return directory


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("add", "20", "22"), "42\n"),
        (("add", "-1", "-2"), "-3\n"),
        (("echo", '"a b"'), '"a b"\n'),
        (("echo", "plain"), '"plain"\n'),
        (("swap", "{x-pos: 1, y-pos: 2}"), "{x-pos: 2, y-pos: 1}\n"),
        (("swap", '{"x-pos": 1, "y-pos": 2}'), "{x-pos: 2, y-pos: 1}\n"),
        (("echo-bytes", "[1, 2]"), "[1, 2]\n"),
        (("double", "[1, 2]"), "4\n"),
        (("plus-all", "1", "2"), "3\n"),
        (("same-char", "'x'"), "'x'\n"),
    ],
)
def test_call(files: Path, words: tuple[str, ...], shown: str) -> None:
    assert procpool("call", str(files / "shapes.wasm"), *words)[:2] == (0, shown)


def test_call_as_json(files: Path) -> None:
    code, out, _ = procpool("call", str(files / "shapes.wasm"), "double", "[]", "--json")
    assert code == 0 and json.loads(out) == {"export": "double", "args": [[]], "result": {"err": 7}}
    code, out, _ = procpool("call", str(files / "shapes.wasm"), "swap", "{x-pos: 1, y-pos: 2}", "--json")
    assert code == 0 and json.loads(out)["result"] == {"x-pos": 2, "y-pos": 1}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("call", "shapes.wasm", "double", "[]"), 1, "double returned an error: 7"),
        (("call", "shapes.wasm", "trap"), 1, "unreachable"),
        (("call", "shapes.wasm", "add", "1"), 2, "takes 2 arguments"),
        (("call", "shapes.wasm", "add", "1", "x"), 2, "s32"),
        (("call", "shapes.wasm", "ad", "1", "2"), 2, "did you mean 'add'"),
        (("call", "caller.wasm", "go", "1"), 2, "add-up"),
        (("map", "shapes.wasm", "add", "--range", "0:3"), 2, "component"),
        (("run", "shapes.wasm"), 2, "no command"),
    ],
)
def test_what_goes_wrong_is_told_in_a_line(files: Path, words: tuple[str, ...], code: int, said: str) -> None:
    command, name, *rest = words
    got, out, err = procpool(command, str(files / name), *rest)
    assert (got, out) == (code, "") and said in err


def test_inspect_prints_the_world(files: Path) -> None:
    code, out, _ = procpool("inspect", str(files / "shapes.wasm"))
    assert code == 0
    for line in (
        "imports: none",
        "  add: func(a: s32, b: s32) -> s32",
        "  demo:sums/sums@1.2.0",
        "    plus-all: func(a: s32, b: s32) -> s32",
        "  double: func(data: list<u8>) -> result<u32, u32>",
        "  record point { x-pos: s32, y-pos: s32 }",
    ):
        assert line in out.splitlines()
    code, out, _ = procpool("inspect", str(files / "caller.wasm"), "--json")
    assert {each["name"] for each in json.loads(out)["imports"]} == {"add-up", "say", "twice"}


def test_stubs(files: Path) -> None:
    code, out, _ = procpool("stubs", str(files / "shapes.wasm"))
    assert code == 0
    compile(out, "shapes.pyi", "exec")
    assert "class Point" in out
    assert procpool("stubs", "fixtures/kernels.wasm")[0] == 2


@pytest.mark.parametrize(("what", "code"), [("p", 0), ("f", 1), ("x", 1), ("t", 134)])
def test_run(files: Path, what: str, code: int) -> None:
    got, out, _ = procpool("run", str(files / "command.wasm"), what)
    assert (got, out) == (code, "hello\n")
