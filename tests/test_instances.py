"""The instances in a worker: how many, how long, and for whom."""

from __future__ import annotations

import gc
import os
import signal
import threading
import warnings
from typing import Any

import pytest
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, eventually, worker_pids

import procpool
from procpool import (
    BadArguments,
    CallTimeout,
    GuestExit,
    LeaseEnded,
    PoolClosed,
    ProcessWasmPool,
    StartupError,
    UnknownExport,
    WasiConfig,
    WasmException,
    WasmTrap,
    WorkerCrashed,
)

HOST = FIXTURES / "host.wat"
IMPORTS: dict[str, dict[str, Any]] = {
    "env": {
        "add": lambda a, b: a + b,
        "mix": lambda a, b, c, d: 0,
        "pair": lambda a: (a, 0.0),
        "note": lambda a: None,
        "base": 7,
    }
}


def with_note(function: Any) -> dict[str, dict[str, Any]]:
    return {"env": {**IMPORTS["env"], "note": function}}


# -- isolation and reuse -----------------------------------------------------------------------------------------------


def test_pooled_instances_keep_state_and_fresh_ones_do_not(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS) as pool:
        assert [pool.call("tick") for _ in range(3)] == [1, 2, 3]
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS, isolation="fresh") as pool:
        assert [pool.call("tick") for _ in range(3)] == [1, 1, 1]
        assert [future.result(DEADLINE) for future in [pool.submit("tick") for _ in range(20)]] == [1] * 20
        assert list(pool.map("tick", *[], timeout=None)) == []
        assert list(pool.starmap("tick", [()] * 50)) == [1] * 50
        assert [pool.submit(lambda instance: instance.call("tick")).result(DEADLINE) for _ in range(3)] == [1, 1, 1]
        with pool.instance() as lease:
            assert [lease.call("tick"), lease.call("tick")] == [1, 2], "a lease keeps its instance"
        assert pool.call("tick") == 1


def test_an_outgrown_instance_is_not_used_again(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS, recycle_memory=3 * 65536) as pool:
        assert [pool.call("tick"), pool.call("grow", 2), pool.call("tick")] == [1, 1, 2]
        assert pool.call("grow", 1) == 3
        assert pool.call("tick") == 1
    # A module that begins larger than the limit is pooled all the same.
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS, recycle_memory=100) as pool:
        assert [pool.call("tick"), pool.call("tick")] == [1, 2]
        assert pool.call("grow", 1) == 1
        assert pool.call("tick") == 1


@pytest.mark.parametrize(("prewarm", "expected"), [(0, 1), (1, 2)])
def test_unused_instances_are_purged_beyond_the_warm_ones(prewarm: int, expected: int, nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS, prewarm=prewarm, idle_expiry=0.1) as pool:
        assert pool.call("tick") == 1
        population = pool._dispatcher.population
        (process,) = population.present.values()
        (lane,) = population.lanes(process)
        if prewarm:
            eventually(lambda: population._used_seen.get(lane) == lane.used, "the worker to be found unused")
        else:
            eventually(lambda: lane.used == 2 and lane.quiet, "the instance to be purged")
        assert pool.call("tick") == expected
        assert pool.stats().calls == 2, "a purge is not a call"


def test_instances_are_made_ahead_or_on_demand(nothing_left: None) -> None:
    """A start function that traps shows when the instance is made."""
    wat = '(module (start $s) (func $s (unreachable)) (func (export "f")))'
    with pytest.raises(procpool.StartupError):
        ProcessWasmPool(wat, workers=1)
    with ProcessWasmPool(wat, workers=1, prewarm=0) as pool, pytest.raises(WasmTrap, match="unreachable"):
        pool.call("f")


def test_start_exports_run_once_per_instance(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS, start=("trap",), prewarm=0) as pool, pytest.raises(WasmTrap):
        pool.call("tick")
    wat = """(module (global $n (mut i32) (i32.const 0))
      (func (export "_initialize") (global.set $n (i32.add (global.get $n) (i32.const 10))))
      (func (export "n") (result i32) (global.get $n)))"""
    with ProcessWasmPool(wat, workers=1, start=("_initialize",)) as pool:
        assert [pool.call("n"), pool.call("n")] == [10, 10]
    with pytest.raises(UnknownExport, match=r"start\[0\] names 'nope'"):
        ProcessWasmPool(wat, start=("nope",))


# -- several at once ---------------------------------------------------------------------------------------------------


