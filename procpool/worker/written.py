"""Which pages of a mapping of a file have been written to: they are the process's own now."""

from __future__ import annotations

import ctypes
import mmap
import os
from time import perf_counter_ns

from ..keeper import KEPT_PAGES

_SCAN = 3 << 30 | 96 << 16 | ord("f") << 8 | 16  # PAGEMAP_SCAN of linux/fs.h, from Linux 6.7 on
_IS_FILE, _PRESENT, _SWAPPED = 4, 8, 16
_DONTNEED = 4
#: Some 20 times as long as looking through few pages takes.
_LONG_NS = 50_000
#: To map pages again takes about as long as to look through them so often.
_MOST_LONG = 4


class _Scan(ctypes.Structure):
    """struct pm_scan_arg"""

    _fields_ = [  # the way of ctypes
        (name, ctypes.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    ]


_held = ctypes.PyDLL(None)  # holds the GIL: it takes some microseconds
_held.ioctl.argtypes = ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p
_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def open_pagemap() -> int:
    """What this process asks which pages it has written to; -1 where there is no such thing.

    A fork needs another one.
    """
    try:
        return os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


class WrittenPages:
    """Those of one private mapping of a file.

    Args:
        pagemap: what `open_pagemap` gave.
        address, size: of the mapping.
        found: address of room for KEPT_PAGES runs.
    """

    def __init__(self, pagemap: int, address: int, size: int, found: int) -> None:
        self._pagemap = pagemap
        self._address = address
        self._size = size
        self._scan = _Scan(
            size=ctypes.sizeof(_Scan),
            start=address,
            end=address + size,
            vec=found,
            vec_len=KEPT_PAGES,
            max_pages=KEPT_PAGES * 4096 // mmap.PAGESIZE or 1,
            category_inverted=_IS_FILE,  # a page of the file's: nobody has written to it
            category_mask=_IS_FILE,
            category_anyof_mask=_PRESENT | _SWAPPED,
            return_mask=_IS_FILE,
        )
        self._long = 0  # looks that took long since all pages were forgotten
        self._argument = ctypes.addressof(self._scan)

    def find(self) -> int:
        """How many runs of pages were found; -1 if all should be forgotten: there are too many, or nobody can tell.

        Or that took long several times: the system walks over all pages that are mapped, also those that a job has only
        read, and would after each job from now on.  Jobs that always read much pay as much for having them mapped again.
        """
        if self._pagemap < 0:
            return -1
        begun = perf_counter_ns()
        runs: int = _held.ioctl(self._pagemap, _SCAN, self._argument)
        self._long += perf_counter_ns() - begun > _LONG_NS
        return runs if self._scan.walk_end >= self._scan.end and self._long < _MOST_LONG else -1

    def forget(self) -> None:
        """Have all pages be those of the file.

        Raises:
            OSError: the system refuses.
        """
        self._long = 0
        if _libc.madvise(self._address, self._size, _DONTNEED):
            raise OSError("the pages of a memory cannot be forgotten")
