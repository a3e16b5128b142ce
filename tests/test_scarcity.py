"""When the parent lacks what it needs: descriptors, file size, memory.  One job fails or waits; the pool goes on."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import cloudpickle
import psutil
import pytest
from bounded import in_a_program
from conftest import DEADLINE, KERNELS, eventually, worker_pids

from procpool import PoolClosed, ProcessWasmPool, StartupError
from procpool.supervisor import population

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import what tests need
LARGE = b"x" * (3 << 20)
#: Up to which number there may be descriptors: too few to begin, too few at some step, just enough.
SCARCE = {"forkserver": [6, 9, 12, *range(14, 27), 30, 33], "spawn": [6, 12, *range(16, 26, 2), 29, 33]}


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    """A lower limit for a while."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@contextmanager
def no_descriptors(but: int = 0) -> Iterator[None]:
    """Nothing more can be opened, except for so many."""
    taken: list[int] = []
    with limited(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd")) + 200):
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            for _ in range(but):
                os.close(taken.pop())
            yield
        finally:
            for fd in taken:
                os.close(fd)


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    with limited(resource.RLIMIT_FSIZE, 0):
        yield


@contextmanager
def no_address_space() -> Iterator[None]:
    """Neither maps nor large objects can be made; small ones come from what the interpreter has."""
    spare = [bytes(64) for _ in range(20_000)]
    del spare
    with limited(resource.RLIMIT_AS, psutil.Process().memory_info().vms + (1 << 20)):
        yield


def open_files() -> set[str]:
    """Descriptors and what they are of."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of the listing itself
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return found


def gone(pid: int) -> bool:
    """Whether it has ended and was reaped.  Takes no descriptor."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _first_byte(instance: Any, data: bytes) -> int:
    return data[0]


def sound(pool: ProcessWasmPool, workers: int) -> None:
    """All its workers serve, no job is thought to be running, and it ends when it is told to."""
    pool.wait_ready(DEADLINE)
    assert [pool.call("add", n, 1, timeout=DEADLINE) for n in range(50)] == list(range(1, 51))
    futures = [pool.submit(_first_byte, LARGE) for _ in range(8)]
    assert [future.result(DEADLINE) for future in futures] == [ord("x")] * 8
    assert list(pool.map("add", range(1000), range(1000), timeout=DEADLINE)) == list(range(0, 2000, 2))
    pool.drain(DEADLINE)
    eventually(lambda: pool.stats().idle == workers, "all workers to be idle")
    pool.shutdown()


# -- the constructor -------------------------------------------------------------------------------------------------------


def construct(limit: int, method: str) -> None:
    """Either there is a pool, which serves, or an error that says why not; then nothing is left."""
    files = open_files()
    with limited(resource.RLIMIT_NOFILE, limit):
        try:
            with ProcessWasmPool(KERNELS, 2, start_method=method) as pool:
                assert pool.call("add", 1, 2) == 3
        except (OSError, StartupError) as error:
            assert "open files" in f"{error} {error.__cause__}", error
    eventually(lambda: open_files() <= files, f"descriptors to be closed, of {open_files() - files}")
    assert not psutil.Process().children()


def construct_each(method: str) -> None:
    population.BACKOFF_FIRST = 0.001  # nothing gets better from waiting here
    for limit in SCARCE[method]:
        print(limit, flush=True)
        construct(limit, method)


@pytest.mark.parametrize("method", SCARCE)
def test_a_pool_with_hardly_any_descriptors(method: str) -> None:
    in_a_program(construct_each, method)


def construct_again_later() -> None:
    """What could not be made does not spoil what is made later."""
    with no_descriptors(3), pytest.raises((OSError, StartupError)):
        ProcessWasmPool(KERNELS, 2)
    with ProcessWasmPool(KERNELS, 2) as pool:
        sound(pool, 2)


def test_a_pool_made_after_one_that_could_not_be() -> None:
    in_a_program(construct_again_later)


# -- a running pool without descriptors ------------------------------------------------------------------------------------


def workers_die(method: str, spare: int) -> None:
    """All of them, and no other can be started; as soon as one can, it is."""
    pool = ProcessWasmPool(KERNELS, 2, start_method=method)
    pool.wait_ready(DEADLINE)
    pids = worker_pids(pool)
    with no_descriptors():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: all(map(gone, pids)), "their ends")
        with suppress(Exception):  # so that the pool has seen it too
            pool.call("add", 1, 2, timeout=0.3)
        # Their descriptors are free now; take those too.
        with no_descriptors(spare), suppress(Exception):
            pool.submit("add", 1, 2, timeout=0.3).result(DEADLINE)
    sound(pool, 2)


