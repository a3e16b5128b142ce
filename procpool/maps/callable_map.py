"""Maps in which each item is a job of its own: callables, and runs of a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

from ..supervisor.jobs.call import Job
from .course import Course, Runner, Ticket
from .options import MapOptions

#: How many jobs to have under way.
MOST_JOBS_AHEAD = 1024


class Errand(Ticket):
    """One item on its way; without a job if none could be made of it."""

    taken = 1

    def __init__(self, job: Job | None, error: Exception | None, first: int) -> None:
        self.job = job
        self.first = first
        self._error = error

    @property
    def done(self) -> bool:
        return self.job is None or self.job.done()

    def watch(self, callback: Callable[[], None]) -> None:
        if self.job is None:
            callback()
        else:
            _tell(self.job, callback)

    def outcome(self) -> tuple[Any, bool]:
        """Its result or exception, and whether it is an exception."""
        if self.job is None:
            return self._error, True
        if self.job.cancelled():
            return CancelledError(), True
        error = self.job.exception()
        return (self.job.result(), False) if error is None else (error, True)


class CallableMap(Course[Errand]):
    """A map that makes a job of each item.

    Args:
        make: item -> job, not yet submitted; what is wrong with an item, it raises.
        items: the items.
        total: how many there are, if that is known.
    """

    def __init__(
        self,
        runner: Runner,
        make: Callable[[Any], Job],
        items: Iterator[Any],
        total: int | None,
        options: MapOptions,
        owner: object,
    ) -> None:
        super().__init__(runner, options, total, options.buffersize or MOST_JOBS_AHEAD, owner)
        self._make = make
        self._items = items
        self._at = 0

    def _read(self, room: int | None) -> Errand | None:
        job: Job | None = None
        error: Exception | None = None
        try:
            item = next(self._items)
        except StopIteration:
            return None
        except Exception as raised:
            error = raised
            self._stop_reading()
        if error is None:
            try:
                job = self._make(item)
                job.tenant = self.tenant
            except Exception as raised:
                error = raised
                if not self._options.return_exceptions:
                    self._stop_reading()
        errand = Errand(job, error, self._at)
        self._at += 1
        return errand

    def _submit(self, ticket: Errand) -> bool:
        return ticket.job is None or self._runner.try_submit(ticket.job)

    def _abandon(self, tickets: list[Errand]) -> None:
        jobs = [errand.job for errand in tickets if errand.job is not None]
        if jobs:
            self._runner.do(lambda: _cancel(jobs))  # which takes the jobs' locks

    def _outcomes(self, ticket: Errand) -> tuple[list[Any], int | None]:
        outcome, failed = ticket.outcome()
        return [outcome], 0 if failed else None

    def _iterate(self, outcomes: list[Any]) -> Iterator[Any]:
        return _Taking(outcomes)


class _Taking(Iterator[Any]):
    """Takes items out of a list: a result may be large, and is kept by nobody but who has got it."""

    def __init__(self, items: list[Any]) -> None:
        items.reverse()
        self._items = items

    def __next__(self) -> Any:
        try:
            return self._items.pop()
        except IndexError:
            raise StopIteration from None

    def __length_hint__(self) -> int:
        return len(self._items)


def _cancel(jobs: list[Job]) -> None:
    for job in jobs:
        job.cancel()


class _Waiter:
    """Stands among the waiters of a future, whom the thread that ends it tells at once."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def add_result(self, future: Future[Any]) -> None:
        self._callback()

    add_exception = add_cancelled = add_result


def _tell(job: Job, callback: Callable[[], None]) -> None:
    """Have something quick called when a job has ended, perhaps twice."""
    # Waiters are told at once, done-callbacks perhaps after a slow one of the user's.
    with job._condition:
        job._waiters.append(_Waiter(callback))
    if job.done():
        callback()
