"""How a pool ends, and what it is waited for until then: alike for a pool on this machine and one on many."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from types import TracebackType
from typing import NoReturn, Protocol, TypeVar

from .checks import cannot_travel
from .deadline import Deadline
from .maps.course import MapsUnderWay
from .supervisor.awaiting import running_loop, wait_async, wait_for

_DRAINED, _ENDED = "all jobs are done", "all processes have ended"

P = TypeVar("P", bound="Lifetime")


class Runner(Protocol):
    """What runs a pool's jobs, as far as its end goes."""

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that made the pool."""

    def check_open(self) -> None:
        """For those who want to begin something.

        Raises:
            PoolClosed, StartupError: nothing new is taken any more.
        """

    def finish(self) -> None:
        """From now on take jobs of maps only."""

    def close(self, kill: bool = False) -> None:
        """Finish what is queued, or stop it, then end.  Does not wait."""

    def cancel_queued(self) -> None:
        """Cancel what has not begun."""

    def when_drained(self) -> Future[None]:
        """What ends when nothing is queued and nothing runs."""

    def when_ended(self) -> Future[None]:
        """What ends when all has, the callbacks of jobs too; for a callback, that is at once."""


class Lifetime(Executor):
    """A pool from when it runs to its end."""

    _runner: Runner
    _maps: MapsUnderWay

    def drain(self, timeout: float | None = None) -> None:
        """Block until no job is queued or running.

        Args:
            timeout: seconds; None for no limit.

        Raises:
            TimeoutError: that took longer than ``timeout`` seconds.
            PoolClosed: the pool was shut down.
            ValueError, TypeError: ``timeout`` is no positive number.
        """
        deadline = Deadline.after(timeout)
        self._runner.check_open()
        wait_for(self._runner.when_drained(), deadline, _DRAINED)

    async def adrain(self, timeout: float | None = None) -> None:
        """:meth:`drain` for asyncio."""
        loop, deadline = running_loop("pool.drain"), Deadline.after(timeout)
        self._runner.check_open()
        await wait_async(self._runner.when_drained(), deadline, _DRAINED, loop)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None:
        """Take no more jobs, finish those there are, and end all processes.  May be called again, from any thread.

        In a forked child it does nothing: the workers are the parent's.  A cluster's pools end on all nodes, and its Dask
        client and Dask's workers stay as they are.

        Args:
            wait: return when all processes and all callbacks of jobs have ended; otherwise at once.  A callback that never
                ends is waited for until ``timeout``, or until `terminate`.
            cancel_futures: cancel what has not begun.
            timeout: seconds to wait; None for no limit.

        Raises:
            TimeoutError: that took longer than ``timeout`` seconds.  It goes on by itself; `terminate` ends it.
            ValueError, TypeError: ``timeout`` is no positive number.
        """
        deadline = Deadline.after(timeout)
        if wait and not cancel_futures:
            self._finish_maps(deadline)
        ended = self._close(cancel_futures)
        if wait and ended is not None:
            wait_for(ended, deadline, _ENDED)

    async def ashutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None:
        """:meth:`shutdown` for asyncio.  It goes on if the task is cancelled.

        Maps are not read to their end, as that would block the loop or call their iterables in another thread.
        """
        loop, deadline = running_loop("pool.shutdown"), Deadline.after(timeout)
        ended = self._close(cancel_futures)
        if wait and ended is not None:
            await wait_async(ended, deadline, _ENDED, loop)

    def _finish_maps(self, deadline: Deadline) -> None:
        """Have maps under way read their inputs, where those end; nobody else may submit meanwhile."""
        if self.closed:
            return
        self._runner.finish()
        try:
            self._maps.finish(deadline)
        except BaseException:
            self._runner.close(kill=True)
            raise

    def _close(self, cancel_futures: bool) -> Future[None] | None:
        """Take no more jobs; what ends when all has, or None if this is not the process that made the pool."""
        if self._runner.forked:
            return None
        if cancel_futures:
            self._runner.cancel_queued()
        self._runner.close()
        return self._runner.when_ended()

    def terminate(self) -> None:
        """End all processes now.  Jobs that have not finished end in PoolClosed.  In a forked child it does nothing."""
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None or issubclass(kind, Exception):
            self.shutdown(cancel_futures=kind is not None)
        else:
            self.terminate()

    async def __aenter__(self: P) -> P:
        running_loop("pool.__enter__")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, Exception):
            await self.ashutdown(cancel_futures=kind is not None)
        else:  # the cancelling of the task among them: what it started is stopped
            self.terminate()

    def __reduce__(self) -> NoReturn:
        raise cannot_travel(self, "make one there, or have the parent submit what is to be done")

    @property
    def closed(self) -> bool:
        """Whether it takes no more jobs, because of `shutdown`, or because this is a forked child of its process."""
        return self._runner.closed or self._runner.forked
