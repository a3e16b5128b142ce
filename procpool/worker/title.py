"""What `ps` and `top` show of a process of ours."""

from __future__ import annotations

import ctypes
import os
import sys

_PREFIX = b"procpool "
_MOST_COMM = 15  # bytes of a process's short name that the kernel keeps
#: Where fields of /proc/self/stat are, behind the parenthesised name: proc_pid_stat(5) counts from 1, the name being 2.
_ARG_START, _ARG_END = 48 - 3, 49 - 3


def show_as(role: str, module: str) -> None:
    """Have this process shown as ``procpool <role> of <module>``; for short, as ``procpool`` and the role's last word.

    Does nothing where the system does not allow it, as it is only for people to read.
    """
    text = _PREFIX + os.fsencode(f"{role} of {module}")
    try:
        with open("/proc/self/comm", "wb", buffering=0) as comm:
            comm.write((_PREFIX + os.fsencode(role.rpartition(" ")[2]))[:_MOST_COMM])
        with open("/proc/self/stat", "rb", buffering=0) as stat:
            fields = stat.read(4096).rpartition(b")")[2].split()
        _write_over_arguments(int(fields[_ARG_START]), int(fields[_ARG_END]), bytes(c if c >= 32 else 63 for c in text))
    except (OSError, IndexError, ValueError):  # another system, or no /proc
        pass


def _write_over_arguments(start: int, end: int, text: bytes) -> None:
    """The way of setproctitle(3): Linux shows the memory where the arguments were, up to the first NUL.

    It does so if the last byte there is none; otherwise it shows the whole.  Python has made copies of its arguments.
    """
    arguments = b"".join(os.fsencode(argument) + b"\0" for argument in sys.orig_argv)
    # Nothing is written to before it was seen to be what it should be: the arguments, or what a template wrote there.
    if end - start != len(arguments) or not ctypes.string_at(start, end - start).startswith((arguments, _PREFIX)):
        return
    text = text[: len(arguments) - 2] + b"\0"
    ctypes.memmove(start, text, len(text))
    ctypes.memset(end - 1, ord("-"), 1)