@pytest.mark.parametrize(("method", "spare"), [("forkserver", 0), ("forkserver", 2), ("forkserver", 5), ("spawn", 5)])
def test_workers_die_while_there_are_no_descriptors(method: str, spare: int) -> None:
    in_a_program(workers_die, method, spare)


def template_dies() -> None:
    """The process that forks workers too, so that it takes more than a fork to get well."""
    pool = ProcessWasmPool(KERNELS, 2)
    pool.wait_ready(DEADLINE)
    (template,) = psutil.Process().children()
    with no_descriptors():
        os.kill(template.pid, signal.SIGKILL)
        for _ in range(20):
            with suppress(Exception):
                pool.call("add", 1, 2, timeout=0.05)
    sound(pool, 2)


def test_the_template_dies_while_there_are_no_descriptors() -> None:
    in_a_program(template_dies)


def grow_and_restart(what: str) -> None:
    pool = ProcessWasmPool(KERNELS, 2)
    pool.wait_ready(DEADLINE)
    wanted = 2
    with no_descriptors():
        if what == "resize":
            pool.resize(wanted := 4)
            with pytest.raises(TimeoutError):
                pool.wait_ready(0.3)
        else:
            with pytest.raises(TimeoutError):
                pool.restart(0.3)
        assert [pool.call("add", n, 1) for n in range(50)] == list(range(1, 51))
    sound(pool, wanted)


@pytest.mark.parametrize("what", ["resize", "restart"])
def test_no_more_workers_while_there_are_no_descriptors(what: str) -> None:
    in_a_program(grow_and_restart, what)


# -- a frame cannot be made ------------------------------------------------------------------------------------------------


LACKS: dict[str, Callable[[], Any]] = {
    "descriptors": no_descriptors,
    "file size": no_file_may_grow,
    "address space": no_address_space,
}


def _submit(pool: ProcessWasmPool) -> Any:
    return pool.submit(_first_byte, LARGE).result(DEADLINE)


def _map(pool: ProcessWasmPool) -> Any:
    return list(pool.map("add", range(100), range(100))) and None


def _map_callable(pool: ProcessWasmPool) -> Any:
    return list(pool.map(_first_byte, [LARGE] * 4)) and None


def _map_array(pool: ProcessWasmPool) -> Any:
    import numpy

    return pool.map_array("add", numpy.arange(100, dtype="i4"), numpy.arange(100, dtype="i4")).sum()


def _lease(pool: ProcessWasmPool) -> Any:
    with pool.instance() as lease:
        return lease.memory[0:100_000]


def _result(pool: ProcessWasmPool) -> Any:
    return pool.submit(lambda instance: b"y" * (3 << 20)).result(DEADLINE)


FRAMES = {
    "arguments": _submit,
    "map": _map,
    "map of a callable": _map_callable,
    "map_array": _map_array,
    "lease": _lease,
    "result": _result,
}


def frame_cannot_be_made(lack: str, frame: str, workers: int) -> None:
    """The job fails with what was lacking, or goes another way; no worker pays, and the next jobs run."""
    pool = ProcessWasmPool(KERNELS, workers, kill_grace=DEADLINE)  # what goes by pipe is slow
    pool.wait_ready(DEADLINE)
    assert pool.submit(_first_byte, b"x").result(DEADLINE) == ord("x")
    with suppress(ImportError):
        import numpy  # noqa: F401  # before it cannot be read
    pids = sorted(worker_pids(pool))
    with LACKS[lack]():
        for _ in range(2 * workers + 1):
            try:
                FRAMES[frame](pool)
            except (OSError, MemoryError):
                pass
            except RuntimeError as error:
                assert "thread" in str(error), error
        assert pool.submit("add", 1, 2).result(DEADLINE) == 3
    assert sorted(worker_pids(pool)) == pids and pool.stats().killed == pool.stats().crashed == 0
    sound(pool, workers)


