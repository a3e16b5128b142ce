"""ants' benchmark: many jobs that only sleep, by the size of the pool.

ants starts a goroutine per job; here a host function sleeps in a thread per instance.  Published for 1,000,000 jobs of
10 ms: 0.64 s with a pool of up to 200,000 goroutines on 8 cores (https://github.com/alitto/pond-benchmarks); a thousandth
of which any pool of processes can have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psutil

from procpool import ProcessWasmPool

from . import peers
from .ways import PEER, Timed, Way, figure, run, within

JOBS = "jobs of a 10 ms sleep, each, by instances"
MEMORY = "memory of all processes meanwhile (USS), by instances"
MODULE = '(module (import "env" "sleep" (func $sleep)) (func (export "job") (call $sleep)))'


def sleeping() -> None:
    time.sleep(0.01)


def pool(instances: int) -> Callable[[], AbstractContextManager[ProcessWasmPool]]:
    @contextmanager
    def make() -> Iterator[ProcessWasmPool]:
        imports = {"env": {"sleep": sleeping}}
        with ProcessWasmPool(MODULE, max(2, instances // 64), instances=min(64, instances // 2), imports=imports) as made:
            made.wait_ready()
            yield made

    return make


def jobs(count: int, p: Any) -> Timed:
    def measure() -> float:
        started = time.perf_counter()
        for future in [p.submit("job") for _ in range(count)]:
            future.result()
        return (time.perf_counter() - started) / count

    return figure(measure)


def memory(count: int, p: ProcessWasmPool) -> Timed:
    def measure() -> float:
        futures = [p.submit("job") for _ in range(count)]
        children = psutil.Process().children(recursive=True)
        held = sum(child.memory_full_info().uss for child in children) + psutil.Process().memory_full_info().uss
        for future in futures:
            future.result()
        return float(held)

    return figure(measure)


def theirs(count: int, p: peers.Peer) -> Timed:
    def measure() -> float:
        started = time.perf_counter()
        p.gather(time.sleep, [(0.01,)] * count)
        return (time.perf_counter() - started) / count

    return figure(measure)


WAYS = [
    *(Way(JOBS, f"procpool, {20 * n:,} jobs", within(pool(n), lambda p, n=n: jobs(20 * n, p)), at=n) for n in (8, 64, 512)),  # type: ignore[misc]
    Way(JOBS, "procpool, 100,000 jobs", within(pool(512), lambda p: jobs(100_000, p)), at=512, once=True),
    Way(JOBS, "procpool, 1,000,000 jobs", within(pool(512), lambda p: jobs(1_000_000, p)), at=512, once=True),
    Way(JOBS, "threads, 2000 jobs", within(lambda: peers.threads(512), lambda p: theirs(2000, p)), role=PEER, at=512),
    Way(
        JOBS,
        "ProcessPoolExecutor, 320 jobs",
        within(lambda: peers.EXECUTOR.make(8), lambda p: theirs(320, p)),
        role=PEER,
        at=8,
    ),
    *(
        Way(MEMORY, "procpool", within(pool(n), lambda p, n=n: memory(20 * n, p)), unit="byte", at=n)  # type: ignore[misc]
        for n in (8, 64, 512)
    ),
]

if __name__ == "__main__":
    run("perf.sleepers", WAYS)
