"""What the nodes of a cluster are, and what they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..stats import PoolStats


@dataclass(frozen=True)
class NodeInfo:
    """One node at one moment."""

    name: str  #: of its host, for people
    host: str  #: address of the host
    address: str  #: of the Dask worker that it lives in
    state: Literal["starting", "serving", "silent", "leaving"]
    workers: int  #: processes that run wasm; 0 while it is starting
    waiting: int  #: jobs and stretches of maps that it was sent, and that have not begun
    running: int  #: those that it may have begun
    procpool: str  #: version there; empty while it is starting, like the next three
    wasmtime: str
    python: str
    machine: str  #: as :func:`platform.machine`

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.address}): {self.state}, {self.workers} workers, {self.running} running,"
            f" {self.waiting} waiting"
        )


@dataclass(frozen=True)
class ClusterStats:
    """A cluster's pool at one moment: sums, and each node by itself.

    The counters are of the nodes that there are now, but for ``failed``, ``lost`` and ``retried``, which the client counts
    over the pool's whole life.
    """

    nodes: Mapping[str, PoolStats]  #: by the address of the host; those that answered in time
    workers: int  #: processes that run wasm
    busy: int  #: of those
    idle: int
    pending: int  #: jobs and stretches of maps that no node has
    calls: int  #: calls that were finished, each item of a map being one
    failed: int  #: jobs that ended in an exception
    lost: int  #: nodes
    retried: int  #: how often jobs were run again because a node was lost

    def __str__(self) -> str:
        head = (
            f"{self.busy} busy, {self.idle} idle, {self.pending} jobs waiting; {self.calls:,} calls, {self.failed:,} failed"
        )
        return "\n".join([head, *(f"{host}: {stats}" for host, stats in self.nodes.items())])
