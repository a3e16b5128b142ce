"""The parent's end of one worker."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import threading
from collections import deque
from typing import Final

from .. import wire
from ..eager import EagerReader
from .job import Job
from .launch import Inheritance

STARTING: Final = "starting"
READY: Final = "ready"  # idle or running a job; whether it is idle, the scheduler knows
STOPPING: Final = "stopping"
DEAD: Final = "dead"


def _pipe(on_failure: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        on_failure.callback(os.close, fd)
    return ends


class Worker:
    """Descriptors, counters and jobs in flight of one worker process.

    At any time one party *holds* a worker: the scheduler's idle list, a thread in a direct call, or the dispatcher.
    Only the holder writes to ``jobs_fd``, reads ``replies_fd`` and closes them.  A descriptor closed under somebody's
    feet could be reused by an unrelated file, and a job written into that.
    """

    def __init__(self, id: int, row: int, inheritance: Inheritance) -> None:
        self.id = id
        self.row = row
        self._inheritance = inheritance
        self._arena: memoryview | None = None
        self._board = inheritance.board[row * wire.BOARD_ROW : (row + 1) * wire.BOARD_ROW]
        for cell in (wire.BEGUN, wire.BUSY_NS, wire.DONE):
            self._board[cell] = 0
        self._counted = 0, 0
        self._begun = 0  # the last word of the board
        self.pid = 0
        self.state = STARTING
        self.ready = False  #: it has been ready; before, nobody but the dispatcher holds it
        self.reported = True  #: its end will be; not so when the template it came from has died
        self.outdated = False  #: to be replaced, once there is another
        self.leaving = False  #: it gets no more jobs
        self.unfit = False  #: it has said that it will not be ready, and why
        self.exitcode: int | None = None
        self.exited = threading.Event()  #: set when `exitcode` is as known as it will ever be
        self.sent = 0  #: jobs sent, so the number of the next one
        self.items = 0  #: items of batches it has finished, beyond one per batch
        self.failed = 0  #: calls that ended in an exception
        # Of the dispatcher's lane.
        self.inflight: deque[Job] = deque()  #: sent and not answered, in order
        self.outbox = b""  #: what the pipe would not take yet
        self.functions: set[bytes] = set()  #: digests of the Python functions it has been sent
        self.batches = 0  #: how many of them are batches, each with a buffer of the arena
        self.next_buffer = 0  #: for the next batch
        self.recalling = False  #: a RECALL is unanswered; nothing may be sent until it is
        self.stalled = False  #: its job takes longer than expected, so nothing should wait behind it
        self.item_seen = (-1, -1), 0.0  #: at which job and item it was last seen, and since when (time.monotonic)
        self.head_since = 0.0  #: when the first job in flight became the first (time.monotonic)
        self.interrupted = -1, -1  #: number of the job, and the item, that the last INTERRUPT was for
        self.kill_at = 0.0  #: when patience with that ends
        self.reader = wire.FrameReader(wire.REPLY)
        self.abandoned_reader = wire.FrameReader(wire.REPLY)
        with contextlib.ExitStack() as on_failure:  # there may be no descriptors left
            jobs_theirs, self.jobs_fd = _pipe(on_failure)
            self.replies_fd, replies_theirs = _pipe(on_failure)
            self.control, control_theirs = socket.socketpair()
            on_failure.pop_all()
        self.replies = EagerReader(self.replies_fd, 4096)  # holds any ordinary reply; longer ones take a second read
        os.set_blocking(self.jobs_fd, False)
        self.control.setblocking(False)
        self.their_fds = (jobs_theirs, replies_theirs, control_theirs.detach())

    @property
    def head(self) -> int:
        """The number of the first job in flight."""
        return self.sent - len(self.inflight)

    @property
    def calls(self) -> int:
        """How many calls it has finished, each item of a batch being one."""
        return self.head + self.items

    @property
    def begun(self) -> int:
        """How many jobs the worker has begun, also after its death."""
        if self.state == DEAD:
            return self._begun
        return self._board[wire.BEGUN]

    def ended(self, exitcode: int | None) -> None:
        """Its process is no more."""
        self._begun = self._board[wire.BEGUN]
        self.state = DEAD
        self.exitcode = exitcode
        self.exited.set()

    def mean_job_ns(self) -> float | None:
        """Nanoseconds per submitted job since this was last asked; None if there was none."""
        busy, done = self._board[wire.BUSY_NS], self._board[wire.DONE]
        jobs = done - self._counted[1]
        mean = (busy - self._counted[0]) / jobs if jobs else None
        self._counted = busy, done
        return mean

    @property
    def arena(self) -> memoryview:
        """The memory shared with the worker's drivers."""
        if self._arena is None:
            self._arena = memoryview(self._inheritance.arena(self.row))
        return self._arena

    def command(self, command: int, number: int = 0, item: int = 0) -> None:
        """Send a control command.  A full socket or a dead worker swallows it: both end by the worker being killed."""
        try:
            self.control.send(wire.CONTROL.pack(command, item, number))
        except OSError:
            pass

    def close_their_fds(self) -> None:
        """After the launch: only the worker may hold its ends, or their closing would tell nothing."""
        for fd in self.their_fds:
            os.close(fd)
        self.their_fds = ()  # type: ignore[assignment]

    def close(self) -> None:
        """Close our ends; an idle worker exits at that.  Only for the holder."""
        if self.jobs_fd >= 0:
            os.close(self.jobs_fd)
            os.close(self.replies_fd)
            self.jobs_fd = self.replies_fd = -1
            self.control.close()

    def release(self) -> None:
        """Let go of the shared memory.  After that, what it did not deliver is lost."""
        self._board.release()
        if self._arena is not None:
            mapping = self._arena.obj
            self._arena.release()
            self._arena = None
            assert isinstance(mapping, mmap.mmap)
            mapping.close()