def test_several_instances_serve_at_once(nothing_left: None) -> None:
    """All four must be inside for any to go on."""

    def initializer() -> None:
        procpool.state.barrier = threading.Barrier(4)

    def note(n: int) -> None:
        procpool.state.barrier.wait(DEADLINE)

    with ProcessWasmPool(HOST, workers=1, instances=4, imports=with_note(note), initializer=initializer) as pool:
        pool.wait_ready(DEADLINE)
        assert [future.result(DEADLINE) for future in [pool.submit("note", n) for n in range(40)]] == [None] * 40
        assert len(worker_pids(pool)) == 1
        assert list(pool.map("add", range(5000), range(5000))) == list(range(0, 10000, 2))
        # A worker that has had jobs taken back has their fence to pass first.
        eventually(lambda: (pool.stats().calls, pool.stats().idle, pool.stats().busy) == (5040, 1, 0), "all to be at rest")


def test_each_exception_finds_its_own_caller(nothing_left: None) -> None:
    """wasmtime-py keeps a host function's exception in one global, where threads find each other's."""

    def add(a: int, b: int) -> int:
        raise LookupError(a)

    imports = {"env": {**IMPORTS["env"], "add": add}}
    with ProcessWasmPool(HOST, workers=1, instances=4, imports=imports) as pool:
        pool.wait_ready(DEADLINE)
        futures = [(n, pool.submit("add", n, 0)) for n in range(3000)]
        for n, future in futures:
            error = future.exception(DEADLINE)
            assert isinstance(error, LookupError) and error.args == (n,)


def test_an_interrupt_stops_one_instance_and_not_its_neighbours(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, instances=3, imports=IMPORTS) as pool:
        pool.wait_ready(DEADLINE)
        long = pool.submit("spin")
        eventually(long.running, "the endless call to begin")
        for _ in range(5):
            with pytest.raises(CallTimeout):
                pool.call("spin", timeout=0.05)
            assert pool.call("double", 4) == 8
        assert not long.done()
        assert long.cancel()
        stats = pool.stats()
        assert stats.crashed == stats.killed == 0


def test_a_death_costs_what_ran_in_the_process(nothing_left: None) -> None:
    def note(n: int) -> None:
        if n == 13:
            os.kill(os.getpid(), signal.SIGKILL)

    with ProcessWasmPool(HOST, workers=2, instances=2, imports=with_note(note)) as pool:
        pool.wait_ready(DEADLINE)
        futures = [pool.submit("note", n) for n in range(100)]
        ended = [future.exception(DEADLINE) for future in futures]
        assert isinstance(ended[13], WorkerCrashed)
        # The neighbour in the same process may have been running something, one job at most.
        assert 1 <= sum(error is not None for error in ended) <= 2
        assert [pool.call("double", n) for n in range(100)] == list(range(0, 200, 2))
        pool.restart(DEADLINE)
        pool.resize(3)
        pool.wait_ready(DEADLINE)
        pool.resize(1)
        eventually(lambda: len(worker_pids(pool)) == 1, "one worker to be left")
        assert list(pool.map("double", range(1000))) == list(range(0, 2000, 2))


# -- leases ------------------------------------------------------------------------------------------------------------


def test_state_stays_between_the_calls_of_a_lease(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=2, imports=IMPORTS) as pool:
        with pool.instance() as lease:
            assert [lease.call("tick"), lease.exports["tick"]()] == [1, 2]
            assert lease.globals["count"] == 2 and lease.globals["answer"] == 42
            lease.globals["count"] = 40
            assert lease.call("tick") == 41
            with pytest.raises(TypeError, match="cannot be changed"):
                lease.globals["answer"] = 1
            with pytest.raises(KeyError):
                lease.globals["nope"]
            assert sorted(lease.globals) == ["answer", "count", "env.base"]  # a function is exported as "base"
            assert "tick" in lease.exports and len(lease.exports) == len(pool._functions)
            # Others are served meanwhile, by the other worker.
            assert pool.call("double", 4) == 8
            assert pool.stats().leased == 1
        assert pool.stats().leased == 0


