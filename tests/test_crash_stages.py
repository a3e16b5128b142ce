"""Workers that die at every stage of their lives, for every way to give them work."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import pytest
from bounded import apart, together, within
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, eventually, worker_pids
from hostile import ACTS, FATAL, Gate, act, after, commit, same

from procpool import (
    LeaseEnded,
    PoolClosed,
    ProcessWasmPool,
    ProcpoolError,
    StartupError,
    WasiConfig,
    WorkerCrashed,
)

COMMAND = FIXTURES / "command.wasm"
SHA256 = FIXTURES / "sha256.wasm"
WORKERS = 2
#: More than a pipe holds: in the pickle itself, and so large that it goes through shared memory.
INLINE = [*range(100_000)]
BLOB = bytes(range(256)) * 2000


@pytest.fixture
def rng() -> random.Random:
    """Its seed is shown when the test fails; PROCPOOL_SEED repeats it."""
    seed = int(os.environ.get("PROCPOOL_SEED", random.randrange(2**32)))
    print("PROCPOOL_SEED =", seed)
    return random.Random(seed)


@contextlib.contextmanager
def pool_of(source: Path, **options: Any) -> Iterator[ProcessWasmPool]:
    """A pool that ends with the block, or fails the test."""
    pool = ProcessWasmPool(source, WORKERS, kill_grace=0.2, **options)
    try:
        pool.wait_ready(DEADLINE)
        yield pool
    finally:
        within(pool.terminate)


def all_there(pool: ProcessWasmPool) -> None:
    """As many workers as there should be, with nothing left to do."""
    eventually(lambda: pool.stats().idle == WORKERS, "all workers to be idle")
    stats = pool.stats()
    assert stats.busy == stats.pending == stats.leased == 0
    assert stats.started - stats.start_failures - stats.crashed - stats.killed - stats.recycled == WORKERS


def kill(pid: int, kind: signal.Signals = signal.SIGKILL) -> bool:
    """Whether it was still there."""
    try:
        os.kill(pid, kind)
    except ProcessLookupError:
        return False
    return True


# -- the ways to give work: each checks its results, and returns how many of its jobs were lost by a death ------------------


def _lost(futures: list[tuple[Future[Any], Any]]) -> int:
    """Jobs and what they have to yield."""
    assert wait([future for future, _ in futures], DEADLINE).not_done == set(), "every job ends"
    lost = 0
    for future, expected in futures:
        error = future.exception()
        if error is None:
            assert future.result() == expected
        else:
            assert isinstance(error, WorkerCrashed), error
            lost += 1
    return lost


def _by_call(pool: ProcessWasmPool, n: int) -> int:
    assert pool.call("add", n, 1) == n + 1
    return 0


def _by_submit(pool: ProcessWasmPool, n: int) -> int:
    return _lost([(pool.submit("add", n, k), n + k) for k in range(100)])


def _by_function(pool: ProcessWasmPool, n: int) -> int:
    """Arguments and results of all sizes."""
    values: list[Any] = [n, INLINE, BLOB, (n, BLOB), n]
    return _lost([(pool.submit(same, value), value) for value in values])


def _by_map(pool: ProcessWasmPool, n: int) -> int:
    outcomes = within(lambda: list(pool.map("add", range(3000), itertools.repeat(n), return_exceptions=True)))
    assert len(outcomes) == 3000
    assert all(end == k + n or isinstance(end, WorkerCrashed) for k, end in enumerate(outcomes))
    return sum(isinstance(end, WorkerCrashed) for end in outcomes)


def _by_map_of_functions(pool: ProcessWasmPool, n: int) -> int:
    values = [INLINE[:2000], BLOB, n] * 10
    outcomes = within(lambda: list(pool.map(same, values, return_exceptions=True)))
    assert len(outcomes) == 30
    assert all(end == value or isinstance(end, WorkerCrashed) for value, end in zip(values, outcomes))
    return sum(isinstance(end, WorkerCrashed) for end in outcomes)


def _by_lease(pool: ProcessWasmPool, n: int) -> int:
    with pool.instance(timeout=DEADLINE) as lease:
        for k in range(20):
            assert lease.call("add", n, k) == n + k
    return 0


def _by_memory(pool: ProcessWasmPool, n: int) -> int:
    with pool.instance(timeout=DEADLINE) as lease:
        address = lease.call("alloc", len(BLOB))
        lease.memory[address : address + len(BLOB)] = BLOB
        assert bytes(lease.memory[address : address + len(BLOB)]) == BLOB
    return 0


def _by_bytes(pool: ProcessWasmPool, n: int) -> int:
    data = BLOB + str(n).encode()
    assert pool.call_bytes("sha256", data, returns=32) == hashlib.sha256(data).digest()
    return _lost([(pool.submit_bytes("sha256", data, returns=32), hashlib.sha256(data).digest()) for _ in range(4)])


def _by_run(pool: ProcessWasmPool, n: int) -> int:
    text = b"some words " * 20_000
    assert pool.run(["upper", "upper"], stdin=text).stdout == text.upper()
    runs = within(lambda: list(pool.run_map([text] * 4, args=["upper", "upper"], return_exceptions=True)))
    assert all(isinstance(run, WorkerCrashed) or run.stdout == text.upper() for run in runs)
    return sum(isinstance(run, WorkerCrashed) for run in runs)


WAYS: list[tuple[Callable[[ProcessWasmPool, int], int], Path]] = [
    (_by_call, KERNELS),
    (_by_submit, KERNELS),
    (_by_function, KERNELS),
    (_by_map, KERNELS),
    (_by_map_of_functions, KERNELS),
    (_by_lease, KERNELS),
    (_by_memory, SHA256),
    (_by_bytes, SHA256),
    (_by_run, COMMAND),
]
EACH_WAY = pytest.mark.parametrize(("way", "source"), WAYS, ids=[way.__name__[4:] for way, _ in WAYS])


def _options(source: Path) -> dict[str, Any]:
    return {"wasi": WasiConfig()} if source == COMMAND else {}


def _go(way: Callable[[ProcessWasmPool, int], int], pool: ProcessWasmPool, n: int) -> int:
    """How many jobs were lost; what is raised counts as one."""
    try:
        return way(pool, n)
    except (WorkerCrashed, LeaseEnded):
        return 1


# -- idle, receiving, running, sending ---------------------------------------------------------------------------------


@EACH_WAY
def test_idle_workers_die(way: Callable[[ProcessWasmPool, int], int], source: Path, nothing_left: None) -> None:
    """Costs nobody a job, whether or not it is known yet when the next one comes."""
    with pool_of(source, **_options(source)) as pool:
        for n, kind in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGABRT)):
            within(way, pool, n)
            eventually(lambda: pool.stats().idle == WORKERS, "all workers to be idle")
            pids = worker_pids(pool)
            for pid in pids:
                kill(pid, kind)
            lost = _go(way, pool, n)
            # A lease is bound to the worker that it was given, which may have been dead by then.
            assert lost == 0 or way in (_by_lease, _by_memory)
            eventually(
                lambda pids=pids: pool.stats().idle == WORKERS and not set(pids) & set(worker_pids(pool)),  # type: ignore[misc]
                "replacements",
            )
        assert _go(way, pool, 0) == 0
        all_there(pool)


@EACH_WAY
def test_workers_die_at_any_moment(
    way: Callable[[ProcessWasmPool, int], int], source: Path, rng: random.Random, nothing_left: None
) -> None:
    """While they receive a job, read it, run it, write its result, or begin the next: one death costs one job at most."""
    with pool_of(source, **_options(source)) as pool:
        within(way, pool, 0)
        over = threading.Event()

        def killer() -> int:
            deaths = 0
            never = threading.Event()
            try:
                for _ in range(12):
                    never.wait(rng.uniform(0, 0.02))
                    pids = [worker.pid for worker in pool.stats().workers if worker.pid and worker.state == "busy"]
                    deaths += bool(pids) and kill(rng.choice(pids))
            finally:
                over.set()
            return deaths

        def worker() -> int:
            lost = 0
            for n in itertools.count():
                lost += _go(way, pool, n)
                if over.is_set():
                    return lost
            raise AssertionError

        deaths, lost = together(killer, worker)
        if isinstance(lost, BaseException):
            raise lost
        assert lost <= deaths
        eventually(lambda: pool.stats().idle == WORKERS, "replacements")
        assert _go(way, pool, 1) == 0
        all_there(pool)


@pytest.mark.parametrize("stage", ["receiving", "sending"])
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_workers_die_in_the_middle_of_a_message(
    stage: str, kind: signal.Signals, rng: random.Random, nothing_left: None
) -> None:
    """Frames of megabytes, and a death some milliseconds into them."""
    large = [*range(100_000)]
    with pool_of(KERNELS) as pool:
        assert pool.submit(same, 1).result(DEADLINE) == 1
        for n in range(8):
            pids = worker_pids(pool)
            if stage == "receiving":
                futures = [pool.submit(lambda instance, value: len(value), large) for _ in range(4)]
                expected: Any = len(large)
            else:
                futures = [pool.submit(lambda instance: list(range(100_000))) for _ in range(4)]
                expected = large
            others = [pool.submit("add", k, n) for k in range(20)]
            threading.Event().wait(rng.uniform(0, 0.006))
            deaths = sum(kill(pid, kind) for pid in pids)
            lost = _lost([(future, expected) for future in futures])
            lost += _lost([(future, k + n) for k, future in enumerate(others)])
            assert lost <= deaths
            eventually(lambda: pool.stats().idle == WORKERS, "replacements")
        all_there(pool)


@pytest.mark.parametrize("how", FATAL)
def test_workers_end_between_two_jobs(how: str, rng: random.Random, nothing_left: None) -> None:
    """By a thread of their own, that a job has left behind."""

    def leave_a_thread(instance: Any, delay: float) -> int:
        timer = threading.Timer(delay, ACTS[how])
        timer.daemon = True
        timer.start()
        return 1

    with pool_of(KERNELS) as pool:
        for _ in range(3):
            before = pool.stats().crashed
            bombs = [pool.submit(leave_a_thread, rng.uniform(0, 0.005)) for _ in range(WORKERS)]
            lost = _lost([(bomb, 1) for bomb in bombs])
            while pool.stats().crashed == before and lost == 0:
                lost += _lost([(pool.submit("add", n, 1), n + 1) for n in range(100)])
            lost += _lost([(pool.submit("add", n, 1), n + 1) for n in range(500)])
            assert lost <= len(bombs)
        eventually(lambda: pool.stats().idle == WORKERS, "replacements")
        assert [pool.submit("add", n, 1).result(DEADLINE) for n in range(50)] == list(range(1, 51))


def test_workers_kill_each_other(nothing_left: None) -> None:
    """All at once, and themselves: nobody is left, and everybody is replaced."""
    with pool_of(MISBEHAVE) as pool:

        def attack(instance: Any, pids: list[int]) -> None:
            for pid in pids:
                if pid != os.getpid():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

        for _ in range(5):
            pids = worker_pids(pool)
            attackers = [pool.submit(attack, pids) for _ in range(2 * WORKERS)]
            bystanders = [pool.submit("fine", n) for n in range(200)]
            _lost([(future, None) for future in attackers])
            assert all(isinstance(future.exception(), WorkerCrashed) for future in attackers)
            assert _lost([(future, n) for n, future in enumerate(bystanders)]) <= WORKERS
            eventually(lambda: pool.stats().idle == WORKERS, "replacements")


# -- before ready ------------------------------------------------------------------------------------------------------


def _unlucky(log: str, first: int, last: int, how: str) -> None:
    """An initializer that makes trouble in those starts, counting from 1."""
    with open(log, "ab") as file:
        file.write(b".")
        number = file.tell()
    if first <= number <= last:
        act(how)


@pytest.mark.parametrize("how", ["error", "SystemExit", *FATAL])
def test_replacements_die_before_they_are_ready(how: str, tmp_path: Path, nothing_left: None) -> None:
    """The jobs wait for one that gets ready."""
    log = str(tmp_path / "starts")
    # What the initializer raises, if nobody is left who could serve, closes the pool: see the next test.
    deaths = WORKERS if how in FATAL else 1
    with pool_of(KERNELS, initializer=_unlucky, initargs=(log, WORKERS + 1, WORKERS + deaths, how)) as pool:
        for pid in worker_pids(pool)[:deaths]:
            kill(pid)
        eventually(lambda: pool.stats().crashed == deaths, "the deaths to be noticed")
        ways = [way for way, source in WAYS if source == KERNELS]
        assert together(*(lambda way=way: way(pool, 1) for way in ways)) == [0] * len(ways)  # type: ignore[misc]
        eventually(lambda: pool.stats().idle == WORKERS, "replacements")
        assert pool.stats().start_failures == deaths and os.path.getsize(log) == WORKERS + 2 * deaths


def _no_more_replacements(log: str, how: str) -> None:
    pool = ProcessWasmPool(KERNELS, WORKERS, initializer=_unlucky, initargs=(log, WORKERS + 1, 10**9, how))
    pool.wait_ready(DEADLINE)
    gate = Gate(Path(log).with_suffix(".gate"))
    running = [pool.submit(after, gate) for _ in range(WORKERS)]
    eventually(lambda: gate.began() == WORKERS, "all workers to be busy")
    queued = [pool.submit("add", n, 1) for n in range(50)]
    for pid in worker_pids(pool):
        kill(pid)
    assert _lost([(future, None) for future in running]) == WORKERS
    wait(queued)
    allowed = (StartupError, WorkerCrashed, ArithmeticError)
    assert all(isinstance(future.exception(), allowed) for future in queued), queued[0]
    for way, source in WAYS:
        if source == KERNELS:
            try:
                way(pool, 1)
            except (ProcpoolError, ArithmeticError, AssertionError):
                continue
            if way is not _by_map and way is not _by_map_of_functions:
                raise AssertionError(way)
    pool.shutdown()
    print("ended")


@pytest.mark.parametrize("how", ["error", "_exit(3)"])
def test_no_replacement_ever_gets_ready(how: str, tmp_path: Path) -> None:
    """Then every job ends in that, and so does the pool."""
    assert apart(_no_more_replacements, str(tmp_path / "starts"), how)[::2] == ("ended\n", 0)


@pytest.mark.parametrize("how", FATAL)
def test_the_first_workers_die_before_they_are_ready(how: str, tmp_path: Path, nothing_left: None) -> None:
    """Some of them: then the others serve, or the constructor says so."""
    log = str(tmp_path / "starts")
    try:
        pool = within(ProcessWasmPool, KERNELS, WORKERS, initializer=_unlucky, initargs=(log, 1, 1, how))
    except StartupError as error:
        assert isinstance(error.__cause__, WorkerCrashed)
        return
    try:
        assert within(pool.call, "add", 1, 2) == 3
        within(pool.wait_ready, DEADLINE)
    finally:
        within(pool.terminate)


# -- afterwards --------------------------------------------------------------------------------------------------------


def test_a_callback_of_a_crash_submits_again(nothing_left: None) -> None:
    """A chain of deaths, each begun by the news of the one before."""
    with pool_of(MISBEHAVE) as pool:
        over = threading.Event()
        ends: list[Any] = []

        def again(future: Future[Any]) -> None:
            ends.append(future.exception())
            if len(ends) < 6:
                pool.submit(commit, FATAL[len(ends) % 4]).add_done_callback(again)
            else:
                pool.submit("fine", 7).add_done_callback(lambda done: (ends.append(done.result()), over.set()))

        pool.submit(commit, FATAL[0]).add_done_callback(again)
        assert over.wait(DEADLINE)
        assert ends.pop() == 7 and all(isinstance(end, WorkerCrashed) for end in ends)
        all_there(pool)


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_job_that_may_run_again_does_so_and_no_oftener(deaths: int, tmp_path: Path, nothing_left: None) -> None:
    log = tmp_path / "runs"

    def unlucky(instance: Any, path: str) -> int:
        with open(path, "ab") as file:
            file.write(b".")
            number = file.tell()
        if number <= deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pool_of(KERNELS) as pool:
        for retries in (deaths, deaths - 1):
            log.unlink(missing_ok=True)
            others = [(pool.submit("add", n, 1), n + 1) for n in range(30)]
            future = pool.submit(unlucky, str(log), retries=retries)
            others += [(pool.submit("add", n, 1), n + 1) for n in range(30)]
            error = future.exception(DEADLINE)
            if retries == deaths:
                assert error is None and future.result() == deaths + 1
            else:
                assert isinstance(error, WorkerCrashed)
            assert log.stat().st_size == retries + 1
            assert _lost(others) == 0


@pytest.mark.parametrize("end", ["shutdown", "cancel", "terminate", "drop"])
def test_workers_die_while_the_pool_ends(end: str, rng: random.Random, nothing_left: None) -> None:
    for _ in range(3):
        pool = ProcessWasmPool(KERNELS, WORKERS)
        pool.wait_ready(DEADLINE)
        futures = [(pool.submit("churn", n, 20_000), None) for n in range(100)]
        futures += [(pool.submit(same, BLOB), BLOB) for _ in range(10)]
        expected = pool.submit("churn", 0, 20_000)
        pids = worker_pids(pool)
        delays = [rng.uniform(0, 0.01) for _ in pids]

        def killer(pids: list[int] = pids, delays: list[float] = delays) -> None:
            for pid, delay in zip(pids, delays):
                threading.Event().wait(delay)
                kill(pid)

        dying = threading.Thread(target=killer)
        dying.start()
        if end == "shutdown":
            within(pool.shutdown)
        elif end == "cancel":
            within(pool.shutdown, cancel_futures=True)
        elif end == "terminate":
            within(pool.terminate)
        del pool
        dying.join()
        assert wait([future for future, _ in futures], DEADLINE).not_done == set(), "every job ends"
        ends = [future.cancelled() or future.exception() for future, _ in [*futures, (expected, None)]]
        allowed = {"shutdown": (), "drop": (), "cancel": (CancelledError,), "terminate": (PoolClosed,)}[end]
        assert all(error in (None, end == "cancel") or isinstance(error, (WorkerCrashed, *allowed)) for error in ends)
        if end in ("shutdown", "drop"):
            assert sum(error is not None for error in ends) <= WORKERS + 1
