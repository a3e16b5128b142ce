"""The system calls that a locked worker may make, and the program in the kernel that refuses all others.

The program is assembled here: it needs four instructions and a table of numbers, and a library for it (libseccomp, which
pyseccomp loads) is a system package that few machines have.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .system import MACHINE, Missing, syscall

# Of linux/audit.h, linux/filter.h and linux/seccomp.h.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _AND, _IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE = 0x00050000  # and the error number
_MODE_FILTER, _ALL_THREADS = 1, 1
#: Of the call that installs the program, by machine.
_SECCOMP = {"x86_64": 317, "aarch64": 277}

#: Stands for the pid in a program that is not for a certain process; no other operand is that.
_ANY_PID = 0x7A5A5A5A
_instruction = struct.Struct("<HBBI")

#: The numbers of system calls on x86_64 and aarch64; -1 where there is no such call.
_NUMBERS: dict[str, tuple[int, int]] = {
    "alarm": (37, -1),
    "arch_prctl": (158, -1),
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close": (3, 57),
    "copy_file_range": (326, 285),
    "dup": (32, 23),
    "dup2": (33, -1),
    "dup3": (292, 24),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "epoll_wait": (232, -1),
    "eventfd2": (290, 19),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "fadvise64": (221, 223),
    "fallocate": (285, 47),
    "fcntl": (72, 25),
    "fdatasync": (75, 83),
    "fstat": (5, 80),
    "fstatfs": (138, 44),
    "fsync": (74, 82),
    "ftruncate": (77, 46),
    "futex": (202, 98),
    "getcpu": (309, 168),
    "getdents64": (217, 61),
    "getegid": (108, 177),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "linkat": (265, 37),
    "lseek": (8, 62),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "memfd_create": (319, 279),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "newfstatat": (262, 79),
    "open": (2, -1),
    "openat": (257, 56),
    "openat2": (437, 437),
    "pause": (34, -1),
    "pipe2": (293, 59),
    "poll": (7, -1),
    "ppoll": (271, 73),
    "prctl": (157, 167),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "preadv2": (327, 286),
    "prlimit64": (302, 261),
    "pselect6": (270, 72),
    "pwrite64": (18, 68),
    "pwritev": (296, 70),
    "pwritev2": (328, 287),
    "read": (0, 63),
    "readlink": (89, -1),
    "readlinkat": (267, 78),
    "readv": (19, 65),
    "recvfrom": (45, 207),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "restart_syscall": (219, 128),
    "rmdir": (84, -1),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigpending": (127, 136),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sched_getaffinity": (204, 123),
    "sched_setaffinity": (203, 122),
    "sched_yield": (24, 124),
    "select": (23, -1),
    "sendto": (44, 206),
    "set_robust_list": (273, 99),
    "setitimer": (38, 103),
    "shutdown": (48, 210),
    "sigaltstack": (131, 132),
    "statx": (332, 291),
    "symlinkat": (266, 36),
    "sync_file_range": (277, 84),
    "sysinfo": (99, 179),
    "tgkill": (234, 131),
    "time": (201, -1),
    "times": (100, 153),
    "uname": (63, 160),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "utimensat": (280, 88),
    "write": (1, 64),
    "writev": (20, 66),
}

#: What moves bytes on descriptors that are open, keeps time, manages this process's own memory, threads and signals.
_ALWAYS = (
    *("read", "write", "readv", "writev", "pread64", "close", "recvfrom", "shutdown"),
    *("dup", "dup2", "dup3", "pipe2", "fstat"),
    *("poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2"),
    *("munmap", "madvise", "mremap", "brk", "futex", "membarrier", "rseq", "set_robust_list"),
    *("sched_yield", "sched_getaffinity", "getcpu", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres"),
    *("gettimeofday", "time", "times", "getrusage", "getrandom", "sysinfo", "uname", "setitimer", "alarm"),
    *("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigsuspend", "rt_sigtimedwait", "pause"),
    *("sigaltstack", "restart_syscall", "exit", "exit_group"),
)
#: What WASI needs to open its streams and to read files; which files, Landlock says.
_FILES = (
    *("open", "openat", "openat2", "newfstatat", "statx", "readlink", "readlinkat", "getdents64", "lseek"),
    *("preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "fstatfs", "faccessat", "faccessat2", "fadvise64"),
    *("fsync", "fdatasync", "sync_file_range", "copy_file_range", "memfd_create"),
)
#: What WASI needs to change files.
_CHANGES = (
    *("ftruncate", "fallocate", "utimensat", "unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat"),
    *("linkat", "symlinkat", "rmdir"),
)


class _Check(NamedTuple):
    """That some bits of an argument have a certain value."""

    argument: int
    value: int
    mask: int = (1 << 64) - 1


_CLONE_THREAD = 0x00010000
#: CLONE_PTRACE, CLONE_VFORK and all that make a namespace.
_CLONE_MORE = 0x00002000 | 0x00004000 | 0x00020000 | 0x7E000000
_AT_EMPTY_PATH = 0x1000
_PR_SET_NAME, _PR_SET_VMA = 15, 0x53564D41
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC, _F_GET_SEALS = 0, 1, 2, 3, 4, 1030, 1034
_FIONREAD, _FIOCLEX, _PAGEMAP_SCAN = 0x541B, 0x5451, 3 << 30 | 96 << 16 | ord("f") << 8 | 16

_Rules = Mapping[str, Sequence[Sequence[_Check]]]


def _rules(pid: int, files: bool, changes: bool) -> _Rules:
    """Calls that are allowed, each with the alternatives of what its arguments may be; none for whatever they are."""
    rules: dict[str, Sequence[Sequence[_Check]]] = dict.fromkeys(_ALWAYS, ())
    if files:
        rules.update(dict.fromkeys(_FILES, ()))
    if changes:
        rules.update(dict.fromkeys(_CHANGES, ()))
    commands = [_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC, _F_GET_SEALS]
    never_both = [[_Check(2, 0, mmap.PROT_WRITE)], [_Check(2, 0, mmap.PROT_EXEC)]]
    rules |= {
        "clone": [[_Check(0, _CLONE_THREAD, _CLONE_THREAD | _CLONE_MORE)]],
        "mmap": never_both,
        "mprotect": never_both,
        "kill": [[_Check(0, pid)]],
        "tgkill": [[_Check(0, pid)]],
        "sendto": [[_Check(4, 0)]],  # to nobody but who is connected
        "sched_setaffinity": [[_Check(0, 0)]],
        "prlimit64": [[_Check(0, 0), _Check(2, 0)], [_Check(0, pid), _Check(2, 0)]],  # to ask, and of nobody else
        "prctl": [[_Check(0, _PR_SET_NAME)], [_Check(0, _PR_SET_VMA)]],
        "ioctl": [[_Check(1, each, 0xFFFFFFFF)] for each in (_FIONREAD, _FIOCLEX, _PAGEMAP_SCAN)],
        "fcntl": [[_Check(1, each, 0xFFFFFFFF)] for each in (*commands, *((_F_SETFL,) if files else ()))],
    }
    if not files:
        rules["newfstatat"] = [[_Check(3, _AT_EMPTY_PATH, _AT_EMPTY_PATH)]]  # how the C library asks about a descriptor
    return rules


def program(pid: int, files: bool, changes: bool, machine: str = MACHINE) -> bytes:
    """The program that allows what a worker needs.

    Args:
        pid: of the worker, which may send signals to itself.
        files: it serves WASI, which opens files.
        changes: which it may change.

    Raises:
        Missing: the numbers of this machine's system calls are not known here.
    """
    if machine not in _ARCHITECTURES:
        raise Missing(f"the system calls of {machine or 'this system'} are not known to procpool")
    return _assembled(files, changes, machine).replace(_ANY_PID.to_bytes(4, "little"), pid.to_bytes(4, "little"))


@functools.cache  # a template's workers differ by their pids alone
def _assembled(files: bool, changes: bool, machine: str) -> bytes:
    column = list(_ARCHITECTURES).index(machine)
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for name, alternatives in _rules(_ANY_PID, files, changes).items():
        number = _NUMBERS[name][column]
        if number >= 0:
            block = _block(alternatives)
            code += [(_IF_EQUAL, 0, len(block), number), *block]
    # So the C library takes `clone`, whose flags can be seen: those of clone3 lie in memory.
    code += [(_IF_EQUAL, 0, 1, _NUMBERS["clone3"][column]), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    code += [(_RETURN, 0, 0, _REFUSE | errno.EPERM)]
    return b"".join(_instruction.pack(*each) for each in code)


def _block(alternatives: Iterable[Sequence[_Check]]) -> list[tuple[int, int, int, int]]:
    """Allow the call if one of the alternatives holds."""
    block: list[tuple[int, int, int, int]] = []
    for checks in alternatives:
        part: list[tuple[int, int, int, int]] = [(_RETURN, 0, 0, _ALLOW)]
        for check in reversed(checks):
            for half in (32, 0):
                mask, value = check.mask >> half & 0xFFFFFFFF, check.value >> half & 0xFFFFFFFF
                if mask:
                    at = _ARGUMENTS_AT + 8 * check.argument + half // 8
                    part[:0] = [(_LOAD, 0, 0, at), (_AND, 0, 0, mask), (_IF_EQUAL, 0, len(part), value)]
        block += part
    return [*block, (_RETURN, 0, 0, _REFUSE | errno.EPERM)] if block else [(_RETURN, 0, 0, _ALLOW)]


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]  # the way of ctypes


def install(code: bytes) -> None:
    """Have the kernel run the program before every system call of every thread of this process, for good.

    No new privileges must be wanted any more, or this process be allowed to administer the system.

    Raises:
        Missing: the kernel does not do that.
    """
    given = _Program(len(code) // _instruction.size, code)
    try:
        thread = syscall(_SECCOMP[MACHINE], _MODE_FILTER, _ALL_THREADS, given)
    except OSError as error:
        raise Missing(f"the kernel has no seccomp filters that all threads share: {error.strerror}") from None
    if thread:
        raise Missing(f"the thread {thread} has a seccomp filter of its own")
