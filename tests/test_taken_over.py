"""What a worker that has been taken over can do to the program and to other workers: nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from attacker import Held, look, overwrite
from conftest import DEADLINE, KERNELS, eventually
from hostile import Gate

from procpool import ProcessWasmPool, WorkerCrashed

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux seals files")

METHODS = pytest.mark.parametrize("method", ["forkserver", "spawn"])


def _looks(pool: ProcessWasmPool) -> dict[int, list[Held]]:
    """What each worker finds."""
    found: dict[int, list[Held]] = {}

    def complete() -> bool:
        found.update(job.result(DEADLINE) for job in [pool.submit(look) for _ in range(16)])
        return len(found) == 3

    eventually(complete, "each worker to look")
    return found


@METHODS
@pytest.mark.parametrize("instances", [1, 2])
def test_no_worker_has_what_another_can_write(method: Any, instances: int, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=3, instances=instances, start_method=method, cache=False) as pool:
        pool.wait_ready(DEADLINE)
        first = _looks(pool)
        pool.restart()
        pool.wait_ready(DEADLINE)
        found = {**first, **_looks(pool)}
    assert len(found) == 6
    written = [file for all_held in found.values() for file in {held.file for held in all_held if held.written}]
    assert len(written) == len(set(written)) == 6, "each has one, and no two the same"
    for all_held in found.values():
        assert len({held.file for held in all_held}) == 3, "settings, code, and its own memory"
        assert not any(held.cut or held.lengthened for held in all_held)


@METHODS
def test_a_worker_that_writes_all_over_its_memory_harms_no_other(method: Any, tmp_path: Path, nothing_left: None) -> None:
    gate = Gate(tmp_path / "gate")
    with ProcessWasmPool(KERNELS, workers=2, start_method=method) as pool:
        pool.wait_ready(DEADLINE)
        attack = pool.submit(overwrite, gate)
        eventually(attack.running, "the attack")
        for _ in range(5):
            assert list(pool.map("add", range(100_000), range(100_000))) == list(range(0, 200_000, 2))
            assert [pool.call("add", n, 1) for n in range(100)] == list(range(1, 101))
            assert pool.submit(bytes_back, bytes(1 << 20)).result(DEADLINE) == bytes(1 << 20)
        gate.close()
        with pytest.raises(WorkerCrashed):
            attack.result(DEADLINE)


def bytes_back(instance: Any, data: bytes) -> bytes:
    return data
