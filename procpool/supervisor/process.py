"""One worker process: what is known about its life."""

from __future__ import annotations

import math
from time import monotonic

from ..errors import WorkerCrashed
from .condition import Moment
from .memory import ProcessMemory


class Process:
    """A worker process, which serves one instance of the module or, with ``instances=n``, n of them.

    Its methods are for the dispatcher's thread.  Others read what they need: a pid for a message, an exit code, `exited`.

    Args:
        id: ours, for the launcher.
        slot: its number among those that there can be at a time.
        memory: what it shares with us.
        starts_by: when it is killed unless it is ready, in the time of time.monotonic.
    """

    def __init__(self, id: int, slot: int, memory: ProcessMemory, starts_by: float) -> None:
        self.id = id
        self.slot = slot
        self.memory = memory
        self.starts_by = starts_by
        self.pid: int | None = None  #: None until it is known
        self.exitcode: int | None = None
        self.exited: Moment[None] = Moment()  #: `exitcode` is as known as it will ever be
        self.asked_at: float = monotonic()  #: when it was asked for
        self.ready_at: float = math.inf  #: when all its workers took jobs
        self.reaped: bool = False  #: its pid may be another's
        self.reported: bool = True  #: its end will be; not so when the template it came from has died
        self.outdated: bool = False  #: to be replaced, once there is another
        self.unfit: bool = False  #: it has said that it will not be ready, and why
        self.killed: bool = False  #: by us
        self.reason: str | None = None  #: why we did
        self.stopping: bool = False  #: it has been told to end

    @property
    def title(self) -> str:
        """For messages."""
        return "a worker that is starting" if self.pid is None else f"worker {self.pid}"

    def born(self, pid: int) -> None:
        """Its pid has become known."""
        self.pid = pid

    def is_ready(self, now: float) -> None:
        """All its workers take jobs."""
        self.ready_at = now

    def outdate(self) -> None:
        """Have it replaced."""
        self.outdated = True

    def orphan(self) -> None:
        """The template it came from has died."""
        self.reported = False

    def cannot_start(self) -> None:
        """It has said so, and ends."""
        self.unfit = True

    def stops(self) -> None:
        """It has been told to end."""
        self.stopping = True

    def is_killed(self, why: str) -> None:
        """We kill it."""
        self.reason = why
        self.killed = True

    def crash(self, what: str | None) -> WorkerCrashed:
        """What is said to whoever waits for something that it ran, or for it to be ready if that is None."""
        return WorkerCrashed(self.pid, what, self.exitcode, self.reason)

    def is_reaped(self) -> None:
        """It has ended, and what it had sent is being heard."""
        self.reaped = True

    def ended(self, exitcode: int | None) -> None:
        """It is no more."""
        self.reaped = True
        self.exitcode = exitcode
        self.exited.set_result(None)
