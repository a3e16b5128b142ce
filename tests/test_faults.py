"""The fault matrix: whatever happens to a worker, wherever it is, every job ends, the right one pays, and the pool goes on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bounded import pool_that_goes, within
from conftest import DEADLINE, FIXTURES, KERNELS, busy_pid, eventually, leaves_nothing, worker_pids
from test_instances import with_note

from procpool import CallTimeout, PoolClosed, ProcessWasmPool, RemoteError, StartupError, WorkerCrashed

HOST = FIXTURES / "host.wat"
WORKERS = 2


class Odd(BaseException):
    """Not an Exception."""


class Moody(Exception):
    """Cannot be rebuilt from its args."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("moody")


def _out_of_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        bytearray(2**33)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[1],) * 2)


def _endless() -> None:
    while True:
        pass


def _raise(error: BaseException) -> None:
    raise error


def _close_channels() -> None:
    os.closerange(3, 200)
    _endless()


def _write_nonsense() -> None:
    """Into its own channels.  What all workers share is not meant: who writes there harms its neighbours."""
    for fd in range(3, 200):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith(("pipe:", "socket:")):
                os.write(fd, b"\xff" * 64)
        except OSError:
            pass
    _endless()


#: What may happen inside Python code in a worker, and what its caller then gets.
FAULTS: dict[str, tuple[Callable[[], object], type[BaseException]]] = {
    "SIGKILL": (lambda: os.kill(os.getpid(), signal.SIGKILL), WorkerCrashed),
    "SIGSEGV": (lambda: ctypes.string_at(8), WorkerCrashed),
    "SIGABRT": (os.abort, WorkerCrashed),
    "SIGSTOP": (lambda: os.kill(os.getpid(), signal.SIGSTOP), CallTimeout),
    "_exit(0)": (lambda: os._exit(0), WorkerCrashed),
    "_exit(3)": (lambda: os._exit(3), WorkerCrashed),
    "sys.exit": (lambda: sys.exit(4), SystemExit),
    "KeyboardInterrupt": (lambda: _raise(KeyboardInterrupt()), KeyboardInterrupt),
    "MemoryError": (lambda: _raise(MemoryError()), MemoryError),
    "out of memory": (_out_of_memory, MemoryError),
    "endless loop": (_endless, CallTimeout),
    "BaseException": (lambda: _raise(Odd("odd")), Odd),
    "cannot be rebuilt": (lambda: _raise(Moody(1, 2)), RemoteError),
    "channels closed": (_close_channels, WorkerCrashed),
    "nonsense written": (_write_nonsense, WorkerCrashed),
}


class Trap:
    """Does what it is told when it is unpickled: as an argument, in the worker; as a result, in the parent."""

    def __init__(self, fault: Callable[[], object]) -> None:
        self.fault = fault

    def __reduce__(self) -> tuple[Any, ...]:
        return (_spring, (self.fault,))


class TrapOnTheWay:
    """Does what it is told when it is pickled."""

    def __init__(self, fault: Callable[[], object]) -> None:
        self.fault = fault

    def __reduce__(self) -> tuple[Any, ...]:
        self.fault()
        return int, ()


def _spring(fault: Callable[[], object]) -> None:
    fault()


def faulty_pool(timeout: float) -> Any:
    """Its host function `note` commits the n-th fault."""
    faults = [fault for fault, _ in FAULTS.values()]

    def note(n: int) -> None:
        if n >= 0:
            faults[n]()

    return pool_that_goes(HOST, WORKERS, imports=with_note(note), timeout=timeout, kill_grace=0.1)


@pytest.fixture(scope="module")
def nothing_left_of_all() -> Iterator[None]:
    """Around the pools that tests share: a worker in place of another comes and goes."""
    with leaves_nothing():
        yield


@pytest.fixture(scope="module")
def patient(nothing_left_of_all: None) -> Iterator[ProcessWasmPool]:
    """For faults that end by themselves, and leave the pool sound."""
    with faulty_pool(DEADLINE) as pool:
        yield pool


@pytest.fixture(scope="module")
def hasty(nothing_left_of_all: None) -> Iterator[ProcessWasmPool]:
    """For those that only the pool's timeout ends."""
    with faulty_pool(0.4) as pool:
        yield pool


def sound(pool: ProcessWasmPool) -> None:
    """The next 100 calls succeed, all workers are there, and the figures add up."""
    assert [pool.call("double", n, timeout=DEADLINE) for n in range(100)] == list(range(0, 200, 2))
    eventually(lambda: pool.stats().idle == WORKERS, "all workers to be idle")
    before = pool.stats()
    assert [pool.call("double", n, timeout=DEADLINE) for n in range(100)] == list(range(0, 200, 2))
    stats = pool.stats()
    assert stats.calls == before.calls + 100 and stats.failed == before.failed
    assert stats.busy == stats.pending == stats.leased == 0
    assert stats.started - stats.crashed - stats.killed - stats.recycled - stats.retired == WORKERS


