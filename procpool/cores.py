"""Which core a thread is on."""

from __future__ import annotations

import contextlib
import ctypes
import os

_LOAD = "/proc/loadavg"
_kept: list[int] = []  # a descriptor of that, in a process that gives up the right to open files
_getcpu = getattr(ctypes.CDLL(None), "sched_getcpu", None)  # glibc and musl have it; os has it from Python 3.14 on


def current() -> int:
    """The core that the calling thread is on, from 0; -1 if the system does not tell."""
    return -1 if _getcpu is None else int(_getcpu())


def running() -> int:
    """How many threads of the machine run, or could if there was a core for them; the caller is one."""
    if _kept:
        load = os.pread(_kept[0], 128, 0)
    else:
        with open(_LOAD, "rb") as file:
            load = file.read()
    return int(load.split()[3].partition(b"/")[0])


def keep_open() -> int:
    """Have `running` need no right to open files from now on.

    Returns:
        A descriptor that has to stay open for that; -1 if there is no such thing.
    """
    with contextlib.suppress(OSError):  # another system
        _kept.append(os.open(_LOAD, os.O_RDONLY | os.O_CLOEXEC))
    return _kept[0] if _kept else -1


def leave(core: int) -> None:
    """Have the calling thread go on on another core, if it is on that one, may be on others, and one has nothing to do.

    Afterwards it may be on the same ones as before.  (Who changes its affinity in this very moment is overruled.)
    """
    with contextlib.suppress(OSError):  # no /proc, no descriptors left, or a sandbox: then it stays
        allowed = os.sched_getaffinity(0)
        others = allowed - {core}
        if others and current() == core and running() < (os.cpu_count() or 1):
            try:
                os.sched_setaffinity(0, others)
            finally:
                os.sched_setaffinity(0, allowed)
