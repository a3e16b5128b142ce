"""Values, references and types beyond the plain ones: as compilers for languages with garbage collection emit them."""

from __future__ import annotations

import gc
import pickle
from time import perf_counter
from typing import Any

import pytest
from conftest import DEADLINE

from procpool import (
    ArgumentOutOfRange,
    BadArguments,
    BadImport,
    MemoryType,
    ProcessWasmPool,
    StartupError,
    TableType,
    WasiConfig,
    WasmException,
    WasmTrap,
)
from procpool.worker.instance import Instance

DECLARED = """(module
  (rec (type $s (struct (field (ref null $f)))) (type $f (func (param i32 i64) (result i64))))
  (type $open (sub (func (param i32) (result i32))))
  (type $sub (sub $open (func (param i32) (result i32))))
  (type $final (sub final (func (param i32) (result i32))))
  (func (export "member") (type $f) (i64.add (i64.extend_i32_s (local.get 0)) (local.get 1)))
  (func (export "open") (type $open) (i32.mul (local.get 0) (i32.const 3)))
  (func (export "sub") (type $sub) (i32.div_s (i32.const 12) (local.get 0)))
  (func (export "final") (type $final) (local.get 0))
  (func (export "plain") (param i32) (result i32) (local.get 0)))"""


def test_map_takes_functions_of_declared_types() -> None:
    with ProcessWasmPool(DECLARED, workers=2) as pool:
        assert list(pool.map("member", range(100), range(100))) == [2 * n for n in range(100)]
        assert list(pool.map("open", [1, 2, 3])) == [3, 6, 9]
        assert list(pool.map("final", [1, 2])) == [1, 2]
        assert list(pool.map("plain", [1, 2])) == [1, 2]
        first, failure, last = pool.map("sub", [1, 0, 2], return_exceptions=True)
        assert (first, last) == (12, 6)
        assert isinstance(failure, WasmTrap) and failure.code == "INTEGER_DIVISION_BY_ZERO"


def test_a_host_function_serves_an_import_of_a_declared_type() -> None:
    module = """(module
      (rec (type $s (struct)) (type $f (func (param i32) (result i32))))
      (import "env" "double" (func $double (type $f)))
      (func (export "f") (param i32) (result i32) (call $double (local.get 0))))"""
    with ProcessWasmPool(module, workers=1, imports={"env": {"double": lambda n: 2 * n}}) as pool:
        assert pool.call("f", 21) == 42


REFERENCES = """(module
  (import "env" "make" (func $make (param i32) (result externref)))
  (import "env" "use" (func $use (param externref i32) (result i32)))
  (import "env" "never" (func $never (param exnref)))
  (import "env" "pass" (func $pass (param funcref) (result funcref)))
  (import "env" "keep" (func $keep (param anyref) (result anyref)))
  (import "env" "flip" (func $flip (param v128) (result v128)))
  (type $box (struct (field i32)))
  (type $seven (func (result i32)))
  (table $objects 4 externref)
  (table $functions 1 funcref)
  (func $f (result i32) (i32.const 7))
  (elem declare func $f)
  (func (export "round") (param i32) (result i32)
    (table.set $objects (i32.const 3) (call $make (local.get 0)))
    (call $use (table.get $objects (i32.const 3)) (i32.const 100)))
  (func (export "null") (result i32) (call $use (ref.null extern) (i32.const 5)))
  (func (export "function") (result i32)
    (table.set $functions (i32.const 0) (call $pass (ref.func $f)))
    (call_indirect $functions (type $seven) (i32.const 0)))
  (func (export "box") (result i32) (struct.get $box 0 (ref.cast (ref $box) (call $keep (struct.new $box (i32.const 42))))))
  (func (export "flip") (param v128) (result v128) (call $flip (local.get 0)))
  (func (export "churn") (param i32)
    (loop (drop (call $make (local.get 0))) (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))))"""


class Counted:
    living = 0

    def __init__(self, number: int) -> None:
        self.number = number
        type(self).living += 1

    def __del__(self) -> None:
        type(self).living -= 1


def imports(**others: Any) -> dict[str, dict[str, Any]]:
    usual = {
        "make": lambda number: Counted(number) if number else None,
        "use": lambda made, other: (-1 if made is None else made.number) + other,
        "never": lambda exception: None,
        "pass": lambda function: function,
        "keep": lambda reference: reference,
        "flip": lambda vector: vector[::-1],
    }
    return {"env": usual | others}


