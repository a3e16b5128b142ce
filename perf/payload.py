"""Bytes there and back: a function that returns what it is given."""

from __future__ import annotations

from functools import partial
from typing import Any

from procpool import ProcessWasmPool

from . import floors, peers
from .latency import pool
from .ways import FLOOR, PEER, Timed, Way, run, timed, within

ONE_MIB = "1 MiB in and out, jobs gathered 32 at a time, each"
BY_SIZE = "bytes in and out, one blocking job, by size"
SIZES = (16, 1024, 65536, 1 << 20, 8 << 20, 64 << 20)


def echo(instance: Any, data: bytes) -> bytes:
    return data


def gather(p: ProcessWasmPool) -> Timed:
    data = bytes(1 << 20)
    return timed(lambda: [future.result() for future in [p.submit(echo, data) for _ in range(32)]])


def one(size: int, p: ProcessWasmPool) -> Timed:
    data = bytes(size)
    return timed(lambda: p.submit(echo, data).result())


def their_gather(p: peers.Peer) -> Timed:
    data = bytes(1 << 20)
    return timed(lambda: p.gather(peers.echo, [(data,)] * 32))


def their_one(size: int, p: peers.Peer) -> Timed:
    data = bytes(size)
    return timed(lambda: p.one(peers.echo, data))


def _loops(size: int) -> int:
    return max(1, min(200, (16 << 20) // size))


WAYS = [
    Way(ONE_MIB, "memcpy, four times", floors.copying(1 << 20, 4), 50, role=FLOOR),
    Way(ONE_MIB, "procpool submit", within(pool, gather), 8, inner=32),
    *(
        Way(ONE_MIB, peer.name, within(peer.make, their_gather), 8, inner=32, role=PEER, needs=peer.needs)
        for peer in peers.POOLS
    ),
    *(Way(BY_SIZE, "memcpy, four times", floors.copying(size, 4), _loops(size), role=FLOOR, at=size) for size in SIZES),
    *(Way(BY_SIZE, "procpool submit", within(pool, partial(one, size)), _loops(size), at=size) for size in SIZES),
    *(
        Way(
            BY_SIZE,
            peer.name,
            within(peer.make, partial(their_one, size)),
            _loops(size),
            role=PEER,
            needs=peer.needs,
            at=size,
        )
        for peer in (peers.EXECUTOR, peers.POOLS[4])
        for size in SIZES
    ),
]

if __name__ == "__main__":
    run("perf.payload", WAYS)
