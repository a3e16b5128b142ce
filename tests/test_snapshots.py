"""Jobs that begin from a snapshot: on every path, after whatever the job before has done."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest
from conftest import DEADLINE, KERNELS, busy_pid, eventually, worker_pids
from warmed import COUNTER, FIRST

from procpool import (
    BadArguments,
    BadSnapshot,
    CallTimeout,
    GuestError,
    InvalidModule,
    ProcessWasmPool,
    StartupError,
    UnknownExport,
    WasiConfig,
    WasmTrap,
    WorkerCrashed,
)
from procpool.raw import RAW
from procpool.supervisor.spinning import Spinning

pytestmark = pytest.mark.skipif(not RAW, reason="snapshots need wasmtime-py's private names")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import what tests need


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessWasmPool]:
    with ProcessWasmPool(COUNTER, 1, isolation="snapshot", warm="boot", wasi=WasiConfig(), kill_grace=1.0) as made:
        yield made
        made.terminate()  # what a failed test left running would never end


def count_twice(instance: Any, _: object = None) -> tuple[int, int]:
    return instance.call("count"), instance.call("count")


def harm_call(pool: ProcessWasmPool) -> None:
    for _ in range(40):  # by the pipe, by Python, and by wasm
        assert pool.call("count") == FIRST


def harm_trap(pool: ProcessWasmPool) -> None:
    for _ in range(20):
        with pytest.raises(WasmTrap, match="unreachable"):
            pool.call("trap")


def harm_grow(pool: ProcessWasmPool) -> None:
    assert [pool.call("grow") for _ in range(30)] == [2] * 30


def harm_grow_table(pool: ProcessWasmPool) -> None:
    assert [pool.call("grow_table") for _ in range(30)] == [64] * 30


def harm_timeout(pool: ProcessWasmPool) -> None:
    with pytest.raises(CallTimeout):
        pool.call("spin", timeout=0.05)
    with pytest.raises(CallTimeout):
        pool.submit("spin", timeout=0.05).result(DEADLINE)


def harm_kill(pool: ProcessWasmPool) -> None:
    future = pool.submit("spin")
    os.kill(busy_pid(pool), signal.SIGKILL)
    with pytest.raises(WorkerCrashed):
        future.result(DEADLINE)


def harm_submit(pool: ProcessWasmPool) -> None:
    futures = [pool.submit("count") for _ in range(50)]
    assert {future.result(DEADLINE) for future in futures} == {FIRST}


def harm_map(pool: ProcessWasmPool) -> None:
    assert set(pool.map("counted", range(100))) == {FIRST}
    assert set(pool.map_array("counted", np.arange(50, dtype=np.int32)).tolist()) == {FIRST}


def harm_callable(pool: ProcessWasmPool) -> None:
    twice = FIRST, FIRST + 1_001_001
    assert pool.submit(count_twice).result(DEADLINE) == twice
    assert list(pool.map(count_twice, range(3))) == [twice] * 3

    def raises(instance: Any) -> None:
        instance.memory[70000:70004] = b"\7\0\0\0"
        raise KeyError("mine")

    with pytest.raises(KeyError):
        pool.submit(raises).result(DEADLINE)


def harm_lease(pool: ProcessWasmPool) -> None:
    with pool.instance() as lease:
        assert lease.call("count") == FIRST
        assert lease.call("count") == FIRST + 1_001_001
        lease.memory[70000:70004] = b"\7\0\0\0"


def harm_run(pool: ProcessWasmPool) -> None:
    def where(instance: Any) -> int:
        return int(instance.call("where"))

    assert pool.run([]).returncode == 0
    assert pool.submit(where).result(DEADLINE) == 0


HARMS = [each for name, each in list(globals().items()) if name.startswith("harm_")]


@pytest.mark.parametrize("harm", HARMS)
def test_every_job_begins_from_the_snapshot(harm: Callable[[ProcessWasmPool], None], pool: ProcessWasmPool) -> None:
    harm(pool)
    assert pool.call("count") == FIRST
    assert pool.submit(count_twice).result(DEADLINE)[0] == FIRST
    assert list(pool.map("counted", range(3))) == [FIRST] * 3
    with pool.instance() as lease:
        assert lease.call("count") == FIRST


def test_a_call_that_wasm_made_and_python_answers(monkeypatch: pytest.MonkeyPatch, nothing_left: None) -> None:
    """Its caller waits awake when it begins, and has gone to sleep when it ends."""
    monkeypatch.setattr(Spinning, "toll_ns", property(lambda self: 1e6))
    monkeypatch.setattr(Spinning, "begin", lambda self, *how, **more: True)
    with ProcessWasmPool(COUNTER, 1, isolation="snapshot", warm="boot") as pool:
        for _ in range(60):
            assert pool.call("count") == FIRST
            assert pool.call("slowly") == FIRST


@pytest.mark.parametrize("how", [{"start_method": "spawn", "fuel": 100_000}, {"instances": 2, "workers": 2}])
def test_whatever_the_pool_is_like(how: dict[str, Any], nothing_left: None) -> None:
    with ProcessWasmPool(COUNTER, isolation="snapshot", warm=["boot"], **{"workers": 1, **how}) as pool:
        for _ in range(3):
            assert {future.result(DEADLINE) for future in [pool.submit("count") for _ in range(20)]} == {FIRST}
            assert [pool.call("count") for _ in range(30)] == [FIRST] * 30
            assert set(pool.map("counted", range(20))) == {FIRST}
            with pytest.raises(WasmTrap):
                pool.call("trap")


@pytest.mark.parametrize("isolation", ["pooled", "fresh"])
def test_new_instances_begin_from_it_under_other_isolations_too(isolation: Any, nothing_left: None) -> None:
    with ProcessWasmPool(COUNTER, 1, isolation=isolation, warm="boot") as pool:
        next_ = FIRST if isolation == "fresh" else FIRST + 1_001_001
        for _ in range(3):
            assert pool.call("count") == FIRST
            assert pool.call("count") == next_
            with pytest.raises(WasmTrap):
                pool.call("trap")
        os.kill(worker_pids(pool)[0], signal.SIGKILL)
        eventually(lambda: len(worker_pids(pool)) == 1, "the worker to be replaced")
        assert pool.submit("count").result(DEADLINE) == FIRST


def test_without_addresses_for_it_each_job_has_a_new_instance(nothing_left: None) -> None:
    """Each memory reserves some GiB, and putting one back takes two more."""
    with ProcessWasmPool(COUNTER, 1, isolation="snapshot", warm="boot", rlimits={"AS": 11 << 30}) as pool:
        assert [pool.call("count") for _ in range(40)] == [FIRST] * 40
        assert list(pool.map("counted", range(20))) == [FIRST] * 20


@pytest.mark.parametrize("isolation", ["fresh", "snapshot"])
def test_an_error_that_the_guest_returned_leaves_nothing_to_the_next_job(isolation: Any, nothing_left: None) -> None:
    def returns_error(instance: Any) -> None:
        instance.call("count")
        raise GuestError("count", "no")  # as call_bytes does

    with ProcessWasmPool(COUNTER, 1, isolation=isolation) as pool:
        for _ in range(3):
            with pytest.raises(GuestError):
                pool.submit(returns_error).result(DEADLINE)
            assert pool.call("count") == 1_001_001


@pytest.mark.fast
def test_without_warming_it_is_the_state_after_the_start(nothing_left: None) -> None:
    with ProcessWasmPool(COUNTER, 1, isolation="snapshot") as pool:
        assert [pool.call("count") for _ in range(3)] == [1_001_001] * 3
    with ProcessWasmPool(COUNTER, 1, isolation="snapshot", start=["count", "count"]) as pool:
        assert [pool.call("count") for _ in range(3)] == [3_003_003] * 3


def test_the_steps_are_done_once_and_in_order(nothing_left: None, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def note(what: int) -> None:
        with log.open("a") as file:
            file.write(f"{what} ")

    def beside(instance: Any) -> None:
        instance.call("note", 3)

    module = """(module (import "env" "note" (func $note (param i32)))
      (func (export "note") (param i32) (call $note (local.get 0)))
      (func $start (call $note (i32.const 0))) (start $start)
      (func (export "_initialize") (call $note (i32.const 1))))"""
    with ProcessWasmPool(
        module, 2, imports={"env": {"note": note}}, isolation="snapshot", warm=[("note", 2), beside]
    ) as pool:
        pool.wait_ready(DEADLINE)
        assert log.read_text() == "0 1 2 3 "
        pool.call("note", 4)
        assert log.read_text() == "0 1 2 3 4 "


def test_a_trap_says_where_it_was_in_the_module_as_given(pool: ProcessWasmPool, nothing_left: None) -> None:
    with ProcessWasmPool(COUNTER, 1) as plain, pytest.raises(WasmTrap) as expected:
        plain.call("trap")
    with pytest.raises(WasmTrap) as raised:
        pool.call("trap")
    assert raised.value.frames == expected.value.frames
    assert pool.exports.keys() == plain.exports.keys()


#: `count` tells of state in both modules: a memory of the library's, a table that both fill, globals of each and of both.
LIBRARY = """(module
  (memory (export "memory") 1 4) (global $n (export "n") (mut i32) (i32.const 1)) (table (export "table") 2 8 funcref)
  (func $first (result i32) (i32.const 1)) (elem declare func $first) (global $f (mut funcref) (ref.null func))
  (func $start (global.set $n (i32.mul (global.get $n) (i32.const 10)))) (start $start)
  (func (export "_initialize") (global.set $n (i32.add (global.get $n) (i32.const 5))))
  (func (export "fill") (global.set $f (ref.func $first)) (table.set (i32.const 0) (ref.func $first)))
  (func (export "next") (result i32)
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
    (i32.add (global.get $n) (i32.mul (i32.load (i32.const 8)) (i32.const 100)))))"""
USER = """(module
  (import "lib" "memory" (memory 1)) (import "lib" "n" (global $n (mut i32))) (import "lib" "table" (table 2 funcref))
  (import "lib" "next" (func $next (result i32))) (import "lib" "fill" (func $fill))
  (import "env" "shared" (global $shared (mut i32)))
  (global $calls (mut i32) (i32.const 0)) (func $second (result i32) (i32.const 2)) (elem declare func $second $next)
  (func (export "boot") (call $fill) (table.set (i32.const 1) (ref.func $second)) (global.set $shared (i32.const 3)))
  (func (export "count") (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (global.set $shared (i32.add (global.get $shared) (i32.const 1)))
    (i32.add (call $next) (i32.mul (i32.const 10000) (i32.add (global.get $calls) (global.get $shared))))
    (i32.add (i32.mul (i32.const 1000000) (i32.add
      (call_indirect (result i32) (i32.const 0)) (i32.mul (i32.const 10) (call_indirect (result i32) (i32.const 1))))))
    (table.set (i32.const 0) (ref.func $next)) (table.set (i32.const 1) (ref.null func)))
  (func (export "grow") (result i32) (drop (call $next)) (memory.grow (i32.const 1)))
  (func (export "trap") (drop (call $next)) unreachable))"""
LINKED = 21_050_116  #: what it says in a job that begins from there


def test_linked_modules_are_put_back_together(tmp_path: Path, nothing_left: None) -> None:
    linked: dict[str, Any] = {"modules": {"lib": LIBRARY}, "imports": {"env": {"shared": 0}}}
    with ProcessWasmPool(USER, 1, warm="boot", isolation="snapshot", **linked) as pool:
        for harm in ("count", "grow", "trap", "lib.fill"):
            for _ in range(20):
                with contextlib.suppress(WasmTrap):
                    pool.call(harm)
                assert pool.call("count") == LINKED
            assert pool.call("lib.next") == 116
        pool.save_snapshot(tmp_path / "a")
    with ProcessWasmPool(USER, 1, start=["boot"], **linked) as plain:
        assert plain.call("count") == LINKED  # the start function and _initialize of the library were done once
    with ProcessWasmPool(tmp_path / "a", 1, isolation="snapshot", **linked) as pool:
        assert [pool.call("count") for _ in range(20)] == [LINKED] * 20
    with pytest.raises(BadSnapshot, match=r"saved with other modules linked \(lib\)"):
        ProcessWasmPool(tmp_path / "a", 1, **{**linked, "modules": {"lib": LIBRARY + " "}})


def test_a_large_module_made_by_a_compiler(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, 1, isolation="snapshot") as pool:
        for _ in range(20):
            assert pool.call("fib", 10) == 55
            assert pool.call("add", 40, 2) == 42


def test_wasi_begins_anew_too(tmp_path: Path, nothing_left: None) -> None:
    module = """(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "first") (result i32)
        (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 1))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.load8_u (i32.const 16)))
      (func (export "close") (param i32) (result i32) (call $close (local.get 0))))"""
    with ProcessWasmPool(module, 1, isolation="snapshot", wasi=WasiConfig(stdin=b"ab")) as pool:
        assert [pool.call("first") for _ in range(30)] == [ord("a")] * 30
        assert [pool.call("close", 1) for _ in range(30)] == [0] * 30
        with pool.instance() as lease:
            assert [lease.call("first") for _ in range(3)] == [ord("a"), ord("b"), ord("b")]
    with pytest.raises(BadSnapshot, match="has closed the descriptor 1"):
        ProcessWasmPool(module, 1, isolation="snapshot", wasi=WasiConfig(), warm=[("close", 1)])


def test_what_taking_it_takes_is_not_the_guests_fuel(nothing_left: None) -> None:
    module = """(module (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
      (memory (export "memory") 1) (data $d "xyz") (func (export "boot") (data.drop $d)) (func (export "job") (result i32) (i32.const 1)))"""
    with ProcessWasmPool(module, 1, isolation="snapshot", warm="boot", wasi=WasiConfig(), fuel=50) as pool:
        assert [pool.call("job") for _ in range(20)] == [1] * 20


OPENS = """(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "kept.txt")
  (func (export "instead_of_stdout") (drop (call $close (i32.const 1))) (drop (call $kept)))
  (func (export "as") (param i32) (drop (call $kept)) (drop (call $renumber (i32.load (i32.const 16)) (local.get 0))))
  (func $kept (export "open") (result i32) (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 0)
    (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 16))))"""


def test_a_file_left_open_is_refused_by_its_name(tmp_path: Path, nothing_left: None) -> None:
    (tmp_path / "kept.txt").write_text("here")
    config = WasiConfig(preopens={"/": tmp_path})
    for warm in ("open", "instead_of_stdout", ("as", 3)):
        with pytest.raises(BadSnapshot, match=r"left open .*kept\.txt"):
            ProcessWasmPool(OPENS, 1, wasi=config, warm=[warm])
    with ProcessWasmPool(OPENS, 1, wasi=config, isolation="snapshot") as pool:
        assert [pool.call("open") for _ in range(40)] == [0] * 40
        links = [
            os.readlink(f"/proc/{worker_pids(pool)[0]}/fd/{fd}") for fd in os.listdir(f"/proc/{worker_pids(pool)[0]}/fd")
        ]
        assert not [link for link in links if link.endswith("kept.txt")]


HELD = """(module (import "env" "thing" (func $thing (result externref)))
  (global $g (export "g") (mut externref) (ref.null extern)) (table $t 3 externref)
  (func (export "keep") (global.set $g (call $thing)))
  (func (export "lay") (table.set $t (i32.const 2) (call $thing))))"""


@pytest.mark.parametrize(
    ("module", "how", "said"),
    [
        (HELD, {"warm": "keep"}, "global 0 holds a reference to something outside of wasm"),
        (HELD, {"warm": "lay"}, "table 0 holds a reference to something outside of wasm .*at index 2"),
        ("(module (type $s (struct (field (mut i32)))) (global (ref $s) (struct.new $s (i32.const 1))))", {}, "structs"),
        ('(module (import "env" "memory" (memory 1 2 shared)))', {"on_missing_import": "zero"}, "threads"),
        ("(module (memory 1 2 shared))", {}, "memory 0 is shared"),
        ('(module (global (export "e") (mut exnref) (ref.null exn)))', {}, r"global 0 \(exported as 'e'\) holds a exnref"),
        ('(module (memory 1) (func (export "procpool, inner start")))', {}, "such names are procpool's own"),
        ("(module (table 1 anyref))", {}, "table 0 holds values of the type anyref"),
        (
            '(module (import "lib" "f" (func)))',
            {"modules": {"lib": '(module (func (export "f")) (table 1 anyref))'}},
            r"table 0 of 'lib' holds values of the type anyref",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_name(
    module: str, how: dict[str, Any], said: str, nothing_left: None
) -> None:
    imports = {"env": {"thing": object}} if module == HELD else {}
    with pytest.raises((BadSnapshot, InvalidModule), match=said):
        ProcessWasmPool(module, 1, isolation="snapshot", imports=imports, **how)


def test_what_goes_wrong_meanwhile_says_where(nothing_left: None) -> None:
    with pytest.raises(UnknownExport, match=r"warm\[0\] names 'none'"):
        ProcessWasmPool(COUNTER, 1, warm="none")
    with pytest.raises(BadArguments, match="counted"):
        ProcessWasmPool(COUNTER, 1, warm=[("counted", "x")])
    with pytest.raises(StartupError) as raised:
        ProcessWasmPool(COUNTER, 1, warm=["boot", "trap"])
    assert "warm[1], trap(): " in str(raised.value.__cause__)

    def fails(instance: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ProcessWasmPool(COUNTER, 1, warm=fails)
    with pytest.raises(StartupError, match="start_timeout"):
        ProcessWasmPool(COUNTER, 1, warm="spin", start_timeout=0.5)


def test_the_memory_limit_holds(nothing_left: None) -> None:
    limit = 3 * 65536
    with ProcessWasmPool(COUNTER, 1, isolation="snapshot", warm="grow", memory_limit=limit) as pool:
        assert [pool.call("grow") for _ in range(20)] == [-1] * 20
        assert pool.call("count") == 2_002_002
    with ProcessWasmPool(COUNTER, 1, isolation="snapshot", warm="boot", memory_limit=limit) as pool:
        assert [pool.call("grow") for _ in range(20)] == [2] * 20


@pytest.mark.parametrize("pages", [0, 2], ids=["a kernel that does not tell what was written", "few pages are kept"])
def test_where_pages_are_forgotten(pages: int, nothing_left: None) -> None:
    def set_up() -> None:
        from procpool.worker import snapshot, written

        if not pages:
            snapshot.open_pagemap = lambda: -1
        written.KEPT_PAGES = pages or 2

    module = """(module (memory (export "memory") 8)
      (func (export "dirty") (param $pages i32) (result i32) (local $seen i32)
        (loop $next
          (local.set $pages (i32.sub (local.get $pages) (i32.const 1)))
          (local.set $seen (i32.add (local.get $seen) (i32.load (i32.mul (local.get $pages) (i32.const 4096)))))
          (i32.store (i32.mul (local.get $pages) (i32.const 4096)) (i32.const 1))
          (br_if $next (local.get $pages)))
        (local.get $seen)))"""
    with ProcessWasmPool(module, 1, isolation="snapshot", initializer=set_up) as pool:
        for count in (1, 100, 2, 3, 100, 1) * 5:
            assert pool.call("dirty", count) == 0


def test_what_a_job_has_only_read_does_not_slow_the_others_down(nothing_left: None) -> None:
    """To look for pages that were written to is to walk over all that are mapped."""
    module = """(module (memory 1024)
      (func (export "read") (param $step i32) (result i32) (local $at i32) (local $sum i32)
        (loop $next
          (local.set $sum (i32.add (local.get $sum) (i32.load (local.get $at))))
          (local.set $at (i32.add (local.get $at) (local.get $step)))
          (br_if $next (i32.lt_u (local.get $at) (i32.const 67108864))))
        (local.get $sum))
      (func (export "fill") (memory.fill (i32.const 0) (i32.const 1) (i32.const 67108864)))
      (func (export "nothing")))"""
    with ProcessWasmPool(module, 1, isolation="snapshot", warm="fill") as pool:
        worker = psutil.Process(worker_pids(pool)[0])
        for _ in range(3):
            before = worker.memory_info().rss
            pool.call("read", 4096)
            for _ in range(5):
                pool.call("nothing")
            assert worker.memory_info().rss < before + (32 << 20)


# -- random modules ----------------------------------------------------------------------------------------------------


class RandomModule:
    """A module with state of every kind, and exports that change it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        pick = self.random
        self.memories = [pick.choice(["i32", "i32", "i64"]) for _ in range(pick.randint(1, 3))]
        self.globals = [pick.choice(["i32", "i64", "f32", "f64", "v128", "funcref"]) for _ in range(pick.randint(0, 6))]
        self.tables = [pick.choice(["funcref", "funcref", "externref"]) for _ in range(pick.randint(0, 3))]
        self.data = [pick.randint(0, 40) for _ in range(pick.randint(0, 3))]
        self.elements = [pick.randint(1, 4) for _ in range(pick.randint(0, 2))] if "funcref" in self.tables else []
        self.drops = pick.random() < 0.5  # most modules drop nothing, and can be put back in place

    def text(self) -> str:
        parts = [f"(func $f{n} (result i32) (i32.const {n}))" for n in range(4)]
        parts.append("(elem declare func $f0 $f1 $f2 $f3)")
        for n, index in enumerate(self.memories):
            parts.append(f'(memory $m{n} (export "m{n}") {"i64 " if index == "i64" else ""}{n + 1} 9)')
            parts.append(f'(data (memory $m{n}) ({index}.const 8) "begin")')
        for n, kind in enumerate(self.globals):
            parts.append(f"(global $g{n} (mut {kind}) {self.constant(kind)})")
        for n, kind in enumerate(self.tables):
            parts.append(f"(table $t{n} {n + 3} 20 {kind})")
        for n, size in enumerate(self.data):
            parts.append(f'(data $d{n} "{"d" * size}")')
        for n, size in enumerate(self.elements):
            parts.append(f"(elem $e{n} func {' '.join(f'$f{at % 4}' for at in range(size))})")
        steps = [self.step() for _ in range(12)]
        parts += [f'(func (export "step{n}") {each})' for n, each in enumerate(steps)]
        parts += [f'(func (export "look{n}") (result {kind}) {each})' for n, (kind, each) in enumerate(self.looks())]
        self.looked = len(list(self.looks()))
        kept = [
            f"(memory.init $m0 $d{n} ({self.memories[0]}.const 0) (i32.const {size}) (i32.const 0))"
            for n, size in enumerate(self.data)
        ]
        table = self.tables.index("funcref") if self.elements else 0
        kept += [
            f"(table.init $t{table} $e{n} (i32.const 0) (i32.const {size}) (i32.const 0))"
            for n, size in enumerate(self.elements)
        ]
        parts += [f'(func (export "kept{n}") {each})' for n, each in enumerate(kept)]
        self.kept = len(kept)
        return "(module " + "\n".join(parts) + ")"

    def constant(self, kind: str) -> str:
        pick = self.random
        if kind == "funcref":
            return pick.choice(["(ref.null func)", f"(ref.func $f{pick.randrange(4)})"])
        if kind == "v128":
            return f"(v128.const i64x2 {pick.getrandbits(64)} {pick.getrandbits(64)})"
        if kind in ("f32", "f64"):
            return f"({kind}.const {pick.choice(['nan:0x1234', 'inf', '-0', '1.5', '-nan'])})"
        return f"({kind}.const {pick.getrandbits(int(kind[1:]))})"

    def step(self) -> str:
        """Something that changes the state."""
        pick, can = self.random, []
        m = pick.randrange(len(self.memories))
        index = self.memories[m]
        at = f"({index}.const {pick.randrange(65536)})"
        can.append(f"(i64.store $m{m} {at} (i64.const {pick.getrandbits(64)}))")
        can.append(
            f"(memory.fill $m{m} ({index}.const {pick.randrange(40000)}) (i32.const 7) ({index}.const {pick.randrange(20000)}))"
        )
        can.append(f"(drop (memory.grow $m{m} ({index}.const {pick.randrange(2)})))")
        if self.globals:
            n = pick.randrange(len(self.globals))
            can += [f"(global.set $g{n} {self.constant(self.globals[n])})"] * 2
        if self.tables:
            n = pick.randrange(len(self.tables))
            value = self.constant("funcref") if self.tables[n] == "funcref" else "(ref.null extern)"
            can.append(f"(table.set $t{n} (i32.const {pick.randrange(3)}) {value})")
            can.append(f"(table.fill $t{n} (i32.const 0) {value} (i32.const {pick.randrange(3)}))")
            can.append(f"(drop (table.grow $t{n} {value} (i32.const {pick.randrange(3)})))")
        if self.drops:
            can += [f"(data.drop $d{n})" for n in range(len(self.data))]
            can += [f"(elem.drop $e{n})" for n in range(len(self.elements))]
        return " ".join(pick.sample(can, min(len(can), pick.randint(1, 4)))) + pick.choice(["", "", "", " unreachable"])

    def looks(self) -> Iterator[tuple[str, str]]:
        """What there is to see beside memories."""
        which = "(if (result i32) (ref.is_null {0}) (then (i32.const -1)) (else {1}))"
        for n, kind in enumerate(self.globals):
            if kind == "funcref":
                yield "i32", f"(ref.is_null (global.get $g{n}))"
            elif kind in ("f32", "f64"):  # as bits: Python would make another NaN of some
                yield f"i{kind[1:]}", f"(i{kind[1:]}.reinterpret_{kind} (global.get $g{n}))"
            else:
                yield kind, f"(global.get $g{n})"
        for n, kind in enumerate(self.tables):
            yield "i32", f"(table.size $t{n})"
            for at in range(n + 3):
                got = f"(table.get $t{n} (i32.const {at}))"
                call = f"(call_indirect $t{n} (result i32) (i32.const {at}))" if kind == "funcref" else "(i32.const 9)"
                yield "i32", which.format(got, call)