def no_frame_can_be_made(lack: str) -> None:
    for frame in FRAMES:
        print(frame, flush=True)
        frame_cannot_be_made(lack, frame, 2)


@pytest.mark.parametrize("lack", LACKS)
def test_a_frame_that_cannot_be_made(lack: str) -> None:
    in_a_program(no_frame_can_be_made, lack)


def queued_frame_cannot_be_made(lack: str) -> None:
    """It is made later, by the thread that keeps the pool's time, because all workers are busy."""
    pool = ProcessWasmPool(KERNELS, 2)
    pool.wait_ready(DEADLINE)
    gate = [pool.submit(lambda instance: __import__("time").sleep(0.3)) for _ in range(2)]
    eventually(lambda: pool.stats().busy == 2, "both to be busy")
    pids = sorted(worker_pids(pool))
    with LACKS[lack]():
        futures = [pool.submit(_first_byte, LARGE) for _ in range(3 if lack != "address space" else 0)]
        results = pool.map("add", range(100), range(100), return_exceptions=True)
        small = [pool.submit("add", n, 1) for n in range(20)]
        for future in gate:
            future.result(DEADLINE)
        assert [future.result(DEADLINE) for future in small] == list(range(1, 21))
        for future in futures:
            assert isinstance(future.exception(DEADLINE), (OSError, MemoryError, type(None))), future
        for n, result in enumerate(results):
            assert result == 2 * n or isinstance(result, (OSError, MemoryError)), result
    assert sorted(worker_pids(pool)) == pids and pool.stats().killed == pool.stats().crashed == 0
    sound(pool, 2)


@pytest.mark.parametrize("lack", LACKS)
def test_a_queued_frame_that_cannot_be_made(lack: str) -> None:
    in_a_program(queued_frame_cannot_be_made, lack)


def keyed_frame_cannot_be_made(lack: str) -> None:
    """Jobs of one key wait for one worker, and the ones behind it are not lost with it."""
    pool = ProcessWasmPool(KERNELS, 2)
    pool.wait_ready(DEADLINE)
    with LACKS[lack]():
        futures = [pool.submit(_first_byte, LARGE, key="k") for _ in range(2)]
        futures += [pool.submit("add", ord("x") - 1, 1, key="k") for _ in range(10)]
        for future in futures[:2]:
            assert isinstance(future.exception(DEADLINE), (OSError, MemoryError, type(None))), future
        assert [future.result(DEADLINE) for future in futures[2:]] == [ord("x")] * 10
    sound(pool, 2)


@pytest.mark.parametrize("lack", ["descriptors", "file size"])
def test_a_frame_with_a_key_that_cannot_be_made(lack: str) -> None:
    in_a_program(keyed_frame_cannot_be_made, lack)


def looked_at() -> None:
    with ProcessWasmPool(KERNELS, 2) as pool:
        pool.wait_ready(DEADLINE)
        with no_descriptors():
            assert pool.stats().idle == 2
            repr(pool)


def test_looking_takes_no_descriptors() -> None:
    in_a_program(looked_at)


def ends_without_descriptors(how: str) -> None:
    pool = ProcessWasmPool(KERNELS, 2)
    pool.wait_ready(DEADLINE)
    futures = [pool.submit("fib", 20) for _ in range(50)]
    with no_descriptors():
        getattr(pool, how)()
        for future in futures:
            assert isinstance(future.exception(DEADLINE), PoolClosed if how == "terminate" else type(None)) or future.done()


@pytest.mark.parametrize("how", ["shutdown", "terminate"])
def test_the_end_without_descriptors(how: str) -> None:
    in_a_program(ends_without_descriptors, how)
