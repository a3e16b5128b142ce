"""wasi-threads: several threads of one instance."""

from __future__ import annotations

import functools
import os
import signal
import threading
from typing import Any

import pytest
from conftest import DEADLINE, FIXTURES, eventually

from procpool import (
    BadWasi,
    CallTimeout,
    GuestExit,
    MemoryType,
    PoolClosed,
    ProcessWasmPool,
    StartupError,
    WasiConfig,
    WasmTrap,
    wants_instance,
)

PRIMES = FIXTURES / "primes.wasm"

#: Each thread adds its argument to a sum; `wait` waits on an address nobody notifies; state lives in the shared memory.
REACTOR = """(module
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (import "env" "memory" (memory 1 16 shared))
  (export "memory" (memory 0))
  (func (export "wasi_thread_start") (param $id i32) (param $what i32)
    (if (i32.eq (local.get $what) (i32.const -1)) (then (unreachable)))
    (if (i32.eq (local.get $what) (i32.const -2))
      (then (drop (memory.atomic.wait32 (i32.const 64) (i32.const 0) (i64.const -1)))))
    (drop (i32.atomic.rmw.add (i32.const 0) (local.get $what)))
    (drop (i32.atomic.rmw.add (i32.const 4) (i32.const 1)))
    (drop (memory.atomic.notify (i32.const 4) (i32.const -1))))
  (func (export "spawn") (param i32) (result i32) (call $spawn (local.get 0)))
  (func (export "ended") (result i32) (i32.atomic.load (i32.const 4)))
  (func (export "sum") (result i32) (i32.atomic.load (i32.const 0)))
  (func (export "join") (param $count i32) (result i32) (local $now i32)
    (block $done (loop $again
      (local.set $now (i32.atomic.load (i32.const 4)))
      (br_if $done (i32.ge_s (local.get $now) (local.get $count)))
      (drop (memory.atomic.wait32 (i32.const 4) (local.get $now) (i64.const -1)))
      (br $again)))
    (i32.atomic.load (i32.const 0)))
  (func (export "wait") (drop (memory.atomic.wait32 (i32.const 64) (i32.const 0) (i64.const -1))))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "pages") (result i32) (memory.size)))"""


@pytest.fixture
def primes(nothing_left: None) -> Any:
    # Waking every address of its 25 MiB takes some 0.2 s, and many times that on a loaded machine.
    pool = ProcessWasmPool(PRIMES, workers=2, wasi=WasiConfig(), kill_grace=DEADLINE)
    pool.wait_ready(DEADLINE)
    yield pool
    pool.terminate()


def test_a_threaded_command(primes: ProcessWasmPool) -> None:
    for threads in (1, 2, 7):
        assert primes.run(["primes", str(threads), "100000"], timeout=DEADLINE).stdout == b"9592\n"
    runs = primes.run_map([["primes", "3", "1000"]] * 40, timeout=DEADLINE)
    assert [done.stdout for done in runs] == [b"168\n"] * 40


def test_any_thread_ends_all(primes: ProcessWasmPool) -> None:
    for _ in range(2):
        assert primes.run(["primes", "3", "10", "exit"], timeout=DEADLINE).returncode == 7
        with pytest.raises(WasmTrap, match="unreachable"):
            primes.run(["primes", "3", "10", "trap"], timeout=DEADLINE)
    assert primes.run(["primes", "2", "1000"], timeout=DEADLINE).stdout == b"168\n"
    assert primes.stats().crashed == primes.stats().killed == 0


def test_threads_print_through_one_table(primes: ProcessWasmPool) -> None:
    done = primes.run(["primes", "4", "10", "hello"], timeout=DEADLINE, text=True)
    # Each thread writes in pieces, so they may mingle; nothing is lost.
    assert sorted(done.stdout) == sorted("thread says hello\n" * 4 + "0\n")


@pytest.mark.parametrize("mode", ["spin", "sleep"])
def test_a_timeout_ends_all_threads(mode: str, primes: ProcessWasmPool) -> None:
    """While the main thread waits for them, and they spin in wasm or sleep in the host."""
    for _ in range(2):
        with pytest.raises(CallTimeout):
            primes.run(["primes", "2", "10", mode], timeout=0.3)
    eventually(lambda: primes.stats().idle == 2, "both workers to be free again")
    assert primes.run(["primes", "2", "1000"], timeout=DEADLINE).stdout == b"168\n"
    if mode == "spin":
        assert primes.stats().killed == primes.stats().crashed == 0


