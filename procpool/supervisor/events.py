"""What happens to a pool's workers, for those who watch: log records, a hook, and counters."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from .delivery import Delivery

logger: logging.Logger = logging.getLogger("procpool")

EventKind = Literal[
    "compiling",
    "compiled",
    "started",
    "locked",
    "ready",
    "start_failed",
    "crashed",
    "killed",
    "recycled",
    "retired",
    "resized",
    "timeout",
    "retried",
    "template_died",
    "broken",
]
#: The kinds of event, and the level at which each is logged.
LEVELS: dict[EventKind, int] = {
    "compiling": logging.INFO,  # the module was not found among those compiled before
    "compiled": logging.INFO,  # it is, now
    "started": logging.DEBUG,  # a worker process exists
    "locked": logging.INFO,  # the first worker has locked itself; what the system did not let it is in the message
    "ready": logging.DEBUG,  # it takes jobs
    "start_failed": logging.WARNING,  # a worker process could not be made, or died before it was ready
    "crashed": logging.WARNING,  # a worker died that nobody had told to
    "killed": logging.WARNING,  # the pool killed a worker: it did not react to an interrupt, or held too much memory
    "recycled": logging.INFO,  # a worker is being replaced: too old, too large, or `restart`
    "retired": logging.INFO,  # a worker goes because there are too many
    "resized": logging.INFO,  # another number of workers is wanted
    "timeout": logging.INFO,  # a job, or an item of a map, outlived its limit
    "retried": logging.INFO,  # a job runs again after its worker died
    "template_died": logging.WARNING,  # the process that forks workers is gone, and replaced
    "broken": logging.ERROR,  # no worker can be made; the pool is closed
}


@dataclass(frozen=True)
class PoolEvent:
    """One thing that happened, as given to ``on_event``."""

    kind: EventKind
    pid: int | None  #: the worker process it happened to, or the process that compiles; None for somebody else's
    message: str


class Record(Protocol):
    """One thing that happened."""

    @property
    def kind(self) -> str: ...


E = TypeVar("E", bound=Record)


class Chronicle(Generic[E]):
    """Counts what happens, and tells everybody who wants to know.

    Args:
        hook: the user's ``on_event``.
        tell: runs the user's code, which handlers and filters of a logger may be too, in the order of the events.
    """

    def __init__(self, hook: Callable[[E], None] | None, tell: Callable[[Callable[[], object]], None]) -> None:
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

    def record(self, event: E, level: int, message: str) -> None:
        """Count, log and hand on one event.

        Args:
            level: at which it is logged, with ``message``.
        """
        with self._counting:
            self._counts[event.kind] += 1
        if self._hook is not None or logger.isEnabledFor(level):
            self._tell(lambda: self._hand_on(event, level, message))

    def _hand_on(self, event: E, level: int, message: str) -> None:
        """A hook that raises is logged, and harms nothing."""
        logger.log(level, "procpool: %s", message)
        if self._hook is not None:
            try:
                self._hook(event)
            except BaseException:
                logger.exception("procpool: on_event raised at a %r event", event.kind)


class Journal(Chronicle[PoolEvent]):
    """A pool's."""

    def note(self, kind: EventKind, pid: int | None, message: str) -> None:
        """Something has happened."""
        self.record(PoolEvent(kind, pid, message), LEVELS[kind], message)


@contextlib.contextmanager
def announced(hook: Callable[[PoolEvent], None] | None) -> Iterator[tuple[Delivery, Journal]]:
    """A pool's journal, and where the user's code runs: for a dispatcher, and for what is to be told before there is one.

    Nobody waits for what is told: it may be waiting itself for who makes the pool.  If that fails, both end.
    """
    delivery = Delivery()
    try:
        yield delivery, Journal(hook, delivery.strand())
    except BaseException:
        delivery.close(0)
        raise
