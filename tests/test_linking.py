"""Several modules linked together in one pool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from conftest import DEADLINE

import procpool
from procpool import (
    BadImport,
    BadWasi,
    FuncType,
    Import,
    InvalidModule,
    MemoryType,
    MissingImport,
    ProcessWasmPool,
    StartupError,
    TableType,
    UnknownExport,
    WasiConfig,
    WasmException,
    WasmTrap,
)

#: Everything that a module can export, and a counter that tells instances apart.
LIBRARY = """(module
  (memory (export "memory") 1 3)
  (table (export "table") 2 4 funcref)
  (global $count (export "count") (mut i32) (i32.const 0))
  (tag (export "oops") (param i32))
  (func (export "next") (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1))) (global.get $count))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "trap") unreachable))"""
PROGRAM = """(module
  (import "lib" "memory" (memory 1))
  (import "lib" "table" (table 1 funcref))
  (import "lib" "count" (global $count (mut i32)))
  (import "lib" "oops" (tag $oops (param i32)))
  (import "lib" "next" (func $next (result i32)))
  (import "lib" "add" (func $add (param i32 i32) (result i32)))
  (import "lib" "trap" (func $trap))
  (elem (i32.const 0) $twice)
  (func $twice (export "twice") (param i32) (result i32) (call $add (local.get 0) (local.get 0)))
  (func (export "next") (result i32) (call $next))
  (func (export "indirect") (param i32) (result i32)
    (call_indirect (param i32) (result i32) (local.get 0) (i32.const 0)))
  (func (export "store") (param i32) (i32.store (i32.const 8) (local.get 0)))
  (func (export "throw") (param i32) (throw $oops (local.get 0)))
  (func (export "trap") (call $trap))
  (func (export "grow") (result i32) (memory.grow (i32.const 1)))
  (func (export "count") (result i32) (global.get $count)))"""
LINKED = {"lib": LIBRARY}


def test_memories_tables_globals_tags_and_functions_are_shared() -> None:
    with ProcessWasmPool(PROGRAM, workers=1, modules=LINKED) as pool:
        assert pool.call("twice", 21) == 42
        assert (pool.call("next"), pool.call("lib.next"), pool.call("count")) == (1, 2, 2)
        assert pool.call("indirect", 4) == 8
        pool.call("store", 7)
        assert pool.submit(lambda instance: instance.memory_named("lib.memory")[8]).result() == 7
        assert pool.submit(lambda instance: (instance.memory[8], instance.globals["lib.count"])).result() == (7, 2)
        with pytest.raises(WasmException) as thrown:
            pool.call("throw", 5)
        assert (thrown.value.tag, thrown.value.payload) == ("lib.oops", (5,))
        with pytest.raises(WasmTrap):
            pool.call("trap")
        assert pool.call("next") == 1, "the linked module's instance goes with the main one's"


def test_exports_of_linked_modules_are_exports_like_others() -> None:
    with ProcessWasmPool(PROGRAM, workers=2, modules=LINKED) as pool:
        assert pool.exports["lib.add"] == FuncType(("i32", "i32"), ("i32",)) and pool.imports == ()
        assert pool.submit("lib.add", 1, 2).result() == 3
        assert list(pool.map("lib.add", range(100), range(100))) == list(range(0, 200, 2))
        assert pool.function("lib.add")(3, 4) == 7
        assert pool.submit(lambda instance: instance.exports["lib.add"](5, 6)).result() == 11
        with pool.instance() as lease:
            assert [lease.call("lib.next"), lease.call("next"), lease.call("lib.next")] == [1, 2, 3]
            lease.globals["lib.count"] = 40
            assert lease.call("next") == 41
            lease.memory[8:12] = b"abcd"
            assert lease.memory[9:11] == b"bc"
            assert sorted(lease.globals) == ["lib.count"]
        with pytest.raises(UnknownExport, match=re.escape("did you mean 'lib.add'")):
            pool.call("lib.ad")


def test_the_main_modules_own_export_goes_first() -> None:
    main = '(module (import "lib" "next" (func (result i32))) (func (export "lib.next") (result i32) (i32.const -1)))'
    with ProcessWasmPool(main, workers=1, modules=LINKED) as pool:
        assert pool.call("lib.next") == -1


@pytest.mark.parametrize("how", [{}, {"instances": 2}, {"start_method": "spawn"}, {"fuel": 10_000}, {"cache": False}])
def test_each_instance_has_linked_ones_of_its_own(how: dict[str, Any]) -> None:
    with ProcessWasmPool(PROGRAM, workers=1, modules=LINKED, **how) as pool:
        with pool.instance() as lease:
            assert [lease.call("next") for _ in range(3)] == [1, 2, 3]
        assert pool.call("twice", 1) == 2
    with ProcessWasmPool(PROGRAM, workers=1, modules=LINKED, isolation="fresh", **how) as pool:
        assert [pool.call("next") for _ in range(3)] == [1, 1, 1]
        assert list(pool.map("lib.next", *[[]])) == [] and pool.submit("lib.next").result() == 1


def test_an_instance_whose_linked_memory_has_grown_is_replaced() -> None:
    with ProcessWasmPool(PROGRAM, workers=1, modules=LINKED, recycle_memory=65536) as pool:
        assert (pool.call("next"), pool.call("next")) == (1, 2)
        assert (pool.call("grow"), pool.call("next")) == (1, 1)


def test_a_chain_of_modules_in_any_order() -> None:
    base = '(module (func (export "one") (result i32) (i32.const 1)))'
    middle = """(module (import "base" "one" (func $one (result i32)))
      (func (export "two") (result i32) (i32.add (call $one) (call $one))))"""
    main = """(module (import "middle" "two" (func $two (result i32))) (import "base" "one" (func $one (result i32)))
      (func (export "three") (result i32) (i32.add (call $one) (call $two))))"""
    for modules in ({"base": base, "middle": middle}, {"middle": middle, "base": base}):
        with ProcessWasmPool(main, workers=1, modules=modules) as pool:
            assert (pool.call("three"), pool.call("middle.two"), pool.call("base.one")) == (3, 2, 1)


def test_modules_in_a_circle_are_refused_by_name() -> None:
    one = '(module (import "two" "g" (func)) (func (export "f")))'
    two = '(module (import "one" "f" (func)) (func (export "g")))'
    main = '(module (import "one" "f" (func)))'
    with pytest.raises(BadImport, match=r"circle.*'one' imports two\.g, 'two' imports one\.f"):
        ProcessWasmPool(main, modules={"one": one, "two": two})
    with pytest.raises(BadImport, match=re.escape("'self' imports self.f")):
        ProcessWasmPool(main, modules={"one": one, "self": '(module (import "self" "f" (func)) (func (export "f")))'})


def test_what_is_missing_after_linking_is_named() -> None:
    main = """(module (import "lib" "ad" (func (param i32 i32) (result i32))) (import "lib" "add" (func (param i32 i32)
      (result i32))) (import "env" "f" (func)))"""
    needy = '(module (import "env" "g" (func)) (func (export "add") (param i32 i32) (result i32) (i32.const 0)))'
    with pytest.raises(MissingImport) as refused:
        ProcessWasmPool(main, modules={"lib": needy})
    text = str(refused.value)
    for part in ("lib.ad, a function", "modules['lib'] does not export (did you mean add?)", "env.f", "env.g", "'lib'"):
        assert part in text
    assert "lib.add" not in text
    alone = '(module (import "lib" "add" (func (param i32 i32) (result i32))))'
    with pytest.raises(MissingImport, match=r"the linked module 'lib' imports env\.g, a function \(\) -> \(\)"):
        ProcessWasmPool(alone, modules={"lib": needy})
    with pytest.raises(MissingImport, match="is 'lob' meant to be 'lib' of modules"):
        ProcessWasmPool('(module (import "lob" "add" (func)))', modules=LINKED)
    found = procpool.inspect(main, modules={"lib": needy})
    assert [(each.module, each.name, each.by) for each in found.imports] == [
        ("lib", "ad", None),
        ("env", "f", None),
        ("env", "g", "lib"),
    ]
    assert "lib.add (i32, i32) -> (i32)" in str(found)


def test_imports_serve_what_no_module_does() -> None:
    main = """(module (import "lib" "add" (func $add (param i32 i32) (result i32)))
      (import "lib" "extra" (func $extra (param i32) (result i32))) (import "env" "f" (func $f (result i32)))
      (func (export "main") (result i32) (call $add (call $f) (call $extra (i32.const 5)))))"""
    library = """(module (import "env" "f" (func $f (result i32))) (import "env" "other" (func $other))
      (func (export "add") (param i32 i32) (result i32)
        (call $other) (i32.add (call $f) (i32.add (local.get 0) (local.get 1)))))"""
    imports = {"env": {"f": lambda: 100, "other": lambda: None}, "lib": {"extra": lambda x: 2 * x}}
    with ProcessWasmPool(main, workers=1, modules={"lib": library}, imports=imports) as pool:
        assert pool.call("main") == 210
    with pytest.raises(BadImport, match=re.escape("imports gives lib.add, which no module imports from outside; modules")):
        ProcessWasmPool(main, modules={"lib": library}, imports={**imports, "lib": {"extra": abs, "add": max}})


def test_the_same_import_may_have_another_type_in_another_module() -> None:
    main = """(module (import "lib" "f" (func $lib (result i64))) (import "env" "id" (func $id (param i32) (result i32)))
      (func (export "f") (result i64) (i64.add (call $lib) (i64.extend_i32_s (call $id (i32.const 2))))))"""
    library = """(module (import "env" "id" (func $id (param i64) (result i64)))
      (func (export "f") (result i64) (call $id (i64.const 0x100000000))))"""
    with ProcessWasmPool(main, workers=1, modules={"lib": library}, imports={"env": {"id": lambda x: x}}) as pool:
        assert pool.call("f") == 0x100000002
    with ProcessWasmPool(main, workers=1, modules={"lib": library}, on_missing_import="zero") as pool:
        assert pool.call("f") == 0


def test_of_one_name_with_several_types_an_export_serves_the_one_that_it_fits() -> None:
    main = """(module (import "lib" "f" (func (result i32))) (import "lib" "f" (func (param i32) (result i32))))"""
    library = '(module (func (export "f") (param i32) (result i32) (local.get 0)))'
    with pytest.raises(
        BadImport,
        match=re.escape(
            "imports lib.f as a function () -> (i32), and the linked module 'lib' exports f, a function (i32) -> "
        ),
    ):
        ProcessWasmPool(main, modules={"lib": library})
    library = """(module (import "env" "f" (func $none (result i32))) (import "env" "f" (func $one (param i32) (result i32)))
      (func (export "f") (param i32) (result i32) (i32.add (call $none) (call $one (local.get 0)))))"""
    main = """(module (import "lib" "f" (func $f (param i32) (result i32))) (import "env" "f" (func $one (param i32)))
      (func (export "f") (param i32) (result i32) (call $one (i32.const 1)) (call $f (local.get 0))))"""

    def served(*args: int) -> int | None:
        return None if args == (1,) else sum(args) + 10

    with ProcessWasmPool(main, workers=1, modules={"lib": library}, imports={"env": {"f": served}}) as pool:
        assert pool.call("f", 5) == 25


def test_modules_that_import_one_memory_share_it() -> None:
    main = """(module (import "env" "memory" (memory 1)) (import "lib" "load" (func $load (result i32)))
      (func (export "f") (param i32) (result i32) (i32.store (i32.const 0) (local.get 0)) (call $load)))"""
    library = """(module (import "env" "memory" (memory 2 5)) (import "env" "base" (global $base i32))
      (func (export "load") (result i32) (i32.add (global.get $base) (i32.load (i32.const 0)))))"""
    for how in ({"imports": {"env": {"memory": MemoryType(2, 4), "base": 3}}}, {"on_missing_import": "zero"}):
        with ProcessWasmPool(main, workers=1, modules={"lib": library}, **how) as pool:  # type: ignore[arg-type]
            assert pool.call("f", 4) == 4 + (3 if "imports" in how else 0)
            assert pool.submit(lambda instance: len(instance.memory)).result() == 2 * 65536
    with pytest.raises(BadImport, match="one that fits the import's memory of 2 pages"):
        ProcessWasmPool(main, modules={"lib": library}, imports={"env": {"memory": MemoryType(1), "base": 3}})
    with pytest.raises(
        BadImport, match=re.escape("imports env.memory as a 64-bit memory of 1 pages, and the linked module 'lib'")
    ):
        ProcessWasmPool(
            main.replace("(memory 1)", "(memory i64 1)").replace("i32.const 0", "i64.const 0"), modules={"lib": library}
        )


@pytest.mark.parametrize(
    ("wanted", "given", "words"),
    [
        ("(func (param i32))", '(func (export "x") (param i64))', "as a function (i32) -> (), and the linked module 'lib'"),
        ("(func)", '(memory (export "x") 1)', "as a function () -> (), and the linked module 'lib' exports x, a memory"),
        ("(memory 2)", '(memory (export "x") 1)', "a memory of 1 pages, which is too small"),
        ("(memory 1 2)", '(memory (export "x") 1)', "a memory of 1 pages, which may grow too large"),
        ("(memory 1 2)", '(memory (export "x") 1 3)', "at most 3, which may grow too large"),
        ("(memory 1)", '(memory (export "x") 1 1 shared)', "a shared memory of 1 pages"),
        ("(memory i64 1)", '(memory (export "x") 1)', "as a 64-bit memory of 1 pages"),
        ("(table 3 funcref)", '(table (export "x") 2 funcref)', "which is too small"),
        ("(global i32)", '(global (export "x") (mut i32) (i32.const 0))', "a mutable global i32"),
        ("(global i32)", '(global (export "x") i64 (i64.const 0))', "a global i64"),
        ("(tag (param i32))", '(tag (export "x") (param i64))', "a tag (i64) -> ()"),
        ("(table 1 externref)", '(table (export "x") 1 funcref)', "table of 1 externref, and the linked module 'lib'"),
        ("(global externref)", '(global (export "x") funcref (ref.null func))', "as a global externref, and"),
        ("(func (param funcref))", '(func (export "x") (param externref))', "as a function (funcref) -> (), and the"),
    ],
)
def test_modules_that_do_not_fit_are_refused_by_name_and_type(wanted: str, given: str, words: str) -> None:
    with pytest.raises(BadImport, match=re.escape(words)):
        ProcessWasmPool(f'(module (import "lib" "x" {wanted}))', workers=1, modules={"lib": f"(module {given})"})


def test_what_a_start_function_grows_may_be_imported_as_it_is_then() -> None:
    library = """(module (memory (export "memory") 1) (start $grow)
      (func $grow (drop (memory.grow (i32.const 2)))))"""
    main = '(module (import "lib" "memory" (memory 3)) (func (export "size") (result i32) (memory.size)))'
    with ProcessWasmPool(main, workers=1, modules={"lib": library}) as pool:
        assert pool.call("size") == 3
    with pytest.raises(BadImport, match="lib"):
        ProcessWasmPool(main.replace("(memory 3)", "(memory 4)"), workers=1, modules={"lib": library})


def test_what_another_module_grows_may_be_imported_as_it_is_then() -> None:
    base = '(module (memory (export "memory") 1))'
    for grows in (
        '(module (import "base" "memory" (memory 1)) (func $grow (drop (memory.grow (i32.const 2)))) (start $grow))',
        '(module (import "base" "memory" (memory 1)) (func (export "_initialize") (drop (memory.grow (i32.const 2)))))',
    ):
        main = '(module (import "base" "memory" (memory 3)) (func (export "size") (result i32) (memory.size)))'
        with ProcessWasmPool(main, workers=1, modules={"base": base, "grows": grows}) as pool:
            assert pool.call("size") == 3


def test_what_is_passed_on_has_the_limits_it_was_made_with() -> None:
    base = '(module (memory (export "memory") 5 6) (table (export "table") 5 6 funcref))'
    passing = """(module (import "base" "memory" (memory 1)) (export "memory" (memory 0))
      (import "base" "table" (table 1 funcref)) (export "table" (table 0)))"""
    main = """(module (import "lib" "memory" (memory 4 6)) (import "lib" "table" (table 4 6 funcref))
      (func (export "size") (result i32) (memory.size)))"""
    with ProcessWasmPool(main, workers=1, modules={"base": base, "lib": passing}) as pool:
        assert pool.call("size") == 5
        assert pool.submit(lambda instance: len(instance.memory_named("lib.memory"))).result() == 5 * 65536
    imports = {"base": {"memory": MemoryType(5, 6), "table": TableType("funcref", 4, 5)}}
    with ProcessWasmPool(main, workers=1, modules={"lib": passing}, imports=imports) as pool:
        assert pool.call("size") == 5
    with pytest.raises(
        BadImport, match=r"imports lib\.memory as a memory of 4 pages, at most 6, and the linked module 'lib'"
    ):
        ProcessWasmPool(main, modules={"base": base.replace("5 6)", "5 7)"), "lib": passing})


def test_names_with_dots_must_not_meet() -> None:
    one, two = '(module (func (export "b.c")))', '(module (func (export "c")))'
    with pytest.raises(BadImport, match=r"the linked modules 'a' and 'a\.b' both export 'a\.b\.c'"):
        ProcessWasmPool("(module)", modules={"a": one, "a.b": two})
    with ProcessWasmPool("(module)", workers=1, modules={"a": one, "b": two}) as pool:
        assert pool.call("a.b.c") is None and pool.call("b.c") is None


def test_types_are_compared_across_modules_and_not_by_their_numbers() -> None:
    library = """(module (type $unused (func (param i64 i64))) (type $f (func (param i32) (result i32)))
      (func $double (export "double") (type $f) (i32.mul (local.get 0) (i32.const 2)))
      (func (export "get") (result (ref $f)) (ref.func $double)))"""
    main = """(module (type $f (func (param i32) (result i32))) (import "lib" "get" (func $get (result (ref $f))))
      (func (export "main") (param i32) (result i32) (call_ref $f (local.get 0) (call $get))))"""
    with ProcessWasmPool(main, workers=1, modules={"lib": library}) as pool:
        assert list(pool.map("main", range(3))) == [0, 2, 4]


def test_a_map_over_a_linked_function_of_a_declared_type() -> None:
    library = """(module (rec (type $f (func (param i32) (result i32))) (type $g (func)))
      (func (export "double") (type $f) (i32.mul (local.get 0) (i32.const 2))))"""
    main = '(module (rec (type $g (func)) (type $f (func (param i32) (result i32)))) (func (export "same") (type $f) (local.get 0)))'
    with ProcessWasmPool(main, workers=1, modules={"lib": library}) as pool:
        assert (list(pool.map("lib.double", range(3))), list(pool.map("same", range(3)))) == ([0, 2, 4], [0, 1, 2])


def test_an_import_may_be_linked_under_another_name() -> None:
    main = PROGRAM.replace('"lib"', '"env"')
    with ProcessWasmPool(main, workers=1, modules=LINKED, rename_imports={"env": "lib"}) as pool:
        assert (pool.call("twice", 4), pool.call("lib.next"), pool.call("next")) == (8, 1, 2)


@pytest.mark.parametrize("second", ["f", "g"])
def test_a_frame_says_where_it_is_in_the_module_that_was_given(second: str) -> None:
    linked = f"""(module $own (import "env" "f" (func $f)) (import "env" "{second}" (func $g (param i32)))
      (func $inner (export "inner") (call $g (i32.const 7)) (call $f) unreachable))"""
    main = """(module (import "lib" "inner" (func $inner))
      (import "env" "longer" (func)) (import "env" "longer" (func $f (param i32))) (import "env" "longer" (func (param i64)))
      (func $outer (export "outer") (call $f (i32.const 7)) (call $inner) unreachable))"""
    parts = [bytes(wasmtime.wat2wasm(text)) for text in (linked, main)]
    given = {"env": dict.fromkeys(("f", "g", "longer") if second == "g" else ("f", "longer"), lambda *args: None)}
    with (
        ProcessWasmPool(parts[1], workers=1, modules={"lib": parts[0]}, imports=given) as pool,
        pytest.raises(WasmTrap) as raised,
    ):
        pool.call("outer")
    # Behind what is called first: where the innermost is stopped, and where the other one's call is.
    expected = [wasm.rindex(b"\x10\x00\x00\x0b") + at for wasm, at in zip(parts, (2, 0), strict=True)]
    assert [(frame.function, frame.offset) for frame in raised.value.frames] == [
        ("inner", expected[0]),
        ("outer", expected[1]),
    ]


@pytest.mark.parametrize(
    ("renames", "words"),
    [
        ([("env", "lib")], "rename_imports must be a mapping, got"),
        ({"env": ["lib", "add"]}, "rename_imports['env'] is ['lib', 'add'] (list), expected a module's name, or a tuple"),
        ({"env": 5}, "rename_imports['env'] is 5 (int)"),
        ({"env": ("lib", "add", "x")}, "rename_imports['env'] is ('lib', 'add', 'x')"),
        ({("env", "add"): ("lib", 5)}, "rename_imports[('env', 'add')] is ('lib', 5)"),
        ({("env", "add"): {"env": "lib"}}, "rename_imports[('env', 'add')] is {'env': 'lib'}"),
        ({5: "lib"}, "rename_imports has the key 5 (int), expected a module's name, or a tuple"),
        ({"lib": {"env": 5}}, "rename_imports['lib']['env'] is 5"),
        ({"lib": {"env": {"env": "lib"}}}, "rename_imports['lib']['env'] is {'env': 'lib'}"),
        ({"lib": {None: "env"}}, "rename_imports['lib'] has the key None"),
    ],
)
def test_a_renaming_that_is_none_is_refused_by_its_entry(renames: Any, words: str) -> None:
    for refuse in (ProcessWasmPool, procpool.inspect):
        with pytest.raises(TypeError, match=re.escape(words)):
            refuse("(module)", modules=LINKED, rename_imports=renames)  # type: ignore[operator]


def test_a_linked_module_may_have_an_empty_name() -> None:
    main = """(module (import "" "f" (func $f (result i32))) (import "" "" (func $none (result i32)))
      (import "env" "g" (func $g (result i32)))
      (func (export "f") (result i32) (i32.add (call $g) (i32.add (call $f) (call $none)))))"""
    library = """(module (import "env" "g" (func $g (result i32)))
      (func (export "f") (result i32) (call $g)) (func (export "") (result i32) (i32.const 10))
      (func (export "twice") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2))))"""
    with pytest.raises(MissingImport, match=r"env\.g, a function \(\) -> \(i32\), for the linked module ''"):
        ProcessWasmPool(main, modules={"": library})
    with pytest.raises(InvalidModule, match=re.escape("modules['']: ")):
        ProcessWasmPool(main, modules={"": "(module (func (result i32)))"})

    def serve(needed: Import) -> Any:
        return lambda: 100 if needed.by is None else 1

    with ProcessWasmPool(main, workers=1, modules={"": library}, on_missing_import=serve) as pool:
        assert (pool.call("f"), pool.call(".f"), pool.call(".")) == (111, 1, 10)
        assert list(pool.map(".twice", range(3))) == [0, 2, 4] and pool.function(".f")() == 1


def test_an_import_of_one_linked_module_alone_may_be_renamed() -> None:
    def module(value: int) -> str:
        return f'(module (func (export "f") (result i32) (i32.const {value})))'

    passing = '(module (import "env" "f" (func $f (result i32))) (func (export "g") (result i32) (call $f)))'
    main = """(module (import "env" "f" (func $env (result i32))) (import "a" "g" (func $a (result i32)))
      (import "b" "g" (func $b (result i32)))
      (func (export "all") (result i32 i32 i32) (call $env) (call $a) (call $b)))"""
    modules = {"a": passing, "b": passing, "one": module(1), "two": module(2), "three": module(3)}
    renames: Any = {"env": "three", "a": {"env": "one"}, "b": {("env", "f"): ("two", "f")}}
    with ProcessWasmPool(main, workers=1, modules=modules, rename_imports=renames) as pool:
        assert pool.call("all") == (3, 1, 2)
    assert procpool.inspect(main, modules=modules, rename_imports=renames).imports == ()
    imports = {"x": {"f": lambda: 4}, "env": {"f": lambda: 5}}
    with ProcessWasmPool(
        main, workers=1, modules={"a": passing, "b": passing}, imports=imports, rename_imports={"a": {"env": "x"}}
    ) as pool:
        assert pool.call("all") == (5, 4, 5)
    with pytest.raises(
        BadImport, match=re.escape("rename_imports['ab'] is for the linked module of that name, and there is none")
    ):
        ProcessWasmPool(main, modules=modules, rename_imports={"ab": {"env": "one"}})


def importing_storage(declared: str, get: str, module: str = "env", result: str = "i32") -> str:
    return f"""(module (import "{module}" "q" {declared}) (func (export "get") (result {result}) ({get}))
      (func (export "set") {"(i32.store (i32.const 0) (i32.const 7))" if "memory" in declared else ""}))"""


@pytest.mark.parametrize(
    ("declared", "get", "main", "lib", "want"),
    [
        ("(global i32)", "global.get 0", 1024, 82240, (1024, 82240)),
        ("(global (mut i32))", "global.get 0", 1, 2, (1, 2)),
        ("(memory 1)", "memory.size", MemoryType(1), MemoryType(3), (1, 3)),
        ("(table 1 funcref)", "table.size 0", TableType("funcref", 1), TableType("funcref", 3), (1, 3)),
    ],
)
def test_what_one_module_imports_renamed_is_not_what_another_imports_under_that_name(
    declared: str, get: str, main: Any, lib: Any, want: tuple[int, int]
) -> None:
    module = importing_storage(declared, get)
    imports = {"env": {"q": main}, "env_lib": {"q": lib}}
    renames = {"lib": {"env": "env_lib"}}
    with ProcessWasmPool(module, workers=1, modules={"lib": module}, imports=imports, rename_imports=renames) as pool:
        assert (pool.call("get"), pool.call("lib.get")) == want
        if "memory" in declared:
            named = ("q", "env.q", "env_lib.q")
            sizes = [
                pool.submit(lambda instance, name=name: len(instance.memory_named(name)) // 65536).result()
                for name in named
            ]
            assert sizes == [1, 1, 3]


def test_what_is_renamed_need_not_be_like_what_has_the_name() -> None:
    main = importing_storage("(global i32)", "global.get 0")
    library = importing_storage("(global i64)", "global.get 0", result="i64")
    imports: Any = {"env": {"q": 1}, "other": {"q": 2**40}}
    renames = {"lib": {"env": "other"}}
    with ProcessWasmPool(main, workers=1, modules={"lib": library}, imports=imports, rename_imports=renames) as pool:
        assert (pool.call("get"), pool.call("lib.get")) == (1, 2**40)
    main = '(module (import "env" "q" (func $q (result i32))) (func (export "get") (result i32) (call $q)))'
    imports["env"]["q"] = lambda: 11
    with ProcessWasmPool(main, workers=1, modules={"lib": library}, imports=imports, rename_imports=renames) as pool:
        assert (pool.call("get"), pool.call("lib.get")) == (11, 2**40)
    # Linked in one module, given in the other.
    other = '(module (memory (export "q") 2))'
    main = importing_storage("(memory 1)", "memory.size")
    for renaming, want in (({"lib": {"env": "other"}}, (5, 2)), ({"env": "other", "lib": {"env": "env"}}, (2, 5))):
        with ProcessWasmPool(
            main,
            workers=1,
            modules={"lib": main, "other": other},
            imports={"env": {"q": MemoryType(5)}},
            rename_imports=renaming,  # type: ignore[arg-type]
        ) as pool:
            assert (pool.call("get"), pool.call("lib.get")) == want
            assert pool.submit(lambda instance: len(instance.memory_named("q"))).result() == want[0] * 65536


@pytest.mark.parametrize("how", [{"imports": {"env": {"q": MemoryType(1)}}}, {"on_missing_import": "trap"}])
@pytest.mark.parametrize("renames", [{"lib": {"other": "env"}}, {"other": "env"}])
def test_what_is_renamed_to_one_name_is_shared(how: dict[str, Any], renames: Any) -> None:
    main = importing_storage("(memory 1)", "i32.load (i32.const 0)")
    library = importing_storage("(memory 1)", "i32.load (i32.const 0)", "other")
    with ProcessWasmPool(main, workers=1, modules={"lib": library}, rename_imports=renames, **how) as pool:
        pool.call("set")
        assert (pool.call("get"), pool.call("lib.get")) == (7, 7)
        assert pool.submit(lambda instance: instance.memory_named("other.q")[0]).result() == 7


def test_two_imports_of_one_module_may_be_renamed_to_one_thing() -> None:
    module = """(module (import "x" "q" (memory 1)) (import "y" "q" (memory 2))
      (func (export "f") (result i32) (i32.store 0 (i32.const 0) (i32.const 7)) (i32.load 1 (i32.const 0))))"""
    asked: list[Import] = []

    def serve(needed: Import) -> Any:
        asked.append(needed)
        return needed.type

    renames = {"x": "env", "y": "env"}
    for how in ({"imports": {"env": {"q": MemoryType(2)}}}, {"on_missing_import": serve}):
        with ProcessWasmPool(module, workers=1, rename_imports=renames, **how) as pool:  # type: ignore[arg-type]
            assert pool.call("f") == 7
    assert [each.type for each in asked] == [MemoryType(2)]
    module = '(module (import "x" "q" (global i32)) (import "y" "q" (global i64)))'
    with pytest.raises(
        BadImport, match=re.escape("imports x.q as a global i32, and the module y.q as a global i64: nothing")
    ):
        ProcessWasmPool(module, rename_imports=renames)


def test_what_several_imports_would_be_known_as_is_the_name_of_none() -> None:
    main = """(module (import "a" "b.c" (global $one i32)) (import "a.b" "c" (global $two i32)) (import "x" "a.b" (global i32))
      (import "a" "b" (global i32)))"""
    imports = {"a": {"b.c": 1, "b": 4}, "a.b": {"c": 2}, "x": {"a.b": 3}}
    with ProcessWasmPool(main, workers=1, imports=imports) as pool:
        read = {
            name: pool.submit(lambda instance, name=name: instance.globals[name]) for name in ("b.c", "c", "x.a.b", "b")
        }
        assert [future.result() for future in read.values()] == [1, 2, 3, 4]
        for name in ("a.b.c", "a.b"):
            with pytest.raises(LookupError, match=f"no global '{name}'"):
                pool.submit(lambda instance, name=name: instance.globals[name]).result()


def test_what_a_host_function_raises_comes_through_several_modules() -> None:
    library = '(module (import "env" "f" (func $f)) (func (export "f") (call $f)))'
    main = '(module (import "lib" "f" (func $f)) (func (export "main") (call $f)))'

    def fails() -> None:
        raise KeyError("from below")

    with ProcessWasmPool(main, workers=1, modules={"lib": library}, imports={"env": {"f": fails}}) as pool:
        for export in ("main", "lib.f"):
            with pytest.raises(KeyError, match="from below"):
                pool.call(export)


REACTOR = """(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\03\\00\\00\\00")
  (data (i32.const 16) "hi\\n")
  (global $ready (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $ready (i32.add (global.get $ready) (i32.const 1))))
  (func (export "ready") (result i32) (global.get $ready))
  (func (export "random") (result i32) (call $random (i32.const 32) (i32.const 8)))
  (func (export "print") (result i32) (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))"""


def test_wasi_in_a_linked_module() -> None:
    main = """(module (import "lib" "ready" (func $ready (result i32))) (import "lib" "print" (func $print (result i32)))
      (memory (export "memory") 1) (global $seen (mut i32) (i32.const 0))
      (func $see (global.set $seen (call $ready))) (start $see)
      (func (export "seen") (result i32) (global.get $seen)) (func (export "ready") (result i32) (call $ready))
      (func (export "_start") (drop (call $print))))"""
    with pytest.raises(MissingImport, match="for the linked module 'lib'"):
        ProcessWasmPool(main, modules={"lib": REACTOR})
    with ProcessWasmPool(main, workers=1, modules={"lib": REACTOR}, wasi=WasiConfig()) as pool:
        assert (pool.call("seen"), pool.call("ready"), pool.call("lib.random")) == (1, 1, 0)
        assert pool.run(["main"]).stdout == b"hi\n"


def test_a_linked_module_may_stand_for_wasi() -> None:
    shim = """(module (func (export "random_get") (param i32 i32) (result i32) (i32.const 76)))"""
    main = """(module (import "wasi_snapshot_preview1" "random_get" (func $r (param i32 i32) (result i32)))
      (func (export "f") (result i32) (call $r (i32.const 0) (i32.const 0))))"""
    with ProcessWasmPool(main, workers=1, modules={"wasi_snapshot_preview1": shim}, wasi=WasiConfig()) as pool:
        assert pool.call("f") == 76


def test_start_may_name_exports_of_linked_modules() -> None:
    with ProcessWasmPool(PROGRAM, workers=1, modules=LINKED, start=["lib.next", "next"]) as pool:
        assert pool.call("next") == 3


def test_a_linked_initialize_that_traps_says_so() -> None:
    library = '(module (func (export "_initialize") unreachable))'
    with pytest.raises(StartupError, match=r"_initialize\(\) of the linked module 'lib': wasm `unreachable`"):
        ProcessWasmPool("(module)", workers=1, modules={"lib": library})


def test_a_linked_module_of_which_no_instance_can_be_made_is_named() -> None:
    library = '(module (func $f unreachable) (start $f) (func (export "f")))'
    with pytest.raises(StartupError, match=r"making an instance of the linked module 'lib': wasm `unreachable`"):
        ProcessWasmPool("(module)", workers=1, modules={"lib": library})
    library = '(module (memory 1) (data (i32.const 65536) "x"))'
    with pytest.raises(StartupError, match=r"making an instance of the linked module 'lib': out of bounds memory access"):
        ProcessWasmPool("(module)", workers=1, modules={"lib": library})
    library = "(module (memory 5))"
    with pytest.raises(StartupError, match=r"making an instance of the linked module 'lib': .*memory"):
        ProcessWasmPool("(module)", workers=1, modules={"lib": library}, memory_limit=65536)


def test_modules_that_cannot_be_are_named() -> None:
    with pytest.raises(InvalidModule, match=re.escape("modules['lib']: wasmtime refuses this module")):
        ProcessWasmPool("(module)", modules={"lib": "(module (func (result i32)))"})
    with pytest.raises(TypeError, match=re.escape("modules['lib']: expected a path")):
        ProcessWasmPool("(module)", modules={"lib": 5})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="modules must be a mapping"):
        ProcessWasmPool("(module)", modules=["lib"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="modules must be by the names"):
        ProcessWasmPool("(module)", modules={5: "(module)"})  # type: ignore[dict-item]
    with pytest.raises(FileNotFoundError):
        ProcessWasmPool("(module)", modules={"lib": Path("no such file.wasm")})


def test_nothing_is_left_of_a_pool_of_linked_modules(nothing_left: None) -> None:
    with ProcessWasmPool(PROGRAM, workers=2, modules=LINKED) as pool:
        assert pool.call("twice", 1) == 2
    with pytest.raises(BadImport):
        ProcessWasmPool(PROGRAM, modules={"lib": LIBRARY.replace("i32", "i64")})


THREADED = """(module
  (import "env" "memory" (memory 1 2 shared)) (export "memory" (memory 0))
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (import "lib" "add" (func $add (param i32)))
  (func (export "wasi_thread_start") (param i32 i32)
    (call $add (local.get 1)) (i32.atomic.store (i32.const 4) (i32.const 1))
    (drop (memory.atomic.notify (i32.const 4) (i32.const 1))))
  (func (export "_start") (drop (call $spawn (i32.const 7)))
    (drop (memory.atomic.wait32 (i32.const 4) (i32.const 0) (i64.const -1)))
    (call $add (i32.const 1))
    (if (i32.ne (i32.atomic.load (i32.const 8)) (i32.const 8)) (then unreachable))))"""


def test_threads_of_linked_modules_share_the_memory() -> None:
    library = """(module (import "env" "memory" (memory 1 2 shared))
      (func (export "add") (param i32) (drop (i32.atomic.rmw.add (i32.const 8) (local.get 0)))))"""
    with ProcessWasmPool(THREADED, workers=1, modules={"lib": library}, wasi=WasiConfig()) as pool:
        assert pool.run(["threads"]).returncode == 0
    renamed = library.replace('"env"', '"other"')
    renames = {"lib": {"other": "env"}}
    with ProcessWasmPool(THREADED, workers=1, modules={"lib": renamed}, wasi=WasiConfig(), rename_imports=renames) as pool:
        assert pool.run(["threads"]).returncode == 0
    library = '(module (memory (export "memory") 1 2 shared) (func (export "add") (param i32)))'
    main = THREADED.replace('"env" "memory"', '"lib" "memory"')
    with pytest.raises(BadWasi, match=re.escape("would not share the memory lib.memory")):
        ProcessWasmPool(main, modules={"lib": library}, wasi=WasiConfig())


def test_missing_imports_of_linked_modules_are_asked_for_with_their_module() -> None:
    asked: list[Import] = []

    def serve(needed: Import) -> Any:
        asked.append(needed)
        return lambda: 9

    library = '(module (import "env" "nine" (func $nine (result i32))) (func (export "f") (result i32) (call $nine)))'
    with ProcessWasmPool("(module)", workers=1, modules={"lib": library}, on_missing_import=serve) as pool:
        assert pool.call("lib.f") == 9
    assert [each.by for each in asked] == ["lib"]


@pytest.mark.parametrize("how", ["call", "submit", "lease"])
def test_bytes_for_a_linked_module_go_into_its_own_memory(how: str) -> None:
    def allocating(address: int, more: str) -> str:
        return f"""(module {more} (memory (export "memory") 1) (global $live (mut i32) (i32.const 0))
          (func (export "alloc") (param i32) (result i32)
            (global.set $live (i32.add (global.get $live) (i32.const 1))) (i32.const {address}))
          (func (export "free") (param i32) (global.set $live (i32.sub (global.get $live) (i32.const 1))))
          (func (export "live") (result i32) (global.get $live))
          (func (export "first") (param i32 i32) (result i32) (i32.load8_u (local.get 0)))
          (func (export "same") (param i32 i32) (result i32 i32) (local.get 0) (local.get 1)))"""

    main = allocating(64, '(import "lib" "first" (func (param i32 i32) (result i32)))')
    with ProcessWasmPool(main, workers=1, modules={"lib": allocating(128, "")}) as pool, pool.instance() as lease:
        if how != "lease":
            lease.put()
        with_bytes: Any = {
            "call": pool.call_bytes,
            "submit": lambda *args, **named: pool.submit_bytes(*args, **named).result(DEADLINE),
            "lease": lease.call_bytes,
        }[how]
        assert (with_bytes("lib.first", b"ab"), with_bytes("first", b"cd")) == (97, 99)
        assert with_bytes("lib.same", b"abc", returns="pair") == b"abc"
        assert with_bytes("lib.same", b"abc", returns="pair", alloc="lib.alloc", free=None) == b"abc"
    with ProcessWasmPool(main, workers=1, modules={"lib": allocating(128, "")}) as pool:
        pool.call_bytes("lib.same", b"abc", returns="pair")
        assert (pool.call("lib.live"), pool.call("live")) == (0, 0), "one block of the library's, argument and result"
