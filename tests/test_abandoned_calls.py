"""Calls that their callers have left: by a deadline, by Ctrl-C, by cancelling.  What runs on is stopped, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any

import cloudpickle
import pytest
from bounded import in_a_program
from conftest import DEADLINE, FIXTURES, eventually, worker_pids
from test_instances import with_note

from procpool import CallTimeout, ProcessWasmPool, wire
from procpool.deadline import Deadline
from procpool.supervisor.direct import _read_rest
from procpool.supervisor.port import REPLY_BYTES, Port

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import what tests need
HOST = FIXTURES / "host.wat"
HOUR_MS = 3_600_000


def doze(milliseconds: int) -> None:
    time.sleep(milliseconds / 1000)


def sound(pool: ProcessWasmPool, workers: int) -> None:
    """All its workers are there and idle, and it ends when it is told to."""
    assert [pool.call("double", n) for n in range(50)] == list(range(0, 100, 2))
    eventually(lambda: pool.stats().idle == workers, "all workers to be idle")
    assert list(pool.map("double", range(100))) == list(range(0, 200, 2))
    pool.shutdown()


def test_a_reply_left_half_read_is_read_on() -> None:
    """Its caller has left between two reads of a long reply: who takes over needs the first half too."""
    whole = wire.reply(wire.RAISED, bytes(3 * REPLY_BYTES))
    reading, writing = os.pipe()
    port = Port.__new__(Port)
    port.replies_fd, port.adopted_reader = reading, wire.FrameReader(wire.REPLY)
    try:
        os.write(writing, whole[: 2 * REPLY_BYTES])
        first = port.read()
        with pytest.raises(CallTimeout):
            _read_rest(port, first, Deadline.after(0.05), "slow")
        assert len(port.adopted_reader.feed(whole[2 * REPLY_BYTES :])) == 1
        assert not port.adopted_reader.incomplete
    finally:
        os.close(reading)
        os.close(writing)


# -- blocking calls in threads ---------------------------------------------------------------------------------------------


def _call(pool: ProcessWasmPool) -> None:
    pool.call("note", HOUR_MS, timeout=0.1)


def _lease(pool: ProcessWasmPool) -> None:
    with pool.instance() as lease:
        lease.call("note", HOUR_MS, timeout=0.1)


def stuck_calls_time_out_together(way: Callable[..., None], threads: int) -> None:
    with ProcessWasmPool(HOST, threads, imports=with_note(doze), kill_grace=0.05) as pool:
        pool.wait_ready(DEADLINE)
        with ThreadPoolExecutor(threads) as many:
            for _ in range(6 if threads < 8 else 3):
                for future in [many.submit(way, pool) for _ in range(threads)]:
                    assert isinstance(future.exception(DEADLINE), CallTimeout), future
        sound(pool, threads)


@pytest.mark.parametrize("threads", [4, 8])
@pytest.mark.parametrize("way", [_call, _lease], ids=["call", "lease"])
def test_stuck_calls_time_out_together(way: Callable[..., None], threads: int) -> None:
    """Each has its worker killed, and all at the same time."""
    in_a_program(stuck_calls_time_out_together, way, threads)


def calls_of_stopped_workers() -> None:
    with ProcessWasmPool(
        HOST, 4, imports=with_note(lambda n: os.kill(os.getpid(), signal.SIGSTOP)), kill_grace=0.05
    ) as pool:
        pool.wait_ready(DEADLINE)
        with ThreadPoolExecutor(4) as many:
            for _ in range(4):
                for future in [many.submit(pool.call, "note", 1, timeout=0.1) for _ in range(4)]:
                    assert isinstance(future.exception(DEADLINE), CallTimeout), future
        sound(pool, 4)


def test_calls_of_stopped_workers() -> None:
    in_a_program(calls_of_stopped_workers)


def workers_killed_at_the_deadline() -> None:
    """By somebody else, at the moment when their callers give up: before, during and after the pool does."""
    with ProcessWasmPool(HOST, 4, imports=with_note(doze), kill_grace=0.05) as pool:
        pool.wait_ready(DEADLINE)
        with ThreadPoolExecutor(4) as many:
            for round in range(12):
                futures = [many.submit(pool.call, "note", HOUR_MS, timeout=0.06) for _ in range(4)]
                if round % 2:
                    wait(futures, DEADLINE)
                else:
                    time.sleep(0.05 + round / 500)
                for worker in pool.stats().workers:  # but none that is not ready: a pool without a good start gives up
                    with suppress(ProcessLookupError):
                        if worker.pid and worker.state in ("busy", "idle"):
                            os.kill(worker.pid, signal.SIGKILL)
                assert all(future.exception(DEADLINE) is not None for future in futures)
        sound(pool, 4)


def test_workers_killed_at_the_deadline() -> None:
    in_a_program(workers_killed_at_the_deadline)


def with_abandoned_calls(way: Callable[..., None], kill_grace: float) -> ProcessWasmPool:
    """A pool whose workers all run calls whose callers have left."""
    pool = ProcessWasmPool(HOST, 4, imports=with_note(doze), kill_grace=kill_grace)
    pool.wait_ready(DEADLINE)
    with ThreadPoolExecutor(4) as many:
        for future in [many.submit(way, pool) for _ in range(4)]:
            assert isinstance(future.exception(DEADLINE), CallTimeout), future
    return pool


def terminated_while_abandoned(way: Callable[..., None]) -> None:
    """`terminate` within the time that an interrupted job has to stop."""
    with_abandoned_calls(way, kill_grace=3600).terminate()


@pytest.mark.parametrize("way", [_call, _lease], ids=["call", "lease"])
def test_terminated_while_abandoned(way: Callable[..., None]) -> None:
    in_a_program(terminated_while_abandoned, way)


def shut_down_while_abandoned() -> None:
    with_abandoned_calls(_call, kill_grace=0.3).shutdown()


def test_shut_down_while_abandoned() -> None:
    in_a_program(shut_down_while_abandoned)


def ctrl_c_in_calls_that_hang() -> None:
    """Each is left with its job, which is stopped."""
    with ProcessWasmPool(HOST, 2, imports=with_note(doze), kill_grace=0.05) as pool:
        pool.wait_ready(DEADLINE)
        for _ in range(6):
            main = threading.main_thread().ident
            assert main is not None
            ringing = threading.Timer(0.1, signal.pthread_kill, [main, signal.SIGINT])
            ringing.start()
            try:
                pool.call("note", HOUR_MS)
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("nobody interrupted it")
        sound(pool, 2)


def test_ctrl_c_in_calls_that_hang() -> None:
    in_a_program(ctrl_c_in_calls_that_hang)


def abandoned_with_instances() -> None:
    """Two of the four instances of a process hang and cost the others their process, which is not their fault."""
    with ProcessWasmPool(HOST, 1, instances=4, imports=with_note(doze), kill_grace=0.05, retries=3) as pool:
        pool.wait_ready(DEADLINE)
        with ThreadPoolExecutor(4) as many:
            for _ in range(4):
                hung = [many.submit(pool.call, "note", HOUR_MS, timeout=0.1) for _ in range(2)]
                fine = [many.submit(pool.call, "double", n) for n in range(2)]
                assert all(isinstance(future.exception(DEADLINE), CallTimeout) for future in hung)
                assert [future.result(DEADLINE) for future in fine] == [0, 2]
        sound(pool, 1)


def test_abandoned_with_instances() -> None:
    in_a_program(abandoned_with_instances)


# -- tasks -----------------------------------------------------------------------------------------------------------------


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _iterate(pool: ProcessWasmPool, export: str, *columns: Any) -> None:
    async for _ in pool.amap(export, *columns):
        pass


def _busy(pool: ProcessWasmPool) -> bool:
    return pool.stats().busy > 0


async def _until_busy(pool: ProcessWasmPool) -> None:
    while not _busy(pool):
        await asyncio.sleep(0.002)


def cancelled_amap(rounds: int) -> None:
    with ProcessWasmPool(HOST, 2, imports=with_note(doze)) as pool:
        pool.wait_ready(DEADLINE)
        before = sorted(worker_pids(pool))

        async def main() -> None:
            for _ in range(rounds):
                task = asyncio.ensure_future(_iterate(pool, "note", [20] * 1000))
                await _until_busy(pool)
                await _cancelled(task)
                assert await pool.acall("double", 4) == 8

        asyncio.run(main())
        eventually(lambda: pool.stats().idle == 2, "both workers to be idle")
        assert sorted(worker_pids(pool)) == before and pool.stats().killed == 0
        sound(pool, 2)


def test_cancelling_a_task_that_iterates_amap_costs_no_worker() -> None:
    in_a_program(cancelled_amap, 5)


def terminate_after_cancelling(how: str) -> None:
    """While the worker still has time to stop what it runs."""
    pool = ProcessWasmPool(HOST, 2, imports=with_note(doze), kill_grace=3600)
    pool.wait_ready(DEADLINE)

    async def main() -> None:
        if how == "amap":
            task = asyncio.ensure_future(_iterate(pool, "note", [HOUR_MS] * 10))
        else:
            task = asyncio.ensure_future(pool.acall("note", HOUR_MS))
        await _until_busy(pool)
        await _cancelled(task)

    asyncio.run(main())
    pool.terminate()


@pytest.mark.parametrize("how", ["amap", "acall"])
def test_terminate_after_cancelling(how: str) -> None:
    in_a_program(terminate_after_cancelling, how)


def amap_left_early() -> None:
    with ProcessWasmPool(HOST, 2, imports=with_note(doze)) as pool:
        pool.wait_ready(DEADLINE)
        before = sorted(worker_pids(pool))

        async def main(how: str) -> None:
            results: Any = pool.amap("note", [5] * 10_000)
            async for _ in results:
                break
            if how == "aclose":
                await results.aclose()
            elif how == "dropped":
                del results
            else:  # one of its steps runs out of time
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(results.__anext__(), 0.0001)
                await results.aclose()
            assert await pool.acall("double", 4) == 8

        for how in ("aclose", "dropped", "wait_for"):
            print(how, flush=True)
            asyncio.run(main(how))
        eventually(lambda: pool.stats().idle == 2, "both workers to be idle")
        assert sorted(worker_pids(pool)) == before and pool.stats().killed == 0
        sound(pool, 2)


def test_amap_left_early() -> None:
    in_a_program(amap_left_early)


def cancelled_acalls() -> None:
    """Some that run, some that wait in a worker, and some in the queue."""
    with ProcessWasmPool(HOST, 2, imports=with_note(doze)) as pool:
        pool.wait_ready(DEADLINE)
        before = sorted(worker_pids(pool))

        async def main() -> None:
            tasks = [asyncio.ensure_future(pool.acall("note", 20)) for _ in range(200)]
            await _until_busy(pool)
            for task in tasks[::2]:
                task.cancel()
            outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), DEADLINE)
            assert set(outcomes[1::2]) == {None}
            late = sum(outcome is None for outcome in outcomes[::2])
            assert late <= 20, "some may have ended before they were cancelled, on a crowded machine"

        asyncio.run(main())
        eventually(lambda: pool.stats().idle == 2, "both workers to be idle")
        assert sorted(worker_pids(pool)) == before and pool.stats().killed == 0
        sound(pool, 2)


def test_cancelled_acalls() -> None:
    in_a_program(cancelled_acalls)


# -- maps ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["export", "callable"])
def test_a_map_given_up_costs_no_worker(what: str) -> None:
    in_a_program(map_given_up, what)


def map_given_up(what: str) -> None:
    with ProcessWasmPool(HOST, 2, imports=with_note(doze)) as pool:
        pool.wait_ready(DEADLINE)
        before = sorted(worker_pids(pool))
        export = "note" if what == "export" else lambda instance, milliseconds: doze(milliseconds)

        def leave_one_in_flight(way: str) -> None:
            results = pool.map(export, [20] * 500, timeout=0.05 if way == "timeout" else None)
            eventually(lambda: _busy(pool), "the map to run")
            if way == "close":
                results.close()
            elif way == "timeout":
                with pytest.raises(FutureTimeout):
                    list(results)
            elif way == "exception":
                with suppress(ZeroDivisionError):
                    for _ in results:
                        raise ZeroDivisionError

        for way in ("close", "del", "timeout", "exception"):
            print(way, flush=True)
            for _ in range(3):
                leave_one_in_flight(way)
                assert pool.call("double", 4) == 8
        eventually(lambda: pool.stats().idle == 2, "both workers to be idle")
        assert sorted(worker_pids(pool)) == before and pool.stats().killed == 0
        sound(pool, 2)


def terminate_after_closing_a_map() -> None:
    pool = ProcessWasmPool(HOST, 2, imports=with_note(doze), kill_grace=3600)
    results = pool.map("note", [HOUR_MS] * 10)
    eventually(lambda: _busy(pool), "the map to run")
    results.close()
    pool.terminate()


def test_terminate_after_closing_a_map() -> None:
    in_a_program(terminate_after_closing_a_map)