def living(instance: Any) -> int:
    gc.collect()
    return Counted.living


def test_references_come_and_go_in_host_functions() -> None:
    with ProcessWasmPool(REFERENCES, workers=1, imports=imports()) as pool:
        assert pool.call("round", 9) == 109
        assert pool.call("round", 0) == 99
        assert pool.call("null") == 4
        assert pool.call("function") == 7
        assert pool.call("box") == 42
        assert pool.call("flip", bytes(range(16))) == bytes(range(16))[::-1]
        assert list(pool.map("round", range(1, 5))) == [101, 102, 103, 104]


def test_an_externref_of_the_guests_own_is_not_taken_for_null() -> None:
    module = """(module
      (import "env" "see" (func $see (param externref) (result i32)))
      (global (export "own") (mut externref) (ref.null extern))
      (type $box (struct (field i32)))
      (func (export "box") (result i32) (call $see (extern.convert_any (struct.new $box (i32.const 7)))))
      (func (export "small") (result i32) (call $see (extern.convert_any (ref.i31 (i32.const 7)))))
      (func (export "set") (global.set 0 (extern.convert_any (ref.i31 (i32.const 7)))))
      (func (export "null") (result i32) (call $see (ref.null extern))))"""
    with ProcessWasmPool(module, workers=1, imports={"env": {"see": lambda seen: 0 if seen is None else 1}}) as pool:
        assert pool.call("null") == 0
        for name in ("box", "small"):
            with pytest.raises(TypeError, match="cannot hold an externref that the guest has made"):
                pool.call(name)
        with pool.instance() as lease:
            lease.call("set")
            with pytest.raises(TypeError, match="cannot hold an externref that the guest has made"):
                lease.globals["own"]


def test_what_the_guest_let_go_of_is_let_go_of() -> None:
    with ProcessWasmPool(REFERENCES, workers=1, imports=imports()) as pool:
        pool.call("round", 1)
        assert pool.submit(living).result(DEADLINE) == 1
        for _ in range(5):
            pool.call("churn", 20_000)
            assert pool.submit(living).result(DEADLINE) < 10_000


def test_an_instance_takes_its_references_with_it() -> None:
    with ProcessWasmPool(REFERENCES, workers=1, isolation="fresh", imports=imports()) as pool:
        for _ in range(50):
            pool.call("round", 1)
        assert pool.submit(living).result(DEADLINE) <= 1


@pytest.mark.parametrize(
    ("name", "function", "export", "args", "words"),
    [
        ("pass", lambda f: 3, "function", (), "returned 3 (int)"),
        ("keep", lambda r: object(), "box", (), "an anyref that came from the same instance"),
        ("flip", lambda v: b"short", "flip", (bytes(16),), "expects v128"),
        ("make", lambda n: None, "round", (1,), None),
    ],
)
def test_what_a_host_function_may_not_return(name: str, function: Any, export: str, args: Any, words: str | None) -> None:
    with ProcessWasmPool(REFERENCES, workers=1, imports=imports(**{name: function})) as pool:
        if words is None:
            assert pool.call(export, *args) == 99
            return
        with pytest.raises(TypeError, match=words.replace("(", r"\(").replace(")", r"\)")):
            pool.call(export, *args)
        assert pool.call("null") == 4


kept: list[Any] = []  # in a worker


def keep(reference: Any) -> Any:
    kept.append(reference)
    return kept[0]


def leave(instance: Any) -> Any:
    instance.call("box")
    return kept[-1]


def test_a_reference_does_not_leave_its_instance() -> None:
    with ProcessWasmPool(REFERENCES, workers=1, isolation="fresh", imports=imports(keep=keep)) as pool:
        assert pool.call("box") == 42
        with pytest.raises(TypeError, match="same instance"):
            pool.call("box")

    with ProcessWasmPool(REFERENCES, workers=1, imports=imports(keep=keep)) as pool:
        with pytest.raises(Exception, match="belongs to one instance"):
            pool.submit(leave).result(DEADLINE)
        assert pool.call("null") == 4


