"""Modules as the world ships them: what they import, how they want to be set up, and what is said when something lacks."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import KERNELS

import procpool
from procpool import (
    ArgumentOutOfRange,
    BadArguments,
    BadImport,
    FuncType,
    GuestExit,
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
    state,
)

NEEDY = """(module
  (import "env" "f" (func $f (param i32 i64) (result f64)))
  (import "env" "memory" (memory 1 2))
  (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
  (import "g" "g" (global $g i32))
  (import "g" "t" (table 1 funcref))
  (global $set (mut i32) (i32.const 0))
  (func (export "f") (result f64) (call $f (i32.const 1) (i64.const 2)))
  (func (export "g") (result i32) (global.get $g))
  (func (export "init") (param i32 i32) (result i32)
    (global.set $set (i32.add (global.get $set) (i32.mul (local.get 0) (local.get 1)))) (i32.const 1))
  (func (export "set") (result i32) (global.get $set)))"""


def test_all_that_is_missing_is_named_with_what_to_paste() -> None:
    with pytest.raises(MissingImport) as refused:
        ProcessWasmPool(NEEDY)
    text = str(refused.value)
    for part in (
        "env.f, a function (i32, i64) -> (f64)",
        "env.memory",
        "proc_exit",
        "g.g, a global i32",
        "g.t",
        "WasiConfig",
    ):
        assert part in text
    pasted: dict[str, Any] = {}
    exec(
        text[text.index("imports={") :], vars(procpool).copy() | {n: getattr(procpool, n) for n in procpool.__all__}, pasted
    )
    with ProcessWasmPool(NEEDY, workers=1, imports=pasted["imports"]) as pool:
        assert pool.call("f") == 0.0


def test_what_is_pasted_has_the_width_of_memories_and_tables_and_objects_where_none_will_not_do() -> None:
    module = """(module
      (import "env" "shared" (memory i64 1 2 shared)) (import "env" "wide" (memory i64 1))
      (import "env" "table" (table $wide i64 2 funcref)) (import "env" "object" (global (ref extern)))
      (import "env" "some" (func $some (result (ref extern)))) (import "lib" "tag" (tag (param i32)))
      (func (export "some") (drop (call $some))) (func (export "size") (result i64) (table.size $wide)))"""
    library = '(module (tag (export "tag") (param i32)))'
    with pytest.raises(
        MissingImport, match=re.escape("which only a module can give that exports it, as modules={'lib'")
    ) as e:
        ProcessWasmPool(module)
    text = str(e.value)
    assert "64-bit table of 2 funcref" in text
    pasted: dict[str, Any] = {}
    exec(text[text.index("imports={") :], {n: getattr(procpool, n) for n in procpool.__all__}, pasted)
    with ProcessWasmPool(module, workers=1, modules={"lib": library}, **pasted) as pool:
        assert pool.call("some") is None
        assert pool.call("size") == 2
        assert pool.submit(lambda instance: len(instance.memory_named("shared"))).result() == 65536
    with pytest.raises(MissingImport) as refused:
        ProcessWasmPool('(module (import "lib" "tag" (tag)))')
    assert "imports={" not in str(refused.value)


def test_a_64_bit_table_has_a_stand_in_and_may_be_given() -> None:
    module = (
        """(module (import "env" "t" (table $t i64 1 4 externref)) (func (export "size") (result i64) (table.size $t)))"""
    )
    given = TableType("externref", 1, 4, is_64=True)
    assert procpool.inspect(module).imports[0].type == given
    plain = TableType("externref", 1, 4)
    for how in ({"on_missing_import": "trap"}, {"imports": {"env": {"t": given}}}, {"imports": {"env": {"t": plain}}}):
        with ProcessWasmPool(module, workers=1, **how) as pool:  # type: ignore[arg-type]
            assert pool.call("size") == 1

            def append(instance: Any) -> Any:
                return instance.append("t", "x"), instance.element("t", 1)

            assert pool.submit(append).result() == (1, "x")
    with pytest.raises(BadImport, match=r"one that is the import's 64-bit table of 1 externref, at most 4"):
        ProcessWasmPool(module, imports={"env": {"t": TableType("externref", 1, 5)}})
    with pytest.raises(BadImport, match=r"as a 64-bit table of 1 externref, at most 4, and .* exports t, a table of 1"):
        ProcessWasmPool(module, modules={"env": '(module (table (export "t") 1 4 externref))'})


@pytest.mark.parametrize(
    ("wanted", "given", "words"),
    [
        ("(memory 1)", MemoryType(70000), "one that fits the import's memory of 1 pages"),
        ("(memory 1)", MemoryType("1"), "one that fits the import's memory of 1 pages"),  # type: ignore[arg-type]
        ("(memory 1)", MemoryType(1, 1.5), "one that fits the import's memory of 1 pages"),  # type: ignore[arg-type]
        ("(memory 1)", MemoryType(1, is_64=True), "one that fits the import's memory of 1 pages"),
        ("(table 1 funcref)", TableType("funcref", 1, is_64=True), "one that fits the import's table of 1 funcref"),
        ("(memory i64 1)", MemoryType(2**49, is_64=True), "one that fits the import's 64-bit memory"),
        ("(table 1 funcref)", TableType("funcref", 2**32), "one that fits the import's table"),
        ("(table 1 (ref extern))", TableType("(ref extern)", 1), "cannot be given from Python"),
        ("(global (ref func))", None, "cannot be given from Python"),
        ("(global (ref extern))", None, "another object: a global .ref extern. is never null"),
    ],
)
def test_what_cannot_serve_an_import_is_refused_by_its_name(wanted: str, given: Any, words: str) -> None:
    with pytest.raises(BadImport, match=rf"env\.x\b.*{words}"):
        ProcessWasmPool(f'(module (import "env" "x" {wanted}))', imports={"env": {"x": given}})


def test_what_cannot_be_made_for_an_import_is_named() -> None:
    with pytest.raises(MissingImport, match=r"imports env\.x, a table of 1 .ref extern., which nothing can stand in for"):
        ProcessWasmPool('(module (import "env" "x" (table 1 (ref extern))))', on_missing_import="trap")
    huge = MemoryType(2**40, is_64=True)
    with pytest.raises(StartupError, match=r"making the import env\.x: "):
        ProcessWasmPool('(module (import "env" "x" (memory i64 1)))', workers=1, imports={"env": {"x": huge}})


def test_missing_imports_that_trap() -> None:
    with ProcessWasmPool(NEEDY, workers=1, on_missing_import="trap") as pool:
        assert pool.call("g") == 0
        with pytest.raises(MissingImport, match=re.escape("its import env.f (i32, i64) -> (f64)")):
            pool.call("f")
        assert pool.call("set") == 0


def test_missing_imports_that_are_zero() -> None:
    with ProcessWasmPool(NEEDY, workers=1, on_missing_import="zero", imports={"g": {"g": 7}}) as pool:
        assert (pool.call("f"), pool.call("g")) == (0.0, 7)


@pytest.mark.parametrize(
    ("wanted", "given"), [("memory 0 0", MemoryType(0, 0)), ("table 0 0 funcref", TableType("funcref", 0, 0))]
)
def test_an_import_may_have_room_for_nothing(wanted: str, given: Any) -> None:
    module = f'(module (import "env" "nothing" ({wanted})) (func (export "f") (result i32) (i32.const 1)))'
    for stand_in in ({"on_missing_import": "zero"}, {"imports": {"env": {"nothing": given}}}):
        with ProcessWasmPool(module, workers=1, **stand_in) as pool:
            assert pool.call("f") == 1


def test_a_memory_whose_limits_contradict_each_other_is_refused_at_once() -> None:
    with pytest.raises(BadImport, match="expected one that fits"):
        ProcessWasmPool('(module (import "env" "m" (memory 1)))', imports={"env": {"m": MemoryType(3, 2)}})


def test_missing_imports_that_a_function_serves() -> None:
    asked: list[Import] = []

    def serve(needed: Import) -> Any:
        asked.append(needed)
        if isinstance(needed.type, FuncType):
            return lambda *args: 2.5 if needed.name == "f" else None
        return 3 if needed.name == "g" else needed.type

    with ProcessWasmPool(NEEDY, workers=1, on_missing_import=serve) as pool:
        assert (pool.call("f"), pool.call("g")) == (2.5, 3)
    assert [needed.name for needed in asked] == ["f", "memory", "proc_exit", "g", "t"]


def test_what_a_function_serves_is_said_to_come_from_it() -> None:
    for module, words in (
        ('(module (import "env" "f" (func)))', r"gives None (NoneType) for env.f, expected a function () -> ()"),
        ('(module (import "env" "g" (global i32)))', "gives env.g, which is None (NoneType), expected an i32"),
    ):
        with pytest.raises(BadImport, match=f"^on_missing_import {re.escape(words)}"):
            ProcessWasmPool(module, on_missing_import=lambda needed: None)


def test_a_name_that_several_imports_have_is_answered_with_their_full_names() -> None:
    module = '(module (import "x" "m" (memory 1)) (import "y" "m" (memory 2)) (import "z" "m" (global i32)))'
    words = re.escape("no memory 'm' (str), and imports none that this alone names; did you mean 'x.m' or 'y.m'?")
    with ProcessWasmPool(module, workers=1, on_missing_import="trap") as pool:
        with pytest.raises(LookupError, match=words):
            pool.submit(lambda instance: instance.memory_named("m")).result()
        with pool.instance() as lease:
            with pytest.raises(LookupError, match=words):
                lease.memory_named("m")
            assert len(lease.memory_named("y.m")) == 2 * 65536
            with pytest.raises(LookupError, match="imports none of that name"):
                lease.memory_named("n")


def test_a_tag_has_no_stand_in() -> None:
    with pytest.raises(MissingImport, match="nothing can stand in for"):
        ProcessWasmPool('(module (import "env" "t" (tag (param i32))))', on_missing_import="zero")
    with pytest.raises(ValueError, match="on_missing_import must be one of"):
        ProcessWasmPool(NEEDY, on_missing_import="ignore")  # type: ignore[arg-type]


def twice(instance: Any) -> None:
    instance.call("init", 10, instance.call("set"))


def test_an_instance_is_set_up_before_it_is_used() -> None:
    steps = ("init", 3, 4), "set", twice
    for isolation in ("pooled", "fresh"):
        with ProcessWasmPool(NEEDY, workers=1, isolation=isolation, on_missing_import="zero", start=steps) as pool:
            for _ in range(3):
                assert pool.call("set") == 12 + 120


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        ("nope", UnknownExport, "no function of that name"),
        ("memory", UnknownExport, "no function of that name"),
        (5, BadArguments, r"start\[1\] is 5 \(int\); a step is an export's name, a tuple"),
        (["init", 1, 2], BadArguments, r"start\[1\] is \['init', 1, 2\] \(list\); a step is"),
        (("init", 1), BadArguments, r"start\[1\]: init takes 2 arguments"),
        (("init", 1, "x"), BadArguments, r"start\[1\]: init: argument 1 is 'x'"),
        (("init", 1, 1 << 40), ArgumentOutOfRange, r"start\[1\]: init: argument 1 is 1099511627776"),
        ((), UnknownExport, r"start\[1\] names \(\).* no function of that name"),
    ],
)
def test_a_start_that_cannot_be(step: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ProcessWasmPool(NEEDY, on_missing_import="zero", start=["set", step])


@pytest.mark.parametrize("start", [("init", 1, 2), ["init", 1, 2], ("init", 1, "set")])
def test_one_step_where_a_list_of_steps_is_meant_is_answered_with_what_to_write(start: Any) -> None:
    with pytest.raises(
        BadArguments,
        match=re.escape(f"; start is a list of steps: for one call with arguments, write start=[{tuple(start)}]"),
    ):
        ProcessWasmPool(NEEDY, on_missing_import="zero", start=start)
    with pytest.raises(TypeError, match=re.escape("start must be a list of steps, got 'set' (str); write start=['set']")):
        ProcessWasmPool(NEEDY, on_missing_import="zero", start="set")


#: Each export ends in its own way; `main` only if its import says so.
ENDS = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "env" "f" (func $f (result i32))) (memory (export "memory") 1) (tag $oops (export "oops") (param i32))
  (func (export "fine")) (func (export "trap") (param i32 f64) unreachable)
  (func (export "throw") (throw $oops (i32.const 7))) (func (export "exit") (param i32) (call $exit (local.get 0)))
  (func (export "host") (drop (call $f)))
  (func (export "main") (if (call $f) (then unreachable))))"""


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        (("trap", 3, 0.5), StartupError, "start[1], trap(3, 0.5): wasm `unreachable` instruction"),
        ("throw", StartupError, "start[1], throw(): threw the exception 'oops' with the payload (7)"),
        (("exit", 3), StartupError, "start[1], exit(3): the guest exited with code 3"),
        (lambda instance: instance.call("trap", 1, 2), StartupError, "<lambda>: wasm `unreachable` instruction"),
        ("host", ZeroDivisionError, "raised by start[1], host()"),
        (lambda instance: instance.call("trap", "x", 2), StartupError, "so an int (raised by start[1], <lambda>)"),
        (lambda instance: 1 // 0, ZeroDivisionError, "raised by start[1], "),
    ],
)
def test_what_goes_wrong_in_a_step_says_which_it_was(step: Any, error: type[Exception], words: str) -> None:
    imports = {"env": {"f": lambda: 1 // 0}}
    with pytest.raises(error) as raised:
        ProcessWasmPool(ENDS, workers=1, imports=imports, wasi=WasiConfig(), start=[("exit", 0), step])
    assert words in "\n".join([str(raised.value), *getattr(raised.value, "__notes__", ())])


def test_what_goes_wrong_in_a_step_of_a_later_instance_says_so_too() -> None:
    class Later:
        instances = 0

        def __call__(self) -> int:
            self.instances += 1
            return int(self.instances > 2)

    with (
        ProcessWasmPool(
            ENDS, workers=1, isolation="fresh", imports={"env": {"f": Later()}}, wasi=WasiConfig(), start=["main"]
        ) as pool,
        pytest.raises(WasmTrap, match=re.escape("fine: start[0], main(): wasm `unreachable` instruction")),
    ):
        for _ in range(4):
            pool.call("fine")


def test_what_a_step_throws_says_which_it_was_however_it_is_shown() -> None:
    how: dict[str, Any] = {"imports": {"env": {"f": int}}, "wasi": WasiConfig(), "prewarm": 0, "start": ["throw"]}
    with ProcessWasmPool(ENDS, workers=1, **how) as pool, pytest.raises(WasmException) as raised:
        pool.call("fine")
    error = raised.value
    assert error.message == "start[0], throw(): threw the exception 'oops' with the payload (7)"
    assert error.args == (error.message,) and repr(error) == f"WasmException({error.message!r})"


def test_a_start_function_that_fails_says_that_an_instance_was_being_made() -> None:
    with pytest.raises(StartupError, match=r"making an instance of the module: wasm `unreachable` instruction"):
        ProcessWasmPool("(module (func $f unreachable) (start $f))", workers=1)
    with pytest.raises(KeyError) as raised:
        module = '(module (import "env" "f" (func $f)) (start $f))'
        ProcessWasmPool(module, workers=1, imports={"env": {"f": lambda: {}["x"]}})
    notes = ["raised by the host function for env.f", "raised by making an instance of the module"]
    assert raised.value.__notes__ == notes  # type: ignore[attr-defined]


class Again:
    """Raises one and the same object whenever it is called, but for the times that it is told not to."""

    def __init__(self, error: Exception, *well: int) -> None:
        self.error = error
        self.well = well
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls in self.well:
            return 0
        raise self.error


@pytest.mark.parametrize("start", ["start", "step"])
def test_an_exception_that_is_raised_again_does_not_keep_the_stage_it_has_ended(start: str) -> None:
    module = f"""(module (import "env" "f" (func $f (result i32))) (func $set (drop (call $f)))
      {"(start $set)" if start == "start" else '(export "set" (func $set))'} (export "f" (func $f)) (func (export "fine")))"""
    stage = "making an instance of the module" if start == "start" else "start[0], set()"
    how: dict[str, Any] = {"workers": 1, "start": ["set"] if start == "step" else []}
    for error in (KeyError("again"), GuestExit(9)):
        # Two instances cannot be made, and a third is; a call ends it for the same reason, and so the fourth is in vain.
        with ProcessWasmPool(module, imports={"env": {"f": Again(error, 1, 5)}}, **how) as pool:
            told = []
            for export in ("f", "fine", "fine", "f", "fine"):
                with pytest.raises(type(error)) as raised:
                    pool.call(export)
                told.append(raised.value)
        made, *failing, called, last = told
        if isinstance(error, GuestExit):
            assert [str(each) for each in (made, called)] == ["the guest exited with code 9"] * 2
            assert [str(each) for each in (*failing, last)] == [f"{stage}: the guest exited with code 9"] * 3
            assert all(each.__cause__ is None and vars(each) == {"code": 9} for each in told)
        else:
            plain = ["raised by the host function for env.f"]
            assert [each.__notes__ for each in (made, called)] == [plain] * 2
            assert [each.__notes__ for each in (*failing, last)] == [[*plain, f"raised by {stage}"]] * 3


def catch(instance: Any) -> None:
    try:
        instance.call("fine")
    except KeyError as error:
        state.caught = error


def bring_back(instance: Any) -> None:
    raise state.caught


def test_what_a_callable_has_caught_does_not_keep_its_stage_either() -> None:
    module = '(module (import "env" "f" (func $f)) (func $set (call $f)) (start $set) (func (export "fine")))'
    with ProcessWasmPool(module, workers=1, prewarm=0, imports={"env": {"f": Again(KeyError("caught"))}}) as pool:
        pool.submit(catch).result()
        with pytest.raises(KeyError) as raised:
            pool.submit(bring_back).result()
    assert raised.value.__notes__ == ["raised by the host function for env.f"]  # type: ignore[attr-defined]


def fails(instance: Any) -> None:
    raise RuntimeError("not today")


def test_a_start_that_raises_fails_the_construction() -> None:
    with pytest.raises(RuntimeError, match="not today"):
        ProcessWasmPool(NEEDY, workers=1, on_missing_import="zero", start=[fails])


def test_an_error_says_which_import_the_host_function_served() -> None:
    given = {"f": lambda a, b: {}[a], "memory": procpool.MemoryType(1, 2)}
    with ProcessWasmPool(NEEDY, workers=1, imports={"env": given}, on_missing_import="zero") as pool:
        for _ in range(2):
            with pytest.raises(KeyError) as raised:
                pool.call("f")
            assert "raised by the host function for env.f" in str(raised.value.__cause__)


def test_inspecting_starts_nothing() -> None:
    found = procpool.inspect(NEEDY)
    assert [needed.name for needed in found.imports] == ["f", "memory", "proc_exit", "g", "t"]
    assert found.exports["init"] == FuncType(("i32", "i32"), ("i32",))
    assert "env.f (i32, i64) -> (f64)" in str(found) and "imports: 5" in str(found)
    assert procpool.inspect(KERNELS).size == KERNELS.stat().st_size
    with pytest.raises(InvalidModule, match="type mismatch"):
        procpool.inspect("(module (func (result i32)))")
    with pytest.raises(InvalidModule, match="the given bytes are not WebAssembly"):
        procpool.inspect(b"nothing of the sort")


def test_a_map_over_too_many_columns_is_refused_and_a_call_is_not() -> None:
    module = f'(module (func (export "f") (param {"i32 " * 998}) (result i32) (local.get 997)))'
    with ProcessWasmPool(module, workers=1) as pool:
        assert pool.call("f", *range(998)) == 997
        with pytest.raises(BadArguments, match="999 values, and a map can do with 997"):
            list(pool.map("f", *([[1]] * 998)))
    module = f'(module (func (export "f") (param {"i32 " * 996}) (result i32) (local.get 995)))'
    with ProcessWasmPool(module, workers=1) as pool:
        assert list(pool.map("f", *([[7, 8]] * 996))) == [7, 8]


def test_a_module_that_cannot_be_linked_says_why_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    module = '(module (import "env" "t" (table 1 2 (ref func))))'
    with pytest.raises(Exception, match=r"could not|cannot|null|refused|element"):
        ProcessWasmPool(module, workers=1, imports={"env": {"t": procpool.TableType("(ref func)", 1, 2)}})
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_lease_reads_a_slice_in_one_exchange() -> None:
    with ProcessWasmPool('(module (memory (export "memory") 200))', workers=1) as pool, pool.instance() as lease:
        size = 200 * 65536
        assert len(lease.memory) == size
        lease.memory[:] = bytes(range(256)) * (size // 256)
        assert lease.memory[size - 3 :] == b"\xfd\xfe\xff"
        assert lease.memory[: size - 1] == (bytes(range(256)) * (size // 256))[:-1]
        assert (lease.memory[-1], lease.memory[0], lease.memory[5:5]) == (255, 0, b"")
        lease.memory[-1] = 9
        assert lease.memory[size - 1] == 9
        for where in (size, -size - 1):
            with pytest.raises(IndexError, match=f"address {where} is outside of the {size} bytes of 'memory'"):
                lease.memory[where]
        for part in (slice(-size - 1, None), slice(0, size + 1), slice(size + 1, None)):
            with pytest.raises(IndexError, match=f"is outside of the {size} bytes"):
                lease.memory[part]
        with pytest.raises(ValueError, match=re.escape("3 bytes do not fit into the 4 of [0:4]")):
            lease.memory[0:4] = b"abc"
        with pytest.raises(ValueError, match="do not fit"):
            lease.memory[0 : size - 1] = bytes(size)
        assert lease.memory[0:4] == bytes(range(4))


@pytest.mark.parametrize("wanted", ["(ref null func)", "funcref"])
@pytest.mark.parametrize("given", ["(ref null func)", "funcref"])
def test_a_type_has_one_spelling(wanted: str, given: str) -> None:
    module = f'(module (import "env" "t" (table 1 {wanted})) (func (export "size") (result i32) (table.size 0)))'
    assert procpool.inspect(module).imports[0].type == TableType("funcref", 1)
    with ProcessWasmPool(module, workers=1, imports={"env": {"t": TableType(given, 2)}}) as pool:
        assert pool.call("size") == 2


#: One import name with three types, of which one comes twice; the last two differ in nothing that a signature tells.
TWICE = """(module
  (type $plain (func (param i64) (result i32)))
  (rec (type $member (func (param i64) (result i32))) (type (func)))
  (import "e" "d" (func $none (result i32)))
  (import "e" "d" (func $one (param i32) (result i32)))
  (import "e" "d" (func $again (result i32)))
  (import "e" "d" (func $plain (type $plain)))
  (import "e" "d" (func $member (type $member)))
  (memory (export "memory") 1)
  (func (export "none") (result i32) (i32.add (call $none) (call $again)))
  (func (export "one") (param i32) (result i32) (call $one (local.get 0)))
  (func (export "plain") (param i64) (result i32) (call $plain (local.get 0)))
  (func (export "member") (param i64) (result i32) (call $member (local.get 0))))"""


@pytest.mark.parametrize("how", [{}, {"isolation": "fresh"}, {"start_method": "spawn"}, {"instances": 2}])
def test_one_name_may_be_imported_as_functions_of_several_types(nothing_left: None, how: dict[str, Any]) -> None:
    with ProcessWasmPool(TWICE, workers=1, imports={"e": {"d": lambda *args: 5 + sum(args)}}, **how) as pool:
        assert (pool.call("none"), pool.call("one", 2), pool.call("plain", 3), pool.call("member", 4)) == (10, 7, 8, 9)
        assert list(pool.map("one", range(3))) == [5, 6, 7]
        assert [each.name for each in pool.imports] == ["d"] * 5
        assert [str(each.type) for each in pool.imports[:3]] == ["() -> (i32)", "(i32) -> (i32)", "() -> (i32)"]


def test_each_type_of_one_name_has_a_stand_in_of_its_own(nothing_left: None) -> None:
    with ProcessWasmPool(TWICE, workers=1, on_missing_import="zero") as pool:
        assert (pool.call("none"), pool.call("one", 2)) == (0, 0)
    wanted = re.escape("its import e.d (i32) -> (i32)")
    with ProcessWasmPool(TWICE, workers=1, on_missing_import="trap") as pool, pytest.raises(MissingImport, match=wanted):
        pool.call("one", 2)

    def serve(needed: Import) -> Any:
        assert isinstance(needed.type, FuncType)
        return {0: lambda: 1, 1: lambda n: -n}[len(needed.type.params)]

    with ProcessWasmPool(TWICE, workers=1, on_missing_import=serve) as pool:
        assert (pool.call("none"), pool.call("one", 2), pool.call("member", 3)) == (2, -2, -3)


def test_what_is_wrong_with_one_of_several_types_is_said_of_that_one() -> None:
    with pytest.raises(MissingImport) as refused:
        ProcessWasmPool(TWICE)
    text = str(refused.value)
    assert "imports 3 things" in text and "'d': lambda *args: 0,  # () -> (i32), and (i32) -> (i32), and (i64)" in text
    exec(text[text.index("imports={") :], pasted := {})  # type: ignore[var-annotated]
    with ProcessWasmPool(TWICE, workers=1, imports=pasted["imports"]) as pool:
        assert (pool.call("none"), pool.call("member", 1)) == (0, 0)
    with ProcessWasmPool(TWICE, workers=1, imports={"e": {"d": lambda *args: "x" if args else 1}}) as pool:
        assert pool.call("none") == 2
        with pytest.raises(
            TypeError, match=re.escape("the host function e.d returned 'x' (str); its import (i32) -> (i32)")
        ):
            pool.call("one", 1)
    with pytest.raises(BadImport, match=r"for e\.d, expected a function \(\) -> \(i32\)"):
        ProcessWasmPool(TWICE, imports={"e": {"d": 5}})


def test_what_to_paste_for_several_types_can_be_given() -> None:
    function, memories = '"e" "f" (func (result i32))', '(import "m" "m" (memory 1 9)) (import "m" "m" (memory 2 7))'
    several = f'(module (import {function}) (import "e" "f" (global i32)) (import "e" "f" (func)) {memories})'
    with pytest.raises(MissingImport) as refused:
        ProcessWasmPool(several)
    text = str(refused.value)
    assert "# 'f', a function () -> (i32), and a global i32, and a function () -> (): nothing is all of these" in text
    assert "on_missing_import=function" in text
    exec(text[text.index("imports={") :], {"MemoryType": MemoryType}, pasted := {})  # type: ignore[var-annotated]
    assert pasted["imports"] == {"e": {}, "m": {"m": MemoryType(2, 7)}}

    def serve(needed: Import) -> Any:
        return int if isinstance(needed.type, FuncType) else 5

    with ProcessWasmPool(several, workers=1, imports=pasted["imports"], on_missing_import=serve) as pool:
        assert len(pool.imports) == 5


FD_WRITE = "(param i32 i32 i32 i32) (result i32)"


@pytest.mark.parametrize("types", [("(param i32)", FD_WRITE), (FD_WRITE, "(param i32)")])
def test_a_function_of_wasis_that_is_wanted_as_several_types_is_refused(types: tuple[str, str]) -> None:
    names = '"wasi_snapshot_preview1" "fd_write"'
    functions = "".join(f"(import {names} (func {type_}))" for type_ in types)
    module = f'(module {functions} (memory (export "memory") 1))'
    words = "imports wasi_snapshot_preview1.fd_write as functions of several types"
    with pytest.raises(BadImport, match=re.escape(words)):
        ProcessWasmPool(module, workers=1, wasi=WasiConfig(), on_missing_import="zero")
    given = {"wasi_snapshot_preview1": {"fd_write": lambda *args: 0}}
    with ProcessWasmPool(module, workers=1, wasi=WasiConfig(), imports=given) as pool:
        assert len(pool.imports) == 2


def test_a_name_of_a_function_may_be_that_of_a_memory_too() -> None:
    module = """(module (import "e" "d" (func $f (result i32))) (import "e" "d" (memory 1)) (import "e" "d" (memory 2))
      (import "e" "d\\00\\31" (func $g (result i32)))
      (func (export "f") (result i32) (i32.add (call $f) (call $g))) (func (export "size") (result i32) (memory.size 1)))"""
    with pytest.raises(BadImport, match=r"for e\.d, expected a function"):
        ProcessWasmPool(module, imports={"e": {"d": MemoryType(2), "d\0001": abs}})

    def serve(needed: Import) -> Any:
        return (lambda: len(needed.name)) if isinstance(needed.type, FuncType) else needed.type

    with ProcessWasmPool(module, workers=1, on_missing_import=serve) as pool:
        assert (pool.call("f"), pool.call("size")) == (1 + 3, 2)
        assert pool.submit(lambda instance: len(instance.memory_named("d"))).result() == 2 * 65536


def test_there_is_no_zero_for_a_reference_that_is_never_null(nothing_left: None) -> None:
    module = (
        '(module (import "e" "f" (func $f (result (ref extern)))) (import "e" "g" (func $g (result externref)))'
        ' (func (export "f") (drop (call $f))) (func (export "g") (drop (call $g))))'
    )
    with ProcessWasmPool(module, workers=1, on_missing_import="zero") as pool:
        assert pool.call("g") is None
        with pytest.raises(MissingImport, match=r"e\.f .*a \(ref extern\) is never null"):
            pool.call("f")
