"""The memory that one worker process shares with the parent, and with no other: board, arenas, payload slots."""

from __future__ import annotations

import os
import threading

import wasmtime

from .. import wire
from ..errors import PoolClosed
from ..files import anonymous_file, seal_size
from ..mapped import memory_over, shared_memory


class ProcessMemory:
    """The parent's share in it.  See wire/layout.py for what lies where.

    It has its whole length from the beginning, and is sealed: were it cut off by a worker, the parent would die where it
    looks at it.  Its pages take memory when they are first written.  What it is asked for may be asked by any thread.

    Args:
        instances: of the process, each with a row.

    Raises:
        OSError: there are no descriptors or addresses left, or files may not be so long.
    """

    def __init__(self, instances: int) -> None:
        self._instances = instances
        self._pid = os.getpid()
        # Held while the file is used by its number.  A signal handler or a finalizer may come again in the same thread.
        self._using = threading.RLock()
        self.fd: int = anonymous_file(b"")  #: -1 when it is closed
        try:
            self.payload_bytes: int = wire.PAYLOAD_BYTES  #: the most that may be put into a payload slot
            try:
                os.ftruncate(self.fd, wire.payload_at(instances, instances, 0))
            except OSError:  # a limit on the size of files: large values go through the pipes
                os.ftruncate(self.fd, wire.arena_at(instances))
                self.payload_bytes = 0
            seal_size(self.fd)
            self.board: memoryview = shared_memory(self.fd, 0, wire.BOARD_BYTES).cast("Q")
        except BaseException:
            os.close(self.fd)
            raise

    def arena(self, row: int) -> memoryview:
        """The arena of an instance.

        Raises:
            PoolClosed: `close` came first.
            OSError: it cannot be mapped.
        """
        return self._mapped(wire.arena_at(row), wire.ARENA_BYTES)

    def payload(self, row: int, slot: int, size: int) -> memoryview:
        """A payload slot of an instance, at least its first ``size`` bytes.

        Raises:
            PoolClosed: `close` came first.
            OSError: it cannot be mapped.
        """
        return self._mapped(wire.payload_at(self._instances, row, slot), wire.payload_reach(size))

    def head_memory(self, store: wasmtime.Store, row: int) -> wasmtime.Memory:
        """A linear memory over the head of that arena.

        Raises:
            PoolClosed: `close` came first.
            OSError: it cannot be mapped.
        """
        with self._using:
            self._check_open()
            return memory_over(store, self.fd, wire.arena_at(row), wire.ARENA_HEAD)

    def _mapped(self, at: int, size: int) -> memoryview:
        with self._using:
            self._check_open()
            return shared_memory(self.fd, at, size)

    def _check_open(self) -> None:
        if self.fd < 0:  # the number may be that of another file by now
            raise PoolClosed("this pool was shut down")

    def close(self) -> None:
        """Map nothing more.  What is mapped stays so as long as somebody looks at it."""
        if os.getpid() != self._pid:
            self._using = threading.RLock()  # the thread that held the other one may not exist in this child
        with self._using:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)
