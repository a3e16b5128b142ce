"""One meaning of ``timeout``: seconds from the call until its end, waiting for a worker and for room in the queue included."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bounded import pool_that_goes, within
from conftest import DEADLINE, FIXTURES, busy_pid, eventually, worker_pids
from test_user_code import GUEST

from procpool import CallTimeout, PoolFull, ProcessWasmPool, WasiConfig, current_context

#: Exports to spin, to allocate (for `call_bytes`), and to run as a command.
MODULE = GUEST.rstrip()[:-1] + (
    '(func (export "alloc") (param i32) (result i32) (i32.const 4096)) (func (export "free") (param i32))'
    '(func (export "length") (param i32 i32) (result i32) (local.get 1)))'
)


def answer(instance: Any, *_: object) -> int:
    return 42


def dwell(instance: Any) -> None:
    threading.Event().wait()


#: Name -> a way to have something done within a timeout, blocking until it is.
WAYS: dict[str, Callable[[ProcessWasmPool, float | None], object]] = {
    "call": lambda pool, timeout: pool.call("fine", 1, timeout=timeout),
    "submit": lambda pool, timeout: pool.submit("fine", 1, timeout=timeout).result(),
    "submit of a callable": lambda pool, timeout: pool.submit(answer, timeout=timeout).result(),
    "submit with a priority": lambda pool, timeout: pool.submit("fine", 1, timeout=timeout, priority=-1).result(),
    "submit with a key": lambda pool, timeout: pool.submit("fine", 1, timeout=timeout, key="k").result(),
    "call_bytes": lambda pool, timeout: pool.call_bytes("length", b"12", timeout=timeout),
    "submit_bytes": lambda pool, timeout: pool.submit_bytes("length", b"12", timeout=timeout).result(),
    "run": lambda pool, timeout: pool.run(["x"], timeout=timeout),
    "submit_run": lambda pool, timeout: pool.submit_run(["x"], timeout=timeout).result(),
    "acall": lambda pool, timeout: asyncio.run(pool.acall("fine", 1, timeout=timeout)),
}
#: The same for ways that end in a plain TimeoutError.
WAITS: dict[str, Callable[[ProcessWasmPool, float | None], object]] = {
    "get": lambda pool, timeout: pool.get(timeout),
    "instance": lambda pool, timeout: pool.instance(timeout).__enter__(),
    "map": lambda pool, timeout: list(pool.map("fine", [1], timeout=timeout)),
    "map of a callable": lambda pool, timeout: list(pool.map(answer, [1], timeout=timeout)),
    "starmap": lambda pool, timeout: list(pool.starmap("fine", [(1,)], timeout=timeout)),
    "drain": lambda pool, timeout: pool.drain(timeout),
    "restart": lambda pool, timeout: pool.restart(timeout),
    "shutdown": lambda pool, timeout: pool.shutdown(timeout=timeout),  # type: ignore[call-arg]
}
#: Those after which a pool is not what it was.
ENDING = ["restart", "shutdown"]
#: What is given for ``max_pending``.
QUEUES = {"any queue": None, "max_pending=1": 1}


@contextmanager
def occupied_pool(max_pending: int | None) -> Iterator[ProcessWasmPool]:
    """A pool whose one worker runs what does not end, and waits in it; with ``max_pending``, whose queue is full."""
    options = {} if max_pending is None else {"max_pending": max_pending}
    with pool_that_goes(MODULE, workers=1, wasi=WasiConfig(), kill_grace=0.3, **options) as pool:
        pool.submit(dwell)
        eventually(lambda: pool.stats().busy == 1, "the worker to have it")
        if options:
            pool.submit("fine", 1)
        yield pool


@pytest.fixture(scope="module", params=QUEUES.values(), ids=list(QUEUES))
def occupied(request: pytest.FixtureRequest) -> Iterator[ProcessWasmPool]:
    """One for the tests that leave it so."""
    with occupied_pool(request.param) as pool:
        yield pool


@pytest.mark.parametrize("way", WAYS)
def test_time_in_the_queue_counts(occupied: ProcessWasmPool, way: str) -> None:
    with pytest.raises(CallTimeout):
        within(WAYS[way], occupied, 0.1)
    assert occupied.stats().busy == 1, "what ran goes on"


@pytest.mark.parametrize("way", [way for way in WAITS if way not in ENDING])
def test_waiting_ends_in_time(occupied: ProcessWasmPool, way: str) -> None:
    with pytest.raises(TimeoutError):
        within(WAITS[way], occupied, 0.1)
    assert occupied.stats().busy == 1, "what ran goes on"


@pytest.mark.parametrize("max_pending", QUEUES.values(), ids=list(QUEUES))
@pytest.mark.parametrize("way", ENDING)
def test_waiting_for_an_end_ends_in_time(max_pending: int | None, way: str) -> None:
    with occupied_pool(max_pending) as pool, pytest.raises(TimeoutError):
        within(WAITS[way], pool, 0.1)


@pytest.fixture(scope="module")
def hasty() -> Iterator[ProcessWasmPool]:
    """With a timeout of its own; its worker is idle before and after each test."""
    with pool_that_goes(MODULE, workers=1, wasi=WasiConfig(), kill_grace=DEADLINE, timeout=0.1) as pool:
        yield pool


@pytest.mark.parametrize("way", WAYS)
def test_the_pools_own_timeout_means_the_same(hasty: ProcessWasmPool, way: str) -> None:
    """And so does infinity, for one call: no limit."""
    release = threading.Event()
    blocker = hasty.submit("spin", timeout=math.inf)
    busy_pid(hasty)
    with pytest.raises(CallTimeout):
        within(WAYS[way], hasty, None)
    threading.Timer(0.3, lambda: (release.set(), blocker.cancel())).start()
    assert within(WAYS[way], hasty, math.inf) is not None
    assert release.is_set(), "it has waited longer than the pool's timeout"


def test_a_job_whose_time_ran_out_in_the_queue_never_runs(nothing_left: None, tmp_path: Path) -> None:
    def note(instance: Any, path: str, n: int) -> None:
        with open(path, "a") as file:
            file.write(f"{n}\n")

    path = tmp_path / "ran"
    with pool_that_goes(MODULE, workers=1, wasi=WasiConfig(), kill_grace=0.3) as pool:
        blocker = pool.submit("spin")
        pid = busy_pid(pool)
        late = [pool.submit(note, str(path), n, timeout=0.1) for n in range(20)]
        for future in late:
            assert isinstance(within(future.exception), CallTimeout)
        assert not blocker.done()
        patient = [pool.submit(note, str(path), n, timeout=2 * DEADLINE) for n in range(20, 25)]
        blocker.cancel()
        for future in patient:
            future.result(DEADLINE)
        assert list(map(int, path.read_text().split())) == list(range(20, 25))
        assert worker_pids(pool) == [pid] and pool.stats().pending == 0


def test_what_remains_when_it_begins_is_less_by_the_wait(nothing_left: None) -> None:
    """A job's deadline is the caller's, not one that begins anew in the worker."""

    def remaining(instance: Any) -> float | None:
        return current_context().remaining()

    with pool_that_goes(MODULE, workers=1, wasi=WasiConfig()) as pool:
        blocker = pool.submit("spin")
        busy_pid(pool)
        future = pool.submit(remaining, timeout=1000)
        submitted = time.monotonic()
        time.sleep(0.3)  # the wait that is to count
        waited = time.monotonic() - submitted
        blocker.cancel()
        assert 0 < future.result(DEADLINE) <= 1000 - waited


def test_a_maps_item_timeout_is_running_time_of_one_item(nothing_left: None) -> None:
    """Other than a timeout: items wait for each other, and that is not their fault."""

    def nap(instance: Any, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    with pool_that_goes(FIXTURES / "misbehave.wasm", workers=1, kill_grace=0.1) as pool:
        assert list(pool.map(nap, [0.1] * 12, item_timeout=1.0, timeout=DEADLINE)) == [0.1] * 12
        outcomes = list(pool.map(nap, [0.0, 1000.0, 0.0], item_timeout=1.0, return_exceptions=True))
        assert outcomes[::2] == [0.0, 0.0] and isinstance(outcomes[1], CallTimeout)


# -- a full queue ------------------------------------------------------------------------------------------------------


def full(**options: Any) -> Any:
    return pool_that_goes(MODULE, workers=1, wasi=WasiConfig(), max_pending=1, kill_grace=0.3, **options)


def fill(pool: ProcessWasmPool) -> tuple[Future[Any], Future[Any]]:
    running = pool.submit("spin")
    busy_pid(pool)
    return running, pool.submit("fine", 1)


def test_the_shorter_of_timeout_and_full_timeout_ends_the_wait_for_room(nothing_left: None) -> None:
    with full(full_timeout=0.1) as pool:
        running, queued = fill(pool)
        with pytest.raises(PoolFull):
            within(pool.call, "fine", 1, timeout=3 * DEADLINE)
        running.cancel()
        assert queued.result(DEADLINE) == 1
    with full(full_timeout=3 * DEADLINE) as pool:
        fill(pool)
        with pytest.raises(CallTimeout):
            within(pool.call, "fine", 1, timeout=0.1)


def test_who_gives_up_waiting_for_room_leaves_nothing_behind(nothing_left: None) -> None:
    with full() as pool:
        running, queued = fill(pool)
        for way in (*WAYS, "get", "instance"):
            with pytest.raises(TimeoutError):
                within({**WAYS, **WAITS}[way], pool, 0.02)
        assert pool.stats().pending == 1
        running.cancel()
        assert queued.result(DEADLINE) == 1
        assert pool.call("fine", 2, timeout=DEADLINE) == 2
        eventually(lambda: pool.stats().idle == 1 and pool.stats().pending == 0, "nothing more to do")


@pytest.mark.parametrize("ends", ["in time", "by its timeout", "by cancellation"])
def test_acall_never_blocks_the_loop(ends: str) -> None:
    async def main(pool: ProcessWasmPool, running: Future[Any]) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        call = asyncio.create_task(pool.acall("fine", 1, timeout=0.2 if ends == "by its timeout" else None))
        while ticks < 100:  # it waits for room meanwhile
            await asyncio.sleep(0)
        assert not call.done()
        if ends == "in time":
            running.cancel()
            assert await call == 1
        elif ends == "by its timeout":
            with pytest.raises(CallTimeout):
                await call
        else:
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert ticks >= 100
        ticking.cancel()

    with full() as pool:
        running, queued = fill(pool)
        within(asyncio.run, main(pool, running))
        running.cancel()
        assert queued.result(DEADLINE) == 1
        assert pool.call("fine", 2, timeout=DEADLINE) == 2


# -- leases ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [-1, 0, -0.0, math.nan, -math.inf, True, False, "1", [1], 1j])
def test_a_timeout_that_is_none_does_not_cost_the_lease(timeout: Any) -> None:
    with pool_that_goes(FIXTURES / "misbehave.wasm", workers=1) as pool, pool.instance() as lease:
        assert lease.call("soil") == 1
        for call in (lease.call, lambda _, **options: lease.exports["soil"](**options)):
            with pytest.raises((ValueError, TypeError), match="timeout"):
                call("soil", timeout=timeout)
        assert lease.call("soil") == 2, "the same instance, and nothing has run in between"


def test_no_limit_for_one_call_of_a_lease(nothing_left: None) -> None:
    with pool_that_goes(FIXTURES / "kernels.wasm", workers=1, timeout=0.2) as pool, pool.instance() as lease:
        started = time.monotonic()
        while time.monotonic() - started < 0.3:  # longer than the pool's timeout, whatever the machine's speed
            lease.call("churn", 1, 1_000_000, timeout=math.inf)
        assert lease.call("add", 1, 2, timeout=None) == 3


def test_the_timeout_of_a_lease_is_of_getting_it_only(nothing_left: None) -> None:
    with pool_that_goes(FIXTURES / "misbehave.wasm", workers=1) as pool, pool.instance(timeout=0.2) as lease:
        time.sleep(0.3)
        assert lease.call("soil") == 1
