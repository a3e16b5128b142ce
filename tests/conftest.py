"""What all tests stand on: the fixtures' modules, pools, and a check that nothing is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest
from packages import Store

from procpool import ProcessWasmPool

FIXTURES = Path(__file__).parent.parent / "fixtures"
KERNELS = FIXTURES / "kernels.wasm"
MISBEHAVE = FIXTURES / "misbehave.wasm"
SHAPES = FIXTURES / "shapes.wat"
#: Seconds after which a test stops waiting for what should have happened long ago.
DEADLINE = 45.0


#: The files whose tests are marked fast: the parts that work without a process, and the first things a pool does.
FAST = {
    *(
        "binary",
        "codec",
        "deadline",
        "delivery",
        "keys",
        "lane",
        "lines",
        "options",
        "overseer",
        "scheduler",
        "scheduler_steps",
    ),
    *("values", "weak", "wire", "call", "counters", "shipped"),
    *("ledger", "heartbeat", "conductor"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem.removeprefix("test_") in FAST:
            item.add_marker(pytest.mark.fast)


def pytest_configure() -> None:
    # A shell that starts the tests in the background has them ignore Ctrl-C and Ctrl-\\, which everything they start would
    # inherit.  Not at import: workers import this too, for functions of the tests, and not all in their main thread.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    # Hypothesis measures time in two ways, and a crowded machine fails both.  Here for the same reason: it takes long to import.
    import hypothesis

    hypothesis.settings.register_profile("crowded", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.load_profile("crowded")
    # The first loop of libuv's in a process makes a pipe that stays; no test shall be taken for having left it.
    with suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that has no event of its own to wait on; fails loudly at the deadline."""
    deadline = monotonic() + DEADLINE
    while not condition():
        assert monotonic() < deadline, f"still waiting for: {what}"
        sleep(0.002)


def gone(pids: list[int]) -> bool:
    """Whether all have ended; a zombie has."""

    def alive(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return not any(map(alive, pids))


def worker_pids(pool: ProcessWasmPool) -> list[int]:
    return [worker.pid for worker in pool.stats().workers if worker.pid is not None]


@contextmanager
def all_held(pool: ProcessWasmPool) -> Iterator[None]:
    """What is submitted meanwhile waits.  A callback that is added to a job that has ended runs at once, and here."""
    pool.wait_ready(DEADLINE)
    leases = [pool.get(DEADLINE) for _ in pool.stats().workers]
    yield
    for lease in leases:
        pool.put(lease)


def busy_pid(pool: ProcessWasmPool) -> int:
    """The pid of the one worker that spins, as soon as all others are idle.

    Having been sent a job is not enough: one that has not begun would, after a death, run elsewhere.
    """
    found: list[int] = []

    def look() -> bool:
        stats = pool.stats()
        found[:] = [worker.pid for worker in stats.workers if worker.pid is not None and worker.state == "busy"]
        return len(found) == 1 and stats.idle == len(stats.workers) - 1

    first_seen: dict[int, float] = {}

    def spins() -> bool:
        if not look():  # another job may have been the busy one a moment ago
            return False
        used = psutil.Process(found[0]).cpu_times().user
        return used > first_seen.setdefault(found[0], used) + 0.02

    eventually(spins, "one busy worker, that spins")
    return found[0]


@pytest.fixture(scope="session")
def kernels() -> Iterator[ProcessWasmPool]:
    """A pool that tests share because they do no harm to it."""
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        yield pool


@pytest.fixture
def misbehave() -> Iterator[ProcessWasmPool]:
    pool = ProcessWasmPool(MISBEHAVE, workers=2, kill_grace=1.0)
    pool.wait_ready(DEADLINE)
    yield pool
    pool.terminate()  # what a failed test left running would never end


def _open_files() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
            found.add(f"{fd} {name.removesuffix(' (deleted)')}")  # what the cache of compiled code lets go is no new file
        except OSError:  # the descriptor of the listing itself
            pass
    return found


def _segments() -> set[str]:
    """Named shared memory.  Semaphores are not counted: we use none, but other programs on the machine come and go."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


@contextmanager
def leaves_nothing() -> Iterator[None]:
    """Fails the test if a process, a descriptor or a shared-memory segment is left behind."""
    me = psutil.Process()
    children, files, segments = set(me.children(recursive=True)), _open_files(), _segments()
    yield
    _, alive = psutil.wait_procs(set(me.children(recursive=True)) - children, timeout=DEADLINE)
    assert not alive, f"processes left behind: {alive}"
    eventually(lambda: _open_files() <= files, f"descriptors to be closed: {_open_files() - files}")
    eventually(lambda: _segments() <= segments, "shared memory to be gone; others on this machine make some too")


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails the test if it leaves a process, a descriptor or a shared-memory segment behind."""
    with leaves_nothing():
        yield


@pytest.fixture(scope="session")
def store(pytestconfig: pytest.Config) -> Store:
    """Packages from npm and PyPI."""
    assert pytestconfig.cache is not None
    return Store(pytestconfig.cache.mkdir("packages"))
