"""Linear memories that are files: what wasm writes there, another process sees at once, or nobody ever does."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import wasmtime

from .binary import PAGE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
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
        _map(address, fd, offset, size, (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | _MAP_FIXED)
    return address.value


def _map(address: ctypes.c_void_p | None, fd: int, offset: int, size: int, flags: int) -> int:
    mapped: int | None = _libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, offset)
    if mapped is None or mapped == _MAP_FAILED:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot map {size} bytes of a file: {os.strerror(error)}")
    return mapped


class _Mapping:
    """Ends a mapping with itself."""

    def __init__(self, address: int, size: int) -> None:
        self._unmap = _libc.munmap, address, size

    def __del__(self) -> None:
        munmap, address, size = self._unmap
        munmap(address, size)


def shared_memory(fd: int, offset: int, size: int) -> memoryview:
    """A part of a file, seen from Python; it is mapped as long as there is this view, or one made of it.

    Unlike a mapping of the mmap module it keeps no descriptor.

    Raises:
        OSError: the system refuses.
    """
    address = _map(None, fd, offset, size, mmap.MAP_SHARED)
    mapping = _Mapping(address, size)
    cells = (ctypes.c_uint8 * size).from_address(address)
    cells._mapping = mapping  # type: ignore[attr-defined]  # the view keeps the cells, and they keep it
    return memoryview(cells).cast("B")


def give_up_pages(view: memoryview) -> None:
    """Of all that `shared_memory` gave: what lies there is not needed any more, and takes no memory from now on."""
    if hasattr(mmap, "MADV_REMOVE"):
        cells: Any = view.obj
        _libc.madvise(ctypes.addressof(cells), view.nbytes, mmap.MADV_REMOVE)
