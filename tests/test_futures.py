"""submit: the standard library's own tools over our futures, cancelling, callbacks, and sharing of workers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import signal
import threading
from concurrent.futures import Future
from typing import Any

import pytest
from bounded import within
from conftest import DEADLINE, KERNELS, MISBEHAVE, busy_pid, eventually

from procpool import BadArguments, CallTimeout, PoolClosed, ProcessWasmPool, WasmTrap, WorkerCrashed


def test_it_is_an_executor(kernels: ProcessWasmPool) -> None:
    assert isinstance(kernels, concurrent.futures.Executor)
    future = kernels.submit("add", 1, 2)
    assert isinstance(future, Future)
    assert future.result(DEADLINE) == 3 and future.done() and not future.running() and not future.cancelled()
    assert future.exception() is None


def test_ten_thousand_in_order(kernels: ProcessWasmPool) -> None:
    futures = [kernels.submit("add", n, 1) for n in range(10_000)]
    assert [future.result(DEADLINE) for future in futures] == list(range(1, 10_001))


def test_the_standard_librarys_wait_and_as_completed(kernels: ProcessWasmPool) -> None:
    futures = {kernels.submit("fib", n): n for n in range(25)}
    done, not_done = concurrent.futures.wait(futures, DEADLINE)
    assert done == set(futures) and not not_done
    again = {kernels.submit("fib", n % 20): n % 20 for n in range(200)}
    expected = [0, 1]
    while len(expected) < 20:
        expected.append(expected[-1] + expected[-2])
    for future in concurrent.futures.as_completed(again, DEADLINE):
        assert future.result() == expected[again[future]]  # type: ignore[index]


def test_callbacks_see_the_result_and_may_submit_again(kernels: ProcessWasmPool) -> None:
    nested: list[Future[Any]] = []
    ready = threading.Event()

    def again(future: Future[Any]) -> None:
        nested.append(kernels.submit("add", future.result(), 1))
        ready.set()

    kernels.submit("add", 1, 1).add_done_callback(again)
    assert ready.wait(DEADLINE)
    assert nested[0].result(DEADLINE) == 3


def test_a_callback_that_raises_harms_nobody(kernels: ProcessWasmPool, caplog: pytest.LogCaptureFixture) -> None:
    kernels.submit("fib", 25).add_done_callback(lambda future: 1 // 0)
    assert kernels.submit("add", 1, 2).result(DEADLINE) == 3
    eventually(lambda: "exception calling callback" in caplog.text, "the log of the callback's error")


def test_bad_arguments_raise_at_once(kernels: ProcessWasmPool) -> None:
    with pytest.raises(BadArguments):
        kernels.submit("add", 1)


def test_traps_arrive_in_their_own_future(misbehave: ProcessWasmPool) -> None:
    futures = [misbehave.submit("divide", 10, n % 3) for n in range(300)]
    for n, future in enumerate(futures):
        if n % 3:
            assert future.result(DEADLINE) == 10 // (n % 3)
        else:
            assert isinstance(future.exception(DEADLINE), WasmTrap)


def test_cancel_while_queued(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        running = pool.submit("spin", timeout=1.5)
        queued = [pool.submit("soil") for _ in range(10)]
        busy_pid(pool)
        assert all(future.cancel() for future in queued[::2])
        assert all(future.cancelled() for future in queued[::2])
        assert running.running() and not running.cancelled()
        with pytest.raises(CallTimeout):
            running.result(DEADLINE)
        assert not running.cancel()
        assert [future.result(DEADLINE) for future in queued[1::2]] == [1, 2, 3, 4, 5], "cancelled jobs must not run"


def test_a_long_job_holds_no_short_ones_hostage(misbehave: ProcessWasmPool) -> None:
    for _ in range(3):  # so that the pool knows jobs to be short, and fills the pipes
        concurrent.futures.wait([misbehave.submit("fine", n) for n in range(2000)])
    before = [misbehave.submit("fine", n) for n in range(100)]
    endless = misbehave.submit("spin")
    after = [misbehave.submit("fine", n) for n in range(2000)]
    assert [future.result(DEADLINE) for future in before + after] == [*range(100), *range(2000)]
    assert not endless.done()
    os.kill(busy_pid(misbehave), signal.SIGKILL)
    assert isinstance(endless.exception(DEADLINE), WorkerCrashed)


def test_a_death_fails_only_the_job_that_ran(misbehave: ProcessWasmPool) -> None:
    for _ in range(3):
        concurrent.futures.wait([misbehave.submit("fine", n) for n in range(2000)])
    for _ in range(5):
        before = [misbehave.submit("fine", n) for n in range(500)]
        endless = misbehave.submit("spin")
        after = [misbehave.submit("fine", n) for n in range(500)]
        concurrent.futures.wait(after[-100:], DEADLINE)
        os.kill(busy_pid(misbehave), signal.SIGKILL)
        assert isinstance(endless.exception(DEADLINE), WorkerCrashed)
        assert [future.result(DEADLINE) for future in before + after] == [*range(500), *range(500)]


def test_work_spreads_evenly(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=4) as pool:
        eventually(lambda: pool.stats().idle == 4, "all workers")
        # Long enough together that the system gives each worker its share, whatever else runs.
        concurrent.futures.wait([pool.submit("churn", n, 1_000_000) for n in range(400)])
        calls = [worker.calls for worker in pool.stats().workers]
        assert sum(calls) == 400 and min(calls) >= 20, calls


def test_shutdown_finishes_what_was_submitted(nothing_left: None) -> None:
    pool = ProcessWasmPool(KERNELS, workers=2)
    futures = [pool.submit("fib", 15) for _ in range(2000)]
    pool.shutdown()
    assert all(future.result(0) == 610 for future in futures)


def test_shutdown_may_cancel_what_has_not_begun(nothing_left: None) -> None:
    pool = ProcessWasmPool(KERNELS, workers=1)
    futures = [pool.submit("churn", 1, 3_000_000) for _ in range(100)]
    pool.shutdown(cancel_futures=True)
    assert all(future.done() for future in futures)
    assert sum(future.cancelled() for future in futures) > 50


def test_terminate_ends_everything_now(nothing_left: None) -> None:
    pool = ProcessWasmPool(MISBEHAVE, workers=2)
    futures = [pool.submit("spin") for _ in range(4)]
    within(pool.terminate)
    for future in futures:
        assert isinstance(future.exception(0), PoolClosed)


def test_submissions_race_with_shutdown_and_none_is_lost(nothing_left: None) -> None:
    for seed in range(4):
        pool = ProcessWasmPool(KERNELS, workers=2)
        accepted: list[Future[Any]] = []

        def submit_until_closed(pool: ProcessWasmPool = pool, accepted: list[Future[Any]] = accepted) -> None:
            try:
                for _ in range(5000):
                    accepted.append(pool.submit("add", 1, 2))
            except PoolClosed:
                pass

        threads = [threading.Thread(target=submit_until_closed) for _ in range(3)]
        for thread in threads:
            thread.start()
        seen = random.Random(seed).randrange(5000)
        eventually(lambda accepted=accepted, seen=seen: len(accepted) >= seen, "submissions")  # type: ignore[misc]
        pool.shutdown()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        concurrent.futures.wait(accepted, DEADLINE)
        for future in accepted:
            assert future.done() and (isinstance(future.exception(0), PoolClosed) or future.result(0) == 3)


def test_asyncio(kernels: ProcessWasmPool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await kernels.acall("add", 1, 2) == 3
        assert await loop.run_in_executor(kernels, "add", 3, 4) == 7  # type: ignore[arg-type]
        assert await asyncio.gather(*(kernels.acall("add", n, n) for n in range(500))) == [2 * n for n in range(500)]
        assert [value async for value in kernels.amap("add", range(5000), range(5000))] == [2 * n for n in range(5000)]
        with pytest.raises(BadArguments):
            await kernels.acall("add", 1)

    asyncio.run(main())


def test_asyncio_timeouts(nothing_left: None) -> None:
    async def main(pool: ProcessWasmPool) -> None:
        with pytest.raises(CallTimeout):
            await pool.acall("spin", timeout=0.05)
        assert await pool.acall("fine", 3) == 3

    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        asyncio.run(main(pool))
