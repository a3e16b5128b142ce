"""Linear memories that are files: what wasm writes there, another process sees at once."""

from __future__ import annotations

import ctypes
import mmap
import os

import wasmtime

from .binary import PAGE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
)
_MAP_FIXED = 0x10  # the same on Linux and the BSDs; the mmap module does not name it
_MAP_FAILED = ctypes.c_void_p(-1).value


def memory_over(store: wasmtime.Store, fd: int, offset: int, size: int) -> wasmtime.Memory:
    """A linear memory of fixed size whose bytes are those of a file, from ``offset`` on.

    wasmtime never moves it, for it cannot grow, and the file is mapped over its pages.

    Raises:
        OSError: the system refuses.
    """
    pages = size // PAGE
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(pages, pages)))
    address = ctypes.cast(memory.data_ptr(store), ctypes.c_void_p)
    mapped = _libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, fd, offset)
    if mapped in (None, _MAP_FAILED):
        error = ctypes.get_errno()
        raise OSError(error, f"cannot map {size} bytes of a shared file: {os.strerror(error)}")
    return memory
