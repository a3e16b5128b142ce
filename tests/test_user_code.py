"""The user's code that runs in the parent: it may dawdle, raise, and use the pool, and nobody else pays."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from bounded import pool_that_goes, run_script, within
from conftest import DEADLINE, FIXTURES, eventually, worker_pids
from test_instances import IMPORTS, with_note

from procpool import CallTimeout, OutputLimit, PoolEvent, ProcessWasmPool, WasiConfig, WorkerCrashed

HOST = FIXTURES / "host.wat"
#: A command that prints "said" and a newline.  With a second argument it then loops for ever; with n > 2 of them it prints
#: n - 2 times 64 KiB without a newline instead.
GUEST = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
  (memory (export "memory") 3)
  (data (i32.const 64) "said\\0a")
  (func $spin (export "spin") (loop $again (br $again)))
  (func (export "fine") (param i32) (result i32) (local.get 0))
  (func $print (param $from i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $from)) (i32.store (i32.const 4) (local.get $size))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start") (local $n i32)
    (drop (call $args (i32.const 16) (i32.const 20)))
    (local.set $n (i32.sub (i32.load (i32.const 16)) (i32.const 2)))
    (if (i32.le_s (local.get $n) (i32.const 0))
      (then
        (call $print (i32.const 64) (i32.const 5))
        (if (i32.eqz (local.get $n)) (then (call $spin))))
      (else
        (memory.fill (i32.const 65536) (i32.const 120) (i32.const 65536))
        (loop $next
          (call $print (i32.const 65536) (i32.const 65536))
          (local.set $n (i32.sub (local.get $n) (i32.const 1)))
          (br_if $next (local.get $n)))))))"""

# -- the occasions on which code of the user runs in the parent --------------------------------------------------------


class Armed:
    """What runs on them; set in the parent only."""

    hook: Callable[[], None] | None = None
    crashes = 0  #: that were told


def run_hook(*_: object) -> None:
    if Armed.hook is not None:
        Armed.hook()


def rebuilt_error() -> Exception:
    run_hook()
    return LookupError("rebuilt")


