"""What this process might do because of who it is: given up, for good."""

from __future__ import annotations

import os
import resource
import struct

from .system import MACHINE, Missing, syscall

# Of linux/prctl.h, linux/capability.h and linux/sched.h.
_SET_DUMPABLE, _SET_NO_NEW_PRIVS, _CAP_AMBIENT, _CLEAR_ALL = 4, 38, 47, 4
_VERSION_3 = 0x20080522
#: CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER.
_OF_FILES = 0b1111
_NEWUSER, _NEWNET, _NEWIPC = 0x10000000, 0x40000000, 0x08000000
#: prctl, capset and unshare, by machine.
_CALLS = {"x86_64": (157, 126, 272), "aarch64": (167, 91, 97)}
#: Descriptors that a worker may have: a guest's files, and three per instance.
_MOST_FILES = 4096


def _calls() -> tuple[int, int, int]:
    if MACHINE not in _CALLS:
        raise Missing(f"the system calls of {MACHINE or 'this system'} are not known to procpool")
    return _CALLS[MACHINE]


def no_new_privileges() -> None:
    """No program that this process might run gives it more rights: no setuid, no file capabilities.

    Raises:
        Missing: the kernel has no such thing.
    """
    try:
        syscall(_calls()[0], _SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    except OSError as error:
        raise Missing(f"the kernel has no PR_SET_NO_NEW_PRIVS: {error.strerror}") from None


def not_dumpable() -> None:
    """Other processes of the same user cannot read this one's memory, and it leaves no core.

    Raises:
        Missing: the kernel refuses.
    """
    try:
        syscall(_calls()[0], _SET_DUMPABLE, 0, 0, 0, 0)
    except OSError as error:
        raise Missing(f"the kernel refuses PR_SET_DUMPABLE: {error.strerror}") from None


def no_capabilities(files: bool) -> None:
    """What root may do, this process may not, nor what it starts: without new privileges, no program brings any back.

    Args:
        files: but for files that belong to others, as its WASI directories may.

    Raises:
        Missing: the kernel refuses.
    """
    prctl, capset, _ = _calls()
    kept = _OF_FILES if files and os.geteuid() == 0 else 0
    try:
        syscall(prctl, _CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
        header, sets = struct.pack("<Ii", _VERSION_3, 0), struct.pack("<6I", kept, kept, 0, 0, 0, 0)
        syscall(capset, header, sets)
    except OSError as error:
        raise Missing(f"the capabilities cannot be given up: {error.strerror}") from None


def limits() -> None:
    """No core dumps, and no more descriptors than a worker needs."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def own_namespaces(files: bool) -> None:
    """A network without devices, System V objects of its own and, unless it serves files, a root without files.

    Raises:
        Missing: the system does not allow it.
    """
    spaces = _NEWNET | _NEWIPC | (0 if os.geteuid() == 0 else _NEWUSER)
    try:
        syscall(_calls()[2], spaces)
        if not files:
            os.chroot("/proc/self/fdinfo")
            os.chdir("/")
    except OSError as error:
        raise Missing(f"the system does not allow namespaces: {error.strerror}") from None
