"""System calls that Python has no names for."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

#: What the kernel calls this machine, where its system calls are known here: 64 bits, little endian, Linux.
MACHINE: str = platform.machine() if sys.platform == "linux" and sys.maxsize > 1 << 32 else ""


class Missing(Exception):
    """Raised when the kernel does not do what is wanted; says in plain words what is missing."""


def syscall(number: int, *args: int | bytes | ctypes.Structure) -> int:
    """Make a system call; bytes and structures go by their addresses, and are only read.

    Raises:
        OSError: it failed.
    """
    result: int = _libc.syscall(ctypes.c_long(number), *map(_passed, args))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _passed(argument: int | bytes | ctypes.Structure) -> Any:
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    return ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.byref(argument)
