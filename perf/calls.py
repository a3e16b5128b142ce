"""One call at a time, many submitted at once, and long ones in parallel; the floor of each beside it."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from time import perf_counter

from procpool import ProcessWasmPool

from .peers import KERNELS, InProcess, Threads, add, call, multiprocessing_pool, process_pool_executor
from .sidebyside import Result, interleaved, of_samples

WORKERS = 2
CALLS = 2000
SUBMITS = 10_000


def measure(rounds: int) -> list[Result]:
    with (
        ProcessWasmPool(KERNELS, WORKERS) as pool,
        process_pool_executor(WORKERS) as executor,
        multiprocessing_pool(WORKERS) as mp_pool,
    ):
        pool.wait_ready()
        alone, threads = InProcess(), Threads(WORKERS)
        results = _latency(rounds, pool, lambda: executor.submit(add, 1, 2).result(), alone)
        submits = {
            "procpool submit": lambda: [f.result() for f in [pool.submit("add", n, n) for n in range(SUBMITS)]],
            "ProcessPoolExecutor": lambda: [f.result() for f in [executor.submit(add, n, n) for n in range(SUBMITS)]],
            "multiprocessing.Pool.apply_async": lambda: [
                f.get() for f in [mp_pool.apply_async(add, (n, n)) for n in range(SUBMITS)]
            ],
            "threads": lambda: [
                f.result() for f in [threads.executor.submit(threads.call, "add", n, n) for n in range(SUBMITS)]
            ],
            "in-process, no pool": lambda: [alone.call("add", n, n) for n in range(SUBMITS)],
        }
        results += interleaved("submit 10,000 adds, gather", submits, rounds, "us", SUBMITS, 1e6)
        steps = _steps_of(alone, 0.004)
        jobs = range(64)
        long_ones = {
            "in-process, no pool": lambda: [alone.call("churn", n, steps) for n in jobs],
            "procpool submit": lambda: [f.result() for f in [pool.submit("churn", n, steps) for n in jobs]],
            "procpool map": lambda: list(pool.map("churn", jobs, [steps] * 64)),
            "ProcessPoolExecutor": lambda: [f.result() for f in [executor.submit(call, "churn", n, steps) for n in jobs]],
            "threads": lambda: list(threads.executor.map(lambda n: threads.call("churn", n, steps), jobs)),
        }
        return results + interleaved("64 x 4 ms", long_ones, rounds, "ms", 1, 1e3)


def _steps_of(alone: InProcess, seconds: float) -> int:
    """How many rounds of `churn` take that long."""
    started = perf_counter()
    alone.call("churn", 1, 20_000_000)
    return int(20_000_000 * seconds / (perf_counter() - started))


def _latency(rounds: int, pool: ProcessWasmPool, peer: Callable[[], object], alone: InProcess) -> list[Result]:
    """The median of many calls per round; the median of those over rounds that take turns."""
    ways: dict[str, Callable[[], float]] = {
        "os.pipe ping-pong, two cores": lambda: _ping_pong(0, 1),
        "os.pipe ping-pong, one core": lambda: _ping_pong(0, 0),
        "procpool call, wherever the kernel puts it": lambda: _median_call(lambda: pool.call("add", 1, 2)),
        "procpool call, two cores": lambda: _pinned_call(pool, 1),
        "procpool call, one core": lambda: _pinned_call(pool, 0),
        "ProcessPoolExecutor": lambda: _median_call(peer, 300),
        "in-process, no pool": lambda: _median_call(lambda: alone.call("add", 1, 2)),
    }
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            figure = way()
            if number:
                samples[name].append(figure)
    return [of_samples('blocking call("add", 1, 2)', name, figures, "us") for name, figures in samples.items()]


def _median_call(job: Callable[[], object], calls: int = CALLS) -> float:
    times = []
    for _ in range(calls):
        started = perf_counter()
        job()
        times.append(perf_counter() - started)
    return statistics.median(times) * 1e6


def _pinned_call(pool: ProcessWasmPool, core: int) -> float:
    mine = os.sched_getaffinity(0)
    pids = [worker.pid for worker in pool.stats().workers]
    os.sched_setaffinity(0, {0})
    for pid in pids:
        os.sched_setaffinity(pid, {core})
    try:
        return _median_call(lambda: pool.call("add", 1, 2))
    finally:
        for pid in (0, *pids):
            os.sched_setaffinity(pid, mine)


def _ping_pong(mine: int, theirs: int) -> float:
    """A message of a job's size there and one of a reply's size back, by two Python processes."""
    there_read, there_write = os.pipe()
    back_read, back_write = os.pipe()
    before = os.sched_getaffinity(0)
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {theirs})
        for _ in range(CALLS):
            os.read(there_read, 4096)
            os.write(back_write, b"x" * 24)
        os._exit(0)
    os.sched_setaffinity(0, {mine})
    try:

        def trip() -> None:
            os.write(there_write, b"x" * 44)
            os.read(back_read, 4096)

        return _median_call(trip)
    finally:
        os.sched_setaffinity(0, before)
        os.waitpid(pid, 0)
        for fd in (there_read, there_write, back_read, back_write):
            os.close(fd)
