"""A pool as the standard library's executors are, for functions that take no instance."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from .checks import shown
from .plain_function import without_instance

P = ParamSpec("P")
R = TypeVar("R")


class PlainExecutor(Executor):
    """A pool as :class:`concurrent.futures.Executor` defines one: ``submit(fn, *args, **kwargs)`` runs just that.

    For libraries that take an executor, and ``loop.run_in_executor(pool.plain_executor(), fn, ...)``.  The functions run in
    the pool's workers, in the queue with its other jobs, with the pool's ``timeout`` and ``retries``.
    """

    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run ``fn(*args, **kwargs)`` in a worker.

        Raises:
            BadArguments: ``fn`` does not take so many arguments; nothing was sent.
            TypeError: it cannot be called: exports are called by the pool's own `submit`.
            PoolClosed, PoolFull, and whatever pickling it or its arguments raises: at once.
        """
        if isinstance(fn, str):
            raise TypeError(f"an executor runs functions, got {shown(fn)}; the pool's own submit calls exports")
        function: Callable[..., R] = functools.partial(fn, **kwargs) if kwargs else fn
        bare: Callable[..., R] = without_instance(function)
        return self._pool.submit(bare, *args)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the pool down; see there."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def __reduce__(self) -> Any:
        return self._pool.__reduce__()

    def __repr__(self) -> str:
        return f"<executor of {self._pool!r}>"
