"""Neither memory nor time per job grows with what has been done before, or with what waits."""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest
from bounded import pool_that_goes, run_script, within
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, busy_pid, eventually, worker_pids
from test_user_code import GUEST

from procpool import CallTimeout, ProcessWasmPool, StartupError, WasiConfig

MIB = 1 << 20


def seconds(action: Callable[[], object], rounds: int = 3, enough: float = 0) -> float:
    """The least time that an action takes, in some rounds, or in fewer if it once took less than ``enough``."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - started)
        if best < enough:
            break
    return best


#: How many tries something gets to be as fast as it can: others use this machine too.
OFTEN = 30


def held(pids: list[int]) -> int:
    """Resident bytes."""
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)


# -- what was shipped is forgotten -------------------------------------------------------------------------------------


def length(data: bytes, instance: Any) -> int:
    return len(data)


def test_functions_that_are_gone_here_are_forgotten_in_the_workers(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        pids = [os.getpid(), *worker_pids(pool)]
        assert pool.submit(functools.partial(length, bytes(MIB))).result(DEADLINE) == MIB
        before = held(pids)
        for n in range(150):
            assert pool.submit(functools.partial(length, os.urandom(MIB)[: MIB - n])).result(DEADLINE) == MIB - n
        assert held(pids) - before < 75 * MIB, "150 MiB were sent to the worker, and by now are nobody's"


def test_small_closures_are_forgotten_too(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        pids = worker_pids(pool)

        def run(count: int) -> None:
            for _ in range(count):
                data = os.urandom(20_000)
                assert pool.submit(lambda instance, data=data: len(data)).result(DEADLINE) == 20_000

        run(100)
        before = held(pids)
        run(2000)
        assert held(pids) - before < 20 * MIB, "40 MB of closures were sent, and are gone"


def test_what_was_forgotten_is_sent_again(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        kept = [functools.partial(length, bytes([n]) * 100_000) for n in range(5)]
        for turn in range(3):
            futures = [pool.submit(function) for function in kept]
            futures += [pool.submit(functools.partial(length, os.urandom(100_000 + n))) for n in range(300)]
            expected = [100_000] * 5 + [100_000 + n for n in range(300)]
            assert [future.result(DEADLINE) for future in futures] == expected, turn
        assert worker_pids(pool) and pool.stats().failed == 0


def test_a_function_that_is_kept_is_not_sent_again(nothing_left: None) -> None:
    """To forget all of them each time would be no art."""
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        data = os.urandom(4 * MIB)

        def big(instance: Any) -> int:
            return len(data)

        def small(instance: Any) -> int:
            return 1

        assert pool.submit(big).result(DEADLINE) == 4 * MIB

        def calls(function: Any) -> float:
            return seconds(lambda: [future.result(DEADLINE) for future in [pool.submit(function) for _ in range(50)]])

        assert calls(big) < 10 * calls(small), "4 MiB travel in milliseconds, each time"


# -- what a finished future keeps --------------------------------------------------------------------------------------


def size_of(instance: Any, data: Any) -> int:
    return len(data)


def fail(instance: Any, data: Any) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("ends", ["with a result", "with an exception", "by its timeout", "by cancellation in the queue"])
@pytest.mark.parametrize("kind", ["bytes", "array", "small bytes"])
def test_a_finished_future_keeps_no_arguments(kind: str, ends: str) -> None:
    data: Any = bytes(1000 if kind == "small bytes" else MIB)
    if kind == "array":
        data = numpy.zeros(MIB, numpy.uint8)
    with pool_that_goes(MISBEHAVE, workers=1, kill_grace=0.2) as pool:
        blocker = pool.submit("spin") if ends == "by cancellation in the queue" else None
        before = sys.getrefcount(data)
        if ends == "with a result":
            future = pool.submit(size_of, data)
            assert future.result(DEADLINE) == len(data)
        elif ends == "with an exception":
            future = pool.submit(fail, data)
            assert isinstance(future.exception(DEADLINE), ValueError)
        elif ends == "by its timeout":
            future = pool.submit(lambda instance, data: instance.call("spin"), data, timeout=0.1)
            assert isinstance(future.exception(DEADLINE), CallTimeout)
        else:
            future = pool.submit(size_of, data)
            assert future.cancel() and blocker is not None and blocker.cancel()
        pool.drain(DEADLINE)
        gc.collect()
        eventually(lambda: sys.getrefcount(data) == before, "the arguments to be let go")
        assert future.done()


def test_a_finished_run_keeps_no_stdin(nothing_left: None) -> None:
    with pool_that_goes(FIXTURES / "command.wasm", workers=1, wasi=WasiConfig()) as pool:
        stdin = b"x" * MIB
        before = sys.getrefcount(stdin)
        future = pool.submit_run(["x", "upper"], stdin=stdin)
        assert future.result(DEADLINE).stdout == b"X" * MIB
        eventually(lambda: sys.getrefcount(stdin) == before, "the input to be let go")
        assert future.done()


def test_the_pool_keeps_neither_a_finished_future_nor_its_result(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        for function in (lambda instance: numpy.zeros(MIB), lambda instance: numpy.zeros(10)):
            future = pool.submit(function)
            result = weakref.ref(future.result(DEADLINE))
            gone = weakref.ref(future)
            del future
            gc.collect()
            eventually(lambda gone=gone, result=result: gone() is None and result() is None, "both to go")  # type: ignore[misc]


def test_memory_of_finished_jobs_that_somebody_keeps(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        pool.submit(size_of, os.urandom(MIB)).result(DEADLINE)
        before = held([os.getpid()])
        futures = []
        for _ in range(150):
            futures.append(pool.submit(size_of, os.urandom(MIB)))
            futures[-1].result(DEADLINE)
        assert held([os.getpid()]) - before < 75 * MIB, "150 futures keep 150 MiB"


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_new_key_takes_no_longer_for_those_before_it(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        seen = iter(range(1 << 30))

        def run(count: int) -> None:
            for future in [pool.submit("add", 1, 2, key=next(seen)) for _ in range(count)]:
                assert future.result(DEADLINE) == 3

        run(100)
        early = seconds(lambda: run(200))
        run(8000)
        assert seconds(lambda: run(200), OFTEN, enough=5 * early) < 5 * early


# -- long queues -------------------------------------------------------------------------------------------------------


@pytest.fixture
def blocked() -> Iterator[ProcessWasmPool]:
    """A pool that runs nothing of what is queued."""
    with pool_that_goes(KERNELS, workers=1) as pool:
        pool.submit("churn", 1, (1 << 31) - 1)
        busy_pid(pool)
        yield pool


@pytest.mark.parametrize(
    ("what", "action"),
    [
        ("higher priority", lambda pool: [pool.submit("add", 1, 2, priority=5) for _ in range(20)]),
        ("lower priority", lambda pool: [pool.submit("add", 1, 2, priority=-5) for _ in range(20)]),
        ("priority in between", lambda pool: [pool.submit("add", 1, 2, priority=n % 2 + 1) for n in range(20)]),
        ("a key", lambda pool: [pool.submit("add", 1, 2, key=n) for n in range(20)]),
        ("cancel", lambda pool: [pool.submit("add", 1, 2).cancel() for _ in range(20)]),
        ("time out", lambda pool: [_timed_out(pool) for _ in range(5)]),
        ("stats", lambda pool: [pool.stats() for _ in range(20)]),
    ],
)
def test_a_long_queue_costs_no_more_than_a_short_one(
    blocked: ProcessWasmPool, what: str, action: Callable[[ProcessWasmPool], object]
) -> None:
    def queue(count: int) -> None:
        for _ in range(count):
            blocked.submit("add", 1, 2)

    queue(400)
    short = seconds(lambda: action(blocked), 5)
    queue(40_000)
    assert seconds(lambda: action(blocked), OFTEN, enough=8 * short) < 8 * short


def _timed_out(pool: ProcessWasmPool) -> None:
    with pytest.raises(CallTimeout):
        pool.call("add", 1, 2, timeout=1e-3)


def test_closing_with_a_long_queue_takes_time_in_proportion(nothing_left: None) -> None:
    def close(count: int) -> float:
        pool = ProcessWasmPool(KERNELS, workers=1)
        pool.submit("churn", 1, (1 << 31) - 1)
        futures = [pool.submit("add", 1, 2) for _ in range(count)]
        started = time.perf_counter()
        pool.terminate()
        taken = time.perf_counter() - started
        assert all(future.done() for future in futures)
        return taken

    times = [(close(2500), close(40_000)) for _ in range(3)]
    few, many = (min(column) for column in zip(*times, strict=True))
    assert many < 100 * few, "16 times as many: 256 times as long, if each were looked at for each"


# -- large messages ----------------------------------------------------------------------------------------------------


def text(instance: Any, size: int) -> str:
    return "x" * size


def complain(instance: Any, size: int) -> None:
    raise ValueError("x" * size)


def log(instance: Any, size: int) -> None:
    logging.getLogger("guest.large").warning("x" * size)


def lines_of(pool: ProcessWasmPool, size: int) -> None:
    lines: list[str] = []
    assert pool.submit_run(["x"] * (2 + size // 65536), stdout=lines.append).result(6 * DEADLINE).returncode == 0
    assert sum(map(len, lines)) == size


def result_of(pool: ProcessWasmPool, *job: Any) -> Any:
    return pool.submit(*job).result(6 * DEADLINE)


#: What is large -> makes it so, of that many bytes; none of them goes through shared memory.
LARGE: dict[str, Callable[[ProcessWasmPool, int], object]] = {
    "argument": lambda pool, size: result_of(pool, size_of, "x" * size),
    "result": lambda pool, size: result_of(pool, text, size),
    "exception": lambda pool, size: pool.submit(complain, size).exception(6 * DEADLINE),
    "log record": lambda pool, size: result_of(pool, log, size),
    "function": lambda pool, size: result_of(pool, functools.partial(length, os.urandom(16) + bytes(size))),
    "input of a command": lambda pool, size: pool.submit_run(["x"], stdin=bytes(size)).result(6 * DEADLINE),
    "printed": lambda pool, size: pool.submit_run(["x"] * (2 + size // 65536)).result(6 * DEADLINE),
    "printed line": lines_of,
}


@pytest.mark.parametrize("what", LARGE)
def test_what_is_eight_times_as_large_takes_eight_times_as_long(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """Or a little more, as it leaves the caches; but not 64 times."""
    with pool_that_goes(GUEST, workers=1, wasi=WasiConfig()) as pool, caplog.at_level(logging.CRITICAL):
        LARGE[what](pool, MIB)
        small = seconds(lambda: LARGE[what](pool, 3 * MIB))
        large = seconds(lambda: LARGE[what](pool, 24 * MIB), OFTEN, enough=40 * small)
    assert large < 40 * small, f"{small * 1e3:.0f} ms and {large * 1e3:.0f} ms"


# -- what failed leaves nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"initializer": int, "initargs": ("no number",)}, ValueError),
        ({"initializer": int, "initargs": ("no number",), "start_method": "spawn"}, ValueError),
        ({"imports": {"env": {"log": print}}}, TypeError),
        ({"src": b"\0asm nonsense"}, ValueError),
        ({"rlimits": {"NOTHING": 1}}, ValueError),
        ({"initargs": (threading.Lock(),)}, TypeError),
        ({"initializer": os._exit, "initargs": (3,)}, StartupError),
        ({"memory_limit": 65536}, StartupError),
        ({"start": ("trap",)}, Exception),
    ],
)
def test_a_failed_construction_leaves_nothing(options: dict[str, Any], error: type[Exception], nothing_left: None) -> None:
    with pytest.raises(error):
        within(ProcessWasmPool, **{"src": MISBEHAVE, "workers": 1, **options})


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_without_an_interpreter_to_start(method: str, monkeypatch: pytest.MonkeyPatch, nothing_left: None) -> None:
    monkeypatch.setattr(spawn, "get_executable", lambda: b"/nonexistent/python")
    with pytest.raises(StartupError) as caught:
        within(ProcessWasmPool, KERNELS, workers=1, start_method=method)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_without_a_thread_to_start(monkeypatch: pytest.MonkeyPatch, nothing_left: None) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(2):
            with pytest.raises((StartupError, RuntimeError)):
                ProcessWasmPool(KERNELS, workers=1)
    gc.collect()


#: With each number of free descriptors from none on, until it succeeds: prints [free, error, leaked] each time.
FEW = f"""
import gc, json, os, resource, sys, time
from procpool import ProcessWasmPool
from procpool.supervisor import population