GLOBALS = """(module
  (import "env" "extern" (global $e externref))
  (import "env" "vector" (global $v (mut v128)))
  (import "env" "real" (global $r (mut f32)))
  (global (export "i32") (mut i32) (i32.const 1))
  (global (export "i64") (mut i64) (i64.const 1))
  (global (export "f32") (mut f32) (f32.const 1))
  (global (export "f64") (mut f64) (f64.const 1))
  (global (export "v128") (mut v128) (v128.const i64x2 1 2))
  (global (export "fixed") i32 (i32.const 5))
  (global (export "object") (mut externref) (ref.null extern))
  (global (export "function") (mut funcref) (ref.null func))
  (global (export "collected") (mut anyref) (ref.i31 (i32.const 3))))"""
GIVEN = {"env": {"extern": ["an object"], "vector": bytes(range(16)), "real": 2}}


@pytest.mark.parametrize("name", ["\ud800", "nowhere", "i32.", 5])
def test_what_an_instance_has_not_is_told_by_its_name(name: Any) -> None:
    def ask(instance: Instance) -> list[str]:
        told = []
        for look in (instance.memory_named, instance.globals.__getitem__, lambda name: instance.element(name, 0)):
            with pytest.raises(LookupError) as raised:
                look(name)
            told.append(str(raised.value))
        return told

    with ProcessWasmPool(GLOBALS, workers=1, imports=GIVEN) as pool:
        for what, told in zip(("memory", "global", "table"), pool.submit(ask).result(DEADLINE), strict=True):
            assert told.startswith(f"the module exports no {what} {name!r}")


@pytest.fixture(scope="module")
def lease() -> Any:
    with ProcessWasmPool(GLOBALS, workers=1, imports=GIVEN) as pool, pool.instance() as lease:
        yield lease


