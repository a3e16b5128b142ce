"""A cluster's overheads: two hosts that are addresses of this machine's loopback device, beside what Dask and Ray do.

On one machine there is no speed-up to measure.  What is measured is what the way to a node and back costs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any

from procpool import ProcessWasmPool
from procpool.cluster import ClusterWasmPool

from . import peers
from .ways import PEER, Timed, Way, figure, run, timed, within

MAP = "cluster: map add over 1,000,000 Python ints, each"
SUBMIT = "cluster: submit 10,000 adds and gather them, each"
CALL = "cluster: one blocking call"
LONG = "cluster: 64 jobs of some 15 ms"
LOST = "cluster: from SIGKILL of a host to the result elsewhere of a job of 0.3 s that it had begun"
COUNT, JOBS = 1_000_000, 10_000
#: What peers are given of these, who take so much longer.
LISTED, FEW = 100_000, 2_000
#: Rounds of `churn` that take some 15 ms.
STEPS = 100_000_000
#: Rounds that take some 0.3 s: for work that is lost.
LONG_STEPS = 2_000_000_000
DASK = ("distributed",)
QUIET = {"DASK_LOGGING__DISTRIBUTED": "error", "PYTHONWARNINGS": "ignore"}


class Hosts:
    """A Dask scheduler, and a worker on each of some addresses."""

    def __init__(self, threads: Sequence[int]) -> None:
        from distributed import Client

        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self._scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2])
        options = ("--no-nanny", "--no-dashboard")
        self.workers = [
            self._start("worker", address, "--host", f"127.0.0.{2 + number}", "--nthreads", str(count), *options)
            for number, count in enumerate(threads)
        ]
        self.client = Client(address, timeout=60)
        self.client.wait_for_workers(len(threads), timeout=60)

    def _start(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *words]
        return subprocess.Popen(command, env={**os.environ, **QUIET}, start_new_session=True)

    def close(self) -> None:
        """End it all."""
        self.client.close()
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()


@contextmanager
def hosts(*threads: int) -> Iterator[Hosts]:
    with contextlib.closing(Hosts(threads)) as made:
        yield made


@contextmanager
def pool(*threads: int, **options: Any) -> Iterator[ClusterWasmPool]:
    with hosts(*threads) as there, ClusterWasmPool(peers.KERNELS, client=there.client, **options) as made:
        made.wait_ready(60)
        yield made


@contextmanager
def local() -> Iterator[ProcessWasmPool]:
    with ProcessWasmPool(peers.KERNELS, workers=2) as made:
        made.wait_ready(60)
        yield made


class Adder:
    """A bare actor, that holds what its method needs."""

    def add(self, a: int, b: int) -> Any:
        return peers.add(a, b)


def _mapped(p: Any) -> None:
    assert sum(p.map("add", range(COUNT), [1] * COUNT)) == COUNT * (COUNT + 1) // 2


def _gathered(p: Any) -> object:
    return [future.result() for future in [p.submit("add", n, n) for n in range(JOBS)]]


def _churned(p: Any) -> object:
    return list(p.map("churn", [1] * 64, [STEPS] * 64))


def _client_map(batch: int, there: Hosts) -> Timed:
    there.client.run(peers.load)
    return timed(
        lambda: there.client.gather(there.client.map(peers.add, range(FEW), range(FEW), batch_size=batch, pure=False))
    )


def _client_chunks(size: int, there: Hosts) -> Timed:
    """What a user writes who has found out about the overhead: a task for each chunk of the items."""
    there.client.run(peers.load)
    chunks = [range(at, at + size) for at in range(0, LISTED, size)]
    return timed(lambda: there.client.gather(there.client.map(_add_all, chunks, pure=False)))


def _add_all(items: range) -> list[Any]:
    return [peers.add(n, 1) for n in items]


def _client_submit(there: Hosts) -> Timed:
    there.client.run(peers.load)
    client = there.client
    return timed(lambda: client.gather([client.submit(peers.add, n, n, pure=False) for n in range(FEW)]))


def _actor_call(there: Hosts) -> Timed:
    there.client.run(peers.load)
    actor = there.client.submit(Adder, actor=True).result()
    return timed(lambda: actor.add(1, 2).result())


@contextmanager
def ray_pool() -> Iterator[Any]:
    import ray.util.multiprocessing

    with ray.util.multiprocessing.Pool(2, initializer=peers.load) as made:
        made.map(peers.add_pair, [(1, 2)] * 10)
        yield made


def _ray_map(made: Any) -> Timed:
    return timed(lambda: made.map(peers.add_pair, [(n, 1) for n in range(LISTED)], chunksize=10_000))


def _run_elsewhere() -> float:
    """Two hosts work on a job each; one is killed: the seconds until the other has done its job, which had begun."""
    with hosts(1, 1) as there, ClusterWasmPool(peers.KERNELS, client=there.client, retries=1) as made:
        made.wait_ready(60)
        futures = [made.submit("churn", 1, LONG_STEPS) for _ in range(2)]
        while sum(node.running for node in made.nodes()) < 2:
            pass
        there.workers[1].send_signal(signal.SIGKILL)
        started = perf_counter()
        for future in futures:
            future.result(60)
        return perf_counter() - started


def _way(what: str, name: str, surroundings: Callable[[], Any], use: Callable[[Any], Timed], **more: Any) -> Way:
    return Way(what, name, within(surroundings, use), needs=more.pop("needs", DASK), **more)


TWO = partial(pool, 1, 1)
WAYS = [
    _way(MAP, "ClusterWasmPool, 2 nodes of 1 worker", TWO, lambda p: timed(partial(_mapped, p)), inner=COUNT),
    _way(MAP, "ProcessWasmPool, 2 workers", local, lambda p: timed(partial(_mapped, p)), inner=COUNT, role=PEER, needs=()),
    _way(MAP, "ray.util.multiprocessing.Pool", ray_pool, _ray_map, inner=LISTED, role=PEER, needs=("ray",), once=True),
    _way(SUBMIT, "ClusterWasmPool, 2 nodes of 1 worker", TWO, lambda p: timed(partial(_gathered, p)), inner=JOBS),
    _way(SUBMIT, "Client.submit", partial(hosts, 1, 1), _client_submit, inner=FEW, role=PEER),
    _way(CALL, "ClusterWasmPool, 2 nodes of 1 worker", TWO, lambda p: timed(lambda: p.call("add", 1, 2)), loops=200),
    _way(CALL, "a method of a Dask actor", partial(hosts, 1, 1), _actor_call, loops=50, role=PEER),
    _way(LONG, "2 nodes of 1 worker", TWO, lambda p: timed(partial(_churned, p))),
    _way(LONG, "1 node of 2 workers", partial(pool, 2), lambda p: timed(partial(_churned, p))),
    _way(LONG, "ProcessWasmPool, 2 workers", local, lambda p: timed(partial(_churned, p)), role=PEER, needs=()),
    Way(LOST, "retries=1", lambda: contextlib.nullcontext(figure(_run_elsewhere)), needs=DASK, once=True),
]
WAYS += [
    _way(
        MAP, f"Client.map, lists of {size:,}", partial(hosts, 1, 1), partial(_client_chunks, size), inner=LISTED, role=PEER
    )
    for size in (1000, 10_000, 50_000)
]
WAYS += [
    _way(MAP, f"Client.map, batch_size={batch}", partial(hosts, 1, 1), partial(_client_map, batch), inner=FEW, role=PEER)
    for batch in (1, 100, 1000)
]

if __name__ == "__main__":
    run("perf.cluster", WAYS)
