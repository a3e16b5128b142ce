"""What a user would take instead, each set up as well as its documentation allows.

The module is compiled once per worker by an initializer, exports are looked up once, workers are there before the clock
starts.  All of them run the exports of ``fixtures/kernels.wasm`` through wasmtime-py.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wasmtime

KERNELS = Path(__file__).parent.parent / "fixtures" / "kernels.wasm"
WORKERS = 2

_exports: dict[str, Any] = {}  # of this worker process
_state: dict[str, Any] = {}


def load(path: str = str(KERNELS)) -> None:
    """The initializer of a worker process."""
    if _exports:
        return
    engine = wasmtime.Engine()
    store = _state["store"] = wasmtime.Store(engine)
    instance = wasmtime.Instance(store, wasmtime.Module(engine, Path(path).read_bytes()), [])
    _exports.update(instance.exports(store))


def call(name: str, *args: Any) -> Any:
    """A job in a worker process."""
    if not _exports:  # joblib has no initializer
        load()
    return _exports[name](_state["store"], *args)


def add(a: int, b: int) -> Any:
    """A job: the smallest there is."""
    return call("add", a, b)


def add_pair(pair: tuple[int, int]) -> Any:
    """The same for those that map over one iterable."""
    return call("add", *pair)


def churn(steps: int) -> Any:
    """A job whose length can be chosen."""
    return call("churn", 1, steps)


def echo(data: bytes) -> bytes:
    """A job that is all payload."""
    return data


def nothing(*args: Any) -> None:
    """A job that does nothing."""


@dataclass
class Peer:
    """One pool of somebody's, seen the same way as all others."""

    one: Callable[..., Any]  #: one(function, *args): run it and wait
    gather: Callable[..., list[Any]]  #: gather(function, rows): submit each, wait for all
    map: Callable[..., Any] | None = None  #: map(function, items, chunk): over one iterable, results as a list
    pids: Callable[[], list[int]] = list


@contextmanager
def in_process() -> Iterator[Peer]:
    load()
    yield Peer(lambda f, *a: f(*a), lambda f, rows: [f(*row) for row in rows], lambda f, items, chunk: list(map(f, items)))


@contextmanager
def threads(workers: int = WORKERS) -> Iterator[Peer]:
    """A thread pool in which each thread has an instance of its own."""
    engine = wasmtime.Engine()
    module = wasmtime.Module(engine, KERNELS.read_bytes())
    local = threading.local()

    def run(name: str, *args: Any) -> Any:
        exports: Any = getattr(local, "exports", None)
        if exports is None:
            local.store = wasmtime.Store(engine)
            exports = local.exports = dict(wasmtime.Instance(local.store, module, []).exports(local.store))
        return exports[name](local.store, *args)

    jobs: dict[Callable[..., Any], Callable[..., Any]] = {
        add: lambda a, b: run("add", a, b),
        churn: lambda steps: run("churn", 1, steps),
        add_pair: lambda pair: run("add", *pair),
    }

    def job(function: Callable[..., Any]) -> Callable[..., Any]:
        return jobs.get(function, function)

    with ThreadPoolExecutor(workers) as pool:
        yield Peer(
            lambda f, *a: pool.submit(job(f), *a).result(),
            lambda f, rows: [future.result() for future in [pool.submit(job(f), *row) for row in rows]],
            lambda f, items, chunk: list(pool.map(job(f), items)),
        )


def _of_executor(pool: Any, workers: int) -> Peer:
    """A process pool with the interface of concurrent.futures, its workers warm."""

    def gather(function: Callable[..., Any], rows: Sequence[Any]) -> list[Any]:
        return [future.result() for future in [pool.submit(function, *row) for row in rows]]

    gather(add, [(1, 2)] * 20 * workers)
    return Peer(
        lambda f, *a: pool.submit(f, *a).result(),
        gather,
        lambda f, items, chunk: list(pool.map(f, items, chunksize=chunk)),
        lambda: list(pool._processes),
    )


def process_pool_executor(method: str = "spawn") -> Callable[..., AbstractContextManager[Peer]]:
    """ProcessPoolExecutor, by start method."""

    @contextmanager
    def make(workers: int = WORKERS) -> Iterator[Peer]:
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(workers, mp_context=context, initializer=load) as pool:
            yield _of_executor(pool, workers)

    return make


