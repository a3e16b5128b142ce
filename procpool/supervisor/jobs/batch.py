"""Batches: many calls of one export, as the supervisor sees them.

A *chunk* is what a mapping hands over and waits for.  It travels as one *segment* or several: it is cut when a worker
dies in it, and when idle workers could share the rest.
"""

from __future__ import annotations

import struct
from collections import Counter
from concurrent.futures import Future
from typing import Protocol

from ... import wire
from ...columns import WIDTH
from ...errors import CallTimeout, WorkerCrashed
from ..worker import Worker
from .call import Export, Job

_U32_SLOT = struct.Struct("<I12x")
_U32 = struct.Struct("<I")
_ALIGN = 64  # where columns start in a buffer
_SHORTEST_SAMPLE = 0.001  # seconds between looks at whether an item has ended


class Data(Protocol):
    """Where a chunk's arguments come from and its results go to, item ranges at a time."""

    def load(self, column: int, start: int, stop: int, target: memoryview) -> None:
        """Write an argument column's items [start, stop) to ``target``."""

    def store(self, column: int, start: int, stop: int, source: memoryview) -> None:
        """Take a result column's items [start, stop) from ``source``, which is overwritten afterwards."""


def item_bytes(export: Export) -> int:
    """Bytes that one item takes in a buffer."""
    signature = export.codec.signature
    return sum(WIDTH[kind] for kind in signature.params + signature.results)


def most_items(export: Export) -> int:
    """How many items fit into one buffer."""
    signature = export.codec.signature
    columns = len(signature.params) + len(signature.results)
    return (wire.BUFFER_BYTES - columns * _ALIGN) // max(item_bytes(export), 1)


class Chunk(Future[None]):
    """Some items of a mapping.  The future ends when each item has its result, or its exception in ``errors``."""

    def __init__(
        self, export: Export, data: Data, count: int, item_timeout: float | None, retries: int = 0, context: bytes = b""
    ) -> None:
        super().__init__()
        self.context = context  #: what `capture` gave
        self.retries = retries  #: how often each item may be run again after a worker died in it
        self.deaths: Counter[int] = Counter()  #: that each item has seen
        self.export = export
        self.data = data
        self.count = count
        self.item_timeout = item_timeout
        self.errors: dict[int, BaseException] = {}
        self.nanoseconds = 0  #: time that workers have spent on it
        self.abandoned = False  #: nobody waits for it: run no more of it than has begun
        self._missing = count

    def segment(self) -> Segment:
        """All of it as one job."""
        return Segment(self, 0, self.count)

    def finished(self, count: int) -> None:
        """That many more items have ended."""
        self._missing -= count
        if not self._missing:
            self.set_result(None)


