"""How modules of several compilers pass bytes and text.

The modules of C and of text keep account of their blocks: they trap when one is freed twice, and tell how many are not freed.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEADLINE, FIXTURES

from fixtures.build import ASC, build_assembly
from procpool import (
    ArgumentOutOfRange,
    BadArguments,
    BytesFunction,
    CallTimeout,
    Convention,
    FuncType,
    GuestError,
    Instance,
    LeaseEnded,
    ProcessWasmPool,
    UnknownExport,
    WasmTrap,
    wants_instance,
)

#: Enough calls for what leaks to fill pages.
MANY = 3000
BUFFER = replace(Convention.named("assemblyscript"), buffers="ArrayBuffer")


@wants_instance
def error(instance: Instance, address: int, size: int) -> Exception:
    return ValueError(bytes(instance.memory[address : address + size]).decode())


MODULES: dict[str, dict[str, Any]] = {
    "bindgen": {"src": FIXTURES / "bindgen.wasm"},
    "bindgen_values": {
        "src": FIXTURES / "bindgen_values.wat",
        "imports": {"./it_bg.js": {"__wbg_Error_0123": error}},
    },
    "assembly": {"src": FIXTURES / "assembly.wasm"},
    "emscripten": {"src": FIXTURES / "emscripten.wasm"},
    "tinygo": {"src": FIXTURES / "tinygo.wasm"},
    "sha256": {"src": FIXTURES / "sha256.wasm"},
}


@pytest.fixture(scope="module")
def pools() -> Iterator[Callable[[str], ProcessWasmPool]]:
    """A pool of one worker for each module."""
    opened: dict[str, ProcessWasmPool] = {}

    def pool(name: str) -> ProcessWasmPool:
        if name not in opened:
            opened[name] = ProcessWasmPool(**MODULES[name], workers=1)
        return opened[name]

    yield pool
    for each in opened.values():
        each.shutdown()


Pools = Callable[[str], ProcessWasmPool]


# -- which it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "convention"),
    [
        ("bindgen", "wasm-bindgen"),
        ("bindgen_values", "wasm-bindgen"),
        ("assembly", "assemblyscript"),
        ("emscripten", "emscripten"),
        ("tinygo", "tinygo"),
        ("sha256", "c"),
    ],
)
def test_the_exports_tell_the_convention(module: str, convention: Any, pools: Pools) -> None:
    exports = pools(module).exports
    found = Convention.of(exports)
    assert str(found) == convention and found == Convention.named(convention).found(exports)
    assert found.found(exports) == found, "names stand for themselves"
    assert all(name in exports for name in (found.alloc, found.free))
    name = next(name for name, type_ in exports.items() if isinstance(type_, FuncType))
    assert BytesFunction(name).following(exports).convention == found


def test_numbered_glue_is_told_by_its_signatures(pools: Pools) -> None:
    found = Convention.of(pools("bindgen_values").exports)
    assert (found.alloc, found.free) == ("__wbindgen_export", "__wbindgen_export3")
    assert found.errors == ("__wbindgen_externrefs", "__externref_table_dealloc")


def test_what_is_unclear_is_said() -> None:
    two = """(module (memory (export "memory") 1)
      (func (export "f") (param i32 i32) (result i32) (local.get 1))
      (func (export "__wbindgen_export_0") (param i32 i32) (result i32) (i32.const 8))
      (func (export "__wbindgen_export_1") (param i32 i32 i32))
      (func (export "__wbindgen_export_2") (param i32 i32 i32)))"""
    with ProcessWasmPool(two, workers=1) as pool:
        with pytest.raises(
            UnknownExport, match="'__wbindgen_export_1', '__wbindgen_export_2' could be its function to free"
        ):
            pool.call_bytes("f", b"abc")
        assert pool.call_bytes("f", b"abc", free="__wbindgen_export_2") == 3
    nothing = '(module (memory (export "memory") 1) (func (export "f") (param i32 i32)))'
    with ProcessWasmPool(nothing, workers=1) as pool:
        expected = (
            r"no function 'alloc' or 'malloc' to allocate with, by the convention 'c'; it exports 'f'.*\(alloc=\.\.\.\)"
        )
        for call in (pool.call_bytes, pool.submit_bytes):
            with pytest.raises(UnknownExport, match=expected):
                call("f", b"abc")
        with pytest.raises(UnknownExport, match=expected):
            pool.map(BytesFunction("f"), [b"abc"])
        with pytest.raises(UnknownExport, match=r"'__wbindgen_malloc' or .*; it exports 'f'"):
            pool.call_bytes("f", b"abc", convention="wasm-bindgen")
        with pytest.raises(UnknownExport, match="no function 'g'"):
            pool.submit(BytesFunction("g"), b"abc")
        with pytest.raises(ValueError, match=r"convention must be 'wasm-bindgen', 'assemblyscript', 'emscripten'.*'rust'"):
            pool.call_bytes("f", b"abc", convention="rust")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="result must be bytes, str, int or None; got <class 'float'>"):
            pool.call_bytes("f", b"abc", result=float)  # type: ignore[arg-type]


#: Exports that return bytes in no way, and an allocator that counts what has not been given back.
UNFIT = """(module (memory (export "memory") 1) (global $live (mut i32) (i32.const 0)) (global $wrong (mut i32) (i32.const 0))
  (func (export "alloc") (param i32) (result i32)
    (global.set $live (i32.add (global.get $live) (i32.const 1)))
    (select (i32.const -16) (i32.const 16) (i32.and (i32.ne (local.get 0) (i32.const 1)) (global.get $wrong))))
  (func (export "free") (param i32) (global.set $live (i32.sub (global.get $live) (i32.const 1))))
  (func (export "live") (result i32) (global.get $live))
  (func (export "go_wrong") (global.set $wrong (i32.const 1)))
  (func (export "nothing") (unreachable))
  (func (export "number") (param i32 i32) (result i32) (unreachable))
  (func (export "float") (param f64) (result f64) (unreachable))
  (func (export "long") (param f64) (result i64 i64) (unreachable))
  (func (export "two") (param f64) (result i32 i32) (i32.const 0) (i32.const 70000)))"""


@pytest.mark.parametrize(
    "export, returns, message",
    [
        (
            "nothing",
            "packed",
            r"nothing\(\) -> \(\) does not .* returns='packed' takes one i64; without returns= and result=",
        ),
        ("number", "pair", r"-> \(i32\) .* takes two i32; returns='pointer' or 'string' or a number of bytes would fit"),
        ("float", "packed", r"-> \(f64\) .* one i64"),
        ("float", "string", r"-> \(f64\) .* takes one i32"),
        ("float", "pointer", r"\(f64\) -> .* takes an i32 as the first parameter"),
        ("long", "pair", r"-> \(i64, i64\) .* two i32"),
        ("two", "packed", r"returns='pair' would fit"),
    ],
)
def test_returns_that_contradicts_the_type_is_said_before_anything_runs(export: str, returns: Any, message: str) -> None:
    with ProcessWasmPool(UNFIT, workers=1) as pool:
        for call in (pool.call_bytes, pool.submit_bytes):
            with pytest.raises(ValueError, match=message):
                call(export, returns=returns)
        with pytest.raises(ValueError, match=message):
            pool.map(BytesFunction(export, returns=returns), [b""])
        with pool.instance() as lease, pytest.raises(ValueError, match=message):
            lease.call_bytes(export, returns=returns)
        assert pool.stats().workers[0].calls == 0


def test_a_type_that_contradicts_the_convention_is_said() -> None:
    expected = pytest.raises(ValueError, match="the convention 'assemblyscript' has a result in one i32")
    with ProcessWasmPool(ASSEMBLY_LIKE, workers=1) as pool, expected:
        pool.call_bytes("float", result=str)


ASSEMBLY_LIKE = """(module (memory (export "memory") 1) (func (export "float") (result f64) (unreachable))
  (func (export "__new") (param i32 i32) (result i32) (i32.const 16)) (func (export "__pin") (param i32) (result i32)
  (local.get 0)) (func (export "__unpin") (param i32)))"""


def test_whatever_goes_wrong_beside_the_guest_its_blocks_are_given_back() -> None:
    with ProcessWasmPool(UNFIT, workers=1) as pool, pool.instance() as lease:
        lease.call("go_wrong")
        with pytest.raises(ValueError, match="alloc returned 4294967280 for 3 bytes, beyond its memory"):
            lease.call_bytes("number", b"abc")
        with pytest.raises(ValueError, match="beyond its memory"):
            lease.call_bytes("two", 1.0, returns="pair")
        assert lease.call("live") == 0


BYTES_WITH_FAULTS = (
    (FIXTURES / "bytes.wat").read_text().rstrip().removesuffix(")")
    + """
  (func (export "trap") (param i32 i32) unreachable) (func (export "for_ever") (param i32 i32) (loop (br 0))))"""
)


@pytest.mark.parametrize("size", [3, 200_000])
def test_threads_that_share_a_lease_do_not_mix_their_calls(size: int, nothing_left: None) -> None:
    """An allocator that has one block only."""
    single = """(module (memory (export "memory") 8)
      (func (export "alloc") (param i32) (result i32) (i32.const 16)) (func (export "free") (param i32))
      (func (export "same") (param i32 i32) (result i32 i32) (local.get 0) (local.get 1)))"""
    with ProcessWasmPool(single, workers=1) as pool, pool.instance() as lease:

        def work(digit: int) -> int:
            data = bytes([digit]) * size
            return sum(lease.call_bytes("same", data, returns="pair") == data for _ in range(150))

        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(work, [1, 2])) == [150, 150]


def test_a_call_of_a_lease_with_bytes_is_one_call_and_ends_as_one() -> None:
    with ProcessWasmPool(BYTES_WITH_FAULTS, workers=1) as pool:
        with pool.instance() as lease:
            for _ in range(5):
                assert lease.call_bytes("packed", b"a", returns="packed", alloc="malloc", free="release") == b"b"
            assert pool.stats().workers[0].calls == 5
            with pytest.raises(WasmTrap) as caught:
                lease.call_bytes("trap", b"a", alloc="malloc", free="release")
            assert caught.value.export == "trap"
            with pytest.raises(LeaseEnded, match="the lease ended when 'trap' failed"):
                lease.call("top")
        with pool.instance() as lease:
            with pytest.raises(CallTimeout, match="for_ever got no result within"):
                lease.call_bytes("for_ever", b"a", timeout=0.2, alloc="malloc", free="release")
            with pytest.raises(LeaseEnded, match="ran out of time"):
                lease.call("top")
        with pool.instance() as lease:
            with pytest.raises(ValueError, match="allocated for sum could not be given back"):
                lease.call_bytes("sum", b"a", 1, alloc="malloc", free="trap")
            with pytest.raises(LeaseEnded, match="'sum' failed"):
                lease.call("top")
        assert pool.call("top") == 1024


def test_what_a_host_function_raises_ends_the_lease() -> None:
    def fails() -> None:
        raise ValueError("from the host")

    module = """(module (import "host" "fails" (func $fails)) (memory (export "memory") 1)
      (func (export "alloc") (param i32) (result i32) (i32.const 16)) (func (export "free") (param i32))
      (func (export "call") (param i32 i32) (call $fails)))"""
    with ProcessWasmPool(module, workers=1, imports={"host": {"fails": fails}}) as pool, pool.instance() as lease:
        with pytest.raises(ValueError, match="from the host"):
            lease.call_bytes("call", b"a")
        with pytest.raises(LeaseEnded, match="the lease ended when 'call' failed"):
            lease.call_bytes("call", b"a")


# -- what goes in and comes out ----------------------------------------------------------------------------------------

#: module, export, arguments, keywords, result
CASES: list[tuple[str, str, tuple[Any, ...], dict[str, Any], Any]] = [
    ("bindgen", "shout", ("größe",), {"result": str}, "GRößE"),
    ("bindgen", "shout", (b"abc",), {"result": bytes}, b"ABC"),
    ("bindgen", "shout", (bytearray(b"abc"),), {"returns": "pointer"}, b"ABC"),
    ("bindgen", "shout", ("",), {"result": str}, ""),
    ("bindgen", "letters", ("abc",), {"result": str}, "ABC"),
    ("bindgen", "words", ("one two three",), {"result": int}, -3),
    ("bindgen", "joined", (2, b"\1\2", 2.5, b"\4"), {"result": bytes}, b"\2\5\12" * 2),
    ("bindgen", "joined", (2, b"\1\2", 2.5, None), {"result": bytes}, None),
    ("bindgen", "joined", (0, b"", 1, b""), {"result": bytes}, b""),
    ("bindgen", "total", (b"\1\2\3", 10), {}, 16),
    ("bindgen", "total", (np.arange(4, dtype=np.uint8), np.int32(10)), {}, 16),
    ("bindgen", "total", (b"", 10), {"result": int}, 10),
    ("bindgen_values", "same", ("größe",), {"result": str}, "größe"),
    ("bindgen_values", "checked", ("größe",), {"result": str}, "größe"),
    ("bindgen_values", "length", (b"12345",), {"result": int}, 5),
    ("assembly", "shout", ("größe 🎉", 2), {"result": str}, "GRÖSSE 🎉!!"),
    ("assembly", "shout", ("\ud83c", 1), {"result": str}, "\ud83c!"),
    ("assembly", "joined", ("a", 3, "b"), {"result": str}, "ababab"),
    ("assembly", "joined", ("", 3, ""), {"result": str}, ""),
    ("assembly", "plus_one", (b"\0\xff",), {"result": bytes}, b"\1\0"),
    ("assembly", "plus_one", (b"",), {"result": bytes}, b""),
    ("assembly", "total", (b"\1\2\3", 10), {"convention": BUFFER}, 16),
    ("assembly", "zeros", (3,), {"result": bytes}, bytes(3)),
    ("assembly", "nothing", (), {"result": str}, None),
    ("emscripten", "shout", ("größe", 2), {"result": str}, "GRößE!!"),
    ("emscripten", "shout", ("", 0), {"result": bytes}, b""),
    ("emscripten", "shout", (None, 0), {"result": str}, None),
    ("emscripten", "total", (b"\1\2\3", 10), {}, 16),
    ("emscripten", "reversed", ("\1", b"\2\4\6"), {"returns": 3}, b"\7\5\3"),
    ("tinygo", "greet", ("Gopher",), {"result": str}, "hello, Gopher"),
    ("tinygo", "greet", (b"Gopher",), {"returns": "packed"}, b"hello, Gopher"),
]


@pytest.mark.parametrize(("module", "export", "args", "how", "result"), CASES)
def test_every_way_to_call(
    module: str, export: str, args: tuple[Any, ...], how: dict[str, Any], result: Any, pools: Pools
) -> None:
    pool, function = pools(module), BytesFunction(export, **how)
    assert pool.call_bytes(export, *args, **how) == result
    assert pool.submit_bytes(export, *args, **how).result(DEADLINE) == result
    assert asyncio.run(pool.acall_bytes(export, *args, **how)) == result
    assert pool.submit(function, *args).result(DEADLINE) == result
    assert list(pool.map(lambda instance, _: function(instance, *args), [1])) == [result]
    if args:
        assert list(pool.map(function, *([arg] for arg in args))) == [result]
    with pool.instance(timeout=DEADLINE) as lease:
        assert lease.call_bytes(export, *args, **how) == result
    if "live" in pool.exports:
        assert pool.call("live") == 0
    if "intact" in pool.exports:
        assert pool.call("intact") == 1


@pytest.mark.parametrize(
    ("module", "export", "args", "how", "result"),
    [CASES[n] for n in (0, 4, 5, 6, 7, 9, 12, 13, 14, 15, 17, 19, 21, 24, 27, 28, 29)],
)
def test_nothing_leaks_and_nothing_is_freed_twice(
    module: str, export: str, args: tuple[Any, ...], how: dict[str, Any], result: Any, pools: Pools
) -> None:
    function = BytesFunction(export, **how)

    def often(instance: Instance) -> tuple[int, int]:
        assert function(instance, *args) == result
        before = len(instance.memory)
        for _ in range(MANY):
            assert function(instance, *args) == result
        return before, len(instance.memory)

    pool = pools(module)
    before, after = pool.submit(often).result(DEADLINE)
    assert after <= before
    if "live" in pool.exports:
        assert pool.call("live") == 0


def test_large_values_make_room_once(pools: Pools) -> None:
    data = bytes(range(256)) * 4096  # 1 MiB
    sizes = set()
    for _ in range(30):
        assert pools("assembly").call_bytes("plus_one", data, result=bytes) == data[1:] + data[:1]
        sizes.add(pools("assembly").submit(lambda instance: len(instance.memory)).result(DEADLINE))
        assert pools("bindgen").call_bytes("shout", data, result=bytes) == data.upper()
    assert max(sizes) <= 32 << 20
    assert pools("bindgen").call("live") == 0


def test_errors_of_a_result_are_raised_and_cost_no_instance(pools: Pools) -> None:
    def mark(instance: Instance) -> None:
        instance.memory[8] = 77

    for module, export, bad, result, value in (
        ("bindgen", "letters", "a1", str, 7),
        ("bindgen", "words", "a1", int, 8),
        ("bindgen_values", "checked", "!bad", str, "!bad"),
        ("bindgen_values", "length", "!worse", int, "!worse"),
    ):
        pool = pools(module)
        pool.submit(mark).result(DEADLINE)
        for _ in range(20):
            with pytest.raises(GuestError, match=f"{export} returned an error: .*{value}") as raised:
                pool.call_bytes(export, bad, result=result)
            assert (raised.value.export, raised.value.value) == (export, value)
        with pool.instance(timeout=DEADLINE) as lease:
            with pytest.raises(GuestError, match=str(value)):
                lease.call_bytes(export, bad, result=result)
            assert lease.call("live") == 0, "and the lease goes on"
        assert pool.submit(lambda instance: instance.memory[8]).result(DEADLINE) == 77


def test_mistakes_are_told_before_anything_is_allocated(pools: Pools) -> None:
    mistakes: list[tuple[str, str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        ("bindgen", "total", (b"abc",), {}, BadArguments, "takes 3 values, and the 1 arguments given are 2"),
        ("bindgen", "shout", (b"abc",), {}, BadArguments, "may be a block for the result: say result="),
        ("bindgen", "total", (b"abc", 2**32), {}, ArgumentOutOfRange, "total: argument 1 is 4294967296"),
        ("bindgen", "total", (b"abc", "x"), {}, BadArguments, "takes 3 values, and the 2 arguments given are 4"),
        (
            "bindgen",
            "shout",
            ("ab\ud800",),
            {"result": str},
            BadArguments,
            r"shout: argument 0 is 'ab\\ud800'.*, whose character 2 is half of one, .*utf-8.* give bytes",
        ),
        ("emscripten", "shout", ("a\0b", 1), {}, ValueError, "has a NUL"),
        ("emscripten", "total", (b"abc",), {}, BadArguments, "text is one, and bytes are two"),
        ("assembly", "shout", ("a",), {}, BadArguments, "takes 2 values, and the 1 arguments given are 1"),
        ("assembly", "shout", ("a", 1), {"result": bytes}, ValueError, "returned a string; result=str would fit"),
        ("assembly", "zeros", (1,), {"result": str}, ValueError, "returned an object of class 1; result=bytes would fit"),
        ("assembly", "numbers", (), {"result": bytes}, ValueError, "no string, buffer or view"),
        ("assembly", "shout", ("a", 1), {"returns": "packed"}, ValueError, "leave out returns="),
        (
            "sha256",
            "sha256",
            (b"abc",),
            {"result": bytes},
            ValueError,
            "leaves open how sha256.* returns bytes; say returns=",
        ),
        ("tinygo", "greet", (b"\xff",), {"result": str}, ValueError, "which is no text: .*result=bytes gives it"),
    ]
    for module, export, args, how, kind, match in mistakes:
        pool = pools(module)
        with pytest.raises(kind, match=match):
            pool.call_bytes(export, *args, **how)
        with pool.instance(timeout=DEADLINE) as lease:
            with pytest.raises(kind, match=match):
                lease.call_bytes(export, *args, **how)
            if "live" in pool.exports:
                assert lease.call("live") == 0


def test_without_room_nothing_stays_allocated() -> None:
    pool = ProcessWasmPool(FIXTURES / "bindgen.wasm", workers=1, memory_limit=2 << 20)
    with pool, pool.instance(timeout=DEADLINE) as lease:
        with pytest.raises(MemoryError, match=r"__wbindgen_malloc\(5000000\) returned 0"):
            lease.call_bytes("joined", 1, b"abc", 1, bytes(5_000_000), result=bytes)
        assert lease.call("live") == 0 and lease.call("intact") == 1
        assert lease.call_bytes("joined", 1, b"abc", 1, b"d", result=bytes) == b"abcd"


def test_a_wrong_convention_is_told_from_a_wrong_call(pools: Pools) -> None:
    """wasm-bindgen's callee owns its arguments: who frees them as well is told what failed, and why that may be."""
    with pytest.raises(
        ValueError, match=r"allocated for total could not be given back(?s:.*)Is 'c' the convention it follows"
    ):
        pools("bindgen").call_bytes(
            "total", b"abc", 1, convention="c", alloc="__wbindgen_malloc", free="__wbindgen_free", align=1
        )
    with pytest.raises(WasmTrap):
        pools("bindgen").call("__wbindgen_free", 4096, 3, 1)
    assert pools("bindgen").call_bytes("total", b"abc", 1) == 1 + sum(b"abc")


