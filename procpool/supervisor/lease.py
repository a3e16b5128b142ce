"""A lease: one instance for one holder, with its state, until it is given back."""

from __future__ import annotations

import operator
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn

from .. import wire
from ..binary import SCALARS, GlobalType, MemoryType, once_each
from ..bytes_function import CallTable, bytes_function
from ..checks import boolean, cannot_travel, count
from ..codec import converted
from ..deadline import Deadline
from ..errors import CallTimeout, LeaseEnded, PoolClosed, WorkerCrashed
from ..job_context import capture, deadline_of
from ..program import absent
from ..wire import values
from .direct import DirectCalls
from .dispatcher import Dispatcher
from .jobs.call import Callee, Job
from .lane import Lane

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..signatures import BytesConvention

#: The most bytes of memory that one frame moves: the batch buffers of the worker's arena.
TRANSFER = wire.BUFFERS * wire.BUFFER_BYTES
#: The payload slot for what is passed to a leased instance: no job uses one there.
_ARGUMENTS = values.ARGUMENTS[0]


#: No memory is larger, nor has as many pages.
_MOST_SIZE = 1 << 48


class Request(Job):
    """Waits in the queue, among the jobs, for a worker to hold."""

    exclusive = True

    def __init__(self) -> None:
        super().__init__("a lease", b"")


