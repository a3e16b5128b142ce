"""How fast a pool is itself again after something went wrong."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from time import perf_counter

from procpool import CallTimeout, ProcessWasmPool, WorkerCrashed

from .sidebyside import Result, of_samples

MISBEHAVE = Path(__file__).parent.parent / "fixtures" / "misbehave.wasm"


def measure(rounds: int) -> list[Result]:
    with ProcessWasmPool(MISBEHAVE, 1) as pool:
        late, again, crashed, replaced = [], [], [], []
        for _ in range(rounds * 3):
            started = perf_counter()
            try:
                pool.call("spin", timeout=0.05)
            except CallTimeout:
                late.append((perf_counter() - started - 0.05) * 1e3)
            pool.call("fine", 1)
            again.append((perf_counter() - started - 0.05) * 1e3)
        for _ in range(rounds * 3):
            future = pool.submit("spin")
            with contextlib.suppress(TimeoutError):
                future.exception(0.02)  # had it not begun by then, the death would not be its own
            (worker,) = pool.stats().workers
            started = perf_counter()
            os.kill(worker.pid, signal.SIGKILL)
            assert isinstance(future.exception(), WorkerCrashed)
            crashed.append((perf_counter() - started) * 1e3)
            pool.call("fine", 1)
            replaced.append((perf_counter() - started) * 1e3)
    return [
        of_samples("after a deadline", "CallTimeout at the caller", late, "ms"),
        of_samples("after a deadline", "next result of the same worker", again, "ms"),
        of_samples("after SIGKILL of the only worker", "WorkerCrashed at the caller", crashed, "ms"),
        of_samples("after SIGKILL of the only worker", "next result, of its replacement", replaced, "ms"),
    ]
