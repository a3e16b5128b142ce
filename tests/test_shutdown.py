"""The end of a pool: what it waits for, for how long, and that no code of others can keep it from ending."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest
from bounded import in_a_program
from conftest import DEADLINE, FIXTURES, MISBEHAVE, all_held, eventually, worker_pids
from test_instances import with_note

from procpool import CallTimeout, LeaseEnded, PoolClosed, ProcessWasmPool, WasiConfig, WorkerCrashed
from procpool.supervisor.condition import Moment

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import what tests need
HOST = FIXTURES / "host.wat"
COMMAND = FIXTURES / "command.wasm"
HOUR_MS = 3_600_000
#: The end of a pool, for those who wait or were about to begin.
ENDED = (CancelledError, PoolClosed)


def doze(milliseconds: int) -> None:
    time.sleep(milliseconds / 1000)


def dozing(instance: Any, milliseconds: int) -> int:
    time.sleep(milliseconds / 1000)
    return milliseconds


def host_pool(**options: Any) -> ProcessWasmPool:
    pool = ProcessWasmPool(HOST, 2, imports=with_note(doze), **{"kill_grace": 0.1, **options})
    pool.wait_ready(DEADLINE)
    return pool


def until_busy(pool: ProcessWasmPool, workers: int = 2) -> None:
    eventually(lambda: pool.stats().busy == workers, f"{workers} busy workers")


def everything_is_over() -> None:
    eventually(lambda: not psutil.Process().children(recursive=True), "the end of all processes")
    eventually(lambda: not any("procpool" in thread.name for thread in threading.enumerate()), "the end of all threads")


# -- cancel_futures --------------------------------------------------------------------------------------------------------


def cancelled_with_a_map(what: str) -> None:
    """What has not begun is cancelled: the map's iterator says so in the place of the first such item."""
    pool = host_pool()
    maps: dict[str, Callable[[], Any]] = {
        "export": lambda: pool.map("note", [2] * 200, chunksize=1),
        "large chunks": lambda: pool.map("note", [1] * 200, chunksize=5),
        "unordered": lambda: pool.map("note", [2] * 200, chunksize=1, ordered=False),
        "callable": lambda: pool.map(dozing, [2] * 2000),
    }
    # So many that the queue is long, and so short that some get done while it is gone through.
    many = [maps[what]() for _ in range(2 if what == "callable" else 150)]
    until_busy(pool)
    pool.shutdown(cancel_futures=True)
    for results in many:
        with pytest.raises(ENDED):
            list(results)
    everything_is_over()


def cancelled_with_each_map() -> None:
    for what in ("export", "large chunks", "unordered", "callable"):
        print(what, flush=True)
        cancelled_with_a_map(what)


def test_cancel_futures_with_a_map_in_flight() -> None:
    in_a_program(cancelled_with_each_map)


def cancelled_with_a_map_being_read() -> None:
    """Somebody waits for its next item, and must not wait for ever."""
    pool = host_pool()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for _ in pool.map("note", [20] * 100_000, chunksize=1):
                pass
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read, daemon=True) for _ in range(3)]
    for reader in readers:
        reader.start()
    until_busy(pool)
    pool.shutdown(cancel_futures=True)
    for reader in readers:
        reader.join(DEADLINE)
    assert len(errors) == 3 and all(isinstance(error, ENDED) for error in errors), errors
    everything_is_over()


def test_cancel_futures_while_maps_are_read() -> None:
    in_a_program(cancelled_with_a_map_being_read)


def cancelled_with_an_amap() -> None:
    pool = host_pool()

    async def main() -> None:
        async def read() -> None:
            async for _ in pool.amap("note", [20] * 100_000, chunksize=1):
                pass

        task = asyncio.ensure_future(read())
        while pool.stats().busy < 2:
            await asyncio.sleep(0.005)
        await asyncio.get_running_loop().run_in_executor(None, lambda: pool.shutdown(cancel_futures=True))
        with pytest.raises((*ENDED, asyncio.CancelledError)):
            await asyncio.wait_for(task, DEADLINE)

    asyncio.run(main())
    everything_is_over()


