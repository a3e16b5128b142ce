"""Much of everything, with flat memory and descriptors.  PROCPOOL_SOAK=50 for a million calls and ten thousand failures."""

from __future__ import annotations

import contextlib
import gc
import os
import signal

import psutil
import pytest
from conftest import DEADLINE, MISBEHAVE, busy_pid, eventually

from procpool import CallTimeout, ProcessWasmPool, WasmTrap, WorkerCrashed

FACTOR = int(os.environ.get("PROCPOOL_SOAK", "1"))


def _held() -> tuple[int, int]:
    gc.collect()
    me = psutil.Process()
    return me.memory_info().rss, me.num_fds()


@pytest.mark.skipif(not hasattr(psutil.Process, "num_fds"), reason="POSIX only")
def test_nothing_grows(nothing_left: None) -> None:
    def some_of_everything() -> None:
        for n in range(10_000):
            assert pool.call("fine", n) == n
        futures = [pool.submit("fine", n) for n in range(10_000)]
        assert [future.result(DEADLINE) for future in futures] == list(range(10_000))
        for _ in range(150):
            with pytest.raises(WasmTrap):
                pool.call("divide", 1, 0)
        for _ in range(30):
            with pytest.raises(CallTimeout):
                pool.call("spin", timeout=0.005)
        for _ in range(20):
            spinning = pool.submit("spin")
            with contextlib.suppress(ProcessLookupError):
                os.kill(busy_pid(pool), signal.SIGKILL)
            assert isinstance(spinning.exception(DEADLINE), WorkerCrashed)
            pool.wait_ready(DEADLINE)

    with ProcessWasmPool(MISBEHAVE, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        some_of_everything()
        memory, files = _held()
        for _ in range(FACTOR):
            some_of_everything()
        eventually(lambda: _held()[1] <= files, "descriptors to be back where they were")
        grown = _held()[0] - memory
        assert grown < 8 << 20, f"the parent has grown by {grown} bytes"
        assert pool.stats().crashed == 20 + 20 * FACTOR
