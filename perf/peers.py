"""What a user would take instead, set up as well as its documentation allows: the module compiled once per worker by an
initializer, exports looked up once."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import wasmtime

KERNELS = Path(__file__).parent.parent / "fixtures" / "kernels.wasm"

_exports: dict[str, Any] = {}  # of this worker process
_state: dict[str, Any] = {}


def load(path: str) -> None:
    """The initializer of a worker process."""
    engine = wasmtime.Engine()
    store = _state["store"] = wasmtime.Store(engine)
    instance = wasmtime.Instance(store, wasmtime.Module(engine, Path(path).read_bytes()), [])
    _exports.update(instance.exports(store))


def compile_only(path: str) -> None:
    """The initializer for a module whose imports nobody provides."""
    _state["module"] = wasmtime.Module(wasmtime.Engine(), Path(path).read_bytes())


def nothing() -> None:
    """A job."""


def call(name: str, *args: Any) -> Any:
    """A job in a worker process."""
    return _exports[name](_state["store"], *args)


def add(a: int, b: int) -> Any:
    return _exports["add"](_state["store"], a, b)


def fib(n: int) -> Any:
    return _exports["fib"](_state["store"], n)


class InProcess:
    """wasmtime-py without any pool."""

    def __init__(self, path: Path = KERNELS) -> None:
        engine = wasmtime.Engine()
        self.store = wasmtime.Store(engine)
        module = wasmtime.Module(engine, path.read_bytes())
        self.exports: Any = wasmtime.Instance(self.store, module, []).exports(self.store)

    def call(self, name: str, *args: Any) -> Any:
        return self.exports[name](self.store, *args)


class Threads:
    """A thread pool in which each thread has an instance of its own."""

    def __init__(self, threads: int, path: Path = KERNELS) -> None:
        self._engine = wasmtime.Engine()
        self._module = wasmtime.Module(self._engine, path.read_bytes())
        self._local = threading.local()
        self.executor = ThreadPoolExecutor(threads)

    def call(self, name: str, *args: Any) -> Any:
        exports: Any = getattr(self._local, "exports", None)
        if exports is None:
            self._local.store = wasmtime.Store(self._engine)
            instance = wasmtime.Instance(self._local.store, self._module, [])
            exports = self._local.exports = dict(instance.exports(self._local.store))
        return exports[name](self._local.store, *args)


@contextmanager
def process_pool_executor(workers: int, path: Path = KERNELS) -> Iterator[ProcessPoolExecutor]:
    """ProcessPoolExecutor with fresh interpreters, as is safe beside threads."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=load, initargs=(str(path),)) as pool:
        for future in [pool.submit(add, 1, 2) for _ in range(20 * workers)]:
            future.result()
        yield pool


@contextmanager
def multiprocessing_pool(workers: int, path: Path = KERNELS) -> Iterator[Pool]:
    """multiprocessing.Pool, likewise."""
    with multiprocessing.get_context("spawn").Pool(workers, load, (str(path),)) as pool:
        pool.starmap(add, [(1, 2)] * 20 * workers)
        yield pool
