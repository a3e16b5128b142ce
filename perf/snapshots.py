"""Jobs that begin from a snapshot: what that costs, and what it saves where an interpreter boots."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import wasmtime

from examples.snippets import HANDLES, LANGUAGES, boot_ruby, interpreter
from procpool import ProcessWasmPool, WasiConfig
from procpool.module import ModuleSource
from procpool.options import Isolation

from .startup import _of_npm, _stub, large_imports, large_module
from .ways import PEER, Timed, Way, figure, run, timed, within

SMALL = "blocking call of a small module, by isolation"
WARMED = "blocking call that touches 16 pages of 32 MiB, by isolation"
MEMORY = "memory of 8 workers over that of one, each, module of 32 MiB (PSS)"
BOOT = "QuickJS: to the first value"
BOOT_RUBY = "Ruby: a snippet, each"
SNIPPETS = "QuickJS: a snippet, each"
FIRST = "first result, 8 workers, module of 14 MB"

#: Writes into its memory and a global, as every module does.
ADD = """(module (memory (export "memory") 1) (global $g (mut i32) (i32.const 0))
  (func (export "add") (param i32 i32) (result i32)
    (i32.store (i32.const 8) (local.get 0)) (global.set $g (local.get 1)) (i32.add (local.get 0) (local.get 1))))"""
TOUCH = """(module (memory (export "memory") 512 512)
  (func (export "fill") (local $i i32)
    (loop $next (i32.store (local.get $i) (i32.const 1))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 64))) (i32.const 33554432)))))
  (func (export "touch") (param i32) (result i32) (local $i i32)
    (loop $next (i32.store (i32.mul (local.get $i) (i32.const 65536)) (local.get 0))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 16))))
    (local.get 0)))"""
SNIPPET = "[1, 2, 3].map(x => x * 14).join()"
EVALUATE = LANGUAGES["javascript"].evaluate
COUNT = 400


def pool(source: ModuleSource, **options: Any) -> Callable[[], AbstractContextManager[ProcessWasmPool]]:
    @contextmanager
    def make() -> Iterator[ProcessWasmPool]:
        with ProcessWasmPool(source, 1, **options) as made:
            made.wait_ready()
            yield made

    return make


@contextmanager
def memory(**options: Any) -> Iterator[Timed]:
    def held(workers: int) -> float:
        with ProcessWasmPool(TOUCH, workers, balance="round_robin", **options) as made:
            made.wait_ready()
            for n in range(20 * workers):
                made.call("touch", n)
            return float(sum(each.memory_full_info().pss for each in psutil.Process().children(recursive=True)))

    yield figure(lambda: (held(8) - held(1)) / 7)


@functools.cache
def quickjs() -> Path:
    return _of_npm("quickjs-wasi", "quickjs.wasm")


class InProcess:
    """QuickJS by wasmtime-py alone, with what an evaluation needs of an instance."""

    def __init__(self, linker: wasmtime.Linker, module: wasmtime.Module) -> None:
        self.store = wasmtime.Store(linker.engine)
        self.store.set_wasi(wasmtime.WasiConfig())
        self.exports: Any = linker.instantiate(self.store, module).exports(self.store)
        self.call("_initialize")
        self.call("qjs_init")

    def call(self, export: str, *args: int) -> Any:
        return self.exports[export](self.store, *args)

    @property
    def memory(self) -> Any:
        return memoryview(self.exports["memory"].get_buffer_ptr(self.store)).cast("B")

    def close(self) -> None:
        self.store.close()


def nothing(*_: object) -> int:
    """Stands for what the outside might answer."""
    return 0


def loaded(path: str) -> tuple[wasmtime.Linker, wasmtime.Module]:
    """A module that was compiled before, and a linker with all that it imports."""
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    module = wasmtime.Module.deserialize_file(engine, path)
    for each in module.imports:
        if each.module == "env":
            assert isinstance(each.type, wasmtime.FuncType) and each.name is not None
            linker.define_func("env", each.name, each.type, nothing if each.type.results else _stub)
    return linker, module


@contextmanager
def compiled() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "quickjs.cwasm")
        Path(path).write_bytes(wasmtime.Module(wasmtime.Engine(), quickjs().read_bytes()).serialize())
        yield path


def in_process(path: str, snippet: str) -> str:
    """A snippet in a new instance."""
    runtime = InProcess(*loaded(path))
    try:
        return EVALUATE(runtime, snippet)  # type: ignore[arg-type]  # it has what is needed of an Instance
    finally:
        runtime.close()


@contextmanager
def boots() -> Iterator[Timed]:
    with compiled() as path:
        linker, module = loaded(path)
        yield timed(lambda: EVALUATE(InProcess(linker, module), SNIPPET))  # type: ignore[arg-type]


@contextmanager
def new_instances() -> Iterator[Timed]:
    with compiled() as path:
        linker, module = loaded(path)

        def one() -> None:
            runtime = InProcess(linker, module)
            EVALUATE(runtime, SNIPPET)  # type: ignore[arg-type]
            runtime.close()

        yield timed(one)


@contextmanager
def processes() -> Iterator[Timed]:
    """As many at a time as there are cores."""
    with compiled() as path:
        command = [sys.executable, "-c", f"from perf.snapshots import *; in_process({path!r}, {SNIPPET!r})"]

        def pair() -> None:
            for process in [subprocess.Popen(command) for _ in range(2)]:
                assert process.wait() == 0

        yield timed(pair)


@contextmanager
def from_snapshot(workers: int) -> Iterator[Timed]:
    with interpreter("javascript", quickjs(), workers=workers) as made:
        made.wait_ready()
        yield timed(lambda: sum(1 for _ in made.map(EVALUATE, [SNIPPET] * COUNT)))


@contextmanager
def one_from_snapshot() -> Iterator[Timed]:
    with interpreter("javascript", quickjs(), workers=1) as made:
        made.wait_ready()
        yield timed(lambda: made.submit(EVALUATE, SNIPPET).result())


@contextmanager
def ruby(isolation: Isolation) -> Iterator[Timed]:
    """What boots in each new instance boots once for the pool where there is a snapshot."""
    module = _of_npm("@ruby/3.4-wasm-wasi", "dist/ruby+stdlib.wasm")
    options: dict[str, Any] = {"imports": {"canonical_abi": HANDLES}, "on_missing_import": "trap", "start_timeout": 600}
    steps: dict[str, Any] = {"start": ["_initialize", boot_ruby], "wasi": WasiConfig(stdout=None, stderr=None)}
    with ProcessWasmPool(module, 1, isolation=isolation, **steps, **options) as made:

        def snippet() -> object:
            return made.submit(LANGUAGES["ruby"].evaluate, "greet('you')").result()

        snippet()  # the first has an instance that has booted
        yield timed(snippet)


@contextmanager
def first(saved: bool) -> Iterator[Timed]:
    imports = large_imports()
    with tempfile.TemporaryDirectory() as directory:
        source: ModuleSource = large_module()
        if saved:
            path = os.path.join(directory, "saved")
            with ProcessWasmPool(source, 1, imports=imports, isolation="snapshot") as made:
                made.save_snapshot(path)
            source = path

        def start() -> None:
            with ProcessWasmPool(source, 8, imports=imports) as made:
                made.call("getsp")

        start()  # compiles it
        yield timed(start)


WAYS = [
    *(
        Way(SMALL, isolation, within(pool(ADD, isolation=isolation), lambda p: timed(lambda: p.call("add", 1, 2))), 2000)
        for isolation in ("pooled", "snapshot", "fresh")
    ),
    *(
        Way(
            WARMED,
            isolation,
            within(pool(TOUCH, isolation=isolation, warm="fill"), lambda p: timed(lambda: p.call("touch", 1))),
            2000,
        )
        for isolation in ("pooled", "snapshot")
    ),
    Way(MEMORY, "snapshot", functools.partial(memory, warm="fill", isolation="snapshot"), unit="byte"),
    Way(MEMORY, "pooled, nothing warmed", memory, unit="byte"),
    Way(BOOT, "a job from the snapshot, of a map", functools.partial(from_snapshot, 1), inner=COUNT),
    Way(BOOT, "a job from the snapshot, one at a time", one_from_snapshot, 100),
    Way(BOOT, "wasmtime-py: a new instance, and its boot", boots, 5, role=PEER),
    Way(BOOT_RUBY, "snapshot", functools.partial(ruby, "snapshot"), 50),
    Way(BOOT_RUBY, "fresh, which boots it", functools.partial(ruby, "fresh"), once=True),
    Way(SNIPPETS, "procpool map, snapshot, 2 workers", functools.partial(from_snapshot, 2), inner=COUNT),
    Way(SNIPPETS, "wasmtime-py, a new instance for each", new_instances, 10, role=PEER),
    Way(SNIPPETS, "wasmtime-py, a process for each, 2 at a time", processes, inner=2, role=PEER),
    Way(FIRST, "compiled before", functools.partial(first, False)),
    Way(FIRST, "compiled before, from a saved snapshot", functools.partial(first, True)),
]

if __name__ == "__main__":
    run("perf.snapshots", WAYS)
