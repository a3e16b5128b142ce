"""A process beside a node that ends the node's workers when its lease is over.

The node sees to that itself (`NodeSession`), unless its own process stands still: it is stopped by a signal, or one of its
other tasks holds the GIL.  The client cannot tell that from a host that has gone, and runs elsewhere what may be run again.
So each worker dies with the warden, by a lifeline as it has one to its parent (`worker.lifeline`), and the warden ends
when its time is up, or the node does.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import time
from time import monotonic

from ... import interpreter
from ...files import anonymous_file

_PART = "cluster.node.warden"


def _shared(told: int) -> memoryview[float]:
    """Until when the workers may live, by the monotonic clock, which all processes of a host share."""
    return memoryview(mmap.mmap(told, 8)).cast("d")


class Warden:
    """The node's end of it.

    Args:
        until: when its time is up, unless it is prolonged.

    Raises:
        StartupError: there is no Python interpreter to run it.
        OSError: it cannot be started.
    """

    def __init__(self, until: float) -> None:
        with contextlib.ExitStack() as both, contextlib.ExitStack() as ours:
            told = anonymous_file(bytes(8))
            both.callback(os.close, told)
            self._until: memoryview[float] = ours.enter_context(_shared(told))
            self._until[0] = until
            # Only the warden keeps the write end, and it never writes: its closing is the news.
            self._lifeline, held = os.pipe()
            ours.callback(os.close, self._lifeline)
            both.callback(os.close, held)
            self._process: subprocess.Popen[bytes] = interpreter.start(_PART, told, held, os.getpid(), fds=(told, held))
            self._owned = ours.pop_all()

    @property
    def lifeline(self) -> str:
        """The path, for other processes of this host, of a pipe that nobody holds open for writing once it has ended."""
        return f"/proc/{os.getpid()}/fd/{self._lifeline}"

    def prolong(self, until: float) -> None:
        """Let the workers live until then.

        Raises:
            ProcessLookupError: it has ended, and so have they.
        """
        self._until[0] = until
        if self._process.poll() is not None:
            raise ProcessLookupError("the process that guards the workers has ended")

    def close(self) -> None:
        """End it, and with it what workers there still are."""
        self._process.kill()
        self._process.wait()
        self._owned.close()


def possible() -> bool:
    """Whether a worker can have a second lifeline here: on Linux, where /proc shows the processes as we number them."""
    try:
        return sys.platform.startswith("linux") and os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def main(told: int, held: int, node: int) -> None:
    """Be the warden.

    Args:
        told: a file with the time that the node says.
        held: what the workers watch; it closes when this process ends.
        node: its pid.
    """
    from ...worker.lifeline import die_with_starter  # of the child's side, as this is

    for number in (signal.SIGTERM, signal.SIGHUP):  # a node that is asked to go may want to finish first
        signal.signal(number, signal.SIG_IGN)
    os.setpgid(0, 0)  # what the terminal sends to the program's group stops or ends the node, and must not stop this
    die_with_starter(-1)
    if os.getppid() != node:  # it had ended before we asked
        return
    # Looked at again when the time is up, and no sooner: who has been stopped meanwhile finds what holds now.
    until = _shared(told)
    while (left := until[0] - monotonic()) > 0:
        time.sleep(left)
    os._exit(0)  # an interpreter that ends properly would keep the workers alive for as long as that takes