@contextmanager
def multiprocessing_pool(workers: int = WORKERS) -> Iterator[Peer]:
    with multiprocessing.get_context("spawn").Pool(workers, load) as pool:
        pool.starmap(add, [(1, 2)] * 20 * workers)
        yield Peer(
            lambda f, *a: pool.apply(f, a),
            lambda f, rows: [result.get() for result in [pool.apply_async(f, row) for row in rows]],
            pool.map,
            lambda: [process.pid for process in pool._pool],  # type: ignore[attr-defined]
        )


@contextmanager
def loky(workers: int = WORKERS) -> Iterator[Peer]:
    from loky import ProcessPoolExecutor as Loky

    pool = Loky(workers, initializer=load)
    try:
        yield _of_executor(pool, workers)
    finally:
        pool.shutdown()


@contextmanager
def joblib(workers: int = WORKERS) -> Iterator[Peer]:
    import joblib as library

    with library.Parallel(n_jobs=workers) as parallel:
        run = library.delayed
        parallel(run(add)(1, 2) for _ in range(20 * workers))
        yield Peer(
            lambda f, *a: parallel([run(f)(*a)])[0],
            lambda f, rows: parallel(run(f)(*row) for row in rows),
            lambda f, items, chunk: parallel(run(f)(item) for item in items),
        )


@contextmanager
def mpire(workers: int = WORKERS) -> Iterator[Peer]:
    from mpire import WorkerPool

    with WorkerPool(workers, start_method="spawn", keep_alive=True) as pool:
        pool.map(add_pair, [((1, 2),)] * 20 * workers, worker_init=load)
        yield Peer(
            lambda f, *a: pool.apply(f, a),
            lambda f, rows: [result.get() for result in [pool.apply_async(f, row) for row in rows]],
            lambda f, items, chunk: pool.map(f, [(item,) for item in items], chunk_size=chunk),
        )


@contextmanager
def pebble(workers: int = WORKERS) -> Iterator[Peer]:
    from pebble import ProcessPool

    context = multiprocessing.get_context("spawn")
    with ProcessPool(workers, initializer=load, context=context) as pool:
        [future.result() for future in [pool.submit(add, None, 1, 2) for _ in range(20 * workers)]]
        yield Peer(
            lambda f, *a: pool.submit(f, None, *a).result(),
            lambda f, rows: [future.result() for future in [pool.submit(f, None, *row) for row in rows]],
            lambda f, items, chunk: list(pool.map(f, items, chunksize=chunk).result()),
        )


@contextmanager
def ray(workers: int = WORKERS) -> Iterator[Peer]:
    import ray as library

    library.init(num_cpus=workers, logging_level="error", log_to_driver=False, include_dashboard=False)

    def run(function: Any, row: Sequence[Any]) -> Any:
        return library.remote(function).remote(*row)

    try:
        library.get([run(add, (1, 2)) for _ in range(20)])
        yield Peer(lambda f, *a: library.get(run(f, a)), lambda f, rows: library.get([run(f, row) for row in rows]))
    finally:
        library.shutdown()


@contextmanager
def dask(workers: int = WORKERS) -> Iterator[Peer]:
    from distributed import Client

    with Client(n_workers=workers, threads_per_worker=1, dashboard_address=None) as client:
        client.gather([client.submit(add, 1, 2, pure=False) for _ in range(20)])
        yield Peer(
            lambda f, *a: client.submit(f, *a, pure=False).result(),
            lambda f, rows: client.gather([client.submit(f, *row, pure=False) for row in rows]),
        )


@dataclass(frozen=True)
class Named:
    """A peer and what it needs."""

    name: str
    make: Callable[..., AbstractContextManager[Peer]]
    needs: tuple[str, ...] = ()


EXECUTOR = Named("ProcessPoolExecutor (spawn)", process_pool_executor("spawn"))
#: Those that start fast enough to be measured each time.
POOLS = [
    EXECUTOR,
    Named("multiprocessing.Pool (spawn)", multiprocessing_pool),
    Named("loky", loky, ("loky",)),
    Named("joblib", joblib, ("joblib",)),
    Named("mpire", mpire, ("mpire",)),
    Named("pebble", pebble, ("pebble",)),
]
METHODS = [
    Named("ProcessPoolExecutor (fork)", process_pool_executor("fork")),
    Named("ProcessPoolExecutor (forkserver)", process_pool_executor("forkserver")),
]
LOCAL = [Named("in-process, no pool", in_process), Named("threads", threads)]
#: By `python -m perf --slow-peers` only.
SLOW = [Named("ray", ray, ("ray",)), Named("dask", dask, ("distributed",))]
