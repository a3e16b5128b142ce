"""What surrounds a call: a fresh instance for each, functions of the host, leases; and the table of wazero-pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import wasmtime

from procpool import ProcessWasmPool

from . import peers
from .scaling import at_once
from .ways import PEER, Timed, Way, run, timed, within

FRESH = "blocking call, by isolation"
HOST = "a call of a Python host function from wasm"
LEASE = "add through a lease"
#: What https://github.com/pantopic/wazero-pool publishes for the same: Go, one process, 16 threads of an unnamed machine.
ADD = "wazero-pool's table: add, per call"
SLEEP = "wazero-pool's table: microsleep, per call"
CALLS = 10_000

#: Calls the host n times.
MANY = """(module (import "env" "add" (func $add (param i32 i32) (result i32)))
  (func (export "many") (param $n i32) (result i32) (local $sum i32)
    (loop $next
      (local.set $sum (call $add (local.get $sum) (i32.const 1)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $next (local.get $n)))
    (local.get $sum)))"""
#: The two exports of wazero-pool's benchmark; there the sleep is Go's time.Sleep through WASI.
TABLE = """(module (import "env" "sleep" (func $sleep))
  (func (export "add") (param i32 i32) (result i64) (i64.extend_i32_u (i32.add (local.get 0) (local.get 1))))
  (func (export "microsleep") (param i32 i32) (result i64)
    (call $sleep) (i64.extend_i32_u (i32.add (local.get 0) (local.get 1)))))"""


def microsleep() -> None:
    time.sleep(1e-6)


def add(a: int, b: int) -> int:
    return a + b


def pool(
    source: Any = peers.KERNELS, workers: int = 2, **options: Any
) -> Callable[[], AbstractContextManager[ProcessWasmPool]]:
    @contextmanager
    def make() -> Iterator[ProcessWasmPool]:
        with ProcessWasmPool(source, workers, **options) as made:
            made.wait_ready()
            yield made

    return make


@contextmanager
def define_func() -> Iterator[Timed]:
    engine = wasmtime.Engine()
    linker, store = wasmtime.Linker(engine), wasmtime.Store(engine)
    i32 = wasmtime.ValType.i32
    linker.define_func("env", "add", wasmtime.FuncType([i32(), i32()], [i32()]), add)
    many: Any = linker.instantiate(store, wasmtime.Module(engine, MANY)).exports(store)["many"]
    yield timed(lambda: many(store, CALLS))


def leased(p: ProcessWasmPool) -> Timed:
    def use() -> None:
        with p.instance() as lease:
            lease.call("add", 1, 2)

    return timed(use)


def _in_lease(p: ProcessWasmPool) -> Timed:
    lease = p.get()
    return timed(lambda: lease.call("add", 1, 2))


def table(what: str, export: str) -> list[Way]:
    """The rows: one instance called in a line; n callers of n workers; as many callers as there are instances."""
    imports = {"env": {"sleep": microsleep}}

    def with_lease(p: ProcessWasmPool) -> None:
        with p.instance() as lease:
            lease.call(export, 1, 1)

    rows = [
        Way(what, "linear (one lease)", within(pool(TABLE, 1, imports=imports), lambda p: _line(p, export)), 2000),
        Way(
            what,
            "pooled (lease, call, put)",
            within(pool(TABLE, 1, imports=imports), lambda p: timed(lambda: with_lease(p))),
            500,
        ),
    ]
    for n in (2, 4, 16):
        rows.append(
            Way(
                what,
                f"parallel-{n}",
                within(
                    pool(TABLE, 2, instances=n // 2, imports=imports),
                    lambda p, n=n: at_once(n, 3000, lambda: p.call(export, 1, 1)),  # type: ignore[misc]
                ),
            )
        )
    rows += [
        Way(
            what,
            "unlimited (submit, gather)",
            within(
                pool(TABLE, 2, instances=16, imports=imports),
                lambda p: timed(lambda: [f.result() for f in [p.submit(export, 1, 1) for _ in range(3000)]]),
            ),
            inner=3000,
        ),
        Way(
            what,
            "map",
            within(pool(TABLE, 2, imports=imports), lambda p: timed(lambda: sum(p.map(export, [1] * 3000, [1] * 3000)))),
            inner=3000,
        ),
    ]
    return rows


def _line(p: ProcessWasmPool, export: str) -> Timed:
    lease = p.get()
    return timed(lambda: lease.call(export, 1, 1))


WAYS = [
    Way(FRESH, "pooled", within(pool(), lambda p: timed(lambda: p.call("add", 1, 2))), 2000),
    Way(FRESH, "fresh", within(pool(isolation="fresh"), lambda p: timed(lambda: p.call("add", 1, 2))), 1000),
    Way(
        HOST,
        "procpool",
        within(pool(MANY, 1, imports={"env": {"add": add}}), lambda p: timed(lambda: p.call("many", CALLS))),
        5,
        inner=CALLS,
    ),
    Way(HOST, "wasmtime-py's Linker.define_func", define_func, inner=CALLS, role=PEER),
    Way(LEASE, "procpool, call on a lease", within(pool(), _in_lease), 2000),
    Way(LEASE, "procpool, lease, call and put", within(pool(), leased), 500),
    *table(ADD, "add"),
    *table(SLEEP, "microsleep"),
]

if __name__ == "__main__":
    run("perf.instances", WAYS)
