"""The shortest way to a worker: the calling thread writes the job and reads the answer itself."""

from __future__ import annotations

import select
import struct
from threading import get_ident
from time import monotonic_ns
from typing import Any

from .. import tracing, wire
from ..deadline import Deadline
from ..errors import CallTimeout, PoolClosed, WorkerCrashed
from ..job_context import capture
from ..wire import page
from .channel import REFUSED, Channel
from .dispatcher import Dispatcher
from .jobs.call import Callee, Job
from .lane import Lane
from .port import REPLY_BYTES, Port
from .spinning import PATIENCE, Outcome

_NEVER = Deadline.NEVER
#: Whose turn it is while a posted call has no answer, and when it has one in the page.
WAITING = page.POSTED, page.TAKEN
ANSWERED = page.ASLEEP, page.AWAKE


class DirectCalls:
    """Blocking calls.  When no worker is idle, or others wait already, a call joins the queue instead."""

    def __init__(self, dispatcher: Dispatcher, visible: bool) -> None:
        self._dispatcher = dispatcher
        self._scheduler = dispatcher.scheduler
        self._visible = visible  # whether Python code runs with a call, and can see its context
        # Of a process that has had so many calls, one of its workers has had its share or more.
        self._wake_at = dispatcher.options.max_tasks_per_worker / dispatcher.options.instances

    def call(self, export: Callee, args: tuple[Any, ...], deadline: Deadline) -> Any:
        """Run the export in a worker and return its result.

        Raises:
            BadArguments: the arguments do not fit.
            CallTimeout: the deadline has passed; the job is being interrupted.
            WorkerCrashed: the worker died while running it.
            Whatever the job itself ended in.
        """
        scheduler, tries = self._scheduler, self._dispatcher.options.retries
        context, frame = self.context(deadline), b""
        lane: Lane | None = None
        me = get_ident()
        try:
            while scheduler.nobody_waits():
                try:
                    for lane in scheduler.takes:
                        lane.holder = me
                        break
                except IndexError:
                    break
                assert lane is not None
                channel, turn = lane.port.channel, REFUSED
                if channel is not None and channel.turn[0] == page.AWAKE and not context and export.takes(map(type, args)):
                    turn = self.post(channel, export, args)
                    plain = plain_reply(channel, export) if turn in ANSWERED else None
                    if plain is not None:
                        lane.served(False)
                        self.done_with(lane)
                        return result_of(plain)
                frame = frame or export.frame(wire.CALL, export.pack(args), context)
                try:
                    reply = self._posted(lane, channel, turn, export.name, frame, deadline)
                except WorkerCrashed:
                    if not tries:
                        self._dispatcher.failed()
                        raise
                    tries -= 1
                    continue
                if reply is None:  # it was dead before it began; take another
                    continue
                self.done_with(lane)
                if reply[4] == wire.OK:
                    return export.unpack(reply, 8)
                self._dispatcher.failed()
                return export.result(reply[4], reply[8:])
        except BaseException as error:
            if lane is not None and lane.holder == me:
                self.leave(lane, export.name, error)
            raise
        return self._queued(export.job(args, context), deadline)

    def context(self, deadline: Deadline) -> bytes:
        """What is sent along with a call.  Before a worker is taken, for a tracer's code may run in it."""
        return capture(self._visible, deadline=deadline.limit) if self._visible or tracing.present() else b""

    def post(self, channel: Channel, export: Callee, args: tuple[Any, ...]) -> int:
        """Post a call whose arguments `Export.takes`; whose turn it is after a moment, or REFUSED."""
        try:
            export.write(channel.head, page.CALL_FRAME, *export.head, *args)
        except (struct.error, OverflowError):  # for `pack` to explain
            return REFUSED
        return channel.post()

    def exchange(self, lane: Lane, name: str, frame: bytes, deadline: Deadline) -> bytes | None:
        """As the holder of a worker: the reply to a frame, or None if the worker had died before it began the job.

        After None, PoolClosed and WorkerCrashed the worker is not ours any more.  After any other exception it is to be
        left (`leave`).
        """
        return self._posted(lane, lane.port.channel, REFUSED, name, frame, deadline)

    def done_with(self, lane: Lane, unused: bool = False) -> None:
        """Give back a worker that has nothing to answer; ``unused`` if it has had nothing to do."""
        self._scheduler.release(lane, unused)
        if self._dispatcher.attentive or lane.used >= self._wake_at:
            self._dispatcher.look_again()

    def leave(self, lane: Lane, name: str, error: BaseException, used: bool = False) -> None:
        """Its holder goes: the deadline, or Ctrl-C.  The dispatcher gets a worker that has not answered yet.

        Args:
            used: nobody else may see its instance.
        """
        channel = lane.port.channel
        if not lane.asked and channel is not None:
            lane.asked = channel.ring() == page.RUNG
        if lane.asked:
            self._dispatcher.adopt(lane, name, isinstance(error, CallTimeout), used)
            return
        if lane.has_begun(lane.port.begun):  # Ctrl-C came between an answer and its being counted
            lane.served()
        if used:
            self._dispatcher.take_back(lane)
        else:
            self.done_with(lane)

    def _posted(
        self, lane: Lane, channel: Channel | None, turn: int, name: str, frame: bytes, deadline: Deadline
    ) -> bytes | None:
        """`exchange`, of a frame that was posted unless ``turn`` is REFUSED."""
        if channel is not None and (turn != REFUSED or channel.turn[0] == page.AWAKE):
            if turn == REFUSED:
                turn = channel.call(frame)
            if turn in WAITING:
                turn = channel.wait(lane.spinning.toll_ns)
                if turn in WAITING:
                    lane.spinning.missed()
                    turn = channel.ring()
            if turn in ANSWERED:
                return self.taken(lane, channel)
            if turn != REFUSED:
                return self._receive(lane, name, deadline, posted=True)
        return self._by_pipe(lane, name, frame, deadline)

    def _by_pipe(self, lane: Lane, name: str, frame: bytes, deadline: Deadline) -> bytes | None:
        """Wake the worker."""
        port, spinning = lane.port, lane.spinning
        if spinning.rests():
            return self._asleep(lane, name, frame, deadline)
        outcome: Outcome = "slept"
        channel = self.opened(lane) if spinning.begin(monotonic_ns(), lane.calls) else None
        if channel is None:
            reply = self._asleep(lane, name, frame, deadline)
        elif self.wake(lane, channel, name, frame, deadline) == page.RUNG:
            reply = self._receive(lane, name, deadline)
            outcome = "missed"
        else:
            reply = self.taken(lane, channel)
            outcome = "answered"
        spinning.end(monotonic_ns(), lane.calls, port.run_ns, outcome)
        return reply

    def wake(self, lane: Lane, channel: Channel, name: str, frame: bytes, deadline: Deadline) -> int:
        """Send a frame by the pipe, to be answered in the page, and wait for that: RUNG if it is to come by the pipe."""
        toll = lane.spinning.toll_ns
        channel.announce(toll)
        hot = bytearray(frame)
        hot[wire.FLAGS] |= wire.HOT
        _write(lane.port, bytes(hot), deadline, name)
        turn = channel.wait(toll * PATIENCE)
        return channel.ring() if turn in WAITING else turn

    def taken(self, lane: Lane, channel: Channel) -> bytes:
        """The reply that lies in the page, which counts from now on."""
        reply = channel.reply()
        lane.served(channel.numbered)
        if reply[4] >= wire.READY:
            self._dispatcher.nonsense(lane, ValueError(f"the status {reply[4]} in its page"))
        return reply

    def opened(self, lane: Lane) -> Channel | None:
        """The worker's channel, made now at the latest; None if there can be none now."""
        try:
            lane.port.open_channel()
        except Exception:  # no descriptors are left, say, or no addresses; perhaps later
            lane.spinning.missed()
        return lane.port.channel

    def _asleep(self, lane: Lane, name: str, frame: bytes, deadline: Deadline) -> bytes | None:
        lane.asked = True
        _write(lane.port, frame, deadline, name)
        return self._receive(lane, name, deadline)

    def _receive(self, lane: Lane, name: str, deadline: Deadline, posted: bool = False) -> bytes | None:
        """The reply by the pipe, or None if the worker had died before it began the job.

        Args:
            posted: it is to a call that went by the page, which the worker had taken.
        """
        port, channel = lane.port, lane.port.channel
        turn = None if channel is None else channel.turn
        lane.asked = True
        if deadline is not _NEVER:
            _wait_readable(port, deadline, name)
        reply = port.read()
        if len(reply) == REPLY_BYTES:
            reply = _read_rest(port, reply, deadline, name)
        if len(reply) >= 8 and reply[4] < wire.READY:
            # In one step as far as Ctrl-C goes, for nothing is called: who leaves takes RUNG for a call without an answer.
            lane.asked = False
            if turn is not None and turn[0] == page.RUNG:
                turn[0] = page.ASLEEP
            lane.served()
            return reply
        if reply:
            self._dispatcher.nonsense(lane, ValueError(f"{len(reply)} bytes that are no reply"))
        if not self._dispatcher.lost(lane, deadline, posted):
            return None
        if self._dispatcher.terminated:
            raise PoolClosed(f"the pool was terminated while {name!r} ran")
        raise port.process.crash(name)

    def _queued(self, job: Job, deadline: Deadline) -> Any:
        job.retries = self._dispatcher.options.retries
        self._dispatcher.submit(job, deadline)
        try:
            return job.result()  # which the dispatcher ends by the deadline
        except BaseException:
            job.cancel()
            raise


