"""What went wrong in a job, as the reply that says so."""

from __future__ import annotations

import textwrap

import wasmtime

from .. import wire
from ..errors import GuestExit, WasmException, WasmFrame, WasmTrap
from .driver import NAME as DRIVER
from .ffi import Thrown, backtrace
from .stages import as_raised, ended, stage_of

#: What wasmtime puts before an error that a host function of its own gave, and before the error itself.
_BACKTRACE, _CAUSE = "error while executing at wasm backtrace:", "\n\nCaused by:\n"

#: What wasmtime's WASI says of a caller without a memory of the right name, and what we say instead.
_NO_MEMORY = "missing required memory export"
_WASI_NEEDS = (
    "WASI's functions work on the memory that their caller exports as 'memory', and this module exports none of that name;"
    ' export the one it uses, also if that is imported (wasm-ld: --export-memory; WAT: (export "memory" (memory 0)))'
)


def failure(error: BaseException) -> bytes:
    """The reply for a job that ended in an exception."""
    error = _as_exit(error)
    if isinstance(error, GuestExit) and stage_of(error) is None:
        return wire.reply(wire.EXIT, str(error.code).encode())
    trap = as_trap(error)
    if trap is not None:
        return wire.reply(wire.TRAP, wire.trap_to_bytes(trap))
    return wire.reply(wire.RAISED, wire.exception_to_bytes(error))


def of_guest(error: BaseException) -> bool:
    """Whether it is a failure of the guest, or was raised because of one: the instance is not to be used any more."""
    kinds = (wasmtime.Trap, wasmtime.WasmtimeError, wasmtime.ExitTrap, GuestExit, WasmTrap)
    return isinstance(error, kinds) or isinstance(error.__cause__, kinds)


def by_itself(error: BaseException) -> bool:
    """Whether it is an end of the guest's own, and no interrupt has to do with it."""
    error = as_raised(error)
    if isinstance(error, wasmtime.Trap):
        return error.trap_code not in (None, wasmtime.TrapCode.INTERRUPT)
    return isinstance(error, (wasmtime.ExitTrap, GuestExit))


def unfit(error: BaseException) -> bytes:
    """The announcement of a worker that cannot make an instance."""
    error = _as_exit(error)
    return wire.reply(wire.UNFIT, wire.exception_to_bytes(as_trap(error) or error))


def seen_beside(error: wasmtime.Trap | wasmtime.WasmtimeError, export: str | None = None) -> BaseException:
    """wasmtime's exception as Python code beside the instance sees it; to be raised from that, see `as_raised`."""
    trap = None if isinstance(error, wasmtime.ExitTrap) else as_trap(error)
    if trap is None:
        return _as_exit(error)
    trap.export = export
    return trap


def _as_exit(error: BaseException) -> BaseException:
    """wasmtime's exception for an exit as ours; any other as it is."""
    if not isinstance(error, wasmtime.ExitTrap):
        return error
    stage = stage_of(error)
    return GuestExit(error.code) if stage is None else ended(GuestExit(error.code), stage)


def as_trap(error: BaseException) -> WasmTrap | None:
    """wasmtime's errors as ours; None for any other."""
    found = _trap(as_raised(error))
    if found is None:
        return None
    if isinstance(error, WasmTrap):  # who has seen it may have said more
        found.message = error.message
    stage = stage_of(error)
    if stage is not None and not found.message.startswith(f"{stage}: "):
        found.message = f"{stage}: {found.message}"
    found.args = (found.message,)
    return found


def _trap(error: BaseException) -> WasmTrap | None:
    if not isinstance(error, (wasmtime.Trap, wasmtime.WasmtimeError)):
        return None
    # The user knows nothing of our driver, which is outermost in a map.
    frames = tuple(
        WasmFrame(frame.func_name, frame.func_index, frame.module_offset)
        for frame in backtrace(error)
        if frame.module_name != DRIVER
    )
    thrown: Thrown | None = getattr(error, "thrown", None)
    if thrown is not None:
        return WasmException(thrown.tag, thrown.payload, None, frames)
    if isinstance(error, wasmtime.Trap):
        code = error.trap_code
        # The message without the backtrace that wasmtime puts in front, which travels as frames.
        message = error.message.rpartition("wasm trap: ")[2].strip()
        return WasmTrap(message, code.name if code else None, None, frames)
    text = str(error)
    if text.startswith(_BACKTRACE) and _CAUSE in text:  # it travels as frames
        text = textwrap.dedent(text.partition(_CAUSE)[2]).strip()
    return WasmTrap(_WASI_NEEDS if text == _NO_MEMORY else text, None, None, frames)