def test_emscriptens_stack_where_there_is_no_malloc() -> None:
    source = """(module (memory (export "memory") 1) (global $sp (mut i32) (i32.const 65536))
      (func (export "stackSave") (result i32) (global.get $sp))
      (func (export "stackRestore") (param i32) (global.set $sp (local.get 0)))
      (func (export "stackAlloc") (param i32) (result i32)
        (global.set $sp (i32.and (i32.sub (global.get $sp) (local.get 0)) (i32.const -16))) (global.get $sp))
      (func (export "second") (param i32 i32) (result i32) (i32.load8_u offset=1 (local.get 0)))
      (func (export "both") (param i32 i32 i32 i32)))"""
    with ProcessWasmPool(source, workers=1) as pool:
        assert Convention.of(pool.exports).alloc == "stackAlloc"
        assert pool.call_bytes("second", b"abc") == ord("b")
        assert pool.call("stackSave") == 65536
        with pytest.raises(MemoryError, match="60000 bytes may not fit on the guest's stack"):
            pool.call_bytes("second", bytes(60_000))
        with pytest.raises(MemoryError, match="20000 bytes may not fit"):
            pool.call_bytes("both", bytes(10_000), bytes(10_000))
        assert pool.call("stackSave") == 65536


@pytest.mark.parametrize("runtime", ["incremental", "minimal"])
def test_assemblyscript_as_its_compiler_makes_it(runtime: str, tmp_path: Path) -> None:
    if shutil.which(ASC[0]) is None:
        pytest.skip("npm is not installed, which fetches AssemblyScript's compiler")
    try:
        module = build_assembly(tmp_path, runtime)
    except subprocess.CalledProcessError:
        pytest.skip("npm does not deliver AssemblyScript's compiler")
    if runtime == "incremental":
        assert module.read_bytes() == (FIXTURES / "assembly.wasm").read_bytes()
    function = BytesFunction("plus_one", result=bytes)

    def often(instance: Instance) -> int:
        assert all(function(instance, bytes(10_000)) == b"\1" * 10_000 for _ in range(1000))
        return len(instance.memory)

    with ProcessWasmPool(module, workers=1) as pool:
        assert pool.submit(often).result(DEADLINE) <= 4 << 16


