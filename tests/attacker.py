"""What a guest does that has broken out of its sandbox: native code in a worker.  Only the standard library.

A callable stands for it: it can do all that machine code in the worker's process can.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Held(NamedTuple):
    """A file that the worker has, and what could be done with it."""

    file: tuple[int, int]  #: device and number
    name: str
    cut: bool  #: it could be made shorter
    lengthened: bool
    written: bool


def files() -> Iterator[tuple[int, str]]:
    """The descriptors of files in memory or on disk, and what they are called."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # that of the listing
            if stat.S_ISREG(os.fstat(fd).st_mode):
                yield fd, os.readlink(f"/proc/self/fd/{fd}")


def _can(act: Callable[..., object], *args: Any) -> bool:
    try:
        act(*args)
    except (OSError, ValueError):
        return False
    return True


def look(instance: Any) -> tuple[int, list[Held]]:
    """The worker's pid and all its files in memory, each of which it tries to change, through a descriptor of its own too."""
    found = []
    for fd, name in list(files()):
        if "memfd:" not in name:
            continue
        status = os.fstat(fd)
        end = status.st_size
        last = os.pread(fd, 1, end - 1)
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        both = fd, again
        cut = [_can(os.ftruncate, each, end - 1) for each in both]
        lengthened = [_can(os.ftruncate, each, end + 1) for each in both]
        written = [_can(os.pwrite, each, last, end - 1) or _can(mmap.mmap, each, 4096) for each in both]
        os.close(again)
        found.append(Held((status.st_dev, status.st_ino), name, any(cut), any(lengthened), any(written)))
    return os.getpid(), found


def overwrite(instance: Any, gate: Any) -> None:
    """Fill whatever can be written with noise again and again, and see that it stays so, until the gate opens."""
    opened = threading.Event()

    def wait() -> None:
        gate.wait()
        opened.set()

    targets = []
    for fd, name in list(files()):
        if "memfd:" in name:
            for size in (0, 1 << 40):
                _can(os.ftruncate, fd, size)
            with contextlib.suppress(OSError, ValueError):
                targets.append(mmap.mmap(fd, min(os.fstat(fd).st_size, 32 << 20)))
    noise = os.urandom(1 << 20)
    waiting = threading.Thread(target=wait)
    waiting.start()
    while not opened.is_set():
        for target in targets:
            for at in range(0, len(target) - len(noise), len(noise)):
                target[at : at + len(noise)] = noise
    os._exit(3)
