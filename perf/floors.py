"""What nothing of the kind can be faster than, on this machine."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import wasmtime

from procpool import FuncType
from procpool.codec import Codec
from procpool.worker import ffi
from procpool.worker.host import HostCalls

from .peers import KERNELS
from .ways import Timed, timed


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


@contextmanager
def _beside(child: Callable[[], None], mine: int, theirs: int) -> Iterator[None]:
    """Run a function in a forked process on one core, and stay on another."""
    before = os.sched_getaffinity(0)
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, {theirs})
            child()
        finally:
            os._exit(0)
    os.sched_setaffinity(0, {mine})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def ping_pong(two_cores: bool) -> Callable[[], AbstractContextManager[Timed]]:
    """A message of a job's size there and one of a reply's size back, by two Python processes over os.pipe."""

    @contextmanager
    def make() -> Iterator[Timed]:
        there_read, there_write = os.pipe()
        back_read, back_write = os.pipe()

        def answer() -> None:
            while os.read(there_read, 4096):
                os.write(back_write, b"x" * 24)

        def trip() -> None:
            os.write(there_write, b"x" * 44)
            os.read(back_read, 4096)

        with _beside(answer, _cores()[0], _cores()[-1 if two_cores else 0]):
            yield timed(trip)
        for fd in (there_read, there_write, back_read, back_write):
            os.close(fd)

    return make


@contextmanager
def spinning_flag() -> Iterator[Timed]:
    """A byte of shared memory that both sides look at without pause, from Python."""
    shared = mmap.mmap(-1, 4096)

    def answer() -> None:
        while True:
            if shared[0]:
                shared[0] = 0

    def trip() -> None:
        shared[0] = 1
        while shared[0]:
            pass

    with _beside(answer, _cores()[0], _cores()[-1]):
        yield timed(trip)


@contextmanager
def raw_call() -> Iterator[Timed]:
    """wasmtime's own call of `add`, by its C API on prepared values, without any process."""
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    instance = wasmtime.Instance(store, wasmtime.Module(engine, KERNELS.read_bytes()), [])
    signature = FuncType(("i32", "i32"), ("i32",))
    slots = ffi.Slots(2)
    run = ffi.bind(store, instance, "add", signature, slots, HostCalls())
    codec = Codec("add", signature)

    def call() -> object:
        slots.bytes[:32] = codec.pack((1, 2))
        run()
        return codec.unpack(slots.bytes)

    yield timed(call)


def copying(size: int, times: int) -> Callable[[], AbstractContextManager[Timed]]:
    """memcpy of so many bytes, so many times."""

    @contextmanager
    def make() -> Iterator[Timed]:
        source, target = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)

        def copy() -> None:
            for _ in range(times):
                ctypes.memmove(target, source, size)

        yield timed(copy)

    return make


def fork_and_wait() -> None:
    """A process that does nothing, forked."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def start_python() -> None:
    """A fresh interpreter that imports wasmtime."""
    subprocess.run([sys.executable, "-c", "import wasmtime"], check=True)
