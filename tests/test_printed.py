"""What a library prints: outside of `run` there is no result to hold it."""

from __future__ import annotations

import logging
import struct
import threading
from collections import Counter
from typing import Any, Literal

import pytest
import wasmtime
from conftest import DEADLINE, eventually

from procpool import CallTimeout, GuestExit, OutputLimit, ProcessWasmPool, WasiConfig, WasmTrap, wire
from procpool.binary import FuncType
from procpool.worker.driver import driver_text
from procpool.worker.holder import Function, InstanceHolder
from procpool.worker.instance import Instance

#: Prints a line with a digit to a stream; or part of one; or without end.
PRINTER = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "line 0\\n")
  (func $put (param $fd i32) (param $digit i32) (param $size i32)
    (i32.store8 (i32.const 21) (i32.add (i32.const 48) (local.get $digit)))
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_initialize") (call $put (i32.const 1) (i32.const 9) (i32.const 7)))
  (func (export "print") (param $digit i32) (result i32)
    (call $put (i32.const 1) (local.get $digit) (i32.const 7)) (local.get $digit))
  (func (export "print_or_flood") (param $digit i32) (result i32)
    (loop (call $put (i32.const 1) (local.get $digit) (i32.const 7)) (br_if 0 (i32.gt_s (local.get $digit) (i32.const 9))))
    (local.get $digit))
  (func (export "complain") (param $digit i32) (call $put (i32.const 2) (local.get $digit) (i32.const 7)))
  (func (export "begin") (param $digit i32) (call $put (i32.const 1) (local.get $digit) (i32.const 6)))
  (func (export "begin_and_spin") (param $digit i32)
    (call $put (i32.const 1) (local.get $digit) (i32.const 6)) (loop (br 0)))
  (func (export "begin_and_trap") (param $digit i32)
    (call $put (i32.const 1) (local.get $digit) (i32.const 6)) (unreachable))
  (func (export "print_much_or_work") (param $n i32) (result i32)
    (if (i32.and (local.get $n) (i32.const 1))
      (then (loop (br_if 0 (i32.lt_s (local.tee $n (i32.add (local.get $n) (i32.const 2))) (i32.const 20000000)))))
      (else (call $put (i32.const 1) (i32.const 0) (i32.const 60000))))
    (local.get $n))
  (func (export "print_or_work") (param $n i32) (result i32)
    (if (i32.and (local.get $n) (i32.const 1))
      (then (loop (br_if 0 (i32.lt_s (local.tee $n (i32.add (local.get $n) (i32.const 2))) (i32.const 5000000)))))
      (else (call $put (i32.const 1) (i32.const 0) (i32.const 7))))
    (local.get $n))
  (func (export "flood") (loop (call $put (i32.const 1) (i32.const 1) (i32.const 7)) (br 0)))
  (func (export "_start") (call $put (i32.const 1) (i32.const 8) (i32.const 7))))"""
BEGUN = "line 9"  #: what each new instance prints


def beside(instance: Instance) -> int:
    return int(instance.call("print", 5))


def test_lines_of_every_kind_of_job_reach_the_function(nothing_left: None) -> None:
    lines: list[str] = []
    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=lines.append)) as pool:
        assert pool.call("print", 1) == 1
        assert pool.submit("print", 2).result() == 2
        assert list(pool.map("print", [3, 4])) == [3, 4]
        assert pool.submit(beside).result() == 5
        with pool.instance() as lease:
            assert lease.call("print", 6) == 6
        pool.call("begin", 7)
    assert lines == [BEGUN, *(f"line {n}" for n in range(1, 8))]


def test_the_end_of_an_instance_ends_its_line(nothing_left: None) -> None:
    lines: list[str] = []
    with ProcessWasmPool(PRINTER, workers=1, isolation="fresh", wasi=WasiConfig(stdout=lines.append)) as pool:
        for digit in (1, 2):
            pool.call("begin", digit)
            pool.submit("begin", digit).result()
            pool.run(["a command, whose output is its own"], stdout=None)
        list(pool.starmap("begin", [(3,), (4,)], chunksize=2))
    assert lines == [line for n in (1, 1, 2, 2, 3, 4) for line in (BEGUN, f"line {n}")]


@pytest.mark.parametrize("failing", ["spin", "trap"])
def test_the_end_of_an_instance_that_failed_ends_its_line(failing: str) -> None:
    lines: list[str] = []
    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=lines.append)) as pool:
        with pytest.raises((CallTimeout, WasmTrap)):
            pool.call(f"begin_and_{failing}", 1, timeout=0.5 if failing == "spin" else None)
        pool.call("print", 2)
    assert lines == [BEGUN, "line 1", BEGUN, "line 2"]


def test_calls_of_one_instance_may_share_a_line_and_no_lease_shares_one_with_what_comes_after() -> None:
    lines: list[str] = []
    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=lines.append)) as pool:
        for n in range(2):
            pool.call("begin", n)
        with pool.instance() as lease:
            lease.call("begin", 2)
        with pool.instance() as lease:
            lease.call("begin", 3)
        pool.call("print", 4)
    assert lines == [BEGUN, "line 0line 1line 2", "line 3", "line 4"]


@pytest.mark.parametrize("instances", [1, 2])
def test_no_line_is_lost_or_cut_among_several_workers(instances: int) -> None:
    lines: list[str] = []
    with ProcessWasmPool(PRINTER, workers=2, instances=instances, wasi=WasiConfig(stdout=lines.append)) as pool:
        assert list(pool.map("print", [n % 9 for n in range(3000)], chunksize=50)) == [n % 9 for n in range(3000)]
        pool.drain(DEADLINE)
    assert sorted(line for line in lines if line != BEGUN) == sorted(f"line {n % 9}" for n in range(3000))


def test_what_is_captured_outside_of_run_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig()) as pool:
        pool.call("print", 1)
        pool.call("complain", 2)
    found = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "procpool.guest"]
    assert sorted(found) == [(logging.INFO, "line 1"), (logging.INFO, BEGUN), (logging.WARNING, "line 2")]


def test_a_command_keeps_its_own_output() -> None:
    lines: list[str] = []
    own: list[str] = []
    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=lines.append)) as pool:
        for _ in range(20):
            pool.call("print", 1)
            pool.run(["p"], stdout=own.append)
    assert (lines, own) == ([BEGUN, *["line 1"] * 20], ["line 8"] * 20)


def test_what_goes_nowhere_goes_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=None)) as pool:
        pool.call("print", 1)
    assert not [record for record in caplog.records if record.name == "procpool.guest"]


@pytest.mark.parametrize("how", ["call", "submit", "map", "lease"])
@pytest.mark.parametrize("stdout", ["capture", "function"])
def test_a_call_that_prints_too_much_is_stopped(how: str, stdout: Literal["capture", "function"]) -> None:
    lines: list[str] = []
    wasi = WasiConfig(stdout="capture" if stdout == "capture" else lines.append, max_output=100_000)
    with ProcessWasmPool(PRINTER, workers=1, wasi=wasi) as pool:
        for _ in range(2):
            with pytest.raises(OutputLimit, match="more than max_output=100,000 bytes"):
                if how == "call":
                    pool.call("flood", timeout=DEADLINE)
                elif how == "submit":
                    pool.submit("flood").result(DEADLINE)
                elif how == "map":
                    list(pool.starmap("flood", [()]))
                else:
                    with pool.instance() as lease:
                        lease.call("flood", timeout=DEADLINE)
        assert pool.call("print", 3) == 3
        assert pool.stats().killed == pool.stats().crashed == 0
    assert len(lines) < 30_000 + 20 and lines[-1:] == ([] if stdout == "capture" else ["line 3"])


def test_many_calls_may_print_more_than_one_may() -> None:
    lines: list[str] = []
    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=lines.append, max_output=20)) as pool:
        for n in range(50):
            assert pool.call("print", n % 9) == n % 9
    assert len(lines) == 51


@pytest.mark.parametrize("chunksize", [1, 2000])
@pytest.mark.parametrize("fuel", [None, 1_000_000])  # with fuel, the worker runs one item after the other
def test_each_item_of_a_map_may_print_as_much_as_a_call(chunksize: int, fuel: int | None) -> None:
    lines: list[str] = []
    wasi = WasiConfig(stdout=lines.append, max_output=100)
    with ProcessWasmPool(PRINTER, workers=1, wasi=wasi, fuel=fuel) as pool:
        assert list(pool.map("print_or_flood", [n % 9 for n in range(2000)], chunksize=chunksize)) == [
            n % 9 for n in range(2000)
        ]
    assert len(lines) == 2001


@pytest.mark.parametrize("chunksize", [1, 50])
def test_the_item_of_a_map_that_prints_too_much_is_the_one_that_fails(chunksize: int) -> None:
    wasi = WasiConfig(stdout=lambda line: None, max_output=100_000)
    digits = [10 if n == 30 else n % 9 for n in range(50)]
    with ProcessWasmPool(PRINTER, workers=1, wasi=wasi) as pool:
        outcomes = list(pool.map("print_or_flood", digits, chunksize=chunksize, return_exceptions=True))
        assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, OutputLimit)] == [30]
        assert [outcome for outcome in outcomes if isinstance(outcome, int)] == digits[:30] + digits[31:]


@pytest.mark.parametrize("isolation", ["pooled", "fresh"])
def test_what_an_item_prints_does_not_count_as_the_next_ones(isolation: Literal["pooled", "fresh"]) -> None:
    wasi = WasiConfig(stdout=lambda line: None, max_output=100)
    with ProcessWasmPool(PRINTER, workers=1, wasi=wasi, isolation=isolation) as pool:
        outcomes = list(pool.map("print_much_or_work", range(40), chunksize=40, return_exceptions=True))
    stopped = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)]
    assert [n for n in stopped if n % 2] == [], "these print nothing"
    assert all(isinstance(outcomes[n], OutputLimit) for n in stopped)


@pytest.mark.parametrize(("export", "size", "items"), [("print_much_or_work", 60_000, 20), ("print", 7, 300)])
@pytest.mark.parametrize("fuel", [None, 1_000_000])  # with fuel, the worker runs one item after the other
def test_every_item_of_a_map_may_print_all_that_it_may(fuel: int | None, export: str, size: int, items: int) -> None:
    lines: list[str] = []
    wasi = WasiConfig(stdout=lines.append, max_output=size)
    with ProcessWasmPool(PRINTER, workers=1, wasi=wasi, fuel=fuel) as pool:
        for _ in range(20):
            assert list(pool.map(export, [0] * items, chunksize=items)) == [0] * items
    assert sum(map(len, lines)) >= 20 * items * (size - 1), "but for ends of lines"


def test_what_the_first_items_of_a_map_print_does_not_count_as_a_later_ones() -> None:
    wasi = WasiConfig(stdout=lambda line: None, max_output=7)
    with ProcessWasmPool(PRINTER, workers=1, wasi=wasi) as pool:
        for _ in range(20):
            assert len(list(pool.map("print_or_work", [0, 0, 0, 1], chunksize=4))) == 4


def watch_drivers(instance: Instance, held: int = 0) -> None:
    """Count how often the worker enters a driver from here on, and hold the first batches that it does."""
    holder: Any = InstanceHolder
    plain = holder.driver
    holder.entered = 0

    def driver(self: InstanceHolder, index: int) -> Function:
        if holder.entered < held:
            self._arena.hold()
        holder.entered += 1
        found: Function = plain(self, index)
        return found

    holder.driver = driver


def drivers_entered(instance: Instance) -> int:
    holder: Any = InstanceHolder
    return int(holder.entered)


def test_a_map_of_a_module_that_can_print_loops_in_wasm() -> None:
    lines: list[str] = []
    digits = [n % 9 for n in range(3000)]
    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=lines.append)) as pool:
        pool.submit(watch_drivers).result()
        assert list(pool.map("print", digits, chunksize=3000)) == digits
        assert pool.submit(drivers_entered).result() == 1
    assert lines == [BEGUN, *(f"line {n}" for n in digits)]


def test_a_batch_that_is_held_goes_on() -> None:
    lines: list[str] = []
    digits = [n % 9 for n in range(100)]
    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=lines.append)) as pool:
        pool.submit(watch_drivers, 3).result()
        assert list(pool.map("print", digits, chunksize=100)) == digits
        assert pool.submit(drivers_entered).result() == 4
    assert lines == [BEGUN, *(f"line {n}" for n in digits)]


def test_no_item_runs_twice_where_others_are_stopped() -> None:
    lines: list[str] = []
    digits = [10 if n % 40 == 20 else n % 7 + 2 for n in range(200)]
    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=lines.append, max_output=1000)) as pool:
        outcomes = list(pool.map("print_or_flood", digits, chunksize=200, return_exceptions=True))
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, OutputLimit)] == [20, 60, 100, 140, 180]
    printed = Counter(lines)
    assert [printed[f"line {n}"] for n in range(2, 9)] == [digits.count(n) for n in range(2, 9)]


@pytest.mark.parametrize("cell", [wire.STOP, wire.HOLD])
def test_a_driver_that_is_told_to_stop_begins_no_further_item(cell: int) -> None:
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    memory = wasmtime.Memory(
        store, wasmtime.MemoryType(wasmtime.Limits(wire.ARENA_BYTES // 65536, wire.ARENA_BYTES // 65536))
    )
    told: list[int] = []

    def export() -> None:
        (item,) = struct.unpack("<I", memory.read(store, wire.INDEX, wire.INDEX + 4))
        told.append(item)
        if item == 3:
            memory.write(store, struct.pack("<I", 1), cell)

    function = wasmtime.Func(store, wasmtime.FuncType([], []), export)
    module = wasmtime.Module(engine, driver_text(FuncType((), ())))
    run = wasmtime.Instance(store, module, [function, memory]).exports(store)["run"]
    assert isinstance(run, wasmtime.Func)
    assert run(store, 0, 10, 0) == 4
    assert told == [0, 1, 2, 3]


#: Prints 2,000 bytes at once, and succeeds, traps or exits.
BURSTS = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func $burst
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 2000))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "succeed") (result i32) (call $burst) (i32.const 1))
  (func (export "trap") (result i32) (call $burst) unreachable)
  (func (export "exit") (result i32) (call $burst) (call $exit (i32.const 3)) (i32.const 1)))"""


