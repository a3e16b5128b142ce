"""The async twins: under asyncio (in debug mode), uvloop and anyio; nothing blocks the loop, and cancelling cancels."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import math
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import pytest
from bounded import run_script
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, busy_pid, eventually

from procpool import (
    BadArguments,
    CallTimeout,
    PoolClosed,
    PoolFull,
    ProcessWasmPool,
    UnknownExport,
    WasiConfig,
    WasmTrap,
)
from procpool.deadline import Deadline
from procpool.supervisor.awaiting import ended, ended_async, running_loop, wait_async, wait_for

Main = Callable[[], Coroutine[Any, Any, Any]]


def _asyncio(main: Main) -> Any:
    return asyncio.run(main(), debug=True)


def _uvloop(main: Main) -> Any:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def _anyio(main: Main) -> Any:
    return pytest.importorskip("anyio").run(main)


@pytest.fixture(params=[_asyncio, _uvloop, _anyio], ids=["asyncio", "uvloop", "anyio"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    """Runs a coroutine function in an event loop; fails if that takes too long."""

    def bounded(main: Main) -> Any:
        async def timed() -> Any:
            return await asyncio.wait_for(main(), DEADLINE)

        return request.param(timed)

    return bounded


@pytest.fixture
def crowded() -> Any:
    """A pool whose one worker is busy, with a queue of one that is full."""
    pool = ProcessWasmPool(MISBEHAVE, workers=1, max_pending=1, kill_grace=0.2)
    running = pool.submit("spin")
    busy_pid(pool)
    pool.queued = pool.submit("fine", 1)  # type: ignore[attr-defined]
    pool.running = running  # type: ignore[attr-defined]
    yield pool
    pool.terminate()


async def beats(task: Awaitable[Any]) -> int:
    """How often the loop has come round, at least every 5 ms, until the task was done."""
    count, waiting = 0, asyncio.ensure_future(task)
    while not waiting.done():
        await asyncio.wait([waiting], timeout=0.005)
        count += 1
    await waiting
    return count


def raise_stop(instance: Any) -> None:
    raise StopIteration("enough")


# -- all of them -------------------------------------------------------------------------------------------------------


def test_calls(kernels: ProcessWasmPool, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        assert await kernels.acall("add", 1, 2) == 3
        assert await kernels.acall(lambda instance, n: instance.call("add", n, 1), 4, key="a", priority=3, retries=1) == 5
        assert await kernels.acall("add", 1, 2, timeout=math.inf) == 3
        assert await asyncio.gather(*(kernels.acall("add", n, n) for n in range(300))) == [2 * n for n in range(300)]
        for error, args in ((BadArguments, ("add", 1)), (UnknownExport, ("ad", 1)), (TypeError, (None,))):
            with pytest.raises(error):
                await kernels.acall(*args)  # type: ignore[arg-type]

    run(main)


def test_errors_arrive(misbehave: ProcessWasmPool, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        with pytest.raises(WasmTrap):
            await misbehave.acall("trap")
        with pytest.raises(CallTimeout):
            await misbehave.acall("spin", timeout=0.05)
        with pytest.raises(KeyError, match="odd"):
            await misbehave.acall(lambda instance: {}["odd"])
        with pytest.raises(RuntimeError) as caught:
            await misbehave.acall(raise_stop)
        assert isinstance(caught.value.__cause__, StopIteration) and caught.value.__cause__.value == "enough"
        assert await misbehave.acall("fine", 3) == 3

    run(main)


def test_bytes_and_commands(nothing_left: None, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        assert await hashes.acall_bytes("sha256", b"abc", returns=32) == hashes.call_bytes("sha256", b"abc", returns=32)
        with pytest.raises(UnknownExport):
            await hashes.acall_bytes("sha257", b"abc")
        done = await command.arun(["upper", "upper"], stdin=b"hello", text=True)
        assert (done.returncode, done.stdout) == (0, "HELLO")
        with pytest.raises(CallTimeout) as caught:
            await command.arun(["spin", "spin"], timeout=0.5)
        assert caught.value.stdout in (b"spinning\n", None)

    with ProcessWasmPool(FIXTURES / "sha256.wasm", workers=1) as hashes:  # noqa: SIM117
        with ProcessWasmPool(FIXTURES / "command.wasm", workers=1, wasi=WasiConfig()) as command:
            run(main)


def test_leases(nothing_left: None, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        async with pool.instance(timeout=5) as lease:
            assert await asyncio.to_thread(lease.call, "soil") == 1
            with pytest.raises(TimeoutError, match="in use"):
                await pool.aget(timeout=0.05)
            waiting = asyncio.ensure_future(pool.aget())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        again = await pool.aget()
        assert again.call("soil") == 2
        await pool.aput(again, discard=True)
        with pytest.raises(TypeError):
            await pool.aput("lease")  # type: ignore[arg-type]
        async with pool.instance(discard=True) as lease:
            assert lease.call("soil") == 1
            lease.put()
        assert await pool.acall("soil") == 2

    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        run(main)


def test_life(nothing_left: None, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        async with ProcessWasmPool(MISBEHAVE, workers=2, kill_grace=0.2) as pool:
            await pool.await_ready()
            before = {worker.pid for worker in pool.stats().workers}
            await pool.arestart(timeout=DEADLINE)
            assert not before & {worker.pid for worker in pool.stats().workers}
            job = pool.submit("fine", 1)
            await pool.adrain(timeout=DEADLINE)
            assert job.done()
            endless = pool.submit("spin")
            assert await beats_until(pool.adrain(timeout=0.2), TimeoutError) > 1
            endless.cancel()
        with pytest.raises(PoolClosed):
            await pool.acall("fine", 1)
        for use in (pool.await_ready, pool.adrain, pool.arestart, pool.aget):
            with pytest.raises(PoolClosed):
                await use()
        await pool.ashutdown()  # again

    run(main)


async def beats_until(task: Awaitable[Any], error: type[BaseException]) -> int:
    """How often the loop comes round until a task has ended in an error; once where the task blocks the loop."""
    count, waiting = 0, asyncio.ensure_future(task)
    while not waiting.done():
        await asyncio.wait([waiting], timeout=0.005)
        count += 1
    with pytest.raises(error):
        waiting.result()
    return count


def test_shutdown_in_time_or_not(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        pool = ProcessWasmPool(MISBEHAVE, workers=1, kill_grace=0.2)
        pool.submit("spin")
        busy_pid(pool)
        with pytest.raises(TimeoutError, match="all processes have ended"):
            await pool.ashutdown(timeout=0.05)
        with pytest.raises(TimeoutError, match="all processes have ended"):
            pool.shutdown(timeout=0.05)
        pool.terminate()
        await pool.ashutdown(timeout=DEADLINE)

    run(main)


# -- the loop goes on --------------------------------------------------------------------------------------------------


def test_a_full_queue_does_not_block_the_loop(crowded: Any, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        assert await beats_until(crowded.acall("fine", 2, timeout=0.3), CallTimeout) > 1
        assert await beats_until(crowded.aget(timeout=0.3), TimeoutError) > 1
        waiting = asyncio.ensure_future(crowded.acall("fine", 3))
        assert await asyncio.wait([waiting], timeout=0.1) == (set(), {waiting})
        crowded.running.cancel()
        assert await waiting == 3
        assert crowded.queued.result(DEADLINE) == 1

    run(main)


def test_a_full_queue_that_raises(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        for on_full, full_timeout in (("raise", None), ("block", 0.1)):
            with ProcessWasmPool(MISBEHAVE, workers=1, max_pending=1, on_full=on_full, full_timeout=full_timeout) as pool:  # type: ignore[arg-type]
                running = pool.submit("spin")
                busy_pid(pool)
                queued = pool.submit("fine", 1)
                with pytest.raises(PoolFull):
                    await pool.acall("fine", 2)
                running.cancel()
                assert queued.result(DEADLINE) == 1

    run(main)


def test_a_job_waits_for_its_turn_without_the_loop(misbehave: ProcessWasmPool, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        assert await beats_until(misbehave.acall("spin", timeout=0.3), CallTimeout) > 1

    run(main)


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_cancelling_a_task_stops_its_job(run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        with ProcessWasmPool(MISBEHAVE, 2, kill_grace=DEADLINE) as pool:
            tasks = [asyncio.ensure_future(pool.acall("spin")) for _ in range(4)]  # two run, two wait
            while pool.stats().busy < 2:
                await asyncio.sleep(0.005)
            for task in tasks:
                task.cancel()
            for task in tasks:
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert await pool.acall("fine", 5) == 5
            await pool.adrain()
            assert pool.stats().killed == 0 and pool.stats().pending == 0

    run(main)


def test_cancelling_while_there_is_no_room(crowded: Any, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(crowded.acall("fine", 2))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        crowded.running.cancel()
        assert crowded.queued.result(DEADLINE) == 1
        await crowded.adrain()
        assert crowded.stats().pending == 0

    run(main)


def test_asyncio_timeouts_cancel_too(misbehave: ProcessWasmPool, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(misbehave.acall("spin"), 0.1)
        assert await asyncio.gather(*(misbehave.acall("fine", n) for n in range(20))) == list(range(20))

    run(main)


def test_cancelling_a_block_stops_all_that_runs(nothing_left: None, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        entered = asyncio.Event()

        async def hold() -> None:
            async with ProcessWasmPool(MISBEHAVE, workers=1, kill_grace=0.2) as pool:
                pool.submit("spin")
                entered.set()
                await pool.acall("fine", 1)

        task = asyncio.ensure_future(hold())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


# -- elsewhere ---------------------------------------------------------------------------------------------------------


def test_trio_is_told_what_to_use(kernels: ProcessWasmPool) -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        for wrong in (kernels.acall("add", 1, 2), kernels.aget(), kernels.adrain(), kernels.ashutdown(), kernels.arun()):
            with pytest.raises(RuntimeError, match=r"await trio.to_thread.run_sync\(.*pool\.[a-z]+"):
                await wrong
        with pytest.raises(RuntimeError, match=r"trio.to_thread"):
            async with kernels.instance():
                pass
        assert await trio.to_thread.run_sync(kernels.call, "add", 1, 2) == 3

    trio.run(main)
    assert kernels.call("add", 1, 2) == 3, "not shut down"


def test_without_any_loop(kernels: ProcessWasmPool) -> None:
    with pytest.raises(RuntimeError, match="running asyncio event loop"):
        kernels.acall("add", 1, 2).send(None)  # type: ignore[attr-defined]


def test_the_standard_librarys_bridges(kernels: ProcessWasmPool) -> None:
    add = kernels.function("add")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(kernels, add, 1, 2) == 3
        assert await asyncio.wrap_future(kernels.submit("add", 1, 2)) == 3
        assert await asyncio.wrap_future(kernels.submit(add, 1, 2)) == 3
        assert await asyncio.to_thread(add, 1, 2) == 3

    asyncio.run(main(), debug=True)
    assert add(1, 2) == add(1, 2, timeout=5) == kernels.call(add, 1, 2) == 3  # type: ignore[arg-type]
    assert "add" in repr(add)
    with pytest.raises(UnknownExport, match="did you mean 'add'"):
        kernels.function("ad")


def test_a_function_belongs_to_its_pool(kernels: ProcessWasmPool) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as other:
        with pytest.raises(ValueError, match="another pool"):
            other.submit(kernels.function("add"), 1, 2)
        with pytest.raises(TypeError, match="in this one"):
            other.submit(lambda instance, function: function(1, 2), kernels.function("add"))


@pytest.mark.parametrize("how", ["acall", "wrap_future"])
def test_a_loop_that_is_closed_under_a_job(how: str) -> None:
    """The job goes on, or not, and nothing is said on standard error."""
    code = f"""