population.BACKOFF_FIRST = 0.002  # it gives up after a number of attempts, however soon these come

def open_files():
    with os.scandir("/proc/self/fd") as entries:
        return {{int(entry.name) for entry in entries if os.path.exists("/proc/self/fd/" + entry.name)}}

def settled():
    while (found := open_files()) != (time.sleep(0.05), open_files())[1]:
        pass
    return found

ProcessWasmPool({str(KERNELS)!r}, 1).shutdown()  # all that is imported late is imported
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
for free in range(40):
    before = settled()
    numbers = [n for n in range(len(before) + free) if n not in before][:free]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max([*before, *numbers]) + 1, hard))
    error = None
    try:
        ProcessWasmPool({str(KERNELS)!r}, 1, start_method=sys.argv[1]).shutdown()
    except Exception as caught:
        error = f"{{type(caught).__name__}}: {{caught}}"
    gc.collect()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(json.dumps([free, error, len(settled() - before)]), flush=True)
    if error is None:
        break
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_with_too_few_descriptors_the_constructor_fails_and_leaves_none(method: str) -> None:
    done = run_script(FEW, method)
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [leaked for _, _, leaked in outcomes] == [0] * len(outcomes), outcomes
    *failures, success = outcomes
    assert success[1] is None and len(failures) > 5
    assert all(error.startswith(("OSError", "StartupError")) for _, error, _ in failures), outcomes


def test_a_pool_that_is_closed_and_kept_keeps_no_descriptors(nothing_left: None, tmp_path: Path) -> None:
    pools = [ProcessWasmPool(KERNELS, workers=1) for _ in range(3)]
    before = len(os.listdir("/proc/self/fd"))
    for pool in pools:
        pool.shutdown()
    assert len(os.listdir("/proc/self/fd")) < before - 3 * 7
    del pools
