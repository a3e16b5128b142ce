"""Reading interfaces from binaries, also where wasmtime's own C API would abort the process."""

from __future__ import annotations

import pytest
import wasmtime
from conftest import FIXTURES, KERNELS, SHAPES

from procpool import FuncType, GlobalType, MemoryType, TableType, TagType, binary
from procpool.binary import Interface, outline, read_interface


def interface(text: str) -> Interface:
    return read_interface(bytes(wasmtime.wat2wasm(text)))


def test_agrees_with_wasmtime_on_a_compiled_module() -> None:
    wasm = KERNELS.read_bytes()
    expected = {}
    for export in wasmtime.Module(wasmtime.Engine(), wasm).exports:
        if isinstance(export.type, wasmtime.FuncType):
            expected[export.name] = FuncType(tuple(map(str, export.type.params)), tuple(map(str, export.type.results)))
    found = read_interface(wasm).exports
    assert {name: type_ for name, type_ in found.items() if isinstance(type_, FuncType)} == expected
    assert found["memory"] == MemoryType(17)


def test_every_kind_of_export() -> None:
    exports = interface(SHAPES.read_text()).exports
    assert exports["all"] == FuncType(("i32", "i64", "f32", "f64", "v128"), ("v128", "f64", "f32", "i64", "i32"))
    assert exports["memory"] == MemoryType(1, 4)
    assert exports["counter"] == GlobalType("i32", True)
    assert exports["table"] == TableType("funcref", 2)
    assert str(exports["takes_extern"]) == "(externref) -> (i32)"
    assert "größe ✓" in exports and "" in exports


def test_imports_come_first_in_every_index_space() -> None:
    found = interface(
        """(module
          (import "a" "f" (func (param i32)))
          (import "a" "m" (memory 1 2 shared))
          (import "a" "g" (global f64))
          (import "a" "t" (table 3 externref))
          (func (result i64) i64.const 1)
          (global (mut i64) (i64.const 5))
          (export "f" (func 0)) (export "h" (func 1)) (export "g" (global 0)) (export "k" (global 1)))"""
    )
    assert [(i.module, i.name, str(i.type)) for i in found.imports] == [
        ("a", "f", "(i32) -> ()"),
        ("a", "m", "shared memory of 1 pages, at most 2"),
        ("a", "g", "global f64"),
        ("a", "t", "table of 3 externref"),
    ]
    assert found.exports == {
        "f": FuncType(("i32",)),
        "h": FuncType((), ("i64",)),
        "g": GlobalType("f64"),
        "k": GlobalType("i64", True),
    }


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ('(type $t (func)) (func (export "f") (param (ref null $t)))', "f", "((ref null 0)) -> ()"),
        ('(func (export "f") (param anyref eqref i31ref))', "f", "(anyref, eqref, i31ref) -> ()"),
        ('(rec (type $a (struct (field i32 (mut i8)))) (type $b (func (result i32)))) (func (export "f") (type $b) i32.const 0)', "f", "() -> (i32)"),
        ('(type $s (sub (struct))) (type (sub $s (struct (field i64)))) (type (array i16)) (func (export "f"))', "f", "() -> ()"),
        ('(memory (export "m") i64 1 9)', "m", "64-bit memory of 1 pages, at most 9"),
        ('(global (export "g") v128 (v128.const i64x2 1 2))', "g", "global v128"),
        ('(global i32 (i32.const 300)) (global f32 (f32.const 1)) (global f64 (f64.const 1)) (global (export "g") i64 (i64.add (i64.const 1) (i64.const 2)))', "g", "global i64"),
        ('(tag (export "t") (param i32))', "t", "tag (i32) -> ()"),
    ],
)  # fmt: skip
def test_types_that_wasmtime_py_cannot_describe(text: str, name: str, expected: str) -> None:
    assert str(interface(f"(module {text})").exports[name]) == expected


def test_tags_have_their_own_type() -> None:
    assert isinstance(interface('(module (tag (export "t")))').exports["t"], TagType)


OUTLINED = [
    *(path.read_bytes() for path in sorted(FIXTURES.glob("*.wasm"))),
    *(bytes(wasmtime.wat2wasm(path.read_text())) for path in sorted(FIXTURES.glob("*.wat"))),
    *(
        bytes(wasmtime.wat2wasm(text))
        for text in (
            "(module)",
            "(module (func))",
            '(module (import "a" "f" (func)) (export "g" (func 0)))',
            """(module (type $other (func)) (rec (type $r (func (param i32))) (type (struct)))
                 (import "a" "f" (func (type $r))) (import "a" "m" (memory 1)) (tag $t (export "t") (param i32))
                 (func $unseen (type $other)) (func $seen (export "seen") (export "again") (type $r))
                 (global $g (export "g") funcref (ref.func $seen)) (table (export "table") 1 funcref)
                 (func (export "größe") (param i64) (result f32) f32.const 1) (export "back" (func 0)))""",
        )
    ),
]


@pytest.mark.parametrize("wasm", OUTLINED, ids=range(len(OUTLINED)))
def test_an_outline_says_the_same_in_less(wasm: bytes) -> None:
    told = outline(wasm)
    assert read_interface(told) == read_interface(wasm)
    assert outline(told) == told
    assert len(told) < len(wasm) or len(wasm) < 200


def _names_looked_at(types: int, taken: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many names are made up for a name of so many types, where the module has taken the first so many itself."""
    own = "".join(f'(import "m" "f\\00{nth}" (func))' for nth in range(1, taken + 1))
    kinds = (" ".join("i32" if nth >> bit & 1 else "i64" for bit in range(10)) for nth in range(types))
    wasm = bytes(wasmtime.wat2wasm(f"""(module {own} {"".join(f'(import "m" "f" (func (param {k})))' for k in kinds)})"""))
    looked: list[int] = []

    def counted(name: str, nth: int) -> str:
        looked.append(nth)
        return plain(name, nth)

    with monkeypatch.context() as patched:
        plain = binary.known_as
        patched.setattr(binary, "known_as", counted)
        imports = read_interface(wasm).imports
    assert len({needed.names for needed in imports}) == types + taken
    assert [needed.nth for needed in imports[taken:]] == [0, *range(taken + 1, taken + types)]
    return len(looked)


def test_names_are_told_apart_in_one_pass_whatever_names_a_module_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _names_looked_at(20, 30, monkeypatch) == 20 - 1 + 30
    assert _names_looked_at(400, 600, monkeypatch) == 400 - 1 + 600
