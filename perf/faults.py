"""What failure costs, and what is left when the program is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import psutil

from procpool import CallTimeout, ProcessWasmPool, WorkerCrashed

from . import peers
from .ways import PEER, Timed, Way, figure, run

TIMEOUT = "after a deadline"
DEATH = "after SIGKILL of the only worker"
UNDER_FIRE = "good calls while one of 2 workers is killed every 100 ms, each"
ORPHANS = "processes left one second after SIGKILL of the busy program"
SUPERVISION = "blocking call, by supervision"
MISBEHAVE = Path(__file__).parent.parent / "fixtures" / "misbehave.wasm"


@contextmanager
def _one_worker() -> Iterator[ProcessWasmPool]:
    with ProcessWasmPool(MISBEHAVE, 1) as pool:
        pool.wait_ready()
        yield pool


def _deadline(pool: ProcessWasmPool, then: bool) -> float:
    """Seconds beyond the deadline until CallTimeout, or until the same worker's next result."""
    started = perf_counter()
    with contextlib.suppress(CallTimeout):
        pool.call("spin", timeout=0.05)
    if then:
        pool.call("fine", 1)
    return perf_counter() - started - 0.05


def _death(pool: ProcessWasmPool, then: bool) -> float:
    """Seconds from a SIGKILL until WorkerCrashed, or until the replacement's first result."""
    pool.call("fine", 1)
    pid = pool.stats().workers[0].pid
    assert pid is not None
    running = pool.submit("spin")
    before = psutil.Process(pid).cpu_times().user
    while psutil.Process(pid).cpu_times().user < before + 0.02:
        sleep(0.001)
    started = perf_counter()
    os.kill(pid, signal.SIGKILL)
    assert isinstance(running.exception(), WorkerCrashed)
    if then:
        pool.call("fine", 1)
    return perf_counter() - started


def ours(measure: Callable[[ProcessWasmPool, bool], float], then: bool) -> Callable[[], AbstractContextManager[Timed]]:
    @contextmanager
    def make() -> Iterator[Timed]:
        with _one_worker() as pool:
            yield figure(lambda: measure(pool, then))

    return make


def under_fire(killing: bool) -> Callable[[], AbstractContextManager[Timed]]:
    """Seconds per good call, over half a second."""

    @contextmanager
    def make() -> Iterator[Timed]:
        with ProcessWasmPool(peers.KERNELS, 2) as pool:
            pool.wait_ready()

            def measure() -> float:
                over = threading.Event()

                def kill() -> None:
                    while not over.wait(0.1):
                        for worker in pool.stats().workers:
                            if worker.pid is not None and worker.state in ("idle", "busy"):
                                os.kill(worker.pid, signal.SIGKILL)
                                break

                killer = threading.Thread(target=kill)
                if killing:
                    killer.start()
                good, started = 0, perf_counter()
                while perf_counter() - started < 0.5:
                    with contextlib.suppress(WorkerCrashed):
                        assert pool.call("add", good, 1) == good + 1
                        good += 1
                took = perf_counter() - started
                over.set()
                if killing:
                    killer.join()
                return took / good

            yield figure(measure)

    return make


#: Programs whose workers are busy for ever; each prints a line when they are.
_PROGRAMS = {
    "procpool": """
from procpool import ProcessWasmPool
pool = ProcessWasmPool({misbehave!r}, 2)
pool.wait_ready()
jobs = [pool.submit("spin") for _ in range(2)]
""",
    "ProcessPoolExecutor (spawn)": """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    jobs = [pool.submit(spin) for _ in range(2)]
""",
    "multiprocessing.Pool (spawn)": """
import multiprocessing
if __name__ == "__main__":
    pool = multiprocessing.get_context("spawn").Pool(2)
    jobs = [pool.apply_async(spin) for _ in range(2)]
""",
    "loky": """
if __name__ == "__main__":
    from loky import ProcessPoolExecutor
    pool = ProcessPoolExecutor(2)
    jobs = [pool.submit(spin) for _ in range(2)]
""",
    "mpire": """
if __name__ == "__main__":
    from mpire import WorkerPool
    pool = WorkerPool(2, start_method="spawn")
    jobs = [pool.apply_async(spin) for _ in range(2)]
""",
    "pebble": """
if __name__ == "__main__":
    import multiprocessing
    from pebble import ProcessPool
    pool = ProcessPool(2, context=multiprocessing.get_context("spawn"))
    jobs = [pool.submit(spin, None) for _ in range(2)]
""",
}
_SPIN = """
import sys, time
from pathlib import Path
def spin():
    import wasmtime
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    instance = wasmtime.Instance(store, wasmtime.Module(engine, Path({misbehave!r}).read_bytes()), [])
    instance.exports(store)["spin"](store)
"""
_TELL = """
if __name__ == "__main__":
    print("busy", flush=True)
    time.sleep(1000)
"""


