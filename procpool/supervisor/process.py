"""One worker process: what is known about its life."""

from __future__ import annotations

import threading


class Process:
    """A worker process, which serves one instance of the module or, with ``instances=n``, n of them.

    Written by the dispatcher's thread alone.  Others read what they need: a pid for a message, an exit code, `exited`.
    """

    def __init__(self, id: int, slot: int) -> None:
        self.id = id
        self.slot = slot  #: its instances' rows on the board are the ``instances`` from slot times that
        self.pid: int = 0  #: 0 until it is known
        self.exitcode: int | None = None
        self.exited: threading.Event = threading.Event()  #: set when `exitcode` is as known as it will ever be
        self.starts_by: float = float("inf")  #: when it is killed unless it is ready, in the time of time.monotonic
        self.reported = True  #: its end will be; not so when the template it came from has died
        self.outdated = False  #: to be replaced, once there is another
        self.unfit = False  #: it has said that it will not be ready, and why
        self.killed = False  #: by us
        self.stopping = False  #: it has been told to end

    def born(self, pid: int) -> None:
        """Its pid has become known, from the launcher or from itself, whichever is first."""
        self.pid = self.pid or pid

    def ended(self, exitcode: int | None) -> None:
        """It is no more."""
        self.exitcode = exitcode
        self.exited.set()