def _by_call(pool: ProcessWasmPool, n: int) -> None:
    pool.call("note", n)


def _by_submit(pool: ProcessWasmPool, n: int) -> None:
    before = [pool.submit("note", -1, timeout=DEADLINE) for _ in range(5)]
    guilty = pool.submit("note", n)
    after = [pool.submit("double", k, timeout=DEADLINE) for k in range(20)]
    assert [future.result(DEADLINE) for future in before] == [None] * 5
    assert [future.result(DEADLINE) for future in after] == list(range(0, 40, 2))
    guilty.result(DEADLINE)


def _by_map(pool: ProcessWasmPool, n: int) -> None:
    outcomes = list(pool.map("note", [-1] * 30 + [n] + [-1] * 30, return_exceptions=True))
    assert [index for index, outcome in enumerate(outcomes) if outcome is not None] == [30]
    raise outcomes[30]


def _by_lease(pool: ProcessWasmPool, n: int) -> None:
    with pool.instance() as lease:
        assert lease.call("tick") == 1
        lease.call("note", n)


def _by_callable(pool: ProcessWasmPool, n: int) -> None:
    fault = list(FAULTS.values())[n][0]
    after = [pool.submit("double", k, timeout=DEADLINE) for k in range(20)]
    guilty = pool.submit(lambda instance: fault())
    assert [future.result(DEADLINE) for future in after] == list(range(0, 40, 2))
    guilty.result(DEADLINE)


def _by_argument(pool: ProcessWasmPool, n: int) -> None:
    pool.submit(lambda instance, x: None, Trap(list(FAULTS.values())[n][0])).result(DEADLINE)


def _by_result(pool: ProcessWasmPool, n: int) -> None:
    fault = list(FAULTS.values())[n][0]
    pool.submit(lambda instance: TrapOnTheWay(fault)).result(DEADLINE)


STAGES = [_by_call, _by_submit, _by_map, _by_lease, _by_callable, _by_argument, _by_result]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__.strip("_"))
def test_a_fault_in_python_code(
    stage: Callable[..., None], fault: str, patient: ProcessWasmPool, hasty: ProcessWasmPool
) -> None:
    # One whose channels are closed is found out by that or by its deadline, whichever comes first.
    either = (WorkerCrashed, CallTimeout) if fault == "channels closed" else (FAULTS[fault][1],)
    pool = hasty if CallTimeout in either else patient
    with pytest.raises(either) as caught:
        stage(pool, list(FAULTS).index(fault))
    error = caught.value
    if isinstance(error, WorkerCrashed) and fault.startswith("SIG"):
        assert error.signal is not None and error.signal.name == fault and str(error.pid) in str(error)
    elif isinstance(error, WorkerCrashed) and fault.startswith("_exit"):
        assert error.exitcode == int(fault[6]) and error.signal is None
    sound(pool)


@pytest.mark.parametrize("fault", [name for name, (_, error) in FAULTS.items() if error is not CallTimeout])
def test_a_fault_while_starting(fault: str, nothing_left: None) -> None:
    if fault in ("channels closed", "nonsense written"):
        pytest.skip("nothing of ours is open to it before the worker is ready")
    run, expected = FAULTS[fault]
    with pytest.raises((expected, StartupError)) as caught:
        within(ProcessWasmPool, KERNELS, WORKERS, initializer=run)
    if expected is WorkerCrashed:
        assert isinstance(caught.value.__cause__, WorkerCrashed)


#: What may be done to a worker from outside, and what becomes of a job it runs.
SIGNALS = {
    signal.SIGKILL: WorkerCrashed,
    signal.SIGABRT: WorkerCrashed,
    signal.SIGTERM: WorkerCrashed,
    signal.SIGSTOP: CallTimeout,
}


def plain_pool() -> Any:
    return pool_that_goes(HOST, WORKERS, imports=with_note(lambda n: None), kill_grace=0.1)


@pytest.fixture(scope="module")
def plain(nothing_left_of_all: None) -> Iterator[ProcessWasmPool]:
    """For tests that leave it sound."""
    with plain_pool() as pool:
        yield pool


