"""Every exception procpool raises on its own account.

A Python exception raised by code that *you* shipped to a worker comes back as itself, with the remote traceback
as its cause; it is not wrapped in one of these.  All of them can be pickled.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from .printable import printable

__all__ = [
    "ArgumentOutOfRange",
    "BadArguments",
    "CallTimeout",
    "GuestError",
    "GuestExit",
    "BadImport",
    "BadSnapshot",
    "BadWasi",
    "OutputLimit",
    "RunFailed",
    "SandboxUnavailable",
    "InvalidModule",
    "LeaseEnded",
    "MissingImport",
    "PoolClosed",
    "PoolFull",
    "ProcpoolError",
    "RemoteError",
    "StartupError",
    "UnknownExport",
    "WasmException",
    "WasmFrame",
    "WasmTrap",
    "WorkerCrashed",
]


class ProcpoolError(Exception):
    """The base class of the others; never raised itself."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Exception's own __reduce__ calls the class with `args`, which breaks every class whose constructor takes
        # something else: the classic way to poison a process pool.  Rebuilding from the state needs no constructor.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[ProcpoolError], args: tuple[Any, ...], state: dict[str, Any]) -> ProcpoolError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def add_note(error: BaseException, note: str) -> None:
    """As the exception's own ``add_note`` does, which 3.10 lacks; but once, and it never fails."""
    with contextlib.suppress(Exception):  # it may have no room for more, or be of a class that minds
        notes = getattr(error, "__notes__", [])
        if note not in notes:
            error.__notes__ = [*notes, note]  # type: ignore[attr-defined]


class InvalidModule(ProcpoolError, ValueError):
    """Raised at construction when the source is not a WebAssembly module that wasmtime accepts."""


class MissingImport(ProcpoolError, ValueError):
    """Raised at construction when the module imports something that the pool does not provide.

    With ``on_missing_import="trap"`` it is raised by the job whose guest calls such an import.
    """


class BadImport(ProcpoolError, TypeError):
    """Raised at construction when something given for an import does not fit it, or fits none."""


class StartupError(ProcpoolError, RuntimeError):
    """Raised at construction, and by jobs afterwards, when no worker can be brought up at all."""


class SandboxUnavailable(StartupError):
    """Raised at construction with ``sandbox="strict"`` when the system lacks something that the sandbox needs; names it."""


class UnknownExport(ProcpoolError, LookupError):
    """Raised by every way to submit a job when the module exports no function of that name."""


class BadArguments(ProcpoolError, TypeError):
    """Raised in the caller, before anything is sent, when arguments do not fit the export's signature."""


class ArgumentOutOfRange(BadArguments, OverflowError):
    """Raised in the caller when an argument has the right type but does not fit the parameter's bits."""


class WasmFrame(NamedTuple):
    """One frame of a wasm backtrace, innermost first in :attr:`WasmTrap.frames`."""

    function: str | None  #: the function's name, where the module carries one
    func_index: int  #: its index in the module
    offset: int  #: the program counter's offset in the module's bytes


class WasmTrap(ProcpoolError):
    """Raised when the called export trapped: unreachable code, a division by zero, an access out of bounds, ...

    The instance it happened in is thrown away; the worker goes on with a new one.
    """

    #: of a command: what it had printed by then
    stdout: Any = None
    #: likewise
    stderr: Any = None

    def __init__(
        self, message: str, code: str | None = None, export: str | None = None, frames: tuple[WasmFrame, ...] = ()
    ):
        super().__init__(message)
        self.message = message  #: what happened, without the export and the frames
        #: the trap code in the words of the wasm spec, such as ``"INTEGER_DIVISION_BY_ZERO"``; None for a host error
        self.code = code
        self.export = export  #: which was called, where that is known
        self.frames = frames  #: where it happened, innermost first

    def __str__(self) -> str:
        head = f"{self.export}: {self.message}" if self.export else self.message
        trace = "".join(
            f"\n  at {printable(f.function or '<anonymous>')} (func {f.func_index}, offset {f.offset:#x})"
            for f in self.frames
        )
        return head + trace


class WasmException(WasmTrap):
    """Raised when the called export threw an exception, by the instruction ``throw``, that nothing in the guest caught."""

    def __init__(
        self,
        tag: str | None = None,
        payload: tuple[int | float | bytes | str, ...] = (),
        export: str | None = None,
        frames: tuple[WasmFrame, ...] = (),
    ):
        texts = (value.hex() if isinstance(value, bytes) else str(value) for value in payload)
        values = f" with the payload ({', '.join(texts)})" if payload else ""
        super().__init__(
            f"threw {'an exception' if tag is None else f'the exception {tag!r}'}{values}", None, export, frames
        )
        #: the name that the module exports the exception's tag under; None if it does not
        self.tag = tag
        #: numbers; a v128 as 16 bytes; a reference, which cannot leave its worker, as the name of its type
        self.payload = payload


