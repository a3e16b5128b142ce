"""A process beside a node that ends the node's workers when its lease is over.

The node sees to that itself (`NodeSession`), unless its own process stands still: it is stopped by a signal, or one of its
other tasks holds the GIL.  The client cannot tell that from a host that has gone, and runs elsewhere what may be run again.
So each worker dies with the warden, by a lifeline as it has one to its parent (`worker.lifeline`), and the warden ends
when its time is up, or the node does.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
from time import monotonic

from ... import interpreter

#: What a node writes: until when its workers may live, by the monotonic clock, which all processes of a host share.
_UNTIL = struct.Struct("=d")


class Warden:
    """The node's end of it.

    Args:
        until: when its time is up, unless it is prolonged.

    Raises:
        StartupError: there is no Python interpreter to run it.
        OSError: it cannot be started.
    """

    def __init__(self, until: float) -> None:
        heard, self._tell = os.pipe()
        # Only the warden keeps the write end, and it never writes: its closing is the news.
        self._lifeline, held = os.pipe()
        try:
            os.set_blocking(self._tell, False)
            self.prolong(until)
            self._process: subprocess.Popen[bytes] = interpreter.start(_PART, heard, held, fds=(heard, held))
        except BaseException:
            os.close(self._tell)
            os.close(self._lifeline)
            raise
        finally:
            os.close(heard)
            os.close(held)

    @property
    def lifeline(self) -> str:
        """The path, for other processes of this host, of a pipe that nobody holds open for writing once it has ended."""
        return f"/proc/{os.getpid()}/fd/{self._lifeline}"

    def prolong(self, until: float) -> None:
        """Let the workers live until then.

        Raises:
            BrokenPipeError: it has ended, and so have they.
        """
        try:
            os.write(self._tell, _UNTIL.pack(until))
        except BlockingIOError:  # it is stopped itself, and will find so much to read that more makes no difference
            pass

    def close(self) -> None:
        """End it, and with it what workers there still are."""
        self._process.kill()
        self._process.wait()
        os.close(self._tell)
        os.close(self._lifeline)


def possible() -> bool:
    """Whether a worker can have a second lifeline on this system."""
    return sys.platform.startswith("linux")


_PART = "cluster.node.warden"


def main(heard: int, held: int) -> None:
    """Be the warden.

    Args:
        heard: where the node says until when.
        held: what the workers watch; it closes when this process ends.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # a node that is asked to go may want to finish first
        signal.signal(number, signal.SIG_IGN)
    os.setpgid(0, 0)  # what the terminal sends to the program's group stops or ends the node, and must not stop this
    until = monotonic()
    poll = select.poll()
    poll.register(heard, select.POLLIN)
    while True:
        if poll.poll(max(0.0, until - monotonic()) * 1e3):
            told = os.read(heard, 1 << 16)
            if not told:  # the node has ended
                return
            until = max(each for (each,) in _UNTIL.iter_unpack(told))
        elif monotonic() >= until:
            return
