"""Maps: many items of one export, and how well chunks fit their cost."""

from __future__ import annotations

import operator
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any

import wasmtime

from procpool import FuncType, ProcessWasmPool, wire
from procpool.binary import Declared
from procpool.engine import loading_engine
from procpool.worker import ffi
from procpool.worker.driver import Drivers, signature_of_driver
from procpool.worker.host import HostCalls

from . import floors, peers
from .latency import pool
from .ways import FLOOR, PEER, Timed, Way, figure, run, timed, within

INTS = "map add over 1,000,000 Python ints, each"
ARRAYS = "map_array add over 10,000,000 int32, each"
FIB = "map fib(20) over 20,000"
UNEVEN = "600 items of 10 us to 10 ms, over the ideal schedule"
GROWTH = "map add over n Python ints, each"
ARRAY_GROWTH = "map_array add over n int32, each"
EFFICIENCY = "map of items that take x seconds, over running them on all workers without any cost"
MILLION = 1_000_000
FEWER = 100_000  # for peers that take a minute over a million


def map_ints(count: int, p: ProcessWasmPool) -> Timed:
    xs = list(range(count))
    return timed(lambda: sum(1 for _ in p.map("add", xs, xs)))


def map_array(count: int, p: ProcessWasmPool) -> Timed:
    import numpy

    xs, out = numpy.arange(count, dtype=numpy.int32), numpy.empty(count, numpy.int32)
    return timed(lambda: p.map_array("add", xs, xs, out=out))


@contextmanager
def numpy_add() -> Iterator[Timed]:
    import numpy

    xs, out = numpy.arange(10 * MILLION, dtype=numpy.int32), numpy.empty(10 * MILLION, numpy.int32)
    yield timed(lambda: numpy.add(xs, xs, out=out))


@contextmanager
def numpy_add_new() -> Iterator[Timed]:
    import numpy

    xs = numpy.arange(10 * MILLION, dtype=numpy.int32)
    yield timed(lambda: numpy.add(xs, xs))


@contextmanager
def operator_add() -> Iterator[Timed]:
    xs = list(range(MILLION))
    yield timed(lambda: sum(1 for _ in map(operator.add, xs, xs)))


@contextmanager
def driver_alone() -> Iterator[Timed]:
    """The loop in wasm over 300,000 items, on one core, without parent or worker."""
    engine = loading_engine()
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(1)
    module = wasmtime.Module(engine, peers.KERNELS.read_bytes())
    export = wasmtime.Instance(store, module, []).exports(store)["add"]
    assert isinstance(export, wasmtime.Func)
    signature = FuncType(("i32", "i32"), ("i32",))
    pages = wire.ARENA_BYTES // 65536
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(pages, pages)))
    instance = Drivers(engine, Declared()).link(store, "add", signature, export, memory)
    slots = ffi.Slots(6)
    run_driver = ffi.bind(store, instance, "run", signature_of_driver(signature), slots, HostCalls())
    columns = [wire.ARENA_HEAD + n * 1_200_000 for n in range(3)]
    arguments = struct.pack("<" + "I12x" * 6, 0, 300_000, 0, *columns)

    def loop() -> None:
        slots.bytes[:] = arguments
        run_driver()

    yield timed(loop)


def map_fib(chunksize: int | None, p: ProcessWasmPool) -> Timed:
    items = [20] * 20_000
    return timed(lambda: list(p.map("fib", items, chunksize=chunksize)))


def steps_per_second() -> float:
    peers.load()
    started = perf_counter()
    peers.churn(20_000_000)
    return 20_000_000 / (perf_counter() - started)


def _over_ideal(order: str, p: ProcessWasmPool) -> Timed:
    """The time of a map over what two workers would need with perfect knowledge."""
    rng = random.Random(1)
    rate = steps_per_second()
    steps = [int(rate * 10 ** rng.uniform(-5, -2)) for _ in range(600)]
    if order != "shuffled":
        steps.sort(reverse=order == "worst first")

    def measure() -> float:
        started = perf_counter()
        list(p.map("churn", [1] * len(steps), steps))
        took = perf_counter() - started
        return took / (sum(steps) / steps_per_second() / peers.WORKERS)

    return figure(measure)


