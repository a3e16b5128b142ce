"""What a caller asked for, as the client sees it: the future that the caller holds, and what travels."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Hashable, Mapping
from time import monotonic
from typing import Any, Protocol

from ... import wire as core
from ...columns import WIDTH
from ...deadline import Deadline
from ...errors import BadArguments, ProcpoolError
from ...supervisor.jobs.call import Export, Job
from ...supervisor.jobs.chunk import Chunk
from ...supervisor.jobs.shipped import Shipped
from ...wire import values
from .. import wire
from ..errors import NodeLost

#: What a unit that carries little counts for beside its payload, in bytes.
_OVERHEAD = 200


def _checked(what: str, data: bytes) -> bytes:
    """What is to travel as one value.

    Raises:
        BadArguments: no message can hold it.
    """
    if len(data) > wire.MOST_BYTES:
        raise BadArguments(
            f"{what} takes {len(data):,} bytes; what travels to another machine has {wire.MOST_BYTES:,} at most"
        )
    return data


class Travels(Protocol):
    """What the conductor asks of a unit, beside what the ledger asks."""

    number: int
    kind: Hashable
    items: int
    nbytes: int
    priority: int
    retries: int
    name: str  #: for people
    deadline: Deadline  #: when its caller gives up

    function: Shipped | None  #: the callable that a node must know before it can run this

    def packed(self, begins: bool) -> wire.Unit | None:
        """What to send to a node now; None if nobody wants it any more."""

    def settle(self, answer: wire.Answer) -> None:
        """A node has answered.  Runs no code of the user's."""

    def fail(self, error: BaseException) -> bool:
        """End it with an exception, unless it has ended."""

    def expire(self) -> bool:
        """End it because its time is up, unless it has ended."""


class _Single(Job):
    """A job of one item."""

    number = -1
    kind: Hashable = None
    items = 1
    nbytes = _OVERHEAD
    function: Shipped | None = None

    def __init__(self, name: str, context: bytes, limit: float | None) -> None:
        super().__init__(name, b"", limit=limit)
        self._context = context

    def _unit(self, kind: int, name: Any, begins: bool, payload: Any) -> wire.Unit | None:
        # Asked after its parts were read: whoever cancels it, in another thread, says so first and drops them then.
        if self.expired:
            return None
        deadline, retries = self.deadline, min(self.retries, wire.MOST_RETRIES)
        # Not what remains of it: that is how long to wait at once, a day at most.
        left = None if deadline.limit is None else max(0.0, deadline.at - monotonic())
        seconds = 0.0 if left is None else deadline.seconds
        how = self.limit, retries, self._context, 1, bool(self.trusted)
        return wire.Unit(self.number, kind, name, begins, left, seconds, *how, payload)

    def settle(self, answer: wire.Answer) -> None:
        """See `Travels`."""
        try:
            self._settle(answer.status, answer.payload)
        except Exception as error:  # it says what no sound node says
            self.fail(ProcpoolError(f"a node sent an answer that cannot be read: {error}"))

    def _settle(self, status: int, payload: bytes) -> None:
        if status in (wire.FAILED, wire.PICKLED):
            end = self.fail if status == wire.FAILED else self.succeed
            self.post(lambda: end(self._loaded(payload)))
        elif status == core.VALUE:
            if self.pickled:
                with contextlib.suppress(values.NeedsCode):
                    self.succeed(values.plain(payload))
                    return
            received = values.detach(payload, _no_slot, pickled=self.pickled, slots=range(0))
            self.post(lambda: self._load(received))
        else:
            self.report(status, payload)

    def _load(self, received: values.Received) -> None:
        try:
            result = received.load()
        except BaseException as error:
            self.fail(error)
        else:
            self.succeed(result)

    def _loaded(self, payload: bytes) -> Any:
        try:
            return pickle.loads(payload)
        except BaseException as error:
            self.fail(error)

    def _let_go(self) -> None:
        super()._let_go()
        self._context = b""


class CallUnit(_Single):
    """A call of an export."""

    def __init__(self, export: Export, args: tuple[Any, ...], context: bytes, limit: float | None) -> None:
        super().__init__(export.name, context, limit)
        self.kind: Hashable = export.name
        self._slots = export.pack(args)
        self._unpack: Callable[[bytes], Any] = export.unpack
        self.nbytes: int = _OVERHEAD + len(self._slots)

    def packed(self, begins: bool) -> wire.Unit | None:
        """See `Travels`."""
        return self._unit(wire.CALL, self.name, begins, self._slots)

    def _settle(self, status: int, payload: bytes) -> None:
        if status == core.OK:
            self.succeed(self._unpack(payload))
        else:
            super()._settle(status, payload)


