"""One blocking call of the smallest export: how long until its result is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from procpool import ProcessWasmPool

from . import floors, peers
from .ways import FLOOR, OURS, PEER, Timed, Way, run, timed, within

WHAT = 'blocking call("add", 1, 2)'


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


WAYS = [
    Way(WHAT, "os.pipe ping-pong, two cores", floors.ping_pong(True), 2000, role=FLOOR),
    Way(WHAT, "os.pipe ping-pong, one core", floors.ping_pong(False), 2000, role=FLOOR),
    Way(WHAT, "spinning flag in shared memory", floors.spinning_flag, 5000, role=FLOOR),
    Way(WHAT, "wasmtime's raw call, in-process", floors.raw_call, 20000, role=FLOOR),
    Way(WHAT, "procpool call", within(pool, lambda p: timed(lambda: p.call("add", 1, 2))), 2000),
    Way(WHAT, "procpool call, pinned to two cores", pinned(True), 2000),
    Way(WHAT, "procpool call, pinned to one core", pinned(False), 2000),
    Way(WHAT, "procpool submit, result", within(pool, lambda p: timed(lambda: p.submit("add", 1, 2).result())), 1000),
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
