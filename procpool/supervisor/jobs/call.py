"""What a caller asked for: the future that the caller holds, and the frame that goes to a worker."""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ... import wire
from ...checks import cannot_travel
from ...codec import Codec
from ...deadline import Deadline
from ...errors import BadArguments, CallTimeout
from ...wire import page
from ..condition import Condition

if TYPE_CHECKING:
    from ..lane import Lane, Memory
    from ..lease import Lease
    from .shipped import FunctionsSent


#: That of the base class.
_logger = logging.getLogger("concurrent.futures")


class Packing(Protocol):
    """What is known of a function's values; see :class:`procpool.codec.Codec`."""

    export: str
    formats: tuple[str, str]
    plain: frozenset[type]

    def pack(self, args: tuple[Any, ...]) -> bytes: ...
    def unpack(self, data: bytes | memoryview, offset: int = 0) -> Any: ...


#: Of replies with results: they have no size that is known before.
ANY_SIZE = -1


class Callee:
    """An exported function: how to pack a job for it and unpack its reply.

    The frame headers are constant per export, so they are packed once.
    """

    def __init__(self, index: int, packing: Packing) -> None:
        self.name: str = packing.export
        self.index = index
        self.pack: Callable[[tuple[Any, ...]], bytes] = packing.pack
        #: the payload of a reply, or of one at an offset -> its result
        self.unpack: Callable[..., Any] = packing.unpack
        params, results = packing.formats
        size = struct.calcsize("<" + params)
        self._size = size
        self._reply_size = wire.REPLY.size + struct.calcsize("<" + results)
        self.call_header: bytes = wire.JOB.pack(size, index, wire.CALL, 0)
        self.submit_header: bytes = wire.JOB.pack(size, index, wire.SUBMIT, 0)
        # A call without a context goes into the page, and its reply comes out, in one step each.
        #: whether all of some types are such that `write` takes their values, or raises
        self.takes: Callable[[Iterable[type]], bool] = packing.plain.issuperset
        if not page.fits(size, struct.calcsize("<" + results)):
            self.takes = _takes_none
        self.head: tuple[int, int, int, int] = (size, index, wire.CALL, 0)
        #: buffer, offset, ``*head``, ``*args``: writes the frame, or raises struct.error or OverflowError
        self.write: Callable[..., None] = struct.Struct(wire.JOB.format + params).pack_into
        #: buffer, offset -> length, status, whether it is numbered, and the results
        self.read: Callable[[Any, int], tuple[Any, ...]] = struct.Struct("<IBBxx" + results).unpack_from

    def frame(self, kind: int, slots: bytes, context: bytes, flags: int = 0) -> bytes:
        """The frame of a job: CALL or SUBMIT, packed arguments, what `capture` gave, and further flags."""
        if not context and not flags:
            return (self.call_header if kind == wire.CALL else self.submit_header) + slots
        if context:
            flags |= wire.HAS_CONTEXT
        return wire.JOB.pack(len(context) + self._size, self.index, kind, flags) + context + slots

    def job(self, args: tuple[Any, ...], context: bytes, limit: float | None = None) -> Job:
        """A job to be queued.

        Raises:
            BadArguments: the arguments do not fit.
        """
        return self.awaiting(self.frame(wire.SUBMIT, self.pack(args), context), limit)

    def awaiting(self, frame: bytes, limit: float | None = None) -> Job:
        """What waits for the reply to a frame.

        Args:
            limit: seconds it may run, from when a worker turns to it.
        """
        return Job(self.name, frame, self.results, limit)

    def answered_by(self, reply: bytes) -> bool:
        """Whether a reply, with its head, has results of this export."""
        return reply[4] == wire.OK and self._reply_size in (len(reply), ANY_SIZE)

    def results(self, payload: bytes) -> Any:
        """The results in the payload of a reply.

        Raises:
            ValueError: they are none of this export's.
        """
        if self._reply_size not in (wire.REPLY.size + len(payload), ANY_SIZE):
            raise ValueError(f"{len(payload)} bytes as the results of {self.name}")
        return self.unpack(payload)

    def core(self, method: str) -> Export:
        """The function as that of a core module.

        Raises:
            BadArguments: it is none; says that ``method`` is not for it.
        """
        raise BadArguments(
            f"{method} is for functions of core modules, and {self.name} is one of a component: call it with the values"
            " that its signature names, lists and bytes among them"
        )

    def leased(self, lease: Lease) -> Callee:
        """The function as a lease calls it."""
        return self