def _without_patience() -> None:
    from procpool.worker import threads

    threads.END_GRACE = threads.END_ROUNDS = 0


def test_an_interrupt_wakes_those_who_wait_however_long_it_takes(nothing_left: None) -> None:
    """On a loaded machine the memory may be gone through only once in the time that the threads of a command have to end."""
    options: Any = {"wasi": WasiConfig(), "kill_grace": DEADLINE / 4, "initializer": _without_patience}
    with ProcessWasmPool(PRIMES, workers=1, **options) as pool:
        pool.wait_ready(DEADLINE)
        with pytest.raises(CallTimeout):
            pool.run(["primes", "2", "10", "spin"], timeout=2)  # by then the main thread waits
        eventually(lambda: pool.stats().idle == 1, "the worker, or the next one, to be free again")
        assert pool.stats().killed == 0


def _has_timeouts(pool: ProcessWasmPool, count: int) -> bool:
    return pool.stats().timeouts == count


def test_an_interrupt_stops_the_threads_of_its_own_job_only(nothing_left: None) -> None:
    with ProcessWasmPool(PRIMES, workers=1, wasi=WasiConfig(), kill_grace=DEADLINE) as pool:
        for timeouts in range(1, 6):
            pool.wait_ready(DEADLINE)
            (worker,) = pool.stats().workers
            os.kill(worker.pid, signal.SIGSTOP)
            try:
                stopped = pool.submit_run(["primes", "2", "10", "spin"], timeout=0.01)
                after = pool.submit_run(["primes", "3", "100000"], timeout=DEADLINE)
                eventually(functools.partial(_has_timeouts, pool, timeouts), "it to be interrupted")
            finally:
                os.kill(worker.pid, signal.SIGCONT)
            with pytest.raises(CallTimeout):
                stopped.result(DEADLINE)
            assert after.result(DEADLINE).stdout == b"9592\n"
            assert pool.stats().timeouts == timeouts
        assert pool.stats().killed == 0


#: A thread exits with code 5 while the main thread reads, or reads while the main thread returns.
READING = """(module
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "env" "memory" (memory 1 1 shared))
  (export "memory" (memory 0))
  (func $block (i32.store (i32.const 8) (i32.const 64)) (i32.store (i32.const 12) (i32.const 10))
    (i32.atomic.store (i32.const 0) (i32.const 1))
    (drop (call $read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 32))))
  (func (export "wasi_thread_start") (param i32 i32)
    (if (local.get 1) (then (call $block)) (else
      (loop $wait (br_if $wait (i32.eqz (i32.atomic.load (i32.const 0)))))
      (call $exit (i32.const 5)))))
  (func (export "_start")
    (drop (call $spawn (i32.const {reader})))
    {main}))"""


@pytest.mark.parametrize(("reader", "main", "code"), [(0, "(call $block)", 5), (1, "", 0)])
def test_a_thread_that_reads_for_ever_holds_up_no_exit(
    reader: int, main: str, code: int, tmp_path: Any, nothing_left: None
) -> None:
    if reader:  # until the reader reads
        main = "(loop $wait (br_if $wait (i32.eqz (i32.atomic.load (i32.const 0)))))"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    keep = os.open(fifo, os.O_RDWR)  # nothing ever comes, and no end either
    try:
        with ProcessWasmPool(READING.format(reader=reader, main=main), workers=1, wasi=WasiConfig()) as pool:
            for _ in range(2):
                assert pool.run(["x"], stdin=fifo, timeout=DEADLINE).returncode == code
    finally:
        os.close(keep)


def test_shutdown_with_threads_running(nothing_left: None) -> None:
    pool = ProcessWasmPool(PRIMES, workers=1, wasi=WasiConfig())
    future = pool.submit_run(["primes", "2", "10", "spin"])
    eventually(future.running, "it to run")
    pool.terminate()
    assert isinstance(future.exception(DEADLINE), PoolClosed)


# -- a threaded library ------------------------------------------------------------------------------------------------


@pytest.fixture
def reactor(nothing_left: None) -> Any:
    pool = ProcessWasmPool(REACTOR, workers=1, wasi=WasiConfig(max_threads=8), kill_grace=0.3)
    yield pool
    pool.terminate()


