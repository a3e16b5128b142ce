"""How long to wait: what may be said, that every way to wait takes it alike, and what happens when time is up."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from decimal import Decimal
from fractions import Fraction
from typing import Any

import cloudpickle
import pytest
from bounded import raised, within
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, eventually, worker_pids
from test_instances import with_note

from procpool import BytesFunction, CallTimeout, ProcessWasmPool, WasiConfig

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import what tests need
HOST = FIXTURES / "host.wat"
BYTES = FIXTURES / "bytes.wat"
COMMAND = FIXTURES / "command.wasm"
CONVENTION: dict[str, Any] = {"alloc": "malloc", "free": "release"}
DAY = 24 * 3600.0
#: All of them long, and what they are counted in does not matter.  The system's own waits overflow at 24.8 days.
LENGTHS = [math.inf, 24.9 * DAY, 1e300, 10**400, Decimal("86400.5"), Decimal("Infinity"), Fraction(172801, 2)]
#: Not a length of time.
ODD = [True, False, "1", b"1", [], 1j, math.nan, Decimal("nan"), 0, 0.0, -1, -math.inf]
#: So long, in milliseconds, that the pool begins to keep the time of a job.
MOMENT = 30


def doze(milliseconds: int) -> None:
    time.sleep(milliseconds / 1000)


def nap(instance: Any, milliseconds: int = MOMENT) -> int:
    time.sleep(milliseconds / 1000)
    return milliseconds


async def _listed(results: Any) -> list[Any]:
    return [result async for result in results]


def _lease_call(pool: ProcessWasmPool, **how_long: Any) -> Any:
    with pool.instance() as lease:
        return lease.call("note", MOMENT, **how_long)


def _lease_export(pool: ProcessWasmPool, **how_long: Any) -> Any:
    with pool.instance() as lease:
        return lease.exports["note"](MOMENT, **how_long)


def _get(pool: ProcessWasmPool, **how_long: Any) -> None:
    pool.put(pool.get(**how_long))


def _instance(pool: ProcessWasmPool, **how_long: Any) -> Any:
    with pool.instance(**how_long) as lease:
        return lease.call("double", 2)


def _restart(pool: ProcessWasmPool, **how_long: Any) -> None:
    before = set(worker_pids(pool))
    pool.restart(**how_long)
    assert not before & set(worker_pids(pool))


Way = tuple[Any, str, Callable[..., Any], Any]
#: What is made with it: module, name of the argument, how to use it, and what that gives.
JOBS: dict[str, Way] = {
    "call": (HOST, "timeout", lambda pool, **t: pool.call("note", MOMENT, **t), None),
    "submit": (HOST, "timeout", lambda pool, **t: pool.submit("note", MOMENT, **t).result(), None),
    "submit a callable": (HOST, "timeout", lambda pool, **t: pool.submit(nap, **t).result(), MOMENT),
    "submit with a key": (HOST, "timeout", lambda pool, **t: pool.submit("note", MOMENT, key="k", **t).result(), None),
    "map": (HOST, "timeout", lambda pool, **t: list(pool.map("note", [MOMENT] * 3, **t)), [None] * 3),
    "map a callable": (HOST, "timeout", lambda pool, **t: list(pool.map(nap, [MOMENT] * 3, **t)), [MOMENT] * 3),
    "starmap": (HOST, "timeout", lambda pool, **t: list(pool.starmap("note", [(MOMENT,)], **t)), [None]),
    "unordered map": (HOST, "timeout", lambda pool, **t: list(pool.map("note", [1], ordered=False, **t)), [(0, None)]),
    "acall": (HOST, "timeout", lambda pool, **t: asyncio.run(pool.acall("note", MOMENT, **t)), None),
    "acall of a callable": (HOST, "timeout", lambda pool, **t: asyncio.run(pool.acall(nap, **t)), MOMENT),
    "amap": (HOST, "timeout", lambda pool, **t: asyncio.run(_listed(pool.amap("note", [MOMENT], **t))), [None]),
    "call_bytes": (
        BYTES,
        "timeout",
        lambda pool, **t: pool.call_bytes("packed", b"abc", returns="packed", **CONVENTION, **t),
        b"bcd",
    ),
    "submit_bytes": (
        BYTES,
        "timeout",
        lambda pool, **t: pool.submit_bytes("packed", b"abc", returns="packed", **CONVENTION, **t).result(),
        b"bcd",
    ),
    "run": (COMMAND, "timeout", lambda pool, **t: pool.run(["upper", "upper"], stdin=b"a", **t).stdout, b"A"),
    "run_map": (
        COMMAND,
        "timeout",
        lambda pool, **t: [run.stdout for run in pool.run_map([b"a"], args=["upper", "upper"], **t)],
        [b"A"],
    ),
    "acall_bytes": (
        BYTES,
        "timeout",
        lambda pool, **t: asyncio.run(pool.acall_bytes("packed", b"abc", returns="packed", **CONVENTION, **t)),
        b"bcd",
    ),
    "arun": (
        COMMAND,
        "timeout",
        lambda pool, **t: asyncio.run(pool.arun(["upper", "upper"], stdin=b"a", **t)).stdout,
        b"A",
    ),
}
ITEMS: dict[str, Way] = {
    "map": (HOST, "item_timeout", lambda pool, **t: list(pool.map("note", [MOMENT], **t)), [None]),
    "map a callable": (HOST, "item_timeout", lambda pool, **t: list(pool.map(nap, [MOMENT], **t)), [MOMENT]),
    "amap": (HOST, "item_timeout", lambda pool, **t: asyncio.run(_listed(pool.amap("note", [MOMENT], **t))), [None]),
}
LEASES: dict[str, Way] = {
    "get": (HOST, "timeout", _get, None),
    "instance": (HOST, "timeout", _instance, 4),
}
LEASED: dict[str, Way] = {
    "a lease's call": (HOST, "timeout", _lease_call, None),
    "a lease's export": (HOST, "timeout", _lease_export, None),
}
LIFE: dict[str, Way] = {
    "wait_ready": (KERNELS, "timeout", lambda pool, **t: pool.wait_ready(**t), None),
    "drain": (KERNELS, "timeout", lambda pool, **t: pool.drain(**t), None),
    "restart": (KERNELS, "timeout", _restart, None),
    "shutdown": (KERNELS, "timeout", lambda pool, **t: pool.shutdown(**t), None),
}
EVERY = {
    f"{kind} {name}": way
    for kind, ways in {"job": JOBS, "item": ITEMS, "lease": LEASES, "leased": LEASED, "life": LIFE}.items()
    for name, way in ways.items()
}


def pool_of(module: Any, **options: Any) -> ProcessWasmPool:
    if module == HOST:
        options["imports"] = with_note(doze)
    if module == COMMAND:
        options["wasi"] = WasiConfig()
    return ProcessWasmPool(module, **{"workers": 1, **options})


@pytest.fixture
def pools(nothing_left: None) -> Iterator[Callable[..., ProcessWasmPool]]:
    """Makes pools that are gone at the end, whatever is under way."""
    made: list[ProcessWasmPool] = []

    def make(module: Any, **options: Any) -> ProcessWasmPool:
        made.append(within(pool_of, module, **options))
        return made[-1]

    yield make
    for pool in made:
        within(pool.terminate)


Pools = Callable[..., ProcessWasmPool]


@pytest.fixture(scope="module")
def lasting() -> Iterator[dict[Any, ProcessWasmPool]]:
    """A pool of each module, for tests that do no harm to it."""
    pools = {module: within(pool_of, module) for module in (HOST, BYTES, COMMAND, KERNELS)}
    yield pools
    for pool in pools.values():
        within(pool.terminate)


Lasting = dict[Any, ProcessWasmPool]


@pytest.mark.parametrize("way", [way for way in EVERY if way != "life shutdown"])
def test_any_length_will_do(way: str, lasting: Lasting) -> None:
    module, argument, use, result = EVERY[way]
    for length in LENGTHS:
        assert within(use, lasting[module], **{argument: length}) == result, length
    assert within(lasting[module].stats).killed == 0


def test_any_length_will_do_for_a_shutdown(pools: Pools) -> None:
    for length in (math.inf, 10**400, Decimal("86400.5")):  # each takes a pool
        within(pools(KERNELS).shutdown, timeout=length)


@pytest.mark.parametrize("way", EVERY)
def test_what_is_no_length_is_refused_at_once(way: str, lasting: Lasting) -> None:
    """By name, and before anything is begun: the pool and the lease go on."""
    module, argument, use, result = EVERY[way]
    pool = lasting[module]
    before = within(pool.stats).calls
    for odd in ODD:
        error = raised(use, pool, **{argument: odd})
        assert isinstance(error, (TypeError, ValueError)), (odd, error)
        assert argument in str(error), (odd, error)
    assert within(pool.stats).calls == before, "nothing was sent"
    if way != "life shutdown":
        assert within(use, pool, **{argument: DEADLINE}) == result
    within(pool.drain)


def test_a_refused_length_costs_nobody_a_lease(pools: Pools) -> None:
    with pools(HOST).instance() as lease:
        assert lease.call("tick") == 1
        for odd in ODD:
            assert isinstance(raised(lease.call, "tick", timeout=odd), (TypeError, ValueError)), odd
        assert within(lease.call, "tick") == 2, "the same instance, and not called by any of the others"


@pytest.mark.parametrize("way", [way for way in EVERY if "map" in way and "run_map" not in way and "amap" not in way])
def test_a_map_refuses_before_it_is_iterated(way: str, lasting: Lasting) -> None:
    pool = lasting[HOST]
    export = nap if "callable" in way else "note"
    method, rows = (pool.starmap, [(1,)]) if "starmap" in way else (pool.map, [1])
    for odd in ODD:
        assert isinstance(raised(method, export, rows, **{EVERY[way][1]: odd}), (TypeError, ValueError)), odd


@pytest.mark.parametrize("length", LENGTHS, ids=lambda length: str(length)[:9])
def test_any_length_will_do_for_a_pool(length: Any, pools: Pools) -> None:
    options = ["timeout", "idle_expiry", "kill_grace", "full_timeout", "start_timeout"]
    pool = pools(MISBEHAVE, **dict.fromkeys(options, length))
    assert within(pool.call, "fine", 1) == 1
    assert isinstance(raised(pool.submit("spin", timeout=0.02).result), CallTimeout), "somebody keeps the time"
    assert within(lambda: list(pool.map("fine", range(10)))) == list(range(10))
    assert within(pool.call, "fine", 2) == 2
    within(pool.shutdown)


@pytest.mark.parametrize("option", ["timeout", "idle_expiry", "full_timeout", "start_timeout"])
def test_what_is_no_length_makes_no_pool(option: str, nothing_left: None) -> None:
    for odd in ODD:
        with pytest.raises((TypeError, ValueError), match=option):
            ProcessWasmPool(MISBEHAVE, 1, **{option: odd}).terminate()


def test_what_is_no_length_is_no_patience(nothing_left: None) -> None:
    """With ``kill_grace``, 0 is one."""
    for odd in ODD:
        if odd != 0 or isinstance(odd, bool):
            with pytest.raises((TypeError, ValueError), match="kill_grace"):
                ProcessWasmPool(MISBEHAVE, 1, kill_grace=odd).terminate()


# -- the pool's own limit, and none ----------------------------------------------------------------------------------------


#: Seconds; what takes several times as long is stopped by it.
DEFAULT = 0.15
LONGER = 400


def _unlimited(way: str, pool: ProcessWasmPool) -> Any:
    if way == "call":
        return pool.call("note", LONGER, timeout=math.inf)
    if way == "submit":
        return pool.submit("note", LONGER, timeout=math.inf).result()
    if way == "a callable":
        return pool.submit(nap, LONGER, timeout=math.inf).result() and None
    if way == "map":
        return next(pool.map("note", [LONGER], item_timeout=math.inf, timeout=math.inf))
    if way == "map of a callable":
        return next(pool.map(nap, [LONGER], item_timeout=math.inf, timeout=math.inf)) and None
    if way == "acall":
        return asyncio.run(pool.acall("note", LONGER, timeout=math.inf))
    with pool.instance(timeout=math.inf) as lease:
        return lease.call("note", LONGER, timeout=math.inf)


UNLIMITED = ["call", "submit", "a callable", "map", "map of a callable", "acall", "a lease's call"]


def test_infinity_lifts_the_pools_limit(pools: Pools) -> None:
    pool = pools(HOST, timeout=DEFAULT, kill_grace=0.1)
    for way in UNLIMITED:
        assert within(_unlimited, way, pool) is None, way
    # And None leaves it in force.
    assert isinstance(raised(pool.call, "note", 60_000, timeout=None), CallTimeout)
    within(pool.wait_ready, math.inf)  # for another worker
    assert within(pool.call, "double", 1, timeout=DEADLINE) == 2


# -- time passes in the queue too ------------------------------------------------------------------------------------------


def _occupied(pools: Pools, module: Any, **options: Any) -> ProcessWasmPool:
    """A pool whose one worker is busy for longer than anybody waits."""
    pool = pools(module, kill_grace=0.1, **options)
    running = pool.submit(nap, 3_600_000)
    eventually(lambda: bool(running.running() and pool.stats().busy), "the worker to be busy")
    return pool


def _expected(way: str) -> type[BaseException]:
    """What time running out raises: the map's own time is for its results, and a job's for the job."""
    if way.startswith("lease"):
        return TimeoutError
    return FutureTimeout if "map" in way else CallTimeout


def _queueing(module: Any) -> list[str]:
    """Ways whose time runs in the queue.  Not `run_map`, whose limit is for the runs alone."""
    ways = [*(f"job {name}" for name in JOBS if name != "run_map"), *(f"lease {name}" for name in LEASES)]
    return [way for way in ways if EVERY[way][0] == module]


@pytest.mark.parametrize("module", [HOST, BYTES, COMMAND], ids=lambda module: module.stem)
def test_time_runs_out_in_the_queue(module: Any, pools: Pools) -> None:
    pool = _occupied(pools, module)
    for way in _queueing(module):
        _, argument, use, _ = EVERY[way]
        assert type(raised(use, pool, **{argument: 0.1})) is _expected(way), way


@pytest.mark.parametrize("module", [HOST, BYTES, COMMAND], ids=lambda module: module.stem)
def test_time_runs_out_before_the_queue(module: Any, pools: Pools) -> None:
    """There is no room in it, and the limit is the caller's, not ``full_timeout``."""
    pool = _occupied(pools, module, max_pending=1, on_full="block")
    waiting = []
    while not pool.stats().pending:  # some may wait in the worker's pipe
        waiting.append(pool.submit(nap))
    for way in _queueing(module):
        _, argument, use, _ = EVERY[way]
        assert type(raised(use, pool, **{argument: 0.1})) is _expected(way), way
    assert not any(future.done() for future in waiting)


