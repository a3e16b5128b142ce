"""Forks of a program that uses pools.  In the child they are closed, and say so at once; new ones work; the parent sees
nothing of it."""

from __future__ import annotations

import ast
import asyncio
import faulthandler
import gc
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from bounded import in_a_program
from conftest import DEADLINE, FIXTURES, KERNELS, eventually
from test_instances import IMPORTS

import procpool
from procpool import PoolClosed, ProcessWasmPool, WasiConfig
from procpool.supervisor import launch as launcher

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import what tests need
COMMAND = FIXTURES / "command.wasm"
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # Python 3.12 on, of threads


def fork(work: Callable[[], object], leave: Callable[[int], object] = os._exit) -> int:
    """The pid of a child that does some work.  It is killed if that does not end, and tells of what goes wrong."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        threading.settrace(None)  # type: ignore[arg-type]
        faulthandler.register(signal.SIGALRM, chain=True)  # it says where it hangs, and dies
        signal.alarm(int(DEADLINE) - 1)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    leave(code)
    raise AssertionError("unreachable")


def expect_success(pid: int) -> None:
    found: list[int] = []

    def ended() -> bool:
        done, status = os.waitpid(pid, os.WNOHANG)
        found.append(status)
        return done == pid

    eventually(ended, "the child to end")
    assert os.waitstatus_to_exitcode(found[-1]) == 0, f"the child ended with {os.waitstatus_to_exitcode(found[-1])}"


def new_pools_work() -> None:
    with ProcessWasmPool(KERNELS, 1) as pool:
        assert pool.submit("add", 1, 2).result(DEADLINE) == 3
        assert pool.call("add", 1, 2) == 3
        assert list(pool.map("add", range(10), range(10))) == list(range(0, 20, 2))


async def _async(make: Callable[[], Any]) -> Any:
    return await make()


async def _async_list(make: Callable[[], Any]) -> Any:
    return [result async for result in make()]


#: Everything that can be done with a pool.
USES: dict[str, Callable[[ProcessWasmPool], object]] = {
    "call": lambda pool: pool.call("double", 1),
    "submit": lambda pool: pool.submit("double", 1),
    "submit a callable": lambda pool: pool.submit(lambda instance: 1),
    "submit with a key": lambda pool: pool.submit("double", 1, key="k", priority=1),
    "map": lambda pool: list(pool.map("double", [1])),
    "map a callable": lambda pool: list(pool.map(lambda instance, n: n, [1])),
    "starmap": lambda pool: list(pool.starmap("double", [(1,)])),
    "map_array": lambda pool: pool.map_array("double", [1, 2]),
    "get": lambda pool: pool.get(),
    "instance": lambda pool: pool.instance().__enter__(),
    "acall": lambda pool: asyncio.run(_async(lambda: pool.acall("double", 1))),
    "amap": lambda pool: asyncio.run(_async_list(lambda: pool.amap("double", [1]))),
    "resize": lambda pool: pool.resize(3),
    "restart": lambda pool: pool.restart(),
    "drain": lambda pool: pool.drain(),
    "wait_ready": lambda pool: pool.wait_ready(),
    "stats": lambda pool: pool.stats(),
}


def used_in_a_child() -> None:
    warnings.simplefilter("ignore", ResourceWarning)
    with ProcessWasmPool(FIXTURES / "host.wat", 3, imports=IMPORTS, max_pending=5) as pool:
        pool.wait_ready(DEADLINE)
        lease = pool.get()
        assert lease.call("tick") == 1
        results = pool.map("double", range(100), chunksize=10)
        objects = pool.map(lambda instance, n: 2 * n, range(20))
        assert next(results) == next(objects) == 0
        unstarted = pool.map("double", range(100))
        leasing = pool.instance()

        def use() -> None:
            for name, way in USES.items():
                with pytest.raises(PoolClosed, match="fork"):
                    way(pool)
                    raise AssertionError(name)
            for name, step in {
                "call": lambda: lease.call("tick"),
                "read": lambda: lease.memory[0:4],
                "write": lambda: lease.memory.__setitem__(slice(0, 4), b"abcd"),
                "global": lambda: lease.globals["answer"],
                "grow": lambda: lease.grow(1),
                "export": lease.exports["tick"],
                "enter": leasing.__enter__,
            }.items():
                with pytest.raises(PoolClosed, match="fork"):
                    step()
                    raise AssertionError(name)
            with pytest.raises(PoolClosed):
                list(unstarted)
            repr(pool)
            results.close()
            objects.close()
            with suppress(PoolClosed):
                pool.put(lease)
            pool.shutdown()
            pool.shutdown(cancel_futures=True)
            pool.shutdown(wait=False)
            pool.terminate()
            with pool:
                pass
            with pytest.raises(PoolClosed, match="fork"):
                pool.call("double", 1)
            new_pools_work()

        expect_success(fork(use))
        assert lease.call("tick") == 2, "the child did not speak for us"
        assert list(results) == list(range(2, 200, 2)) and list(objects) == list(range(2, 40, 2))
        pool.put(lease)
        assert pool.call("double", 4) == 8
    assert pool.stats().crashed == pool.stats().killed == 0


def test_every_use_in_a_child_raises() -> None:
    in_a_program(used_in_a_child)


def commands_in_a_child() -> None:
    with ProcessWasmPool(COMMAND, 1, wasi=WasiConfig()) as pool:

        def use() -> None:
            with pytest.raises(PoolClosed, match="fork"):
                pool.run(["upper", "upper"], stdin=b"a")
            with pytest.raises(PoolClosed, match="fork"):
                list(pool.run_map([b"a"], args=["upper", "upper"]))

        expect_success(fork(use))
        assert pool.run(["upper", "upper"], stdin=b"a").stdout == b"A"


def test_commands_in_a_child() -> None:
    in_a_program(commands_in_a_child)


def iterated_in_a_child() -> None:
    """A map that was under way has its results in the parent only; here it ends, and does not wait."""
    with ProcessWasmPool(FIXTURES / "misbehave.wasm", 2, kill_grace=0.1) as pool:
        endless = [
            pool.starmap("spin", [()] * 4, item_timeout=2),
            pool.starmap("spin", [()] * 4, item_timeout=2, ordered=False),
            pool.map(lambda instance, n: instance.call("spin"), range(4), item_timeout=2),
        ]

        def use() -> None:
            for results in endless:
                with pytest.raises(PoolClosed):
                    next(results)

        expect_success(fork(use))
        for results in endless:
            results.close()


def test_maps_that_are_under_way() -> None:
    in_a_program(iterated_in_a_child)


def dropped_in_a_child() -> None:
    """What the child drops is collected there, and leaves the parent's alone."""
    warnings.simplefilter("ignore", ResourceWarning)
    with ProcessWasmPool(KERNELS, 2) as pool:
        pool.wait_ready(DEADLINE)
        held: dict[str, Any] = {"lease": pool.get(), "map": pool.map("add", range(100), range(100)), "pool": pool}
        lease = held["lease"]

        def use() -> None:
            nonlocal pool, lease
            del pool, lease
            held.clear()
            gc.collect()
            new_pools_work()

        child = fork(use)
        expect_success(child)
        assert lease.call("add", 1, 2) == 3
        assert list(held["map"]) == list(range(0, 200, 2))
        pool.put(lease)


