"""The memory that this worker shares with the parent and with the drivers of its batches."""

from __future__ import annotations

import os

import wasmtime

from .. import wire
from ..mapped import memory_over, shared_memory


class Arena:
    """That part of the file, from ``offset`` on."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd = fd
        self._offset = offset
        self._transfer: memoryview | None = None
        self._page: memoryview | None = None
        self._cells: memoryview | None = None
        self.buffer = -1  #: the buffer of the batch that runs; none runs while it is negative

    def memory(self, store: wasmtime.Store) -> wasmtime.Memory:
        """A linear memory whose bytes are the arena's, for a driver to be linked with.

        wasm reads the parent's columns where they lie, and what it wrote is there even after a crash.
        """
        return memory_over(store, self._fd, self._offset, wire.ARENA_BYTES)

    def head(self, store: wasmtime.Store) -> wasmtime.Memory:
        """Likewise, of its head alone, which has the page in it; see wire/page.py."""
        return memory_over(store, self._fd, self._offset, wire.ARENA_HEAD)

    @property
    def page(self) -> memoryview:
        """The head, seen from Python, in bytes."""
        if self._page is None:
            self._page = shared_memory(self._fd, self._offset, wire.ARENA_HEAD)
        return self._page

    @property
    def cells(self) -> memoryview:
        """The same, in numbers of 32 bits.

        Each is written in one step, as an element of a memoryview is.  struct.pack_into makes all bytes 0 first, and a
        caller that looks at the turn all the time would see that.
        """
        if self._cells is None:
            self._cells = self.page.cast("I")
        return self._cells

    def item(self) -> int:
        """The item that the running batch is at; 0 if none runs."""
        buffer = self.buffer  # another thread may ask when the batch ends
        return 0 if buffer < 0 else self.cells[(buffer * wire.CELLS + wire.INDEX) // 4]

    def hold(self) -> None:
        """Another thread: have the driver begin no further item, if a batch runs; what `item` then says stays so.

        It may come too late, even for the batch that was meant; then a later one is held for a moment, which does no harm.
        """
        buffer = self.buffer
        if buffer >= 0:
            self.cells[(buffer * wire.CELLS + wire.HOLD) // 4] = 1
            # The driver may have looked just before, and its store of the item be on its way: that takes some nanoseconds,
            # and this a system call.
            os.sched_yield()

    def release(self) -> bool:
        """Let the driver begin items again; whether it was held."""
        cell = (self.buffer * wire.CELLS + wire.HOLD) // 4
        cells = self.cells
        held, cells[cell] = cells[cell], 0
        return bool(held)

    @property
    def transfer(self) -> memoryview:
        """Both buffers, seen from Python."""
        if self._transfer is None:
            self._transfer = shared_memory(self._fd, self._offset, wire.ARENA_BYTES)[wire.ARENA_HEAD :]
        return self._transfer

    def at_item(self, item: int) -> bool:
        """Whether an interrupt meant for that item has come in time; always so for a job that is no batch."""
        return self.buffer < 0 or self.item() == item