@pytest.mark.parametrize("isolation", ["pooled", "fresh"])
@pytest.mark.parametrize("how", ["call", "map"])
def test_what_has_ended_before_it_could_be_stopped_ends_as_it_has(isolation: Literal["pooled", "fresh"], how: str) -> None:
    wasi = WasiConfig(stdout=lambda line: None, max_output=1000)
    with ProcessWasmPool(BURSTS, workers=1, wasi=wasi, isolation=isolation) as pool:

        def outcome(name: str) -> object:
            try:
                return pool.call(name) if how == "call" else next(iter(pool.starmap(name, [()])))
            except (WasmTrap, GuestExit, OutputLimit) as error:
                return error.code if isinstance(error, (WasmTrap, GuestExit)) else type(error)

        for name, expected in ("succeed", 1), ("trap", "UNREACHABLE"), ("exit", 3):
            outcomes = Counter(outcome(name) for _ in range(50))
            # A guest that loses its processor right after it has printed can be stopped before its end.
            assert set(outcomes) <= {expected, OutputLimit} and outcomes[expected] > 25


#: Its threads print until they are ended, as fast as they can; each instance begins with the line "F".
CHATTY = """(module
  (import "env" "memory" (memory 1 1 shared))
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (export "memory" (memory 0))
  (data (i32.const 1024) "T") (data (i32.const 2048) "F\\n")
  (func $put (param $at i32) (param $size i32)
    (i32.store (i32.sub (local.get $at) (i32.const 16)) (local.get $at))
    (i32.store (i32.sub (local.get $at) (i32.const 12)) (local.get $size))
    (drop (call $write
      (i32.const 1) (i32.sub (local.get $at) (i32.const 16)) (i32.const 1) (i32.sub (local.get $at) (i32.const 8)))))
  (func (export "wasi_thread_start") (param i32 i32)
    (loop (call $put (i32.const 1024) (i32.const 1)) (i32.atomic.store (i32.const 4096) (i32.const 1)) (br 0)))
  (func (export "begin")
    (call $put (i32.const 2048) (i32.const 2))
    (drop (call $spawn (i32.const 0)))
    (loop (br_if 0 (i32.eqz (i32.atomic.load (i32.const 4096)))))))"""


