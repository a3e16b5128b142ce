"""Waiting for a future until a deadline: in a thread, or in an asyncio task.

Whatever takes time in a pool is a future of :mod:`concurrent.futures`.  So a blocking method and its async twin differ in
nothing but which of these two they wait with.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures._base import PENDING, RUNNING
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..deadline import Deadline

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


def ended(future: Future[Any], deadline: Deadline) -> bool:
    """Block until the future has ended, in whatever; false if it has not by the deadline."""
    while not future.done():
        try:
            future.exception(deadline.remaining())
        except CancelledError:
            return True
        except FutureTimeout:
            if deadline.passed():
                return future.done()
    return True


def wait_for(future: Future[T], deadline: Deadline, what: str) -> T:
    """The result of a future that nobody needs if we do not get it.

    Raises:
        TimeoutError: the deadline has passed; ``what`` says for what it was waited, as in "all jobs are done".
        Whatever it ended in.
    """
    try:
        if not ended(future, deadline):
            _late(what)
        return future.result()
    except BaseException:
        future.cancel()  # does nothing to one that has ended
        raise


def running_loop(blocking: str) -> asyncio.AbstractEventLoop:
    """The event loop that runs in this thread.

    Raises:
        RuntimeError: it is none of asyncio's; ``blocking`` is the call to use instead.
    """
    import asyncio  # only here: it takes longer to import than a pool to start

    trio = sys.modules.get("trio")
    if trio is None or not trio.lowlevel.in_trio_task():  # it may run inside asyncio's loop
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            pass
    raise RuntimeError(
        "the async methods of a pool need a running asyncio event loop (asyncio's own, uvloop, or anyio on asyncio); under"
        f" trio, run the blocking method in a thread: await trio.to_thread.run_sync({blocking})"
    )


class _Waker:
    """Stands among the waiters of a future, which are told of its end at once, in whatever thread that is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.woken: asyncio.Future[None] = loop.create_future()

    def _wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)

    def __call__(self, future: Future[Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop has been closed under its task, which will never run again
            pass

    add_result = add_exception = add_cancelled = __call__

    async def until(self, deadline: Deadline) -> None:
        """Wait to be woken, or for the deadline; a long time is waited for in pieces, so look whether it has passed."""
        remaining = deadline.remaining()
        timer = None if remaining is None else self._loop.call_later(remaining, self._wake)
        try:
            await self.woken
        finally:
            if timer is not None:
                timer.cancel()
        self.woken = self._loop.create_future()


async def ended_async(future: Future[Any], deadline: Deadline, loop: asyncio.AbstractEventLoop) -> bool:
    """:func:`ended` for a task: does not block the event loop, and leaves nothing behind in the future."""
    if future.done():
        return True
    waker = _Waker(loop)
    # A waiter is told at once, by the thread that ends the future, but not of the cancelling of one that still waits in
    # the queue.  Of that, callbacks are told, which otherwise may come later, after a slow one of the user's.
    with future._condition:
        future._waiters.append(waker)  # type: ignore[arg-type]  # it has what of a _Waiter is used
    future.add_done_callback(waker)
    try:
        while not future.done():
            await waker.until(deadline)
            if deadline.passed():
                return future.done()
        return True
    finally:
        with future._condition:
            _remove(waker, future._waiters)
            if future._state in (PENDING, RUNNING):  # otherwise they are being walked through, without the lock
                _remove(waker, future._done_callbacks)  # type: ignore[attr-defined]


async def wait_async(future: Future[T], deadline: Deadline, what: str, loop: asyncio.AbstractEventLoop) -> T:
    """`wait_for`, for a task: cancelling it cancels the future.

    Raises:
        RuntimeError: the future ended in a StopIteration, which no coroutine can raise; that is the cause (as in PEP 479).
        As for `wait_for`, otherwise.
    """
    try:
        if not await ended_async(future, deadline, loop):
            _late(what)
        return future.result()
    except StopIteration as error:
        raise RuntimeError("the job raised StopIteration") from error
    except BaseException:
        future.cancel()
        raise


@types.coroutine
def turn_for_others() -> Iterator[None]:
    """Let the loop's other tasks run: one that makes call after call, each done at once, is not to keep them from it."""
    yield


def _late(what: str) -> NoReturn:
    raise TimeoutError(f"out of time, waiting until {what}")


def _remove(item: object, items: list[Any]) -> None:
    """Remove it by what it is: others may have an ``__eq__`` of their own."""
    items[:] = [each for each in items if each is not item]
