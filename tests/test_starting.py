"""Workers that take long to start, or never do: nobody waits for them longer than they may take."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from bounded import in_a_program
from conftest import DEADLINE, KERNELS, MISBEHAVE, eventually, worker_pids

from procpool import CallTimeout, PoolClosed, ProcessWasmPool, RemoteError, StartupError, WorkerCrashed

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import what tests need
LOOPS_AT_START = '(module (func $loop (loop $again (br $again))) (start $loop) (func (export "fine")))'
LOOPS_IN_INITIALIZE = '(module (func (export "_initialize") (loop $again (br $again))) (func (export "fine")))'
LOOPS_IN_ITS_OWN = '(module (func (export "begin") (loop $again (br $again))) (func (export "fine")))'


def _loop() -> None:
    while True:
        pass


def _sleep() -> None:
    time.sleep(3600)


def _hold_the_gil() -> None:
    ctypes.PyDLL(None).pause()


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


#: What keeps a worker from ever getting ready: a module, and options.
STUCK: dict[str, tuple[Any, dict[str, Any]]] = {
    "an initializer that loops": (KERNELS, {"initializer": _loop}),
    "an initializer that sleeps": (KERNELS, {"initializer": _sleep}),
    "an initializer that holds the GIL": (KERNELS, {"initializer": _hold_the_gil}),
    "an initializer that stops itself": (KERNELS, {"initializer": _stop}),
    "a start function": (LOOPS_AT_START, {}),
    "_initialize": (LOOPS_IN_INITIALIZE, {}),
    "an export called at the start": (LOOPS_IN_ITS_OWN, {"start": ["begin"]}),
}


def never_ready(module: Any, options: dict[str, Any]) -> None:
    began = time.monotonic()
    with pytest.raises(StartupError, match=r"0\.4"):
        ProcessWasmPool(module, 2, start_timeout=0.4, **options)
    assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize(
    ("stuck", "method"), [*((stuck, "forkserver") for stuck in STUCK), ("an initializer that holds the GIL", "spawn")]
)
def test_a_start_that_takes_too_long(stuck: str, method: str) -> None:
    """Its worker is killed, and the constructor says so; nothing is left, or the program would not end."""
    module, options = STUCK[stuck]
    in_a_program(never_ready, module, {**options, "start_method": method})


def interrupted(module: Any, options: dict[str, Any]) -> None:
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.5, signal.pthread_kill, [main, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        ProcessWasmPool(module, 2, **options)


@pytest.mark.parametrize("stuck", ["an initializer that loops", "an initializer that stops itself", "a start function"])
def test_ctrl_c_while_nothing_starts(stuck: str) -> None:
    in_a_program(interrupted, *STUCK[stuck])


def slow_but_in_time() -> None:
    with ProcessWasmPool(KERNELS, 1, initializer=lambda: time.sleep(0.5), start_timeout=DEADLINE) as pool:
        assert pool.call("add", 1, 2) == 3
    with ProcessWasmPool(KERNELS, 1, initializer=lambda: time.sleep(0.5), start_timeout=float("inf")) as pool:
        assert pool.call("add", 1, 2) == 3


def test_a_start_that_takes_long_and_not_too_long() -> None:
    in_a_program(slow_but_in_time)


# -- the first ones start, and others do not -------------------------------------------------------------------------------


class SecondTime:
    """An initializer that gets stuck in every worker but the first ``good`` ones."""

    def __init__(self, directory: str, good: int) -> None:
        self.directory = directory
        self.good = good

    def __call__(self) -> None:
        for number in range(self.good):
            with suppress(FileExistsError):
                os.close(os.open(f"{self.directory}/{number}", os.O_CREAT | os.O_EXCL))
                return
        if not os.path.exists(f"{self.directory}/free"):
            time.sleep(3600)


def without_workers(directory: str, good: int = 1, **options: Any) -> ProcessWasmPool:
    """A pool whose only worker has died, and whose next one does not start."""
    pool = ProcessWasmPool(MISBEHAVE, good, initializer=SecondTime(directory, good), kill_grace=0.1, **options)
    pool.wait_ready(DEADLINE)
    for pid in worker_pids(pool):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: pool.stats().crashed == good, "the worker's end")
    return pool


def jobs_end_in_time(directory: str) -> None:
    pool = without_workers(directory)
    jobs: dict[str, Callable[[], object]] = {
        "call": lambda: pool.call("fine", 1, timeout=0.2),
        "submit": lambda: pool.submit("fine", 1, timeout=0.2).result(),
        "callable": lambda: pool.submit(lambda instance: None, timeout=0.2).result(),
        "key": lambda: pool.submit("fine", 1, timeout=0.2, key="k").result(),
    }
    others: dict[str, Callable[[], object]] = {
        "map": lambda: list(pool.map("fine", [1], timeout=0.2)),
        "map of a callable": lambda: list(pool.map(lambda instance, n: n, [1], timeout=0.2)),
        "get": lambda: pool.get(timeout=0.2),
        "wait_ready": lambda: pool.wait_ready(timeout=0.2),
        "restart": lambda: pool.restart(timeout=0.2),
        "drain": lambda: (pool.submit("fine", 1), pool.drain(timeout=0.2)),
        "shutdown": lambda: pool.shutdown(timeout=0.2),
    }
    for name, way in {**jobs, **others}.items():
        try:
            way()
        except TimeoutError as error:
            assert isinstance(error, CallTimeout) == (name in jobs), name
        else:
            raise AssertionError(f"{name} ended without a worker")
    pool.terminate()


def test_jobs_end_in_time_with_a_stuck_replacement(tmp_path: Path) -> None:
    in_a_program(jobs_end_in_time, str(tmp_path))


def ends_with_a_stuck_replacement(directory: str, how: str) -> None:
    pool = without_workers(directory)
    if how == "with":
        with pool:
            future = pool.submit("fine", 1, timeout=0.3)
        assert isinstance(future.exception(0), CallTimeout)
    elif how == "idle":
        pool.shutdown()
    elif how == "jobs with a limit":
        futures = [pool.submit("fine", n, timeout=0.3) for n in range(10)]
        pool.shutdown()
        assert all(isinstance(future.exception(0), CallTimeout) for future in futures)
    elif how == "cancel_futures":
        futures = [pool.submit("fine", n) for n in range(10)]
        pool.shutdown(cancel_futures=True)
        assert all(future.cancelled() for future in futures)
    elif how == "terminate":
        future = pool.submit("fine", 1)
        pool.terminate()
        assert isinstance(future.exception(0), PoolClosed)
    else:
        pool.submit("fine", 1)  # and the interpreter ends


@pytest.mark.parametrize("how", ["with", "idle", "jobs with a limit", "cancel_futures", "terminate", "exit"])
def test_the_end_with_a_stuck_replacement(how: str, tmp_path: Path) -> None:
    in_a_program(ends_with_a_stuck_replacement, str(tmp_path), how)


def tried_again(directory: str) -> None:
    """What gets stuck is killed, and another one tried; so the pool recovers when its starts do."""
    with without_workers(directory, start_timeout=8.0) as pool:  # the first one is to start in time on any machine
        future = pool.submit("fine", 7)
        eventually(lambda: pool.stats().started >= 3, "another try")
        assert not future.done()
        Path(directory, "free").touch()
        assert future.result(DEADLINE) == 7


def test_a_stuck_replacement_is_replaced(tmp_path: Path) -> None:
    in_a_program(tried_again, str(tmp_path))


def others_serve(directory: str) -> None:
    """Of two wanted, one never starts: the pool is there, serves, and says that it is not complete."""
    initializer = SecondTime(directory, 1)
    with ProcessWasmPool(MISBEHAVE, 2, initializer=initializer, start_timeout=3.0) as pool:
        assert [pool.call("fine", n) for n in range(50)] == list(range(50))
        with pytest.raises(TimeoutError):
            pool.wait_ready(timeout=0.2)
        eventually(lambda: pool.stats().started >= 4, "the other one to be tried again")
        assert list(pool.map("fine", range(100))) == list(range(100))


def test_one_that_never_starts_holds_up_no_other(tmp_path: Path) -> None:
    in_a_program(others_serve, str(tmp_path))


def killed_while_it_starts(directory: str) -> None:
    """By somebody else, again and again: what waits is not lost, and ends when its own time is up."""
    pool = without_workers(directory)
    future = pool.submit("fine", 1, timeout=1.0)
    while not future.done():
        for pid in worker_pids(pool):
            with suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    assert isinstance(future.exception(0), (CallTimeout, StartupError, WorkerCrashed)), future
    pool.terminate()


def test_killed_while_it_starts(tmp_path: Path) -> None:
    in_a_program(killed_while_it_starts, str(tmp_path))


def grown(directory: str) -> None:
    """A pool that grows on demand is not held up by the worker that does not come."""
    initializer = SecondTime(directory, 1)
    with ProcessWasmPool(MISBEHAVE, 4, min_workers=1, initializer=initializer, kill_grace=0.1) as pool:
        futures = [pool.submit("fine", n, timeout=DEADLINE) for n in range(2000)]
        assert [future.result(DEADLINE) for future in futures] == list(range(2000))


def test_growing_in_vain(tmp_path: Path) -> None:
    in_a_program(grown, str(tmp_path))


def shrunk(directory: str) -> None:
    """The one that is too many is the one that starts; it goes without having been ready."""
    with ProcessWasmPool(MISBEHAVE, 1, initializer=SecondTime(directory, 1)) as pool:
        pool.resize(3)
        eventually(lambda: pool.stats().started == 3, "two more to begin")
        pool.resize(1)
        eventually(lambda: len(pool.stats().workers) == 1, "them to go")
        assert pool.call("fine", 1) == 1


def test_fewer_while_more_are_starting(tmp_path: Path) -> None:
    in_a_program(shrunk, str(tmp_path))


def template_gone(directory: str) -> None:
    """The process that forks workers is stopped: it neither starts one nor says that it cannot."""
    import psutil

    pool = ProcessWasmPool(MISBEHAVE, 1, kill_grace=0.1)
    (template,) = psutil.Process().children()
    template.suspend()
    (pid,) = worker_pids(pool)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises((CallTimeout, WorkerCrashed)):
        pool.call("fine", 1, timeout=0.5)
    with pytest.raises(CallTimeout):
        pool.submit("fine", 1, timeout=0.5).result(DEADLINE)
    pool.terminate()


def test_a_template_that_is_stopped(tmp_path: Path) -> None:
    in_a_program(template_gone, str(tmp_path))


def _raise_a_class_of_its_own(instance: Any) -> None:
    class Own(Exception):
        def __init__(self, one: str, two: int) -> None:  # so it cannot be rebuilt from its args
            super().__init__(one)

    raise Own("what went wrong", 2)


def test_what_a_start_raises_that_cannot_come_back_is_told(nothing_left: None) -> None:
    with pytest.raises(StartupError, match=r"no worker can be started: .*Own: what went wrong") as failed:
        ProcessWasmPool("(module)", workers=1, start=[_raise_a_class_of_its_own])
    assert isinstance(failed.value.__cause__, RemoteError) and "in _raise_a_class" in str(failed.value.__cause__)
