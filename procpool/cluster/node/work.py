"""Units as jobs of a node's own pool.  What a worker answers goes on to the client as it is."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING, Any

from ... import wire as core
from ...columns import WIDTH
from ...deadline import Deadline
from ...job_context import capture
from ...supervisor.jobs.batch import Segment, most_items
from ...supervisor.jobs.call import Export, Job
from ...supervisor.jobs.chunk import Chunk
from ...supervisor.jobs.pickled import PickledJob
from ...supervisor.jobs.shipped import Shipped, ShippedCall
from ...wire import values
from .. import wire

if TYPE_CHECKING:
    from ...pool import ProcessWasmPool
    from ...supervisor.lane import Lane, Memory

#: Nanoseconds that a segment of a stretch should take a worker, as in maps on one machine.
SEGMENT_NS = 8_000_000
#: Told of an answer: in whatever thread, quick, and takes no lock for long.  With the worker, and since when it was at
#: this.
Tell = Callable[[wire.Answer, "tuple[int, float] | None"], None]


def deadline_of(unit: wire.Unit) -> Deadline:
    """When the client gives a unit up, by the clock of this host."""
    return Deadline.NEVER if unit.left is None else Deadline(monotonic() + unit.left, unit.seconds)


def rebased(context: bytes, visible: bool, limit: float | None, deadline: Deadline) -> bytes:
    """A context from another host, with the deadline by this one's clock.

    Args:
        context: empty if there is nothing in it.
        visible: whether Python code runs with the job.
    """
    if not context:
        return capture(visible, limit, deadline.limit)
    _, timeout, size, traced = core.CONTEXT.unpack_from(context)
    at = math.inf if deadline.limit is None else deadline.at
    return core.CONTEXT.pack(at, timeout if limit is None else limit, size, traced) + context[core.CONTEXT.size :]


class _PassedOn(Job):
    """A job whose answer is the client's to read."""

    def pass_on(self, number: int, tell: Tell) -> None:
        """Have the client told what becomes of it."""
        self._number = number
        self._tell_client = tell

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        if status == core.INTERRUPTED:
            self.report(status, payload)
            return ()
        if status not in (core.OK, core.VALUE):
            core.report_of(
                status, payload, self.name, self.pickled
            )  # what no sound worker sends is this host's to find out
            if self.owner is not None:
                self.owner.failed()
        if self.succeed(None):
            self._tell_client(wire.Answer(self._number, status, 0, bytes(payload)), (id(lane), lane.since))
        return ()

    def fail(self, error: BaseException) -> bool:
        failed = super().fail(error)
        if failed:
            self._tell_client(wire.Answer(self._number, wire.FAILED, 0, pickle.dumps(error)), None)
        return failed


class PassedCall(_PassedOn):
    """A call of an export."""

    def __init__(self, unit: wire.Unit, export: Export, visible: bool) -> None:
        deadline = deadline_of(unit)
        context = rebased(unit.context, visible, unit.limit, deadline)
        super().__init__(export.name, export.frame(core.SUBMIT, unit.payload, context), limit=unit.limit)
        self.deadline: Deadline = deadline
        self.retries: int = unit.retries


class KnownFunction(Shipped):
    """A callable that was pickled on another host.  It is not unpickled here."""

    def __init__(self, name: str, digest: bytes, pickled: bytes) -> None:
        self.name: str = name
        self.digest: bytes = digest
        self.ours: bool = False  # the unit says what comes of it
        self.pickle: bytes = pickled
        self._takes = None
        self.least: float = 0.0  # the client has checked
        self.most: float = math.inf


class PassedShipped(_PassedOn, ShippedCall):
    """A call of a callable, which stands in the unit for its digest."""

    def __init__(self, unit: wire.Unit) -> None:
        function: KnownFunction = unit.name
        deadline = deadline_of(unit)
        PickledJob.__init__(self, function.name, b"", limit=unit.limit)
        self.trusted: bool | None = unit.pickled
        self._args = values.detach(unit.payload, _no_slot, pickled=True, slots=range(0)).dumped()
        self._function = function
        self._context = rebased(unit.context, True, unit.limit, deadline)
        self._size = self._args.size
        if 0 < self._size <= core.PAYLOAD_BYTES:
            self.buffers = 1
        self.deadline: Deadline = deadline
        self.retries: int = unit.retries

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        if status == core.VALUE and values.slot_of(payload) != values.INLINE:
            received = self.receive(lane, memory, payload)
            payload = b"" if received is None else received.dumped().inline()
        left = super().answered(lane, memory, status, payload) if payload or status != core.VALUE else ()
        if self.buffers:
            memory.give_up_payload(self.buffer, self._size)
        return left


class Stretch:
    """A stretch of a map: its columns, and room for the results."""

    def __init__(self, unit: wire.Unit, export: Export, context: bytes) -> None:
        signature = export.codec.signature
        self._widths = [WIDTH[kind] for kind in signature.params], [WIDTH[kind] for kind in signature.results]
        self._params = [memoryview(column) for column in unit.payload]
        if [len(column) for column in self._params] != [width * unit.items for width in self._widths[0]]:
            raise ValueError(f"a stretch of {unit.items} items with {[len(column) for column in self._params]} bytes")
        self._results = [bytearray(width * unit.items) for width in self._widths[1]]
        self.number: int = unit.number
        self.chunk: Chunk = Chunk(export, self, unit.items, unit.limit, unit.retries, context)

    def load(self, column: int, start: int, stop: int, target: memoryview) -> None:
        """See `Data`."""
        width = self._widths[0][column]
        target[:] = self._params[column][start * width : stop * width]

    def store(self, column: int, start: int, stop: int, source: memoryview) -> None:
        """See `Data`."""
        width = self._widths[1][column]
        self._results[column][start * width : stop * width] = source

    def segments(self, lanes: int, item_ns: float | None) -> list[Segment]:
        """It as jobs: so many that every worker has some, and none takes long."""
        count = self.chunk.count
        size = -(-count // (2 * max(1, lanes)))  # there may be none for the moment
        if item_ns is not None:
            size = min(size, max(1, int(SEGMENT_NS / item_ns)))
        size = max(1, min(size, most_items(self.chunk.export)))
        return [Segment(self.chunk, at, min(at + size, count)) for at in range(0, count, size)]

    def answer(self) -> wire.Answer:
        """What became of it, when it is done."""
        errors = pickle.dumps(self.chunk.errors) if self.chunk.errors else b""
        return wire.Answer(self.number, wire.COLUMNS, self.chunk.nanoseconds, [*self._results, errors])


def start_run(pool: ProcessWasmPool, unit: wire.Unit, tell: Tell) -> Future[Any]:
    """Have a command run."""
    limit = unit.limit if unit.left is None else min(unit.left, unit.limit or math.inf)
    run = pool.submit_run(**pickle.loads(unit.payload), timeout=math.inf if limit is None else max(limit, 1e-3))
    run.add_done_callback(lambda done: _tell_run(done, unit.number, tell))
    return run


def _tell_run(done: Future[Any], number: int, tell: Tell) -> None:
    if done.cancelled():
        return
    error = done.exception()
    status, result = (wire.PICKLED, done.result()) if error is None else (wire.FAILED, error)
    tell(wire.Answer(number, status, 0, pickle.dumps(result)), None)


def _no_slot(slot: int, size: int) -> memoryview:
    raise ValueError(f"a value of {size} bytes in slot {slot} of another machine")
