"""The memory that this worker shares with the parent and with the drivers of its batches."""

from __future__ import annotations

import ctypes
import mmap
import os

import wasmtime

from .. import wire

_PAGES = wire.ARENA_BYTES // 65536
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
)
_MAP_FIXED = 0x10  # the same on Linux and the BSDs; the mmap module does not name it
_MAP_FAILED = ctypes.c_void_p(-1).value


class Arena:
    """One row of the arenas' file."""

    def __init__(self, fd: int, row: int) -> None:
        self._fd = fd
        self._offset = row * wire.ARENA_BYTES
        self._cells: memoryview | None = None
        self._transfer: memoryview | None = None
        self.buffer = -1  #: the buffer of the batch that runs; none runs while it is negative

    def memory(self, store: wasmtime.Store) -> wasmtime.Memory:
        """A linear memory whose bytes are the arena's, for a driver to be linked with.

        It has a fixed size, so wasmtime never moves it, and the shared file is mapped over its pages.  wasm then reads the
        parent's columns where they lie, and what it wrote is there even after a crash.
        """
        memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(_PAGES, _PAGES)))
        address = ctypes.cast(memory.data_ptr(store), ctypes.c_void_p)
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        mapped = _libc.mmap(address, wire.ARENA_BYTES, protection, mmap.MAP_SHARED | _MAP_FIXED, self._fd, self._offset)
        if mapped in (None, _MAP_FAILED):
            error = ctypes.get_errno()
            raise OSError(error, f"cannot map the batch arena: {os.strerror(error)}")
        return memory

    def item(self) -> int:
        """The item that the running batch is at; 0 if none runs."""
        buffer = self.buffer  # another thread may ask when the batch ends
        return 0 if buffer < 0 else self._mapped()[(buffer * wire.CELLS + wire.INDEX) // 4]

    def hold(self) -> None:
        """Another thread: have the driver begin no further item, if a batch runs; what `item` then says stays so.

        It may come too late, even for the batch that was meant; then a later one is held for a moment, which does no harm.
        """
        buffer = self.buffer
        if buffer >= 0:
            self._mapped()[(buffer * wire.CELLS + wire.HOLD) // 4] = 1
            # The driver may have looked just before, and its store of the item be on its way: that takes some nanoseconds,
            # and this a system call.
            os.sched_yield()

    def release(self) -> bool:
        """Let the driver begin items again; whether it was held."""
        cell = (self.buffer * wire.CELLS + wire.HOLD) // 4
        cells = self._mapped()
        held, cells[cell] = cells[cell], 0
        return bool(held)

    def _mapped(self) -> memoryview:
        if self._cells is None:  # at the first batch: until then the parent may not have made the file so long
            self._cells = memoryview(mmap.mmap(self._fd, wire.ARENA_HEAD, offset=self._offset)).cast("I")
        return self._cells

    @property
    def transfer(self) -> memoryview:
        """Both buffers, seen from Python."""
        if self._transfer is None:
            mapped = mmap.mmap(self._fd, wire.ARENA_BYTES, offset=self._offset)
            self._transfer = memoryview(mapped)[wire.ARENA_HEAD :]
        return self._transfer

    def at_item(self, item: int) -> bool:
        """Whether an interrupt meant for that item has come in time; always so for a job that is no batch."""
        return self.buffer < 0 or self.item() == item