class Segment(Job):
    """The items [start, stop) of a chunk: one job for a worker.

    Items are counted from ``start`` wherever the worker is concerned.
    """

    buffers = 1

    def __init__(self, chunk: Chunk, start: int, stop: int) -> None:
        super().__init__(chunk.export.name, b"")
        self.export = chunk.export
        self.chunk = chunk
        self.start = start
        self.stop = stop
        self.halted = False
        self._buffer = 0
        self._again: list[int] = []  # items to run again, because an interrupt hit them that was meant for another

    def begin(self) -> bool:
        if self.chunk.abandoned:
            self.chunk.finished(self.stop - self.start)
            return False
        return True

    def place(self, worker: Worker) -> bytes:
        """Write the arguments into the worker's arena; the frame that sets it to work."""
        self._buffer = worker.next_buffer
        worker.next_buffer = (self._buffer + 1) % wire.BUFFERS
        worker.batches += 1
        self.halted = False
        arena, cells = worker.arena, self._buffer * wire.CELLS
        _U32.pack_into(arena, cells + wire.INDEX, 0)
        _U32.pack_into(arena, cells + wire.STOP, 0)
        params, results = self._columns()
        for column, (start, end) in enumerate(params):
            self.chunk.data.load(column, self.start, self.stop, arena[start:end])
        slots = (0, self.stop - self.start, cells, *(start for start, _ in params + results))
        payload = self.chunk.context + b"".join(map(_U32_SLOT.pack, slots))
        flags = wire.HAS_CONTEXT * bool(self.chunk.context) + wire.ITEM_BY_ITEM * (self.chunk.item_timeout is not None)
        return wire.JOB.pack(len(payload), self.export.index, wire.BATCH, flags) + payload

    def unplace(self, worker: Worker) -> None:
        worker.batches -= 1
        worker.next_buffer = (worker.next_buffer - 1) % wire.BUFFERS

    # -- while it runs -------------------------------------------------------------------------------------------------

    def item(self, worker: Worker) -> int:
        value: int = _U32.unpack_from(worker.arena, self._buffer * wire.CELLS + wire.INDEX)[0]
        return value

    def halt(self, worker: Worker) -> None:
        """Have the driver stop before its next item."""
        self.halted = True
        _U32.pack_into(worker.arena, self._buffer * wire.CELLS + wire.STOP, 1)

    def deadline(self, worker: Worker, now: float) -> float | None:
        if self.chunk.abandoned:
            self.halt(worker)
            return now
        limit = self.chunk.item_timeout
        if limit is None:
            return None
        where = (worker.head, self.item(worker))
        if worker.item_seen[0] != where:
            worker.item_seen = (where, now)
        return worker.item_seen[1] + limit

    def sampling(self) -> float | None:
        # It is noticed that an item has begun when this is next looked at, so it may run over by a quarter.
        limit = self.chunk.item_timeout
        return None if limit is None else max(limit / 4, _SHORTEST_SAMPLE)

    def timed_out(self) -> None:
        pass  # the worker says so itself, item by item

    def seconds_left(self, worker: Worker, now: float) -> float:
        """An estimate from how far it has come; 0 if there is nothing to share."""
        item, items = self.item(worker), self.stop - self.start
        left = items - item - 1
        return (now - worker.head_since) / (item + 1) * left if left > 0 and not self.halted else 0.0

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def item_failed(self, worker: Worker, payload: bytes) -> None:
        """Note the failure of one item, which the worker has announced."""
        index, status = wire.FAILED_ITEM.unpack_from(payload)
        if status != wire.INTERRUPTED:
            details = payload[wire.FAILED_ITEM.size :]
            self.chunk.errors[self.start + index] = wire.error_from_reply(status, details, self.export.name)
        elif index == worker.interrupted[1]:
            self.chunk.errors[self.start + index] = self._timeout_error()
        else:
            # The item that was to be stopped ended in that very moment, and this one was hit instead.
            self._again.append(index)

    def answered(self, worker: Worker, status: int, payload: bytes) -> list[Job]:
        if status != wire.OK:
            raise ValueError(f"a batch cannot end in status {status}")
        stopped, nanoseconds = wire.BATCH_DONE.unpack(payload)
        self.chunk.nanoseconds += nanoseconds
        return self._collect(worker, stopped)

    def crashed(self, worker: Worker) -> list[Job]:
        """Keep the results from before the worker's death, and fail the item it was at; what is left to run."""
        index = self.item(worker)
        if worker.interrupted == (worker.begun - 1, index):  # and killed, because it would not stop
            self.chunk.errors[self.start + index] = self._timeout_error()
        elif self.chunk.deaths[self.start + index] < self.chunk.retries:
            self.chunk.deaths[self.start + index] += 1
            self._again.append(index)
        else:
            crash = WorkerCrashed(worker.process.pid, self.export.name, worker.process.exitcode)
            self.chunk.errors[self.start + index] = crash
        return self._collect(worker, index + 1)

    def fail(self, error: BaseException) -> None:
        """End all its items with an exception."""
        for index in range(self.start, self.stop):
            self.chunk.errors.setdefault(index, error)
        self.chunk.finished(self.stop - self.start)

    def _timeout_error(self) -> CallTimeout:
        return CallTimeout(f"{self.export.name} ran longer than {self.chunk.item_timeout} s on this item")

    def _collect(self, worker: Worker, stopped: int) -> list[Job]:
        """Take the results of the items before ``stopped``; what is left to run."""
        chunk, arena = self.chunk, worker.arena
        for column, (start, end) in enumerate(self._columns()[1]):
            width = (end - start) // (self.stop - self.start)
            chunk.data.store(column, self.start, self.start + stopped, arena[start : start + stopped * width])
        worker.batches -= 1
        worker.items += stopped - 1 - len(self._again)
        if chunk.abandoned:
            chunk.finished(self.stop - self.start)
            return []
        chunk.finished(stopped - len(self._again))
        left = [(self.start + index, self.start + index + 1) for index in self._again]
        first = self.start + stopped
        middle = (first + self.stop + 1) // 2
        left += [(first, middle), (middle, self.stop)]
        return [Segment(chunk, start, stop) for start, stop in left if start < stop]

    def _columns(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Where each parameter's and each result's column lies in the arena."""
        signature = self.export.codec.signature
        at = wire.ARENA_HEAD + self._buffer * wire.BUFFER_BYTES
        places = []
        for kind in signature.params + signature.results:
            size = WIDTH[kind] * (self.stop - self.start)
            places.append((at, at + size))
            at += -(-size // _ALIGN) * _ALIGN
        return places[: len(signature.params)], places[len(signature.params) :]
