"""The batch lane: nanoseconds per item, and how well default chunking does."""

from __future__ import annotations

import functools
import gc
import itertools
import operator
import random
import struct
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter

import numpy as np
import psutil
import wasmtime

from procpool import FuncType, ProcessWasmPool, wire
from procpool.engine import loading_engine
from procpool.worker import ffi
from procpool.worker.driver import Drivers, signature_of_driver
from procpool.worker.host import HostCalls

from .peers import KERNELS, InProcess, add, multiprocessing_pool, process_pool_executor
from .sidebyside import Result, interleaved, of_samples

WORKERS = 2


def measure(rounds: int) -> list[Result]:
    with ProcessWasmPool(KERNELS, WORKERS) as pool:
        pool.wait_ready()
        return [
            *_objects(rounds, pool),
            *_arrays(rounds, pool),
            *_tuning(rounds, pool),
            *_uneven(rounds, pool),
            *_memory(pool),
        ]


def _consume(mapped: Callable[[], Iterable[object]]) -> None:
    list(mapped())


def _objects(rounds: int, pool: ProcessWasmPool) -> list[Result]:
    items, few = 1_000_000, 100_000
    rng = random.Random(1)
    xs = [rng.randrange(-(2**30), 2**30) for _ in range(items)]
    ys = xs[::-1]
    results = interleaved(
        "map add over 1,000,000 Python ints",
        {
            "map(operator.add), in-process": lambda: list(map(operator.add, xs, ys)),
            "procpool map": lambda: list(pool.map("add", xs, ys)),
        },
        rounds,
        "ns/item",
        items,
        1e9,
    )
    with process_pool_executor(WORKERS) as executor, multiprocessing_pool(WORKERS) as mp_pool:
        pairs = list(zip(xs[:few], ys[:few], strict=True))
        ways: dict[str, Callable[[], object]] = {}
        for size in (300, 1000, 3000, 10_000, 50_000):
            ours = functools.partial(executor.map, add, xs[:few], ys[:few], chunksize=size)
            ways[f"ProcessPoolExecutor.map, chunksize {size}"] = functools.partial(_consume, ours)
            ways[f"multiprocessing.Pool.starmap, chunksize {size}"] = functools.partial(mp_pool.starmap, add, pairs, size)
        found = interleaved("map add over 1,000,000 Python ints", ways, max(2, rounds // 2), "ns/item", few, 1e9)
    for peer in ("ProcessPoolExecutor", "multiprocessing.Pool"):
        results.append(min((r for r in found if r.way.startswith(peer)), key=lambda r: r.median))
    return results


def _arrays(rounds: int, pool: ProcessWasmPool) -> list[Result]:
    items = 10_000_000
    rng = np.random.default_rng(1)
    a = rng.integers(-(2**30), 2**30, items, np.int32)
    b = a[::-1].copy()
    out = np.empty_like(a)
    ways = {
        "numpy.add": lambda: np.add(a, b),
        "numpy.add, out=": lambda: np.add(a, b, out=out),
        "copy both inputs and the output (memory bandwidth)": lambda: (a.copy(), b.copy(), out.copy()),
        "procpool map_array": lambda: pool.map_array("add", a, b),
        "procpool map_array, out=": lambda: pool.map_array("add", a, b, out=out),
    }
    figures = interleaved("map_array add over 10,000,000 int32", ways, rounds, "ns/item", items, 1e9)
    alone = {"the driver's loop alone, one core": _driver_loop()}
    return figures + interleaved(figures[0].what, alone, rounds, "ns/item", 300_000, 1e9)


def _driver_loop() -> Callable[[], object]:
    """A worker's driver over 300,000 items, called in this process."""
    engine = loading_engine()
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(1)
    module = wasmtime.Module(engine, KERNELS.read_bytes())
    export = wasmtime.Instance(store, module, []).exports(store)["add"]
    assert isinstance(export, wasmtime.Func)
    signature = FuncType(("i32", "i32"), ("i32",))
    pages = wire.ARENA_BYTES // 65536
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(pages, pages)))
    instance = Drivers(engine).link(store, signature, export, memory)
    slots = ffi.Slots(6)
    run = ffi.bind(store, instance, "run", signature_of_driver(signature), slots, HostCalls())
    columns = [wire.ARENA_HEAD + n * 1_200_000 for n in range(3)]
    arguments = struct.pack("<" + "I12x" * 6, 0, 300_000, 0, *columns)

    def loop() -> None:
        slots.bytes[:] = arguments
        run()

    return loop


def _tuning(rounds: int, pool: ProcessWasmPool) -> list[Result]:
    alone = InProcess()
    jobs = [20] * 20_000
    ways: dict[str, Callable[[], object]] = {"procpool map, default": lambda: list(pool.map("fib", jobs))}
    for size in (10, 50, 100, 200, 500, 1000):
        mapped = functools.partial(pool.map, "fib", jobs, chunksize=size)
        ways[f"procpool map, chunksize {size}"] = functools.partial(_consume, mapped)
    ways["in-process, no pool"] = lambda: [alone.call("fib", n) for n in jobs]
    return interleaved("map fib(20) over 20,000", ways, rounds, "ms", 1, 1e3)


def _uneven(rounds: int, pool: ProcessWasmPool) -> list[Result]:
    """Items from 10 us to 10 ms; against the ideal schedule, measured by running all on one worker."""
    alone = InProcess()
    started = perf_counter()
    alone.call("churn", 1, 20_000_000)
    step = (perf_counter() - started) / 20_000_000
    rng = random.Random(7)
    costs = [int(10 ** rng.uniform(-5, -2) / step) for _ in range(600)]
    results = []
    for name, order in (("shuffled", costs), ("worst last", sorted(costs)), ("worst first", sorted(costs)[::-1])):

        def serial(order: list[int] = order) -> None:
            for steps in order:
                alone.call("churn", 1, steps)

        figures = interleaved(
            f"600 items of 10 us to 10 ms, {name}",
            {
                "in-process, no pool": serial,
                "procpool map, default": functools.partial(
                    _consume, functools.partial(pool.map, "churn", [1] * len(order), order)
                ),
            },
            rounds,
            "ms",
            1,
            1e3,
        )
        ideal = max(figures[0].median / WORKERS, max(order) * step * 1e3)
        results += [Result(figures[0].what, "ideal schedule", ideal, ideal, ideal, "ms"), *figures]
    return results


def _memory(pool: ProcessWasmPool) -> list[Result]:
    """The parent's memory while it maps very many items lazily."""
    items = 100_000_000
    me = psutil.Process()
    gc.collect()
    samples = []
    results = pool.map("add", itertools.repeat(1), range(items))
    before = me.memory_info().rss
    for _ in range(20):
        deque(itertools.islice(results, items // 20), 0)
        samples.append((me.memory_info().rss - before) / 2**20)
    return [
        of_samples("parent's memory above the start, over 10^8 items", "procpool map, first half", samples[:10], "MiB"),
        of_samples("parent's memory above the start, over 10^8 items", "procpool map, second half", samples[10:], "MiB"),
    ]
