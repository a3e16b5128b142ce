"""Linear memories that are files: what wasm writes there, another process sees at once, or nobody ever does."""

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


def memory_over(
    store: wasmtime.Store, fd: int, offset: int, size: int, shared: bool = True, is_64: bool = False
) -> wasmtime.Memory:
    """A linear memory of fixed size whose bytes are those of a file, from ``offset`` on.

    wasmtime never moves it, for it cannot grow, and the file is mapped over its pages.

    Args:
        shared: what is written there is in the file.
        is_64: its addresses have so many bits.

    Raises:
        OSError: the system refuses.
    """
    pages = size // PAGE
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(pages, pages), is_64=is_64))
    map_over(store, memory, fd, offset, size, shared)
    return memory


def map_over(store: wasmtime.Store, memory: wasmtime.Memory, fd: int, offset: int, size: int, shared: bool) -> int:
    """Have the first bytes of a linear memory be those of a file, from ``offset`` on; the address of the first.

    That ends when wasmtime moves the memory, as it may when that grows; and what lies there then may be anything.

    Args:
        shared: what is written there is in the file.

    Raises:
        OSError: the system refuses.
    """
    address = ctypes.cast(memory.data_ptr(store), ctypes.c_void_p)
    assert address.value is not None
    if size:
        flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | _MAP_FIXED
        mapped = _libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, offset)
        if mapped in (None, _MAP_FAILED):
            error = ctypes.get_errno()
            raise OSError(error, f"cannot map {size} bytes of a file: {os.strerror(error)}")
    return address.value
