"""Maps that are closed, dropped, late, re-entered, short of room, or outlived by their pool."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from bounded import run_script, within
from conftest import DEADLINE, KERNELS, MISBEHAVE, busy_pid, eventually, worker_pids

from procpool import PoolClosed, ProcessWasmPool
from procpool.bell import Bell
from procpool.deadline import Deadline
from procpool.supervisor.jobs.chunk import Chunk

#: f(0) never returns, others at once
SPIN_AT_0 = """(module (func (export "f") (param i32) (result i32)
  (if (i32.eqz (local.get 0)) (then (loop (br 0)))) (local.get 0)))"""


def double(instance: object, number: int) -> int:
    return 2 * number


class Counted:
    """An iterable of ints that tells how many were read; endless unless it is given a length."""

    def __init__(self, most: int | None = None) -> None:
        self.read = 0
        self.most = most

    def __iter__(self) -> Iterator[int]:
        for n in itertools.count() if self.most is None else range(self.most):
            self.read = n + 1
            yield n


class Sized_(Counted):
    def __len__(self) -> int:
        assert self.most is not None
        return self.most


@pytest.fixture(params=["add", double], ids=["export", "callable"])
def mapped(request: pytest.FixtureRequest) -> Any:
    """(what to map, further iterables): the results are 2 * n."""
    return request.param


def doubles(pool: ProcessWasmPool, what: Any, numbers: Any, **options: Any) -> Any:
    """A map of n -> 2 n, by an export or a callable."""
    if callable(what):
        return pool.map(what, numbers, **options)
    return pool.starmap(what, zipped(numbers), **options)


class Zipped:
    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((n, n) for n in self.numbers)


class SizedZipped(Zipped):
    def __len__(self) -> int:
        return len(self.numbers)


def zipped(numbers: Any) -> Zipped:
    return SizedZipped(numbers) if hasattr(numbers, "__len__") else Zipped(numbers)


# -- closed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [0, 1, 100])
@pytest.mark.parametrize("options", [{}, {"ordered": False}, {"return_exceptions": True}, {"buffersize": 5}])
def test_a_closed_map_is_exhausted(kernels: ProcessWasmPool, mapped: Any, taken: int, options: dict[str, Any]) -> None:
    numbers = Counted()
    results = doubles(kernels, mapped, numbers, **options)
    assert len(list(itertools.islice(results, taken))) == taken
    results.close()
    read = numbers.read
    assert list(itertools.islice(results, 3)) == [], "nothing comes any more"
    results.close()
    assert numbers.read == read
    kernels.drain(DEADLINE)


def test_a_map_closed_by_another_thread_ends_where_it_waits(nothing_left: None) -> None:
    with ProcessWasmPool(SPIN_AT_0, workers=1) as pool:
        results = pool.map("f", [1, 0], chunksize=1)
        assert next(results) == 1
        waiting = threading.Event()

        def take() -> list[int]:
            waiting.set()
            return list(results)

        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            rest = thread.submit(take)
            assert waiting.wait(DEADLINE)
            results.close()
            assert rest.result(DEADLINE) == []


def test_closing_a_map_is_no_timeout(nothing_left: None) -> None:
    seen: list[str] = []
    with ProcessWasmPool(SPIN_AT_0, workers=1, on_event=lambda event: seen.append(event.kind)) as pool:
        pids = worker_pids(pool)
        results = pool.map("f", [1, 0], chunksize=1)
        assert next(results) == 1
        results.close()
        eventually(lambda: pool.stats().idle == 1, "the worker to be free")
        assert worker_pids(pool) == pids
    assert "timeout" not in seen and "killed" not in seen


# -- dropped: the garbage collector may do that in any thread, whatever locks it holds ---------------------------------------


def test_maps_can_be_collected_anywhere() -> None:
    """The collector runs in the midst of nearly everything here, so also where locks are held."""
    script = (
        "import gc, threading\n"
        "from procpool import ProcessWasmPool\n"
        "def double(instance, number): return 2 * number\n"
        "def work(pool, what, columns):\n"
        "    for n in range(50):\n"
        "        results = pool.map(what, *columns, ordered=n % 2 == 0)\n"
        "        next(results)\n"
        "        cycle = [results, pool.submit('add', n, n)]\n"
        "        cycle.append(cycle)\n"
        "        del results, cycle\n"
        f"with ProcessWasmPool({str(KERNELS)!r}, 2) as pool:\n"
        "    gc.set_threshold(1)\n"
        "    numbers = range(300)\n"
        "    threads = [threading.Thread(target=work, args=(pool, *one)) for one in\n"
        "        [('add', (numbers, numbers)), (double, (numbers,))] * 2]\n"
        "    for thread in threads: thread.start()\n"
        "    for thread in threads: thread.join()\n"
        "    print('done')\n"
    )
    run = run_script(script)
    assert run.stdout == "done\n", run.stderr


@pytest.mark.parametrize("ordered", [True, False])
def test_dropping_a_map_takes_no_lock(kernels: ProcessWasmPool, mapped: Any, ordered: bool) -> None:
    """Every lock that a map and its pool have is held by the very thread that drops it."""
    results = doubles(kernels, mapped, range(100_000), ordered=ordered)
    next(results)
    course = results._course
    found: dict[int, Any] = {}

    def look(thing: Any, depth: int) -> None:
        kind = type(thing)
        if id(thing) in found or depth > 6:
            return
        if kind is type(threading.Lock()) or isinstance(thing, threading.Condition):
            found[id(thing)] = thing
        elif kind.__module__.startswith("procpool"):
            found[id(thing)] = None
            for value in (*vars(thing).values(), vars(kind).get("_making")) if hasattr(thing, "__dict__") else ():
                look(value, depth + 1)
        elif isinstance(thing, (dict, list, tuple)) or kind.__name__ == "deque":
            for value in list(thing):
                look(value, depth + 1)

    look(course, 0)
    locks = [lock for lock in found.values() if lock is not None]
    assert locks

    def drop() -> None:
        held = [lock for lock in locks if lock.acquire(timeout=1)]
        try:
            results.__del__()
        finally:
            for lock in held:
                lock.release()

    within(drop)
    kernels.drain(DEADLINE)


# -- late ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_out_of_time_is_closed(ordered: bool, nothing_left: None) -> None:
    with ProcessWasmPool(SPIN_AT_0, workers=1) as pool:
        numbers = Counted(1000)
        results = pool.map("f", itertools.chain([1, 0], numbers), chunksize=1, timeout=0.2, ordered=ordered)
        with pytest.raises(concurrent.futures.TimeoutError, match="timeout of a map"):
            list(results)
        read = numbers.read
        assert list(results) == [] and numbers.read == read < 1000
        eventually(lambda: pool.stats().idle == 1, "the worker to be free")


@pytest.mark.parametrize("option", ["timeout", "item_timeout"])
def test_times(kernels: ProcessWasmPool, mapped: Any, option: str) -> None:
    for endless in (math.inf, 1e300, 10**400):
        assert list(doubles(kernels, mapped, range(10), **{option: endless})) == list(range(0, 20, 2))
    for nonsense in (0, -1, math.nan):
        with pytest.raises(ValueError, match=f"{option} must be a positive number"):
            doubles(kernels, mapped, range(10), **{option: nonsense})
    for nonsense in (True, "1", [1]):
        with pytest.raises(TypeError, match=f"{option} must be a positive number"):
            doubles(kernels, mapped, range(10), **{option: nonsense})


def test_an_item_may_be_freed_of_the_pools_timeout(nothing_left: None) -> None:
    with ProcessWasmPool(SPIN_AT_0, workers=1, timeout=0.2) as pool:
        results = pool.map("f", [0], item_timeout=math.inf, timeout=1)
        with pytest.raises(concurrent.futures.TimeoutError, match="timeout of a map"):
            next(results)


# -- how far it reads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffersize", [1, 2, 10, 1000])
@pytest.mark.parametrize("ordered", [True, False])
def test_buffersize_bounds_the_reading(kernels: ProcessWasmPool, mapped: Any, buffersize: int, ordered: bool) -> None:
    numbers = Counted(3000)
    results = doubles(kernels, mapped, numbers, buffersize=buffersize, ordered=ordered)
    assert numbers.read <= buffersize
    for taken, _ in enumerate(results, 1):
        assert numbers.read <= taken + buffersize
    assert numbers.read == taken == 3000


@pytest.mark.parametrize("on_full", ["block", "raise"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_gets_on_with_room_for_one(mapped: Any, on_full: str, ordered: bool, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1, max_pending=1, on_full=on_full) as pool:
        results = within(lambda: list(doubles(pool, mapped, range(2000), ordered=ordered)))
        assert (results if ordered else [value for _, value in sorted(results)]) == list(range(0, 4000, 2))
        many = [doubles(pool, mapped, range(500), ordered=ordered) for _ in range(5)]
        for results in many:
            assert len(within(lambda results=results: list(results))) == 500


@pytest.mark.parametrize("on_full", ["block", "raise"])
def test_a_map_waits_for_room_that_others_take(mapped: Any, on_full: str, nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, max_pending=1, on_full=on_full) as pool:
        running = pool.submit("spin")
        eventually(running.running, "the job to run")
        waiting = pool.submit("fine", 1)
        numbers = Counted()
        what: Any = double if callable(mapped) else "fine"
        results = pool.map(what, numbers, timeout=0.2)
        assert numbers.read == 1, "it reads no further than to what it cannot submit"
        with pytest.raises(concurrent.futures.TimeoutError):
            within(lambda: next(results))
        results = pool.map(what, [3], timeout=DEADLINE)
        running.cancel()
        assert len(within(lambda: list(results))) == 1
        assert waiting.exception(DEADLINE) is None


# -- the pool ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("limits", [{}, {"max_pending": 1}])
def test_results_can_be_taken_after_the_block(
    mapped: Any, taken: int, ordered: bool, limits: dict[str, Any], nothing_left: None
) -> None:
    """As from every executor of the standard library."""
    count = 3000 if callable(mapped) else 300_000
    with ProcessWasmPool(KERNELS, workers=2, **limits) as pool:
        results = doubles(pool, mapped, range(count), ordered=ordered)
        first = list(itertools.islice(results, taken))
    rest = list(results)
    values = first + rest if ordered else [value for _, value in sorted(first + rest)]
    assert values == list(range(0, 2 * count, 2))


def test_failures_can_be_taken_after_the_block(nothing_left: None) -> None:
    divisors = [n % 7 for n in range(20_000)]
    with ProcessWasmPool(MISBEHAVE, workers=2) as pool:
        in_place = pool.map("divide", [100] * 20_000, divisors, return_exceptions=True)
        raised = pool.map("divide", [100] * 20_000, range(19_999, -1, -1))
        bad = pool.map("divide", [100] * 3, [1, "x", 3])
    assert [isinstance(outcome, Exception) for outcome in in_place] == [not n for n in divisors]
    assert len(list(itertools.islice(raised, 19_999))) == 19_999
    with pytest.raises(Exception, match="divide by zero"):
        next(raised)
    assert next(bad) == 100
    with pytest.raises(TypeError, match="item 1"):
        next(bad)


@pytest.mark.parametrize("how", ["endless", "buffersize", "no wait"])
def test_what_is_not_read_to_the_end_ends_in_pool_closed(mapped: Any, how: str, nothing_left: None) -> None:
    numbers = Sized_(10**7) if how != "endless" else Counted()
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        results = doubles(pool, mapped, numbers, **({"buffersize": 10} if how == "buffersize" else {}))
        first = list(itertools.islice(results, 5))
        if how == "no wait":
            pool.shutdown(wait=False)
    read = numbers.read
    with pytest.raises(PoolClosed, match="before the map had read its whole input"):
        for value in results:
            first.append(value)
    assert first == list(range(0, 2 * len(first), 2)) and len(first) <= read
    assert numbers.read <= read + 1, "it looks whether there is anything missing, and no further"
    assert next(results, "end") == "end"


@pytest.mark.parametrize("return_exceptions", [True, False])
def test_cancelling_what_is_queued_ends_a_map(mapped: Any, return_exceptions: bool, nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        running = pool.submit("spin", timeout=DEADLINE)
        eventually(running.running, "the job to run")
        what: Any = double if callable(mapped) else "fine"
        results = pool.map(what, range(10), return_exceptions=return_exceptions)
        pool.shutdown(wait=False, cancel_futures=True)
        if return_exceptions:
            outcomes = within(lambda: list(itertools.islice(results, 1)))
            assert isinstance(outcomes[0], concurrent.futures.CancelledError)
        else:
            with pytest.raises(concurrent.futures.CancelledError):
                within(lambda: next(results))
            assert next(results, "end") == "end"
        running.cancel()


def test_terminating_ends_a_map(mapped: Any, nothing_left: None) -> None:
    pool = ProcessWasmPool(MISBEHAVE, workers=1)
    running = pool.submit("spin")
    eventually(running.running, "the job to run")
    what: Any = double if callable(mapped) else "fine"
    results = pool.map(what, itertools.count())
    pool.terminate()
    with pytest.raises(PoolClosed):
        within(lambda: next(results))


def test_a_map_keeps_its_pool(mapped: Any, nothing_left: None) -> None:
    """As long as it has something to read."""
    count = 3000 if callable(mapped) else 300_000
    results = doubles(ProcessWasmPool(KERNELS, workers=2), mapped, range(count))
    gc.collect()
    assert list(results) == list(range(0, 2 * count, 2))


def test_a_map_in_a_forked_child_says_so() -> None:
    script = (
        "import os, warnings\n"
        "from procpool import PoolClosed, ProcessWasmPool\n"
        f"pool = ProcessWasmPool({str(KERNELS)!r}, 1)\n"
        "results = pool.map('add', range(10**6), range(10**6))\n"
        "next(results)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        for _ in results: pass\n"
        "    except PoolClosed: os._exit(7)\n"
        "    os._exit(1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sum(1 for _ in results))\n"
    )
    run = run_script(script)
    assert run.stdout == "7 999999\n", run.stderr


# -- the user's code, called by a map ------------------------------------------------------------------------------------


class Stops:
    """A row that raises StopIteration when it is looked at."""

    def __iter__(self) -> Iterator[Any]:
        raise StopIteration

    def __index__(self) -> int:
        raise StopIteration

    def __reduce__(self) -> Any:
        raise StopIteration


@pytest.mark.parametrize("rows", [[(1, 1), (Stops(), 1), (2, 2)], [(1, 1), Stops(), (2, 2)]])
def test_stop_iteration_ends_no_map_early(kernels: ProcessWasmPool, rows: Any) -> None:
    for what in ("add", lambda instance, a, b: a + b):
        results = kernels.starmap(what, rows)
        assert next(results) == 2
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(results)
        outcomes = list(kernels.starmap(what, rows, return_exceptions=True))
        assert outcomes[0::2] == [2, 4] and isinstance(outcomes[1], StopIteration)


def test_stop_iteration_of_a_callable_and_of_progress(kernels: ProcessWasmPool) -> None:
    def stop(instance: object, number: int) -> int:
        if number == 1:
            raise StopIteration
        return number

    def progress(done: int, total: int | None) -> None:
        raise StopIteration

    for results in (kernels.map(stop, range(3)), kernels.map("add", [0, 0], [0, 0], chunksize=1, progress=progress)):
        assert next(results) == 0
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(results)


def test_an_interrupt_ends_a_map_where_it_waits(nothing_left: None) -> None:
    with ProcessWasmPool(SPIN_AT_0, workers=1) as pool:
        results = pool.map("f", [1, 0, 1], chunksize=1)
        assert next(results) == 1

        def interrupt() -> None:
            busy_pid(pool)
            os.kill(os.getpid(), signal.SIGINT)

        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            done = thread.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                next(results)
            done.result(DEADLINE)
        assert next(results, "end") == "end"
        eventually(lambda: pool.stats().idle == 1, "the worker to be free")


def test_an_interrupt_while_it_reads_ends_it(kernels: ProcessWasmPool, mapped: Any) -> None:
    def numbers() -> Iterator[int]:
        yield from range(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(doubles(kernels, mapped, numbers()))
    results = doubles(kernels, mapped, numbers(), buffersize=1)
    with pytest.raises(KeyboardInterrupt):
        list(results)
    assert next(results, "end") == "end"
    assert kernels.call("add", 1, 2) == 3


def test_progress_that_raises_ends_its_map_alone(kernels: ProcessWasmPool, mapped: Any) -> None:
    def progress(done: int, total: int | None) -> None:
        raise LookupError("no progress")

    results = doubles(kernels, mapped, range(100), progress=progress)
    assert next(results) == 0
    with pytest.raises(LookupError, match="no progress"):
        list(results)
    assert list(results) == []
    assert list(doubles(kernels, mapped, range(10))) == list(range(0, 20, 2))


@pytest.mark.parametrize("progress", [1, "yes", None])
def test_progress_of_another_type(kernels: ProcessWasmPool, progress: Any) -> None:
    with pytest.raises(TypeError, match="progress must be"):
        kernels.map("add", [1], [2], progress=progress)
    with pytest.raises(TypeError, match="progress must be"):
        kernels.map_array("add", [1], [2], progress=progress)


def test_closing_a_map_in_its_own_progress(kernels: ProcessWasmPool, mapped: Any) -> None:
    results = doubles(kernels, mapped, itertools.count(), progress=lambda done, total: results.close())
    taken = within(lambda: list(results))
    assert taken == list(range(0, 2 * len(taken), 2)) and taken


@pytest.mark.parametrize("swallow", [True, False])
@pytest.mark.parametrize("where", ["input", "progress"])
def test_asking_a_map_for_a_result_from_its_own_code(
    kernels: ProcessWasmPool, mapped: Any, where: str, swallow: bool
) -> None:
    results: Any = None
    asked = False

    def ask(*_: Any) -> None:
        nonlocal asked
        if results is None or asked:
            return
        asked = True
        try:
            next(results)
        except RuntimeError:
            if not swallow:
                raise

    def numbers() -> Iterator[int]:
        for n in range(5000):
            ask()
            yield n

    if where == "input":
        results = doubles(kernels, mapped, numbers(), buffersize=10)
    else:
        results = doubles(kernels, mapped, range(5000), buffersize=10, progress=ask)
    with pytest.raises(RuntimeError, match="asked that very map"):
        within(lambda: list(results))
    assert list(results) == []
    assert list(doubles(kernels, mapped, range(10))) == list(range(0, 20, 2))


def test_the_pool_can_be_used_while_it_reads(kernels: ProcessWasmPool, mapped: Any) -> None:
    def numbers() -> Iterator[int]:
        for n in range(300):
            assert kernels.call("add", n, n) == 2 * n
            assert kernels.submit("add", 1, 1).result(DEADLINE) == 2
            yield from kernels.map("add", [n], [0])

    assert within(lambda: list(doubles(kernels, mapped, numbers()))) == list(range(0, 600, 2))


@pytest.mark.parametrize("where", ["input", "progress"])
def test_a_pool_can_be_shut_down_by_what_a_map_calls(mapped: Any, where: str, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:

        def numbers() -> Iterator[int]:
            for n in range(1000):
                if n == 500:
                    pool.shutdown(wait=False)
                yield n

        if where == "input":
            results = doubles(pool, mapped, numbers(), buffersize=10)
        else:
            results = doubles(pool, mapped, range(1000), buffersize=10, progress=lambda *_: pool.shutdown(wait=False))
        with pytest.raises(PoolClosed, match="before the map had read"):
            within(lambda: list(results))


@pytest.mark.parametrize("ordered", [True, False])
def test_threads_that_share_a_map_share_its_results(kernels: ProcessWasmPool, mapped: Any, ordered: bool) -> None:
    count = 2000 if callable(mapped) else 50_000
    results = doubles(kernels, mapped, range(count), ordered=ordered)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        parts = [future.result(DEADLINE) for future in [threads.submit(list, results) for _ in range(4)]]
    values = [value if ordered else value[1] for part in parts for value in part]
    assert sorted(values) == list(range(0, 2 * count, 2))


def test_a_dawdling_input_holds_up_its_own_map_alone(kernels: ProcessWasmPool, mapped: Any) -> None:
    go_on = threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        assert go_on.wait(DEADLINE)
        yield 2

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        slow = threads.submit(lambda: list(doubles(kernels, mapped, numbers())))
        assert list(doubles(kernels, mapped, range(100))) == list(range(0, 200, 2))
        assert kernels.call("add", 1, 2) == 3
        go_on.set()
        assert slow.result(DEADLINE) == [2, 4]


# -- chunks --------------------------------------------------------------------------------------------------------------


def chunk(count: int) -> Chunk:
    return Chunk(None, None, count, None)  # type: ignore[arg-type]


def test_a_chunk_is_done_when_all_its_items_are() -> None:
    ours, told = chunk(3), []
    ours.on_done(lambda: told.append(1))
    ours.finished(2)
    assert not ours.done and not told and not ours.wait(Deadline.after(0.001))
    ours.finished(1)
    assert ours.done and told == [1] and ours.wait(Deadline.NEVER)
    ours.on_done(lambda: told.append(2))
    assert told == [1, 2]
    ours.abandon()
    assert ours.abandoned and chunk(0).done


def test_who_waits_for_a_chunk_is_told_by_another_thread() -> None:
    for _ in range(200):
        ours, told = chunk(1), []
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            waiting = threads.submit(ours.wait, Deadline.after(DEADLINE))
            ours.on_done(lambda told=told: told.append(1))  # type: ignore[misc]
            threads.submit(ours.finished, 1)
            assert waiting.result(DEADLINE)
        assert told == [1]


def test_several_threads_end_a_chunk() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            for _ in range(50):
                ours, told = chunk(400), []
                ours.on_done(lambda told=told: told.append(1))  # type: ignore[misc]
                for part in [threads.submit(lambda ours=ours: [ours.finished(1) for _ in range(100)]) for _ in range(4)]:
                    part.result(DEADLINE)
                assert ours.done and told == [1]
    finally:
        sys.setswitchinterval(before)


def test_a_bell_rings_once_for_all() -> None:
    bell = Bell()
    assert not bell.wait(0.001)
    bell.ring()
    bell.ring()
    assert bell.wait(None)


@pytest.mark.parametrize("function", ["same_i32", double])
def test_a_slow_input_holds_up_no_results(function: Any) -> None:
    """The tenth item may come late: the first results do not wait for it, and reading ends when the time is up."""
    reached: list[int] = []
    taken = threading.Event()

    def live() -> Iterator[int]:
        for number in itertools.count():
            reached.append(number)
            if number and not taken.is_set():
                taken.wait(0.1)
            yield number

    with ProcessWasmPool(KERNELS, workers=2) as pool:
        results = pool.map(function, live())
        assert next(results) == 0
        taken.set()
        assert len(reached) < 60  # six chunks ahead, of 1, 2, 4, ... 32 items, are 63 when they are quick
        results.close()


@pytest.mark.parametrize("function", ["fine", double])
def test_a_slow_input_is_read_no_longer_than_the_timeout(function: Any) -> None:
    reached: list[int] = []

    def live() -> Iterator[int]:
        for number in range(1000):
            reached.append(number)
            threading.Event().wait(0.05)
            yield number

    with ProcessWasmPool(MISBEHAVE, workers=1) as pool, pool.instance():  # nothing runs
        results = pool.map(function, live(), timeout=0.2)
        with pytest.raises(concurrent.futures.TimeoutError):
            next(results)
        assert len(reached) < 12