def orphans(program: str) -> Callable[[], AbstractContextManager[Timed]]:
    """How many processes a killed program leaves; they are ended afterwards."""

    @contextmanager
    def make() -> Iterator[Timed]:
        yield figure(lambda: _orphans(program))

    return make


def _orphans(program: str) -> float:
    source = (_SPIN + _PROGRAMS[program]).format(misbehave=str(MISBEHAVE)) + _TELL
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "program.py"
        script.write_text(source)
        with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
            assert process.stdout is not None
            process.stdout.readline()
            children: list[psutil.Process] = []
            deadline = perf_counter() + 20
            while perf_counter() < deadline and sum(_busy(child) for child in children) < 2:
                children = psutil.Process(process.pid).children(recursive=True)
                sleep(0.1)
            process.kill()
            process.wait()
        sleep(1)
        left = [child for child in children if _alive(child)]
        _clear_away(left)
        return float(len(left))


def _clear_away(left: list[psutil.Process]) -> None:
    """End what a program has left, trackers last: they unlink the semaphores of the others when those have gone."""
    for process in left:
        with contextlib.suppress(psutil.Error):
            if "resource_tracker" not in " ".join(process.cmdline()):
                process.kill()
    deadline = monotonic() + 5
    while any(map(_alive, left)) and monotonic() < deadline:
        sleep(0.01)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _alive(process: psutil.Process) -> bool:
    """Neither gone nor waiting for a reaper, which containers may not have."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _busy(process: psutil.Process) -> bool:
    try:
        return bool(process.cpu_times().user > 0.3)
    except psutil.Error:
        return False


def supervised(**options: Any) -> Callable[[], AbstractContextManager[Timed]]:
    @contextmanager
    def make() -> Iterator[Timed]:
        from .ways import timed

        with ProcessWasmPool(peers.KERNELS, 2, **options) as pool:
            pool.wait_ready()
            yield timed(lambda: pool.call("add", 1, 2))

    return make


WAYS = [
    Way(TIMEOUT, "procpool: CallTimeout at the caller", ours(_deadline, False), 3),
    Way(TIMEOUT, "procpool: next result of the same worker", ours(_deadline, True), 3),
    Way(DEATH, "procpool: WorkerCrashed at the caller", ours(_death, False), 3),
    Way(DEATH, "procpool: next result, of its replacement", ours(_death, True), 3),
    Way(UNDER_FIRE, "procpool, nobody killed", under_fire(False)),
    Way(UNDER_FIRE, "procpool", under_fire(True)),
    *(
        Way(
            ORPHANS,
            name,
            orphans(name),
            unit="integer",
            role="procpool" if name == "procpool" else PEER,
            needs=(name,) if name in ("loky", "mpire", "pebble") else (),
        )
        for name in _PROGRAMS
    ),
    Way(SUPERVISION, "procpool, no limits", supervised(), 2000),
    Way(
        SUPERVISION,
        "procpool, tasks, memory and queue limited, retries, events",
        supervised(max_tasks_per_worker=10**9, max_worker_memory=2**33, max_pending=1000, retries=2, on_event=id),
        2000,
    ),
]

if __name__ == "__main__":
    run("perf.faults", WAYS)