@pytest.mark.parametrize("kind", SIGNALS)
def test_a_signal_to_an_idle_worker(kind: signal.Signals, plain: ProcessWasmPool) -> None:
    """Costs nobody a job, also if one was given to a stopped worker before anyone could know."""
    victim = worker_pids(plain)[0]
    os.kill(victim, kind)
    if kind is signal.SIGSTOP:  # a direct call may go to that one, and would wait for it
        futures = [plain.submit("double", n) for n in range(100)]
        assert [future.result(DEADLINE) for future in futures] == list(range(0, 200, 2))
    else:
        assert [plain.call("double", n) for n in range(100)] == list(range(0, 200, 2))
    eventually(lambda: victim not in worker_pids(plain), "the worker to be replaced")
    sound(plain)


def _spin_by_call(pool: ProcessWasmPool, timeout: float | None) -> None:
    pool.call("spin", timeout=timeout)


def _spin_by_submit(pool: ProcessWasmPool, timeout: float | None) -> None:
    pool.submit("spin", timeout=timeout).result(DEADLINE)


def _spin_by_map(pool: ProcessWasmPool, timeout: float | None) -> None:
    list(pool.starmap("spin", [()], item_timeout=timeout))


def _spin_by_lease(pool: ProcessWasmPool, timeout: float | None) -> None:
    with pool.instance() as lease:
        lease.call("spin", timeout=timeout)


@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize(
    "stage", [_spin_by_call, _spin_by_submit, _spin_by_map, _spin_by_lease], ids=lambda stage: stage.__name__.strip("_")
)
def test_a_signal_to_a_worker_in_wasm(stage: Callable[..., None], kind: signal.Signals, plain: ProcessWasmPool) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            stage(plain, 3.0 if kind is signal.SIGSTOP else None)  # long enough to be seen running
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    os.kill(busy_pid(plain), kind)
    thread.join(DEADLINE)
    assert [type(error) for error in errors] == [SIGNALS[kind]]
    if kind is not signal.SIGSTOP:
        assert isinstance(errors[0], WorkerCrashed) and errors[0].signal == kind
    sound(plain)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_a_signal_to_a_worker_that_reads_a_job(kind: signal.Signals, plain: ProcessWasmPool) -> None:
    """Stopped first, so that more is written than its pipe holds: half a job lies there when it dies."""
    pids = worker_pids(plain)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    many = list(range(5000))  # in the frame itself, not beside it
    futures = [plain.submit(lambda instance, xs, n: n, many, n) for n in range(20)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # SIGKILL does not wait for SIGCONT
            os.kill(pid, kind)
            os.kill(pid, signal.SIGCONT)
    errors = [future.exception(DEADLINE) for future in futures]
    assert sum(error is not None for error in errors) <= WORKERS
    assert all(error is None or isinstance(error, WorkerCrashed) for error in errors)
    assert all(future.result() == n for n, future in enumerate(futures) if errors[n] is None)
    sound(plain)


@pytest.mark.parametrize("kind", SIGNALS)
def test_a_signal_to_workers_while_shutting_down(kind: signal.Signals, nothing_left: None) -> None:
    pool = ProcessWasmPool(HOST, WORKERS, imports=with_note(lambda n: None), kill_grace=0.1)
    pool.wait_ready(DEADLINE)
    running = [pool.submit("spin", timeout=3.0) for _ in range(WORKERS)]  # long enough to be seen
    queued = [pool.submit("double", n, timeout=DEADLINE) for n in range(10)]
    eventually(lambda: all(future.running() for future in running), "both to run")
    pids = worker_pids(pool)
    pool.shutdown(wait=False)
    for pid in pids:
        os.kill(pid, kind)
    # What was submitted before is finished, by new workers if need be.
    assert [future.result(DEADLINE) for future in queued] == list(range(0, 20, 2))
    assert all(isinstance(future.exception(DEADLINE), (WorkerCrashed, CallTimeout)) for future in running)
    pool.shutdown()
    with pytest.raises(PoolClosed):
        pool.call("double", 1)


def test_a_result_that_fails_to_unpickle_fails_alone(plain: ProcessWasmPool) -> None:
    def poisoned(instance: Any) -> Any:
        return Trap(lambda: _raise(ValueError("poison")))

    with pytest.raises(ValueError, match="poison"):
        plain.submit(poisoned).result(DEADLINE)
    with pytest.raises(TypeError):
        plain.submit(lambda instance: threading.Lock()).result(DEADLINE)
    sound(plain)


def test_the_template_killed_while_jobs_run(nothing_left: None) -> None:
    with plain_pool() as plain:
        running = plain.submit("spin")
        pid = busy_pid(plain)
        os.kill(plain._dispatcher.population._launcher._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        eventually(lambda: plain._dispatcher.journal.counts()["template_died"] == 1, "the template to be missed")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            running.result(DEADLINE)
        sound(plain)
