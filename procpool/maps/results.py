"""What the caller of a map gets: iterators that wait, each in its own manner, for what the map's course gives."""

from __future__ import annotations

import concurrent.futures
from collections.abc import AsyncIterator, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..bell import Bell
from ..checks import cannot_travel
from ..supervisor.awaiting import running_loop
from .course import ENDED, Course

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class Waiting:
    """The iterators that a course gives, one after the other; blocks while there is none."""

    def __init__(self, course: Course[Any]) -> None:
        self._course = course

    def __iter__(self) -> Iterator[Iterator[Any]]:
        return self

    def __next__(self) -> Iterator[Any]:
        course = self._course
        while True:
            bell = Bell()
            found = course.poll(bell)
            if found is ENDED:
                raise StopIteration
            if found is not None:
                return found
            try:
                if not bell.wait(course.deadline.remaining()) and course.deadline.passed():
                    raise _late()
            except BaseException:  # KeyboardInterrupt, for one
                course.end()
                raise


class MapResults(chain[T]):
    """The iterator that ``map`` returns.  Items come straight from lists, without a Python frame for each.

    Several threads may take from it, and each gets other items.
    """

    _course: Course[Any] | None = None

    @classmethod
    def of(cls, course: Course[Any]) -> MapResults[T]:
        """Iterate over what comes of a course."""
        results = cls.from_iterable(Waiting(course))
        assert isinstance(results, cls)
        results._course = course
        return results

    def close(self) -> None:
        """Give up what has not been taken: interrupt what runs, read no more, and be exhausted."""
        if self._course is not None:
            self._course.end()

    def __reduce__(self) -> NoReturn:
        raise cannot_travel(self, "pass on list(...) of it")

    def __del__(self) -> None:
        if self._course is not None:
            self._course.close()


class AsyncMapResults(AsyncIterator[T]):
    """The asynchronous iterator that ``amap`` returns.  It belongs to the event loop in which it is first iterated."""

    def __init__(self, course: Course[Any]) -> None:
        self._course = course
        self._items: Iterator[T] = iter(())

    def __aiter__(self) -> AsyncMapResults[T]:
        return self

    async def __anext__(self) -> T:
        for item in self._items:
            return item
        course = self._course
        loop = running_loop("list, pool.map(...)")
        while True:
            bell = _TaskBell(loop)
            found = course.poll(bell)
            if found is ENDED:
                raise StopAsyncIteration
            if found is not None:
                self._items = found
                for item in found:
                    return item
                continue
            try:
                if not await bell.wait(course.deadline.remaining()) and course.deadline.passed():
                    raise _late()
            except BaseException:  # CancelledError, for one: what the task has started ends with it
                course.end()
                raise

    async def aclose(self) -> None:
        """Give up what has not been taken: interrupt what runs, read no more, and be exhausted."""
        self._course.end()

    def __reduce__(self) -> NoReturn:
        raise cannot_travel(self, "pass on the results")

    def __del__(self) -> None:
        course: Course[Any] | None = getattr(self, "_course", None)
        if course is not None:
            course.close()


class _TaskBell:
    """Rung by anybody; waited for by one task."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rung: asyncio.Future[bool] = loop.create_future()

    def ring(self) -> None:
        """As :meth:`Bell.ring`."""
        self._end_wait_soon(True)

    def _end_wait_soon(self, rung: bool) -> None:
        try:
            self._loop.call_soon_threadsafe(self._end_wait, rung)
        except RuntimeError:  # the loop has been closed under its task, which will never run again
            pass

    def _end_wait(self, rung: bool) -> None:
        if not self._rung.done():
            self._rung.set_result(rung)

    async def wait(self, seconds: float | None) -> bool:
        """As :meth:`Bell.wait`."""
        timer = None if seconds is None else self._loop.call_later(seconds, self._end_wait, False)
        try:
            return await self._rung
        finally:
            if timer is not None:
                timer.cancel()


def _late() -> concurrent.futures.TimeoutError:
    return concurrent.futures.TimeoutError("the timeout of a map has passed before all its results were there")