def test_threads_live_between_the_calls_of_a_lease(reactor: ProcessWasmPool) -> None:
    with reactor.instance() as lease:
        ids = [lease.call("spawn", n) for n in (1, 10, 100)]
        assert ids == [1, 2, 3], "from 1"
        assert lease.call("join", 3, timeout=DEADLINE) == 111
        assert lease.memory[0:1] == b"\x6f", "the shared memory is the lease's memory"
        ids = [lease.call("spawn", -2) for _ in range(4)]
        assert ids == [4, 5, 6, 7]
        lease.memory[16:20] = b"abcd"
        assert lease.call("ended") == 3
    assert reactor.call("sum") == 111, "pooled as any other"


def test_too_many_threads(reactor: ProcessWasmPool) -> None:
    with reactor.instance() as lease:
        ids = [lease.call("spawn", -2) for _ in range(10)]
        assert ids == [1, 2, 3, 4, 5, 6, 7, 8, -1, -1]


def test_a_trap_in_a_thread_fails_the_call_that_waits_for_it(reactor: ProcessWasmPool) -> None:
    with reactor.instance() as lease:
        assert lease.call("spawn", -1) == 1
        with pytest.raises(WasmTrap, match="unreachable"):
            lease.call("join", 1, timeout=DEADLINE)
    assert reactor.call("sum") == 0, "a new instance"
    assert reactor.stats().crashed == reactor.stats().killed == 0


#: A thread calls the host with its argument, while the main thread waits for ever, or reads for ever, or is not there.
CHECKING = """(module
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "env" "memory" (memory 1 1 shared))
  (import "env" "check" (func $check (param i32)))
  (export "memory" (memory 0))
  (global (export "main") (mut i32) (i32.const 0))
  (func (export "wasi_thread_start") (param i32 i32) (call $check (local.get 1)))
  (func $wait (drop (memory.atomic.wait32 (i32.const 64) (i32.const 0) (i64.const -1))))
  (func (export "spawn") (param i32) (result i32) (call $spawn (local.get 0)))
  (func (export "spawn_and_wait") (param i32) (drop (call $spawn (local.get 0))) (call $wait))
  (func (export "_start")
    (drop (call $spawn (i32.const 0)))
    (i32.store (i32.const 8) (i32.const 64)) (i32.store (i32.const 12) (i32.const 10))
    (drop (call $read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 32)))
    (call $wait)))"""


@pytest.mark.parametrize("raised", [GuestExit(7), KeyError(7)])
def test_what_a_host_function_raises_in_a_thread_is_what_the_caller_gets(
    raised: Exception, tmp_path: Any, nothing_left: None
) -> None:
    def check(what: int) -> None:
        raise raised

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    keep = os.open(fifo, os.O_RDWR)  # nothing ever comes, and no end either
    imports = {"env": {"check": check}}
    try:
        with ProcessWasmPool(CHECKING, workers=1, imports=imports, wasi=WasiConfig()) as pool:
            for _ in range(3):
                with pytest.raises(type(raised), match="7"):
                    pool.call("spawn_and_wait", 1, timeout=DEADLINE)
            assert pool.stats().crashed == pool.stats().killed == 0
            for stdin in (None, fifo):
                if isinstance(raised, GuestExit):
                    assert pool.run(["x"], stdin=stdin, timeout=DEADLINE).returncode == 7
                else:
                    with pytest.raises(KeyError, match="7"):
                        pool.run(["x"], stdin=stdin, timeout=DEADLINE)
    finally:
        os.close(keep)


def test_a_host_function_in_a_thread_gets_what_the_threads_share_and_nothing_of_the_main_one(nothing_left: None) -> None:
    """Two threads in one store at once are undefined: a sound program's calls failed with "call stack exhausted"."""

    @wants_instance
    def check(instance: Any, what: int) -> None:
        if what == 1:
            instance.memory[64:68] = b"seen"  # what `spawn_and_wait` would wait for is no longer so
            raise GuestExit(instance.memory[65])
        if what == 2:
            instance.call("spawn", 0)
        else:
            instance.globals["main"]

    with ProcessWasmPool(CHECKING, workers=1, imports={"env": {"check": check}}, wasi=WasiConfig()) as pool:
        with pytest.raises(GuestExit, match=str(ord("e"))):
            pool.call("spawn_and_wait", 1, timeout=DEADLINE)
        for what in (2, 3):
            with pytest.raises(RuntimeError, match="called by another thread"):
                pool.call("spawn_and_wait", what, timeout=DEADLINE)
        assert pool.stats().crashed == pool.stats().killed == 0