def test_memory_of_a_lease(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS) as pool, pool.instance() as lease:
        assert len(lease.memory) == 65536
        lease.memory[10:15] = b"hello"
        assert lease.memory[10:15] == b"hello" and lease.memory[9:16] == b"\0hello\0"
        lease.memory[0] = 255
        assert lease.memory[0] == 255 and lease.memory[-65536] == 255
        assert lease.grow(15) == 1 and len(lease.memory) == 16 * 65536
        big = os.urandom(16 * 65536)
        lease.memory[:] = big
        assert lease.memory[:] == big and lease.memory[70000:70010] == big[70000:70010]
        lease.memory[0:8] = memoryview(b"12345678").cast("H")
        assert lease.memory[:8] == b"12345678"
        big = b"12345678" + big[8:]
        for ends in (slice(-1, None), slice(-70000, -10), slice(None, -1048576), slice(-1, 5), slice(9, 8), slice(9, 9)):
            assert lease.memory[ends] == big[ends], "as a sequence's"
            lease.memory[ends] = big[ends]
        assert lease.memory[:] == big
        for wrong in (slice(0, 2**21), slice(-1048577, None), slice(2**21, 5), slice(5, -1048577)):
            with pytest.raises(IndexError, match=r"outside of the 1048576 bytes of 'memory'"):
                lease.memory[wrong]
            with pytest.raises(IndexError, match=r"outside of the 1048576 bytes of 'memory'"):
                lease.memory[wrong] = b""
        with pytest.raises(IndexError):
            lease.memory[16 * 65536]
        with pytest.raises(ValueError, match="3 bytes do not fit into the 4"):
            lease.memory[0:4] = b"abc"
        with pytest.raises(ValueError, match=r"the bytes have one: memory\[0:4\]\[::2\]"):
            lease.memory[0:4:2]
        with pytest.raises(MemoryError, match="cannot grow 'memory' by 100 pages"):
            lease.grow(100)
        with pytest.raises(LookupError, match="no memory 'heap'"):
            lease.memory_named("heap")
        assert lease.call("tick") == 1, "mistakes do not end it"


def test_all_bytes_of_a_leased_memory_are_not_fetched_one_by_one(nothing_left: None, monkeypatch: Any) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS) as pool, pool.instance() as lease:
        lease.grow(15)
        lease.memory[:] = big = os.urandom(16 * 65536)
        exchanges = []
        monkeypatch.setattr(lease, "_ask", lambda *args, ask=lease._ask: (exchanges.append(args), ask(*args))[1])
        assert bytes(lease.memory) == bytearray(lease.memory) == bytes(list(lease.memory)) == big
        assert len(exchanges) < 100
        assert big[70000] in lease.memory and -1 not in lease.memory
        assert len(exchanges) < 200
    with ProcessWasmPool('(module (memory (export "memory") 0))', workers=1) as pool, pool.instance() as lease:
        assert bytes(lease.memory) == b"" and list(lease.memory) == []


def test_transfers_larger_than_the_window(nothing_left: None) -> None:
    wat = '(module (memory (export "memory") 400))'
    with ProcessWasmPool(wat, workers=1) as pool, pool.instance() as lease:
        data = os.urandom(400 * 65536)  # 25 MiB, in several pieces
        lease.memory[:] = data
        assert lease.memory[:] == data


def test_leases_block_when_all_are_out(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=2, imports=IMPORTS) as pool:
        pool.wait_ready(DEADLINE)
        first, second = pool.get(), pool.get()
        with pytest.raises(TimeoutError, match="all instances were in use"):
            pool.get(timeout=0.05)
        with pytest.raises(TimeoutError), pool.instance(timeout=0.05):
            pass
        job = pool.submit("double", 4)  # waits too
        third: list[Any] = []
        waiter = threading.Thread(target=lambda: third.append(pool.get(DEADLINE)))
        waiter.start()
        eventually(lambda: pool.stats().pending == 2, "the third to wait behind the job")
        pool.put(first)
        waiter.join(DEADLINE)
        assert job.result(DEADLINE) == 8 and third[0].call("double", 1) == 2
        pool.put(third[0])
        pool.put(second)
        with pytest.raises(LeaseEnded, match="given back"):
            pool.put(second)
        with pytest.raises(LeaseEnded, match="given back"):
            second.call("tick")
        with pytest.raises(LeaseEnded):
            second.memory[0:1]


def test_a_discarded_instance_serves_nobody_again(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS) as pool:
        with pool.instance() as lease:
            lease.call("tick")
        assert pool.call("tick") == 2, "kept otherwise"
        with pool.instance(discard=True) as lease:
            assert lease.call("tick") == 3
        assert pool.call("tick") == 1


def test_a_failed_call_ends_the_lease(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS) as pool:
        with pool.instance() as lease:
            with pytest.raises(BadArguments):
                lease.call("double", "x")
            with pytest.raises(UnknownExport, match="did you mean"):
                lease.call("duble", 1)
            lease.call("tick")
            with pytest.raises(WasmTrap):
                lease.call("trap")
            with pytest.raises(LeaseEnded, match="'trap' failed"):
                lease.call("tick")
        assert pool.call("tick") == 1
        with pool.instance() as lease:
            with pytest.raises(CallTimeout):
                lease.call("spin", timeout=0.05)
            with pytest.raises(LeaseEnded, match="ran out of time"):
                lease.call("tick")
        assert pool.call("tick") == 1


