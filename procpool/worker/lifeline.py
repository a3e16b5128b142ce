"""How a worker dies with the program that has it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import sys

_F_SETSIG = 10  # Linux's fcntl.h; the fcntl module does not name it
_PR_SET_PDEATHSIG = 1  # Linux's sys/prctl.h


def die_with_parent(lifeline: int, owner: int) -> int:
    """Have the kernel kill ``owner`` (a pid, or minus a process group) when the parent's end of ``lifeline`` closes.

    No thread or handler of ours has to run for it, so it also ends a worker that holds the GIL in a stuck host
    function.  Where the system has no F_SETSIG, the control socket's end of file does the same a little less firmly.

    Returns:
        A descriptor that has to stay open for that; -1 if there is none.
    """
    return die_with_writers(f"/dev/fd/{lifeline}", owner) if sys.platform.startswith("linux") else -1


def die_with_writers(pipe: str, owner: int) -> int:
    """Likewise, when nobody holds the pipe at that path open for writing any more.  On Linux only.

    Raises:
        OSError: there is no such pipe.
    """
    # Opened anew, because the owner belongs to the open file and others hold the inherited one.
    watch = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(watch, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(watch, fcntl.F_SETOWN, owner)
    fcntl.fcntl(watch, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    # It may have closed before we asked to be told; then nothing more would come.
    if readable(watch):
        os.kill(owner, signal.SIGKILL)
    return watch


def die_with_starter(parent: int) -> None:
    """Have the kernel kill us when the thread that started us ends, which it does after us or with the whole parent.

    Unlike the lifeline, this also works while a fork that Python did not see holds copies of all the parent had open.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before we asked.
    if parent >= 0 and readable(parent):
        os.kill(os.getpid(), signal.SIGKILL)


def readable(fd: int) -> bool:
    """Whether there is something to read, or will never be anything."""
    poll = select.poll()  # unlike `select.select`, it takes any number
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