def test_cancel_futures_with_an_amap_in_flight() -> None:
    in_a_program(cancelled_with_an_amap)


def cancelled_with_map_array() -> None:
    import numpy

    pool = host_pool()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            pool.map_array("many", numpy.full(500_000, 1000, "i4"))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until_busy(pool)
    pool.shutdown(cancel_futures=True, timeout=DEADLINE)
    thread.join(DEADLINE)
    assert len(errors) == 1 and isinstance(errors[0], ENDED), errors
    everything_is_over()


def test_cancel_futures_with_map_array() -> None:
    in_a_program(cancelled_with_map_array)


def cancelled_under_load() -> None:
    """While others submit: prioritised, with keys, cancelled, in maps.  Each job ends once, in its result or cancelled."""
    pool = host_pool()
    futures: list[Any] = []
    unexpected: list[BaseException] = []

    def submit(number: int) -> None:
        try:
            while True:
                futures.append(pool.submit("double", 1, key=number))
                futures.append(pool.submit("double", 1, priority=number))
                futures.append(pool.submit("double", 1))
                futures.append(pool.submit(dozing, 1))
                futures[-2].cancel()
                pool.map("double", range(100)).close()
        except PoolClosed:
            pass
        except BaseException as error:
            unexpected.append(error)

    threads = [threading.Thread(target=submit, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(futures) > 500, "load")
    pool.shutdown(cancel_futures=True)
    for thread in threads:
        thread.join(DEADLINE)
    assert not unexpected
    for future in futures:
        assert future.done()
        assert future.cancelled() or isinstance(future.exception(0), (PoolClosed, type(None))), future
    everything_is_over()


def test_cancel_futures_under_load() -> None:
    in_a_program(cancelled_under_load)


def cancelled_with_keys() -> None:
    """Jobs that wait for one worker, and leases that wait for any, have not begun either."""
    pool = host_pool()
    running = [pool.submit("note", 300) for _ in range(2)]
    until_busy(pool)
    waiting = [pool.submit("double", n, key=n % 3) for n in range(50)]
    asked: list[BaseException] = []

    def get() -> None:
        try:
            pool.get()
        except BaseException as error:
            asked.append(error)

    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    eventually(lambda: pool.stats().pending > 0, "the queue")
    pool.shutdown(cancel_futures=True)
    thread.join(DEADLINE)
    assert [future.exception(0) for future in running] == [None] * 2, "what has begun is finished"
    assert all(future.cancelled() for future in waiting)
    assert len(asked) == 1 and isinstance(asked[0], ENDED), asked
    everything_is_over()


def test_cancel_futures_with_keys_and_leases_waiting() -> None:
    in_a_program(cancelled_with_keys)


def left_by_an_exception() -> None:
    """Leaving the block by an exception is `cancel_futures` too."""
    with pytest.raises(ZeroDivisionError), ProcessWasmPool(HOST, 2, imports=with_note(doze)) as pool:
        results = pool.map("note", [20] * 1000, chunksize=1)
        next(results)
        raise ZeroDivisionError
    with pytest.raises(ENDED):
        list(results)
    everything_is_over()


def test_a_block_left_by_an_exception_in_the_middle_of_a_map() -> None:
    in_a_program(left_by_an_exception)


# -- leases ----------------------------------------------------------------------------------------------------------------


def lease_outlives_shutdown(way: str, flag: str) -> None:
    """A call of a lease that is under way is finished as any job is, and the lease has ended then."""

    def note(milliseconds: int) -> None:
        Path(flag).touch()
        time.sleep(milliseconds / 1000)

    pool = ProcessWasmPool(HOST, 2, imports=with_note(note))
    outcomes: list[Any] = []
    kept: list[Any] = []

    def use() -> None:
        lease = pool.get()
        kept.append(lease)
        try:
            outcomes.append(lease.call("note", 400))
        except BaseException as error:
            outcomes.append(error)
        if way == "used":
            with suppress(PoolClosed, LeaseEnded, WorkerCrashed):
                lease.call("double", 1)
                outcomes.append("the lease goes on")
        if way == "put":
            with suppress(PoolClosed, LeaseEnded):
                pool.put(lease)

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    eventually(lambda: Path(flag).exists(), "the call to begin")
    pool.shutdown()
    thread.join(DEADLINE)
    assert outcomes == [None], outcomes
    everything_is_over()


def leases_outlive_shutdown(directory: str) -> None:
    for way in ("put", "used", "kept"):
        print(way, flush=True)
        lease_outlives_shutdown(way, f"{directory}/{way}")


def test_a_lease_whose_call_outlives_shutdown(tmp_path: Path) -> None:
    in_a_program(leases_outlive_shutdown, str(tmp_path))


def endless_lease(end: str) -> None:
    pool = host_pool()
    errors: list[BaseException] = []

    def use() -> None:
        try:
            with pool.instance() as lease:
                lease.call("spin", timeout=0.5 if end == "shutdown" else None)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    if end == "terminate":
        spun = [psutil.Process(pid) for pid in worker_pids(pool)]
        eventually(lambda: all(process.cpu_times().user > 0.05 for process in spun), "both to spin")
    else:
        eventually(lambda: pool.stats().leased > 0 or len(errors) == 2, "leases")
    getattr(pool, end)()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(errors) == 2 and all(isinstance(error, (CallTimeout, PoolClosed)) for error in errors), errors
    everything_is_over()


@pytest.mark.parametrize("end", ["shutdown", "terminate"])
def test_a_lease_in_an_endless_loop(end: str) -> None:
    in_a_program(endless_lease, end)


def idle_leases() -> None:
    """Held by somebody who does nothing with them, and will not give them back."""
    pool = host_pool()
    leases = [pool.get() for _ in range(2)]
    pool.shutdown()
    for lease in leases:
        with pytest.raises((PoolClosed, LeaseEnded)):
            lease.call("double", 1)
    everything_is_over()


def test_leases_that_are_held() -> None:
    in_a_program(idle_leases)


# -- for how long ----------------------------------------------------------------------------------------------------------


def shutdown_in_time(what: str) -> None:
    """TimeoutError, and the jobs go on; `terminate` ends them."""
    pool = host_pool()
    future = None
    if what == "submit":
        future = pool.submit("note", HOUR_MS)
    elif what == "map":
        results = pool.map("note", [HOUR_MS] * 10)
    elif what == "queue":
        future = [pool.submit("note", HOUR_MS) for _ in range(50)][-1]
    else:
        threading.Thread(target=_ignoring(pool.call), args=("note", HOUR_MS), daemon=True).start()
    eventually(lambda: pool.stats().busy > 0, "a busy worker")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            pool.shutdown(timeout=0.2)
    with pytest.raises(PoolClosed):
        pool.submit("double", 1)
    if future is not None:
        assert not future.done()
    pool.terminate()
    if future is not None:
        assert isinstance(future.exception(DEADLINE), PoolClosed)
    if what == "map":
        with pytest.raises((PoolClosed, CancelledError)):
            next(results)
    everything_is_over()


def _ignoring(function: Callable[..., object]) -> Callable[..., None]:
    def run(*args: object) -> None:
        with suppress(Exception):
            function(*args)

    return run


def shutdowns_in_time() -> None:
    for what in ("submit", "map", "queue", "call"):
        print(what, flush=True)
        shutdown_in_time(what)


def test_shutdown_in_time() -> None:
    in_a_program(shutdowns_in_time)


def shutdown_left_to_itself() -> None:
    """After the TimeoutError nobody waits, and yet all ends when the jobs do."""
    pool = host_pool()
    future = pool.submit("note", 600)
    until_busy(pool, 1)
    with pytest.raises(TimeoutError):
        pool.shutdown(timeout=0.05)
    assert future.result(DEADLINE) is None
    everything_is_over()
    pool.shutdown(timeout=DEADLINE)
    pool.terminate()


def test_shutdown_left_to_itself() -> None:
    in_a_program(shutdown_left_to_itself)


class Latch:
    """Holds up whoever comes, until the program ends."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._never = threading.Event()

    def __call__(self, *args: object) -> None:
        self.reached.set()
        self._never.wait()


LATCH = Latch()


class Slow:
    """Does not finish being unpickled in the parent."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__({__name__!r}).LATCH()",)


