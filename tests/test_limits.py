"""Bounds on what guests, workers and the queue may take."""

from __future__ import annotations

import itertools
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest
from conftest import DEADLINE, KERNELS, MISBEHAVE, eventually, worker_pids

from procpool import CallTimeout, PoolClosed, PoolFull, ProcessWasmPool, StartupError, WasmTrap, WorkerCrashed


def test_memory_limit(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, memory_limit=64 * 65536) as pool:
        initial = pool.call("pages")
        assert pool.call("grow") == 64 - initial
        assert list(pool.map("fine", range(100))) == list(range(100)), "the batch lane's own memory is not counted"
        assert pool.call("grow") == 0
    with pytest.raises(StartupError, match="memory"):
        ProcessWasmPool(MISBEHAVE, workers=1, memory_limit=65536)


def test_fuel(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, fuel=100_000) as pool:
        for _ in range(3):
            with pytest.raises(WasmTrap) as caught:
                pool.call("spin")
            assert caught.value.code == "OUT_OF_FUEL"
            assert pool.call("fine", 1) == 1
        assert pool.submit(lambda instance: instance.call("fine", 5)).result(DEADLINE) == 5
    with ProcessWasmPool(KERNELS, workers=2, fuel=200_000) as pool:
        outcomes = list(pool.map("churn", [1] * 300, [10, 100, 1_000_000] * 100, return_exceptions=True))
        assert [isinstance(outcome, WasmTrap) for outcome in outcomes] == [False, False, True] * 100
        assert outcomes[0] == pool.call("churn", 1, 10)


def test_who_uses_up_its_time_is_killed_by_a_signal_that_says_so(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, rlimits={"CPU": 1}) as pool:
        with pytest.raises(WorkerCrashed, match="SIGXCPU") as crash:
            pool.call("spin", timeout=DEADLINE)
        assert crash.value.signal == signal.SIGXCPU
        assert pool.call("fine", 1) == 1


def test_a_full_queue_raises(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, max_pending=5, on_full="raise") as pool:
        pool.submit("spin", timeout=0.5)
        futures = []
        with pytest.raises(PoolFull, match="max_pending=5"):
            for n in itertools.count():
                futures.append(pool.submit("fine", n))
        assert 5 <= len(futures) <= 7
        assert [future.result(DEADLINE) for future in futures] == list(range(len(futures)))
        assert pool.submit("fine", 3).result(DEADLINE) == 3


def test_a_full_queue_blocks_until_there_is_room(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2, max_pending=10) as pool:
        most = 0

        def submit(start: int) -> list[Any]:
            nonlocal most
            futures = []
            for n in range(start, start + 500):
                futures.append(pool.submit("churn", n, 1000))
                most = max(most, pool.stats().pending)
            return [future.result(DEADLINE) for future in futures]

        with ThreadPoolExecutor(4) as threads:
            assert sum(len(results) for results in threads.map(submit, range(0, 2000, 500))) == 2000
        assert most <= 10 + 4
        assert list(pool.map("add", range(10_000), range(10_000))) == [2 * n for n in range(10_000)]


def test_a_full_queue_blocks_no_longer_than_it_may(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, max_pending=1, full_timeout=0.05) as pool:
        pool.submit("spin", timeout=1)
        started = monotonic()
        with pytest.raises(PoolFull):
            for _ in range(10):
                pool.submit("fine", 1)
        assert 0.05 <= monotonic() - started < 1


def test_a_callback_may_wait_for_room(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, max_pending=1) as pool:
        nested: list[Any] = []
        done = threading.Event()

        def submit_more(future: object) -> None:
            nested.extend(pool.submit("fine", n) for n in range(20))
            done.set()

        pool.submit("fine", 0).add_done_callback(submit_more)
        assert done.wait(DEADLINE)
        assert [future.result(DEADLINE) for future in nested] == list(range(20))


def test_closing_wakes_those_who_wait_for_room(nothing_left: None) -> None:
    pool = ProcessWasmPool(MISBEHAVE, workers=1, max_pending=1)
    pool.submit("spin")
    with ThreadPoolExecutor(1) as threads:

        def submit_until_closed() -> None:
            while True:
                pool.submit("fine", 1)

        blocked = threads.submit(submit_until_closed)
        eventually(lambda: pool._dispatcher.scheduler._waiting_for_space == 1, "the submitter to wait")
        pool.terminate()
        assert isinstance(blocked.exception(DEADLINE), PoolClosed)


