"""The worker's main loop: read a job, run it, answer."""

from __future__ import annotations

import os
from time import perf_counter_ns

import wasmtime

from .. import wire
from ..errors import WasmFrame, WasmTrap
from .instances import Instances
from .jobs import Replies, Running, Waiting

#: While jobs keep coming, replies are held back at most this long.  Well above what a flush costs (a few us), well
#: below what anyone notices.
FLUSH_NS = 1_000_000


def serve(
    waiting: Waiting, running: Running, replies: Replies, replies_fd: int, instances: Instances, board: memoryview
) -> None:
    """Run jobs until the parent closes the pipe.  ``board`` is this worker's row of counters."""
    jobs, bound = waiting.jobs, instances.bound
    begun = 0
    flushed = perf_counter_ns()
    while True:
        if not jobs:
            replies.flush()
            if not waiting.read():
                return
            started = flushed = perf_counter_ns()
        try:
            (_, export, kind), payload = jobs.popleft()
        except IndexError:  # recalled in between
            continue
        # Before the first thing that can kill this process: from here on the job counts as begun.
        board[wire.BEGUN] = begun + 1
        running.begin(begun)
        try:
            function = bound.get(export) or instances.function(export)
            function.params[:] = payload
            function.run()
            answer = wire.reply(wire.OK, function.results)
            failed = False
        except BaseException as error:
            answer = _failure(error)
            failed = True
        if not running.finish(begun):
            answer = wire.reply(wire.INTERRUPTED)
            failed = True
        if failed:
            instances.discard()
        begun += 1
        if kind == wire.CALL:
            _write(replies_fd, answer)
            continue
        replies.add(answer)
        now = perf_counter_ns()
        board[wire.BUSY_NS] += now - started
        board[wire.DONE] += 1
        started = now
        if now - flushed > FLUSH_NS:
            replies.flush()
            flushed = now


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
