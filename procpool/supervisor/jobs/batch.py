"""Batches: a stretch of a chunk, as one job for a worker."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ... import wire
from ...columns import WIDTH
from ...errors import CallTimeout
from .call import Export, Job
from .chunk import Chunk

if TYPE_CHECKING:
    from ..lane import Lane, Memory
    from .shipped import FunctionsSent

_U32_SLOT = struct.Struct("<I12x")
_U32 = struct.Struct("<I")
_ALIGN = 64  # where columns start in a buffer
_SHORTEST_SAMPLE = 0.001  # seconds between looks at whether an item has ended


def item_bytes(export: Export) -> int:
    """Bytes that one item takes in a buffer."""
    signature = export.codec.signature
    return sum(WIDTH[kind] for kind in signature.params + signature.results)


def most_items(export: Export) -> int:
    """How many items fit into one buffer."""
    signature = export.codec.signature
    columns = len(signature.params) + len(signature.results)
    return (wire.BUFFER_BYTES - columns * _ALIGN) // max(item_bytes(export), 1)


def segment_of(chunk: Chunk) -> Segment:
    """All of a chunk as one job."""
    return Segment(chunk, 0, chunk.count)


class Segment(Job):
    """The items [start, stop) of a chunk: one job for a worker.

    A chunk is cut when a worker dies in it, and when idle workers could share the rest.  Items are counted from ``start``
    wherever the worker is concerned.
    """

    buffers = 1
    placed = True

    def __init__(self, chunk: Chunk, start: int, stop: int) -> None:
        super().__init__(chunk.export.name, b"")
        self.export: Export = chunk.export
        self.chunk = chunk
        self.tenant: str = chunk.tenant
        self.start = start
        self.stop = stop
        self.halted: bool = False
        self._item_seen = -1, 0.0  # at which item it was last seen, and since when
        self._reached = 0
        self._again: list[int] = []  # items to run again, because an interrupt hit them that was meant for another
        self._failed: set[int] = set()  # items that the worker has announced, these among them

    def begin(self) -> bool:
        if self.chunk.abandoned or self.expired:
            if not self.expired:
                self.expired: bool = True
                self.chunk.finished(self.stop - self.start)
            return False
        return True

    def place(self, memory: Memory, buffer: int, functions: FunctionsSent, results_taken: int) -> bytes:
        """Write the arguments into the worker's arena; the frame that sets it to work."""
        arena, cells = memory.arena, buffer * wire.CELLS
        self.buffer = buffer
        self.halted = False
        self._item_seen = -1, 0.0
        self._reached = 0
        _U32.pack_into(arena, cells + wire.INDEX, 0)
        _U32.pack_into(arena, cells + wire.STOP, 0)
        params, results = self._columns()
        for column, (start, end) in enumerate(params):
            self.chunk.data.load(column, self.start, self.stop, arena[start:end])
        slots = (0, self.stop - self.start, cells, *(start for start, _ in params + results))
        payload = self.chunk.context + b"".join(map(_U32_SLOT.pack, slots))
        flags = wire.HAS_CONTEXT * bool(self.chunk.context) + wire.ITEM_BY_ITEM * (self.chunk.item_timeout is not None)
        return wire.JOB.pack(len(payload), self.export.index, wire.BATCH, flags) + payload

    # -- while it runs -------------------------------------------------------------------------------------------------

    def item(self, memory: Memory) -> int:
        """The item it is at; it never goes back, or it could be at a new one for ever, each with its own time limit."""
        told: int = _U32.unpack_from(memory.arena, self.buffer * wire.CELLS + wire.INDEX)[0]
        self._reached = max(self._reached, min(told, self.stop - self.start - 1))
        return self._reached

    def halt(self, memory: Memory) -> None:
        """Have the driver stop before its next item."""
        self.halted = True
        _U32.pack_into(memory.arena, self.buffer * wire.CELLS + wire.STOP, 1)

    def stop_at(self, lane: Lane, memory: Memory, now: float) -> float | None:
        if self.chunk.abandoned:
            self.halt(memory)
            return now
        limit = self.chunk.item_timeout
        if limit is None:
            return None
        item = self.item(memory)
        if self._item_seen[0] != item:
            self._item_seen = item, now
        return max(self._item_seen[1], lane.since) + limit

    def sampling(self) -> float | None:
        # It is noticed that an item has begun when this is next looked at, so it may run over by a quarter.
        limit = self.chunk.item_timeout
        return None if limit is None else max(limit / 4, _SHORTEST_SAMPLE)

    @property
    def unwanted(self) -> bool:
        """Whether it is stopped because nobody waits for it, and not because its time is up."""
        return self.chunk.abandoned

    def overdue(self) -> None:
        pass  # the worker says so itself, item by item

    def seconds_left(self, lane: Lane, memory: Memory, now: float) -> float:
        """An estimate from how far it has come; 0 if there is nothing to share."""
        item, items = self.item(memory), self.stop - self.start
        left = items - item - 1
        return (now - lane.since) / (item + 1) * left if left > 0 and not self.halted else 0.0

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def item_failed(self, lane: Lane, payload: bytes) -> None:
        """Note the failure of one item, which the worker has announced.

        Raises:
            ValueError: there is no such item.
        """
        index, status = wire.FAILED_ITEM.unpack_from(payload)
        if not 0 <= index < self.stop - self.start:
            raise ValueError(f"item {index} of {self.stop - self.start} failed")
        if index in self._failed:
            raise ValueError(f"item {index} failed twice")
        self._failed.add(index)
        if status != wire.INTERRUPTED:
            details = payload[wire.FAILED_ITEM.size :]
            self._item_ended(index, wire.report_of(status, details, self.export.name, self.pickled))
        elif lane.interrupted == (lane.number, index):
            self._item_ended(index, self._timeout_error())
        elif lane.interrupted[0] != lane.number:
            raise ValueError(f"item {index} was interrupted, and nobody asked for that")
        else:
            # The item that was to be stopped ended in that very moment, and this one was hit instead.
            self._again.append(index)

    def _item_ended(self, index: int, report: wire.Report) -> None:
        self.chunk.errors[self.start + index] = report
        if self.owner is not None:
            self.owner.failed()

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        if status != wire.OK:
            raise ValueError(f"a batch cannot end in status {status}")
        stopped, nanoseconds = wire.BATCH_DONE.unpack(payload)
        if not len(self._again) <= stopped <= self.stop - self.start:
            raise ValueError(f"a batch of {self.stop - self.start} items cannot stop at {stopped}")
        if stopped <= max(self._failed, default=-1) or (stopped < self.stop - self.start and not self.halted):
            raise ValueError(f"a batch of {self.stop - self.start} items has stopped at {stopped} by itself")
        nanoseconds = min(nanoseconds, lane.port.process.life_ns)
        self.chunk.nanoseconds += nanoseconds
        lane.durations.record(stopped, nanoseconds)
        return self._collect(lane, memory, stopped)

    def crashed(self, lane: Lane, memory: Memory, crash: Exception) -> tuple[bool, Sequence[Job]]:
        """Keep the results from before the worker's death, and fail the item it was at or run it again."""
        retried = False
        lane.calls_done(1)  # an answer would have counted for one call
        index = self.item(memory)
        if index in self._again or self.start + index in self.chunk.errors:
            pass  # that one had ended and been announced, and the next had not begun
        elif lane.interrupted == (lane.number, index):  # and killed, because it would not stop
            self._item_ended(index, self._timeout_error())
        elif self.chunk.deaths[self.start + index] < self.chunk.retries:
            retried = True
            self.chunk.deaths[self.start + index] += 1
            self._again.append(index)
        else:
            self._item_ended(index, crash)
        return retried, self._collect(lane, memory, index + 1)

    def fail(self, error: BaseException) -> bool:
        """End all its items with an exception."""
        if self.expired:
            return False
        self.expired = True
        for index in range(self.start, self.stop):
            self.chunk.errors.setdefault(index, error)
        self.chunk.finished(self.stop - self.start)
        return True

    def cancel(self) -> bool:
        raise AssertionError("a chunk is abandoned, not cancelled")

    def _timeout_error(self) -> CallTimeout:
        return CallTimeout(f"{self.export.name} ran longer than {self.chunk.item_timeout} s on this item")

    def _collect(self, lane: Lane, memory: Memory, stopped: int) -> list[Job]:
        """Take the results of the items before ``stopped``; what is left to run."""
        chunk, arena = self.chunk, memory.arena
        columns = [] if chunk.abandoned else self._columns()[1]  # the store may not be ours to write to any more
        for column, (start, end) in enumerate(columns):
            width = (end - start) // (self.stop - self.start)
            chunk.data.store(column, self.start, self.start + stopped, arena[start : start + stopped * width])
        lane.calls_done(stopped - 1 - len(self._again))
        self.expired = True  # in its place come others
        if chunk.abandoned:
            chunk.finished(self.stop - self.start)
            return []
        chunk.finished(stopped - len(self._again))
        left = [(self.start + index, self.start + index + 1) for index in self._again]
        first = self.start + stopped
        middle = (first + self.stop + 1) // 2
        left += [(first, middle), (middle, self.stop)]
        return [self._rest(start, stop) for start, stop in left if start < stop]

    def _rest(self, start: int, stop: int) -> Segment:
        rest = Segment(self.chunk, start, stop)
        rest.owner = self.owner
        return rest

    def _columns(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Where each parameter's and each result's column lies in the arena."""
        signature = self.export.codec.signature
        at = wire.ARENA_HEAD + self.buffer * wire.BUFFER_BYTES
        places = []
        for kind in signature.params + signature.results:
            size = WIDTH[kind] * (self.stop - self.start)
            places.append((at, at + size))
            at += -(-size // _ALIGN) * _ALIGN
        return places[: len(signature.params)], places[len(signature.params) :]
