"""Who goes first, and where: priorities, keys, balance, and the number of workers."""

from __future__ import annotations

import collections
import itertools
import logging
import os
import random
import resource
import signal
import threading
import time
from typing import Any

import pytest
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, busy_pid, eventually, worker_pids
from test_instances import IMPORTS

import procpool
from procpool import BadArguments, PoolEvent, ProcessWasmPool, WasmTrap, WorkerCrashed, wire
from procpool.raw import RAW
from procpool.supervisor.dispatcher import Dispatcher
from procpool.supervisor.population import Population
from procpool.supervisor.spinning import Spinning

HOST = FIXTURES / "host.wat"


def record(instance: Any, n: Any) -> int:
    """Remembers what it was called with, and says which worker it is."""
    seen: list[Any] = procpool.state.__dict__.setdefault("seen", [])
    seen.append(n)
    return os.getpid()


def seen(instance: Any) -> list[Any]:
    return list(procpool.state.__dict__.get("seen", []))


# -- priority ----------------------------------------------------------------------------------------------------------


def test_higher_priorities_go_first_and_equals_in_order(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        blocker = pool.submit("spin", timeout=DEADLINE)
        busy_pid(pool)
        rng = random.Random(1)
        jobs = [(n, rng.choice([-5, 0, 0, 0, 3, 7])) for n in range(200)]
        futures = [pool.submit(record, n, priority=priority) for n, priority in jobs]
        blocker.cancel()
        for future in futures:
            future.result(DEADLINE)
        expected = [n for n, _ in sorted(jobs, key=lambda job: -job[1])]
        assert pool.submit(seen).result(DEADLINE) == expected


# -- keys --------------------------------------------------------------------------------------------------------------


def test_jobs_of_one_key_run_in_order_on_one_worker(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=3) as pool:
        pool.wait_ready(DEADLINE)
        keys = [f"key {n}" for n in range(10)]
        rng = random.Random(2)
        jobs = [(rng.choice(keys), n) for n in range(2000)]
        futures = [(key, pool.submit(record, (key, n), key=key)) for key, n in jobs]
        others = [pool.submit("add", n, 1) for n in range(500)]
        homes = collections.defaultdict(set)
        for key, future in futures:
            homes[key].add(future.result(DEADLINE))
        assert [future.result(DEADLINE) for future in others] == list(range(1, 501))
        assert all(len(pids) == 1 for pids in homes.values())
        assert len(set.union(*homes.values())) == 3, "keys are spread over the workers"
        for pid in worker_pids(pool):
            order = [entry for entry in _seen_by(pool, pid) if isinstance(entry, tuple)]
            for key in keys:
                mine = [n for k, n in order if k == key]
                assert mine == sorted(mine)


def _seen_by(pool: ProcessWasmPool, pid: int) -> list[Any]:
    """What one worker remembers."""
    for attempt in itertools.count():
        found = pool.submit(lambda instance: (os.getpid(), list(procpool.state.__dict__.get("seen", []))), key=attempt)
        where, remembered = found.result(DEADLINE)
        if where == pid:
            return remembered  # type: ignore[no-any-return]
    raise AssertionError


def test_state_of_a_key_stays_in_its_instance(nothing_left: None) -> None:
    with ProcessWasmPool(HOST, workers=2, imports=IMPORTS) as pool:
        pool.wait_ready(DEADLINE)
        ticks = [pool.submit("tick", key="only") for _ in range(300)]
        assert [future.result(DEADLINE) for future in ticks] == list(range(1, 301))


def test_a_long_job_of_one_key_holds_up_no_other(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        assert pool.submit("fine", 1, key="a").result(DEADLINE) == 1
        assert pool.submit("fine", 1, key="b").result(DEADLINE) == 1
        spinning = pool.submit("spin", key="a", timeout=2 * DEADLINE)
        behind = [pool.submit("fine", n, key="a") for n in range(5)]
        busy_pid(pool)
        assert [pool.submit("fine", n, key="b").result(DEADLINE) for n in range(50)] == list(range(50))
        assert [pool.submit("fine", n).result(DEADLINE) for n in range(50)] == list(range(50))
        assert pool.call("fine", 5) == 5
        assert not any(future.done() for future in behind)
        spinning.cancel()
        assert [future.result(DEADLINE) for future in behind] == list(range(5))


def test_what_waits_behind_a_long_job_is_taken_back_from_a_worker_that_was_not_run(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)
        (pid,) = worker_pids(pool)
        for _ in range(10):
            for future in [pool.submit(_fine, n) for n in range(100)]:  # jobs are short, so several are sent at once
                future.result(DEADLINE)
            os.kill(pid, signal.SIGSTOP)
            spinning = pool.submit(_spin, timeout=2 * DEADLINE)
            behind = [pool.submit("fine", n) for n in range(5)]
            eventually(lambda: pool.stats().pending == 6, "all to be taken back without the worker's help")
            os.kill(pid, signal.SIGCONT)
            eventually(lambda: pool.stats().pending == 5, "all behind it to wait here")
            spinning.cancel()
            assert [future.result(DEADLINE) for future in behind] == list(range(5))


def _fine(instance: Any, n: int) -> Any:
    return instance.call("fine", n)


def _spin(instance: Any) -> None:
    instance.call("spin")


@pytest.mark.skipif(not RAW, reason="there are no pages with wasmtime's public API")
@pytest.mark.parametrize("place", [0, 1])
def test_a_job_is_taken_back_from_a_worker_that_was_to_answer_it_in_its_page(
    nothing_left: None, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Whichever of two has it: if it does not run, the other takes the job, and both serve on."""
    monkeypatch.setattr(
        Spinning, "toll_ns", property(lambda self: 100e6)
    )  # so that a loaded machine has time for both sides
    monkeypatch.setattr(Spinning, "begin", lambda *args, **how: True)  # also when calls come far apart
    with ProcessWasmPool(MISBEHAVE, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        pids = worker_pids(pool)
        assert [pool.submit("fine", n).result(DEADLINE) for n in range(300)] == list(range(300))
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            job = pool.submit("fine", 7)
            os.kill(pids[place], signal.SIGCONT)
            assert job.result(DEADLINE) == 7
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        eventually(lambda: pool.stats().idle == 2, "both to be idle")
        for _ in range(20):
            futures = [pool.submit("fine", n) for n in range(2)]
            assert [future.result(DEADLINE) for future in futures] == [0, 1]
            assert pool.call("fine", 3) == 3
        assert worker_pids(pool) == pids


def test_a_job_that_is_taken_back_does_not_lengthen_anothers_timeout(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)
        # By the queue, as all that has a priority: what goes by the page says nothing about how long queued jobs take, and
        # nothing is sent behind one that the worker has taken from there.
        for future in [pool.submit("fine", n, priority=1) for n in range(500)]:
            future.result(DEADLINE)
        eventually(lambda: pool.stats().idle == 1, "the last answer to be written down, from when the next job counts")
        spinning = pool.submit("spin", timeout=DEADLINE, priority=1)
        (process,) = pool._dispatcher.population.present.values()
        (lane,) = pool._dispatcher.population.lanes(process)
        since = lane.since
        behind = pool.submit("fine", 1)
        eventually(lambda: lane.fenced and pool.stats().pending == 1, "it to be taken back")
        assert lane.since == since, "the time that its job has run does not begin anew"
        spinning.cancel()
        assert behind.result(DEADLINE) == 1


def test_a_key_moves_when_its_worker_dies(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        home = pool.submit(record, 0, key="a").result(DEADLINE)
        spinning = pool.submit("spin", key="a")
        behind = [pool.submit(record, n, key="a") for n in range(1, 20)]
        assert busy_pid(pool) == home
        os.kill(home, signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            spinning.result(DEADLINE)
        (new_home,) = {future.result(DEADLINE) for future in behind}
        assert new_home != home
        assert pool.submit(seen, key="a").result(DEADLINE) == list(range(1, 20)), "in order, none lost"


def test_keys_survive_restart_and_resize_in_order(nothing_left: None) -> None:
    def begun(instance: Any, n: int) -> tuple[int, int]:
        """The job's number, and when it ran: CLOCK_MONOTONIC, which all processes share. (A callback would not do: one
        that is added to a future that has ended runs at once, before those of jobs that ended earlier.)"""
        return n, time.monotonic_ns()

    with ProcessWasmPool(KERNELS, workers=3) as pool:
        pool.wait_ready(DEADLINE)
        futures = []
        for n in range(600):
            futures.append(pool.submit(begun, n, key=n % 4))
            if n == 200:
                pool.resize(1)
            elif n == 400:
                pool.resize(4)
        pool.restart(DEADLINE)
        results = [future.result(DEADLINE) for future in futures]
    assert [n for n, _ in results] == list(range(600))
    for key in range(4):
        times = [when for n, when in results if n % 4 == key]
        assert times == sorted(times)


def test_a_key_must_be_hashable(kernels: ProcessWasmPool) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        kernels.submit("add", 1, 2, key=[])


# -- balance -----------------------------------------------------------------------------------------------------------


def test_round_robin_takes_workers_in_turn_and_the_default_the_warm_one(nothing_left: None) -> None:
    for balance, expected in (("round_robin", 4), ("least_busy", 1)):
        with ProcessWasmPool(KERNELS, workers=4, balance=balance) as pool:
            pool.wait_ready(DEADLINE)
            for _ in range(40):
                pool.call("add", 1, 2)
            used = [worker.calls for worker in pool.stats().workers if worker.calls]
            assert len(used) == expected
            if expected == 4:
                assert used == [10] * 4


# -- how many ----------------------------------------------------------------------------------------------------------


def test_workers_come_with_the_work_and_go_without(nothing_left: None) -> None:
    events: list[str] = []
    with ProcessWasmPool(
        MISBEHAVE, workers=4, min_workers=1, idle_expiry=0.2, on_event=lambda event: events.append(event.kind)
    ) as pool:
        assert len(pool.stats().workers) == 1
        spinning = [pool.submit("spin") for _ in range(3)]
        eventually(lambda: all(future.running() for future in spinning), "a worker for each")
        assert 3 <= len(pool.stats().workers) <= 4
        for future in spinning:
            future.cancel()
        eventually(lambda: len(pool.stats().workers) == 1, "the extra workers to go")
        assert pool.call("fine", 7) == 7
        assert "retired" in events and pool.stats().crashed == pool.stats().killed == 0


def test_blocked_callers_are_a_reason_for_more_workers(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=2, min_workers=1, idle_expiry=30) as pool:
        spinning = pool.submit("spin")
        busy_pid(pool)
        assert pool.call("fine", 7, timeout=DEADLINE) == 7
        spinning.cancel()


# -- what happened -----------------------------------------------------------------------------------------------------


def test_events_counters_and_logs(nothing_left: None, caplog: pytest.LogCaptureFixture) -> None:
    events: list[PoolEvent] = []
    caplog.set_level(logging.DEBUG, logger="procpool")
    with ProcessWasmPool(MISBEHAVE, workers=2, on_event=events.append, kill_grace=0.1) as pool:
        pool.wait_ready(DEADLINE)
        with pytest.raises(procpool.CallTimeout):
            pool.call("spin", timeout=0.05)
        with pytest.raises(procpool.CallTimeout):
            pool.submit("spin", timeout=0.05).result(DEADLINE)
        list(pool.starmap("spin", [(), ()], item_timeout=0.05, return_exceptions=True))
        with pytest.raises(procpool.CallTimeout):
            pool.submit(lambda instance: threading.Event().wait(), timeout=0.05).result(DEADLINE)
        eventually(lambda: pool.stats().killed == 1, "the stuck worker to be killed")
        spinning = pool.submit("spin")
        victim = busy_pid(pool)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            spinning.result(DEADLINE)
        with pytest.raises(WasmTrap):
            pool.call("divide", 1, 0)
        with pytest.raises(BadArguments):
            pool.call("divide", 1)
        pool.wait_ready(DEADLINE)
        pool.restart(DEADLINE)
        pool.resize(1)
        eventually(lambda: len(pool.stats().workers) == 1, "one worker to be left")
        assert pool.call("fine", 1) == 1
        stats = pool.stats()
    kinds = collections.Counter(event.kind for event in events)
    assert kinds["timeout"] == stats.timeouts == 5
    assert kinds["crashed"] == stats.crashed == 1
    assert kinds["killed"] == stats.killed == 1
    assert kinds["recycled"] == stats.recycled == 2
    assert kinds["retired"] == stats.retired == 1
    assert kinds["started"] == stats.started == kinds["ready"] == 6
    assert kinds["resized"] == 1
    assert stats.failed == 7 and stats.calls == 8
    assert [event.pid for event in events if event.kind == "crashed"] == [victim]
    logged = [record.getMessage() for record in caplog.records if record.name == "procpool"]
    assert logged == [f"procpool: {event.message}" for event in events]


def test_a_hook_that_raises_harms_nothing(nothing_left: None, caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: PoolEvent) -> None:
        raise RuntimeError("not interested")

    with ProcessWasmPool(KERNELS, workers=2, on_event=hook) as pool:
        assert pool.call("add", 1, 2) == 3
    assert "on_event raised" in caplog.text


# -- limits of the process ---------------------------------------------------------------------------------------------


def test_rlimits(nothing_left: None) -> None:
    def limits(instance: Any) -> tuple[int, int]:
        return resource.getrlimit(resource.RLIMIT_CORE)[0], resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    with ProcessWasmPool(KERNELS, workers=1) as pool:
        assert pool.submit(limits).result(DEADLINE)[0] == 0, "no core dumps unless asked for"
    with ProcessWasmPool(KERNELS, workers=1, rlimits={"NOFILE": 50, "AS": 2**36}) as pool:
        assert pool.submit(limits).result(DEADLINE) == (0, 50)
        with pytest.raises(MemoryError):
            pool.submit(lambda instance: bytearray(2**36)).result(DEADLINE)
        assert pool.call("add", 1, 2) == 3
    with ProcessWasmPool(MISBEHAVE, workers=1, rlimits={"CPU": 1}) as pool:
        with pytest.raises(WorkerCrashed) as caught:
            pool.call("spin", timeout=DEADLINE)
        assert caught.value.signal in (signal.SIGXCPU, signal.SIGKILL)
        assert pool.call("fine", 1) == 1


def test_max_stack(nothing_left: None) -> None:
    wat = """(module (func $down (export "down") (param i32) (result i32)
      (if (result i32) (local.get 0)
        (then (i32.add (i32.const 1) (call $down (i32.sub (local.get 0) (i32.const 1))))) (else (i32.const 0)))))"""

    def deepest(**options: Any) -> int:
        with ProcessWasmPool(wat, workers=1, **options) as pool:
            depth = 1000
            try:
                while depth < 2**22:
                    assert pool.call("down", depth) == depth
                    depth *= 2
            except WasmTrap as trap:
                assert trap.code == "STACK_OVERFLOW"
            assert pool.call("down", 10) == 10
            return depth

    shallow, ordinary, deep = deepest(max_stack=65536), deepest(), deepest(max_stack=32 << 20)
    assert shallow < ordinary < deep
    assert deepest(max_stack=32 << 20, instances=2) == deep, "threads have the stack for it too"


def test_memory_limit_bounds_tables_too(nothing_left: None) -> None:
    wat = """(module (table 1 funcref) (func (export "grow") (param i32) (result i32)
      (table.grow (ref.null func) (local.get 0))))"""
    with ProcessWasmPool(wat, workers=1, memory_limit=8000) as pool:
        assert pool.call("grow", 500) == 1
        assert pool.call("grow", 1000) == -1


def test_a_worker_has_started_before_it_is_ready_whoever_tells_first(
    nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is ready comes from the worker itself, its pid from who forked it, and either may be heard first."""
    said = threading.Event()
    read, take = Population._read_launcher, Dispatcher._take_news

    def news(self: Dispatcher, lane: Any, place: int, status: int, payload: bytes) -> None:
        take(self, lane, place, status, payload)
        if status == wire.READY:
            said.set()

    monkeypatch.setattr(Population, "_read_launcher", lambda self: read(self) if said.is_set() else None)
    monkeypatch.setattr(Dispatcher, "_take_news", news)
    kinds: list[str] = []
    with ProcessWasmPool(KERNELS, workers=1, on_event=lambda event: kinds.append(event.kind)) as pool:
        pool.wait_ready(DEADLINE)
        assert said.is_set()
        assert pool.stats().started == 1
        pool.call("add", 1, 2)
    assert [kind for kind in kinds if kind in ("started", "ready")] == ["started", "ready"]