def digest(instance: Any, memories: int, looks: int, kept: int) -> str:
    """Of all that an instance holds; a segment that was dropped ends it in a trap, which is seen too."""
    seen = hashlib.sha256()
    for n in range(memories):
        content = bytes(instance.memory_named(f"m{n}"))
        seen.update(f"{len(content)} ".encode() + content)
    for n in range(looks):
        seen.update(repr(instance.call(f"look{n}")).encode())
    for n in range(kept):
        try:
            instance.call(f"kept{n}")
            seen.update(b"kept")
        except WasmTrap:
            seen.update(b"dropped")
    return seen.hexdigest()


SEEDS = range(int(os.environ.get("PROCPOOL_RANDOM_MODULES", "4")))


@pytest.mark.parametrize("seed", SEEDS)
def test_random_jobs_of_random_modules_leave_no_trace(seed: int, nothing_left: None) -> None:
    made = RandomModule(seed)
    text = made.text()
    pick = random.Random(seed)
    warm = [f"step{n}" for n in range(12) if "unreachable" not in text.split(f'"step{n}"')[1].split('(export "')[0]]
    steps = pick.sample(warm, min(3, len(warm)))
    look = len(made.memories), made.looked, made.kept
    with ProcessWasmPool(text, 1, warm=steps, isolation="snapshot") as pool:
        first = pool.submit(digest, *look).result(DEADLINE)
        # What a plain instance holds that has done the same.
        with ProcessWasmPool(text, 1, start=steps) as plain:
            assert plain.submit(digest, *look).result(DEADLINE) == first
        for _ in range(6):
            for _ in range(pick.randint(1, 25)):
                try:
                    pool.call(f"step{pick.randrange(12)}")
                except WasmTrap:
                    pass
            assert pool.submit(digest, *look).result(DEADLINE) == first, text


