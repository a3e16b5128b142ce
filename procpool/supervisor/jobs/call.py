"""What a caller asked for, as the supervisor sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any

from ... import wire
from ...codec import Codec
from ...errors import CallTimeout, WorkerCrashed

if TYPE_CHECKING:
    from ..worker import Worker


class Export:
    """An exported function: how to pack a job for it and unpack its reply.

    The frame headers are constant per export, so they are packed once.
    """

    def __init__(self, index: int, codec: Codec) -> None:
        self.name = codec.export
        self.index = index
        self.codec = codec
        self.pack = codec.pack
        size = len(codec.signature.params) * 16
        self._size = size
        self.call_header = wire.JOB.pack(size, index, wire.CALL, 0)
        self.submit_header = wire.JOB.pack(size, index, wire.SUBMIT, 0)

    def frame(self, kind: int, slots: bytes, context: bytes, flags: int = 0) -> bytes:
        """The frame of a job: CALL or SUBMIT, packed arguments, what `capture` gave, and further flags."""
        if not context and not flags:
            return (self.call_header if kind == wire.CALL else self.submit_header) + slots
        if context:
            flags |= wire.HAS_CONTEXT
        return wire.JOB.pack(len(context) + self._size, self.index, kind, flags) + context + slots

    def result(self, status: int, payload: bytes) -> Any:
        """The value a reply stands for.

        Raises:
            The exception it stands for.
        """
        if status == wire.OK:
            return self.codec.unpack(payload)
        raise wire.error_from_reply(status, payload, self.name)


def _nothing(payload: bytes) -> None:
    """Reads the reply that nobody waits for."""


class Job(Future[Any]):
    """A submitted call: the future that the caller holds, and the frame that goes to a worker.

    A Future makes a Condition at birth and takes it at every step of its life, which for small jobs is half of all that
    the parent does.  Most jobs are over before anyone waits for them, so here the Condition is made when somebody first
    asks for it.  `_making` decides races between that and a step taken without one: while a thread holds it and finds no
    Condition, no other thread is in the middle of anything with this job, and none has registered a callback.

    Relies on the attributes that Future has had since Python 3.2; tests/test_futures.py runs the standard library's
    `wait`, `as_completed` and asyncio over it.
    """

    buffers = 0  #: how many of the arena's buffers it needs
    exclusive = False  #: it is a request for an idle worker to hold, which is its result
    priority = 0  #: those of higher priority are sent first
    key: Hashable = None  #: jobs of one key run in order on one worker
    dropped = False  #: it was cancelled while it was queued, and is still there
    passed = False  #: it was cancelled, and is no longer queued
    retries = 0  #: how often it may still be run again after its worker died
    #: told when it is cancelled: the job, and whether it was still queued
    on_cancel: Callable[[Job, bool], None] | None = None
    _making = threading.Lock()

    success = wire.OK  #: the status of a reply that `read` can read

    def __init__(
        self, name: str, frame: bytes, read: Callable[[bytes], Any] = _nothing, timeout: float | None = None
    ) -> None:
        # In place of Future.__init__, for the reason above.
        self._made: threading.Condition | None = None
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self.name = name  #: for messages
        self.frame = frame
        self.read = read  #: payload of the reply -> result
        self.timeout = timeout  #: seconds it may run, from when a worker turns to it
        #: nobody waits for it any more: stop it as soon as it runs, and drop what comes of it
        self.expired = False

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        if self._made is None:
            with self._making:
                if self._made is None:
                    self._made = threading.Condition()
        return self._made

    def result(self, timeout: float | None = None) -> Any:
        # The state is written after the result, so FINISHED seen without a lock is true and complete.
        if self._state is FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def done(self) -> bool:
        return self._state is FINISHED or super().done()

    def begin(self) -> bool:
        """Whether it may be sent to a worker: it was not cancelled, and cannot be from now on."""
        if self.expired:
            return False
        with self._making:
            if self._made is None:
                self._state = RUNNING
                return True
        # RUNNING: it has been sent before, and taken back.
        return self._state is RUNNING or self.set_running_or_notify_cancel()

    def cancel(self) -> bool:
        """Cancel the job; if it has been sent to a worker, it is interrupted there.  False only if it has ended.

        A standard Future cannot be cancelled once it runs.  This one can, because a running call can be stopped.
        """
        if self.cancelled():
            return True
        if super().cancel():
            if self.on_cancel is not None:
                self.on_cancel(self, True)
            return True
        with self._condition:
            if self.exclusive or self._state is not RUNNING or self.expired:
                return False
            # What the worker still answers is dropped from now on: `settle` looks at this first, and finds the Condition.
            self.expired = True
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        if self.on_cancel is not None:
            self.on_cancel(self, False)
        return True

    # The next ones are for jobs that are more than one call, see batch.py.

    def place(self, worker: Worker) -> bytes:
        """The frame to send to this worker."""
        return self.frame

    def unplace(self, worker: Worker) -> None:
        """It comes back from a worker without having begun."""

    def item(self, worker: Worker) -> int:
        """Which item the worker is at."""
        return 0

    def deadline(self, worker: Worker, now: float) -> float | None:
        """When to stop what runs, in the time of time.monotonic; None for never."""
        if self.expired:
            return now
        return None if self.timeout is None else worker.head_since + self.timeout

    def sampling(self) -> float | None:
        """Seconds after which `deadline` may be another; None if it stays."""
        return None

    def timed_out(self) -> None:
        """It is being interrupted for its deadline."""
        self.fail(CallTimeout(f"{self.name} ran longer than {self.timeout} s and was interrupted"))

    def answered(self, worker: Worker, status: int, payload: bytes) -> list[Job]:
        """Take the worker's reply; what is left to run."""
        if not self.settle(status, payload):
            worker.failed += 1
        return []

    def crashed(self, worker: Worker) -> list[Job]:
        """The worker died while running it; what is left to run."""
        if self.retries > 0 and not self.expired:
            self.retries -= 1
            return [self]
        worker.failed += 1
        self.fail(WorkerCrashed(worker.process.pid, self.name, worker.process.exitcode))
        return []

    def output(self, payload: bytes) -> None:
        """What it has printed so far; only a job that can print is told."""
        raise ValueError(f"{self.name} cannot have printed {payload[:50]!r}")

    def settle(self, status: int, payload: bytes) -> bool:
        """Give the caller what the worker replied; whether it was a success."""
        if self.expired:
            return False
        if status != self.success:
            self.fail(wire.error_from_reply(status, payload, self.name))
            return False
        try:
            result = self.read(payload)
        except Exception as error:  # a value that was pickled in the worker and does not unpickle here
            self.fail(error)
            return False
        with self._making:
            if self._made is None:
                self._result = result
                self._state = FINISHED
                return True
        try:
            self.set_result(result)
        except InvalidStateError:  # cancelled in this moment
            return False
        return True

    def fail(self, error: BaseException) -> None:
        """End it with an exception, unless it has ended."""
        if not self.expired:
            self.expired = True
            try:
                self.set_exception(error)
            except InvalidStateError:  # cancelled in this moment
                pass


class Purge(Job):
    """Not a call: has a worker throw its instance away, which nobody has used for a while."""

    def __init__(self) -> None:
        super().__init__("purge", wire.JOB.pack(0, 0, wire.PURGE, 0))

    def answered(self, worker: Worker, status: int, payload: bytes) -> list[Job]:
        worker.items -= 1  # it does not count as a call
        return super().answered(worker, status, payload)