def test_waiting_for_the_pool_ends_in_time(pools: Pools) -> None:
    pool = _occupied(pools, KERNELS)
    for way in (pool.drain, pool.restart, pool.shutdown):
        error = raised(way, timeout=0.1)
        assert isinstance(error, TimeoutError), error


def test_the_pools_limit_holds_in_the_queue(pools: Pools) -> None:
    pool = pools(KERNELS, timeout=DEFAULT, kill_grace=0.1)
    running = pool.submit(nap, 3_600_000, timeout=math.inf)
    eventually(running.running, "the worker to be busy")
    for way in (lambda: pool.call("add", 1, 2), lambda: pool.submit("add", 1, 2).result()):
        assert isinstance(raised(way), CallTimeout)
    assert not running.done()


def test_no_wait_at_all_is_kept_for_those_who_do_not_wait(pools: Pools) -> None:
    """A callback that submits into a full pool, and an event loop, must not stand still; their jobs end in time too."""
    pool = _occupied(pools, HOST, max_pending=1, on_full="block")
    while not pool.stats().pending:
        pool.submit(nap)

    async def both() -> tuple[BaseException | None, int]:
        ticks = 0
        task = asyncio.ensure_future(pool.acall("double", 1, timeout=0.3))
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return task.exception(), ticks

    error, ticks = within(lambda: asyncio.run(both()))
    assert isinstance(error, CallTimeout) and ticks > 2, "the loop went on turning"


def test_a_bytes_function_in_a_map(pools: Pools) -> None:
    pool = pools(BYTES)
    function = BytesFunction("packed", returns="packed", **CONVENTION)
    for length in LENGTHS:
        assert within(lambda length=length: list(pool.map(function, [b"abc"] * 3, item_timeout=length))) == [b"bcd"] * 3