def _over_no_cost(seconds: float, p: ProcessWasmPool) -> Timed:
    """Efficiency of default chunking, as a multiple of the time without any overhead."""
    steps = max(1, int(steps_per_second() * seconds))
    count = max(8, min(200_000, int(0.3 / seconds)))

    def measure() -> float:
        started = perf_counter()
        list(p.map("churn", [1] * count, [steps] * count))
        took = perf_counter() - started
        return took / (count * steps / steps_per_second() / peers.WORKERS)

    return figure(measure)


def map_pairs(count: int, chunk: int, p: peers.Peer) -> Timed:
    pairs = [(n, n) for n in range(count)]
    assert p.map is not None
    return timed(partial(p.map, peers.add_pair, pairs, chunk))


def _ours(use: Callable[..., Timed], *args: Any) -> Any:
    return within(pool, partial(use, *args))


def _fib(n: int) -> Any:
    return peers.call("fib", n)


_FIBS = [(20,)] * 20_000

WAYS = [
    Way(INTS, "map(operator.add), in-process", operator_add, inner=MILLION, role=FLOOR),
    Way(INTS, "the driver's loop in wasm, one core", driver_alone, 20, inner=300_000, role=FLOOR),
    Way(INTS, "procpool map", _ours(map_ints, MILLION), inner=MILLION),
    # Chunk sizes: the best of a sweep over 100, 1,000, 10,000 and 50,000, done once on the machine of the README.
    Way(
        INTS,
        "ProcessPoolExecutor (spawn), chunksize 1000",
        within(peers.EXECUTOR.make, partial(map_pairs, MILLION, 1000)),
        inner=MILLION,
        role=PEER,
    ),
    *(
        Way(
            INTS,
            f"{peer.name}, of {FEWER:,}",
            within(peer.make, partial(map_pairs, FEWER, 1000)),
            inner=FEWER,
            role=PEER,
            needs=peer.needs,
        )
        for peer in (*peers.POOLS[1:], *peers.LOCAL)
    ),
    Way(ARRAYS, "numpy.add", numpy_add_new, inner=10 * MILLION, role=FLOOR, needs=("numpy",)),
    Way(ARRAYS, "numpy.add, out=", numpy_add, inner=10 * MILLION, role=FLOOR, needs=("numpy",)),
    Way(
        ARRAYS,
        "memcpy of inputs and output",
        floors.copying(12 * 10 * MILLION, 1),
        inner=10 * MILLION,
        role=FLOOR,
    ),
    Way(ARRAYS, "procpool map_array, out=", _ours(map_array, 10 * MILLION), inner=10 * MILLION, needs=("numpy",)),
    Way(FIB, "procpool map, default chunks", _ours(map_fib, None)),
    *(Way(FIB, f"procpool map, chunksize {size}", _ours(map_fib, size)) for size in (10, 100, 500, 1000, 3000)),
    Way(FIB, "in-process, no pool", within(peers.in_process, lambda p: timed(lambda: p.gather(_fib, _FIBS))), role=PEER),
    *(
        Way(UNEVEN, f"procpool map, {order}", _ours(_over_ideal, order), unit="integer")
        for order in ("shuffled", "worst last", "worst first")
    ),
    *(
        Way(GROWTH, "procpool map", _ours(map_ints, 10**power), max(1, 10 ** (4 - power)), inner=10**power, at=10**power)
        for power in range(8)
    ),
    *(
        Way(
            GROWTH,
            peers.EXECUTOR.name,
            within(peers.EXECUTOR.make, partial(map_pairs, 10**power, max(1, min(1000, 10**power // 8)))),
            max(1, 10 ** (2 - power)),
            inner=10**power,
            role=PEER,
            at=10**power,
        )
        for power in range(6)
    ),
    *(
        Way(
            ARRAY_GROWTH,
            "procpool map_array",
            _ours(map_array, 10**power),
            max(1, 10 ** (4 - power)),
            inner=10**power,
            at=10**power,
            needs=("numpy",),
        )
        for power in range(8)
    ),
    *(
        Way(EFFICIENCY, "procpool map, default chunks", _ours(_over_no_cost, seconds), unit="integer", at=seconds)
        for seconds in (3e-9, 3e-8, 3e-7, 3e-6, 3e-5, 3e-4, 3e-3, 3e-2, 1e-1)
    ),
]


if __name__ == "__main__":
    run("perf.batch", WAYS)
