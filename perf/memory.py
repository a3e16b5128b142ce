"""What processes hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import psutil

from procpool import ProcessWasmPool
from procpool.options import StartMethod

from . import peers
from .ways import PEER, Timed, Way, figure, run

ONE = "memory of one idle worker alone (USS)"
ALL = "memory of all processes of an idle pool (USS), by workers"
GROWTH = "parent's memory after a map of 10,000,000 items, above that after 1,000,000"


def _held(pids: list[int]) -> float:
    return float(sum(psutil.Process(pid).memory_full_info().uss for pid in pids))


def _children() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True)]


def ours(workers: int, method: StartMethod, one: bool) -> Callable[[], AbstractContextManager[Timed]]:
    @contextmanager
    def make() -> Iterator[Timed]:
        with ProcessWasmPool(peers.KERNELS, workers, start_method=method) as pool:
            pool.wait_ready()
            pids = [worker.pid for worker in pool.stats().workers if worker.pid is not None]
            yield figure(lambda: _held(pids) / workers if one else _held(_children()))

    return make


def theirs(peer: peers.Named, workers: int, one: bool) -> Callable[[], AbstractContextManager[Timed]]:
    @contextmanager
    def make() -> Iterator[Timed]:
        with peer.make(workers) as pool:
            yield figure(lambda: _held(pool.pids()) / workers if one else _held(_children()))

    return make


@contextmanager
def growth() -> Iterator[Timed]:
    def measure() -> float:
        with ProcessWasmPool(peers.KERNELS, 2) as pool:
            for _ in pool.map("add", range(1_000_000), range(1_000_000)):
                pass
            before = psutil.Process().memory_info().rss
            for _ in pool.map("add", range(10_000_000), range(10_000_000)):
                pass
            return float(max(0, psutil.Process().memory_info().rss - before))

    yield figure(measure)


WAYS = [
    Way(ONE, "procpool, forked from the template", ours(8, "forkserver", True), unit="byte"),
    Way(ONE, "procpool, spawned", ours(2, "spawn", True), unit="byte"),
    *(Way(ONE, peer.name, theirs(peer, 2, True), unit="byte", role=PEER, needs=peer.needs) for peer in peers.POOLS[:3]),
    *(Way(ALL, "procpool (forkserver)", ours(n, "forkserver", False), unit="byte", at=n) for n in (1, 2, 4, 8, 16, 32)),
    *(Way(ALL, peers.EXECUTOR.name, theirs(peers.EXECUTOR, n, False), unit="byte", role=PEER, at=n) for n in (1, 2, 4, 8)),
    Way(GROWTH, "procpool map", growth, unit="byte"),
]

if __name__ == "__main__":
    run("perf.memory", WAYS)
