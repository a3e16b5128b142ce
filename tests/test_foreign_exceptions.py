"""What other people's code raises in the parent: it belongs to one job, or to the log, and ends nothing else."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
from bounded import in_a_program
from conftest import DEADLINE, FIXTURES, KERNELS, eventually, worker_pids

from procpool import ProcessWasmPool, WasiConfig

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import what tests need
COMMAND = FIXTURES / "command.wasm"


class Odd(BaseException):
    """Not an Exception."""


class Untold(Exception):
    """Cannot be told: its text raises too."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


#: What may be raised, by name: a program gets its name, and makes it anew.
KINDS: dict[str, type[BaseException]] = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": StopIteration,
    "BaseException": Odd,
    "MemoryError": MemoryError,
    "ValueError": ValueError,
    "Untold": Untold,
}


def throw(kind: str) -> None:
    raise KINDS[kind]("thrown")


class Bomb:
    """Raises when it is unpickled: as a result, in the parent."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return throw, (self.kind,)


class BombError(Exception):
    """An exception of the same kind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return throw, (self.args[0],)


def bomb(instance: Any, kind: str) -> Any:
    return Bomb(kind)


def large_bomb(instance: Any, kind: str) -> Any:
    return [b"x" * (2 << 20), Bomb(kind)]


def raising_bomb(instance: Any, kind: str) -> Any:
    raise BombError(kind)


def sound(pool: ProcessWasmPool, pids: list[int]) -> None:
    """No worker has paid, and the pool serves as before."""
    assert [pool.submit("add", n, 1).result(DEADLINE) for n in range(50)] == list(range(1, 51))
    assert list(pool.map("add", range(100), range(100))) == list(range(0, 200, 2))
    assert sorted(worker_pids(pool)) == pids
    stats = pool.stats()
    assert stats.killed == stats.crashed == 0
    pool.drain(DEADLINE)


def one_pool(scenario: Callable[..., None], *args: Any) -> None:
    """Run a scenario for each kind, one after the other in one pool, which is sound after each."""
    pool = ProcessWasmPool(KERNELS, 2)
    pool.wait_ready(DEADLINE)
    pids = sorted(worker_pids(pool))
    for kind in KINDS:
        print(kind, flush=True)
        scenario(pool, kind, *args)
        sound(pool, pids)
    pool.shutdown()


def pool_each(scenario: Callable[..., None]) -> None:
    """The same with a pool of its own for each of the kinds that differ most."""
    for kind in ("SystemExit", "KeyboardInterrupt", "BaseException", "ValueError"):
        print(kind, flush=True)
        scenario(kind)


# -- unpickling ------------------------------------------------------------------------------------------------------------


def result_raises(pool: ProcessWasmPool, kind: str, function: Callable[..., Any]) -> None:
    before = [pool.submit("add", n, 1) for n in range(20)]
    futures = [pool.submit(function, kind) for _ in range(4)]
    after = [pool.submit("add", n, 1) for n in range(20)]
    for future in futures:
        error = future.exception(DEADLINE)
        if function is raising_bomb:  # whatever stands for it
            assert error is not None
        else:
            assert type(error) is KINDS[kind], repr(error)
    assert [future.result(DEADLINE) for future in before + after] == [*range(1, 21), *range(1, 21)]


@pytest.mark.parametrize("function", [bomb, large_bomb, raising_bomb], ids=lambda function: function.__name__)
def test_a_result_that_raises_when_it_is_unpickled(function: Callable[..., Any]) -> None:
    in_a_program(one_pool, result_raises, function)


def map_raises(pool: ProcessWasmPool, kind: str, ordered: bool) -> None:
    """In its place, as any other failure of an item."""

    def sometimes(instance: Any, n: int) -> Any:
        return Bomb(kind) if n == 5 else n

    results = pool.map(sometimes, range(10), ordered=ordered, return_exceptions=True)
    outcomes = list(results) if ordered else [result for _, result in sorted(results, key=lambda pair: pair[0])]
    assert type(outcomes.pop(5)) is KINDS[kind]
    assert outcomes == [0, 1, 2, 3, 4, 6, 7, 8, 9]


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
def test_an_item_that_raises_when_it_is_unpickled(ordered: bool) -> None:
    in_a_program(one_pool, map_raises, ordered)


# -- callbacks -------------------------------------------------------------------------------------------------------------


