"""What the caller of a mapping gets: outcomes in order, a failure in its place, and progress on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, TypeVar

#: How long a chunk should take a worker, in nanoseconds: long against what a chunk costs the parent (some 70 us; at 4 ms
from .mapping import MapOptions, Progress, Run

T = TypeVar("T")


def job_lists(done: Iterator[tuple[int, Future[Any]]], options: MapOptions, total: int | None) -> Iterator[list[Any]]:
    """The outcomes of jobs, each as a list of one; raises a failure in its place."""
    count = 0
    with _reporting(options.progress, total) as report:
        for index, future in done:
            error = future.exception()
            if error is not None and not options.return_exceptions:
                raise error
            outcome = future.result() if error is None else error
            yield [outcome if options.ordered else (index, outcome)]
            count += 1
            report(count, total)


class MapResults(chain[T]):
    """The iterator that ``map`` returns.  Items come straight from lists, without a Python frame for each."""

    _stop: Callable[[], None] | None = None

    @classmethod
    def over(cls, lists: Iterator[list[T]], stop: Callable[[], None]) -> MapResults[T]:
        """Iterate over the items of lists; ``stop`` ends what is under way."""
        results = cls.from_iterable(lists)
        assert isinstance(results, cls)
        results._stop = stop
        return results

    def close(self) -> None:
        """Give up what has not been taken."""
        if self._stop is not None:
            self._stop()

    # Dropping it does the same.  A generator's own `finally` would not do: one that was never started has none to run.
    __del__ = close


def result_lists(runs: Iterator[Run], return_exceptions: bool, indexed: bool) -> Iterator[list[Any]]:
    """The outcomes of chunks as lists of items; raises the first failure in its place."""
    for run in runs:
        outcomes = run.outcomes()
        failure = None if return_exceptions else run.first_failure()
        error = None
        if failure is not None:
            error = outcomes[failure]
            del outcomes[failure:]
        yield list(enumerate(outcomes, run.first)) if indexed else outcomes
        if error is not None:
            raise error


def with_progress(runs: Iterator[Run], progress: bool | Progress, total: int | None) -> Iterator[Run]:
    """Report after each chunk: to a callable as (items done, items in all or None), or with True as a bar."""
    done = 0
    with _reporting(progress, total) as report:
        for run in runs:
            yield run
            done += run.taken
            report(done, total)


def _reporting(progress: bool | Progress, total: int | None) -> AbstractContextManager[Progress]:
    if progress is True:
        return _Bar(total)
    return nullcontext(progress if callable(progress) else lambda done, total: None)


class _Bar(AbstractContextManager[Progress]):
    """A progress bar by tqdm."""

    def __init__(self, total: int | None) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError("progress=True needs tqdm: pip install 'procpool[cli]', or give a callable") from None
        self._bar = tqdm(total=total, unit="call", unit_scale=True)

    def __enter__(self) -> Progress:
        return self._report

    def _report(self, done: int, total: int | None) -> None:
        self._bar.update(done - self._bar.n)

    def __exit__(self, *exc: object) -> None:
        self._bar.close()