def test_a_lease_whose_worker_dies(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS) as pool:
        with pool.instance() as lease:
            (pid,) = worker_pids(pool)
            os.kill(pid, signal.SIGKILL)
            for _ in range(2):
                with pytest.raises(WorkerCrashed) as caught:
                    lease.call("tick")
                assert caught.value.pid == pid and caught.value.exitcode == -signal.SIGKILL
            with pytest.raises(WorkerCrashed):
                lease.memory[0:1]
        assert [pool.call("double", n) for n in range(100)] == list(range(0, 200, 2))
        assert pool.stats().leased == 0


def test_a_lost_lease_comes_back_with_a_warning(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=1, imports=IMPORTS) as pool:
        lease = pool.get()
        lease.call("tick")
        with pytest.warns(ResourceWarning, match="never put back"):
            del lease
            gc.collect()
        assert pool.call("tick") == 1, "with a new instance"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pool.put(pool.get())


def test_shutdown_takes_leases_back(nothing_left: None) -> None:
    pool = ProcessWasmPool(HOST, workers=2, imports=IMPORTS)
    lease = pool.get()
    pool.shutdown()
    with pytest.raises(PoolClosed):
        lease.call("tick")
    with pytest.raises(PoolClosed):
        pool.get()
    lease.put()  # harmless
    pool = ProcessWasmPool(HOST, workers=1, imports=IMPORTS)
    lease = pool.get()
    errors: list[Exception] = []

    def wait() -> None:
        try:
            pool.get()
        except Exception as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    eventually(lambda: pool.stats().pending == 1, "a waiter")
    pool.terminate()
    waiter.join(DEADLINE)
    assert [type(error) for error in errors] == [PoolClosed]
    with pytest.raises(PoolClosed):
        lease.call("tick")


def test_a_lease_in_a_call_when_the_pool_is_terminated(nothing_left: None) -> None:
    pool = ProcessWasmPool(HOST, workers=1, imports=IMPORTS)
    lease = pool.get()
    errors: list[Any] = []

    def spin() -> None:
        try:
            lease.call("spin")
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=spin)
    thread.start()
    eventually(lease._using.locked, "the call to begin")
    pool.terminate()
    thread.join(DEADLINE)
    assert [type(error) for error in errors] == [PoolClosed]
    with pytest.raises(PoolClosed):
        lease.call("tick")


def test_leases_across_restarts_and_resizes(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=2, imports=IMPORTS) as pool:
        pool.wait_ready(DEADLINE)
        with pool.instance() as lease:
            lease.call("tick")
            with pytest.raises(TimeoutError):
                pool.restart(timeout=0.3)
            assert lease.call("tick") == 2, "a lease is not interrupted"
            with pytest.raises(TimeoutError):
                pool.drain(timeout=0.05)
            pool.resize(1)
            assert pool.call("double", 2) == 4
        eventually(lambda: len(worker_pids(pool)) == 1, "the worker to go when its lease ends")
        pool.drain(DEADLINE)