# -- what one job writes, no other reads -------------------------------------------------------------------------------

CANARY = """
(module (memory (export "memory") 16 64) (global $g (mut i64) (i64.const 0))
  (func (export "job") (param $canary i64) (param $at i32) (param $how i32) (result i32)
    (local $n i32) (local $found i32)
    (loop $next  ;; any 8 bytes that are not zero are somebody's
      (local.set $found (i32.or (local.get $found) (i64.ne (i64.load (local.get $n)) (i64.const 0))))
      (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 8))) (i32.const 1048576))))
    (local.set $found (i32.or (local.get $found) (i64.ne (global.get $g) (i64.const 0))))
    (i64.store (local.get $at) (local.get $canary))
    (global.set $g (local.get $canary))
    (if (i32.eq (local.get $how) (i32.const 1)) (then (unreachable)))
    (if (i32.eq (local.get $how) (i32.const 2)) (then (drop (memory.grow (i32.const 3)))))
    (if (i32.eq (local.get $how) (i32.const 3)) (then
      (memory.fill (local.get $at) (i32.const 255) (i32.sub (i32.const 1048576) (local.get $at)))))
    (if (i32.eq (local.get $how) (i32.const 4)) (then
      (drop (memory.grow (i32.const 3))) (i64.store (i32.const 1200000) (local.get $canary)) (unreachable)))
    (i32.add (local.get $found) (i32.mul (i32.const 2)
      (i64.ne (i64.load (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 8))) (i64.const 0))))))
"""


def test_no_job_reads_what_another_wrote(nothing_left: None) -> None:
    jobs = int(os.environ.get("PROCPOOL_CANARIES", "1500"))
    pick = random.Random(1)

    def job() -> tuple[int, int, int]:
        how = pick.choice([0] * 12 + [1, 2, 3, 4])
        return pick.getrandbits(63) | 1, 8 * pick.randrange(131000), how

    def found(result: object, how: int) -> object:
        return 0 if isinstance(result, WasmTrap) else result if how != 3 else int(str(result)) & 1

    with ProcessWasmPool(CANARY, 2, isolation="snapshot") as pool:
        for _ in range(jobs // 3):
            canary = job()
            try:
                assert found(pool.call("job", *canary), canary[2]) == 0
            except WasmTrap:
                assert canary[2] in (1, 4)
        canaries = [job() for _ in range(2 * (jobs // 3))]
        results = pool.map("job", *zip(*canaries), return_exceptions=True)
        assert {found(result, how) for result, (_, _, how) in zip(results, canaries)} == {0}
