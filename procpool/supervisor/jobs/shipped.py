"""Python callables that run beside an instance in a worker."""

from __future__ import annotations

import functools
import hashlib
import math
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from ... import pickler, wire
from ...bytes_function import BytesCall, BytesFunction, CallTable
from ...errors import BadArguments
from ...plain_function import without_instance
from ...wire import values
from .arity import Takes
from .pickled import PickledJob

if TYPE_CHECKING:
    from ..lane import Lane, Memory
    from .call import Job

#: Different ones that are kept in their travelling form; they are small, and programs have a handful.
_MOST_BYTES_FUNCTIONS = 256


class Shipped:
    """A callable ready to travel: its pickle, and the digest that stands for it after the first time.

    It does not refer to the callable.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name: str = name_of(function)
        self.ours: bool = isinstance(function, (BytesFunction, BytesCall))  #: no code of the user's, and results are plain
        self._takes = Takes.of(function)
        #: the least and the most arguments, the instance not counted, with which `check` need not be asked
        self.least: float
        self.most: float
        self.least, self.most = (0.0, math.inf) if self._takes is None else self._takes.bounds()
        self.pickle: bytes = pickler.dumps(function)
        self.digest: bytes = hashlib.blake2b(self.pickle, digest_size=wire.DIGEST_BYTES).digest()

    def check(self, count: int) -> None:
        """Whether it can be called with an instance and that many arguments, as far as one can tell.

        Raises:
            BadArguments: it cannot; says what to do.
        """
        if self._takes is not None:
            self._takes.check(self.name, count)

    def parts(self, carries: bool, forget: Sequence[bytes], taken: int) -> list[bytes]:
        """What stands before the arguments in a frame that calls it.

        Args:
            carries: whether its pickle is among it; see `FunctionsSent.send`.
            forget: digests of the functions to forget; likewise.
            taken: how many large results of this worker have been copied out of their slots.
        """
        size = len(self.pickle) if carries else 0
        head = wire.SHIPPED_HEAD.pack(self.digest, size, taken & 0xFFFFFFFF, len(forget))
        return [head, *forget, self.pickle] if carries else [head, *forget]


def name_of(function: Callable[..., Any]) -> str:
    """What to call a function of the user's, for people."""
    name = getattr(function, "__qualname__", None)
    if isinstance(name, str):
        return name
    if isinstance(function, BytesCall):
        return function.export
    if isinstance(function, without_instance):
        return name_of(function.function)
    if isinstance(function, functools.partial):  # its repr would show its arguments, however large
        return f"partial of {name_of(function.func)}"
    return type(function).__qualname__


class _Seen(weakref.ref[Any]):
    """A function and its travelling form, for as long as the function lives."""

    __slots__ = ("key", "shipped")

    key: int
    shipped: Shipped


