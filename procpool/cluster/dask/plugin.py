"""What a Dask worker needs to have a node: a handler for clients that open a session.

The plug-in travels by value and names nothing of procpool before it is asked to.  So a worker on whose host procpool is
missing, or is another version, starts as ever, and says so when a client wants a node there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import WorkerPlugin

#: Of the plug-in, in Dask.
NAME = "procpool"
#: The handler of a Dask worker that a client opens a session with.
HANDLER = "procpool_node"


def node_plugin() -> WorkerPlugin:
    """The plug-in, as an instance of a class that pickles by value."""
    from distributed import WorkerPlugin

    class NodePlugin(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
        idempotent = True

        def setup(self, worker: Any) -> None:
            try:
                from procpool.cluster.dask.host import NodeHost
            except Exception as missing:  # without procpool, or with one that has no cluster
                reason = f"procpool cannot be imported there: {missing}"

                async def refuse(comm: Any, hello: Any = None) -> str:
                    await comm.write([["refused", reason, b""]])  # as in `wire`, which is not there
                    await comm.close()
                    return "dont-reply"

                worker.handlers[HANDLER] = refuse
                self.host = None
            else:
                self.host = NodeHost(worker)

        async def teardown(self, worker: Any) -> None:
            if self.host is not None:
                await self.host.leave("its Dask worker is closing")

    return NodePlugin()