#: A thread calls the host, which keeps it for ever, and the main thread ends: well, or not.
STUCK = """(module
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (import "env" "memory" (memory 1 1 shared))
  (import "env" "block" (func $block))
  (func (export "wasi_thread_start") (param i32 i32)
    (i32.atomic.store (i32.const 0) (i32.const 1)) (drop (memory.atomic.notify (i32.const 0) (i32.const -1))) (call $block))
  (func $both (drop (call $spawn (i32.const 0))) (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const -1))))
  (func (export "trap") (call $both) (unreachable))
  (func (export "_start") (call $both)))"""


def test_a_thread_that_cannot_be_ended_ends_with_its_process_after_a_direct_call_too(nothing_left: None) -> None:
    """Only the next submitted job ended it, so each call that failed left another thread."""
    imports = {"env": {"block": signal.pause}}
    with ProcessWasmPool(STUCK, workers=1, imports=imports, wasi=WasiConfig()) as pool:
        with pytest.raises(WasmTrap):
            pool.call("trap", timeout=DEADLINE)
        eventually(lambda: pool.stats().recycled == 1, "the worker to be replaced")


def test_a_thread_that_cannot_be_ended_ends_no_job_of_another_instance(nothing_left: None, tmp_path: Any) -> None:
    def wait(instance: Any, fifo: str) -> int:
        with open(fifo) as file:
            file.readline()
        return os.getpid()

    os.mkfifo(tmp_path / "fifo")
    go_on = os.open(tmp_path / "fifo", os.O_RDWR)
    imports = {"env": {"block": signal.pause}}
    with ProcessWasmPool(STUCK, workers=1, instances=2, imports=imports, wasi=WasiConfig()) as pool:
        other = pool.submit(wait, str(tmp_path / "fifo"))
        eventually(lambda: pool.stats().busy == 1, "it to have begun")
        before = pool.stats().workers[0].pid
        assert pool.run(["x"], timeout=DEADLINE).returncode == 0
        eventually(lambda: pool.stats().recycled == 1, "the process to be given up")
        os.write(go_on, b"\n")
        assert other.result(DEADLINE) == before
        eventually(lambda: [worker.pid for worker in pool.stats().workers] not in ([], [before]), "another to be there")
    os.close(go_on)


def test_a_thread_that_fails_when_nobody_calls_fails_no_callers_job(
    tmp_path: Any, caplog: pytest.LogCaptureFixture, nothing_left: None
) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)

    def check(what: int) -> None:
        with open(fifo) as wait:
            wait.read()
        raise KeyError(what)

    def let_it_fail(_instance: Any) -> int:
        with open(fifo, "w"):
            pass
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("wasi-thread-")]
        for thread in threads:
            thread.join(DEADLINE)
        return len(threads)

    imports = {"env": {"check": check}}
    with ProcessWasmPool(CHECKING, workers=1, imports=imports, wasi=WasiConfig()) as pool:
        assert pool.call("spawn", 5) == 1
        assert pool.submit(let_it_fail).result(DEADLINE) == 1
        assert pool.call("spawn", 6) == 1, "a new instance"
        assert "a thread of an instance failed" in caplog.text and "KeyError: 5" in caplog.text
        assert pool.submit(let_it_fail).result(DEADLINE) == 1


def test_waiting_defeats_no_timeout(nothing_left: None) -> None:
    with ProcessWasmPool(REACTOR, workers=1, wasi=WasiConfig(max_threads=8), kill_grace=DEADLINE) as pool:
        for _ in range(3):
            with pytest.raises(CallTimeout):
                pool.call("wait", timeout=0.1)
            assert pool.call("sum") == 0
        future = pool.submit("wait")
        eventually(future.running, "it to wait")
        assert future.cancel()
        assert pool.call("sum", timeout=DEADLINE) == 0
        assert pool.stats().crashed == pool.stats().killed == 0


def test_size_of_the_shared_memory(nothing_left: None) -> None:
    with ProcessWasmPool(REACTOR, workers=1, wasi=WasiConfig(), memory_limit=4 * 65536) as pool:
        assert [pool.call("pages"), pool.call("grow", 3), pool.call("grow", 1)] == [1, 1, -1], "it counts"
    given = {"env": {"memory": MemoryType(2, 5, shared=True)}}
    with ProcessWasmPool(REACTOR, workers=1, wasi=WasiConfig(), imports=given) as pool:
        assert [pool.call("pages"), pool.call("grow", 3), pool.call("grow", 1)] == [2, 2, -1]
    with pytest.raises((MemoryError, StartupError)):
        ProcessWasmPool(REACTOR, workers=1, wasi=WasiConfig(), memory_limit=1000)


