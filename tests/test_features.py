"""Proposals for WebAssembly that wasmtime has to be told to allow."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from command_line import procpool as command

import procpool
from procpool import BadImport, Feature, FuncType, InvalidModule, MemoryType, ProcessWasmPool

BYTES = """(module (memory (export "memory") 5 100 (pagesize 1))
  (func (export "size") (result i32) (memory.size))
  (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0))))"""


def compact(*entries: bytes) -> bytes:
    """A module of such imports, each of functions of the type () -> (), or of what is in the entry."""
    body = bytes((len(entries),)) + b"".join(entries)
    return b"\0asm\1\0\0\0\1\4\1\x60\0\0\2" + bytes((len(body),)) + body + b"\7\5\1\1z\0\1"


COMPACT = compact(b"\3env\0\x7f\2\1f\0\0\1g\0\0", b"\3env\0\x7e\0\0\2\1h\1i", b"\1m\1m\2\0\1")


def test_pages_of_one_byte() -> None:
    with pytest.raises(InvalidModule, match=r"features=\['custom-page-sizes'\] allows it"):
        ProcessWasmPool(BYTES)
    with ProcessWasmPool(BYTES, workers=2, features=["custom-page-sizes"]) as pool:
        assert pool.exports["memory"] == MemoryType(5, 100, page_size=1)
        assert (pool.call("size"), list(pool.map("load", [0, 4]))) == (5, [0, 0])
        assert pool.submit(lambda instance: (len(instance.memory), instance.grow(3), len(instance.memory))).result() == (
            5,
            5,
            8,
        )
    with ProcessWasmPool(BYTES, workers=1, features=["custom-page-sizes"], start_method="spawn") as pool:
        assert pool.call("size") == 5


def test_an_imported_memory_has_the_pages_it_is_imported_with() -> None:
    module = BYTES.replace('(memory (export "memory")', '(import "env" "memory" (memory').replace(
        "(pagesize 1))", "(pagesize 1)))"
    )
    how = {"workers": 1, "features": ["custom-page-sizes"]}
    with ProcessWasmPool(module, imports={"env": {"memory": MemoryType(7, 9, page_size=1)}}, **how) as pool:  # type: ignore[arg-type]
        assert pool.call("size") == 7
    with pytest.raises(BadImport, match="memory of 5 pages, at most 100 of 1 byte each"):
        ProcessWasmPool(module, imports={"env": {"memory": MemoryType(7, 9)}}, **how)  # type: ignore[arg-type]


def test_compact_imports_are_read() -> None:
    with pytest.raises(InvalidModule, match=r"features=.'compact-import-section'. allows it"):
        ProcessWasmPool(COMPACT)
    found = procpool.inspect(COMPACT, features=["compact-import-section"])
    assert [(each.module, each.name) for each in found.imports] == [
        ("env", "f"),
        ("env", "g"),
        ("env", "h"),
        ("env", "i"),
        ("m", "m"),
    ]
    assert {each.type for each in found.imports} == {FuncType(), MemoryType(1)} and found.exports == {"z": FuncType()}
    called: list[str] = []
    imports = {"env": {name: lambda name=name: called.append(name) for name in "fghi"}, "m": {"m": MemoryType(1)}}
    with ProcessWasmPool(COMPACT, workers=1, imports=imports, features=["compact-import-section"]) as pool:
        assert pool.call("z") is None


@pytest.mark.parametrize("feature", get_args(Feature))
def test_every_feature_can_be_asked_for(feature: Feature) -> None:
    with ProcessWasmPool('(module (func (export "f")))', workers=1, features=[feature]) as pool:
        assert pool.call("f") is None


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ("legacy-exceptions", "legacy-exceptions cannot be had: wasmtime's C API .* has no setting"),
        ("shared-everything-threads", "shared-everything-threads cannot be had"),
        ("stack-switching", "stack-switching cannot be had: .* ends the process"),
        ("component-model", "a component needs no feature"),
        ("custom-page-size", "did you mean 'custom-page-sizes'"),
        ("nonsense", "there are branch-hinting, "),
    ],
)
def test_what_cannot_be_had_says_why(feature: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ProcessWasmPool("(module)", features=[feature])  # type: ignore[list-item]


def test_features_are_a_sequence() -> None:
    for wrong in ("gc", 5):
        with pytest.raises(TypeError, match="features must be a sequence of names"):
            ProcessWasmPool("(module)", features=wrong)  # type: ignore[arg-type]


def test_legacy_exceptions_are_refused_with_what_to_do() -> None:
    body = b"\0\6\x40\x19\x0b\x0b"  # try, catch_all, end, end
    legacy = b"\0asm\1\0\0\0\1\4\1\x60\0\0\3\2\1\0\x0a" + bytes((len(body) + 2, 1, len(body))) + body
    with pytest.raises(InvalidModule, match=r"needs the proposal legacy-exceptions; cannot be had: .*translate-to-exnref"):
        ProcessWasmPool(legacy)


def test_features_on_the_command_line(tmp_path: Path) -> None:
    module = tmp_path / "bytes.wat"
    module.write_text(BYTES)
    code, _, said = command("call", str(module), "size")
    assert code == 2 and "--feature custom-page-sizes allows it" in said
    code, out, said = command("call", "--feature", "custom-page-sizes", str(module), "size")
    assert (code, out) == (0, "5\n"), said
    assert "memory of 5 pages" in command("inspect", "--feature", "custom-page-sizes", str(module))[1]
    code, _, said = command("call", "--feature", "legacy-exceptions", str(module), "size")
    assert code == 2 and "cannot be had" in said
