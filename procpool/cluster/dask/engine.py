"""Dask.distributed as the engine of a cluster: the client's side."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

try:
    import distributed
    from distributed.comm import Comm, connect
except ImportError:
    raise ImportError("ClusterWasmPool needs Dask: pip install 'procpool[dask]'") from None

from .. import wire
from ..client.backend import Crowd, Listener, Member
from .plugin import HANDLER, NAME, node_plugin

logger: logging.Logger = logging.getLogger("procpool")

#: Seconds between two looks at which workers there are, and how long a look may take.
LOOK_SECONDS = 1.0
LOOK_PATIENCE = 3.0
#: Seconds in which a connection to a worker must come about.
CONNECT_SECONDS = 5.0
#: The resource of a Dask worker that says how many worker processes its host's node should have for it.
RESOURCE = "procpool"


def elected(workers: Mapping[str, Mapping[str, Any]], before: Mapping[str, Member], each: int | None) -> dict[str, Member]:
    """One member for each host, whatever number of Dask workers it has.

    Args:
        workers: by address, as the scheduler describes them.
        before: those of the last time, who stay while they are there.
        each: worker processes of every node; None for what its Dask workers say: the resource ``procpool``, or else their
            threads.
    """
    hosts: dict[str, list[str]] = {}
    for address, worker in workers.items():
        if worker.get("status", "running") in ("running", "paused"):
            hosts.setdefault(worker["host"], []).append(address)
    members = {}
    for host, addresses in hosts.items():
        known = before.get(host)
        address = known.address if known is not None and known.address in addresses else min(addresses)
        members[host] = Member(host, address, each or max(1, sum(_share(workers[one]) for one in addresses)), host)
    return members


def _share(worker: Mapping[str, Any]) -> int:
    return int(worker.get("resources", {}).get(RESOURCE, worker["nthreads"]))


class _Writer:
    """Writes to a comm, in order, from a loop that does not wait."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self._outbox: deque[wire.Saying] = deque()
        self._writing: asyncio.Future[None] | None = None

    def write(self, sayings: Sequence[wire.Saying]) -> None:
        self._outbox.extend(sayings)
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        try:
            while self._outbox:
                sayings, self._outbox = list(self._outbox), deque()
                await self._comm.write(sayings)
        except OSError:  # who reads finds out too
            pass
        except Exception:  # what is lost may be what all the rest waits for
            logger.exception("procpool: a message to a node cannot be made; the node is given up")
            self._comm.abort()
        self._writing = None


class _CommLink:
    """Two comms to a node, one of them for its pulse: a `Link`."""

    def __init__(self, comm: Comm, pulse: Comm) -> None:
        self._comms = comm, pulse
        self._writer, self._pulse = _Writer(comm), _Writer(pulse)

    def send(self, sayings: Sequence[wire.Saying]) -> None:
        """See `Link`."""
        urgent = [saying for saying in sayings if saying[0] in wire.PULSE]
        if urgent:
            self._pulse.write(urgent)
        if len(urgent) < len(sayings):
            self._writer.write([saying for saying in sayings if saying[0] not in wire.PULSE])

    def close(self) -> None:
        """See `Link`."""
        for comm in self._comms:
            comm.abort()


class DaskEngine:
    """See `Backend`.

    Args:
        client: of Dask's, whose loop is used.
        workers_per_node: as for :func:`elected`.

    Raises:
        TypeError: it is no such client.
        ValueError: it is an asynchronous one, or not connected.
    """

    def __init__(self, client: Any, workers_per_node: int | None) -> None:
        if not isinstance(client, distributed.Client):
            raise TypeError(f"client must be a distributed.Client, got {type(client).__name__}")
        if client.asynchronous:
            raise ValueError("client must be one with a loop of its own, so without asynchronous=True: a pool blocks")
        if client.status != "running":
            raise ValueError(f"client must be connected, and this one is {client.status}")
        self._client = client
        self._each = workers_per_node
        self._loop: asyncio.AbstractEventLoop = client.loop.asyncio_loop
        self._members: dict[str, Member] = {}
        self._looking: asyncio.Future[None] | None = None
        self._closed = False
        self._sessions: set[asyncio.Future[None]] = set()

    def start(self, crowd: Crowd) -> None:
        """See `Backend`."""
        self._client.register_plugin(node_plugin(), name=NAME)
        self._client.sync(self._start, crowd)

    async def _start(self, crowd: Crowd) -> None:
        self._looking = asyncio.ensure_future(self._look(crowd))

    def post(self, code: Callable[[], object]) -> None:
        """See `Backend`."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to run it
            self._loop.call_soon_threadsafe(code)

    def later(self, seconds: float, code: Callable[[], object]) -> Callable[[], None]:
        """See `Backend`."""
        return self._loop.call_later(seconds, code).cancel

    def open(self, member: Member, hello: Mapping[str, Any], listener: Listener) -> None:
        """See `Backend`."""
        task = asyncio.ensure_future(self._converse(member, hello, listener))
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    def close(self) -> None:
        """See `Backend`."""
        self.post(self._cancel)

    def _cancel(self) -> None:
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self, crowd: Crowd) -> None:
        """Tell of members until the client is closed, or this.

        Who closes a client ends its loop, and with it all that is in there; or not, if the client shares the loop of a
        LocalCluster.
        """
        reason = "its Dask client was closed"
        try:
            await self._keep_looking(crowd)
        except Exception as error:  # a mistake of ours; whoever waits for a job is not to wait for ever
            logger.exception("procpool: the members of a cluster are not known any more")
            reason = f"the members of its cluster are not known any more: {error!r}"
        finally:
            if not self._closed:
                self._closed = True
                crowd.gone(reason)

    async def _keep_looking(self, crowd: Crowd) -> None:
        while self._client.status not in ("closing", "closed"):
            try:
                about = await asyncio.wait_for(self._client.scheduler.identity(), LOOK_PATIENCE)
            except Exception as error:  # whatever Dask raises: there is no answer
                crowd.scheduler(False, f"Dask's scheduler does not answer: {type(error).__name__} {error}")
            else:
                crowd.scheduler(True, f"Dask's scheduler answers at {about['address']}")
                self._members = elected(about["workers"], self._members, self._each)
                crowd.members(self._members)
            await asyncio.sleep(LOOK_SECONDS)

    async def _converse(self, member: Member, hello: Mapping[str, Any], listener: Listener) -> None:
        comms: list[Comm] = []
        reason = "it cannot be reached"
        try:
            token = uuid.uuid4().hex
            for opening in ({**hello, "token": token}, {"pulse": token}):
                comm = await connect(member.address, timeout=CONNECT_SECONDS, **self._client.connection_args)
                comm.name = "procpool client"
                comms.append(comm)
                await comm.write({"op": HANDLER, "reply": False, "hello": opening})
            listener.linked(_CommLink(*comms))
            reason = "the connection ended"
            await asyncio.gather(*(self._listen(comm, listener) for comm in comms))
        except Exception as error:  # OSErrors, and what else Dask makes of bytes that are no message
            listener.cut(f"{reason}: {error}")
        finally:
            for comm in comms:
                comm.abort()

    async def _listen(self, comm: Comm, listener: Listener) -> None:
        while True:
            listener.heard(await comm.read())