#: Returns the very block that it was given, and an allocator that counts what has not been given back.
IN_PLACE = """(module (memory (export "memory") 1) (global $live (mut i32) (i32.const 0))
  (func (export "alloc") (param i32) (result i32) (global.set $live (i32.add (global.get $live) (i32.const 1))) (i32.const 64))
  (func (export "free") (param i32) (global.set $live (i32.sub (global.get $live) (i32.const 1))))
  (func (export "live") (result i32) (global.get $live))
  (func (export "same") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))))"""


def test_a_block_that_is_argument_and_result_is_freed_once() -> None:
    with ProcessWasmPool(IN_PLACE, workers=1) as pool:
        assert pool.call_bytes("same", b"abc", returns="packed") == b"abc"
        assert pool.call("live") == 0


def test_arrays_of_any_layout_go_in_as_their_items_and_those_of_objects_not_at_all() -> None:
    numpy = pytest.importorskip("numpy")
    items = numpy.arange(6, dtype="i2").reshape(2, 3)
    with ProcessWasmPool(IN_PLACE, workers=1) as pool:
        for array in (items, numpy.asfortranarray(items), items[:, ::2], items[:0], items.T):
            assert pool.call_bytes("same", array, returns="packed") == array.tobytes()
        with pytest.raises(BadArguments, match="same: an array of Python objects has no bytes to give"):
            pool.call_bytes("same", numpy.array([object()]), returns="packed")


