"""What happens to a cluster, for those who watch: log records, a hook, and counters."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from ..supervisor.events import LEVELS as POOL_LEVELS
from ..supervisor.events import Chronicle, EventKind
from .client.backend import Member

ClusterEventKind = Literal[
    "node_ready",
    "node_refused",
    "node_differs",
    "node_silent",
    "node_heard",
    "node_left",
    "node_lost",
    "scheduler_lost",
    "scheduler_back",
]
#: The kinds of event, and the level at which each is logged.
LEVELS: dict[ClusterEventKind, int] = {
    "node_ready": logging.INFO,  # a host serves
    "node_refused": logging.WARNING,  # one does not; it is asked again later
    "node_differs": logging.WARNING,  # one serves, with another wasmtime or on another kind of processor
    "node_silent": logging.WARNING,  # nothing was heard of a node for half its lease: it is given nothing more
    "node_heard": logging.INFO,  # until it is heard again
    "node_left": logging.INFO,  # a node's process was told to go, and it has finished what it had begun
    "node_lost": logging.WARNING,  # a node is no more, and had not said so
    "scheduler_lost": logging.WARNING,  # Dask's scheduler does not answer: no host can join, and what runs goes on
    "scheduler_back": logging.INFO,  # it answers again
}


_LEVELS: dict[str, int] = dict([*LEVELS.items(), *POOL_LEVELS.items()])


@dataclass(frozen=True)
class ClusterEvent:
    """One thing that happened, as given to ``on_event``."""

    kind: ClusterEventKind | EventKind  #: the kinds of `PoolEvent` too: of the pools on the nodes, and of this one
    node: str | None  #: the host that it happened on; None for the program itself
    pid: int | None  #: the process it happened to, on that host
    message: str


class ClusterJournal(Chronicle[ClusterEvent]):
    """A cluster's."""

    def note(self, kind: ClusterEventKind | EventKind, member: Member | None, message: str, pid: int | None = None) -> None:
        """Something has happened."""
        where = "" if member is None or kind in LEVELS else f" (on {member.name})"
        event = ClusterEvent(kind, None if member is None else member.name, pid, message)
        self.record(event, _LEVELS[kind], message + where)

    def log(self, payload: bytes, member: Member) -> None:
        """Log here what was logged on a node."""
        self._tell(lambda: _handle(payload, member))


def _handle(payload: bytes, member: Member) -> None:
    from ..wire import log_here, record_from_bytes

    record = record_from_bytes(payload)
    record.node = member.name
    log_here(record)
