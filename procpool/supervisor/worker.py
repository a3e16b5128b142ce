"""The parent's end of a worker process and of the instances in it that serve calls."""

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
from .jobs.call import Job
from .launch import Inheritance

STARTING: Final = "starting"
READY: Final = "ready"  # idle or running a job; whether it is idle, the scheduler knows
STOPPING: Final = "stopping"
DEAD: Final = "dead"


#: Pages of a payload slot stay in memory for the next job up to this size, in bytes.
KEPT_PAYLOAD = 8 << 20


def _unmap(mapping: mmap.mmap) -> None:
    with contextlib.suppress(BufferError):  # something still refers to it, and it goes with that
        mapping.close()


def _pipe(on_failure: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        on_failure.callback(os.close, fd)
    return ends


class Process:
    """What the workers of one process share: its life.

    A process has as many workers as the pool has ``instances``; with one, the two are the same to everybody.
    """

    def __init__(self, id: int, slot: int, inheritance: Inheritance) -> None:
        self.id = id
        self.slot = slot  #: its workers' rows on the board are the ``inheritance.instances`` from slot times that
        self.pid = 0
        self.reported = True  #: its end will be; not so when the template it came from has died
        self.outdated = False  #: to be replaced, once there is another
        self.unfit = False  #: it has said that it will not be ready, and why
        self.killed = False  #: by us
        self.stopping = False  #: it has been told to end
        self.exitcode: int | None = None
        self.exited = threading.Event()  #: set when `exitcode` is as known as it will ever be
        self.calls_seen = -1  #: when the dispatcher last looked whether it is used
        self.buried = 0  #: of its workers, after its end
        self.workers: list[Worker] = []
        first = slot * inheritance.instances
        try:
            for row in range(first, first + inheritance.instances):
                self.workers.append(Worker(self, row, inheritance))
        except OSError:  # there are no descriptors left
            self.never_ran()
            raise

    def never_ran(self) -> None:
        """It could not be launched: close and unmap what it was to have."""
        self.close_their_fds()
        for worker in self.workers:
            worker.close()
            worker.release()

    @property
    def their_fds(self) -> list[int]:
        """The ends of its workers' channels that the process inherits: jobs, replies and control of each."""
        return [fd for worker in self.workers for fd in worker.their_fds]

    def close_their_fds(self) -> None:
        """After the launch: only the process may hold its ends, or their closing would tell nothing."""
        for worker in self.workers:
            for fd in worker.their_fds:
                os.close(fd)
            worker.their_fds = ()

    @property
    def calls(self) -> int:
        """How many calls it has finished, each item of a batch being one."""
        return sum(worker.calls for worker in self.workers)

    @property
    def ready(self) -> bool:
        """Whether all its workers take jobs."""
        return all(worker.state == READY for worker in self.workers)

    @property
    def leaving(self) -> bool:
        """Whether its workers get no more jobs."""
        return self.workers[0].leaving

    def leave(self) -> None:
        """Give its workers no more jobs."""
        for worker in self.workers:
            worker.leaving = True

    @property
    def left(self) -> bool:
        """Whether its workers have all done their last job."""
        return all(worker.state != READY for worker in self.workers)

    def ended(self, exitcode: int | None) -> None:
        """It is no more."""
        self.exitcode = exitcode
        for worker in self.workers:
            worker.ended()
        self.exited.set()


class Worker:
    """Descriptors, counters and jobs in flight of one instance in a worker process, and of the thread it runs in.

    At any time one party *holds* a worker: the scheduler's idle list, a thread in a direct call, or the dispatcher.
    Only the holder writes to ``jobs_fd``, reads ``replies_fd`` and closes them.  A descriptor closed under somebody's
    feet could be reused by an unrelated file, and a job written into that.
    """

    def __init__(self, process: Process, row: int, inheritance: Inheritance) -> None:
        self.process = process
        self.row = row
        self._inheritance = inheritance
        self._arena: memoryview | None = None
        self._payloads: dict[int, mmap.mmap] = {}
        self.results_taken = 0  #: large results copied out of their slots
        self._board = inheritance.board[row * wire.BOARD_ROW : (row + 1) * wire.BOARD_ROW]
        for cell in (wire.BEGUN, wire.BUSY_NS, wire.DONE):
            self._board[cell] = 0
        self._counted = 0, 0
        self._begun = 0  # the last word of the board
        self.state = STARTING
        self.ready = False  #: it has been ready; before, nobody but the dispatcher holds it
        self.leaving = False  #: it gets no more jobs
        self.sent = 0  #: jobs sent, so the number of the next one
        self.items = 0  #: items of batches it has finished, beyond one per batch
        self.failed = 0  #: calls that ended in an exception
        self.parked = False  #: put away by the dispatcher: it does nothing until its process ends
        self.sent_seen = -1  #: when the dispatcher last looked whether it is used
        self.purged_at = 0  #: jobs sent when its instance was last thrown away for lying idle
        # Of the dispatcher's lane.
        self.own: deque[Job] = deque()  #: jobs that only this one may run, because of their keys
        self.inflight: deque[Job] = deque()  #: sent and not answered, in order
        self.outbox = b""  #: what the pipe would not take yet
        self.functions: set[bytes] = set()  #: digests of the Python functions it has been sent
        self.batches = 0  #: how many of them are batches, each with a buffer of the arena
        self.next_buffer = 0  #: for the next batch
        self.recalling = False  #: a RECALL is unanswered; nothing may be sent until it is
        self.recalled_at = 0.0  #: when the last RECALL was sent
        self.stalled = False  #: its job takes longer than expected, so nothing should wait behind it
        self.item_seen = (-1, -1), 0.0  #: at which job and item it was last seen, and since when (time.monotonic)
        self.head_since = 0.0  #: when the first job in flight became the first (time.monotonic)
        self.interrupted = -1, -1  #: number of the job, and the item, that the last INTERRUPT was for
        self.kill_at = 0.0  #: when patience with that ends
        self.insist_at = 0.0  #: when to send it again
        self.insistence = 0.0  #: seconds from then until the time after
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
        self.their_fds: tuple[int, ...] = (jobs_theirs, replies_theirs, control_theirs.detach())

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

    def ended(self) -> None:
        """Its process is no more."""
        self._begun = self._board[wire.BEGUN]
        self.state = DEAD

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

    def payload(self, slot: int, size: int) -> memoryview | None:
        """The memory of a payload slot, at least ``size`` bytes; None if there is none."""
        if size > self._inheritance.payload_bytes:
            return None
        return self.payload_mapped(slot, size)

    def payload_mapped(self, slot: int, size: int) -> memoryview:
        """The same, where it is known to exist."""
        mapping = self._payloads.get(slot)
        if mapping is None or len(mapping) < size:
            if mapping is not None:
                _unmap(mapping)
            mapping = self._payloads[slot] = self._inheritance.payload(self.row, slot, size)
        return memoryview(mapping)

    def give_up_payload(self, slot: int, size: int) -> None:
        """What lies in a slot is not needed any more: give memory back to the system, if it is much."""
        if size > KEPT_PAYLOAD and slot in self._payloads and hasattr(mmap, "MADV_REMOVE"):
            self._payloads[slot].madvise(mmap.MADV_REMOVE)

    def command(self, command: int, number: int = 0, item: int = 0) -> None:
        """Send a control command.  A full socket or a dead worker swallows it: both end by the worker being killed."""
        try:
            self.control.send(wire.CONTROL.pack(command, item, number))
        except OSError:
            pass

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
        while self._payloads:
            _, mapping = self._payloads.popitem()
            if hasattr(mmap, "MADV_REMOVE"):  # the file lives on, and so would the pages
                mapping.madvise(mmap.MADV_REMOVE)
            _unmap(mapping)
        if self._arena is not None:
            arena = self._arena.obj
            self._arena.release()
            self._arena = None
            assert isinstance(arena, mmap.mmap)
            arena.close()