def test_a_trap_in_what_allocates_or_frees_says_which_it_was(nothing_left: None) -> None:
    module = """(module (memory (export "memory") 1)
      (func (export "malloc") (param $n i32) (result i32)
        (if (i32.gt_u (local.get $n) (i32.const 5)) (then unreachable)) (i32.const 64))
      (func (export "free") (param i32) (if (i32.eq (i32.load8_u (i32.const 64)) (i32.const 120)) (then unreachable)))
      (func (export "len") (param i32 i32) (result i32) (local.get 1)))"""

    def beside(instance: Any) -> tuple[Any, ...]:
        try:
            BytesFunction("len")(instance, b"123456")
        except WasmTrap as trap:
            return trap.export, trap.message, trap.code
        return ()

    with ProcessWasmPool(module, workers=1) as pool:
        assert pool.call_bytes("len", b"abc") == 3
        with pytest.raises(WasmTrap, match=r"^len: malloc\(6\): wasm `unreachable`") as caught:
            pool.call_bytes("len", b"123456")
        assert caught.value.code == "UNREACHABLE"
        said = "malloc(6): wasm `unreachable` instruction executed"
        assert pool.submit(beside).result(DEADLINE) == ("len", said, "UNREACHABLE")
        with pytest.raises(ValueError, match="what was allocated for len could not be given back"):
            pool.call_bytes("len", b"x")
        assert pool.call_bytes("len", b"abc") == 3