class Export(Callee):
    """An exported function of a core module, which may be the body of a map's loop."""

    def __init__(self, index: int, codec: Codec) -> None:
        super().__init__(index, codec)
        self.codec = codec

    def core(self, method: str) -> Export:
        return self


class Owner(Protocol):
    """What a job asks of the pool that runs it."""

    @property
    def pickles(self) -> bool:
        """Whether exceptions come back as pickles; see `Trusted`."""

    def nonsense(self, lane: Lane, error: Exception) -> None:
        """A worker has sent what no sound worker sends.  From any thread."""

    def cancelled(self, job: Job, queued: bool) -> None:
        """It was cancelled, queued or in a worker.  From any thread."""

    def post(self, code: Callable[[], object]) -> None:
        """Run the user's code somewhere else than here, where time is kept.  From any thread."""

    def strand(self) -> Callable[[Callable[[], object]], None]:
        """A `post` of its own, whose calls run one after the other, in their order."""

    def failed(self) -> None:
        """A job has ended in an exception.  From any thread."""

    def key_free(self, key: int) -> None:
        """A job with that key has ended.  From any thread."""


def _takes_none(types: Iterable[type]) -> bool:
    return False


def _nothing(payload: bytes) -> None:
    """Reads the reply that nobody waits for."""


class Job(Future[Any]):
    """A submitted call.

    A Future makes a Condition at birth and takes it at every step of its life, which for small jobs is half of all that
    the parent does.  Most jobs are over before anyone waits for them, so here the Condition is made when somebody first
    asks for it.  `_making` decides races between that and a step taken without one: while a thread holds it and finds no
    Condition, no other thread is in the middle of anything with this job, and none has registered a callback.

    Callbacks are the user's code, so they run where the owner has such code run, and not where the job is ended.

    Relies on the attributes that Future has had since Python 3.2; tests/test_futures.py runs the standard library's
    `wait`, `as_completed` and asyncio over it.
    """

    buffers = 0  #: how many of the arena's buffers it needs
    buffer = -1  #: which one it has, while it is in flight
    placed = False  #: its frame is made for the worker that it goes to, by `place`
    exclusive = False  #: it is a request for an idle worker to hold, which is its result
    bound = False  #: it is for the very worker that it was given to, and ends with it
    priority = 0  #: those of higher priority are sent first
    key: int | None = None  #: token of its key: jobs of one key run in order on one worker
    tenant: str = ""  #: whose it is, in a pool with tenants
    deadline: Deadline = Deadline.NEVER  #: when its caller gives up, wherever it is then
    trusted: bool | None = None  #: whether what it ends in is a pickle; None if that is as its owner says
    queued = False  #: it is in a queue of the scheduler, which alone writes this and the next
    dropped = False  #: it has ended while it was queued, and is still there
    in_flight = False  #: it is in a lane, which alone writes this
    asked: bool = False  #: somebody wants to know what becomes of it
    retries: int = 0  #: how often it may still be run again after its worker died
    losses: int = 0  #: how often a worker died that was to begin it next; written by lanes
    owner: Owner | None = None  #: None before it is submitted
    _making = threading.Lock()

    def __init__(
        self, name: str, frame: bytes, read: Callable[[bytes], Any] = _nothing, limit: float | None = None
    ) -> None:
        # In place of Future.__init__, for the reason above.
        self._made: Condition | None = None
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self.name = name  #: for messages
        self.frame: bytes = frame
        self.read = read  #: payload of the reply -> result
        self.limit = limit  #: seconds it may run, from when a worker turns to it
        #: nobody waits for it any more: stop it as soon as it runs, and drop what comes of it
        self.expired: bool = False

    @property
    def pickled(self) -> bool:
        """Whether an exception comes back as a pickle."""
        return self.owner is not None and self.owner.pickles if self.trusted is None else self.trusted

    @property
    def _condition(self) -> Condition:  # type: ignore[override]
        if self._made is None:
            self.asked = True  # or it has failed, which it seldom does
            with self._making:
                if self._made is None:
                    self._made = Condition()
        return self._made

    def result(self, timeout: float | None = None) -> Any:
        self.asked = True
        # The state is written after the result, so FINISHED seen without a lock is true and complete.
        if self._state is FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def done(self) -> bool:
        self.asked = True
        return self._state is FINISHED or super().done()

    def begin(self) -> bool:
        """Whether it may be sent to a worker: it has not ended, and cannot be cancelled as queued from now on."""
        if self.expired:
            return False
        with self._making:
            if self._made is None:
                self._state = RUNNING
                return True
        with self._condition:
            if self._state is PENDING:  # RUNNING if it has been sent before, and taken back
                self._state = RUNNING
            return self._state is RUNNING and not self.expired

    def __reduce__(self) -> NoReturn:
        raise cannot_travel(self, "pass on its result()")

    def cancel(self) -> bool:
        """Cancel the job; if it has been sent to a worker, it is interrupted there.  False only if it has ended.

        A standard Future cannot be cancelled once it runs.  This one can, because a running call can be stopped.  And it is
        cancelled at once for those in `wait` and `as_completed` too, not when its turn comes in the queue.
        """
        queued = cancelled = False
        try:
            with self._condition:
                if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
                    return True
                queued = self._state is PENDING
                if self.expired or not (queued or (self._state is RUNNING and not self.exclusive)):
                    return False
                # What a worker still answers is dropped from now on: `_end` looks at the state, and finds the Condition.
                self.expired = True
                self._state = CANCELLED_AND_NOTIFIED
                cancelled = True
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
                self._condition.notify_all()
            self._let_go()
            self._invoke_callbacks()
        finally:  # also after Ctrl-C: nobody else stops it
            if cancelled and self.owner is not None:
                self.owner.cancelled(self, queued)
        return True

    # -- in a lane; for jobs that are more than one call, see batch.py -------------------------------------------------

    def place(self, memory: Memory, buffer: int, functions: FunctionsSent, results_taken: int) -> bytes:
        """The frame to send to the worker that has this memory, in which that buffer is ours; -1 for none."""
        raise AssertionError(f"{self.name} has a frame")

    def unplace(self, functions: FunctionsSent, begun: bool) -> None:
        """It leaves the worker: answered if ``begun``, otherwise taken back."""

    def item(self, memory: Memory) -> int:
        """Which item the worker is at."""
        return 0

    def stop_at(self, lane: Lane, memory: Memory, now: float) -> float | None:
        """As the head of a lane: when to stop it, in the time of time.monotonic; None for never."""
        if self.expired:
            return now
        at = self.deadline.at
        if self.limit is not None:
            at = min(at, lane.since + self.limit)
        return None if at == _NEVER else at

    @property
    def unwanted(self) -> bool:
        """Whether it is to be stopped because nobody waits for it, and not because its time is up."""
        return self.expired

    def sampling(self) -> float | None:
        """Seconds after which `stop_at` may be another; None if it stays."""
        return None

    def overdue(self) -> None:
        """It is the head of a lane, its time is up, and it is being interrupted."""
        self.expire()

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        """Take the worker's reply; what is left to run.

        Raises:
            ValueError, struct.error: no sound worker answers that.
        """
        if status == wire.OK:
            self.succeed(self.read(payload))
        else:
            self.report(status, payload)
        return ()

    def crashed(self, lane: Lane, memory: Memory, crash: Exception) -> tuple[bool, Sequence[Job]]:
        """The worker died while running it; whether what killed it is to run again, and what is left to run."""
        if self.retries > 0 and not self.expired:
            self.retries -= 1
            return True, (self,)
        lane.calls_done(1)
        self.fail(crash)
        return False, ()

    def output(self, payload: bytes) -> None:
        """What it has printed so far; only a job that can print is told."""
        raise ValueError(f"{self.name} cannot have printed {payload[:50]!r}")

    # -- its end: whoever comes first decides, and the others find it decided ------------------------------------------

    def succeed(self, result: Any) -> bool:
        """End it with a result, unless it has ended; whether it had not."""
        if self.expired:
            return False
        with self._making:
            unseen = self._made is None
            if unseen:
                self._result = result
                self._state = FINISHED
        if not unseen:
            return self._end(result, None)
        self._let_go()
        return True

    def ended_in(self, result: object) -> bool:
        """Whether it has that very result."""
        return self._state is FINISHED and self._result is result

    def fail(self, error: BaseException) -> bool:
        """End it with an exception, unless it has ended; whether it had not."""
        if self.expired:
            return False
        self.expired = True
        if not self._end(None, error):
            return False
        if self.owner is not None:
            self.owner.failed()
        return True

    def expire(self) -> bool:
        """End it because its time is up, unless it has ended."""
        return self.fail(CallTimeout(f"{self.name} got no result within {self.timeout_text()} and was interrupted"))

    def timeout_text(self) -> str:
        """How long it had, for messages."""
        seconds = self.deadline.seconds if self.limit is None else self.limit
        return f"{seconds:g} s"

    def report(self, status: int, payload: bytes) -> None:
        """End it with the failure that a reply tells of.

        Raises:
            ValueError: there is no such status, or the reply is malformed.
        """
        if status == wire.INTERRUPTED and self.expired:  # as it was asked to
            return
        self.end_in(wire.report_of(status, payload, self.name, self.pickled))

    def end_in(self, told: wire.Report) -> None:
        """End it with a failure, loaded where the user's code runs."""
        if isinstance(told, BaseException):
            self.fail(told)
        else:
            self.post(lambda: self.fail(told.load()))

    def refuse(self, lane: Lane, error: Exception) -> None:
        """What it was answered has turned out to be no answer, after others of its worker's were heard."""
        if self.owner is not None:
            self.owner.nonsense(lane, error)
        self.fail(lane.port.process.refused(self.name, error))

    def post(self, code: Callable[[], object]) -> None:
        """Run the user's code where its owner has it run."""
        if self.owner is None:
            code()
        else:
            self.owner.post(code)

    def _end(self, result: Any, error: BaseException | None) -> bool:
        """`Future.set_result` and `set_exception`, with the callbacks posted; whether it had not ended."""
        with self._condition:
            if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED):
                return False
            self._result, self._exception = result, error
            self._state = FINISHED
            for waiter in self._waiters:
                waiter.add_result(self) if error is None else waiter.add_exception(self)
            self._condition.notify_all()
        self._let_go()
        if self._done_callbacks:  # none is added any more: from now on they are called at once
            self.post(self._invoke_callbacks)
        return True

    def _invoke_callbacks(self) -> None:
        """Call all of them, whatever some raise: the base class would stop at one that raises SystemExit, say."""
        leaving: BaseException | None = None
        for callback in self._done_callbacks:
            try:
                callback(self)
            except Exception:
                _logger.exception("exception calling callback for %r", self)
            except BaseException as error:  # for the thread that we are in
                leaving = leaving or error
        if leaving is not None:
            raise leaving

    def _let_go(self) -> None:
        """It has ended: what it carries is not needed any more, however long its caller keeps it."""
        self.frame = b""
        if self.key is not None and self.owner is not None:
            self.owner.key_free(self.key)


_NEVER = Deadline.NEVER.at


def _after_fork() -> None:
    # A thread that does not exist here may have held it.
    Job._making = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class Purge(Job):
    """Not a call: has a worker throw its instance away, which nobody has used for a while."""

    bound = True

    def __init__(self) -> None:
        super().__init__("purge", wire.JOB.pack(0, 0, wire.PURGE, 0))

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        lane.calls_done(-1)  # it does not count as a call
        return super().answered(lane, memory, status, payload)


class Abandoned(Job):
    """A direct call whose caller has left: what comes of it is for nobody."""

    def __init__(self, name: str) -> None:
        super().__init__(name, b"")
        self.expired = True

    def answered(self, lane: Lane, memory: Memory, status: int, payload: bytes) -> Sequence[Job]:
        return ()

    def crashed(self, lane: Lane, memory: Memory, crash: Exception) -> tuple[bool, Sequence[Job]]:
        lane.calls_done(1)
        return False, ()