class _Operation:
    """Around each operation of a lease."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def __enter__(self) -> None:
        if self._dispatcher.forked:  # who holds the lease's lock may not exist here
            raise self._dispatcher.why_closed()

    def __exit__(self, *error: object) -> None:
        if self._dispatcher.attentive:  # it may wait for this to end
            self._dispatcher.look_again()


class Lease:
    """One instance of the module, leased from a pool by ``pool.instance()`` or ``pool.get()``.

    Nobody else uses the instance until it is put back, so globals and memory keep what calls and writes leave in them.
    A lease ends when it is put back; when a call of it fails, for the instance of a failed call never serves again; when
    its worker dies; and when the pool is shut down.  May be used from any thread, by one at a time.
    Its methods block, also when ``async with`` has leased it: a task awaits ``asyncio.to_thread(lease.call, ...)``.

    Attributes:
        exports: the exported functions by name, as callables.
        globals: the globals, exported or imported, by name; those that are mutable can be assigned.
        memory: the exported memory named ``memory``: slices read and write.
    """

    _lane: Lane | None = None  # while it lasts

    def __init__(
        self,
        dispatcher: Dispatcher,
        direct: DirectCalls,
        functions: Mapping[str, Callee],
        types: Mapping[str, Any],
        bytes_calls: CallTable,
        visible: bool,
        timeout: float | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._direct = direct
        self._functions = functions
        self._types = types
        self._bytes_calls = bytes_calls
        self._visible = visible
        self._timeout = timeout
        self._operation = _Operation(dispatcher)
        self._using = threading.Lock()  # by one operation at a time
        self._me = object()  # not the lease, which is to be collected when its user forgets it
        self._why: Callable[[], Exception] | None = None  # it has ended
        self.exports: Mapping[str, Callable[..., Any]] = _LeasedExports(self, functions)
        self.globals: MutableMapping[str, Any] = _LeasedGlobals(self, types)

    def grant(self, request: Request) -> None:
        """The request has ended, in whatever: the lease begins, or that is raised.

        Raises:
            CallTimeout: its time was up before an instance was free.
            PoolClosed: the pool was shut down.
        """
        lane: Lane = request.result()
        lane.holder = self._me
        self._lane = lane
        self._dispatcher.leases.add(self)
        if self._dispatcher.closing:  # it may have looked through the leases before this one was there
            self.revoke()
            raise self._dispatcher.why_closed()

    def decline(self, request: Request) -> None:
        """Nobody wants what was requested any more."""
        granted = self._lane is not None or self._why is not None  # if that has ended, the worker was given back then
        if not granted and not request.cancel() and request.exception() is None:
            self._dispatcher.scheduler.release(request.result())
            self._dispatcher.look_again()

    # -- use -----------------------------------------------------------------------------------------------------------

    def call(self, export: str, /, *args: Any, timeout: float | None = None) -> Any:
        """Call an export of this very instance.

        Raises:
            LeaseEnded: the lease has ended.
            UnknownExport, BadArguments: nothing was sent; the lease goes on.
            WasmTrap, CallTimeout, WorkerCrashed, or what a host function raised: the lease has ended.
        """
        return self._call(self._functions[export].leased(self), args, timeout)

    def _call(self, function: Callee, args: tuple[Any, ...], timeout: float | None = None) -> Any:
        """Call a function that has been looked for; otherwise as `call`."""
        slots = function.pack(args)
        deadline = deadline_of(timeout, self._timeout)
        context = capture(self._visible, deadline=deadline.limit)
        frame = function.frame(wire.CALL, slots, context, wire.LEASED)
        with self._operation, self._using:
            reply = self._exchange(function.name, frame, deadline)
            report: wire.Report | None = None
            if not function.answered_by(reply):
                report = self._report(function.name, reply)
                self._end_failed(function.name)
        if report is not None:
            raise wire.loaded(report)
        return function.unpack(reply, wire.REPLY.size)  # not above: Ctrl-C at a return from there keeps the lock

    def call_bytes(
        self, export: str, /, *args: Any, timeout: float | None = None, **convention: Unpack[BytesConvention]
    ) -> Any:
        """Call an export of this very instance that takes or returns bytes or text, as `ProcessWasmPool.call_bytes` does.

        Raises:
            As :meth:`call`; and as `ProcessWasmPool.call_bytes`, and then the lease goes on.
        """
        self._functions[export].core("call_bytes")  # or tells why not
        function = bytes_function(export, convention)
        self._bytes_calls.of(function)  # likewise
        deadline = deadline_of(timeout, self._timeout)
        context = capture(self._visible, deadline=deadline.limit)
        dumped = values.dump(args)
        with self._operation, self._using:
            memory = self._held().port
            area = memory.payload(_ARGUMENTS, dumped.size) if dumped.size else None
            placed = dumped.inline() if area is None else dumped.place(_ARGUMENTS, area)
            reply = self._request(export, ("call_bytes", function, placed), context, deadline)
            if area is not None:
                memory.give_up_payload(_ARGUMENTS, dumped.size)
            return self._value(export, reply)

    @property
    def memory(self) -> Memory:
        """The exported memory named ``memory``.

        Raises:
            LookupError: the module exports none.
        """
        return self.memory_named("memory")

    def memory_named(self, name: str) -> Memory:
        """A memory, exported or imported.

        Raises:
            LookupError: the module has no such memory.
        """
        if not isinstance(name, str) or not isinstance(self._types.get(name), MemoryType):
            raise LookupError(absent(self._types, MemoryType, "memory", name))
        return Memory(self, name)

    def grow(self, pages: int, name: str = "memory") -> int:
        """Grow a memory by pages of 64 KiB; its size before, in pages.

        Raises:
            MemoryError: its maximum or ``memory_limit`` does not allow that.
            LookupError: the module exports no such memory.
            ValueError: ``pages`` is no int from 0.
        """
        self.memory_named(name)
        return self._counted("grow", name, count("pages", pages, 0))

    # -- the end -------------------------------------------------------------------------------------------------------

    def put(self, discard: bool = False) -> None:
        """Give the instance back; with ``discard``, it is thrown away instead of serving others.

        Raises:
            LeaseEnded: it was given back before.
            TypeError: ``discard`` is neither True nor False.
        """
        boolean("discard", discard)
        with self._operation, self._using:
            if self._why is not None:
                error = self._why()
                if isinstance(error, LeaseEnded) and not error.given_back:
                    return  # it ended by a failure, and there is nothing left to give
                if isinstance(error, (PoolClosed, WorkerCrashed)):
                    return
                raise error
            try:
                self._ask("end", discard)
            except (WorkerCrashed, PoolClosed):
                return
            except Exception as error:  # no sound worker fails at that, and keeps the instance
                if self._lane is not None:
                    self._refused("end", error)
                return
            self._give_back(lambda: LeaseEnded("the lease was given back", given_back=True))

    def revoke(self) -> None:
        """The pool is closing: end the lease, unless a call is under way, which will find that out itself."""
        if self._using.acquire(blocking=False):
            try:
                if self._why is None:
                    self._give_up()
            finally:
                self._using.release()

    def _give_back(self, why: Callable[[], Exception]) -> None:
        lane, self._why = self._lane, why
        self._dispatcher.leases.discard(self)
        if lane is not None:
            self._dispatcher.scheduler.release(lane)
            self._lane = None
            self._dispatcher.look_again()

    def _give_up(self) -> None:
        """The pool is closing.  Jobs may still run there, and are not to see what was done to the instance."""
        lane = self._lane
        self._lose(self._dispatcher.why_closed)
        if lane is not None:
            self._dispatcher.take_back(lane)

    def __del__(self) -> None:
        lane = self._lane
        if lane is not None and lane.holder is self._me and not self._dispatcher.closed:
            # Not here: a finalizer may run in any thread, holding any lock.
            self._dispatcher.take_back(lane)
            warnings.warn(
                f"{self!r} was never put back; the pool takes it back now", ResourceWarning, stacklevel=2, source=self
            )

    def __reduce__(self) -> NoReturn:
        raise cannot_travel(self, "use it in this one, or submit a callable, which runs beside an instance")

    def __repr__(self) -> str:
        lane = self._lane
        return "<Lease ended>" if lane is None else f"<Lease of an instance in worker {lane.port.process.pid}>"

    # -- by wire -------------------------------------------------------------------------------------------------------

    def _exchange(self, what: str, frame: bytes, deadline: Deadline) -> bytes:
        """The reply to a frame, from our worker."""
        lane = self._held()
        try:
            reply = self._direct.exchange(lane, what, frame, deadline)
        except (WorkerCrashed, PoolClosed):
            self._dispatcher.failed()
            self._lose(self._after_death(lane, what))
            raise
        except BaseException as error:  # its time is up, or Ctrl-C
            how = "ran out of time" if isinstance(error, CallTimeout) else "was interrupted"
            self._lose(lambda: LeaseEnded(f"the lease ended when {what!r} {how}; its instance is gone"))
            if lane.holder is self._me:
                self._direct.leave(lane, what, error, used=True)
            raise
        if reply is None:
            why = self._after_death(lane, what)
            self._lose(why)
            raise why()
        return reply

    def _held(self) -> Lane:
        """Our worker.

        Raises:
            LeaseEnded, WorkerCrashed, PoolClosed: it is not ours any more.
        """
        if self._lane is not None and self._dispatcher.closing:
            self._give_up()
        if self._lane is None:
            assert self._why is not None
            raise self._why()
        return self._lane

    def _after_death(self, lane: Lane, what: str) -> Callable[[], Exception]:
        """What to say of a worker that has died; of all of them, when the pool has closed."""
        process, dispatcher = lane.port.process, self._dispatcher
        return lambda: dispatcher.why_closed() if dispatcher.closed else process.crash(what)

    def _lose(self, why: Callable[[], Exception]) -> None:
        self._lane, self._why = None, why
        self._dispatcher.leases.discard(self)

    def _ask(self, operation: str, *args: Any) -> Any:
        lane = self._held()
        reply = self._request(operation, (operation, *args), b"", Deadline.NEVER)
        lane.calls_done(-1)  # it does not count as a call
        return self._value(operation, reply)

    def _request(self, what: str, operation: tuple[Any, ...], context: bytes, deadline: Deadline) -> bytes:
        """The reply to an operation of `Access`."""
        payload = context + pickle.dumps(operation)
        flags = wire.LEASED | (wire.HAS_CONTEXT if context else 0)
        return self._exchange(what, wire.JOB.pack(len(payload), 0, wire.ACCESS, flags) + payload, deadline)

    def _value(self, what: str, reply: bytes) -> Any:
        """What a reply to an operation stands for."""
        size, status = wire.REPLY.unpack_from(reply)
        if status == wire.VALUE:
            if self._dispatcher.pickles:
                return pickle.loads(reply[wire.REPLY.size :])
            try:
                return wire.decode(reply[wire.REPLY.size :])
            except ValueError as error:
                raise self._refused(what, error) from None
        if status == wire.KEPT:
            reply = wire.REPLY.pack(size, wire.RAISED) + reply[wire.REPLY.size :]
        report = self._report(what, reply)
        if status != wire.KEPT:
            self._end_failed(what)
        raise wire.loaded(report)

    def _report(self, what: str, reply: bytes) -> wire.Report:
        """The failure that a reply tells of.

        Raises:
            WorkerCrashed: it tells of none; the lease has ended.
        """
        lane = self._held()
        try:
            return self._direct.report(lane, what, reply)
        except WorkerCrashed:
            self._dispatcher.failed()
            self._lose(self._after_death(lane, what))
            raise

    def _refused(self, what: str, error: Exception) -> WorkerCrashed:
        """The worker has answered with nonsense: the lease has ended; what to raise."""
        lane = self._held()
        crash = self._direct.refused(lane, what, error)
        self._dispatcher.failed()
        self._lose(self._after_death(lane, what))
        return crash

    def _number(self, what: str, value: Any) -> int:
        """An answer that is to be a count.

        Raises:
            WorkerCrashed: it is none; the lease has ended.
        """
        if type(value) is not int or not 0 <= value <= _MOST_SIZE:
            raise self._refused(what, ValueError(f"{value!r:.80} as a size"))
        return value

    def _end_failed(self, what: str) -> None:
        self._dispatcher.failed()
        self._give_back(lambda: LeaseEnded(f"the lease ended when {what!r} failed; its instance is gone"))

    def _access(self, operation: str, *args: Any) -> Any:
        with self._operation, self._using:
            return self._ask(operation, *args)

    def _counted(self, operation: str, *args: Any) -> int:
        """The same, of what is answered with a count."""
        with self._operation, self._using:
            return self._number(operation, self._ask(operation, *args))

    def _window(self, size: int) -> memoryview:
        """Where bytes of the memory are put down for the other side."""
        return self._held().port.arena[wire.ARENA_HEAD : wire.ARENA_HEAD + size]

    def _read(self, name: str, start: int | None, stop: int | None, single: bool) -> bytearray:
        """Bytes of a memory, in one exchange if they fit into the window.  See `Access.read` for what is exchanged."""
        with self._operation, self._using:
            self._window(0)  # the worker maps it when it has been made; until then the file may be too short
            answer = self._ask("read", name, start, stop, single)
            first, last = self._within(name, start, stop, single, answer)
            data = bytearray(last - first)
            for at in range(0, len(data), TRANSFER):
                piece = min(TRANSFER, len(data) - at)
                if at:
                    self._ask("read", name, first + at, first + at + piece, False)
                data[at : at + piece] = self._window(piece)
        return data

    def _write(self, name: str, start: int | None, stop: int | None, single: bool, data: memoryview) -> None:
        with self._operation, self._using:
            self._window(min(TRANSFER, len(data)))[:] = data[:TRANSFER]
            answer = self._ask("write", name, start, stop, single, len(data))
            first, last = self._within(name, start, stop, single, answer)
            if last - first != len(data):  # it has written nothing
                raise ValueError(f"{len(data)} bytes do not fit into the {last - first} of [{first}:{last}]")
            for at in range(TRANSFER, len(data), TRANSFER):
                piece = data[at : at + TRANSFER]
                self._window(len(piece))[:] = piece
                self._ask("write", name, first + at, first + at + len(piece), False, len(piece))

    def _within(self, name: str, start: int | None, stop: int | None, single: bool, answer: Any) -> tuple[int, int]:
        if type(answer) is int:
            where = f"address {start}" if single else f"[{'' if start is None else start}:{'' if stop is None else stop}]"
            raise IndexError(f"{where} is outside of the {answer} bytes of {name!r}")
        if type(answer) is not tuple or len(answer) != 2:
            raise self._refused("memory", ValueError(f"{answer!r:.80} as a place in a memory"))
        first, last = (self._number("memory", each) for each in answer)
        asked = start is not None and start >= 0, stop is not None and stop >= 0
        if first > last or (asked[0] and first != start) or (asked[0] and asked[1] and last != max(start or 0, stop or 0)):
            raise self._refused("memory", ValueError(f"{answer!r:.80} for [{start}:{stop}]"))
        return first, last


class Memory:
    """A memory of a leased instance: ``memory[a:b]`` reads bytes, ``memory[a:b] = data`` writes as many.

    Negative bounds count from the end, as a sequence's.  Others than a sequence's, bounds outside of the memory raise
    IndexError, as they are addresses; and there are no steps.  ``bytes(memory)`` is all of it.
    Large slices move at the speed of memcpy, through memory shared with the worker.
    """

    def __init__(self, lease: Lease, name: str) -> None:
        self._lease = lease
        self._name = name

    def __len__(self) -> int:
        return self._lease._counted("size", self._name)

    def __getitem__(self, where: slice | int) -> bytes | int:
        start, stop, single = _bounds(where)
        data = self._lease._read(self._name, start, stop, single)
        return data[0] if single else bytes(data)

    # By the sequence protocol, each byte would be an exchange with the worker.

    def __bytes__(self) -> bytes:
        return bytes(self._lease._read(self._name, None, None, False))

    def __iter__(self) -> Iterator[int]:
        at = 0
        while at < (size := len(self)):
            block = self._lease._read(self._name, at, min(at + TRANSFER, size), False)
            yield from block
            at += len(block)

    def __setitem__(self, where: slice | int, data: Any) -> None:
        start, stop, single = _bounds(where)
        source = memoryview(bytes((data,)) if single else data).cast("B")
        self._lease._write(self._name, start, stop, single, source)

    def __reduce__(self) -> NoReturn:
        raise cannot_travel(self, "pass on bytes(...) of a slice of it")


def _bounds(where: slice | int) -> tuple[int | None, int | None, bool]:
    """As they were given; the worker compares them with the memory's size."""
    if not isinstance(where, slice):
        at = operator.index(where)
        return at, at + 1, True
    if where.step not in (None, 1):
        start, stop = ("" if bound is None else bound for bound in (where.start, where.stop))
        raise ValueError(f"a memory is sliced without a step; the bytes have one: memory[{start}:{stop}][::{where.step}]")
    start, stop = (None if bound is None else operator.index(bound) for bound in (where.start, where.stop))
    return start, stop, False


