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
from pathlib import Path
from time import sleep
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


def channels() -> tuple[int, int]:
    """The control socket and the end of the replies pipe, found as anybody would."""
    control = replies = -1
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            kind = os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
            writes = int(_flags(fd), 8) & os.O_ACCMODE == os.O_WRONLY
            if kind == "socket":
                control = fd
            elif kind == "pipe" and writes and fd > 2:
                replies = fd
    return control, replies


def begun() -> int:
    """How many jobs this worker has begun, as it says itself on its board."""
    for fd, name in files():
        if "memfd:" in name and os.fstat(fd).st_size > 1 << 23:  # the memory that it shares with the program
            return int.from_bytes(os.pread(fd, 8, 0), "little")
    raise LookupError("no shared memory")


def _flags(fd: int) -> str:
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("flags:"):
            return line.split()[1]
    return "0"


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
    """Fill whatever can be written with noise again and again, until the gate opens.

    But for the board, which is the first of what is shared: a worker that says there that it has begun all it was sent holds
    that up until it ends, and nobody can tell.
    """
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
            for at in range(65536, len(target) - len(noise), len(noise)):
                target[at : at + len(noise)] = noise
    os._exit(3)


def say(instance: Any, frames: bytes, at_once: bool, replies: bool) -> None:
    """In a worker: say these to who listens, now, or when the next job has begun."""
    control, pipe = channels()
    told = pipe if replies else control
    if at_once:
        os.write(told, frames)
        return
    before = begun()

    def tell() -> None:
        while begun() == before:
            sleep(0.0005)
        with contextlib.suppress(OSError):
            os.write(told, frames)

    threading.Thread(target=tell, daemon=True).start()


def say_at_start(frames: bytes) -> None:
    """The same, of what is not ready yet."""
    os.write(channels()[0], frames)


def same(instance: Any, value: Any) -> Any:
    return value