def test_dropped_in_a_child() -> None:
    in_a_program(dropped_in_a_child)


# -- forked at any moment --------------------------------------------------------------------------------------------------


def guarded_lines() -> set[tuple[str, int]]:
    """The first line of the library inside each ``with``: those that hold locks are among them."""
    lines = set()
    for file in Path(procpool.__file__).parent.rglob("*.py"):
        if "worker" not in file.parent.name:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.With):
                    lines.add((str(file), node.body[0].lineno))
    return lines


class Stops:
    """Stops each thread that is started from now on at each of some lines, once, until it is told to go on."""

    def __init__(self, lines: set[tuple[str, int]]) -> None:
        self._lines = lines
        self._files = {file for file, _ in lines}
        self.queue: queue.SimpleQueue[tuple[tuple[str, int], threading.Event] | None] = queue.SimpleQueue()
        threading.settrace(self._trace)

    def _trace(self, frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in self._files:
            return None
        where = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and where in self._lines:
            self._lines.discard(where)
            go = threading.Event()
            self.queue.put((where, go))
            go.wait()
        return self._trace

    def let_go(self) -> None:
        """Stop nobody any more."""
        threading.settrace(None)  # type: ignore[arg-type]
        self._lines.clear()

        def wave_on() -> None:
            while (stop := self.queue.get()) is not None:
                stop[1].set()

        threading.Thread(target=wave_on, daemon=True).start()


def forked_under_locks(what: str) -> None:
    """With each lock of the library held by a thread that does not exist in the child."""
    with ProcessWasmPool(KERNELS, 1) as first:  # so that modules are imported, and nobody holds the import lock
        list(first.map("add", [1], [2]))
    lines = sorted(guarded_lines())
    # A new pool in the child takes long, and only what is shared by all pools could be in its way: a sample will do.
    stops = Stops(set(lines[:: 5 if what == "new" else 1]))
    children: list[tuple[tuple[str, int], int]] = []
    pools: list[ProcessWasmPool] = []
    failures: list[BaseException] = []

    def work() -> None:
        pool = ProcessWasmPool(KERNELS, 1, max_pending=50)
        pools.append(pool)
        futures = [pool.submit("add", n, 1, priority=n % 3, key=n % 2 or None) for n in range(20)]
        for future in futures:
            future.add_done_callback(lambda future: None)
        futures[-1].cancel()
        [future.result(DEADLINE) for future in futures[:-1]]
        pool.call("add", 1, 2)
        list(pool.map("add", range(100), range(100)))
        list(pool.map(lambda instance, n: n, range(10)))
        with pool.instance() as lease:
            lease.call("add", 1, 2)
        pool.drain(DEADLINE)
        pool.restart(DEADLINE)
        assert pool.call("add", 1, 2, timeout=DEADLINE) == 3
        pool.shutdown()

    def whole() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            stops.queue.put(None)

    thread = threading.Thread(target=whole, daemon=True)
    thread.start()
    while (stop := stops.queue.get(timeout=DEADLINE)) is not None:
        where, go = stop
        children.append((where, fork(new_pools_work if what == "new" else lambda: _closed(pools))))
        go.set()
        if what == "new" and len(children) % 4 == 0:  # not all of them at once
            expect_success(children[-1][1])
            children[-1] = where, 0
    stops.let_go()
    thread.join(DEADLINE)
    assert len(children) > 5
    for where, pid in children:
        if pid:
            try:
                expect_success(pid)
            except AssertionError as error:
                raise AssertionError(f"forked at {where}: {error}") from None
    assert failures == []


def _closed(pools: list[ProcessWasmPool]) -> None:
    """The old ones in the child, if there were any by then."""
    for pool in pools:
        pool.shutdown()
        pool.terminate()
        for name in ("submit", "call", "drain", "map", "get", "stats"):
            with pytest.raises(PoolClosed, match="fork"):
                getattr(pool, name)("add", *_ARGS[name]) if name in _ARGS else USES[name](pool)
        repr(pool)


_ARGS: dict[str, Any] = {"submit": (1, 2), "call": (1, 2), "map": ([1], [2])}


@pytest.mark.parametrize("what", ["old", "new"])
def test_a_fork_under_each_lock(what: str) -> None:
    in_a_program(forked_under_locks, what)


def forked_under_load() -> None:
    """Many threads, many forks, and the locks as they come."""
    sys.setswitchinterval(1e-5)
    with ProcessWasmPool(KERNELS, 2) as pool:
        pool.wait_ready(DEADLINE)
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                futures = [pool.submit("add", n, 1) for n in range(20)]
                for future in futures:
                    future.add_done_callback(lambda future: None)
                assert [future.result(DEADLINE) for future in futures] == list(range(1, 21))
                assert list(pool.map("add", range(20), range(20))) == list(range(0, 40, 2))

        threads = [threading.Thread(target=load, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(15):
            expect_success(fork(lambda: _closed([pool])))
        for _ in range(3):
            expect_success(fork(new_pools_work))
        stop.set()
        for thread in threads:
            thread.join(DEADLINE)
        assert pool.call("add", 1, 2) == 3


def test_forks_under_load() -> None:
    in_a_program(forked_under_load)


# -- how children end ------------------------------------------------------------------------------------------------------


def child_exits() -> None:
    """By the interpreter's own end, with exit handlers and all."""
    with ProcessWasmPool(KERNELS, 2) as pool:
        pool.wait_ready(DEADLINE)
        future = pool.submit("fib", 25)
        expect_success(fork(lambda: None, leave=sys.exit))
        assert future.result(DEADLINE) == 75025
        assert [pool.call("add", n, 1) for n in range(50)] == list(range(1, 51))


def test_a_child_that_exits() -> None:
    assert in_a_program(child_exits) == ""


def child_of_multiprocessing() -> None:
    with ProcessWasmPool(KERNELS, 2) as pool:
        pool.wait_ready(DEADLINE)

        def work() -> None:
            with pytest.raises(PoolClosed):
                pool.call("add", 1, 2)
            new_pools_work()

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join(DEADLINE)
        assert process.exitcode == 0
        assert pool.call("add", 1, 2) == 3


def test_a_child_of_multiprocessing() -> None:
    in_a_program(child_of_multiprocessing)


def child_in_a_with_block() -> None:
    """It leaves the block that its parent entered, normally and by an exception."""
    parent = os.getpid()
    for error in (None, KeyError, KeyboardInterrupt):
        pid = 0
        try:
            with ProcessWasmPool(KERNELS, 2) as pool:
                pool.submit("add", 1, 2)
                pid = os.fork()
                if not pid:
                    signal.alarm(int(DEADLINE) - 1)
                    if error is not None:
                        raise error
                else:
                    expect_success(pid)
                    assert pool.call("add", 1, 2) == 3
        except BaseException as caught:
            if os.getpid() == parent or type(caught) is not error:
                traceback.print_exc()
                os._exit(1)
        if os.getpid() != parent:
            os._exit(0)


def test_a_child_that_leaves_its_parents_block() -> None:
    in_a_program(child_in_a_with_block)


def grandchildren() -> None:
    """Each generation has a pool of its own, and is told of those of its elders."""
    with ProcessWasmPool(KERNELS, 1) as pool:

        def child() -> None:
            with ProcessWasmPool(KERNELS, 1) as second:

                def grandchild() -> None:
                    for old in (pool, second):
                        with pytest.raises(PoolClosed, match="fork"):
                            old.call("add", 1, 2)
                    new_pools_work()

                expect_success(fork(grandchild))
                assert second.call("add", 1, 2) == 3

        expect_success(fork(child))
        assert pool.call("add", 1, 2) == 3


def test_grandchildren() -> None:
    in_a_program(grandchildren)


def test_a_fork_in_the_middle_of_a_launch_keeps_nothing(monkeypatch: pytest.MonkeyPatch, nothing_left: None) -> None:
    """What a worker is to get is the parent's for a moment.  A child that kept its ends would hide the worker's death."""
    launch = launcher.TemplateLauncher.launch
    children: list[int] = []

    def forking(self: launcher.TemplateLauncher, id: int, slot: int, fds: Sequence[int]) -> None:
        def look() -> None:
            for fd in fds:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(fd)

        children.append(fork(look))
        launch(self, id, slot, fds)

    monkeypatch.setattr(launcher.TemplateLauncher, "launch", forking)
    with ProcessWasmPool(KERNELS, 1, start_method="forkserver") as pool:
        for child in children:
            expect_success(child)
        assert pool.call("add", 1, 2) == 3
    assert children


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_fork_while_an_interpreter_is_started_keeps_nothing(
    method: str, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    """The template's own end of its socket is the parent's for a moment too."""
    start = launcher._start
    children: list[int] = []

    def forking(inheritance: launcher.Inheritance, code: str, *args: int, fds: Sequence[int]) -> Any:
        def look() -> None:
            for fd in (*fds, *inheritance.fds):
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(fd)

        children.append(fork(look))
        return start(inheritance, code, *args, fds=fds)

    monkeypatch.setattr(launcher, "_start", forking)
    with ProcessWasmPool(KERNELS, 1, start_method=method) as pool:  # type: ignore[arg-type]
        for child in children:
            expect_success(child)
        assert pool.call("add", 1, 2) == 3
    assert children


def test_a_fork_that_python_is_not_told_of(nothing_left: None) -> None:
    program = f"""
import ctypes, os, sys
from procpool import PoolClosed, ProcessWasmPool
pool = ProcessWasmPool({str(KERNELS)!r}, workers=1)
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    for begin in (lambda: pool.submit("add", 1, 2), pool.get, lambda: pool.map("add", [1], [2])):
        try:
            begin()
        except PoolClosed as error:
            assert "before a fork" in str(error)
        else:
            os._exit(3)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert pool.call("add", 1, 2) == 3
"""
    at_once = (f"    {end}sys.exit(7)\n    for begin" for end in ("", "pool.shutdown(); "))
    for text in (program, *(program.replace("    for begin", begin) for begin in at_once)):
        # In a group of its own: a child that hangs is killed with its parent.
        with subprocess.Popen([sys.executable, "-c", text], start_new_session=True) as process:
            try:
                assert process.wait(DEADLINE) == 0
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
