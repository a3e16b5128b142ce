"""The worker's main loop: read a job, run it, answer."""

from __future__ import annotations

import os
import struct
from time import perf_counter_ns

import wasmtime

from .. import wire
from ..errors import WasmFrame, WasmTrap
from .arena import Arena
from .instances import Instances
from .jobs import Replies, Running, Waiting
from .shipped import Functions

#: While jobs keep coming, replies are held back at most this long.  Well above what a flush costs (a few us), well
#: below what anyone notices.
FLUSH_NS = 1_000_000

_SLOT = struct.Struct("<I12x")


class Loop:
    """What the main thread does for the rest of its life.  ``board`` is this worker's row of counters."""

    def __init__(
        self,
        waiting: Waiting,
        running: Running,
        replies: Replies,
        replies_fd: int,
        instances: Instances,
        functions: Functions,
        arena: Arena,
        board: memoryview,
    ) -> None:
        self._waiting = waiting
        self._running = running
        self._replies = replies
        self._replies_fd = replies_fd
        self._instances = instances
        self._functions = functions
        self._arena = arena
        self._board = board

    def serve(self) -> None:
        """Run jobs until the parent closes the pipe."""
        jobs, replies, board = self._waiting.jobs, self._replies, self._board
        begun = 0
        flushed = started = perf_counter_ns()
        while True:
            if not jobs:
                replies.flush()
                if not self._waiting.read():
                    return
                started = flushed = perf_counter_ns()
            try:
                (_, export, kind), payload = jobs.popleft()
            except IndexError:  # recalled in between
                continue
            # Before the first thing that can kill this process: from here on the job counts as begun.
            board[wire.BEGUN] = begun + 1
            if kind == wire.BATCH:
                replies.flush()
                replies.add(self._run_batch(begun, export, payload))
                replies.flush()
                begun += 1
                started = flushed = perf_counter_ns()
                continue
            answer = self._run(begun, export, kind, payload)
            begun += 1
            if kind == wire.CALL:
                _write(self._replies_fd, answer)
                continue
            replies.add(answer)
            now = perf_counter_ns()
            board[wire.BUSY_NS] += now - started
            board[wire.DONE] += 1
            started = now
            # A Python function may do things that must not be done twice.  Delivered at once, its result cannot be lost
            # with this process, and so it is never run again to have it.
            if kind == wire.SHIPPED or now - flushed > FLUSH_NS:
                replies.flush()
                flushed = now

    def _run(self, number: int, export: int, kind: int, payload: bytes) -> bytes:
        """The reply to one call, of an export or of a Python function."""
        instances = self._instances
        self._running.begin(number)
        try:
            if kind == wire.SHIPPED:
                answer = wire.reply(wire.VALUE, self._functions.run(payload))
            else:
                function = instances.bound.get(export) or instances.function(export)
                function.params[:] = payload
                if instances.fuelled:
                    instances.refuel()
                function.run()
                answer = wire.reply(wire.OK, function.results)
        except BaseException as error:
            answer = _failure(error)
            instances.discard()
        if not self._running.finish(number):
            answer = wire.reply(wire.INTERRUPTED)
            instances.discard()
        return answer

    def _run_batch(self, number: int, export: int, payload: bytes) -> bytes:
        """The reply to a batch.  Items that fail are announced at once: this process may not live to its end."""
        started = perf_counter_ns()
        first, end, cells, *_ = (value for (value,) in _SLOT.iter_unpack(payload))
        self._arena.buffer = cells // wire.CELLS
        while first < end:
            failure = b""
            self._running.begin(number)
            try:
                driver = self._instances.driver(export)
                stop = end
                if self._instances.fuelled:  # item by item, because each has its own
                    self._instances.refuel()
                    stop = first + 1
                driver.params[:] = _SLOT.pack(first) + _SLOT.pack(stop) + payload[2 * _SLOT.size :]
                driver.run()
                (first,) = _SLOT.unpack(driver.results)
                if first < stop:  # told to stop
                    end = first
            except BaseException as error:
                first = max(first, self._arena.item())  # it never got to an item if the driver cannot be made
                failure = _failure(error)
            interrupted = not self._running.finish(number)
            if interrupted and failure:
                failure = wire.reply(wire.INTERRUPTED)
            if interrupted or failure:
                self._instances.discard()
            if failure:
                _, status = wire.REPLY.unpack_from(failure)
                item = wire.FAILED_ITEM.pack(first, status) + failure[wire.REPLY.size :]
                self._replies.flush(wire.reply(wire.ITEM, item))
                first += 1
        self._arena.buffer = -1
        return wire.reply(wire.OK, wire.BATCH_DONE.pack(first, perf_counter_ns() - started))


def _failure(error: BaseException) -> bytes:
    """The reply for a job that ended in an exception."""
    if isinstance(error, wasmtime.ExitTrap):
        return wire.reply(wire.EXIT, str(error.code).encode())
    trap = _as_trap(error)
    if trap is not None:
        return wire.reply(wire.TRAP, wire.trap_to_bytes(trap))
    return wire.reply(wire.RAISED, wire.exception_to_bytes(error))


def unfit(error: BaseException) -> bytes:
    """The announcement of a worker that cannot make an instance."""
    return wire.reply(wire.UNFIT, wire.exception_to_bytes(_as_trap(error) or error))


def _as_trap(error: BaseException) -> WasmTrap | None:
    """wasmtime's errors as ours; None for any other."""
    if isinstance(error, wasmtime.Trap):
        code = error.trap_code
        frames = tuple(WasmFrame(f.func_name, f.func_index, f.module_offset) for f in error.frames)
        # The message without the backtrace that wasmtime puts in front, which travels as frames.
        message = error.message.rpartition("wasm trap: ")[2].strip()
        return WasmTrap(message, code.name if code else None, None, frames)
    if isinstance(error, wasmtime.WasmtimeError):
        return WasmTrap(str(error))
    return None


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
