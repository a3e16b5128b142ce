"""What the sandbox costs, and what it stops, beside others: ``python -m perf.isolation``.

Costs are measured in turns, locked and not locked.  What is stopped are the rows of tests/test_attempts.py: native code in
a worker, or in the program where the engine runs in the program itself, as with wasmtime-py and extism.
"""

from __future__ import annotations

import importlib
import os
import socket
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

from procpool import ProcessWasmPool

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))
attempts: Any = importlib.import_module("test_attempts")
KERNELS = ROOT / "fixtures" / "kernels.wasm"
ROUNDS, CALLS = 20, 3000
#: Seconds that an attempt may take.
_PATIENCE = 20.0


def costs() -> None:
    """Calls and births, in turns."""
    births: dict[str, list[float]] = {"off": [], "default": []}
    calls: dict[str, list[float]] = {"off": [], "default": []}
    pools = {}
    for level, born in births.items():
        began: dict[int | None, float] = {}

        def hear(event: Any, born: list[float] = born, began: dict[int | None, float] = began) -> None:
            if event.kind == "started":
                began[event.pid] = perf_counter()
            elif event.kind == "ready" and event.pid in began:
                born.append(perf_counter() - began[event.pid])

        pools[level] = ProcessWasmPool(KERNELS, 1, sandbox=level, callables=False, on_event=hear)  # type: ignore[arg-type]
    assert pools["default"].sandbox.locked, pools["default"].sandbox
    for _ in range(ROUNDS):
        for level, pool in pools.items():
            pool.restart()
            for _ in range(300):
                pool.call("add", 1, 2)
            start = perf_counter()
            for _ in range(CALLS):
                pool.call("add", 1, 2)
            calls[level].append((perf_counter() - start) / CALLS)
    for pool in pools.values():
        pool.shutdown()
    print("| | not locked | locked |\n| --- | --- | --- |")
    for what, times, unit, scale in (("blocking call", calls, "us", 1e6), ("start to ready", births, "ms", 1e3)):
        print(f"| {what} | " + " | ".join(f"{scale * statistics.median(times[each]):.2f} {unit}" for each in times) + " |")


def _try(name: str, target: Any) -> str:
    return str(attempts._tried(None, name, target))


def _ready(_: int) -> int:
    _try("read_the_environment", None)
    return os.getpid()


def stopped() -> None:
    """How many attempts each stops."""
    os.environ[attempts.VARIABLE] = attempts.SECRET
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "secret")
        file.write_text(attempts.SECRET)

        def target(workers: list[int]) -> Any:
            return attempts.Target(os.getpid(), workers, str(file), directory, server.getsockname()[1])

        print("\n| | attempts that came to something, of all |\n| --- | --- |")
        for level in ("strict", "off"):
            with ProcessWasmPool(KERNELS, 2, sandbox=level, initializer=attempts._load) as pool:
                pool.wait_ready()
                at = target([worker.pid for worker in pool.stats().workers if worker.pid is not None])
                _count(f"procpool, sandbox={level!r}", partial(_in_pool, pool, at))
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
            at = target(sorted({executor.submit(_ready, n).result() for n in range(50)} | {os.getpid()}))
            _count("ProcessPoolExecutor", partial(_in_executor, executor, at))
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as program:
            _count("in the program: wasmtime-py, extism", partial(_in_executor, program, target([0, 1])))


def _in_pool(pool: ProcessWasmPool, at: Any, name: str) -> str:
    return str(pool.submit(attempts._tried, name, at).result(_PATIENCE))


def _in_executor(executor: ProcessPoolExecutor, at: Any, name: str) -> str:
    return executor.submit(_try, name, at).result(_PATIENCE)


def _count(who: str, attempt: Callable[[str], str]) -> None:
    came = []
    for name in attempts.ATTEMPTS:
        try:
            if attempt(name) == "done":
                came.append(name)
        except (BrokenProcessPool, TimeoutError):
            break
        except Exception:
            continue
    print(f"| {who} | {len(came)} of {len(attempts.ATTEMPTS)} |", flush=True)


if __name__ == "__main__":
    costs()
    stopped()