def plain_reply(channel: Channel, export: Callee) -> tuple[Any, ...] | None:
    """What lies in the page, if it is the result of a call made by wasm: length, status, numbered, results."""
    reply = export.read(channel.head, page.REPLY_FRAME)
    return None if reply[1] != wire.OK or reply[2] else reply


def result_of(reply: tuple[Any, ...]) -> Any:
    """What such a reply stands for."""
    return reply[3] if len(reply) == 4 else reply[3:] or None


def _out_of_time(name: str, deadline: Deadline) -> CallTimeout:
    return CallTimeout(f"{name} got no result within {deadline.seconds:g} s and was interrupted")


def _milliseconds(deadline: Deadline) -> float | None:
    remaining = deadline.remaining()
    return None if remaining is None else remaining * 1000


def _write(port: Port, frame: bytes, deadline: Deadline, name: str) -> None:
    written = port.write(frame)
    if written == len(frame):
        return
    rest = memoryview(frame)[written:]
    poll = select.poll()
    poll.register(port.jobs_fd, select.POLLOUT)
    while rest:
        if poll.poll(_milliseconds(deadline)):
            rest = rest[port.write(rest) :]
        elif deadline.passed():
            raise _out_of_time(name, deadline)


def _wait_readable(port: Port, deadline: Deadline, name: str) -> None:
    while not port.readable(_milliseconds(deadline)):
        if deadline.passed():
            raise _out_of_time(name, deadline)


def _read_rest(port: Port, reply: bytes, deadline: Deadline, name: str) -> bytes:
    size = wire.REPLY.size + wire.REPLY.unpack_from(reply)[0]
    pieces, have = [reply], len(reply)
    try:
        while have < size:
            _wait_readable(port, deadline, name)
            data = port.read()
            if not data:
                return b""
            pieces.append(data)
            have += len(data)
    except BaseException:
        port.adopted_reader.feed(b"".join(pieces))  # for who reads the rest
        raise
    return b"".join(pieces)
