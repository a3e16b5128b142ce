"""Submitted calls that a hot worker makes while `submit` looks on: they end as queued ones do, whatever becomes of them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from conftest import DEADLINE, MISBEHAVE, busy_pid, eventually, worker_pids

from procpool import BadArguments, CallTimeout, PoolClosed, ProcessWasmPool, WasmTrap, WorkerCrashed
from procpool.raw import RAW
from procpool.supervisor.dispatcher import Dispatcher
from procpool.supervisor.prompt import BURST, TRIED_AGAIN, PromptCalls
from procpool.supervisor.spinning import Spinning

pytestmark = pytest.mark.skipif(not RAW, reason="there are no pages with wasmtime's public API")


@pytest.fixture(params=[0])
def pool(request: pytest.FixtureRequest, nothing_left: None) -> Iterator[ProcessWasmPool]:
    """Of two workers; its parameter is how often a job may be run again."""
    with ProcessWasmPool(MISBEHAVE, workers=2, kill_grace=1.0, retries=request.param) as made:
        made.wait_ready(DEADLINE)
        yield made
        made.terminate()  # what a failed test left running would never end


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The jobs that went on by themselves."""
    found: list[Any] = []
    keep = Dispatcher.keep

    def note(self: Dispatcher, lane: Any, job: Any, since: float, taken: bool) -> None:
        if taken:  # by the page
            found.append(job)
        keep(self, lane, job, since, taken)

    monkeypatch.setattr(Dispatcher, "keep", note)
    return found


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides wait awake for long, so that a loaded machine has time for both; each call by the pipe is a try."""
    monkeypatch.setattr(Spinning, "toll_ns", property(lambda self: 100e6))
    monkeypatch.setattr(Spinning, "begin", lambda self, *how, **more: True)


def heat(pool: ProcessWasmPool) -> None:
    """Submit until a job has ended when `submit` returns."""
    eventually(lambda: pool.submit("fine", 1).done(), "a hot worker")


def going_on(pool: ProcessWasmPool, kept: list[Any], **how: Any) -> Future[Any]:
    """A job that a hot worker has taken, and that never ends."""
    found: list[Future[Any]] = []

    def taken() -> bool:
        heat(pool)
        future = pool.submit("spin", **how)
        if future in kept:
            found.append(future)
            return True
        future.cancel()  # the worker had gone to sleep meanwhile, or it was over by then
        return False

    eventually(taken, "a job that a hot worker has taken")
    return found[0]


def sound(pool: ProcessWasmPool) -> None:
    """All its workers are there and idle."""
    assert [pool.submit("fine", n).result(DEADLINE) for n in range(50)] == list(range(50))
    eventually(lambda: pool.stats().idle == 2, "all workers to be idle")
    assert list(pool.map("fine", range(100))) == list(range(100))


def test_a_small_job_has_ended_when_submit_returns(pool: ProcessWasmPool) -> None:
    heat(pool)
    called: list[int] = []

    def ended_at_once() -> bool:
        future = pool.submit("fine", 7)
        if not future.done():
            return False
        future.add_done_callback(lambda done: called.append(done.result()))
        assert not future.cancel()
        return future.result() == 7

    eventually(ended_at_once, "a hot worker")
    assert called == [7]
    sound(pool)


def test_a_job_that_takes_long_goes_on_by_itself(pool: ProcessWasmPool, kept: list[Any]) -> None:
    future = going_on(pool, kept)
    assert future.running()
    assert [pool.submit("fine", n).result(DEADLINE) for n in range(50)] == list(range(50))
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    sound(pool)


def test_its_time_is_kept(pool: ProcessWasmPool, kept: list[Any]) -> None:
    with pytest.raises(CallTimeout, match=r"spin got no result within 0\.2 s"):
        going_on(pool, kept, timeout=0.2).result(DEADLINE)
    sound(pool)


def test_its_worker_dies(pool: ProcessWasmPool, kept: list[Any]) -> None:
    future = going_on(pool, kept)
    os.kill(busy_pid(pool), signal.SIGKILL)
    with pytest.raises(WorkerCrashed, match="spin"):
        future.result(DEADLINE)
    sound(pool)


@pytest.mark.parametrize("pool", [1], indirect=True)
def test_it_is_run_again_as_often_as_it_may(pool: ProcessWasmPool, kept: list[Any]) -> None:
    future = going_on(pool, kept)
    first = busy_pid(pool)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: first not in worker_pids(pool), "its end to be known")
    second = busy_pid(pool)
    assert second != first
    os.kill(second, signal.SIGKILL)
    with pytest.raises(WorkerCrashed):
        future.result(DEADLINE)
    sound(pool)


def test_the_pool_is_shut_down_while_it_runs(pool: ProcessWasmPool, kept: list[Any]) -> None:
    future = going_on(pool, kept)
    ending = threading.Thread(target=pool.shutdown)
    ending.start()
    eventually(lambda: pool.closed, "the pool to be closed")
    assert not future.done()
    with pytest.raises(PoolClosed):
        pool.submit("fine", 1)
    future.cancel()
    ending.join(DEADLINE)
    assert not ending.is_alive()


def test_what_it_ends_in_is_the_same(pool: ProcessWasmPool) -> None:
    """Traps by wasm and by Python, in turns with results, hot or not."""
    for n in range(60):
        assert pool.submit("fine", n).result(DEADLINE) == n
        with pytest.raises(WasmTrap, match="unreachable"):
            pool.submit("trap").result(DEADLINE)
        assert pool.submit("divide", n, 1).result(DEADLINE) == n
        with pytest.raises(WasmTrap, match="divide by zero"):
            pool.submit("divide", n, 0).result(DEADLINE)
    sound(pool)


def test_arguments_that_do_not_fit_harm_nobody(pool: ProcessWasmPool) -> None:
    for n in range(50):
        heat(pool)
        with pytest.raises(BadArguments):
            pool.submit("fine", 2**40)
        with pytest.raises(BadArguments):
            pool.submit("fine", "1")
        with pytest.raises(BadArguments):
            pool.submit("fine", n, n)
    sound(pool)


def test_other_tasks_run_between_calls_that_are_done_at_once(pool: ProcessWasmPool) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        beside = asyncio.create_task(others())
        for n in range(500):
            assert await pool.acall("fine", n) == n
        beside.cancel()

    asyncio.run(main())
    assert turns >= 499


def test_most_of_many_whose_results_are_asked_for_later_are_queued(
    pool: ProcessWasmPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    attempt = PromptCalls.attempt

    def count(self: PromptCalls, *how: Any) -> Any:
        nonlocal made
        job = attempt(self, *how)
        made += job is not None
        return job

    heat(pool)
    monkeypatch.setattr(PromptCalls, "attempt", count)
    futures = [pool.submit("fine", n) for n in range(1000)]
    assert made <= BURST + 1000 // TRIED_AGAIN + 1
    assert [future.result(DEADLINE) for future in futures] == list(range(1000))
    heat(pool)  # so the next ones are made at once again


def test_a_result_that_somebody_has_forgotten_does_not_slow_others_for_ever(pool: ProcessWasmPool) -> None:
    forgotten = [pool.submit("fine", n) for n in range(100)]
    heat(pool)
    assert not any(future.asked for future in forgotten[:BURST])  # type: ignore[attr-defined]


def test_hundreds_of_jobs_of_all_kinds_are_counted_once_each(pool: ProcessWasmPool, kept: list[Any]) -> None:
    """Both sides number jobs; if they came apart, answers would go to the wrong ones."""
    choose = random.Random(14)
    before = pool.stats().calls
    made = 0
    for n in range(400):
        kind = choose.choice(("call", "submit", "submit", "trap", "burst", "map"))
        if kind == "call":
            assert pool.call("fine", n) == n
            made += 1
        elif kind == "submit":
            assert pool.submit("fine", n).result(DEADLINE) == n
            made += 1
        elif kind == "trap":
            with pytest.raises(WasmTrap):
                pool.submit("trap").result(DEADLINE)
            made += 1
        elif kind == "burst":
            futures = [pool.submit("fine", k) for k in range(20)]
            assert [future.result(DEADLINE) for future in futures] == list(range(20))
            made += 20
        else:
            assert list(pool.map("fine", range(30))) == list(range(30))
            made += 30
    assert pool.stats().calls - before == made
    sound(pool)


def test_a_job_whose_answer_is_there_ends_in_it_though_the_pool_is_terminated(
    pool: ProcessWasmPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = PromptCalls._end

    def terminated(self: PromptCalls, *how: Any) -> None:
        pool._dispatcher.close(kill=True)
        pool._dispatcher._stopped.result(DEADLINE)
        end(self, *how)

    heat(pool)
    monkeypatch.setattr(PromptCalls, "_end", terminated)
    assert pool.submit("fine", 7).result(DEADLINE) == 7


def test_who_waits_for_all_to_be_done_hears_of_a_submit_that_came_to_nothing(
    pool: ProcessWasmPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draining = threading.Thread(target=pool.drain, args=(DEADLINE,))

    def begin(self: Spinning, *how: Any, **more: Any) -> bool:
        """Meanwhile another thread begins to wait for that."""
        draining.start()
        eventually(lambda: pool._dispatcher.attentive, "it to wait")
        return False

    eventually(lambda: pool.stats().idle == 2, "all workers to be idle")
    monkeypatch.setattr(Spinning, "begin", begin)
    with pytest.raises(BadArguments):
        pool.submit("fine", 2**70)
    draining.join(DEADLINE / 2)
    assert not draining.is_alive()