def test_what_threads_print_until_they_have_ended_is_no_part_of_the_next_instances_line() -> None:
    lines: list[str] = []
    with ProcessWasmPool(CHATTY, workers=1, isolation="fresh", wasi=WasiConfig(stdout=lines.append)) as pool:
        for _ in range(100):
            with pool.instance() as lease:
                lease.call("begin")
    assert lines.count("F") == 100
    assert {line.strip("T") for line in lines} == {"F", ""}


def test_a_line_function_that_raises_harms_no_job(caplog: pytest.LogCaptureFixture) -> None:
    def fails(line: str) -> None:
        raise ValueError(line)

    with ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=fails)) as pool:
        assert [pool.call("print", n) for n in range(3)] == [0, 1, 2]
    said = [record for record in caplog.records if "a line function raised" in record.getMessage()]
    assert len(said) == 4 and all(record.exc_info for record in said)


#: Prints 1 MiB, in lines of 1024 bytes.
TALKER = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 20)
  (func (export "_initialize") (local $at i32)
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 0x100000))
    (i32.store (i32.const 0) (i32.const 65536))
    (i32.store (i32.const 4) (i32.const 0x100000))
    (loop
      (local.set $at (i32.add (local.get $at) (i32.const 1024)))
      (i32.store8 (i32.add (local.get $at) (i32.const 65535)) (i32.const 10))
      (br_if 0 (i32.lt_u (local.get $at) (i32.const 0x100000)))))
  (func (export "talk") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


def test_what_waits_for_a_slow_line_function_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    may_go = threading.Event()
    seen: list[int] = []

    def slow(line: str) -> None:
        assert may_go.wait(DEADLINE)
        seen.append(len(line))

    with ProcessWasmPool(TALKER, workers=1, wasi=WasiConfig(stdout=slow)) as pool:
        for _ in range(100):
            pool.call("talk")
        may_go.set()
        eventually(lambda: "were dropped" in caplog.text, "the warning")
        before = len(seen)
        pool.call("talk")
    (warning,) = (record for record in caplog.records if "were dropped" in record.getMessage())
    assert isinstance(warning.args, tuple) and warning.args[0] == 100 * 1024 - before
    assert 40 * 1024 < before < 65 * 1024, "lines take some bytes beside their characters"
    assert len(seen) == before + 1024 and set(seen) == {1023}


def test_what_was_printed_and_logged_last_is_not_lost_at_the_end() -> None:
    for _ in range(10):
        lines: list[str] = []
        pool = ProcessWasmPool(PRINTER, workers=1, wasi=WasiConfig(stdout=lines.append), isolation="fresh")
        pool.call("print", 1)
        pool.shutdown()
        assert lines[-1] == "line 1"


def test_a_line_function_may_use_the_pool() -> None:
    seen: list[int] = []
    wasi = WasiConfig(stdout=lambda line: seen.append(len(pool.stats().workers)))
    with ProcessWasmPool(PRINTER, workers=1, wasi=wasi, start=[]) as pool:
        pool.call("print", 1)
    assert seen == [1]


def test_lines_of_a_linked_module_reach_the_function() -> None:
    lines: list[str] = []
    main = """(module (import "lib" "print" (func $print (param i32) (result i32)))
      (func (export "twice") (param i32) (drop (call $print (local.get 0))) (drop (call $print (local.get 0)))))"""
    wasi = WasiConfig(stdout=lines.append)
    with ProcessWasmPool(main, workers=1, modules={"lib": PRINTER}, wasi=wasi) as pool:
        pool.call("twice", 3)
    assert lines == [BEGUN, "line 3", "line 3"]
