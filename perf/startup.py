"""From nothing to the first result, and what a worker holds."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import tarfile
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter

import psutil
import wasmtime

from procpool import ProcessWasmPool
from procpool.engine import compiling_engine, loading_engine
from procpool.module import compile_module

from .peers import KERNELS, compile_only, nothing
from .sidebyside import Result, of_samples

WORKERS = 8


def measure(rounds: int) -> list[Result]:
    results = _memory()
    with tempfile.TemporaryDirectory() as directory:
        large = _large_module(Path(directory))
        if large is not None:
            results += _large(large, min(rounds, 3))
    return results


def _memory() -> list[Result]:
    with ProcessWasmPool(KERNELS, WORKERS) as pool:
        pool.wait_ready()
        own = sorted(psutil.Process(worker.pid).memory_full_info().uss / 2**20 for worker in pool.stats().workers)
    with ProcessWasmPool(KERNELS, 2, start_method="spawn") as pool:
        pool.wait_ready()
        spawned = [psutil.Process(worker.pid).memory_full_info().uss / 2**20 for worker in pool.stats().workers]
    what = "memory of one idle worker alone (USS)"
    return [of_samples(what, "forked from the template", own, "MiB"), of_samples(what, "spawned", spawned, "MiB")]


def _large_module(directory: Path) -> Path | None:
    """A 14 MB module: esbuild, from the npm registry; None (and said so) where npm is missing."""
    if shutil.which("npm") is None:
        print("npm is missing: the figures for a large module are left out")
        return None
    subprocess.run(["npm", "pack", "--silent", "esbuild-wasm"], cwd=directory, check=True, capture_output=True)
    with tarfile.open(next(directory.glob("*.tgz"))) as archive:
        member = archive.extractfile("package/esbuild.wasm")
        assert member is not None
        path = directory / "esbuild.wasm"
        path.write_bytes(member.read())
    return path


def _large(path: Path, rounds: int) -> list[Result]:
    """Its imports are JavaScript's, so it is only compiled and mapped.

    On our side that is everything the parent does to the module, and a pool of that many workers up to its first result,
    each of which maps the module besides.
    """
    wasm = path.read_bytes()
    artifact = compile_module(path)  # warms the cache
    what = f"first result, {WORKERS} workers, module of {len(wasm) / 1e6:.0f} MB, cache warm"
    ours, theirs, mapping = [], [], []
    for _ in range(rounds):
        started = perf_counter()
        compile_module(path)
        compiled = perf_counter() - started
        started = perf_counter()
        wasmtime.Module.deserialize_file(loading_engine(), f"/dev/fd/{artifact.artifact}")
        mapping.append(perf_counter() - started)
        started = perf_counter()
        with ProcessWasmPool(KERNELS, WORKERS) as pool:
            pool.call("add", 1, 2)
            ours.append(perf_counter() - started + compiled + mapping[-1])
        started = perf_counter()
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(WORKERS, context, compile_only, (str(path),)) as executor:
            executor.submit(nothing).result()
            theirs.append(perf_counter() - started)
    cold = []
    for _ in range(rounds):
        started = perf_counter()
        wasmtime.Module(compiling_engine(cache=False), wasm)
        cold.append(perf_counter() - started)
    return [
        of_samples(what, "ProcessPoolExecutor, compiling initializer", theirs, "s"),
        of_samples(what, "procpool", ours, "s"),
        of_samples("compile that module once, cache cold", "wasmtime", cold, "s"),
        of_samples("map its compiled form in a worker", "wasmtime", mapping, "s"),
    ]
