"""The shortest way to a worker: the calling thread writes the job and reads the answer itself."""

from __future__ import annotations

import os
import select
from concurrent.futures import TimeoutError as FutureTimeout
from time import monotonic
from typing import Any

from .. import wire
from ..eager import EagerReader
from ..errors import CallTimeout, PoolClosed, WorkerCrashed
from ..job_context import capture
from .dispatcher import Dispatcher
from .jobs.call import Export, Job
from .worker import Worker


class DirectCalls:
    """Blocking calls.  When no worker is idle, or others wait already, a call joins the queue instead."""

    def __init__(self, dispatcher: Dispatcher, visible: bool) -> None:
        self._dispatcher = dispatcher
        self._scheduler = dispatcher.scheduler
        self._visible = visible  # whether Python code runs with a call, and can see its context
        self._wake_at = dispatcher.limits.max_tasks_per_worker

    def call(self, export: Export, args: tuple[Any, ...], timeout: float | None) -> Any:
        """Run the export in a worker and return its result.

        Raises:
            BadArguments: the arguments do not fit.
            CallTimeout: ``timeout`` seconds have passed; the job is being interrupted.
            WorkerCrashed: the worker died while running it.
            Whatever the job itself ended in.
        """
        slots = export.pack(args)
        deadline = None if timeout is None else monotonic() + timeout
        context = capture(self._visible, deadline=deadline)
        frame = export.frame(wire.CALL, slots, context)
        scheduler, tries = self._scheduler, self._dispatcher.limits.retries
        while not scheduler.queue:
            try:
                worker = scheduler.next_idle()
            except IndexError:
                break
            try:
                reply = self.exchange(worker, export.name, frame, deadline)
            except WorkerCrashed:
                if not tries:
                    raise
                tries -= 1
                continue
            if reply is None:  # it was dead before it began; take another
                continue
            if reply[4] == wire.OK:
                scheduler.release(worker)
                if self._dispatcher.attentive or worker.sent >= self._wake_at:
                    self._dispatcher.look_again()
                return export.codec.unpack(reply, 8)
            worker.failed += 1
            scheduler.release(worker)
            self._dispatcher.look_again()
            return export.result(reply[4], reply[8:])
        return self._queued(export, slots, deadline, timeout, context)

    def exchange(self, worker: Worker, name: str, frame: bytes, deadline: float | None) -> bytes | None:
        """As the holder of a worker: the reply to a frame, or None if the worker had died before it began the job.

        After an exception or None, the worker is not ours any more.
        """
        number = worker.sent
        worker.sent = number + 1
        try:
            try:
                written = os.write(worker.jobs_fd, frame)
                while written < len(frame):
                    _wait_writable(worker.jobs_fd, deadline, name)
                    written += os.write(worker.jobs_fd, frame[written:])
                if deadline is not None and not worker.replies.wait(max(0.0, deadline - monotonic()) * 1000):
                    raise _out_of_time(name)
                reply = worker.replies.read()
                if len(reply) == 4096:
                    reply = _read_rest(worker.replies, reply)
            except BrokenPipeError:
                reply = b""
        except BaseException as error:  # the deadline, or Ctrl-C: leave the worker with its job to the dispatcher
            self._dispatcher.adopt(worker, name, isinstance(error, CallTimeout))
            raise
        if len(reply) >= 8 and reply[4] < wire.READY:
            return reply
        if reply:
            self._dispatcher.nonsense(worker, ValueError(f"{len(reply)} bytes that are no reply"))
        exitcode = self._dispatcher.lost(worker)
        if worker.begun <= number:
            return None
        if self._dispatcher.terminated:
            raise PoolClosed(f"the pool was terminated while {name!r} ran")
        raise WorkerCrashed(worker.process.pid, name, exitcode)

    def _queued(self, export: Export, slots: bytes, deadline: float | None, timeout: float | None, context: bytes) -> Any:
        job = Job(export.name, export.frame(wire.SUBMIT, slots, context), export.codec.unpack)
        job.retries = self._dispatcher.limits.retries
        self._dispatcher.submit(job)
        try:
            return job.result(None if deadline is None else max(0.0, deadline - monotonic()))
        except FutureTimeout:
            if job.done():  # the job itself ended in a TimeoutError
                raise
            job.cancel()
            raise CallTimeout(f"{export.name} got no result within {timeout} s") from None
        except BaseException:
            job.cancel()
            raise


def _out_of_time(name: str) -> CallTimeout:
    return CallTimeout(f"{name} got no result in time and was interrupted")


def _wait_writable(fd: int, deadline: float | None, name: str) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(None if deadline is None else max(0.0, deadline - monotonic()) * 1000):
        raise _out_of_time(name)


def _read_rest(pipe: EagerReader, reply: bytes) -> bytes:
    size = wire.REPLY.size + wire.REPLY.unpack_from(reply)[0]
    while len(reply) < size:
        data = pipe.read()
        if not data:
            return b""
        reply += data
    return reply
