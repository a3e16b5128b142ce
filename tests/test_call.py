"""Blocking calls."""

from __future__ import annotations

import os
import signal
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from conftest import DEADLINE, KERNELS, MISBEHAVE, SHAPES, busy_pid, eventually, worker_pids

from procpool import BadArguments, CallTimeout, PoolClosed, ProcessWasmPool, UnknownExport, WasmTrap, WorkerCrashed


def test_every_scalar_type(kernels: ProcessWasmPool) -> None:
    assert kernels.call("add", 2**31 - 1, 1) == -(2**31)
    assert kernels.call("add64", 2**63 - 1, 1) == -(2**63)
    assert kernels.call("addf", 0.5, 1) == 1.5
    assert kernels.call("addd", 0.1, 0.2) == 0.1 + 0.2
    assert kernels.call("mixed", 1, 2**40, 0.5, 0.25) == 2**40 + 1.75
    assert kernels.call("fib", 20) == 6765
    assert kernels.call("count_primes", 0, 100) == 25
    assert kernels.call("mandelbrot", 0.0, 0.0, 50) == 50
    assert kernels.call("same_i32", 2**32 - 1) == -1
    assert kernels.call("same_i64", -(2**63)) == -(2**63)


def test_nan_payloads_survive(kernels: ProcessWasmPool) -> None:
    signalling = struct.unpack("<d", struct.pack("<Q", 0x7FF4_0000_0000_1234))[0]
    assert kernels.call("bits_f64", signalling) == 0x7FF4_0000_0000_1234
    quiet = struct.unpack("<f", struct.pack("<I", 0x7FC0_1234))[0]
    assert kernels.call("bits_f32", quiet) == 0x7FC0_1234


def test_shapes_that_c_cannot_export(nothing_left: None) -> None:
    with ProcessWasmPool(SHAPES, workers=1) as pool:
        assert pool.call("swap", 1, 2**40) == (2**40, 1)
        assert pool.call("divmod", -7, 2) == (-3, -1)
        vector = bytes(range(16))
        assert pool.call("all", 1, 2, 3.5, 4.5, vector) == (vector, 4.5, 3.5, 2, 1)
        assert pool.call("add_lanes", b"\1\0\0\0" * 4, b"\2\0\0\0" * 4) == b"\3\0\0\0" * 4
        assert pool.call("nothing") is None
        assert pool.call("") == 1 and pool.call("größe ✓") == 2
        for name in ("takes_extern", "gives_func"):
            with pytest.raises(BadArguments, match="cannot cross to another process"):
                pool.call(name, None)
        assert pool.call("") == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ad", "did you mean 'add'"),
        ("zzz", "did you mean"),
        ("memory", "is a memory of 17 pages, not a function"),
    ],
)
def test_unknown_exports_are_explained(kernels: ProcessWasmPool, name: str, words: str) -> None:
    for way in (kernels.call, kernels.submit, kernels.map):
        with pytest.raises(UnknownExport, match=words):
            way(name, [1])  # type: ignore[operator]


def test_something_else_than_a_name(kernels: ProcessWasmPool) -> None:
    with pytest.raises(TypeError, match="expected the name of an export, got 3"):
        kernels.call(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (("trap",), "UNREACHABLE"),
        (("divide", 1, 0), "INTEGER_DIVISION_BY_ZERO"),
        (("divide", -(2**31), -1), "INTEGER_OVERFLOW"),
        (("load", 2**31), "MEMORY_OUT_OF_BOUNDS"),
        (("recurse", 0), "STACK_OVERFLOW"),
    ],
)
def test_traps(misbehave: ProcessWasmPool, job: tuple[str, ...], code: str) -> None:
    pids = worker_pids(misbehave)
    with pytest.raises(WasmTrap) as caught:
        misbehave.call(*job)
    assert caught.value.code == code and caught.value.export == job[0]
    assert caught.value.frames and job[0] in str(caught.value)
    assert misbehave.call("fine", 1) == 1
    assert worker_pids(misbehave) == pids
    assert misbehave.stats().failed == 1


