"""What is dropped is given up by the garbage collector, which runs in any thread, at any moment, under any lock."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
from bounded import in_a_program
from conftest import DEADLINE, FIXTURES, KERNELS, eventually
from test_instances import IMPORTS

from procpool import ProcessWasmPool

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import what tests need
HOST = FIXTURES / "host.wat"


def collect_often() -> None:
    """Have the collector run at nearly every step.  What there is already is not looked at, which makes it cheap."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(7, 1, 1)


class Cycle:
    """Only the collector finds it."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self.itself = self


def _map(pool: ProcessWasmPool) -> Any:
    results = pool.map("churn", range(400), [1000] * 400, chunksize=20)
    next(results)
    return results


def _unstarted_map(pool: ProcessWasmPool) -> Any:
    return pool.map("churn", range(400), [1000] * 400, chunksize=20)


def _map_of_a_callable(pool: ProcessWasmPool) -> Any:
    results = pool.map(_seed, range(100))
    next(results)
    return results


def _unordered_map(pool: ProcessWasmPool) -> Any:
    results = pool.map("churn", range(400), [1000] * 400, chunksize=20, ordered=False)
    next(results)
    return results


def _lease(pool: ProcessWasmPool) -> Any:
    return pool.get()


def _future(pool: ProcessWasmPool) -> Any:
    return pool.submit("churn", 1, 1000)


def _seed(instance: Any, seed: int) -> int:
    return seed


DROPPED: dict[str, Callable[[ProcessWasmPool], Any]] = {
    "map": _map,
    "map that was not started": _unstarted_map,
    "unordered map": _unordered_map,
    "map of a callable": _map_of_a_callable,
    "lease": _lease,
    "future": _future,
}


def collected_everywhere(what: str) -> None:
    """The collector runs at nearly every step of everybody, locks held or not."""
    warnings.simplefilter("ignore", ResourceWarning)
    make = DROPPED[what]
    with ProcessWasmPool(KERNELS, 2) as pool:
        pool.wait_ready(DEADLINE)
        collect_often()
        for _ in range(20):
            Cycle(make(pool))
            futures = [pool.submit("add", n, 1) for n in range(30)]
            for future in futures:
                future.add_done_callback(lambda future: None)
            assert pool.call("add", 1, 2) == 3
            assert [future.result(DEADLINE) for future in futures] == list(range(1, 31))
        gc.set_threshold(700, 10, 10)
        gc.collect()
        pool.drain(DEADLINE)
        assert pool.stats().killed == pool.stats().crashed == 0


@pytest.mark.parametrize("what", DROPPED)
def test_collected_at_every_step(what: str) -> None:
    in_a_program(collected_everywhere, what)


def finalized_on_every_line(what: str) -> None:
    """Dropped on each line of the pool's own code in turn, by the thread that runs it: then whatever lock that line
    holds, its own thread has."""
    warnings.simplefilter("ignore", ResourceWarning)
    gc.disable()
    pool = ProcessWasmPool(KERNELS, 2, max_pending=10_000)
    pool.wait_ready(DEADLINE)
    make = DROPPED[what]
    dropped: list[Any] = []
    seen: set[tuple[str, int]] = set()

    def trace(frame: Any, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        if "procpool" not in name or name.endswith(("binary.py", "codec.py", "columns.py")) or "/tests/" in name:
            return None
        where = name, frame.f_lineno
        if event == "line" and dropped and where not in seen:
            seen.add(where)
            dropped.pop()  # nobody else has it: this runs its finalizer, here and now
        return trace

    def use() -> None:
        futures = [pool.submit("add", n, 1, timeout=DEADLINE) for n in range(4)]
        futures[0].add_done_callback(lambda future: None)
        futures[3].cancel()
        futures.append(pool.submit(_seed, 1, key="k"))
        futures.append(pool.submit("add", 1, 1, priority=1))
        assert [future.result(DEADLINE) for future in futures[:3]] == [1, 2, 3]
        assert list(pool.map("add", [1], [2])) == [3]

    for _ in range(10_000):
        known = len(seen)
        dropped.extend(make(pool) for _ in range(1 if what == "lease" else 20))
        sys.settrace(trace)
        try:
            use()
        finally:
            sys.settrace(None)
        dropped.clear()
        if len(seen) == known:
            break
    assert len(seen) > 20
    pool.drain(DEADLINE)
    assert pool.call("add", 1, 2) == 3
    pool.shutdown()


@pytest.mark.parametrize("what", DROPPED)
def test_finalized_on_every_line(what: str) -> None:
    in_a_program(finalized_on_every_line, what)


def pools_collected() -> None:
    """Whole pools, in the middle of the work of another, and in their own threads."""
    with ProcessWasmPool(KERNELS, 1) as pool:
        pool.wait_ready(DEADLINE)
        collect_often()
        for _ in range(5):
            other = Cycle(ProcessWasmPool(KERNELS, 1))
            future = other.content.submit("fib", 15)
            other.content.map("add", range(100), range(100))
            del other
            assert [pool.submit("add", n, 1).result(DEADLINE) for n in range(20)] == list(range(1, 21))
            assert future.result(DEADLINE) == 610
        gc.set_threshold(700, 10, 10)


def test_pools_are_collected() -> None:
    in_a_program(pools_collected)


def collected_by_the_pools_threads() -> None:
    """The thread that notices is one of the pool's own: nobody else runs any Python meanwhile."""
    warnings.simplefilter("ignore", ResourceWarning)
    pool = ProcessWasmPool(HOST, 2, imports=IMPORTS)
    pool.wait_ready(DEADLINE)
    done = threading.Event()

    def collect(future: Any) -> None:
        gc.collect()
        done.set()

    for make in (pool.get, lambda: pool.map("double", range(1000)), lambda: pool.map(_seed, range(100))):
        gc.collect()
        gc.disable()
        done.clear()
        Cycle(make())
        pool.submit("double", 1).add_done_callback(collect)
        assert done.wait(DEADLINE)
        assert pool.call("double", 4) == 8
        gc.enable()
    eventually(lambda: pool.stats().idle == 2, "both workers to be idle")
    pool.shutdown()


def test_collected_by_the_pools_own_threads() -> None:
    in_a_program(collected_by_the_pools_threads)


def async_maps_collected() -> None:
    with ProcessWasmPool(KERNELS, 2) as pool:

        async def main() -> None:
            for _ in range(20):
                results = pool.amap("churn", range(400), [1000] * 400, chunksize=20)
                async for _ in results:
                    break
                Cycle(results)
                del results
                assert await pool.acall("add", 1, 2) == 3

        collect_often()
        asyncio.run(main())
        gc.set_threshold(700, 10, 10)
        pool.drain(DEADLINE)
        assert pool.stats().killed == 0


def test_async_maps_are_collected() -> None:
    in_a_program(async_maps_collected)


def dropped_in_many_threads() -> None:
    """The ordinary load under which it was seen first, made denser."""
    with ProcessWasmPool(KERNELS, 2) as pool:
        collect_often()
        until = time.monotonic() + 1.5

        def work() -> None:
            while time.monotonic() < until:
                Cycle(_map(pool))
                [future.result(DEADLINE) for future in [pool.submit("add", n, 1) for n in range(10)]]

        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.set_threshold(700, 10, 10)


def test_dropped_in_many_threads() -> None:
    in_a_program(dropped_in_many_threads)