class Shipper:
    """The callables seen so far.  It keeps none of them alive, nor anything they refer to.

    A function, or a class, is pickled when it is first seen, with and without an instance: what it refers to is sent as it
    was then.  It is known again by its identity.  Everything else, such as a bound method, a partial or an object with
    ``__call__``, is pickled each time: what it holds counts as arguments, and is sent as it is now.  Two callables of
    either sort with the same pickle travel once.
    """

    def __init__(self, exports: Mapping[str, Any], callables: bool = True) -> None:
        """What a pool begins with.

        Args:
            exports: of the module, by name.
            callables: whether any may be sent, and not a BytesFunction alone, which is code of ours.
        """
        self._callables = callables
        self.calls: CallTable = CallTable(exports)
        self._seen: dict[int, _Seen] = {}
        self._seen_without: dict[int, _Seen] = {}  # without_instance of these
        self._bytes_functions: dict[BytesFunction, Shipped] = {}

    def ship(self, function: Callable[..., Any]) -> Shipped:
        """The callable in its travelling form.

        Raises:
            Whatever pickling it raises.
            BadArguments: callables are refused.
            UnknownExport, ValueError: a BytesFunction does not fit the module.
        """
        seen = self._seen.get(id(function))
        if seen is not None and seen() is function:
            return seen.shipped
        kind = type(function)
        if kind is BytesFunction:
            return self._ship_bytes_function(function)  # type: ignore[arg-type]
        if not self._callables:
            raise BadArguments(
                f"{name_of(function)} is a Python callable, and this pool was made with callables=False, so that"
                " its workers can be locked"
            )
        if isinstance(function, without_instance):
            seen = self._seen_without.get(id(function.function))
            if seen is not None and seen() is function.function:
                return seen.shipped
            shipped = Shipped(function)
            _remember(self._seen_without, function.function, shipped)
        else:
            shipped = Shipped(function)
            _remember(self._seen, function, shipped)
        return shipped

    def _ship_bytes_function(self, function: BytesFunction) -> Shipped:
        # These are made anew for each `call_bytes`, and cannot change: so they are known by what they say.
        try:
            shipped = self._bytes_functions.get(function)
        except TypeError:  # an option that cannot be hashed, and is of no use either; whoever runs it will say so
            return Shipped(self.calls.of(function))
        if shipped is None:
            if len(self._bytes_functions) >= _MOST_BYTES_FUNCTIONS:
                self._bytes_functions.clear()
            shipped = self._bytes_functions[function] = Shipped(self.calls.of(function))
        return shipped


def _remember(entries: dict[int, _Seen], function: Callable[..., Any], shipped: Shipped) -> None:
    """Know a function again while it lives, if nobody can change what it holds."""
    bound = type(function) is BuiltinFunctionType and not isinstance(function.__self__, ModuleType)
    if bound or not isinstance(function, (FunctionType, BuiltinFunctionType, type)):
        return

    def forget(entry: _Seen) -> None:
        # In whatever thread, and whatever that is in the middle of: a lock here could be held already.  The number is
        # nobody else's yet.
        entries.pop(entry.key, None)

    seen = _Seen(function, forget)
    seen.key, seen.shipped = id(function), shipped
    entries[seen.key] = seen


class _Known:
    """A function that a worker knows."""

    __slots__ = ("digest", "size", "uses")

    def __init__(self, digest: bytes, size: int) -> None:
        self.digest = digest
        self.size = size  #: of its pickle
        self.uses = 0  #: jobs in flight that call it


#: A job in flight, and what it does to a worker's knowledge: what it calls, whether it carries that, what is forgotten.
_Sending = tuple[_Known, bool, Sequence[_Known]]