def callback_raises(pool: ProcessWasmPool, kind: str, what: str) -> None:
    called: list[Any] = []

    def callback(future: Any) -> None:
        called.append(future)
        throw(kind)

    for _ in range(3):
        if what == "export":
            future = pool.submit("fib", 32)
        elif what == "callable":
            future = pool.submit(lambda instance: time.sleep(0.05))
        else:
            future = pool.submit(lambda instance: time.sleep(0.05) or 1 // 0)
        try:
            future.add_done_callback(callback)
        except BaseException as error:  # it is done: here and now, as the standard library has it
            assert type(error) is KINDS[kind]
        future.add_done_callback(called.append)
    eventually(lambda: len(called) >= 6, "all callbacks to be called")


@pytest.mark.parametrize("what", ["export", "callable", "failed"])
def test_a_callback_that_raises(what: str) -> None:
    in_a_program(one_pool, callback_raises, what)


def callback_of_a_dead_workers_job(kind: str) -> None:
    """It is told of a crash, of a timeout, and of the end of the pool."""
    pool = ProcessWasmPool(FIXTURES / "misbehave.wasm", 1, kill_grace=0.1)
    pool.wait_ready(DEADLINE)
    called: list[Any] = []

    def callback(future: Any) -> None:
        called.append(future)
        throw(kind)

    pool.submit(lambda instance: os._exit(3)).add_done_callback(callback)
    eventually(lambda: len(called) == 1, "the callback of a crash")
    pool.submit("spin", timeout=0.05).add_done_callback(callback)
    eventually(lambda: len(called) == 2, "the callback of a timeout")
    assert pool.submit("fine", 7).result(DEADLINE) == 7
    pool.submit("spin").add_done_callback(callback)
    pool.submit("spin").add_done_callback(callback)
    pool.terminate()
    eventually(lambda: len(called) == 4, "the callbacks of the end")


def test_a_callback_that_raises_when_things_go_wrong() -> None:
    in_a_program(pool_each, callback_of_a_dead_workers_job)


# -- on_event, logging, line functions, progress ---------------------------------------------------------------------------


def hook_raises(kind: str) -> None:
    called: list[Any] = []

    def hook(event: Any) -> None:
        called.append(event.kind)
        throw(kind)

    with ProcessWasmPool(KERNELS, 2, on_event=hook) as pool:
        pool.wait_ready(DEADLINE)
        eventually(lambda: called.count("ready") == 2, "the hook to be called")
        assert pool.call("add", 1, 2) == 3
        pool.resize(3)
        eventually(lambda: called.count("ready") == 3, "the hook to be called again")
        assert pool.submit("add", 1, 2).result(DEADLINE) == 3


def test_a_hook_that_raises() -> None:
    in_a_program(pool_each, hook_raises)


class RaisingHandler(logging.Handler):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.set()
        throw(self.kind)


def log_raises(pool: ProcessWasmPool, kind: str, where: str) -> None:
    """A record of a worker, handed to the program's own logging."""
    handler = RaisingHandler(kind)
    log = logging.getLogger("guest")
    if where == "handler":
        log.addHandler(handler)
    else:
        log.addFilter(handler.handle)  # as a filter it raises all the same

    def warn(instance: Any) -> int:
        logging.getLogger("guest").warning("from the worker")
        return 7

    assert pool.submit(warn).result(DEADLINE) == 7
    assert handler.seen.wait(DEADLINE)
    log.handlers.clear()
    log.filters.clear()


@pytest.mark.parametrize("where", ["handler", "filter"])
def test_a_log_handler_that_raises(where: str) -> None:
    in_a_program(one_pool, log_raises, where)


def own_log_raises(kind: str) -> None:
    """The pool's own records, of a death for instance."""
    handler = RaisingHandler(kind)
    logging.getLogger("procpool").addHandler(handler)
    with ProcessWasmPool(KERNELS, 1) as pool:
        for _ in range(3):
            assert pool.submit(lambda instance: os._exit(3)).exception(DEADLINE) is not None
        assert handler.seen.wait(DEADLINE)
        assert pool.call("add", 1, 2) == 3
        assert pool.submit("add", 1, 2).result(DEADLINE) == 3
    logging.getLogger("procpool").removeHandler(handler)


def test_a_handler_of_the_pools_own_log_that_raises() -> None:
    in_a_program(pool_each, own_log_raises)


def line_functions_raise() -> None:
    """Each ends its own run, which raises that or has it as the cause; the worker is not to blame."""
    pool = ProcessWasmPool(COMMAND, 2, wasi=WasiConfig())
    pool.wait_ready(DEADLINE)
    pids = sorted(worker_pids(pool))
    for kind, thrown in KINDS.items():
        lines: list[Any] = []

        def line(text: Any, kind: str = kind, lines: list[Any] = lines) -> None:
            lines.append(text)
            throw(kind)

        error = pool.submit_run(["upper", "upper"], stdin=b"one\ntwo\n", stdout=line).exception(DEADLINE)
        assert lines
        assert thrown in (type(error), type(getattr(error, "__cause__", None))), kind
        assert [run.stdout for run in pool.run_map([b"a", b"b"], args=["upper", "upper"])] == [b"A", b"B"]
        assert sorted(worker_pids(pool)) == pids and pool.stats().killed == 0
    pool.shutdown()


def test_a_line_function_that_raises() -> None:
    in_a_program(line_functions_raise)


def progress_raises(pool: ProcessWasmPool, kind: str, what: str) -> None:
    """It runs in the thread that iterates, so it raises there, and the map is over."""

    def progress(done: int, total: int | None) -> None:
        throw(kind)

    export = "add" if what == "export" else (lambda instance, a, b: a + b)
    with pytest.raises((KINDS[kind], RuntimeError)):  # a generator may not pass on StopIteration
        list(pool.map(export, range(100), range(100), progress=progress))


@pytest.mark.parametrize("what", ["export", "callable"])
def test_a_progress_function_that_raises(what: str) -> None:
    in_a_program(one_pool, progress_raises, what)


def input_raises(pool: ProcessWasmPool, kind: str, what: str) -> None:
    """The iterable that a map reads."""

    def numbers() -> Any:
        yield from range(10)
        throw(kind)

    export = "same_i32" if what == "export" else (lambda instance, n: n)
    with pytest.raises((KINDS[kind], RuntimeError)):
        list(pool.map(export, numbers()))


@pytest.mark.parametrize("what", ["export", "callable"])
def test_an_input_that_raises(what: str) -> None:
    in_a_program(one_pool, input_raises, what)
