"""One blocking call of the smallest export: how long until its result is there."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter, sleep

from procpool import ProcessWasmPool

from . import floors, peers
from .ways import FLOOR, OURS, PEER, Timed, Way, figure, run, timed, within

WHAT = 'blocking call("add", 1, 2)'
COLD = WHAT + ", the first 300 of a pool, each"
IDLE = WHAT + ", after 2 ms of idleness"
BUSY = WHAT + ", beside two busy processes"
FIRST = 300


@contextmanager
def pool() -> Iterator[ProcessWasmPool]:
    with ProcessWasmPool(peers.KERNELS, peers.WORKERS) as made:
        made.wait_ready()
        yield made


def pinned(two_cores: bool) -> Callable[[], AbstractContextManager[Timed]]:
    """Caller and workers on a core each, or all on one."""

    @contextmanager
    def make() -> Iterator[Timed]:
        cores = sorted(os.sched_getaffinity(0))
        with pool() as made:
            for worker in made.stats().workers:
                assert worker.pid is not None
                os.sched_setaffinity(worker.pid, {cores[-1 if two_cores else 0]})
            os.sched_setaffinity(0, {cores[0]})
            try:
                yield timed(lambda: made.call("add", 1, 2))
            finally:
                os.sched_setaffinity(0, set(cores))

    return make


def first_calls(loops: int) -> float:
    """Of a pool that has made none: both sides sleep, and nothing is known of the machine."""
    taken = 0.0
    for _ in range(loops):
        with pool() as made:
            taken += timed(lambda: made.call("add", 1, 2))(FIRST)
    return taken


def rested(call: Callable[[], object]) -> Timed:
    """Each after a pause, which is not counted."""

    def one() -> float:
        sleep(0.002)
        started = perf_counter()
        call()
        return perf_counter() - started

    return figure(one)


@contextmanager
def crowded() -> Iterator[None]:
    """Two processes that take all the time they get."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()


@contextmanager
def beside_others() -> Iterator[Timed]:
    with crowded(), pool() as made:
        yield timed(lambda: made.call("add", 1, 2))


def awaited(p: ProcessWasmPool) -> Timed:
    """One after the other, in a task."""

    async def calls(loops: int) -> float:
        started = perf_counter()
        for _ in range(loops):
            await p.acall("add", 1, 2)
        return perf_counter() - started

    return lambda loops: asyncio.run(calls(loops))


@contextmanager
def sleepers() -> Iterator[Timed]:
    with floors.ping_pong(True)() as trip:
        yield rested(lambda: trip(1))


@contextmanager
def cold() -> Iterator[Timed]:
    yield first_calls


WAYS = [
    Way(COLD, "procpool call", cold, 1, inner=FIRST),
    Way(IDLE, "os.pipe ping-pong, two cores", sleepers, 100, role=FLOOR),
    Way(IDLE, "procpool call", within(pool, lambda p: rested(lambda: p.call("add", 1, 2))), 100),
    Way(
        IDLE,
        peers.EXECUTOR.name,
        within(peers.EXECUTOR.make, lambda p: rested(lambda: p.one(peers.add, 1, 2))),
        100,
        role=PEER,
    ),
    Way(BUSY, "procpool call", beside_others, 2000),
    Way(WHAT, "os.pipe ping-pong, two cores", floors.ping_pong(True), 2000, role=FLOOR),
    Way(WHAT, "os.pipe ping-pong, one core", floors.ping_pong(False), 2000, role=FLOOR),
    Way(WHAT, "spinning flag in shared memory", floors.spinning_flag, 5000, role=FLOOR),
    Way(WHAT, "wasmtime's raw call, in-process", floors.raw_call, 20000, role=FLOOR),
    Way(WHAT, "procpool call", within(pool, lambda p: timed(lambda: p.call("add", 1, 2))), 2000),
    Way(WHAT, "procpool call, pinned to two cores", pinned(True), 2000),
    Way(WHAT, "procpool call, pinned to one core", pinned(False), 2000),
    Way(WHAT, "procpool submit, result", within(pool, lambda p: timed(lambda: p.submit("add", 1, 2).result())), 1000),
    Way(WHAT, "procpool acall", within(pool, awaited), 1000),
    *(
        Way(
            WHAT,
            peer.name,
            within(peer.make, lambda p: timed(lambda: p.one(peers.add, 1, 2))),
            {"in-process, no pool": 2000, "joblib": 5}.get(peer.name, 300),
            role=PEER,
            needs=peer.needs,
        )
        for peer in (*peers.LOCAL, *peers.POOLS, *peers.METHODS, *peers.SLOW)
    ),
]
assert all(way.role in (FLOOR, OURS, PEER) for way in WAYS)

if __name__ == "__main__":
    run("perf.latency", WAYS)
