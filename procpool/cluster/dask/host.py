"""Nodes in a Dask worker's process: what its handler does."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from distributed.comm import Comm
from distributed.core import Status

from .. import wire
from ..node.session import NodeSession
from .plugin import HANDLER

#: Bytes of modules that are kept for the next client.
_MOST_MODULES = 256 << 20
#: Seconds in which the two connections of a client must both be there.
PULSE_SECONDS = 5.0


class CommStream:
    """A Dask comm as a `Stream`."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm

    async def receive(self) -> Sequence[wire.Saying]:
        """See `Stream`."""
        sayings: Sequence[wire.Saying] = await self._comm.read()
        return sayings

    async def send(self, sayings: Sequence[wire.Saying]) -> None:
        """See `Stream`."""
        await self._comm.write(sayings)

    async def close(self) -> None:
        """See `Stream`."""
        await self._comm.close()


class _Pulse:
    """A client's second connection, on its way to the session of the first."""

    def __init__(self) -> None:
        self.comm: asyncio.Future[Comm] = asyncio.get_running_loop().create_future()
        self.taken = asyncio.Event()
        self.ended = asyncio.Event()  # Dask closes a comm when its handler returns


class NodeHost:
    """All nodes in one Dask worker: one for each client's pool."""

    def __init__(self, worker: Any) -> None:
        self._sessions: set[NodeSession] = set()
        self._pulses: dict[str, _Pulse] = {}  # by the token that the client has made up for both connections
        self._modules: OrderedDict[str, bytes] = OrderedDict()
        self._leaving: str | None = None
        worker.handlers[HANDLER] = self.serve
        # In Dask's dashboard this is a column of the table of workers, and in Client.scheduler_info() a metric.
        worker.metrics["procpool"] = self._metric

    async def serve(self, comm: Comm, hello: Mapping[str, Any]) -> Status:
        """Serve one client until its session ends."""
        if self._leaving is not None:
            await comm.write([[wire.REFUSED, self._leaving, b""]])
            await comm.close()
            return Status.dont_reply
        token = hello.get("pulse") or hello["token"]
        pulse = self._pulses.setdefault(token, _Pulse())
        try:
            if "pulse" in hello:
                pulse.comm.set_result(comm)
                await asyncio.wait_for(pulse.taken.wait(), PULSE_SECONDS)
                await pulse.ended.wait()
            else:
                second = await asyncio.wait_for(pulse.comm, PULSE_SECONDS)
                pulse.taken.set()
                await self._serve(comm, second, hello)
        except asyncio.TimeoutError:
            await comm.close()
        finally:
            pulse.ended.set()
            self._pulses.pop(token, None)
        return Status.dont_reply

    async def _serve(self, comm: Comm, pulse: Comm, hello: Mapping[str, Any]) -> None:
        session = NodeSession(CommStream(comm), CommStream(pulse), hello, self._modules)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            self._forget_modules()

    async def leave(self, reason: str) -> None:
        """Finish what has begun, and serve no more."""
        self._leaving = reason
        await asyncio.gather(*(session.leave(reason) for session in list(self._sessions)))

    async def _metric(self, worker: Any) -> int:
        """Jobs, and stretches of maps, that run or are about to."""
        return sum(session.running for session in self._sessions)

    def _forget_modules(self) -> None:
        while sum(map(len, self._modules.values())) > _MOST_MODULES:
            self._modules.popitem(last=False)
