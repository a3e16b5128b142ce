"""What happens to a cluster, for those who watch: log records, a hook, and counters."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..supervisor.events import LEVELS as POOL_LEVELS
from ..supervisor.events import EventKind
from .client.backend import Member

logger: logging.Logger = logging.getLogger("procpool")

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


class ClusterJournal:
    """Counts what happens, and tells everybody who wants to know.

    Args:
        hook: the user's ``on_event``.
        tell: runs the user's code, in the order of the events.
    """

    def __init__(self, hook: Callable[[ClusterEvent], None] | None, tell: Callable[[Callable[[], object]], None]) -> None:
        self._hook = hook
        self._tell = tell
        self._counting = threading.Lock()
        self._counts: Counter[str] = Counter()

    def counts(self) -> Counter[str]:
        """Events so far by kind, and failed jobs as "failed"."""
        with self._counting:
            return self._counts.copy()

    def job_failed(self) -> None:
        """A job has ended in an exception.  From any thread."""
        with self._counting:
            self._counts["failed"] += 1

    def note(self, kind: ClusterEventKind | EventKind, member: Member | None, message: str, pid: int | None = None) -> None:
        """Count, log and hand on one event."""
        with self._counting:
            self._counts[kind] += 1
        level = _LEVELS[kind]
        event = ClusterEvent(kind, None if member is None else member.name, pid, message)
        self._tell(lambda: self._hand_on(event, level))

    def log(self, payload: bytes, member: Member) -> None:
        """Log here what was logged on a node."""
        self._tell(lambda: _handle(payload, member))

    def _hand_on(self, event: ClusterEvent, level: int) -> None:
        """A hook that raises is logged, and harms nothing."""
        where = "" if event.node is None or event.kind in LEVELS else f" (on {event.node})"
        logger.log(level, "procpool: %s%s", event.message, where)
        if self._hook is not None:
            try:
                self._hook(event)
            except BaseException:
                logger.exception("procpool: on_event raised at a %r event", event.kind)


def _handle(payload: bytes, member: Member) -> None:
    from ..wire import record_from_bytes

    record = record_from_bytes(payload)
    record.node = member.name
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        target.handle(record)