def test_a_dirty_instance_never_serves_again(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        assert [pool.call("soil") for _ in range(3)] == [1, 2, 3]
        with pytest.raises(WasmTrap):
            pool.call("trap")
        assert pool.call("soil") == 1
        with pytest.raises(CallTimeout):
            pool.call("spin", timeout=0.05)
        assert pool.call("soil") == 1


def test_a_timeout_stops_the_guest_and_frees_the_worker(misbehave: ProcessWasmPool) -> None:
    pids = worker_pids(misbehave)
    started = monotonic()
    with pytest.raises(CallTimeout) as caught:
        misbehave.call("spin", timeout=0.1)
    assert monotonic() - started >= 0.1
    assert isinstance(caught.value, TimeoutError)
    eventually(lambda: misbehave.stats().idle == 2, "both workers to be idle again")
    assert worker_pids(misbehave) == pids, "the worker was not killed, only interrupted"


@pytest.mark.parametrize("isolation", ["pooled", "fresh"])
@pytest.mark.parametrize("way", ["call", "submit"])
def test_an_interrupt_that_comes_before_its_job_begins_is_not_lost(way: str, isolation: Any, nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, kill_grace=DEADLINE, isolation=isolation) as pool:
        pool.wait_ready(DEADLINE)
        (worker,) = pool.stats().workers
        for _ in range(20):
            os.kill(worker.pid, signal.SIGSTOP)
            try:
                with pytest.raises(CallTimeout):
                    if way == "call":
                        pool.call("spin", timeout=0.01)
                    else:
                        pool.submit("spin", timeout=0.01).result(DEADLINE)
            finally:
                os.kill(worker.pid, signal.SIGCONT)  # now either of its threads may be the first
            assert pool.call("fine", 7, timeout=DEADLINE / 2) == 7
        assert [pool.stats().killed, pool.stats().crashed] == [0, 0]


def test_a_timeout_includes_waiting_for_a_worker(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        long = pool.submit("spin", timeout=1.5)
        busy_pid(pool)
        with pytest.raises(CallTimeout, match="no result within"):
            pool.call("fine", 1, timeout=0.05)
        assert isinstance(long.exception(DEADLINE), CallTimeout)
        assert pool.call("fine", 2) == 2


def test_the_pools_own_timeout_applies_to_every_way(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=2, timeout=0.1) as pool:
        with pytest.raises(CallTimeout):
            pool.call("spin")
        with pytest.raises(CallTimeout):
            pool.submit("spin").result(DEADLINE)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_nonsensical_timeouts(kernels: ProcessWasmPool, timeout: float) -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        kernels.call("add", 1, 2, timeout=timeout)


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2", 5000])
def test_nonsensical_workers(workers: object) -> None:
    with pytest.raises(ValueError, match="workers must be"):
        ProcessWasmPool(KERNELS, workers=workers)  # type: ignore[arg-type]


def test_unknown_start_method() -> None:
    with pytest.raises(ValueError, match="'forkserver', 'spawn'"):
        ProcessWasmPool(KERNELS, start_method="fork")


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_a_worker_that_dies_takes_only_its_call_with_it(misbehave: ProcessWasmPool, kill: signal.Signals) -> None:
    with ThreadPoolExecutor(1) as threads:
        doomed = threads.submit(misbehave.call, "spin")
        victim = busy_pid(misbehave)
        os.kill(victim, kill)
        with pytest.raises(WorkerCrashed, match=kill.name) as caught:
            doomed.result(DEADLINE)
    assert (caught.value.pid, caught.value.signal, caught.value.export) == (victim, kill, "spin")
    assert [misbehave.call("fine", n) for n in range(100)] == list(range(100))
    eventually(lambda: misbehave.stats().idle == 2, "the replacement")
    assert victim not in worker_pids(misbehave)


def test_a_worker_that_dies_idle_harms_nobody(misbehave: ProcessWasmPool) -> None:
    for _ in range(10):
        for pid in worker_pids(misbehave):
            if pid:
                os.kill(pid, signal.SIGKILL)
        # The pipe may take the job before the news of the death arrives; it must run elsewhere then.
        assert misbehave.call("fine", 7) == 7
        eventually(lambda: misbehave.stats().idle == 2, "the replacements")


def test_many_threads_share_one_pool(kernels: ProcessWasmPool) -> None:
    barrier = threading.Barrier(16)

    def hammer(seed: int) -> int:
        barrier.wait(DEADLINE)
        return sum(kernels.call("add", seed, n) for n in range(200))

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(hammer, range(16))) == [200 * seed + 19900 for seed in range(16)]


def test_after_shutdown(nothing_left: None) -> None:
    pool = ProcessWasmPool(KERNELS, workers=1)
    pool.shutdown()
    pool.shutdown()
    for way in (pool.call, pool.submit):
        with pytest.raises(PoolClosed, match="shut down") as caught:
            way("add", 1, 2)
        assert isinstance(caught.value, RuntimeError)
    with pytest.raises(PoolClosed):
        pool.map("add", [1], [2])
    assert "closed" in repr(pool)


def test_exports_and_repr(kernels: ProcessWasmPool) -> None:
    assert str(kernels.exports["add"]) == "(i32, i32) -> (i32)"
    assert str(kernels.exports["memory"]) == "memory of 17 pages"
    assert kernels.imports == ()
    with pytest.raises(TypeError):
        kernels.exports["add"] = kernels.exports["fib"]  # type: ignore[index]
    assert repr(kernels).startswith("<ProcessWasmPool kernels.wasm workers=2 ")


def test_stats(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=2) as pool:
        eventually(lambda: pool.stats().idle == 2, "both workers")
        for n in range(10):
            pool.call("fine", n)
        list(pool.map("fine", range(100)))
        with pytest.raises(WasmTrap):
            pool.call("trap")
        # Of a worker that was slow to begin its share of the map, that may have been taken back: it has yet to see that.
        eventually(lambda: pool.stats().idle == 2, "both workers to rest")
        stats = pool.stats()
        assert (stats.calls, stats.failed, stats.pending, stats.busy, stats.idle) == (111, 1, 0, 0, 2)
        assert sum(worker.calls for worker in stats.workers) == 111
        assert all(worker.rss > 1 << 20 and worker.state == "idle" for worker in stats.workers)
        with pytest.raises(AttributeError):
            stats.calls = 0  # type: ignore[misc]


def test_spawned_workers(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2, start_method="spawn") as pool:
        assert pool.call("add", 1, 2) == 3
        assert list(pool.map("fib", range(15))) == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377]
        eventually(lambda: pool.stats().idle == 2, "both workers")
        os.kill(worker_pids(pool)[0], signal.SIGKILL)
        eventually(lambda: pool.stats().idle == 2 and len(set(worker_pids(pool))) == 2, "the replacement")
        assert pool.call("add", 3, 4) == 7


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_the_public_api_does_the_same_more_slowly(
    start_method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nothing_left: None
) -> None:
    monkeypatch.setenv("PROCPOOL_PUBLIC_API", "1")
    with ProcessWasmPool(KERNELS, workers=1, start_method=start_method) as pool:
        assert pool.call("add", 2**31 - 1, 1) == -(2**31)
        assert pool.call("mixed", 1, 2, 3.5, 4.5) == 11
        assert pool.call("touch") is None and pool.call("touched") == 1
        assert list(pool.map("add", range(100), range(100))) == [2 * n for n in range(100)]
    with ProcessWasmPool(SHAPES, workers=1, start_method=start_method) as pool:
        assert pool.call("swap", 1, 2) == (2, 1)
        with pytest.raises(NotImplementedError, match="cannot pass v128"):
            pool.call("add_lanes", bytes(16), bytes(16))


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_each_worker_says_once_that_it_uses_the_public_api(
    start_method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, nothing_left: None
) -> None:
    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if "public API" in record.getMessage()]

    with ProcessWasmPool(KERNELS, workers=1, start_method=start_method) as pool:
        assert pool.call("add", 1, 2) == 3
    assert told() == []
    monkeypatch.setenv("PROCPOOL_PUBLIC_API", "1")
    with ProcessWasmPool(KERNELS, workers=2, start_method=start_method, balance="round_robin") as pool:
        pool.wait_ready(DEADLINE)
        assert [pool.call("add", n, 2) for n in range(10)] == list(range(2, 12))
        assert [pool.call("addd", n, 2) for n in range(10)] == list(range(2, 12))
        eventually(lambda: len(told()) == 2, "both workers to say so")
    assert all("PROCPOOL_PUBLIC_API is set" in message for message in told()) and len(told()) == 2
    assert {record.name for record in caplog.records if "public API" in record.getMessage()} == {"procpool"}
    assert {record.levelname for record in caplog.records if "public API" in record.getMessage()} == {"WARNING"}


def test_it_names_what_a_release_of_wasmtime_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, nothing_left: None
) -> None:
    """Python runs this file first of all, in the workers only: the parent has begun without it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import wasmtime\ndel wasmtime._ffi.wasmtime_linker_define, wasmtime._extern.wrap_extern\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with ProcessWasmPool(KERNELS, workers=1, start_method="spawn") as pool:
        assert pool.call("add", 1, 2) == 3
        eventually(lambda: "public API" in caplog.text, "the worker to say so")
    assert "lacks wasmtime._extern.wrap_extern, wasmtime._ffi.wasmtime_linker_define" in caplog.text
