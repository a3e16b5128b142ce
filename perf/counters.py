"""What a blocking call does, counted: figures that no noise of the machine changes."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from time import perf_counter, sleep

import psutil

from procpool import ProcessWasmPool

from . import peers
from .latency import pool
from .ways import PEER, Timed, Way, figure, run, within

SYSTEM_CALLS = "system calls of the parent per blocking call"
SWITCHES = "voluntary context switches of the calling thread per blocking call"
COPIED = "bytes through pipes per blocking call, there and back"
ALLOCATED = "bytes of Python objects allocated at the peak of a blocking call"
PACED = "processor seconds of parent and workers per 1,000 blocking calls, one a millisecond"
IDLE = "processor seconds of parent and workers in a minute without a job, after calls"
CALLS = 2000


def switches(call: Callable[[], object]) -> float:
    """Of this thread, per call."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    for _ in range(CALLS):
        call()
    return (resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before) / CALLS


def copied(p: ProcessWasmPool) -> float:
    """Counted where the parent writes and reads."""
    total = 0
    write, read = os.write, os.read

    def counting_write(fd: int, data: bytes) -> int:
        nonlocal total
        written = write(fd, data)
        total += written
        return written

    def counting_read(fd: int, size: int) -> bytes:
        nonlocal total
        data = read(fd, size)
        total += len(data)
        return data

    os.write, os.read = counting_write, counting_read  # type: ignore[assignment]
    try:
        for _ in range(CALLS):
            p.call("add", 1, 2)
    finally:
        os.write, os.read = write, read
    return total / CALLS


def allocated(p: ProcessWasmPool) -> float:
    """By tracemalloc, after the first calls."""
    for _ in range(10):
        p.call("add", 1, 2)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        p.call("add", 1, 2)
        return float(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()


def processor_seconds(during: Callable[[], None]) -> float:
    """Of this process and its children."""

    def used() -> float:
        me = psutil.Process()
        times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
        return sum(each.user + each.system for each in times)

    before = used()
    during()
    return used() - before


def paced(call: Callable[[], object]) -> float:
    """Call once a millisecond; who has called sleeps until the next is due."""

    def calls() -> None:
        due = perf_counter()
        for _ in range(1000):
            due += 0.001
            sleep(max(0.0, due - perf_counter()))
            call()

    return processor_seconds(calls)


def idle(call: Callable[[], object]) -> float:
    """Sleep for a minute, after calls that had everybody awake."""
    for _ in range(CALLS):
        call()
    return processor_seconds(partial(sleep, 60))


PROGRAM = """
import sys
from procpool import ProcessWasmPool
with ProcessWasmPool({module!r}, 1) as pool:
    for _ in range(int(sys.argv[1])):
        pool.call("add", 1, 2)
"""


@contextmanager
def traced() -> Iterator[Timed]:
    """By strace: the difference between a program with many calls and one with few, per call."""

    def count(calls: int) -> int:
        program = PROGRAM.format(module=str(peers.KERNELS))
        command = ["strace", "-c", sys.executable, "-c", program, str(calls)]  # without -f: the calling thread alone
        table = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        return int(next(line.split()[3] for line in table.splitlines() if line.endswith("total")))

    yield figure(lambda: (count(2100) - count(100)) / 2000)


def counted(measure: Callable[[ProcessWasmPool], float]) -> Callable[[], AbstractContextManager[Timed]]:
    return within(pool, lambda p: figure(partial(measure, p)))


def ours(measure: Callable[[Callable[[], object]], float]) -> Callable[[], AbstractContextManager[Timed]]:
    return counted(lambda p: measure(lambda: p.call("add", 1, 2)))


def theirs(measure: Callable[[Callable[[], object]], float]) -> Callable[[], AbstractContextManager[Timed]]:
    return within(peers.EXECUTOR.make, lambda p: figure(lambda: measure(lambda: p.one(peers.add, 1, 2))))


WAYS = [
    *([Way(SYSTEM_CALLS, "procpool call (strace)", traced, unit="integer")] if shutil.which("strace") else []),
    Way(SWITCHES, "procpool call", ours(switches), unit="integer"),
    Way(
        SWITCHES,
        peers.EXECUTOR.name,
        theirs(switches),
        unit="integer",
        role=PEER,
    ),
    Way(PACED, "procpool call", ours(paced), once=True),
    Way(PACED, peers.EXECUTOR.name, theirs(paced), role=PEER, once=True),
    Way(IDLE, "procpool call", ours(idle), once=True),
    Way(IDLE, peers.EXECUTOR.name, theirs(idle), role=PEER, once=True),
    Way(COPIED, "procpool call", counted(copied), unit="integer"),
    Way(ALLOCATED, "procpool call", counted(allocated), unit="integer"),
]

if __name__ == "__main__":
    run("perf.counters", WAYS)
