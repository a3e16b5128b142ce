"""From nothing to the first result."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wasmtime

from procpool import FuncType, ProcessWasmPool
from procpool.binary import read_interface
from procpool.engine import compiling_engine, loading_engine
from procpool.options import StartMethod

from . import floors, peers
from .ways import FLOOR, PEER, Timed, Way, plain, run, timed

FIRST = "first result of a small module, by workers"
LARGE = "first result, 8 workers, module of 14 MB, wasmtime's cache warm"
WORKERS = (1, 2, 4, 8, 16, 32)


def ours(workers: int, method: StartMethod) -> None:
    with ProcessWasmPool(peers.KERNELS, workers, start_method=method) as pool:
        pool.wait_ready()
        pool.call("add", 1, 2)


def executor(workers: int) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=peers.load) as pool:
        for future in [pool.submit(peers.add, 1, 2) for _ in range(workers)]:
            future.result()


#: Names the directory where one run of the whole suite keeps what it has downloaded.
DOWNLOADS = "PROCPOOL_PERF_DOWNLOADS"
_own_downloads = tempfile.TemporaryDirectory()  # where there is none
atexit.register(_own_downloads.cleanup)


@functools.cache
def large_module() -> Path:
    """A 14 MB module: esbuild, from the npm registry."""
    target = Path(os.environ.get(DOWNLOADS) or _own_downloads.name) / "esbuild.wasm"
    if not target.exists():
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(["npm", "pack", "--silent", "esbuild-wasm"], cwd=directory, check=True, capture_output=True)
            with tarfile.open(next(Path(directory).glob("*.tgz"))) as archive:
                member = archive.extractfile("package/esbuild.wasm")
                assert member is not None
                target.write_bytes(member.read())
    return target


def _stub(*args: Any) -> None:
    """Stands for each of the JavaScript functions that it imports."""


def large_imports() -> dict[str, dict[str, Any]]:
    imports: dict[str, dict[str, Any]] = {}
    for needed in read_interface(large_module().read_bytes()).imports:
        assert isinstance(needed.type, FuncType)
        imports.setdefault(needed.module, {})[needed.name] = _stub
    return imports


@contextmanager
def large_ours() -> Iterator[Timed]:
    path, imports = large_module(), large_imports()

    def first() -> None:
        with ProcessWasmPool(path, 8, imports=imports) as pool:
            pool.call("getsp")

    first()  # the cache is warm
    yield timed(first)


def compile_large(path: str) -> None:
    """The initializer of a peer's worker."""
    peers._state["module"] = wasmtime.Module(wasmtime.Engine(), Path(path).read_bytes())


@contextmanager
def large_executor() -> Iterator[Timed]:
    path = str(large_module())

    def first() -> None:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(8, mp_context=context, initializer=compile_large, initargs=(path,)) as pool:
            pool.submit(peers.nothing).result()

    yield timed(first)


@contextmanager
def map_large() -> Iterator[Timed]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(wasmtime.Module(compiling_engine(), large_module().read_bytes()).serialize())
        file.flush()
        engine = loading_engine()
        yield timed(lambda: wasmtime.Module.deserialize_file(engine, file.name))


def _npm(make: Callable[[], Any]) -> Callable[[], Any]:
    if shutil.which("npm") is None:
        print("npm is missing: the figures for a large module are left out", file=sys.stderr)
    return make


WAYS = [
    Way(FIRST, "fork", plain(floors.fork_and_wait), 20, role=FLOOR, at=1),
    Way(FIRST, "start Python, import wasmtime", plain(floors.start_python), role=FLOOR, at=1),
    *(Way(FIRST, "procpool (forkserver)", plain(functools.partial(ours, n, "forkserver")), at=n) for n in WORKERS),
    *(Way(FIRST, "procpool (spawn)", plain(functools.partial(ours, n, "spawn")), at=n) for n in WORKERS[:4]),
    *(Way(FIRST, peers.EXECUTOR.name, plain(functools.partial(executor, n)), role=PEER, at=n) for n in WORKERS[:4]),
]
if shutil.which("npm") is not None:
    WAYS += [
        Way(LARGE, "mapping the compiled form", map_large, 20, role=FLOOR),
        Way(LARGE, "procpool", large_ours),
        Way(LARGE, "ProcessPoolExecutor (spawn), compiling initializer", large_executor, role=PEER),
    ]

if __name__ == "__main__":
    run("perf.startup", WAYS)