def test_an_unknown_keyword_of_a_call_with_bytes_is_told_with_those_that_there_are(pools: Pools) -> None:
    pool = pools("sha256")
    with pool.instance() as lease:
        for call in (pool.call_bytes, pool.submit_bytes, lease.call_bytes):
            with pytest.raises(
                TypeError, match=r"a call with bytes has no keyword 'retruns'; it has returns, alloc, .*timeout"
            ):
                call("sha256", b"x", retruns=3)


@pytest.mark.parametrize(
    ("encoding", "text", "told"),
    [
        ("latin-1", "5 €", "is '5 €' .*, whose character 2 cannot be had in latin-1; replace it"),
        ("ascii", "caf\xe9", "whose character 3 cannot be had in ascii; replace it"),
        ("latin-1", "5 \ud800", "whose character 2 is half of one, and cannot be had in latin-1; replace it"),
        ("UTF8", "5 \ud800", "whose character 2 is half of one, and cannot be had in UTF8; replace it"),
    ],
)
def test_a_character_that_an_encoding_has_not_is_told(encoding: str, text: str, told: str, pools: Pools) -> None:
    convention = replace(Convention.named("wasm-bindgen").found(pools("bindgen").exports), encoding=encoding)
    with pytest.raises(BadArguments, match=told):
        pools("bindgen").call_bytes("total", text, convention=convention)


@pytest.mark.parametrize("encoding", ["latin1x", "hex", "utf-8\0", None])
def test_an_encoding_that_python_does_not_know_for_text_is_refused(encoding: Any) -> None:
    with pytest.raises(ValueError, match=r"encoding must be one that Python knows for text, .*; got"):
        replace(Convention.named("c"), encoding=encoding)
