"""Who sits in a worker and cannot be reached there keeps nobody else waiting: what has not begun runs elsewhere, once."""

from __future__ import annotations

import ctypes
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest
from bounded import pool_that_goes, within
from conftest import DEADLINE, FIXTURES, MISBEHAVE, eventually, worker_pids
from test_instances import with_note

from procpool import CallTimeout, ProcessWasmPool, WorkerCrashed

HOST = FIXTURES / "host.wat"


def note(instance: Any, path: str, n: int) -> int:
    """Leave a trace of having run, in one write, so that no two mix."""
    with open(path, "ab", buffering=0) as file:
        file.write(f"{n}\n".encode())
    return n


def hold(instance: Any, path: str) -> None:
    """Never come back, and never let go of the GIL: no other thread of the worker runs again."""
    Path(path).touch()
    ctypes.PyDLL(None).pause()


def traces(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def warm_up(pool: ProcessWasmPool) -> None:
    """Have the pool know its jobs to be short, so that it keeps many in each worker's pipe."""
    for _ in range(3):
        wait([pool.submit("fine", n) for n in range(300)], DEADLINE)


@pytest.fixture
def pool() -> Iterator[ProcessWasmPool]:
    with pool_that_goes(MISBEHAVE, workers=2, kill_grace=0.3) as pool:
        warm_up(pool)
        yield pool


@pytest.fixture
def patient() -> Iterator[ProcessWasmPool]:
    """One that does not kill a worker for being stopped."""
    with pool_that_goes(MISBEHAVE, workers=2, kill_grace=3 * DEADLINE) as pool:
        warm_up(pool)
        yield pool


@pytest.fixture
def stopped() -> Iterator[Any]:
    """Stops processes; they go on at the end at the latest."""
    pids: list[int] = []

    def stop(pid: int) -> None:
        pids.append(pid)
        os.kill(pid, signal.SIGSTOP)

    yield stop
    for pid in pids:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass


def results(futures: list[Future[Any]]) -> list[Any]:
    pending = wait(futures, DEADLINE).not_done
    assert not pending, f"{len(pending)} of {len(futures)} jobs wait for a worker that does not come back"
    return [future.result() for future in futures]


# -- behind one that holds the GIL -------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1, 20])
def test_jobs_behind_one_that_holds_the_gil_run_elsewhere(pool: ProcessWasmPool, before: int, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    early = [pool.submit(note, str(path), n) for n in range(before)]
    holder = pool.submit(hold, str(tmp_path / "held"))
    late = [pool.submit(note, str(path), n) for n in range(before, 200)]
    assert results(early + late) == list(range(200))
    eventually((tmp_path / "held").exists, "the holder to hold")
    assert not holder.done()
    assert traces(path) == Counter(range(200)), "each has run once"


def test_exports_behind_a_host_function_that_holds_the_gil_run_elsewhere(tmp_path: Path) -> None:
    path = str(tmp_path)

    def noted(n: int) -> None:
        if n < 0:
            Path(path, "held").touch()
            ctypes.PyDLL(None).pause()
        with open(Path(path, "ran"), "ab", buffering=0) as file:
            file.write(f"{n}\n".encode())

    with pool_that_goes(HOST, workers=2, imports=with_note(noted), kill_grace=0.3) as pool:
        for _ in range(3):
            wait([pool.submit("double", n) for n in range(300)], DEADLINE)
        early = [pool.submit("note", n) for n in range(20)]
        holder = pool.submit("note", -1)
        late = [pool.submit("note", n) for n in range(20, 200)]
        results(early + late)
        eventually(Path(path, "held").exists, "the holder to hold")
        assert not holder.done()
        assert traces(Path(path, "ran")) == Counter(range(200)), "each has run once, for it may have effects"


def test_its_death_does_not_run_again_what_ran_elsewhere(pool: ProcessWasmPool, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    pids = set(worker_pids(pool))
    early = [pool.submit(note, str(path), n) for n in range(20)]
    holder = pool.submit(hold, str(tmp_path / "held"))
    late = [pool.submit(note, str(path), n) for n in range(20, 200)]
    assert results(early + late) == list(range(200))
    eventually((tmp_path / "held").exists, "the holder to hold")
    assert holder.cancel()
    eventually(lambda: len(set(worker_pids(pool)) & pids) == 1 and pool.stats().idle == 2, "a worker in its place")
    assert traces(path) == Counter(range(200))
    assert pool.stats().killed == 1


def test_items_of_a_map_behind_one_that_holds_the_gil(pool: ProcessWasmPool, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    holder = pool.submit(hold, str(tmp_path / "held"))
    eventually((tmp_path / "held").exists, "the holder to hold")
    assert list(pool.map("fine", range(4_000), timeout=DEADLINE)) == list(range(4_000))
    ran = list(pool.map(note, [str(path)] * 200, range(200), timeout=DEADLINE))
    assert ran == list(range(200)) and traces(path) == Counter(range(200))
    assert [pool.call("fine", n, timeout=DEADLINE) for n in range(10)] == list(range(10))
    assert not holder.done()


def test_large_arguments_behind_one_that_holds_the_gil(pool: ProcessWasmPool, tmp_path: Path) -> None:
    """They lie in the worker's shared memory, and must come out of there again."""
    data = os.urandom(1 << 20)

    def size(instance: Any, given: bytes) -> int:
        return len(given)

    early = [pool.submit(size, data) for _ in range(3)]
    holder = pool.submit(hold, str(tmp_path / "held"))
    late = [pool.submit(size, data[:n]) for n in range(1 << 19, (1 << 19) + 20)]
    assert results(early + late) == [1 << 20] * 3 + list(range(1 << 19, (1 << 19) + 20))
    assert not holder.done()


def test_a_key_waits_only_for_its_own_jobs(pool: ProcessWasmPool, tmp_path: Path) -> None:
    """Jobs of the holder's key stay behind it; those of other keys are free to go elsewhere only if they have not begun
    there, so they may wait for their home, and jobs without a key never do."""
    path = tmp_path / "ran"
    holder = pool.submit(hold, str(tmp_path / "held"), key="a")
    same = [pool.submit(note, str(path), n, key="a") for n in range(5)]
    free = [pool.submit(note, str(path), n) for n in range(5, 100)]
    assert results(free) == list(range(5, 100))
    assert not holder.done() and not any(future.done() for future in same)
    eventually((tmp_path / "held").exists, "the holder to hold")
    # When its worker is gone, they find another home, in their order.
    for pid in worker_pids(pool):
        if pid_of_busy(pool) == pid:
            os.kill(pid, signal.SIGKILL)
    assert isinstance(within(holder.exception), WorkerCrashed)
    assert results(same) == list(range(5))
    assert traces(path) == Counter(range(100))


def pid_of_busy(pool: ProcessWasmPool) -> int | None:
    busy = [worker.pid for worker in pool.stats().workers if worker.state == "busy"]
    return busy[0] if len(busy) == 1 else None


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_what_waits_behind_it_can_be_given_up(pool: ProcessWasmPool, how: str, tmp_path: Path) -> None:
    """With the only other worker busy, so that it has nowhere to go."""
    path = tmp_path / "ran"
    spinning = pool.submit("spin")
    holder = pool.submit(hold, str(tmp_path / "held"))
    eventually((tmp_path / "held").exists, "the holder to hold")
    waiting = [pool.submit(note, str(path), n, timeout=0.2 if how == "timeout" else None) for n in range(50)]
    if how == "cancel":
        assert all(future.cancel() for future in waiting)
    else:
        assert all(isinstance(within(f.exception), CallTimeout) for f in waiting)
    assert spinning.cancel()
    assert pool.submit(note, str(path), 99).result(DEADLINE) == 99
    assert traces(path) == Counter([99]) and not holder.done()


def test_two_instances_of_a_worker_are_hostages_of_one_gil(tmp_path: Path) -> None:
    """They share a process and so its GIL; jobs given to the neighbour have not begun, and run in another process."""
    path = tmp_path / "ran"
    with pool_that_goes(MISBEHAVE, workers=2, instances=2, prewarm=2, kill_grace=0.3) as pool:
        warm_up(pool)
        holder = pool.submit(hold, str(tmp_path / "held"))
        eventually((tmp_path / "held").exists, "the holder to hold")
        assert results([pool.submit(note, str(path), n) for n in range(200)]) == list(range(200))
        assert traces(path) == Counter(range(200)) and not holder.done()


# -- given to one that is stopped --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 200])
def test_jobs_sent_to_a_stopped_worker_run_elsewhere(
    patient: ProcessWasmPool, count: int, stopped: Any, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    eventually(lambda: patient.stats().idle == 2, "both workers")
    pids = worker_pids(patient)
    stopped(pids[0])
    futures = [patient.submit(note, str(path), n) for n in range(count)]
    assert results(futures) == list(range(count))
    os.kill(pids[0], signal.SIGCONT)
    # It goes on, and must not run what it was sent then.
    assert results([patient.submit(note, str(path), n) for n in range(count, count + 200)]) == list(
        range(count, count + 200)
    )
    eventually(lambda: patient.stats().idle == 2, "both workers")
    patient.drain(DEADLINE)
    assert traces(path) == Counter(range(count + 200)), "each has run once"
    assert worker_pids(patient) == pids and patient.stats().killed == 0


def test_a_worker_stopped_in_the_midst_of_many_jobs(patient: ProcessWasmPool, stopped: Any, tmp_path: Path) -> None:
    """All but the one that it had begun run elsewhere; that one ends when the worker goes on."""
    path = tmp_path / "ran"
    pid = worker_pids(patient)[0]
    for start in range(0, 2000, 500):
        futures = [patient.submit(note, str(path), n) for n in range(start, start + 500)]
        eventually(lambda futures=futures: sum(f.done() for f in futures) > 50, "some to be done")  # type: ignore[misc]
        stopped(pid)
        eventually(lambda futures=futures: sum(not f.done() for f in futures) <= 1, "all but one")  # type: ignore[misc]
        os.kill(pid, signal.SIGCONT)
        assert results(futures) == list(range(start, start + 500))
    assert traces(path) == Counter(range(2000)), "each has run once"
    assert patient.stats().killed == 0


def test_a_map_passes_a_stopped_worker_by(patient: ProcessWasmPool, stopped: Any, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    eventually(lambda: patient.stats().idle == 2, "both workers")
    pids = worker_pids(patient)
    stopped(pids[0])
    assert list(patient.map("fine", range(4_000), timeout=DEADLINE)) == list(range(4_000))
    assert list(patient.map(note, [str(path)] * 200, range(200), timeout=DEADLINE)) == list(range(200))
    os.kill(pids[0], signal.SIGCONT)
    assert list(patient.map("fine", range(4_000), timeout=DEADLINE)) == list(range(4_000))
    patient.drain(DEADLINE)
    assert traces(path) == Counter(range(200)) and worker_pids(patient) == pids


def test_a_pool_with_a_stopped_worker_shuts_down(stopped: Any, nothing_left: None) -> None:
    with pool_that_goes(MISBEHAVE, workers=2) as pool:
        stopped(worker_pids(pool)[0])
        assert results([pool.submit("fine", n) for n in range(50)]) == list(range(50))
        within(pool.shutdown)


def test_a_pool_with_a_stopped_worker_shrinks_and_restarts(stopped: Any, nothing_left: None) -> None:
    with pool_that_goes(MISBEHAVE, workers=2) as pool:
        pids = worker_pids(pool)
        stopped(pids[0])
        pool.restart(DEADLINE)
        assert not set(pids) & set(worker_pids(pool))
        assert [pool.call("fine", n, timeout=DEADLINE) for n in range(10)] == list(range(10))


def test_drain_does_not_wait_for_a_stopped_worker_with_nothing_to_do(patient: ProcessWasmPool, stopped: Any) -> None:
    eventually(lambda: patient.stats().idle == 2, "both workers")
    stopped(worker_pids(patient)[0])
    results([patient.submit("fine", n) for n in range(200)])
    patient.drain(DEADLINE)


def test_a_worker_that_stays_stopped_with_nothing_to_do_is_replaced(pool: ProcessWasmPool, stopped: Any) -> None:
    """It might never go on; and it costs nobody a job."""
    eventually(lambda: pool.stats().idle == 2, "both workers")
    pid = worker_pids(pool)[0]
    stopped(pid)
    results([pool.submit("fine", n, priority=1) for n in range(200)])  # queued: both are sent some, whoever is awake
    eventually(lambda: pid not in worker_pids(pool) and pool.stats().idle == 2, "a worker in its place")
    assert (pool.stats().killed, pool.stats().failed) == (1, 0)