class FunctionsSent:
    """Which functions one worker knows when it comes to the next job it is sent.

    It works through its jobs in the order sent, skipping those withdrawn, and does as each says: forgets some functions,
    then learns one.  So what it will know is known here, if each job is reported: `send` in that order, `answered` in the
    same order, `undo` in the opposite one, beginning with the last.  A worker that has died has no further use for this.

    Args:
        most: how many functions a worker may know.
        most_bytes: how large their pickles may be together, in bytes.  Both limits are exceeded for a job's own function,
            and for those of jobs in flight.
    """

    def __init__(self, most: int = 64, most_bytes: int = 64 << 20) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._known: dict[bytes, _Known] = {}  # by digest, the least recently sent first
        self._last: _Known | None = None  # among the known: the one sent last, if it is there
        self._bytes = 0
        self._in_flight: deque[_Sending] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def send(self, shipped: Shipped) -> tuple[bool, list[bytes]]:
        """For a job about to be sent: whether it must carry its function, and the digests it must say to forget."""
        digest = shipped.digest
        known = self._known.get(digest)
        if known is not None and len(self._known) <= self._most and self._bytes <= self._most_bytes:
            # In one step, as far as Ctrl-C goes, which comes where something is called.
            if known is not self._last:
                del self._known[digest]
                self._known[digest] = self._last = known  # as the last
            known.uses += 1
            self._in_flight += ((known, False, ()),)
            return False, []
        carries = known is None
        if known is None:
            known = _Known(digest, len(shipped.pickle))
        kept = self._known.copy()
        kept.pop(digest, None)
        kept[digest] = known
        forgotten = self._to_forget(kept, known)
        digests = [old.digest for old in forgotten]
        for old in digests:
            del kept[old]
        size = sum(each.size for each in kept.values())
        # As above.
        known.uses += 1
        self._known, self._last, self._bytes = kept, known, size
        self._in_flight += ((known, carries, forgotten),)
        return carries, digests

    def _to_forget(self, kept: Mapping[bytes, _Known], sent: _Known) -> list[_Known]:
        """What of these is too much, the least recently sent first."""
        forgotten = []
        count, size = len(kept), sum(each.size for each in kept.values())
        for known in kept.values():
            if count <= self._most and size <= self._most_bytes:
                break
            if not known.uses and known is not sent:
                forgotten.append(known)
                count -= 1
                size -= known.size
        return forgotten

    def answered(self) -> None:
        """The first job in flight is over."""
        known, _, _ = self._in_flight.popleft()
        known.uses -= 1

    @property
    def in_flight(self) -> int:
        """How many jobs are in flight, as far as it was told."""
        return len(self._in_flight)

    def undo_to(self, in_flight: int) -> None:
        """`undo` all but so many."""
        while len(self._in_flight) > in_flight:
            self.undo()

    def undo(self) -> None:
        """The last job sent was withdrawn before it began, or could not be sent: the worker will do nothing it says."""
        known, carries, forgotten = self._in_flight.pop()
        known.uses -= 1
        if carries:
            self._last = None
            del self._known[known.digest]
            self._bytes -= known.size
        if forgotten:
            self._known = {old.digest: old for old in forgotten} | self._known
            self._bytes += sum(old.size for old in forgotten)


class ShippedCall(PickledJob):
    """One call of a shipped function.

    Large arguments go into a payload slot of the worker, which has one for each buffer of its arena.

    Args:
        pickled: what comes of it is unpickled, if the function is the user's; else it is plain data.
    """

    def __init__(
        self, function: Shipped, args: tuple[Any, ...], limit: float | None, context: bytes, pickled: bool
    ) -> None:
        if not function.least <= len(args) <= function.most:
            function.check(len(args))
        super().__init__(function.name, b"", limit=limit)
        self.trusted: bool | None = pickled and not function.ours
        self._args: values.Dumped | None = values.dump(args)
        self._function: Shipped | None = function
        self._context = context
        self._size = self._args.size
        if 0 < self._size <= wire.PAYLOAD_BYTES:
            self.buffers = 1

    def place(self, memory: Memory, buffer: int, functions: FunctionsSent, results_taken: int) -> bytes:
        """The frame, with the function in it if this worker has not seen it."""
        function, dumped = self._function, self._args
        assert function is not None and dumped is not None
        area = memory.payload(buffer, self._size) if self.buffers else None
        args = dumped.inline() if area is None else dumped.place(buffer, area)
        carries, forget = functions.send(function)
        payload = b"".join((self._context, *function.parts(carries, forget, results_taken), args))
        flags = wire.HAS_CONTEXT * bool(self._context) + wire.PICKLED * self.pickled
        self.buffer = buffer
        return wire.JOB.pack(len(payload), 0, wire.SHIPPED, flags) + payload

    def unplace(self, functions: FunctionsSent, begun: bool) -> None:
        if begun:
            functions.answered()
        else:
            functions.undo()

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        left = super().answered(lane, memory, status, payload)
        if self.buffers:
            memory.give_up_payload(self.buffer, self._size)
        return left

    def _let_go(self) -> None:
        super()._let_go()
        # In flight, it is needed again if its worker dies and it has not begun; but then it has ended, and is dropped.
        self._args = self._function = None
