"""Landlock: which files may be opened by path, and whom signals reach.

It also keeps processes outside of the domain from being traced, which includes reading /proc/<pid>/mem and environ.
There are no bindings for it on PyPI that are kept; it is three system calls.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable
from typing import NamedTuple

from .system import Missing, syscall

# The same on all machines.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1

# LANDLOCK_ACCESS_FS_... of linux/landlock.h
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_FOR_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE

#: All rights to files that can be taken, by the version of Landlock from which on they can.
_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
#: Likewise TCP (bind, connect), from 4 on, and what else reaches others from 6 on: abstract sockets and signals.
_NETWORK, _OTHERS = 3, 3
_BEFORE_NETWORK, _BEFORE_OTHERS = 4, 6

_READ = _READ_FILE | _READ_DIR
_WRITE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM | _REFER | _TRUNCATE


class Allowed(NamedTuple):
    """A directory with all in it, or a file."""

    path: str
    writable: bool


def version() -> int:
    """Of the kernel's Landlock.

    Raises:
        Missing: it has none.
    """
    try:
        return syscall(_CREATE, 0, 0, _ASK_VERSION)
    except OSError as error:
        why = "was not chosen when it was started" if error.errno == errno.EOPNOTSUPP else "is not in it"
        raise Missing(f"the kernel has no Landlock: it {why} ({error.strerror})") from None


def restrict(allowed: Iterable[Allowed]) -> str | None:
    """Confine the calling thread, and all that it starts from now on, to those files and to itself, for good.

    Returns:
        What this version of Landlock cannot take away; None if there is nothing.

    Raises:
        Missing: there is no Landlock, or it cannot be used.
        OSError: something that is allowed cannot be found.
    """
    known = version()
    files = sum(bits for since, bits in _FILES.items() if since <= known)
    attributes = struct.pack("<Q", files)
    if known >= _BEFORE_NETWORK:
        attributes += struct.pack("<Q", _NETWORK)
    if known >= _BEFORE_OTHERS:
        attributes += struct.pack("<Q", _OTHERS)
    try:
        rules = syscall(_CREATE, attributes, len(attributes), 0)
    except OSError as error:
        raise Missing(f"Landlock refuses to work: {error.strerror}") from None
    try:
        for each in allowed:
            _add(rules, each, files)
        try:
            syscall(_RESTRICT, rules, 0)
        except OSError as error:
            raise Missing(f"Landlock refuses to work: {error.strerror}") from None
    finally:
        os.close(rules)
    if known < 3 and any(each.writable for each in allowed):
        return f"Landlock {known} of this kernel does not keep files from being cut off (3 does, Linux 6.2)"
    return None


def _add(rules: int, allowed: Allowed, known: int) -> None:
    fd = os.open(allowed.path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = _READ | (_WRITE if allowed.writable else 0)
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FOR_FILES
        syscall(_ADD, rules, _PATH_BENEATH, struct.pack("<Qi", rights & known, fd), 0)
    finally:
        os.close(fd)