class HookedResult:
    """Runs the hook when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return run_hook, ()


class HookedError(Exception):
    """Likewise."""

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt_error, ()


class HookedHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        run_hook()


class HookedFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        run_hook()
        return True


handled, filtered = logging.getLogger("guest.handled"), logging.getLogger("guest.filtered")


def wait_for(instance: Any, path: str) -> str:
    while not os.path.exists(path):
        pass
    return "done"


def log_to(instance: Any, name: str) -> str:
    logging.getLogger(name).warning("logged")
    return "done"


def pid_of(instance: Any) -> int:
    return os.getpid()


def raise_hooked(instance: Any) -> None:
    raise HookedError("raised in the worker")


def by_callback(pool: ProcessWasmPool, path: Path) -> Future[Any]:
    future = pool.submit(wait_for, str(path))
    future.add_done_callback(run_hook)  # before it is done, or it would run here
    path.touch()
    return future


def by_line(pool: ProcessWasmPool, path: Path) -> Future[Any]:
    return pool.submit_run(["x"], stdout=run_hook)


def by_event(pool: ProcessWasmPool, path: Path) -> Future[Any]:
    worker = pool.submit(pid_of).result(DEADLINE)  # which lives, unlike one of those that the pool still knows, perhaps
    os.kill(worker, signal.SIGKILL)
    return pool.submit("fine", 1)


#: On which occasion -> what brings it about.
OCCASIONS: dict[str, Callable[[ProcessWasmPool, Path], Future[Any]]] = {
    "done-callback": by_callback,
    "line function": by_line,
    "logging handler": lambda pool, path: pool.submit(log_to, "guest.handled"),
    "logging filter": lambda pool, path: pool.submit(log_to, "guest.filtered"),
    "unpickling a result": lambda pool, path: pool.submit(lambda instance: HookedResult()),
    "unpickling an exception": lambda pool, path: pool.submit(raise_hooked),
    "on_event": by_event,
}


def on_event(event: PoolEvent) -> None:
    if event.kind == "crashed":
        try:
            run_hook()
        finally:
            Armed.crashes += 1


def guest_pool(workers: int) -> Any:
    return pool_that_goes(GUEST, workers=workers, wasi=WasiConfig(), on_event=on_event, kill_grace=DEADLINE)


@pytest.fixture(scope="module")
def shared() -> Iterator[ProcessWasmPool]:
    with guest_pool(2) as pool:
        yield pool


@pytest.fixture
def guests(shared: ProcessWasmPool) -> Iterator[ProcessWasmPool]:
    """A pool with two idle workers, and nothing left to tell of what was done with it before."""
    Armed.crashes = shared.stats().crashed
    yield shared
    Armed.hook = None
    eventually(lambda: shared.stats().idle == 2, "both workers")
    eventually(lambda: Armed.crashes == shared.stats().crashed, "all events to be told")


@pytest.fixture(autouse=True)
def hooked() -> Iterator[None]:
    logger_parts = HookedHandler(), HookedFilter()
    handled.addHandler(logger_parts[0])
    filtered.addFilter(logger_parts[1])
    yield
    Armed.hook = None
    handled.removeHandler(logger_parts[0])
    filtered.removeFilter(logger_parts[1])


def others_are_served(pool: ProcessWasmPool) -> None:
    assert pool.submit("fine", 7).result(DEADLINE) == 7
    assert isinstance(pool.submit("spin", timeout=0.2).exception(DEADLINE), CallTimeout)
    assert isinstance(pool.submit_run(["x", "spin"], timeout=0.2).exception(DEADLINE), CallTimeout)
    assert [pool.call("fine", n, timeout=DEADLINE) for n in range(10)] == list(range(10))
    assert list(pool.map("fine", range(1000), timeout=DEADLINE)) == list(range(1000))
    lines: list[str] = []
    assert pool.submit_run(["x"], stdout=lines.append).result(DEADLINE).returncode == 0 and lines == ["said"]
    called = threading.Event()
    pool.submit("fine", 1).add_done_callback(lambda future: called.set())
    assert called.wait(DEADLINE)


# -- it dawdles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("occasion", OCCASIONS)
def test_who_dawdles_holds_up_nobody_else(guests: ProcessWasmPool, occasion: str, tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def dawdle() -> None:
        entered.set()
        go_on.wait(3 * DEADLINE)

    Armed.hook = dawdle
    try:
        future = OCCASIONS[occasion](guests, tmp_path / "go")
        assert entered.wait(DEADLINE)
        Armed.hook = None
        others_are_served(guests)
        eventually(lambda: guests.stats().idle == 2, "both workers")
        victim = worker_pids(guests)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: guests.stats().idle == 2 and victim not in worker_pids(guests), "a replacement")
    finally:
        go_on.set()
    future.exception(DEADLINE)


def test_line_functions_keep_their_order_and_are_through_before_the_run_is(nothing_left: None) -> None:
    """They have threads of their own, so this does not come by itself."""
    with pool_that_goes(FIXTURES / "command.wasm", workers=2, wasi=WasiConfig()) as pool:
        runs = []
        for _ in range(4):
            lines: list[str] = []
            seen_at_end: list[int] = []
            future = pool.submit_run(["x", "lines", "300"], stdout=lines.append)
            future.add_done_callback(lambda _, lines=lines, seen=seen_at_end: seen.append(len(lines)))  # type: ignore[misc]
            runs.append((future, lines, seen_at_end))
        for future, lines, seen_at_end in runs:
            assert future.result(DEADLINE).returncode == 0
            assert lines == [*(f"line {n}" for n in range(300)), "no end"]
            eventually(lambda seen=seen_at_end: seen == [301], "the callback, after all lines")  # type: ignore[misc]


def test_callbacks_of_a_future_keep_their_order(nothing_left: None, tmp_path: Path) -> None:
    with guest_pool(2) as pool:
        called: list[int] = []
        future = pool.submit(wait_for, str(tmp_path / "go"))
        for n in range(100):
            future.add_done_callback(lambda _, n=n: called.append(n))  # type: ignore[misc]
        (tmp_path / "go").touch()
        eventually(lambda: len(called) == 100, "all callbacks")
        assert called == list(range(100))


# -- it raises ---------------------------------------------------------------------------------------------------------


def told(error: BaseException | None) -> str:
    """All that an exception and its causes say."""
    text = ""
    while error is not None:
        text += f"{type(error).__name__}: {error}\n"
        error = error.__cause__ or error.__context__
    return text


@pytest.mark.parametrize("occasion", OCCASIONS)
def test_what_it_raises_is_not_the_workers_crime(
    guests: ProcessWasmPool, occasion: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pids, before = worker_pids(guests), guests.stats()
    for kind in (ValueError, SystemExit, KeyboardInterrupt):
        raised: list[BaseException] = []

        def fail(kind: type[BaseException] = kind, raised: list[BaseException] = raised) -> None:
            raised.append(kind("by the user"))
            raise raised[0]

        def logged(raised: list[BaseException] = raised) -> bool:
            return any(record.exc_info and record.exc_info[1] is raised[0] for record in caplog.records)

        Armed.hook = fail
        future = OCCASIONS[occasion](guests, tmp_path / kind.__name__)
        eventually(lambda raised=raised: bool(raised), "the user's code")  # type: ignore[misc]
        error = future.exception(DEADLINE)
        Armed.hook = None
        if occasion in ("line function", "unpickling a result"):
            assert error is raised[0], "the job's own exception"
        elif occasion == "unpickling an exception":
            assert error is not None and not isinstance(error, WorkerCrashed)
            assert "raised in the worker" in told(error), "why the job failed is not lost"
        else:
            assert error is None, "the job has done its work"
            eventually(logged, "a log record of it")
    others_are_served(guests)
    stats = guests.stats()
    if occasion != "on_event":
        assert sorted(worker_pids(guests)) == sorted(pids)
        assert (stats.crashed, stats.killed) == (before.crashed, before.killed)


def test_a_line_function_that_raises_stops_its_command(nothing_left: None) -> None:
    def fail(line: str) -> None:
        raise LookupError(line)

    with guest_pool(1) as pool:
        pids = worker_pids(pool)
        error = pool.submit_run(["x", "spin"], stdout=fail).exception(DEADLINE)
        assert isinstance(error, LookupError) and error.args == ("said",)
        assert pool.submit_run(["x"]).result(DEADLINE).stdout == b"said\n", "the worker serves on"
        assert worker_pids(pool) == pids


def raise_unknown(*_: object) -> None:
    """Raise what pickles in a worker, as the class is in a module there, and cannot be unpickled here."""
    module: Any = types.ModuleType("only_in_the_worker")
    module.Unknown = type("Unknown", (Exception,), {"__module__": "only_in_the_worker"})
    sys.modules["only_in_the_worker"] = module
    raise module.Unknown("the real reason")


def first_error(results: Any) -> BaseException:
    return next(iter(results))  # type: ignore[no-any-return]


def lease_and_call(pool: ProcessWasmPool) -> None:
    with pool.instance() as lease:
        lease.call("note", 1)


@pytest.fixture(scope="module")
def lacking() -> Iterator[ProcessWasmPool]:
    """Its host function raises what only its worker can import."""
    with pool_that_goes(HOST, workers=1, imports=with_note(raise_unknown)) as pool:
        yield pool


@pytest.mark.parametrize(
    ("way", "action"),
    [
        ("submit of a callable", lambda pool: pool.submit(raise_unknown).result(DEADLINE)),
        ("submit of an export", lambda pool: pool.submit("note", 1).result(DEADLINE)),
        ("call", lambda pool: pool.call("note", 1)),
        ("map of a callable", lambda pool: list(pool.map(raise_unknown, [1]))),
        ("map of an export", lambda pool: list(pool.map("note", [1, 2, 3]))),
        ("lease", lease_and_call),
    ],
)
def test_an_exception_class_that_only_the_worker_can_import(lacking: ProcessWasmPool, way: str, action: Any) -> None:
    pids = worker_pids(lacking)
    with pytest.raises(Exception) as caught:
        within(action, lacking)
    assert "the real reason" in told(caught.value)
    assert not isinstance(caught.value, WorkerCrashed)
    assert lacking.submit("tick").result(DEADLINE) == 1, "by a new instance"
    assert worker_pids(lacking) == pids and lacking.stats().killed == 0


def test_an_initializer_that_raises_what_only_the_worker_can_import(nothing_left: None) -> None:
    with pytest.raises(Exception) as caught:
        within(ProcessWasmPool, HOST, 1, imports=IMPORTS, initializer=raise_unknown)
    assert "the real reason" in told(caught.value)


def test_an_exception_in_a_map_that_only_the_worker_can_import_stands_in_its_place() -> None:
    def odd(instance: Any, n: int) -> int:
        if n % 2:
            raise_unknown()
        return n

    with pool_that_goes(HOST, workers=1, imports=IMPORTS) as pool:
        outcomes = list(pool.map(odd, range(4), return_exceptions=True, timeout=DEADLINE))
    assert outcomes[::2] == [0, 2] and all("the real reason" in told(error) for error in outcomes[1::2])


# -- it uses the pool --------------------------------------------------------------------------------------------------

#: For one use of the pool, on some occasions; the arguments are the use, a directory and these.
INSIDE = """
import sys, threading
from pathlib import Path
import test_user_code as cases
from procpool import WasiConfig, ProcessWasmPool

