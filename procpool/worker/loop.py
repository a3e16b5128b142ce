"""The loop of a worker's thread: read a job, run it, answer."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter_ns, process_time_ns
from typing import NamedTuple

from .. import tracing, wire
from ..errors import GuestError
from ..job_context import Context, Travelled, serve_contexts
from .access import Access
from .arena import Arena
from .attendant import Attendant
from .failures import by_itself, failure, of_guest
from .holder import InstanceHolder
from .shipped import ShippedFunctions
from .traffic import Replies, Running, Waiting, write_all
from .wasi_run import CommandRunner

#: While jobs keep coming, replies are held back at most this long.  Well above what a flush costs (a few us), well
#: below what anyone notices.
FLUSH_NS = 1_000_000

_SLOT = struct.Struct("<I12x")
#: Kinds of jobs in which Python code of the user's runs.
_PYTHON = (wire.SHIPPED, wire.RUN)


class Room(NamedTuple):
    """What one thread of a worker works with."""

    waiting: Waiting
    running: Running
    replies: Replies
    replies_fd: int
    instances: InstanceHolder
    functions: ShippedFunctions
    access: Access
    commands: CommandRunner
    arena: Arena
    board: memoryview  #: its row of counters
    #: sends what was printed outside of a command, before the answer goes; None if nothing can be, or nobody is to see it
    printed: Callable[[], None] | None
    python_sees: bool  #: whether Python code of the user's may run in a call, or looks at what was printed in it


class Loop:
    """What one thread of a worker does for the rest of its life."""

    def __init__(self, room: Room, settings: wire.Settings) -> None:
        self._waiting = room.waiting
        self._running = room.running
        self._replies = room.replies
        self._replies_fd = room.replies_fd
        self._instances = room.instances
        self._functions = room.functions
        self._access = room.access
        self._commands = room.commands
        self._arena = room.arena
        self._board = room.board
        self._printed = room.printed
        self._exports = settings.exports
        self._settles = room.instances.settles
        self._exactly_once = settings.guest.exactly_once
        self._alone = settings.instances == 1
        # Where Python has to know of each call, it makes it.
        self._by_wasm = room.instances.served_by_wasm and not (
            room.instances.fuelled or room.instances.threaded or room.python_sees
        )
        # Between two calls of a guest with threads, this process may have to end.
        lingers = not room.instances.threaded
        self._attendant = Attendant(
            instances=room.instances,
            running=room.running,
            board=room.board,
            arena=room.arena,
            replies_fd=room.replies_fd,
            answer=self._answer_direct,
            plain=self._is_plain,
            lingers=lingers,
            pickled=settings.guest.pickles,
        )
        self._said_spent = False
        self._pickles = settings.guest.pickles
        # Of the job that runs.
        self._number = -1
        self._pickled = False  # whether what it ends in goes back as a pickle
        self._travelled: Travelled | None = None
        self._context: Context | None = None

    def current_context(self) -> Context:
        """The context of the job that runs, unpacked when it is first asked for."""
        if self._context is None:
            number, running, travelled = self._number, self._running, self._travelled

            def cancelled() -> bool:
                return running.interrupted == number

            if travelled is None:
                self._context = Context(None, {}, cancelled)
            else:
                baggage, _ = pickle.loads(travelled.baggage)
                self._context = Context(travelled.deadline, baggage, cancelled)
        return self._context

    def serve(self) -> None:
        """Run jobs until the parent closes the pipe.

        Raises:
            CorruptStream: what came through it is no job.
        """
        serve_contexts(self.current_context)
        jobs, replies, board = self._waiting.jobs, self._replies, self._board
        threaded = self._instances.threaded
        board[wire.START_CPU_NS] = process_time_ns()
        begun, void = 0, -1  # jobs begun, and the first of those that are being skipped
        passed = 0  # the last fence that lies behind; at first none, for a fence may have been set before we come here
        flushed = started = perf_counter_ns()
        while True:
            if not jobs:
                replies.flush()
                if not self._waiting.read():
                    return
                started = flushed = perf_counter_ns()
                if not jobs:  # what came is not a whole job yet
                    continue
            (_, export, kind, flags), payload = jobs.popleft()
            # Before the first thing that can kill this process: from here on the job counts as begun.  And before the look
            # at the fence, which the parent sets before it looks here: one of us sees the other (supervisor/lane.py).
            board[wire.BEGUN] = begun + 1
            fence = board[wire.VOID]
            if fence != passed:
                start, stop = wire.fence_of_cell(fence)
                if start <= begun < stop:
                    void = begun if void < 0 else void
                    begun += 1
                    if begun == stop:
                        replies.flush(wire.reply(wire.PASSED, wire.COUNT.pack(void)))
                        passed, void = fence, -1
                    continue
                if begun >= stop:
                    passed = fence
            if kind in (wire.CALL, wire.ACCESS):
                answer = self._answer_direct(begun, export, kind, flags, payload)
                begun += 1
                board[wire.RUN_NS] = perf_counter_ns() - started
                if flags & wire.HOT and self._attendant.put(answer):
                    begun = self._attendant.attend(begun)
                elif flags & wire.HOT:
                    self._attendant.send(answer)
                else:
                    write_all(self._replies_fd, answer)
                if threaded:
                    self._leave_if_spent()
                continue
            self._number = begun
            payload = self._prepare(flags, payload)
            if kind == wire.BATCH:
                replies.flush()
                with self._span(kind, export):
                    answer = self._run_batch(begun, export, flags, payload)
                replies.add(answer)
                replies.flush()
                begun += 1
                started = flushed = perf_counter_ns()
                continue
            if kind in _PYTHON and replies.waiting:
                replies.flush()  # it may hold the GIL, and then nothing else can
            answer = self._run_traced(begun, export, kind, flags, payload)
            begun += 1
            replies.add(answer)
            now = perf_counter_ns()
            board[wire.BUSY_NS] += now - started
            board[wire.DONE] += 1
            started = now
            # Python code may do things that must not be done twice.  Delivered at once, its result cannot be lost with
            # this process, and so it is never run again to have it.
            if self._exactly_once or kind in _PYTHON or now - flushed > FLUSH_NS:
                replies.flush()
                flushed = now
                self._leave_if_spent()

    def _prepare(self, flags: int, payload: bytes) -> bytes:
        """Look at what came with a job beside its arguments, and leave these."""
        self._context = self._travelled = None
        if self._instances.threaded and not flags & wire.LEASED:  # the holder of a lease is told by the next call
            self._instances.discard_ended()
        if flags & wire.HAS_CONTEXT:
            self._travelled = Travelled.read(payload)
            return payload[self._travelled.size :]
        return payload

    def _answer_direct(self, number: int, export: int, kind: int, flags: int, payload: bytes) -> bytes:
        """The reply to a job that is answered on the replies pipe, or in the page."""
        self._number = number
        self._board[wire.BEGUN] = number + 1
        return self._run_traced(number, export, kind, flags, self._prepare(flags, payload))

    def _run_traced(self, number: int, export: int, kind: int, flags: int, payload: bytes) -> bytes:
        if self._travelled is not None and self._travelled.traced:
            with self._span(kind, export):
                answer = self._run(number, export, kind, flags, payload)
        else:
            answer = self._run(number, export, kind, flags, payload)
        if self._printed is not None:
            self._printed()
        return answer

    def _is_plain(self, export: int) -> bool:
        """Whether wasm may make a call that came without a context."""
        return self._by_wasm and self._instances.importable(export)

    def _leave_if_spent(self) -> None:
        """End this process if it should run no other job: the answer is on its way, and jobs behind it have not begun.

        Other instances in it may be in the middle of theirs; then the parent has it replaced when nothing runs there.
        """
        if not self._commands.doomed:
            return
        if self._alone:
            os._exit(wire.EXIT_SPENT)
        if not self._said_spent:
            self._said_spent = True
            self._replies.flush(wire.reply(wire.SPENT))

    def _span(self, kind: int, export: int) -> AbstractContextManager[None]:
        """The tracing of a job, if its caller traces."""
        if self._travelled is None or not self._travelled.traced:
            return contextlib.nullcontext()
        try:
            _, trace = pickle.loads(self._travelled.baggage)
        except Exception as error:
            raise wire.CorruptStream(f"a context that does not unpickle: {error}") from None
        named = kind in (wire.CALL, wire.SUBMIT, wire.BATCH) and export < len(self._exports)
        return tracing.span(trace, f"procpool {self._exports[export][0]}" if named else "procpool callable")

    def _run(self, number: int, export: int, kind: int, flags: int, payload: bytes) -> bytes:
        """The reply to one call, of an export or of a Python function."""
        instances = self._instances
        pickled = self._pickled = bool(flags & wire.PICKLED) if kind == wire.SHIPPED else self._pickles
        own: bool | None = None  # whether an exception is the guest's own
        self._running.begin(number)
        try:
            if kind in (wire.CALL, wire.SUBMIT):
                function = instances.bound.get(export) or instances.function(export)
                function.params[:] = payload
                if instances.fuelled:
                    instances.refuel()
                function.run()
                answer = wire.reply(wire.OK, function.results)
            else:
                answer = self._run_other(kind, payload, pickled)
            if self._settles or instances.calls.failed:
                self._tidy(kind, flags)
        except wire.CorruptStream:
            raise
        except BaseException as error:
            if kind in (wire.CALL, wire.SUBMIT):
                instances.check(export, payload)
            answer, own = failure(error, instances.stages.take(error), pickled), by_itself(error)
            if kind == wire.ACCESS and not (instances.calls.failed or of_guest(error)):
                answer = wire.reply(wire.KEPT, answer[wire.REPLY.size :])
            elif instances.calls.failed or not isinstance(error, GuestError):
                instances.discard()
            else:
                self._tidy(kind, flags)
        if not self._running.finish(number):
            printed = wire.encode(self._commands.printed) if kind == wire.RUN else b""
            # After a success too, but for a lease, which would go on with another instance, and for a Python function,
            # which may have caught the interrupt.
            if own is None:
                own = kind in (wire.CALL, wire.SUBMIT) and not flags & wire.LEASED
            answer = self._stopped(answer, own) or wire.reply(wire.INTERRUPTED, printed)
            instances.discard()
        return answer

    def _stopped(self, answer: bytes, own: bool) -> bytes | None:
        """The reply for what was stopped from here, ``answer`` if that is its own; None if its caller had it stopped."""
        why, self._running.why = self._running.why, None
        return None if why is None else answer if own else failure(why, pickled=self._pickled)

    def _run_other(self, kind: int, payload: bytes, pickled: bool) -> bytes:
        """The reply to a job that is no call of an export."""
        if kind == wire.SHIPPED:
            return wire.reply(wire.VALUE, self._functions.run(payload, pickled))
        if kind == wire.RUN:
            try:
                return wire.reply(wire.VALUE, self._commands.run(payload))
            finally:
                if self._commands.stopped:
                    self._instances.discard()
        if kind == wire.ACCESS:
            value = self._access.run(*pickle.loads(payload))
            return wire.reply(wire.VALUE, pickle.dumps(value) if pickled else _plain(value))
        if kind == wire.PURGE:
            self._instances.discard()
            return wire.reply(wire.OK)
        raise wire.CorruptStream(f"a job of the unknown kind {kind}")

    def _tidy(self, kind: int, flags: int) -> None:
        """After a call that went well: whether the instance may serve the next one."""
        instances = self._instances
        instances.stages.forget()  # a callable may have caught what it was not to make of the instance
        if kind == wire.ACCESS or flags & wire.LEASED:
            return  # its holder decides
        if self._settles or instances.calls.failed:
            instances.settle()

    def _run_batch(self, number: int, export: int, flags: int, payload: bytes) -> bytes:
        """The reply to a batch.  Items that fail are announced at once: this process may not live to its end."""
        started = perf_counter_ns()
        self._pickled = self._pickles
        first, end, cells = self._batch_head(export, payload)
        self._arena.buffer = cells // wire.CELLS
        # One item at a time where each needs something of its own: fuel, an instance, or a number to be interrupted by.
        singly = self._instances.fuelled or self._settles or bool(flags & wire.ITEM_BY_ITEM and self._exactly_once)
        while first < end:
            failed, own = b"", False
            running = (number, first) if singly else number
            self._running.begin(running)
            try:
                driver = self._instances.driver(export)
                stop = end
                if singly:
                    self._instances.refuel()
                    stop = first + 1
                driver.params[:] = _SLOT.pack(first) + _SLOT.pack(stop) + payload[2 * _SLOT.size :]
                driver.run()
                (first,) = _SLOT.unpack(driver.results)
                if first < stop and not self._arena.release():  # it is the parent who had it stop
                    end = first
            except BaseException as error:
                first = max(first, self._arena.item())  # it never got to an item if the driver cannot be made
                failed, own = failure(error, self._instances.stages.take(error), self._pickles), by_itself(error)
            interrupted = not self._running.finish(running)
            if self._printed is not None:
                self._printed()  # so that it does not count as the next item's
            if interrupted:
                stopped = self._stopped(failed, own)
                if failed:
                    failed = stopped or wire.reply(wire.INTERRUPTED)
            if interrupted or failed:
                self._instances.discard()
            elif self._settles or self._instances.calls.failed:
                self._tidy(wire.BATCH, 0)
            if failed:
                _, status = wire.REPLY.unpack_from(failed)
                item = wire.FAILED_ITEM.pack(first, status) + failed[wire.REPLY.size :]
                self._replies.flush(wire.reply(wire.ITEM, item))
                first += 1
        self._arena.buffer = -1
        return wire.reply(wire.OK, wire.BATCH_DONE.pack(first, perf_counter_ns() - started))

    def _batch_head(self, export: int, payload: bytes) -> tuple[int, int, int]:
        """First item, end and address of the cells, of a batch that can be one."""
        if export < len(self._exports):
            signature = self._exports[export][1]
            columns = len(signature.params) + len(signature.results)
            if len(payload) == _SLOT.size * (3 + columns):
                first, end, cells, *_ = (value for (value,) in _SLOT.iter_unpack(payload))
                if first <= end and cells in range(0, wire.BUFFERS * wire.CELLS, wire.CELLS):
                    return first, end, cells
        raise wire.CorruptStream(f"a batch of export {export} with {len(payload)} bytes")


def _plain(value: object) -> bytes:
    try:
        return wire.encode(value)
    except wire.NotPlain:
        pickle.dumps(value)  # an object may say why it cannot travel, as references do
        raise
