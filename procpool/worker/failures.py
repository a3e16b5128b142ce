"""What went wrong in a job, as the reply that says so."""

from __future__ import annotations

import textwrap

import wasmtime

from .. import wire
from ..binary import moved
from ..errors import GuestExit, WasmException, WasmFrame, WasmTrap
from .driver import NAME as DRIVER
from .ffi import TRAP, Thrown, backtrace, trap_code
from .server import NAME as SERVER

#: The guest has ended itself, by a WASI function of wasmtime's or by one of ours.
_EXITS = (wasmtime.ExitTrap, GuestExit)

#: What wasmtime puts before an error that a host function of its own gave, and before the error itself.
_BACKTRACE, _CAUSE = "error while executing at wasm backtrace:", "\n\nCaused by:\n"

#: What wasmtime's WASI says of a caller without a memory of the right name, and what we say instead.
_NO_MEMORY = "missing required memory export"
_WASI_NEEDS = (
    "WASI's functions work on the memory that their caller exports as 'memory', and this module exports none of that name;"
    ' export the one it uses, also if that is imported (wasm-ld: --export-memory; WAT: (export "memory" (memory 0)))'
)


def failure(error: BaseException, stage: str | None = None, pickled: bool = False) -> bytes:
    """The reply for a job that ended in an exception.

    Args:
        stage: of making an instance, if that is what it ended.
        pickled: the parent trusts us, and so unpickles the exception.
    """
    if isinstance(error, _EXITS):
        return wire.reply(wire.EXIT, wire.exit_to_bytes(error.code, stage))
    trap = as_trap(error, stage)
    if trap is not None:
        return wire.reply(wire.TRAP, wire.trap_to_bytes(trap))
    return wire.reply(wire.RAISED, wire.exception_to_bytes(error, raised_by(stage), pickled))


def of_guest(error: BaseException) -> bool:
    """Whether it is a failure of the guest, or was raised because of one: the instance is not to be used any more."""
    kinds = (wasmtime.Trap, wasmtime.WasmtimeError, WasmTrap, *_EXITS)
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)


def by_itself(error: BaseException) -> bool:
    """Whether it is an end of the guest's own, and no interrupt has to do with it."""
    raised = as_raised(error)
    if isinstance(raised, wasmtime.Trap):
        return raised.trap_code not in (None, wasmtime.TrapCode.INTERRUPT)
    if isinstance(raised, wasmtime.WasmtimeError) and not isinstance(raised, wasmtime.ExitTrap):
        return trap_code(_cause(raised)) not in (None, wasmtime.TrapCode.INTERRUPT)
    return isinstance(error, _EXITS)


def unfit(error: BaseException, stage: str | None, pickled: bool) -> bytes:
    """The announcement of a worker that cannot make an instance; the arguments are those of `failure`."""
    told = failure(error, stage, pickled)
    _, status = wire.REPLY.unpack_from(told)
    return wire.reply(wire.UNFIT, bytes((status,)) + told[wire.REPLY.size :])


def raised_by(stage: str | None) -> str:
    """The note of an exception that has ended a stage; empty if it has ended none."""
    return "" if stage is None else f"raised by {stage}"


def as_trap(error: BaseException, stage: str | None) -> WasmTrap | None:
    """wasmtime's errors as ours, which says what stage it ended; None for any other."""
    found = _trap(as_raised(error))
    if found is None:
        return None
    if isinstance(error, WasmTrap):  # who has seen it may have said more
        found.message = error.message
    if stage is not None and not found.message.startswith(f"{stage}: "):
        found.message = f"{stage}: {found.message}"
    found.args = (found.message,)
    return found


def as_raised(error: BaseException) -> BaseException:
    """wasmtime's exception, of one that Python code beside the instance may have caught; any other as it is."""
    cause = error.__cause__
    return cause if isinstance(error, WasmTrap) and isinstance(cause, (wasmtime.Trap, wasmtime.WasmtimeError)) else error


def seen_beside(
    error: wasmtime.Trap | wasmtime.WasmtimeError, stage: str | None, export: str | None = None
) -> BaseException:
    """wasmtime's exception as Python code beside the instance sees it; to be raised from that, see `as_raised`."""
    if isinstance(error, wasmtime.ExitTrap):
        return GuestExit(error.code, stage)
    trap = as_trap(error, stage)
    assert trap is not None
    trap.export = export
    return trap


def _trap(error: BaseException) -> WasmTrap | None:
    if not isinstance(error, (wasmtime.Trap, wasmtime.WasmtimeError)):
        return None
    # The user knows nothing of our driver, which is outermost in a map.
    frames = tuple(
        WasmFrame(frame.func_name, frame.func_index, frame.module_offset - moved(frame.module_name))
        for frame in backtrace(error)
        if frame.module_name not in (DRIVER, SERVER)
    )
    thrown: Thrown | None = getattr(error, "thrown", None)
    if thrown is not None:
        return WasmException(thrown.tag, thrown.payload, None, frames)
    if isinstance(error, wasmtime.Trap):
        code = error.trap_code
        # The message without the backtrace that wasmtime puts in front, which travels as frames.
        message = error.message.rpartition("wasm trap: ")[2].strip()
        return WasmTrap(message, code.name if code else None, None, frames)
    text = _cause(error)
    code = trap_code(text)
    if code is not None:
        text = text.removeprefix(TRAP)
    return WasmTrap(_WASI_NEEDS if text == _NO_MEMORY else text, code.name if code else None, None, frames)


def _cause(error: wasmtime.WasmtimeError) -> str:
    text = str(error)
    if text.startswith(_BACKTRACE) and _CAUSE in text:  # it travels as frames
        text = textwrap.dedent(text.partition(_CAUSE)[2]).strip()
    return text