class ShippedUnit(_Single):
    """A call of a callable."""

    def __init__(
        self, function: Shipped, args: tuple[Any, ...], context: bytes, limit: float | None, pickled: bool
    ) -> None:
        if not function.least <= len(args) <= function.most:
            function.check(len(args))
        super().__init__(function.name, context, limit)
        self.trusted: bool | None = pickled and not function.ours
        self.function: Shipped | None = function
        self._digest = function.digest
        self.kind: Hashable = function.digest
        self._args = _checked(f"what is given to {function.name}", values.dump(args).inline())
        self.nbytes: int = _OVERHEAD + len(self._args)

    def packed(self, begins: bool) -> wire.Unit | None:
        """See `Travels`."""
        return self._unit(wire.SHIPPED, self._digest, begins, self._args)

    def _let_go(self) -> None:
        super()._let_go()
        self._args = b""


class RunUnit(_Single):
    """A run of a command, with the keywords that it is given beyond those of the pool."""

    def __init__(self, name: str, keywords: Mapping[str, Any], context: bytes, limit: float | None) -> None:
        super().__init__(name, context, limit)
        self.kind: Hashable = ("run", name)
        self._keywords = _checked(f"what is given to {name}", pickle.dumps(dict(keywords), 5))
        self.nbytes: int = _OVERHEAD + len(self._keywords)

    def packed(self, begins: bool) -> wire.Unit | None:
        """See `Travels`."""
        return self._unit(wire.RUN, None, begins, self._keywords)

    def _let_go(self) -> None:
        super()._let_go()
        self._keywords = b""


class StretchUnit:
    """A chunk of a map: all of it goes to one node."""

    function: Shipped | None = None
    deadline: Deadline = Deadline.NEVER
    number: int = -1
    priority: int = 0

    def __init__(self, chunk: Chunk) -> None:
        signature = chunk.export.codec.signature
        self.chunk = chunk
        self.name: str = chunk.export.name
        self.kind: Hashable = "map", self.name
        self.items: int = chunk.count
        self.retries: int = chunk.retries
        self._widths = [[WIDTH[kind] for kind in kinds] for kinds in (signature.params, signature.results)]
        self.nbytes: int = _OVERHEAD + chunk.count * sum(self._widths[0])

    def packed(self, begins: bool) -> wire.Unit | None:
        """See `Travels`."""
        chunk, columns = self.chunk, []
        if chunk.abandoned:
            return None
        for number, width in enumerate(self._widths[0]):
            column = bytearray(width * chunk.count)
            chunk.data.load(number, 0, chunk.count, memoryview(column))
            columns.append(column)
        return wire.Unit(
            *(self.number, wire.STRETCH, self.name, begins, None, 0.0, chunk.item_timeout),
            *(min(chunk.retries, wire.MOST_RETRIES), chunk.context, chunk.count, False, columns),
        )

    def settle(self, answer: wire.Answer) -> None:
        """See `Travels`."""
        chunk = self.chunk
        try:
            if answer.status == wire.FAILED:
                raise pickle.loads(answer.payload)  # of the node's pool's own, and so none of the user's code
            if answer.status != wire.COLUMNS:
                raise ValueError(f"a stretch cannot end in status {answer.status}")
            *columns, errors = answer.payload
            if [len(column) for column in columns] != [width * chunk.count for width in self._widths[1]]:
                raise ValueError(f"{[len(column) for column in columns]} bytes for {chunk.count} items")
            if not chunk.abandoned:  # else the store may be nobody's to write to any more
                for number, column in enumerate(columns):
                    chunk.data.store(number, 0, chunk.count, memoryview(column))
            if errors:
                chunk.errors.update(pickle.loads(errors))  # reports: what they hold is loaded by who takes the results
        except Exception as error:
            self.fail(error)
            return
        chunk.nanoseconds += answer.nanoseconds
        chunk.finished(chunk.count)

    def fail(self, error: BaseException) -> bool:
        """See `Travels`."""
        if self.chunk.done:
            return False
        for index in range(self.chunk.count):
            self.chunk.errors.setdefault(index, error)
        self.chunk.finished(self.chunk.count)
        return True

    def expire(self) -> bool:
        """See `Travels`.  Its map keeps its time itself."""
        return False


def lost(unit: Travels, host: str, address: str, reason: str) -> NodeLost:
    """What a unit ends in that a lost node had begun."""
    return NodeLost(host, address, unit.name, reason)


def _no_slot(slot: int, size: int) -> memoryview:
    raise ValueError(f"a value of {size} bytes in slot {slot} of another machine")
