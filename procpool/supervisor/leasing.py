"""``with pool.instance() as lease``, and ``async with``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import NoReturn

from ..checks import cannot_travel
from ..errors import LeaseEnded
from .lease import Lease


class Leasing:
    """Leases an instance for the length of a block.

    Args:
        get, put: what a block in a thread does at its beginning and its end.
        aget, aput: the same for a block in a task.
    """

    def __init__(
        self,
        get: Callable[[], Lease],
        put: Callable[[Lease], None],
        aget: Callable[[], Awaitable[Lease]],
        aput: Callable[[Lease], Awaitable[None]],
    ) -> None:
        self._get = get
        self._put = put
        self._aget = aget
        self._aput = aput
        self._lease: Lease | None = None

    def __reduce__(self) -> NoReturn:
        raise cannot_travel(self, "make it in the process that uses it")

    def __enter__(self) -> Lease:
        self._lease = self._get()
        return self._lease

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                self._put(lease)
            except LeaseEnded:  # put back inside
                pass

    async def __aenter__(self) -> Lease:
        self._lease = await self._aget()
        return self._lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                await self._aput(lease)
            except LeaseEnded:
                pass