def test_many_threads_lease(nothing_left: None) -> None:
    errors: list[BaseException] = []

    def use(pool: ProcessWasmPool) -> None:
        try:
            for _ in range(50):
                with pool.instance(timeout=DEADLINE) as lease:
                    before = lease.call("tick")
                    assert lease.call("tick") == before + 1
        except BaseException as error:
            errors.append(error)

    with ProcessWasmPool(HOST, workers=2, instances=2, imports=IMPORTS) as pool:
        threads = [threading.Thread(target=use, args=(pool,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * DEADLINE)
        assert not errors
        assert pool.stats().leased == 0 and pool.stats().calls == 800


def test_options_are_checked(nothing_left: None) -> None:
    for wrong in (
        {"instances": 0},
        {"instances": 65},
        {"prewarm": 2},
        {"isolation": "shared"},
        {"balance": "random"},
        {"retries": -1},
        {"min_workers": 3, "workers": 2},
        {"recycle_memory": 0},
        {"rlimits": {"NOPE": 1}},
        {"idle_expiry": 0},
    ):
        with pytest.raises(ValueError):
            ProcessWasmPool(KERNELS, **wrong)  # type: ignore[arg-type]


def test_a_lease_of_a_module_without_imports(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool, pool.instance() as lease:
        assert lease.call("fine", 3) == 3
        assert [lease.call("soil") for _ in range(3)] == [1, 2, 3], "one instance, with its state"


# -- what the guest fails with, beside it -------------------------------------------------------------------------------

#: Traps; throws; exits; does any of it by way of a host function; counts its calls.
FAILING = """(module
  (import "env" "again" (func $again (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (tag $e (export "e") (param i32 f64))
  (global $calls (mut i32) (i32.const 0))
  (func $trap (export "trap") unreachable)
  (func (export "throw") (throw $e (i32.const 7) (f64.const 0.5)))
  (func (export "take") (param externref) unreachable)
  (func (export "exit") (call $exit (i32.const 3)))
  (func (export "nested") (param i32) (result i32) (call $again (local.get 0)))
  (func (export "tick") (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1))) (global.get $calls)))"""


def caught(instance: Any, export: str, *args: Any) -> Any:
    try:
        return instance.call(export, *args)
    except WasmTrap as trap:
        trap.__traceback__ = None
        return trap
    except GuestExit as left:
        return left.code


@procpool.wants_instance
def again(instance: Any, catch: int) -> int:
    if not catch:
        instance.call("trap")
    return int(isinstance(caught(instance, "trap"), WasmTrap))


@pytest.fixture(scope="module")
def failing() -> Any:
    with ProcessWasmPool(FAILING, workers=1, imports={"env": {"again": again}}, wasi=WasiConfig()) as pool:
        yield pool


@pytest.mark.parametrize("args", [("trap",), ("take", None)])
def test_a_trap_is_caught_beside_the_instance(failing: ProcessWasmPool, args: Any) -> None:
    trap = failing.submit(caught, *args).result(DEADLINE)
    assert (type(trap), trap.export, trap.code) == (WasmTrap, args[0], "UNREACHABLE")
    assert [frame.function for frame in trap.frames] == [args[0] if args[0] == "trap" else None]
    assert str(trap).startswith(f"{args[0]}: wasm `unreachable` instruction executed\n  at ")
    assert failing.call("tick") == 1, "the instance has failed, and serves no other job"


def test_an_exception_is_caught_beside_the_instance(failing: ProcessWasmPool) -> None:
    thrown = failing.submit(caught, "throw").result(DEADLINE)
    assert (type(thrown), thrown.export, thrown.tag, thrown.payload) == (WasmException, "throw", "e", (7, 0.5))
    assert failing.call("tick") == 1
    assert failing.submit(caught, "exit").result(DEADLINE) == 3
    assert failing.call("tick") == 1


def test_a_host_function_catches_what_the_guest_fails_with(failing: ProcessWasmPool) -> None:
    assert failing.call("nested", 1) == 1
    assert failing.call("tick") == 1
    assert failing.submit(lambda instance: caught(instance, "nested", 0).export).result(DEADLINE) == "trap", "the innermost"
    assert failing.call("tick") == 1


def test_what_nobody_catches_beside_the_instance_comes_as_from_a_call(failing: ProcessWasmPool) -> None:
    def call(instance: Any, export: str, *args: Any) -> None:
        instance.call(export, *args)

    def catch_and_raise(instance: Any) -> None:
        try:
            instance.call("trap")
        except WasmTrap:
            raise

    for submit in (lambda: failing.submit(call, "trap"), lambda: failing.submit(catch_and_raise)):
        with pytest.raises(WasmTrap) as trap:
            submit().result(DEADLINE)
        assert (trap.value.code, trap.value.frames[0].function, trap.value.__cause__) == ("UNREACHABLE", "trap", None)
        assert trap.value.export not in (None, "trap"), "the callable that was submitted"
        assert failing.call("tick") == 1
    with pytest.raises(WasmTrap) as trap:
        failing.call("nested", 0)
    assert (trap.value.export, trap.value.code) == ("nested", "UNREACHABLE")
    with pytest.raises(WasmException) as thrown:
        failing.submit(call, "throw").result(DEADLINE)
    assert (thrown.value.tag, thrown.value.payload) == ("e", (7, 0.5))
    with pytest.raises(GuestExit) as left:
        failing.submit(call, "exit").result(DEADLINE)
    assert left.value.code == 3
    assert failing.call("tick") == 1


def test_a_start_function_catches_what_the_guest_fails_with(nothing_left: None) -> None:
    def start(instance: Any) -> None:
        procpool.state.caught = caught(instance, "trap")

    with ProcessWasmPool(MISBEHAVE, workers=1, start=[start]) as pool:
        assert pool.submit(lambda instance: procpool.state.caught.code).result(DEADLINE) == "UNREACHABLE"
    with pytest.raises(StartupError, match=r"start\[0\], .*<lambda>: wasm `unreachable`"):
        ProcessWasmPool(MISBEHAVE, workers=1, start=[lambda instance: instance.call("trap")])