@pytest.mark.parametrize(
    ("name", "value", "reads"),
    [
        ("i32", 2**32 - 1, -1),
        ("i64", -(2**63), -(2**63)),
        ("f32", 3, 3.0),
        ("f64", 0.1, 0.1),
        ("v128", bytes(range(16)), bytes(range(16))),
        ("vector", bytes(16), bytes(16)),
        ("real", 0.5, 0.5),
    ],
)
def test_globals_take_what_calls_take(lease: Any, name: str, value: Any, reads: Any) -> None:
    lease.globals[name] = value
    assert lease.globals[name] == reads


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("i64", 2**64, ArgumentOutOfRange),
        ("f32", 1e60, ArgumentOutOfRange),
        ("i32", True, BadArguments),
        ("i32", 1.5, BadArguments),
        ("v128", b"short", BadArguments),
        ("v128", 5, BadArguments),
        ("fixed", 6, TypeError),
        ("function", 7, TypeError),
        ("none", 1, LookupError),
    ],
)
def test_globals_refuse_what_calls_refuse(lease: Any, name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        lease.globals[name] = value
    assert lease.globals["fixed"] == 5


def test_globals_hold_objects_and_references(lease: Any) -> None:
    assert lease.globals["extern"] == ["an object"]
    assert lease.globals["object"] is None
    lease.globals["object"] = {"a": 1}
    assert lease.globals["object"] == {"a": 1}
    with pytest.raises(Exception, match="belongs to one instance"):
        lease.globals["collected"]
    assert lease.globals["function"] is None


@pytest.mark.parametrize(
    ("type_", "value"),
    [("i32", 2**40), ("f32", 1e60), ("i32", True), ("i64", 1.0), ("v128", b""), ("funcref", 1), ("anyref", object())],
)
def test_an_imported_global_is_checked_at_construction(type_: str, value: Any) -> None:
    with pytest.raises(BadImport, match=r"env\.g"):
        ProcessWasmPool(f'(module (import "env" "g" (global {type_})))', imports={"env": {"g": value}})


def first_bytes(instance: Any) -> bytes:
    return bytes(instance.memory[:3])


def grown(instance: Any) -> int:
    instance.grow(1)
    return len(instance.memory)


@pytest.mark.parametrize(
    "memory",
    [
        '(import "env" "memory" (memory 1))',
        '(import "env" "memory" (memory i64 1 4))',
        '(import "env" "memory" (memory i64 1 4 shared))',
        '(memory (export "memory") 1 4 shared)',
        '(memory (export "memory") i64 1)',
    ],
)
def test_memories_that_are_imported_shared_or_large_can_be_reached(memory: str) -> None:
    module = f'(module {memory} (data (i{"64" if "i64" in memory else "32"}.const 0) "abc"))'
    given = (
        {"env": {"memory": MemoryType(1, 4 if " 4" in memory else None, "shared" in memory)}}
        if "import" in memory
        else None
    )
    with ProcessWasmPool(module, workers=1, imports=given) as pool:
        assert pool.submit(first_bytes).result(DEADLINE) == b"abc"
        with pool.instance() as lease:
            assert lease.memory[:3] == b"abc"
            lease.memory[1:2] = b"-"
            assert lease.memory[:3] == b"a-c"
        assert pool.submit(grown).result(DEADLINE) == 2 * 65536


def test_a_host_function_reaches_an_imported_memory_while_the_module_starts() -> None:
    from procpool import wants_instance

    @wants_instance
    def look(instance: Any) -> int:
        return int.from_bytes(instance.memory[:2], "little")

    module = """(module (import "env" "memory" (memory 1)) (import "env" "look" (func $look (result i32)))
      (global $seen (mut i32) (i32.const 0)) (data (i32.const 0) "\\34\\12")
      (func $begin (global.set $seen (call $look))) (start $begin)
      (func (export "seen") (result i32) (global.get $seen)))"""
    with ProcessWasmPool(module, workers=1, imports={"env": {"memory": MemoryType(1), "look": look}}) as pool:
        assert pool.call("seen") == 0x1234


def test_tables_of_every_element_type() -> None:
    module = """(module (type $f (func (result i32)))
      (import "env" "any" (table $any 2 anyref)) (import "env" "extern" (table 1 externref))
      (import "env" "typed" (table $typed 1 3 (ref null $f)))
      (func $five (result i32) (i32.const 5)) (elem declare func $five)
      (func (export "f") (result i32)
        (table.set $typed (i32.const 0) (ref.func $five))
        (table.set $any (i32.const 1) (ref.i31 (i32.const 2)))
        (i32.add (call_ref $f (table.get $typed (i32.const 0)))
                 (i31.get_s (ref.cast (ref i31) (table.get $any (i32.const 1)))))))"""
    given = {"any": TableType("anyref", 2), "extern": TableType("externref", 1), "typed": TableType("(ref null 0)", 1, 3)}
    with ProcessWasmPool(module, workers=1, imports={"env": given}) as pool:
        assert pool.call("f") == 7
    with pytest.raises(BadImport, match=r"env\.any"):
        ProcessWasmPool(module, imports={"env": given | {"any": TableType("anyref", 1)}})
    with pytest.raises(BadImport, match=r"env\.extern"):
        ProcessWasmPool(module, imports={"env": given | {"extern": TableType("funcref", 1)}})


def seconds_to_first_use(instance: Any) -> float:
    start = perf_counter()
    assert len(instance.memory) == 65536
    instance.globals["g"] = 1
    instance.grow(0)
    return perf_counter() - start


def test_the_first_use_of_memory_does_not_look_at_every_export() -> None:
    def module(exports: int) -> str:
        functions = "".join(f'(func (export "f{n}"))' for n in range(exports))
        return f'(module (memory (export "memory") 1) (global (export "g") (mut i32) (i32.const 0)) {functions})'

    def fastest(exports: int) -> float:
        with ProcessWasmPool(module(exports), workers=1, isolation="fresh") as pool:
            return min(pool.submit(seconds_to_first_use).result(DEADLINE) for _ in range(20))

    # It was 13 ms for 450 exports, and forty times that for 3,000.  What is left is a search by name.
    assert fastest(3000) < 20 * fastest(3)


def test_a_module_without_wasmtimes_private_names_says_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROCPOOL_PUBLIC_API", "1")
    with pytest.raises(Exception, match=r"env\.make \(i32\) -> \(externref\) needs wasmtime-py's private names"):
        ProcessWasmPool(REFERENCES, workers=1, imports=imports())
    module = '(module (global (export "g") (mut i64) (i64.const 3)) (global (export "v") v128 (v128.const i64x2 1 2)))'
    with ProcessWasmPool(module, workers=1) as pool, pool.instance() as lease:
        lease.globals["g"] = 5
        assert lease.globals["g"] == 5
        with pytest.raises(NotImplementedError, match="the global 'v' is a v128"):
            lease.globals["v"]


def test_an_exception_of_the_guests_has_its_tag_and_payload() -> None:
    module = """(module
      (tag $t (export "oops") (param i32 i64 f64 v128 externref)) (tag $hidden)
      (func (export "throws") (throw $t (i32.const 1) (i64.const 2) (f64.const 3) (v128.const i64x2 1 0) (ref.null extern)))
      (func (export "hides") (throw $hidden))
      (func (export "by") (param i32) (result i32)
        (if (i32.eqz (local.get 0)) (then (throw $hidden))) (i32.div_s (i32.const 6) (i32.sub (local.get 0) (i32.const 1)))))"""
    with ProcessWasmPool(module, workers=1) as pool:
        with pytest.raises(
            WasmException, match=r"^throws: threw the exception 'oops' with the payload .1, 2, 3.0"
        ) as raised:
            pool.call("throws")
        assert raised.value.tag == "oops"
        assert raised.value.payload == (1, 2, 3.0, bytes((1, *[0] * 15)), "externref")
        assert f"{bytes((1, *[0] * 15)).hex()}, externref" in str(raised.value)
        assert raised.value.frames[0].func_index == 0
        again = pickle.loads(pickle.dumps(raised.value))
        assert (again.tag, again.payload, str(again)) == (raised.value.tag, raised.value.payload, str(raised.value))
        with pytest.raises(WasmException, match=r"^hides: threw an exception\n"):
            pool.submit("hides").result(DEADLINE)
        failures = list(pool.map("by", [0, 1, 2, 0], return_exceptions=True))
        assert [type(failure) for failure in failures] == [WasmException, WasmTrap, int, WasmException]


def test_a_name_that_two_imports_share_is_no_name() -> None:
    module = """(module (import "a" "x" (global i32)) (import "b" "x" (global i32)) (import "b" "y" (global i32))
      (global (export "y") i32 (i32.const 9)))"""
    given = {"a": {"x": 1}, "b": {"x": 2, "y": 3}}
    with ProcessWasmPool(module, workers=1, imports=given) as pool, pool.instance() as lease:
        assert [lease.globals[name] for name in ("a.x", "b.x", "b.y", "y")] == [1, 2, 3, 9]
        with pytest.raises(LookupError, match="x"):
            lease.globals["x"]


def test_the_frames_of_a_trap_in_a_map_are_the_modules_own() -> None:
    module = """(module (func $boom (unreachable))
      (func (export "trap") (param i32) (result i32) (call $boom) (local.get 0)))"""
    with ProcessWasmPool(module, workers=1) as pool:
        with pytest.raises(WasmTrap) as called:
            pool.call("trap", 1)
        assert [frame.func_index for frame in called.value.frames] == [0, 1]
        (mapped,) = pool.map("trap", [1], return_exceptions=True)
        assert isinstance(mapped, WasmTrap) and mapped.frames == called.value.frames
        with pytest.raises(WasmTrap) as caught:
            pool.map_array("trap", [1])
        assert caught.value.frames == called.value.frames


def test_an_exception_of_a_start_function_or_a_command_is_one_too() -> None:
    module = """(module (tag $t (export "oops") (param i32)) (memory (export "memory") 1)
      (func $throws (throw $t (i32.const 7))) %s)"""
    with pytest.raises(StartupError) as failed:
        ProcessWasmPool(module % "(start $throws)", workers=1)
    cause = failed.value.__cause__
    assert isinstance(cause, WasmException) and cause.payload == (7,)
    assert [frame.function for frame in cause.frames] == ["throws"]
    with ProcessWasmPool(module % '(export "_start" (func $throws))', workers=1, wasi=WasiConfig()) as pool:
        with pytest.raises(WasmException) as caught:
            pool.run()
        assert (caught.value.tag, caught.value.payload) == ("oops", (7,))


def test_an_error_of_wasmtimes_comes_without_its_backtrace() -> None:
    module = """(module (import "wasi_snapshot_preview1" "random_get" (func $get (param i32 i32) (result i32)))
      (func $asks (export "asks") (drop (call $get (i32.const 0) (i32.const 9)))))"""  # and has no memory
    with ProcessWasmPool(module, workers=1, wasi=WasiConfig()) as pool, pytest.raises(WasmTrap) as caught:
        pool.call("asks")
    assert "backtrace" not in str(caught.value)
    assert "memory" in caught.value.message
    assert [frame.function for frame in caught.value.frames][-1] == "asks"
