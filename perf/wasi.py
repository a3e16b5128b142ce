"""WASI commands as disposable processes, and the threads of one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import wasmtime

from procpool import ProcessWasmPool, WasiConfig

from .ways import FLOOR, PEER, Timed, Way, plain, run, timed, within

RUN = "a tiny command, stdin in and stdout out, each"
THREADS = "primes below 3,000,000, by wasi-threads"
FIXTURES = Path(__file__).parent.parent / "fixtures"
COMMAND = FIXTURES / "command.wasm"
#: What a script would do for each run: a fresh interpreter that compiles (wasmtime's cache is warm) and runs the command.
SCRIPT = """
import sys, wasmtime
config = wasmtime.Config(); config.cache = True
engine = wasmtime.Engine(config)
store = wasmtime.Store(engine)
wasi = wasmtime.WasiConfig(); wasi.argv = sys.argv[1:]; wasi.inherit_stdin(); wasi.inherit_stdout()
store.set_wasi(wasi)
linker = wasmtime.Linker(engine); linker.define_wasi()
instance = linker.instantiate(store, wasmtime.Module.from_file(engine, sys.argv[1]))
try:
    instance.exports(store)["_start"](store)
except wasmtime.ExitTrap:
    pass
"""


def pool(module: Path, workers: int) -> Callable[[], AbstractContextManager[ProcessWasmPool]]:
    @contextmanager
    def make() -> Iterator[ProcessWasmPool]:
        with ProcessWasmPool(module, workers, wasi=WasiConfig()) as made:
            made.wait_ready()
            yield made

    return make


def one(p: ProcessWasmPool) -> object:
    return p.run(["upper", "upper"], stdin=b"hello")


def many(p: ProcessWasmPool) -> object:
    return sum(1 for _ in p.run_map([b"hello"] * 500, args=["upper", "upper"]))


@contextmanager
def by_hand() -> Iterator[Timed]:
    """The same in-process, with everything that can be done once done once."""
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    pre = linker.instantiate_pre(wasmtime.Module(engine, COMMAND.read_bytes()))
    # Files in memory: truncating one on a disk took ten times as long as the run.
    inside, outside = os.memfd_create("in"), os.memfd_create("out")
    os.write(inside, b"hello")
    stdin, stdout = (Path(f"/proc/self/fd/{fd}") for fd in (inside, outside))

    def once() -> None:
        store = wasmtime.Store(engine)
        wasi = wasmtime.WasiConfig()
        wasi.argv = ["upper", "upper"]
        wasi.stdin_file = str(stdin)
        wasi.stdout_file = str(stdout)
        store.set_wasi(wasi)
        start = pre.instantiate(store).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        try:
            start(store)
        except wasmtime.ExitTrap as done:
            assert done.code == 0
        store.close()
        assert stdout.read_bytes() == b"HELLO"

    yield timed(once)
    os.close(inside)
    os.close(outside)


def by_subprocess() -> None:
    command = [sys.executable, "-c", SCRIPT, str(COMMAND), "upper"]
    assert subprocess.run(command, input=b"hello", capture_output=True, check=True).stdout == b"HELLO"


def primes(threads: int, p: ProcessWasmPool) -> Timed:
    def count() -> None:
        assert p.run(["primes", str(threads), "3000000"]).stdout == b"216816\n"

    return timed(count)


WAYS = [
    Way(RUN, "by hand, in-process", by_hand, 200, role=FLOOR),
    Way(RUN, "procpool run", within(pool(COMMAND, 2), lambda p: timed(partial(one, p))), 200),
    Way(RUN, "procpool run_map", within(pool(COMMAND, 2), lambda p: timed(partial(many, p))), inner=500),
    Way(RUN, "subprocess per run: python and wasmtime, cache warm", plain(by_subprocess), 2, role=PEER),
    *(
        Way(THREADS, f"procpool run, {n} threads", within(pool(FIXTURES / "primes.wasm", 1), partial(primes, n)))
        for n in (1, 2)
    ),
]

if __name__ == "__main__":
    run("perf.wasi", WAYS)
