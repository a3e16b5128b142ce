"""The program's own standard streams, in a worker of it.

A terminal lets one process group read it, and stops or interrupts groups, not processes.  So a worker that uses the
program's terminal has to be in the program's group: then Ctrl-Z stops both and `fg` lets both go on, and a program in the
background is stopped when its command reads, as any is.  What Ctrl-C means is still the program's decision.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from .lifeline import die_with_parent


def join(program: int, lifeline: int) -> None:
    """Move this process to the group of ``program``, for good."""
    group = os.getpgid(program)
    if group == os.getpgrp():
        return
    die_with_parent(lifeline, os.getpid())  # first: what the template asked for is said of the group that we leave
    with contextlib.suppress(PermissionError):  # the program has left our session, and so has no terminal of ours
        os.setpgid(0, group)


def take_stdin(program: int) -> None:
    """Have the standard input of ``program`` as ours: a terminal or pipe is shared, a file is read from where it is now.

    Raises:
        OSError: it cannot be opened anew: it is a socket, or the program has other rights than when it opened it.
    """
    # Without O_NONBLOCK, a named pipe that nobody writes to any more would be waited for.
    fd = os.open(f"/proc/{program}/fd/0", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.lseek(fd, _position(program), os.SEEK_SET)
    os.dup2(fd, 0)
    os.close(fd)


def _position(program: int) -> int:
    for line in Path(f"/proc/{program}/fdinfo/0").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "pos":
            return int(value)
    return 0