cases.handled.addHandler(cases.HookedHandler())
cases.filtered.addFilter(cases.HookedFilter())
done = threading.Event()

def use():
    cases.Armed.hook = None  # what is done here is an occasion too
    assert pool.submit("fine", 1).result() == 1
    assert pool.call("fine", 2) == 2
    assert list(pool.map("fine", range(3))) == [0, 1, 2]
    with pool.instance() as lease:
        assert lease.call("fine", 3) == 3
    assert pool.run(["x"]).stdout == b"said\\n"
    pool.wait_ready()

def shutdown():
    cases.Armed.hook = None
    pool.shutdown()

def terminate():
    cases.Armed.hook = None
    pool.terminate()

def hook():
    globals()[sys.argv[1]]()
    print("used", end=" ", flush=True)
    done.set()

for number, occasion in enumerate(sys.argv[3:]):
    done.clear()
    print(occasion, end=" ", flush=True)
    pool = ProcessWasmPool(cases.GUEST, 1, wasi=WasiConfig(), on_event=cases.on_event)
    cases.Armed.hook = hook
    future = cases.OCCASIONS[occasion](pool, Path(sys.argv[2], str(number)))
    done.wait()
    pool.shutdown()
    future.exception()
    print("end", flush=True)
"""


@pytest.mark.parametrize("use", ["use", "shutdown", "terminate"])
@pytest.mark.parametrize("half", [0, 1])
def test_it_may_use_the_pool(half: int, use: str, tmp_path: Path) -> None:
    """Blocking calls too; and it may close the pool."""
    occasions = list(OCCASIONS)[half::2]
    done = run_script(INSIDE, use, str(tmp_path), *occasions)
    assert done.stdout.splitlines() == [f"{occasion} used end" for occasion in occasions], done.stderr
    assert done.returncode == 0, done.stderr


# -- there is very much of it ------------------------------------------------------------------------------------------


def test_a_line_without_an_end_is_bounded_by_max_output(nothing_left: None) -> None:
    with guest_pool(2) as pool:
        lines: list[str] = []
        future = pool.submit_run(["x"] * (2 + 40), stdout=lines.append, max_output=1 << 20)
        assert isinstance(future.exception(DEADLINE), OutputLimit)
        assert sum(map(len, lines)) <= 1 << 20
        assert pool.submit_run(["x"] * (2 + 8), stdout=lines.append, max_output=1 << 20).result(DEADLINE).returncode == 0
        assert len(lines[-1]) == 8 << 16