import asyncio
from procpool import ProcessWasmPool

pool = ProcessWasmPool({str(MISBEHAVE)!r}, workers=1, kill_grace=0.2)
loop = asyncio.new_event_loop()

async def main():
    global task
    task = asyncio.ensure_future(pool.acall("spin", timeout=0.3))
    await asyncio.sleep(0.05)

loop.run_until_complete(main())
task._log_destroy_pending = False
loop.close()
pool.submit("fine", 1).result()
pool.shutdown()
print("done")
"""
    if how == "wrap_future":
        code = code.replace('pool.acall("spin", timeout=0.3)', 'asyncio.wrap_future(pool.submit("fine", 2))')
    done = run_script(code)
    assert (done.stdout, done.stderr) == ("done\n", "")


# -- waiting, without a pool -------------------------------------------------------------------------------------------


def test_ended() -> None:
    future: Future[int] = Future()
    assert not ended(future, Deadline.after(0.01))
    future.set_exception(TimeoutError("its own"))
    assert ended(future, Deadline.after(0.01)) and ended(future, Deadline.NEVER)
    with pytest.raises(TimeoutError, match="its own"):
        wait_for(future, Deadline.after(5), "never seen")
    cancelled: Future[int] = Future()
    cancelled.cancel()
    assert ended(cancelled, Deadline.NEVER)
    late: Future[int] = Future()
    with pytest.raises(TimeoutError, match="waiting until pigs fly"):
        wait_for(late, Deadline.after(0.01), "pigs fly")
    assert late.cancelled(), "nobody needs it"


def test_ended_async_hears_of_every_end() -> None:
    async def main() -> None:
        loop = running_loop("x")
        for end in (lambda f: f.set_result(1), lambda f: f.set_exception(KeyError()), lambda f: f.cancel()):
            future: Future[Any] = Future()
            timer = threading.Timer(0.02, end, (future,))
            timer.start()
            assert await ended_async(future, Deadline.NEVER, loop)
            assert not future._waiters
        future = Future()
        assert not await ended_async(future, Deadline.after(0.01), loop)
        assert not future._waiters and not future._done_callbacks  # type: ignore[attr-defined]
        task = asyncio.ensure_future(ended_async(future, Deadline.NEVER, loop))
        await asyncio.sleep(0)
        assert future._waiters
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not future._waiters and not future._done_callbacks and not future.done()  # type: ignore[attr-defined]

    asyncio.run(main(), debug=True)


def test_ended_async_waits_a_long_time_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("procpool.deadline.LONGEST_WAIT", 0.01)

    async def main() -> None:
        future: Future[int] = Future()
        threading.Timer(0.1, future.set_result, (7,)).start()
        loop = asyncio.get_running_loop()
        assert await wait_async(future, Deadline.after(1e300), "it is there", loop) == 7

    asyncio.run(main(), debug=True)


def test_other_callbacks_are_called_all_the_same() -> None:
    """A waiter that leaves while the callbacks are being walked through makes none of them be passed over."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(200):
            future: Future[int] = Future()
            called: list[int] = []
            future.add_done_callback(lambda _, called=called: called.append(1))  # type: ignore[misc]
            task = asyncio.ensure_future(ended_async(future, Deadline.NEVER, loop))
            await asyncio.sleep(0)
            for n in range(2, 6):
                future.add_done_callback(lambda _, n=n, called=called: (time.sleep(0), called.append(n)))  # type: ignore[misc]
            thread = threading.Thread(target=future.set_result, args=(1,))
            thread.start()
            assert await task
            thread.join()
            assert called == [1, 2, 3, 4, 5]

    asyncio.run(main())


def test_a_result_is_not_kept(kernels: ProcessWasmPool) -> None:
    class Large:
        pass

    async def main() -> None:
        future: Future[Large] = Future()
        threading.Timer(0.02, future.set_result, (Large(),)).start()
        found = await wait_async(future, Deadline.NEVER, "", asyncio.get_running_loop())
        gone = weakref.ref(found)
        del future, found
        gc.collect()
        await asyncio.sleep(0)
        eventually(lambda: gone() is None, "the result to be let go")

    asyncio.run(main())


def test_a_job_cancelled_by_others(misbehave: ProcessWasmPool) -> None:
    """As `call` has it: the job was cancelled, and not the task."""

    async def main() -> None:
        future: Future[int] = Future()
        threading.Timer(0.02, future.cancel).start()
        with pytest.raises(concurrent.futures.CancelledError):
            await wait_async(future, Deadline.NEVER, "", asyncio.get_running_loop())

    asyncio.run(main())