class _LeasedExports(Mapping[str, Callable[..., Any]]):
    def __init__(self, lease: Lease, functions: Mapping[str, Callee]) -> None:
        self._lease = weakref.ref(lease)  # or a dropped lease would wait for the garbage collector
        self._functions = functions

    def __getitem__(self, name: str) -> Callable[..., Any]:
        self._functions[name]
        lease = self._lease()
        if lease is None:
            raise LeaseEnded("the lease is gone")

        def call(*args: Any, timeout: float | None = None) -> Any:
            return lease.call(name, *args, timeout=timeout)

        call.__name__ = call.__qualname__ = name
        return call

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)


class _LeasedGlobals(MutableMapping[str, Any]):
    def __init__(self, lease: Lease, types: Mapping[str, Any]) -> None:
        self._lease = weakref.ref(lease)
        self._types = {name: type_ for name, type_ in types.items() if isinstance(type_, GlobalType)}
        self._names = list(once_each(self._types))

    def _ask(self, operation: str, name: str, *args: Any) -> Any:
        if name not in self._types:
            raise KeyError(name)
        lease = self._lease()
        if lease is None:
            raise LeaseEnded("the lease is gone")
        return lease._access(operation, name, *args)

    def __getitem__(self, name: str) -> Any:
        return self._ask("get", name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._types and not self._types[name].mutable:
            raise TypeError(f"the global {name!r} cannot be changed")
        if name in self._types and self._types[name].content in SCALARS:
            value = converted(f"the global {name!r}", value, self._types[name].content)
        self._ask("set", name, value)

    def __delitem__(self, name: str) -> None:
        raise TypeError("an instance's globals cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