class GuestError(ProcpoolError):
    """Raised by `call_bytes` when the export returned an error, as one of wasm-bindgen's does for Rust's ``Err``.

    It has ended well, and so its instance serves on.
    """

    def __init__(self, export: str, value: Any):
        known = f"value number {value}, which its imports know" if isinstance(value, int) else value
        super().__init__(f"{export} returned an error: {known}")
        self.export = export  #: which was called
        #: the error: text, or the number by which the module's imports know it
        self.value: str | int | None = value if value is None or isinstance(value, (str, int)) else str(value)


class GuestExit(ProcpoolError):
    """Raised when the guest ended itself with an exit code other than the success of a command."""

    def __init__(self, code: int, stage: str | None = None):
        """For what exits while an instance is made, ``stage`` says what that was."""
        super().__init__(f"{'' if stage is None else f'{stage}: '}the guest exited with code {code}")
        self.code = code  #: the exit code


class CallTimeout(ProcpoolError, TimeoutError):
    """Raised when a job outlived its ``timeout``.  The job is interrupted and its worker serves others again."""

    #: of a command: what it had printed by then
    stdout: Any = None
    #: likewise
    stderr: Any = None


class WorkerCrashed(ProcpoolError):
    """Raised when the worker process running the job died: killed, aborted in native code, or exited."""

    def __init__(self, pid: int | None, export: str | None, exitcode: int | None, reason: str | None = None):
        self.pid = pid  #: of the worker; None if it died before that was known
        self.export = export  #: that it was running; None if it died while it was being started
        self.reason = reason  #: why the pool killed it; None if it was not the pool that did
        #: the exit code, negative for a signal as in :mod:`subprocess`; None when nobody could tell
        self.exitcode = exitcode
        when = "before it was ready" if export is None else f"while running {export!r}; the pool has replaced it"
        who = "a worker" if pid is None else f"worker {pid}"
        super().__init__(f"{who} {self._how()}{'' if reason is None else f' because {reason},'} {when}")

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that killed the worker, or None."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        return signal.Signals(-self.exitcode)

    def _how(self) -> str:
        if self.exitcode is None:
            return "died"
        if self.exitcode < 0:
            return f"was killed by {signal.Signals(-self.exitcode).name}"
        return f"exited with code {self.exitcode}"


class PoolClosed(ProcpoolError, RuntimeError):
    """Raised by every use of a pool after ``shutdown``, and by jobs that a shutdown left unfinished."""


class PoolFull(ProcpoolError, RuntimeError):
    """Raised by ``submit`` when ``max_pending`` jobs are queued and ``on_full="raise"``."""


class LeaseEnded(ProcpoolError, RuntimeError):
    """Raised by every use of a lease that has ended: it was put back, or a call of it failed and the instance is gone."""

    def __init__(self, message: str, given_back: bool = False):
        super().__init__(message)
        self.given_back = given_back  #: whether the holder has put it back


class BadSnapshot(ProcpoolError, ValueError):
    """Raised at construction when no snapshot can keep what an instance holds, or a saved one cannot be used."""


class BadWasi(ProcpoolError, ValueError):
    """Raised at construction, or by ``run``, when a WASI configuration cannot be had."""


class RunFailed(ProcpoolError):
    """Raised by ``run(check=True)`` when the command's exit code is not 0."""

    def __init__(self, args: tuple[str, ...], returncode: int, stdout: Any, stderr: Any):
        super().__init__(f"the command {args!r} exited with code {returncode}")
        self.returncode = returncode  #: the exit code
        self.stdout = stdout  #: what it printed, where that was captured
        self.stderr = stderr  #: likewise


class OutputLimit(ProcpoolError):
    """Raised by ``run`` when the command printed more than ``max_output``, and by a call that did; it has been stopped."""

    def __init__(self, message: str, stdout: Any = None, stderr: Any = None):
        super().__init__(message)
        self.stdout = stdout  #: what it had printed
        self.stderr = stderr  #: likewise


class RemoteError(ProcpoolError):
    """The text of a traceback in a worker; it stands as the ``__cause__`` of the exception that came back.

    It is raised itself where that cannot come back: it cannot be pickled, or not be rebuilt from its pickle.
    """

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'
