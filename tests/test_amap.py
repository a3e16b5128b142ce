"""amap: what map does, for asyncio's loop, uvloop's, and anyio on asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
from conftest import DEADLINE, KERNELS, MISBEHAVE, eventually, worker_pids

from procpool import BadArguments, PoolClosed, ProcessWasmPool, UnknownExport, WasmTrap

SPIN_AT_0 = """(module (func (export "f") (param i32) (result i32)
  (if (i32.eqz (local.get 0)) (then (loop (br 0)))) (local.get 0)))"""

Main = Callable[[], Coroutine[Any, Any, Any]]


def _asyncio(main: Main) -> Any:
    return asyncio.run(main())


def _uvloop(main: Main) -> Any:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _anyio(main: Main) -> Any:
    anyio = pytest.importorskip("anyio", reason="anyio is not installed")
    return anyio.run(main, backend="asyncio")


@pytest.fixture(params=[_asyncio, _uvloop, _anyio], ids=["asyncio", "uvloop", "anyio"])
def run(request: pytest.FixtureRequest) -> Any:
    """Runs a coroutine function in an event loop; one that hangs fails."""

    def bounded(main: Main) -> Any:
        async def within() -> Any:
            return await asyncio.wait_for(main(), 2 * DEADLINE)

        return request.param(within)

    return bounded


def double(instance: object, number: int) -> int:
    return 2 * number


@pytest.fixture(params=["add", double], ids=["export", "callable"])
def mapped(request: pytest.FixtureRequest) -> Any:
    return request.param


def doubles(pool: ProcessWasmPool, what: Any, numbers: Any, **options: Any) -> AsyncIterator[Any]:
    if callable(what):
        return pool.amap(what, numbers, **options)
    one, other = itertools.tee(numbers)
    return pool.amap(what, one, other, **options)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"chunksize": 7},
    {"buffersize": 3},
    {"return_exceptions": True},
    {"item_timeout": DEADLINE},
    {"timeout": 2 * DEADLINE},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options), "none"))
def test_it_takes_what_map_takes(kernels: ProcessWasmPool, run: Any, mapped: Any, options: dict[str, Any]) -> None:
    async def main() -> None:
        for count in (0, 1, 1000):
            expected = list(range(0, 2 * count, 2))
            assert [value async for value in doubles(kernels, mapped, range(count), **options)] == expected
            pairs = [pair async for pair in doubles(kernels, mapped, range(count), ordered=False, **options)]
            assert sorted(pairs) == list(enumerate(expected))

    run(main)


def test_progress(kernels: ProcessWasmPool, run: Any, mapped: Any) -> None:
    seen: list[tuple[int, int | None]] = []

    async def main() -> None:
        here = threading.get_ident()

        def progress(done: int, total: int | None) -> None:
            assert threading.get_ident() == here
            seen.append((done, total))

        async for _ in doubles(kernels, mapped, iter(range(100)), progress=progress):
            pass

    run(main)
    assert seen[-1] == (100, None) and seen == sorted(seen)


def test_failures(misbehave: ProcessWasmPool, run: Any) -> None:
    async def main() -> None:
        results = misbehave.amap("divide", [6, 6, 6, 6], [1, 2, 0, 3])
        assert [await anext(results), await anext(results)] == [6, 3]
        with pytest.raises(WasmTrap):
            await anext(results)
        assert [value async for value in results] == []
        outcomes = [value async for value in misbehave.amap("divide", [6] * 3, [1, 0, 3], return_exceptions=True)]
        assert outcomes[0::2] == [6, 2] and isinstance(outcomes[1], WasmTrap)
        results = misbehave.amap("divide", [6, "x"], [1, 1])
        assert await anext(results) == 6
        with pytest.raises(BadArguments, match="item 1"):
            await anext(results)
        with pytest.raises(UnknownExport):
            misbehave.amap("no such thing", [1])

    run(main)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_stop_iteration_does_not_end_it_early(kernels: ProcessWasmPool, run: Any, kind: type[Exception]) -> None:
    def stop(instance: object, number: int) -> int:
        if number == 1:
            raise kind
        return number

    async def main() -> None:
        results = kernels.amap(stop, range(3))
        assert await anext(results) == 0
        with pytest.raises(RuntimeError, match=kind.__name__):
            await anext(results)
        outcomes = [value async for value in kernels.amap(stop, range(3), return_exceptions=True)]
        assert outcomes[0::2] == [0, 2] and isinstance(outcomes[1], kind)

    run(main)


@pytest.mark.parametrize("where", ["begun", "queued"])
def test_cancelling_a_task_that_iterates_costs_no_worker(run: Any, where: str, nothing_left: None) -> None:
    seen: list[str] = []
    with ProcessWasmPool(SPIN_AT_0, workers=1, kill_grace=DEADLINE, on_event=lambda event: seen.append(event.kind)) as pool:
        pids = worker_pids(pool)

        async def main() -> None:
            started = asyncio.Event()
            blocker = None
            if where == "queued":
                blocker = pool.submit("f", 0)
                while not blocker.running():
                    await asyncio.sleep(0)

            async def iterate() -> None:
                started.set()
                async for _ in pool.amap("f", [0] * 100, chunksize=10):
                    pass

            task = asyncio.ensure_future(iterate())
            await started.wait()
            while where == "begun" and pool.stats().idle:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if blocker is not None:
                blocker.cancel()

        run(main)
        eventually(lambda: pool.stats().idle == 1, "the worker to be free")
        assert pool.call("f", 3) == 3 and worker_pids(pool) == pids
    assert not {"killed", "crashed", "timeout"} & set(seen)


@pytest.mark.parametrize("how", ["aclose", "drop", "break"])
def test_giving_up(run: Any, how: str, nothing_left: None) -> None:
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        for n in itertools.chain([1], itertools.repeat(0)):
            read += 1
            yield n

    with ProcessWasmPool(SPIN_AT_0, workers=1) as pool:

        async def main() -> None:
            results = pool.amap("f", numbers(), chunksize=1)
            assert await anext(results) == 1
            if how == "aclose":
                async with contextlib.aclosing(results):
                    pass
                before = read
                assert [value async for value in results] == [] and read == before
            elif how == "drop":
                del results
            else:
                results = None  # type: ignore[assignment]
                async for _ in pool.amap("f", [1, 0, 0], chunksize=1):
                    break

        run(main)
        eventually(lambda: pool.stats().idle == 1, "the worker to be free")


@pytest.mark.parametrize("ordered", [True, False])
def test_a_timeout_ends_it(run: Any, ordered: bool, nothing_left: None) -> None:
    with ProcessWasmPool(SPIN_AT_0, workers=1) as pool:

        async def main() -> None:
            results = pool.amap("f", [1, 0, 1], chunksize=1, timeout=0.2, ordered=ordered)
            with pytest.raises(concurrent.futures.TimeoutError, match="timeout of a map"):
                [value async for value in results]
            assert [value async for value in results] == []

        run(main)
        eventually(lambda: pool.stats().idle == 1, "the worker to be free")


@pytest.mark.parametrize("on_full", ["block", "raise"])
def test_a_full_queue_does_not_block_the_loop(run: Any, mapped: Any, on_full: str, nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, max_pending=1, on_full=on_full) as pool:

        async def main() -> None:
            running = pool.submit("spin")
            while not running.running():
                await asyncio.sleep(0)
            waiting = pool.submit("fine", 1)
            what: Any = double if callable(mapped) else "fine"
            rest = asyncio.ensure_future(_all(pool.amap(what, range(500))))
            turns = 0
            while turns < 100:  # the loop goes round while the map waits
                await asyncio.sleep(0)
                turns += 1
            assert not rest.done()
            running.cancel()
            assert len(await rest) == 500
            assert waiting.exception(DEADLINE) is None

        run(main)


async def _all(results: AsyncIterator[Any]) -> list[Any]:
    return [value async for value in results]


def test_many_at_once_in_one_loop(run: Any, mapped: Any, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2, max_pending=2) as pool:

        async def main() -> None:
            parts = await asyncio.gather(*(_all(doubles(pool, mapped, range(200))) for _ in range(20)))
            assert parts == [list(range(0, 400, 2))] * 20

        run(main)


def test_two_tasks_share_one_map(kernels: ProcessWasmPool, run: Any, mapped: Any) -> None:
    async def main() -> None:
        results = doubles(kernels, mapped, range(2000), buffersize=10)
        parts = await asyncio.gather(_all(results), _all(results))
        assert sorted(parts[0] + parts[1]) == list(range(0, 4000, 2))

    run(main)


def test_a_loop_that_is_closed_under_its_map(nothing_left: None) -> None:
    """The news come to nobody, and harm nothing."""
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        running = pool.submit("spin")
        eventually(running.running, "the job to run")
        loop = asyncio.new_event_loop()
        results = pool.amap("fine", [1, 2])
        step = results.__anext__()
        with pytest.raises(asyncio.TimeoutError):
            loop.run_until_complete(asyncio.wait_for(step, 0.01))
        results = pool.amap("fine", [1, 2])
        task = loop.create_task(results.__anext__())
        loop.call_soon(loop.stop)
        loop.run_forever()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        running.cancel()
        assert pool.call("fine", 3) == 3
        pool.drain(DEADLINE)


def test_elsewhere_than_in_asyncio_it_says_what_to_use(kernels: ProcessWasmPool) -> None:
    step = kernels.amap("add", [1], [2]).__anext__()
    with pytest.raises(RuntimeError, match="asyncio"):
        step.send(None)
    trio = pytest.importorskip("trio", reason="trio is not installed")

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"trio\.to_thread"):
            await kernels.amap("add", [1], [2]).__anext__()

    trio.run(main)


def test_results_after_the_block(run: Any, mapped: Any, nothing_left: None) -> None:
    async def main() -> None:
        with ProcessWasmPool(KERNELS, workers=1) as pool:
            numbers = range(3000)
            finite = pool.amap(mapped, numbers) if callable(mapped) else pool.amap(mapped, numbers, numbers)
            endless = doubles(pool, mapped, itertools.count())
        assert await _all(finite) == list(range(0, 6000, 2))
        with pytest.raises(PoolClosed):
            await _all(endless)

    run(main)