def test_a_module_that_cannot_start_threads_is_refused(nothing_left: None) -> None:
    with pytest.raises(BadWasi, match="exports no wasi_thread_start"):
        ProcessWasmPool('(module (import "wasi" "thread-spawn" (func (param i32) (result i32))))', wasi=WasiConfig())


DAWDLING = """(module
  (import "env" "memory" (memory 1 2 shared)) (export "memory" (memory 0))
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (import "env" "dawdle" (func $dawdle))
  (func (export "wasi_thread_start") (param i32 i32) unreachable)
  (func (export "seven") (result i32) (i32.const 7))
  (func (export "_start") (drop (call $spawn (i32.const 0))) (call $dawdle)))"""


def test_a_command_that_fails_in_a_host_call_costs_no_other_instance_of_its_process(tmp_path: Any) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def dawdle() -> None:  # until the neighbour is done
        with open(fifo, "rb") as file:
            file.read()

    def neighbour(instance: Any) -> int:
        threading.Event().wait(2.5)  # the group waits for its main thread for a second, and then for nothing
        result: int = instance.call("seven")
        with open(fifo, "wb"):
            pass
        return result

    how = {"workers": 1, "instances": 2, "prewarm": 2, "imports": {"env": {"dawdle": dawdle}}}
    with ProcessWasmPool(DAWDLING, wasi=WasiConfig(), **how) as pool:  # type: ignore[arg-type]
        job = pool.submit(neighbour)
        with pytest.raises(WasmTrap, match="unreachable"):
            pool.run(["x"], timeout=DEADLINE)
        assert job.result(DEADLINE) == 7
        assert pool.stats().crashed == pool.stats().killed == 0


TWO = """(module
  (import "env" "one" (memory $one 1 2 shared)) (import "env" "two" (memory $two 1 3 shared))
  (import "wasi" "thread-spawn" (func $spawn (param i32) (result i32)))
  (func (export "wasi_thread_start") (param i32 i32)
    (i32.atomic.store $one (i32.const 0) (i32.const 5)) (i32.atomic.store $two (i32.const 0) (i32.const 6))
    (drop (memory.atomic.notify $two (i32.const 0) (i32.const 1)))
    (drop (memory.atomic.wait32 $one (i32.const 64) (i32.const 0) (i64.const -1))))
  (func (export "both") (result i32)
    (drop (call $spawn (i32.const 0)))
    (drop (memory.atomic.wait32 $two (i32.const 0) (i32.const 0) (i64.const -1)))
    (i32.add (i32.atomic.load $one (i32.const 0)) (i32.mul (i32.const 10) (i32.atomic.load $two (i32.const 0)))))
  (func (export "wait") (drop (memory.atomic.wait32 $two (i32.const 64) (i32.const 0) (i64.const -1))))
  (func (export "pages") (result i32) (memory.size $two)))"""


def test_two_shared_memories_in_one_module(nothing_left: None) -> None:
    given = {"env": {"one": MemoryType(1, 2, shared=True), "two": MemoryType(2, 3, shared=True)}}
    with ProcessWasmPool(TWO, workers=1, wasi=WasiConfig(), imports=given) as pool:
        assert pool.call("both", timeout=DEADLINE) == 65
        assert pool.call("pages") == 2
        assert pool.submit(lambda i: (i.memory_named("one")[0], i.memory_named("two")[0])).result() == (5, 6)
        with pytest.raises(CallTimeout):
            pool.call("wait", timeout=0.2)
        assert pool.call("pages") == 2 and pool.stats().killed == 0


def test_a_function_given_for_wasi_serves_a_module_with_threads_too(nothing_left: None) -> None:
    module = """(module (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "env" "memory" (memory 1 2 shared)) (export "memory" (memory 0))
      (import "wasi" "thread-spawn" (func (param i32) (result i32)))
      (func (export "wasi_thread_start") (param i32 i32))
      (func (export "write") (result i32) (call $write (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 8))))"""
    imports = {"wasi_snapshot_preview1": {"fd_write": lambda *args: 77}}
    with ProcessWasmPool(module, workers=1, wasi=WasiConfig(), imports=imports) as pool:
        assert pool.call("write") == 77
