"""Python functions that run beside an instance in a worker."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import sys
import threading
from typing import Any

import pytest
from bounded import run_script
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, busy_pid, eventually, worker_pids

import procpool
from procpool import CallTimeout, ProcessWasmPool, RemoteError, WasmTrap, WorkerCrashed


def sha256(instance: Any, data: bytes) -> bytes:
    address = instance.call("alloc", len(data))
    out = instance.exports["alloc"](32)
    memory = instance.memory
    memory[address : address + len(data)] = data
    instance.call("sha256", address, len(data), out)
    digest = bytes(memory[out : out + 32])
    instance.call("free", address)
    return digest


class Moody(Exception):
    """Cannot be rebuilt from its args: other pools break on it."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("moody")


class Poison:
    """Pickles, and does not unpickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_a_function_works_on_guest_memory(nothing_left: None) -> None:
    with ProcessWasmPool(FIXTURES / "sha256.wasm", workers=2) as pool:
        blobs = [os.urandom(size) for size in (0, 1, 55, 56, 64, 1000, 100_000)]
        futures = [pool.submit(sha256, blob) for blob in blobs]
        assert [future.result(DEADLINE) for future in futures] == [hashlib.sha256(blob).digest() for blob in blobs]
        assert list(pool.map(sha256, blobs)) == [hashlib.sha256(blob).digest() for blob in blobs]


def test_lambdas_closures_and_any_values(kernels: ProcessWasmPool) -> None:
    offset = 1000
    assert kernels.submit(lambda instance, a: instance.call("add", a, offset), 1).result(DEADLINE) == 1001
    assert kernels.submit(lambda instance, *args: args, 1, "two", b"3", None, [4.0]).result(DEADLINE) == (
        1,
        "two",
        b"3",
        None,
        [4.0],
    )
    assert kernels.submit(lambda instance: sorted(instance.exports)).result(DEADLINE)[:2] == ["add", "add64"]


def arrive() -> str:
    """What a Traveller is unpickled by: counts, in the worker."""
    procpool.state.arrivals = getattr(procpool.state, "arrivals", 0) + 1
    return "here"


class Traveller:
    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, ()


def test_a_function_travels_once_per_worker(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        traveller = Traveller()

        def arrivals(instance: Any) -> Any:
            return traveller, procpool.state.arrivals

        assert pool.submit(arrivals).result(DEADLINE) == ("here", 1)
        futures = [pool.submit(arrivals) for _ in range(500)]
        assert {future.result(DEADLINE) for future in futures} == {("here", 1)}
        os.kill(worker_pids(pool)[0], signal.SIGKILL)
        assert pool.submit(arrivals).result(DEADLINE) == ("here", 1), "once more, to the worker in its place"


def test_large_arguments_and_results(kernels: ProcessWasmPool) -> None:
    data = os.urandom(5_000_000)
    assert kernels.submit(lambda instance, given: given[::-1], data).result(DEADLINE) == data[::-1]
    futures = [kernels.submit(lambda instance, given: len(given), data) for _ in range(20)]
    assert [future.result(DEADLINE) for future in futures] == [5_000_000] * 20


def test_exceptions_come_back_as_themselves(kernels: ProcessWasmPool) -> None:
    def fail(instance: Any) -> None:
        raise LookupError("nothing there", 7)

    error = kernels.submit(fail).exception(DEADLINE)
    assert type(error) is LookupError and error.args == ("nothing there", 7)
    assert isinstance(error.__cause__, RemoteError) and "in fail" in str(error.__cause__)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda instance: (_ for _ in ()).throw(Moody(1, 2)), RemoteError),
        (lambda instance: threading.Lock(), TypeError),  # a result that does not pickle
        (lambda instance: Poison(), ValueError),  # one that does not unpickle
        (lambda instance: sys.exit(3), SystemExit),
        (lambda instance: (_ for _ in ()).throw(KeyboardInterrupt), KeyboardInterrupt),
        (lambda instance: bytearray(1 << 62), (MemoryError, OverflowError)),
        (lambda instance: instance.call("nothing of the sort"), LookupError),
    ],
)
def test_what_poisons_other_pools(kernels: ProcessWasmPool, function: Any, expected: Any) -> None:
    pids = {worker.pid for worker in kernels.stats().workers}
    assert isinstance(kernels.submit(function).exception(DEADLINE), expected)
    assert [kernels.call("add", n, n) for n in range(100)] == [2 * n for n in range(100)]
    assert {worker.pid for worker in kernels.stats().workers} == pids


def test_an_argument_that_does_not_unpickle(kernels: ProcessWasmPool) -> None:
    assert isinstance(kernels.submit(lambda instance, x: x, Poison()).exception(DEADLINE), ValueError)
    assert kernels.call("add", 1, 2) == 3


def test_an_argument_that_does_not_pickle_raises_at_once(kernels: ProcessWasmPool) -> None:
    with pytest.raises(TypeError):
        kernels.submit(lambda instance, x: x, threading.Lock())


def test_a_trap_inside_a_function_throws_the_instance_away(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        assert pool.submit(lambda instance: instance.call("soil")).result(DEADLINE) == 1
        assert pool.submit(lambda instance: instance.call("soil")).result(DEADLINE) == 2
        assert isinstance(pool.submit(lambda instance: instance.call("trap")).exception(DEADLINE), WasmTrap)
        assert pool.submit(lambda instance: instance.call("soil")).result(DEADLINE) == 1


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda instance: os._exit(3), "exited with code 3"),
        (lambda instance: os._exit(0), "exited with code 0"),
        (lambda instance: os.abort(), "SIGABRT"),
        (lambda instance: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
        (lambda instance: __import__("ctypes").string_at(8), "SIGSEGV"),
    ],
)
def test_a_function_that_ends_the_process(misbehave: ProcessWasmPool, end: Any, words: str) -> None:
    before = [misbehave.submit("fine", n) for n in range(50)]
    guilty = misbehave.submit(end)
    after = [misbehave.submit("fine", n) for n in range(50)]
    error = guilty.exception(DEADLINE)
    assert isinstance(error, WorkerCrashed) and words in str(error)
    assert [future.result(DEADLINE) for future in before + after] == [*range(50), *range(50)]


def test_a_python_loop_is_killed_after_the_grace(misbehave: ProcessWasmPool) -> None:
    def forever(instance: Any) -> None:
        while True:
            pass

    pids = {worker.pid for worker in misbehave.stats().workers}
    assert isinstance(misbehave.submit(forever, timeout=0.1).exception(DEADLINE), CallTimeout)
    eventually(lambda: {worker.pid for worker in misbehave.stats().workers} != pids, "a replacement")
    assert [misbehave.call("fine", n) for n in range(100)] == list(range(100))


def test_no_function_runs_twice(nothing_left: None, tmp_path: Any) -> None:
    """Also when its worker dies: what was delivered stays, what had not begun runs once elsewhere."""
    log = tmp_path / "log"

    def note(instance: Any, n: int) -> int:
        with open(log, "a") as file:
            file.write(f"{n}\n")
        if n == 60:
            instance.call("spin")
        return n

    with ProcessWasmPool(MISBEHAVE, workers=2) as pool:
        futures = [pool.submit(note, n) for n in range(300)]
        done = [future.result(DEADLINE) for n, future in enumerate(futures) if n != 60]
        assert done == [n for n in range(300) if n != 60]
        os.kill(busy_pid(pool), signal.SIGKILL)
        assert isinstance(futures[60].exception(DEADLINE), WorkerCrashed)
    assert sorted(map(int, log.read_text().split())) == list(range(300))


def test_map_over_a_function(kernels: ProcessWasmPool) -> None:
    def power(instance: Any, base: int, exponent: int) -> int:
        return base**exponent

    assert list(kernels.map(power, range(3000), itertools.repeat(2))) == [n * n for n in range(3000)]
    assert list(kernels.starmap(power, [(2, 10), (3, 3)])) == [1024, 27]
    assert sorted(kernels.map(power, [1, 2, 3], [2, 2, 2], ordered=False)) == [(0, 1), (1, 4), (2, 9)]
    endless = kernels.map(power, itertools.count(), itertools.repeat(2), buffersize=10)
    assert list(itertools.islice(endless, 100)) == [n * n for n in range(100)]
    endless.close()
    seen: list[tuple[int, int | None]] = []
    list(kernels.map(power, [1, 2], [3, 4], progress=lambda done, total: seen.append((done, total))))
    assert seen == [(1, 2), (2, 2)]


def test_map_over_a_function_that_fails_in_places(kernels: ProcessWasmPool) -> None:
    def invert(instance: Any, n: int) -> float:
        return 1 / n

    results = kernels.map(invert, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
    outcomes = list(kernels.map(invert, [1, 0, 4], return_exceptions=True))
    assert outcomes[::2] == [1.0, 0.25] and isinstance(outcomes[1], ZeroDivisionError)


def test_functions_of_main_work_in_a_script() -> None:
    script = (
        "from procpool import ProcessWasmPool\n"
        "class Point:\n    def __init__(self, x): self.x = x\n"
        "def work(instance, point): return Point(instance.call('add', point.x, 1))\n"
        f"with ProcessWasmPool({str(KERNELS)!r}, 2) as pool:\n    print(pool.submit(work, Point(41)).result().x)\n"
    )
    run = run_script(script)
    assert (run.stdout, run.stderr) == ("42\n", "")
