"""Many jobs submitted at once and gathered; long ones in parallel."""

from __future__ import annotations

from functools import partial
from typing import Any

from procpool import ProcessWasmPool

from . import floors, peers
from .latency import pool
from .ways import FLOOR, PEER, Way, run, timed, within

MANY = "submit 10,000 adds and gather them, each"
CALLABLES = "submit one callable 10,000 times and gather, each"
LONG = "64 jobs of 4 ms"
ROWS = [(n, n) for n in range(10_000)]
#: Rounds of `churn` in 4 ms on the machine this was written on; elsewhere jobs are a little longer or shorter.
STEPS = 29_000_000


def noop(instance: Any, a: int, b: int) -> int:
    return a


def gather(p: ProcessWasmPool) -> object:
    return [future.result() for future in [p.submit("add", a, b) for a, b in ROWS]]


def gather_callables(p: ProcessWasmPool) -> object:
    return [future.result() for future in [p.submit(noop, a, b) for a, b in ROWS]]


def gather_long(p: ProcessWasmPool) -> object:
    return [future.result() for future in [p.submit("churn", 1, STEPS) for _ in range(64)]]


def _gather(function: Any, rows: list[Any], p: peers.Peer) -> object:
    return p.gather(function, rows)


WAYS = [
    Way(MANY, "os.pipe ping-pong, one core", floors.ping_pong(False), 5000, role=FLOOR),
    Way(MANY, "procpool submit", within(pool, lambda p: timed(partial(gather, p))), inner=len(ROWS)),
    Way(CALLABLES, "procpool submit", within(pool, lambda p: timed(partial(gather_callables, p))), inner=len(ROWS)),
    Way(LONG, "procpool submit", within(pool, lambda p: timed(partial(gather_long, p)))),
    Way(LONG, "procpool map", within(pool, lambda p: timed(lambda: list(p.map("churn", [1] * 64, [STEPS] * 64))))),
]
for _peer in (*peers.LOCAL, *peers.POOLS, *peers.METHODS, *peers.SLOW):
    _rows = ROWS[:2000] if _peer.name in ("ray", "dask") else ROWS
    WAYS += [
        Way(
            MANY,
            _peer.name,
            within(_peer.make, lambda p, rows=_rows: timed(partial(_gather, peers.add, rows, p))),  # type: ignore[misc]
            inner=len(_rows),
            role=PEER,
            needs=_peer.needs,
        ),
        Way(
            LONG,
            _peer.name,
            within(_peer.make, lambda p: timed(partial(_gather, peers.churn, [(STEPS,)] * 64, p))),
            role=PEER,
            needs=_peer.needs,
        ),
    ]
WAYS += [
    Way(
        CALLABLES,
        peer.name,
        within(peer.make, lambda p: timed(partial(_gather, peers.nothing, ROWS, p))),
        inner=len(ROWS),
        role=PEER,
        needs=peer.needs,
    )
    for peer in peers.POOLS
]

if __name__ == "__main__":
    run("perf.throughput", WAYS)
