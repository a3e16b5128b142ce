"""What ends a command early, and the exit code that says so."""

from __future__ import annotations

import sys

from ..errors import (
    BadArguments,
    BadWasi,
    CallTimeout,
    GuestExit,
    InvalidModule,
    MissingImport,
    ProcpoolError,
    StartupError,
    UnknownExport,
    WasmTrap,
    WorkerCrashed,
)


class BadRow(ProcpoolError):
    """Raised when a row of the input cannot be read as arguments."""


GUEST_FAILED = (WasmTrap, GuestExit, CallTimeout, WorkerCrashed, StartupError)
WRONG_REQUEST = (InvalidModule, MissingImport, UnknownExport, BadArguments, BadWasi, BadRow, OSError)


def complain(error: BaseException, code: int) -> int:
    """Tell the user about ``error``; returns the exit code."""
    print(f"procpool: {error}", file=sys.stderr)
    return code
