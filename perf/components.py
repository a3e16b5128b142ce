"""Components: what calls of them cost, and CPython in one, fresh for each program."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import component as components

from examples.python_sandbox import build
from procpool import ProcessWasmPool, WasiConfig
from procpool.module import ModuleSource

from .startup import DOWNLOADS
from .ways import PEER, Timed, Way, run, timed, within

SCALARS = "blocking call of add, two numbers"
OCTETS = "list<u8> of 1 MB in, 32 bytes out"
HASHED = "list<u8> of 1 MB into CPython, its SHA-256 out"
RECORDS = "a variant of records in, a number out"
EVAL = "a program in a fresh CPython, each"
FIRST = "first result, one worker, compiled before"

ADD = '(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))'
WORLD = """
(component
  (core module $m
    (memory (export "mem") 64)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "head") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (i32.const 32)) (i32.const 16))
    (func (export "area") (param i32 i32 i32) (result i32) (i32.mul (local.get 1) (local.get 2))))
  (core instance $i (instantiate $m))
  (alias core export $i "mem" (core memory $mem))
  (type $point' (record (field "x" s32) (field "y" s32)))
  (export $point "point" (type $point'))
  (type $shape' (variant (case "circle" u32) (case "rectangle" $point) (case "nothing")))
  (export $shape "shape" (type $shape'))
  (func (export "add") (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "add")))
  (func (export "head") (param "data" (list u8)) (result (list u8))
    (canon lift (core func $i "head") (memory $mem) (realloc (core func $i "realloc"))))
  (func (export "area") (param "of" $shape) (result u32) (canon lift (core func $i "area"))))
"""
DATA = bytes(range(250)) * 4000
PROGRAM = "print(sum(range(10)))"
COUNT = 200


@functools.cache
def sandbox() -> Path:
    """CPython in a component; built when it is first needed, but where PROCPOOL_SANDBOX names one."""
    path = Path(
        os.environ.get("PROCPOOL_SANDBOX") or Path(os.environ.get(DOWNLOADS, tempfile.gettempdir()), "sandbox.wasm")
    )
    if not path.exists():
        build(path)
    return path


def pool(source: Callable[[], ModuleSource], workers: int = 1, **options: Any) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def make() -> Iterator[ProcessWasmPool]:
        with ProcessWasmPool(source(), workers, start_timeout=600, **options) as made:
            made.wait_ready()
            yield made

    return make


def in_pool(
    call: Callable[[ProcessWasmPool], object], source: Callable[[], ModuleSource], *workers: int, **options: Any
) -> Any:
    def use(made: ProcessWasmPool) -> Timed:
        call(made)
        return timed(lambda: call(made))

    return within(pool(source, *workers, **options), use)


class InProcess:
    """A component by wasmtime-py alone."""

    def __init__(self, source: bytes | str) -> None:
        kept = Path(tempfile.gettempdir(), f"procpool-perf-{hashlib.sha256(str(source).encode()).hexdigest()[:16]}.cwasm")
        if not kept.exists():
            partial = kept.with_suffix(f".{os.getpid()}")
            partial.write_bytes(components.Component(wasmtime.Engine(), source).serialize())
            partial.rename(kept)
        self.engine = wasmtime.Engine()
        self.component = components.Component.deserialize_file(self.engine, str(kept))
        self.linker = components.Linker(self.engine)
        self.linker.add_wasip2()

    def new(self) -> Callable[..., Any]:
        """A new instance: the name of a function, and its arguments -> its result."""
        store = wasmtime.Store(self.engine)
        store.set_wasi(wasmtime.WasiConfig())
        instance = self.linker.instantiate(store, self.component)

        def call(name: str, *args: Any) -> Any:
            function = instance.get_func(store, name)
            assert function is not None
            return function(store, *args)

        return call


@contextmanager
def alone(name: str, *args: Any, source: Callable[[], bytes | str] = lambda: WORLD) -> Iterator[Timed]:
    call = InProcess(source()).new()
    yield timed(lambda: call(name, *args))


@contextmanager
def fresh_alone() -> Iterator[Timed]:
    made = InProcess(sandbox().read_bytes())
    yield timed(lambda: made.new()("run", PROGRAM))


@contextmanager
def processes() -> Iterator[Timed]:
    """As many at a time as there are cores."""

    def pair() -> None:
        for process in [subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.DEVNULL) for _ in range(2)]:
            assert process.wait() == 0

    yield timed(pair)


def evaluate(made: ProcessWasmPool) -> None:
    assert set(made.map("run", [PROGRAM] * COUNT)) == {"45\n"}


@contextmanager
def first(source: Callable[[], ModuleSource], export: str, *args: Any, **options: Any) -> Iterator[Timed]:
    def start() -> None:
        with ProcessWasmPool(source(), 1, start_timeout=600, **options) as made:
            made.call(export, *args)

    start()  # compiles it
    yield timed(start)


def _rectangle() -> Any:
    record = components.Record()
    record.x, record.y = 3, 4  # type: ignore[attr-defined]
    return record


def _area(made: ProcessWasmPool) -> object:
    types = made.types
    return made.call("area", types.Shape.Rectangle(types.Point(3, 4)))


def _areas(made: ProcessWasmPool) -> object:
    types = made.types
    return sum(1 for _ in made.map("area", [types.Shape.Rectangle(types.Point(3, n)) for n in range(COUNT)]))


WASI = {"wasi": WasiConfig(stdout=None, stderr=None)}
WAYS = [
    Way(SCALARS, "a component", in_pool(lambda p: p.call("add", 1, 2), lambda: WORLD), 2000),
    Way(SCALARS, "a core module", in_pool(lambda p: p.call("add", 1, 2), lambda: ADD), 2000),
    Way(SCALARS, "wasmtime-py, component in-process", functools.partial(alone, "add", 1, 2), 1000, role=PEER),
    Way(OCTETS, "procpool", in_pool(lambda p: p.call("head", DATA), lambda: WORLD), 10),
    Way(OCTETS, "wasmtime-py in-process", functools.partial(alone, "head", DATA), role=PEER),
    Way(HASHED, "procpool", in_pool(lambda p: p.call("digest", DATA), sandbox, **WASI), 10),
    Way(
        HASHED,
        "wasmtime-py in-process",
        functools.partial(alone, "digest", DATA, source=lambda: sandbox().read_bytes()),
        role=PEER,
        once=True,
    ),
    Way(RECORDS, "procpool, a blocking call", in_pool(_area, lambda: WORLD), 1000),
    Way(RECORDS, "procpool, a map, 2 workers", in_pool(_areas, lambda: WORLD, 2), 5, COUNT),
    Way(RECORDS, "wasmtime-py in-process", functools.partial(alone, "area", _rectangle()), 500, role=PEER),
    Way(EVAL, "procpool map, 2 workers", in_pool(evaluate, sandbox, 2, isolation="fresh", **WASI), inner=COUNT),
    Way(EVAL, "procpool map, 1 worker", in_pool(evaluate, sandbox, 1, isolation="fresh", **WASI), inner=COUNT),
    Way(EVAL, "wasmtime-py, a new instance for each", fresh_alone, 20, role=PEER),
    Way(EVAL, "a python process for each, 2 at a time", processes, inner=2, role=PEER),
    Way(FIRST, "CPython, 18 MB", functools.partial(first, sandbox, "run", PROGRAM, **WASI)),
    Way(FIRST, "a small module", functools.partial(first, lambda: ADD, "add", 1, 2)),
]

if __name__ == "__main__":
    run("perf.components", WAYS)
