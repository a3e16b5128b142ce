"""How cost grows: with workers, and with callers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from threading import Barrier
from time import perf_counter

from procpool import ProcessWasmPool

from . import peers
from .throughput import gather
from .ways import PEER, Timed, Way, figure, run, timed, within

LATENCY = "blocking call, by workers"
THROUGHPUT = "submit 10,000 adds and gather, each, by workers"
CALLERS = "blocking calls by callers at once, each"
COUNTS = (1, 2, 4, 8, 16)


def pool(workers: int) -> Callable[[], AbstractContextManager[ProcessWasmPool]]:
    @contextmanager
    def make() -> Iterator[ProcessWasmPool]:
        with ProcessWasmPool(peers.KERNELS, workers) as made:
            made.wait_ready()
            yield made

    return make


def at_once(callers: int, calls: int, call: Callable[[], object]) -> Timed:
    """Seconds per call when so many threads call for as long as each takes."""
    per_caller = max(1, calls // callers)

    def measure() -> float:
        barrier = Barrier(callers + 1)

        def work() -> None:
            barrier.wait()
            for _ in range(per_caller):
                call()

        with ThreadPoolExecutor(callers) as threads:
            jobs = [threads.submit(work) for _ in range(callers)]
            barrier.wait()
            started = perf_counter()
            for job in jobs:
                job.result()
            return (perf_counter() - started) / (callers * per_caller)

    return figure(measure)


def ours_at_once(callers: int, p: ProcessWasmPool) -> Timed:
    return at_once(callers, 4000, lambda: p.call("add", 1, 2))


def theirs_at_once(callers: int, p: peers.Peer) -> Timed:
    return at_once(callers, 1000, lambda: p.one(peers.add, 1, 2))


def one_call(p: ProcessWasmPool) -> Timed:
    return timed(lambda: p.call("add", 1, 2))


def many_submits(p: ProcessWasmPool) -> Timed:
    return timed(partial(gather, p))


WAYS = [
    *(Way(LATENCY, "procpool call", within(pool(n), one_call), 1000, at=n) for n in COUNTS),
    *(Way(THROUGHPUT, "procpool submit", within(pool(n), many_submits), inner=10_000, at=n) for n in COUNTS),
    *(
        Way(CALLERS, "procpool call, 2 workers", within(pool(2), partial(ours_at_once, n)), at=n)
        for n in (1, 2, 4, 8, 16, 32, 64)
    ),
    *(
        Way(CALLERS, peers.EXECUTOR.name, within(peers.EXECUTOR.make, partial(theirs_at_once, n)), role=PEER, at=n)
        for n in (1, 4, 16, 64)
    ),
]

if __name__ == "__main__":
    run("perf.scaling", WAYS)