def slow_result(instance: Any) -> Any:
    return Slow()


def log_something(instance: Any) -> None:
    logging.getLogger("guest").warning("hello")


class LatchHandler(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        LATCH()
        return True


def held_up(what: str, end: str) -> None:
    """Some code of the user's never returns.  The end of the pool does not wait for it longer than it may."""
    hook = LATCH if what == "on_event" else None
    module, options = (COMMAND, {"wasi": WasiConfig()}) if what == "line function" else (HOST, {"imports": with_note(doze)})
    pool: ProcessWasmPool = ProcessWasmPool(module, 2, on_event=hook, kill_grace=0.1, **options)
    if what == "callback":
        with all_held(pool):
            pool.submit("double", 1).add_done_callback(LATCH)
    elif what == "unpickling":
        pool.submit(slow_result)
    elif what == "logging":
        logging.getLogger("guest").addHandler(LatchHandler())
        pool.submit(log_something)
    elif what == "line function":
        pool.submit_run(["upper", "upper"], stdin=b"one\ntwo\n", stdout=LATCH)
    elif what == "callback of the end":
        running = pool.submit("note", HOUR_MS)
        until_busy(pool, 1)
        running.add_done_callback(LATCH)
    elif what == "progress":
        started = threading.Thread(target=lambda: list(pool.map("double", range(10), progress=LATCH)), daemon=True)
        started.start()
    if what != "callback of the end":
        assert LATCH.reached.wait(DEADLINE)
    if what != "line function":  # nobody else is held up
        assert pool.call("double", 4, timeout=DEADLINE) == 8
        assert pool.submit("double", 4).result(DEADLINE) == 8
    if end == "shutdown":
        with suppress(TimeoutError):
            pool.shutdown(timeout=0.3)
    pool.terminate()
    eventually(lambda: not psutil.Process().children(recursive=True), "the end of all processes")
    sys.stdout.flush()
    os._exit(0)  # what an exit of the interpreter does about such threads is another matter


USERS = ["callback", "unpickling", "logging", "on_event", "line function", "callback of the end", "progress"]


@pytest.mark.parametrize(("what", "end"), [*((what, "shutdown") for what in USERS), ("callback", "terminate")])
def test_an_end_that_no_code_of_others_can_hold_up(what: str, end: str) -> None:
    in_a_program(held_up, what, end)


def from_within(what: str, end: str) -> None:
    """The pool is ended by code that it calls, and that must not wait for itself."""
    armed, ended = threading.Event(), threading.Event()
    pools: list[ProcessWasmPool] = []

    def finish(*args: object) -> None:
        if armed.is_set() and not ended.is_set():
            if end == "shutdown":
                pools[0].shutdown()
            else:
                pools[0].terminate()
            ended.set()

    hook = finish if what == "on_event" else None
    pools.append(ProcessWasmPool(HOST, 2, imports=with_note(doze), on_event=hook, kill_grace=0.1))
    pool = pools[0]
    pool.wait_ready(DEADLINE)
    armed.set()
    if what == "callback":
        with all_held(pool):
            pool.submit("double", 1).add_done_callback(finish)
    elif what == "on_event":
        os.kill(worker_pids(pool)[0], 9)
    elif what == "progress":
        with suppress(PoolClosed, CancelledError):
            list(pool.map("double", range(10), progress=finish))
    else:

        def numbers() -> Any:
            yield from range(10)
            finish()
            yield from range(10)

        with suppress(PoolClosed, CancelledError):
            list(pool.map("double", numbers()))
    assert ended.wait(DEADLINE)
    with pytest.raises(PoolClosed):
        pool.call("double", 1)
    pool.shutdown()
    everything_is_over()


def each_from_within(end: str) -> None:
    for what in ("callback", "on_event", "progress", "input"):
        print(what, flush=True)
        from_within(what, end)


@pytest.mark.parametrize("end", ["shutdown", "terminate"])
def test_ended_from_within(end: str) -> None:
    in_a_program(each_from_within, end)


def ended_by_many() -> None:
    """By several threads, in different ways, at once, while others use it."""
    for _ in range(4):
        pool = host_pool()
        ways: list[Callable[[], object]] = [
            pool.shutdown,
            lambda pool=pool: pool.shutdown(cancel_futures=True),  # type: ignore[misc]
            lambda pool=pool: pool.shutdown(wait=False),  # type: ignore[misc]
            pool.terminate,
            lambda pool=pool: list(pool.map("double", range(10_000))),  # type: ignore[misc]
            lambda pool=pool: [pool.call("double", n) for n in range(10_000)],  # type: ignore[misc]
            lambda pool=pool: [pool.submit("double", n).result() for n in range(10_000)],  # type: ignore[misc]
            pool.restart,
            pool.drain,
        ]
        unexpected: list[BaseException] = []

        def use(way: Callable[[], object], unexpected: list[BaseException] = unexpected) -> None:
            try:
                way()
            except ENDED:
                pass
            except BaseException as error:
                unexpected.append(error)

        threads = [threading.Thread(target=use, args=(way,), daemon=True) for way in reversed(ways)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        assert not unexpected, unexpected
    everything_is_over()


def test_ended_by_many_at_once() -> None:
    in_a_program(ended_by_many)


def full_queue_at_the_end() -> None:
    """Somebody waits for room in the queue; the end is news for them too."""
    pool = ProcessWasmPool(MISBEHAVE, 1, max_pending=1, kill_grace=0.1)
    errors: list[BaseException] = []

    def submit() -> None:
        try:
            while True:
                pool.submit("spin", timeout=0.5)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=submit, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: pool.stats().pending >= 1, "the queue to be full")
    pool.shutdown(cancel_futures=True)
    for thread in threads:
        thread.join(DEADLINE)
    assert len(errors) == 3 and all(isinstance(error, PoolClosed) for error in errors), errors
    everything_is_over()


def test_those_who_wait_for_room() -> None:
    in_a_program(full_queue_at_the_end)


COUNTER = """(module
  (global $calls (mut i32) (i32.const 0))
  (func (export "next") (param i32) (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (global.get $calls)))"""


def test_a_lease_ended_by_shutdown_leaves_no_traces(nothing_left: None) -> None:
    """The jobs that a closing pool still has to run do not see what the holder of a lease did to the instance."""
    pool = ProcessWasmPool(COUNTER, 1, isolation="fresh")
    lease = pool.get()
    assert [lease.call("next", 0) for _ in range(3)] == [1, 2, 3]
    results, job = pool.map("next", range(6)), pool.submit("next", 0)
    pool.shutdown(timeout=DEADLINE)
    assert list(results) == [1] * 6
    assert job.result() == 1
    with pytest.raises(PoolClosed):
        lease.call("next", 0)


def test_a_worker_given_back_after_the_end_is_closed(nothing_left: None) -> None:
    """By a direct call whose answer came just before."""
    pool = ProcessWasmPool(COUNTER, 1)
    scheduler = pool._dispatcher.scheduler
    lane = scheduler.next_idle()
    pool.terminate()
    scheduler.release(lane)
    assert lane.port.jobs_fd == lane.port.replies_fd == -1


def test_who_begins_to_wait_at_the_end_is_told(nothing_left: None) -> None:
    """The command that registers who waits comes to a dispatcher that has stopped."""
    pool = ProcessWasmPool(COUNTER, 1)
    dispatcher = pool._dispatcher
    happened: Moment[None] = Moment()
    pool.terminate()
    dispatcher.do(lambda: dispatcher._await(happened, lambda: False))
    assert isinstance(happened.exception(DEADLINE), PoolClosed)


def test_terminate_ends_who_waits_for_code_that_never_ends(nothing_left: None) -> None:
    stuck = threading.Event()
    with ProcessWasmPool(MISBEHAVE, 1, on_event=lambda event: stuck.wait(3 * DEADLINE)) as pool:
        assert pool.call("fine", 1) == 1
        with pytest.raises(TimeoutError, match="all processes have ended"):
            pool.shutdown(timeout=0.2)
        waiting = threading.Thread(target=pool.shutdown, daemon=True)
        waiting.start()
        pool.terminate()
        waiting.join(DEADLINE)
        assert not waiting.is_alive()
        stuck.set()