@pytest.mark.parametrize(
    "options",
    [
        {"max_pending": 0},
        {"on_full": "drop"},
        {"fuel": -1},
        {"memory_limit": 1.5},
        {"kill_grace": -1},
        {"max_tasks_per_worker": True},
        {"full_timeout": 0},
    ],
)
def test_nonsensical_limits(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ProcessWasmPool(KERNELS, **options)


def test_max_tasks_per_worker(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2, max_tasks_per_worker=50) as pool:
        seen = set()
        for n in range(1000):
            assert pool.call("add", n, 1) == n + 1
            seen.update(worker_pids(pool))
        assert len(seen - {0}) >= 4, "though the pool sees only now and then how many calls there were"
        futures = [pool.submit("add", n, 1) for n in range(2000)]
        assert [future.result(DEADLINE) for future in futures] == list(range(1, 2001))
        assert list(pool.map("add", range(5000), range(5000))) == [2 * n for n in range(5000)]


def test_max_worker_memory(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1, max_worker_memory=200 << 20) as pool:
        pids = worker_pids(pool)

        def hoard(instance: Any) -> int:
            import builtins

            builtins.hoard = bytearray(b"x") * (250 << 20)  # type: ignore[attr-defined]
            return os.getpid()

        assert [pool.submit(hoard).result(DEADLINE)] == pids
        eventually(lambda: pool.stats().idle == 1 and worker_pids(pool) != pids, "a slim replacement")
        assert pool.call("add", 1, 2) == 3


LARGE = r"it held ([\d,]+) bytes, more than twice max_worker_memory=104,857,600"


def hoards_for_ever(instance: Any, item: int) -> None:
    held = []
    while True:
        held.append(b"x" * (1 << 20))


@pytest.mark.parametrize("how", ["submit", "map"])
def test_a_worker_killed_for_its_size_says_so(how: str) -> None:
    with ProcessWasmPool(KERNELS, workers=1, max_worker_memory=100 << 20) as pool:
        (pid,) = worker_pids(pool)
        with pytest.raises(WorkerCrashed) as crash:
            if how == "submit":
                pool.submit(hoards_for_ever, 0).result(DEADLINE)
            else:
                list(pool.map(hoards_for_ever, [0]))
        said = str(crash.value)
        found = re.search(LARGE, said)
        assert found and crash.value.reason and int(found[1].replace(",", "")) > 200 << 20, said
        assert crash.value.reason in said and f"worker {pid} was killed" in said and "SIGKILL" in said
        assert (crash.value.pid, crash.value.signal) == (pid, signal.SIGKILL)
        assert pool.call("add", 1, 2) == 3


def test_a_call_whose_worker_is_killed_for_its_size_says_so() -> None:
    module = """(module (memory (export "memory") 1)
      (func (export "grow") (loop (drop (memory.grow (i32.const 512)))
        (memory.fill (i32.const 0) (i32.const 1) (i32.shl (memory.size) (i32.const 16))) (br 0))))"""
    with ProcessWasmPool(module, workers=1, max_worker_memory=100 << 20) as pool:
        for _ in range(2):
            with pytest.raises(WorkerCrashed, match=LARGE):
                pool.call("grow", timeout=DEADLINE)
            with pool.instance() as lease, pytest.raises(WorkerCrashed, match=LARGE):
                lease.call("grow", timeout=DEADLINE)


# -- as many workers as wanted ---------------------------------------------------------------------------------------------


def test_resize_up_and_down_under_load(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        futures = [pool.submit("churn", n, 100_000) for n in range(1500)]
        for size in (4, 2, 6, 1, 3):
            pool.resize(size)
            pool.wait_ready(DEADLINE)
            eventually(lambda size=size: len(pool.stats().workers) == size, f"{size} workers")  # type: ignore[misc]
            assert pool.call("add", size, 1, timeout=DEADLINE) == size + 1
        expected = {n: pool.call("churn", n, 100_000) for n in (0, 700, 1499)}
        results = [future.result(DEADLINE) for future in futures]
        assert all(results[n] == value for n, value in expected.items())
        assert pool.stats().failed == 0


def test_shrinking_interrupts_nothing(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=3) as pool:
        pool.wait_ready(DEADLINE)
        futures = [pool.submit("spin", timeout=0.4) for _ in range(3)]
        eventually(lambda: pool.stats().busy == 3, "all to be busy")
        pool.resize(1)
        assert pool.submit("fine", 1).result(DEADLINE) == 1
        assert all(isinstance(future.exception(DEADLINE), CallTimeout) for future in futures)
        eventually(lambda: len(pool.stats().workers) == 1, "two workers to go")


def test_restart_replaces_all_without_losing_a_job(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=3) as pool:
        pool.wait_ready(DEADLINE)
        before = set(worker_pids(pool))
        stop = threading.Event()

        def keep_calling() -> int:
            calls = 0
            while not stop.is_set():
                assert pool.call("add", calls, 1) == calls + 1
                calls += 1
            return calls

        with ThreadPoolExecutor(2) as threads:
            callers = [threads.submit(keep_calling) for _ in range(2)]
            futures = [pool.submit("churn", n, 10_000) for n in range(500)]
            pool.restart(DEADLINE)
            assert not before & set(worker_pids(pool))
            stop.set()
            assert all(caller.result(DEADLINE) > 0 for caller in callers)
        assert all(isinstance(future.result(DEADLINE), int) for future in futures)
        assert pool.stats().failed == 0
        pool.wait_ready(DEADLINE)
        assert pool.stats().calls >= 500


def test_drain(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        futures = [pool.submit("churn", n, 100_000) for n in range(200)]
        pool.drain(DEADLINE)
        assert all(future.done() for future in futures)
        pool.drain()
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.submit("spin", timeout=0.5)
        with pytest.raises(TimeoutError, match="until all jobs are done"):
            pool.drain(0.05)


def test_all_of_them_after_close() -> None:
    pool = ProcessWasmPool(KERNELS, workers=1)
    pool.terminate()
    pool.terminate()
    for way in (lambda: pool.resize(2), pool.restart, pool.drain, pool.wait_ready):
        with pytest.raises(PoolClosed):
            way()


def test_against_each_other(nothing_left: None) -> None:
    pool = ProcessWasmPool(KERNELS, workers=2)

    def quietly(action: Any, *args: Any) -> None:
        try:
            for _ in range(20):
                action(*args)
        except PoolClosed:
            pass

    with ThreadPoolExecutor(6) as threads:
        running = [
            threads.submit(quietly, pool.resize, 1),
            threads.submit(quietly, pool.resize, 4),
            threads.submit(quietly, pool.restart, DEADLINE),
            threads.submit(quietly, pool.drain, DEADLINE),
            threads.submit(quietly, lambda: [pool.call("add", n, 1) for n in range(200)]),
            threads.submit(quietly, lambda: list(pool.map("add", range(5000), range(5000)))),
        ]
        for future in running:
            assert future.exception(60) is None
    pool.shutdown()
