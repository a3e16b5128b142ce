"""Calls by the page, seen from outside: they end as calls by the pipe do, whatever is missing or goes wrong meanwhile."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest
from bounded import in_a_program
from conftest import DEADLINE, KERNELS, MISBEHAVE, eventually, worker_pids

from procpool import BadArguments, PoolClosed, ProcessWasmPool, WasmTrap, WorkerCrashed, cores
from procpool.raw import RAW
from procpool.supervisor.spinning import Spinning
from procpool.worker.attendant import Attendant
from procpool.worker.holder import InstanceHolder

pytestmark = pytest.mark.skipif(not RAW, reason="there are no pages with wasmtime's public API")
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import what tests need


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides wait awake for long, and each call by the pipe is a try."""
    monkeypatch.setattr(Spinning, "toll_ns", property(lambda self: 100e6))
    monkeypatch.setattr(Spinning, "begin", lambda self, *how, **more: True)


@pytest.fixture
def pool(nothing_left: None) -> Iterator[ProcessWasmPool]:
    with ProcessWasmPool(MISBEHAVE, workers=1, kill_grace=1.0) as made:
        made.wait_ready(DEADLINE)
        yield made
        made.terminate()  # what a failed test left running would never end


def fine(pool: ProcessWasmPool, calls: int = 100) -> None:
    assert [pool.call("fine", n) for n in range(calls)] == list(range(calls))


def test_more_results_than_the_page_has_room_for(nothing_left: None) -> None:
    results = 300
    many = " ".join(["i32"] * results)
    wide = f"""(module
      (func (export "fine") (param i32) (result i32) (local.get 0))
      (func (export "many") (result {many}) {" ".join(f"(i32.const {n})" for n in range(results))}))"""
    with ProcessWasmPool(wide, workers=1) as pool:
        for _ in range(50):
            fine(pool, 2)
            assert pool.call("many") == tuple(range(results))
            assert pool.submit("many").result(DEADLINE) == tuple(range(results))


def test_a_backtrace_has_no_frame_of_ours(pool: ProcessWasmPool) -> None:
    for _ in range(40):
        fine(pool, 2)
        with pytest.raises(WasmTrap) as raised:
            pool.call("trap")
        assert len(raised.value.frames) == 1


def test_workers_take_turns_where_they_are_to(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=2, balance="round_robin") as pool:
        pool.wait_ready(DEADLINE)
        for n in range(200):
            assert pool.submit("fine", n).result(DEADLINE) == n
            eventually(lambda: pool.stats().idle == 2, "the worker to be idle")
        assert [worker.calls for worker in pool.stats().workers] == [100, 100]


def test_bad_arguments_keep_nobody_from_draining(pool: ProcessWasmPool) -> None:
    over = threading.Event()

    def wrong() -> None:
        while not over.is_set():
            with pytest.raises(BadArguments):
                pool.call("fine", "x")

    calling = threading.Thread(target=wrong)
    calling.start()
    try:
        for _ in range(20):
            pool.drain(DEADLINE)
    finally:
        over.set()
        calling.join(DEADLINE)


def test_a_job_that_has_not_begun_is_not_blamed(nothing_left: None) -> None:
    """Calls with fuel count among the jobs that both sides number, and go by the page."""
    with ProcessWasmPool(MISBEHAVE, workers=1, fuel=10**9) as pool:
        pool.wait_ready(DEADLINE)
        fine(pool)
        [pid] = worker_pids(pool)
        os.kill(pid, signal.SIGSTOP)
        job = threading.Thread(target=lambda: results.append(pool.submit("fine", 42).result(DEADLINE)))
        results: list[Any] = []
        job.start()
        eventually(lambda: pool.stats().busy == 1, "the job to be sent")
        os.kill(pid, signal.SIGKILL)
        job.join(DEADLINE)
        assert results == [42]


def test_where_wasm_cannot_wait_calls_go_on_by_the_pipe(pool: ProcessWasmPool) -> None:
    def no_room(instance: Any) -> None:
        def fails(self: Any) -> Any:
            raise MemoryError

        InstanceHolder.waiter = fails  # type: ignore[method-assign]

    pool.submit(no_room).result(DEADLINE)
    fine(pool, 300)


def test_where_wasm_cannot_call_python_does(pool: ProcessWasmPool) -> None:
    def no_room(instance: Any) -> None:
        def fails(self: Any, *args: Any) -> Any:
            raise MemoryError

        InstanceHolder.server = fails  # type: ignore[method-assign]

    pool.submit(no_room).result(DEADLINE)
    before = worker_pids(pool)
    fine(pool, 300)
    with pytest.raises(WasmTrap):
        pool.call("trap")
    fine(pool, 300)
    assert worker_pids(pool) == before


def test_a_system_that_does_not_tell_what_runs(pool: ProcessWasmPool) -> None:
    def hide(instance: Any) -> None:
        def running() -> int:
            raise FileNotFoundError("/proc/loadavg")

        cores.running = running

    pool.submit(hide).result(DEADLINE)
    before = worker_pids(pool)
    for _ in range(20):
        fine(pool, 2)
        with pytest.raises(Exception, match="spin"):
            pool.call("spin", timeout=0.15)  # longer than its caller waits awake: the worker answers by the pipe
    assert worker_pids(pool) == before


def test_nonsense_in_the_page_ends_the_worker(pool: ProcessWasmPool) -> None:
    def spoil(instance: Any) -> None:
        put = Attendant.put
        Attendant.put = lambda self, answer: put(self, answer[:4] + bytes([200]) + answer[5:])  # type: ignore[method-assign]

    [spoilt] = worker_pids(pool)
    pool.submit(spoil).result(DEADLINE)
    with pytest.raises((ValueError, WorkerCrashed)):
        for n in range(100):
            pool.call("fine", n)
    eventually(lambda: worker_pids(pool) not in ([], [spoilt]), "another worker")
    fine(pool)


def forked_below_python() -> None:
    import ctypes

    with ProcessWasmPool(KERNELS, workers=1) as pool:
        for n in range(100):
            assert pool.submit("add", n, 1).result(DEADLINE) == n + 1
        child = ctypes.PyDLL(None).fork()
        if not child:
            try:
                pool.submit("add", 1, 1)
            except PoolClosed:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0, "the parent's worker is not the child's"


def test_a_fork_that_python_does_not_see() -> None:
    in_a_program(forked_below_python)


def test_the_time_of_a_job_that_is_run_again_is_kept(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, retries=1) as pool:
        pool.wait_ready(DEADLINE)
        fine(pool)
        job = pool.submit("spin", timeout=2.0)
        eventually(lambda: pool.stats().busy == 1, "the job to run")
        [pid] = worker_pids(pool)
        pool.resize(1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Exception, match=r"within 2 s"):
            job.result(DEADLINE)
        fine(pool)


def test_addresses_are_not_used_up_by_exports(nothing_left: None) -> None:
    """Each server shares one mapping of the page with the others of its instance."""
    functions = "\n".join(f'(func (export "f{n}") (param i32) (result i32) (local.get 0))' for n in range(20))

    def addresses(instance: Any) -> int:
        return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

    with ProcessWasmPool(f"(module {functions})", workers=1) as pool:
        for n in range(20):
            assert [pool.call(f"f{n}", k) for k in range(40)] == list(range(40))
        assert pool.submit(addresses).result(DEADLINE) < 40 * 2**30
