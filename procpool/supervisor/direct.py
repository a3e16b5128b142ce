"""The shortest way to a worker: the calling thread writes the job and reads the answer itself."""

from __future__ import annotations

import select
from threading import get_ident
from typing import Any

from .. import wire
from ..deadline import Deadline
from ..eager import EagerReader
from ..errors import CallTimeout, PoolClosed, WorkerCrashed
from ..job_context import capture
from .dispatcher import Dispatcher
from .jobs.call import Export, Job
from .lane import Lane
from .port import REPLY_BYTES, Port

_NEVER = Deadline.NEVER


class DirectCalls:
    """Blocking calls.  When no worker is idle, or others wait already, a call joins the queue instead."""

    def __init__(self, dispatcher: Dispatcher, visible: bool) -> None:
        self._dispatcher = dispatcher
        self._scheduler = dispatcher.scheduler
        self._visible = visible  # whether Python code runs with a call, and can see its context
        # Of a process that has had so many calls, one of its workers has had its share or more.
        self._wake_at = dispatcher.options.max_tasks_per_worker / dispatcher.options.instances

    def call(self, export: Export, args: tuple[Any, ...], deadline: Deadline) -> Any:
        """Run the export in a worker and return its result.

        Raises:
            BadArguments: the arguments do not fit.
            CallTimeout: the deadline has passed; the job is being interrupted.
            WorkerCrashed: the worker died while running it.
            Whatever the job itself ended in.
        """
        slots = export.pack(args)
        context = capture(self._visible, deadline=deadline.limit)
        frame = export.frame(wire.CALL, slots, context)
        scheduler, tries = self._scheduler, self._dispatcher.options.retries
        lane: Lane | None = None
        me = get_ident()
        try:
            while not scheduler.queue:
                try:
                    for lane in scheduler.takes:
                        lane.holder = me
                        break
                except IndexError:
                    break
                assert lane is not None
                try:
                    reply = self.exchange(lane, export.name, frame, deadline)
                except WorkerCrashed:
                    if not tries:
                        self._dispatcher.failed()
                        raise
                    tries -= 1
                    continue
                if reply is None:  # it was dead before it began; take another
                    continue
                scheduler.release(lane)
                if self._dispatcher.attentive or lane.used >= self._wake_at:
                    self._dispatcher.look_again()
                if reply[4] == wire.OK:
                    return export.codec.unpack(reply, 8)
                self._dispatcher.failed()
                return export.result(reply[4], reply[8:])
        except BaseException as error:
            if lane is not None and lane.holder == me:
                self.leave(lane, export.name, error)
            raise
        return self._queued(export, slots, deadline, context)

    def exchange(self, lane: Lane, name: str, frame: bytes, deadline: Deadline) -> bytes | None:
        """As the holder of a worker: the reply to a frame, or None if the worker had died before it began the job.

        After None, PoolClosed and WorkerCrashed the worker is not ours any more.  After any other exception it is to be
        left (`leave`).
        """
        port = lane.port
        lane.asked = True
        try:
            written = port.write(frame)
            if written < len(frame):
                _write_rest(port, memoryview(frame)[written:], deadline, name)
            if deadline is not _NEVER:
                _wait_readable(port.replies, deadline, name)
            reply = port.replies.read()
            if len(reply) == REPLY_BYTES:
                reply = _read_rest(port, reply, deadline, name)
        except BrokenPipeError:
            reply = b""
        if len(reply) >= 8 and reply[4] < wire.READY:
            lane.asked = False
            lane.served()
            return reply
        if reply:
            self._dispatcher.nonsense(lane, ValueError(f"{len(reply)} bytes that are no reply"))
        if not self._dispatcher.lost(lane, deadline):
            return None
        if self._dispatcher.terminated:
            raise PoolClosed(f"the pool was terminated while {name!r} ran")
        raise port.process.crash(name)

    def leave(self, lane: Lane, name: str, error: BaseException, used: bool = False) -> None:
        """Its holder goes: the deadline, or Ctrl-C.  The dispatcher gets a worker that has not answered yet.

        Args:
            used: nobody else may see its instance.
        """
        if lane.asked:
            self._dispatcher.adopt(lane, name, isinstance(error, CallTimeout), used)
        elif used:
            self._dispatcher.take_back(lane)
        else:
            self._scheduler.release(lane)
            self._dispatcher.look_again()

    def _queued(self, export: Export, slots: bytes, deadline: Deadline, context: bytes) -> Any:
        job = Job(export.name, export.frame(wire.SUBMIT, slots, context), export.codec.unpack)
        job.retries = self._dispatcher.options.retries
        self._dispatcher.submit(job, deadline)
        try:
            return job.result()  # which the dispatcher ends by the deadline
        except BaseException:
            job.cancel()
            raise


def _out_of_time(name: str, deadline: Deadline) -> CallTimeout:
    return CallTimeout(f"{name} got no result within {deadline.seconds:g} s and was interrupted")


def _milliseconds(deadline: Deadline) -> float | None:
    remaining = deadline.remaining()
    return None if remaining is None else remaining * 1000


def _write_rest(port: Port, rest: memoryview, deadline: Deadline, name: str) -> None:
    poll = select.poll()
    poll.register(port.jobs_fd, select.POLLOUT)
    while rest:
        if poll.poll(_milliseconds(deadline)):
            rest = rest[port.write(rest) :]
        elif deadline.passed():
            raise _out_of_time(name, deadline)


def _wait_readable(pipe: EagerReader, deadline: Deadline, name: str) -> None:
    while not pipe.wait(_milliseconds(deadline)):
        if deadline.passed():
            raise _out_of_time(name, deadline)


def _read_rest(port: Port, reply: bytes, deadline: Deadline, name: str) -> bytes:
    size = wire.REPLY.size + wire.REPLY.unpack_from(reply)[0]
    pieces, have = [reply], len(reply)
    try:
        while have < size:
            _wait_readable(port.replies, deadline, name)
            data = port.replies.read()
            if not data:
                return b""
            pieces.append(data)
            have += len(data)
    except BaseException:
        port.abandoned_reader.feed(b"".join(pieces))  # for who reads the rest
        raise
    return b"".join(pieces)
