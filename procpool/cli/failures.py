"""What ends a command early, and the exit code that says so."""

from __future__ import annotations

import re
import sys

from ..component.errors import WasmResultError
from ..errors import CallTimeout, GuestExit, MissingImport, ProcpoolError, StartupError, WasmTrap, WorkerCrashed
from ..printable import printable

#: Exit codes, as ``--help`` lists them.
GUEST_FAILED, WRONG_REQUEST, SOME_FAILED = 1, 2, 3  # and INTERRUPTED, which is needed before this is imported

#: MissingImport is what a call of a stand-in raises; a module that is refused for it is a BadRequest.
_OF_THE_GUEST = (WasmTrap, WasmResultError, GuestExit, CallTimeout, WorkerCrashed, StartupError, MissingImport)
#: The class of an exception in a worker, before its text.
_CLASS = re.compile(r"\bprocpool\.errors\.\w+: ")
_FEATURE = re.compile(r"\bfeatures=\['([\w-]+)'\]")
#: What the library says about Python, and what that is called here.
_FLAGS = {"start_timeout=": "", "memory_limit": "--memory-limit", " (str)": ""}


class BadRequest(ProcpoolError):
    """Raised when what is asked for makes no sense."""


class BadRow(BadRequest):
    """Raised when a row of the input cannot be read as arguments."""


def exit_code(error: BaseException) -> int:
    """How a command ends that was stopped by ``error``."""
    return GUEST_FAILED if isinstance(error, _OF_THE_GUEST) else WRONG_REQUEST


def told(error: BaseException) -> str:
    """What to tell the user about ``error``."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{printable(str(error.filename))}: {error.strerror}"
    if isinstance(error, MemoryError) and not str(error):
        return "there is not enough memory"
    text = _CLASS.sub("", str(error))
    text = _FEATURE.sub(r"--feature \1", text)
    for python, flag in _FLAGS.items():
        text = text.replace(python, flag)
    return printable(text, but="\n\t")


def complain(error: BaseException | str, code: int) -> int:
    """Tell the user about ``error``; returns the exit code."""
    text = printable(error, but="\n\t") if isinstance(error, str) else told(error)
    print(f"procpool: {text}", file=sys.stderr)
    return code
