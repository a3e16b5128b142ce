"""A web service that counts primes on every core, and stays well under load.

Run it:  python examples/service.py --port 8000
Ask it:  curl 'localhost:8000/primes?first=0&last=100000'   and   /health, /metrics, /docs

A request that takes too long gets 504, and its worker is free again; one that does not fit the export gets 422; when the
queue is full there is 503 at once, rather than ever longer waits.  SIGTERM stops taking requests, lets those that run
finish, and then ends the workers.  (Send it to this process alone, as Docker and Kubernetes do; with systemd,
KillMode=mixed.  A worker that gets a SIGTERM dies of it.)
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from procpool import BadArguments, CallTimeout, PoolClosed, PoolFull, PoolStats, ProcessWasmPool, ProcpoolError

MODULE = Path(__file__).with_suffix(".wasm")
STATUS: dict[type[ProcpoolError], int] = {CallTimeout: 504, PoolFull: 503, PoolClosed: 503, BadArguments: 422}
#: Fields of PoolStats.
GAUGES = {"busy": "workers that run a call", "idle": "workers that could", "pending": "calls that wait for a worker"}
COUNTERS = {
    "calls": "calls that have ended",
    "failed": "calls that ended in an exception",
    "timeouts": "calls that took too long",
    "crashed": "workers that died by themselves",
    "killed": "workers that the pool killed",
}


class PoolMetrics(Collector):
    """What the pool does, as Prometheus asks for it."""

    def __init__(self, pool: ProcessWasmPool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        stats = self._pool.stats()
        yield GaugeMetricFamily("pool_resident_bytes", "memory of all workers", sum(worker.rss for worker in stats.workers))
        for name, meaning in GAUGES.items():
            yield GaugeMetricFamily(f"pool_{name}", meaning, getattr(stats, name))
        for name, meaning in COUNTERS.items():
            yield CounterMetricFamily(f"pool_{name}", meaning, getattr(stats, name))


def make_app(workers: int | None, max_pending: int, timeout: float) -> FastAPI:
    """The service.

    Args:
        workers: processes; None for as many as there are CPUs.
        max_pending: requests that may wait for a worker.
        timeout: seconds a request may take, waiting included.
    """
    registry = CollectorRegistry()
    seconds = Histogram("request_seconds", "how long a count took, waiting included", registry=registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with ProcessWasmPool(MODULE, workers, max_pending=max_pending, on_full="raise", timeout=timeout) as pool:
            await pool.await_ready(timeout=60)  # no request comes before all workers can take one
            registry.register(PoolMetrics(pool))
            app.state.pool = pool
            yield
        # The end of the block has waited for what was still running.

    app = FastAPI(title="primes", lifespan=lifespan)

    @app.get("/primes")
    async def primes(first: int, last: int) -> dict[str, int]:
        """How many primes there are from first up to, and without, last."""
        with seconds.time():
            return {"primes": await app.state.pool.acall("count_primes", first, last)}

    @app.get("/health")
    async def health() -> JSONResponse:
        stats: PoolStats = app.state.pool.stats()
        ready = stats.busy + stats.idle
        facts = {"ready": ready, "busy": stats.busy, "pending": stats.pending, "crashed": stats.crashed}
        return JSONResponse(facts, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def explain(request: Request, error: Exception) -> JSONResponse:
        status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
        return JSONResponse({"detail": str(error)}, status, {"Retry-After": "1"} if status == 503 else None)

    for kind in STATUS:
        app.add_exception_handler(kind, explain)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the count of primes over HTTP.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, help="processes; by default as many as there are CPUs")
    parser.add_argument("--max-pending", type=int, default=100, help="requests that may wait for a worker")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds a request may take")
    options = parser.parse_args()
    uvicorn.run(make_app(options.workers, options.max_pending, options.timeout), port=options.port)


if __name__ == "__main__":
    main()
