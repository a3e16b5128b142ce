"""The parent's end of one worker's channels, and the memory shared with it."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from typing import Final, Literal

from .. import wire
from ..mapped import give_up_pages
from ..raw import RAW
from ..wire import page
from .channel import Channel
from .process import Process

State = Literal["starting", "ready", "stopping", "dead"]
STARTING: Final = "starting"
READY: Final = "ready"  # idle or running a job; whether it is idle, the scheduler knows
STOPPING: Final = "stopping"
DEAD: Final = "dead"

#: Pages of a payload slot stay in memory for the next job up to this size, in bytes.
KEPT_PAYLOAD = 8 << 20
#: Bytes read from a replies pipe at once: any ordinary reply.  Longer ones take a second read.
REPLY_BYTES = 4096


def _pipe(on_failure: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        on_failure.callback(os.close, fd)
    return ends


class Port:
    """Descriptors and shared memory of one worker: an instance of the module in a process, and the thread it runs in.

    At any time one party *holds* a worker: the scheduler, a thread in a direct call or with a lease, or the dispatcher.
    Only the holder writes to ``jobs_fd``, reads ``replies`` and closes them.  A descriptor closed under somebody's feet
    could be reused by an unrelated file, and a job written into that.
    """

    def __init__(self, process: Process, row: int) -> None:
        self.process = process
        self._row = row
        self._memory = process.memory
        self._arena: memoryview | None = None
        self.channel: Channel | None = None  #: for the holder, when it was opened
        self._payloads: dict[int, memoryview] = {}
        self._counted = 0, 0
        self._last_begun = 0  # the last word of the board
        self.state: State = STARTING
        self.was_ready: bool = False  #: before, nobody but the dispatcher holds it
        self.parked: bool = False  #: put away by the dispatcher: it does nothing until its process ends
        self.jobs_fd: int
        self.replies_fd: int
        self.control: socket.socket
        with contextlib.ExitStack() as on_failure:  # there may be no descriptors left
            jobs_theirs, self.jobs_fd = _pipe(on_failure)
            self.replies_fd, replies_theirs = _pipe(on_failure)
            self.control, control_theirs = socket.socketpair()
            on_failure.pop_all()
        # After what may fail: a piece of the board that nobody releases, one in a traceback say, would keep it open.
        self._board = self._memory.board[row * wire.BOARD_ROW : (row + 1) * wire.BOARD_ROW]
        os.set_blocking(self.jobs_fd, False)
        self.control.setblocking(False)
        self.their_fds: tuple[int, ...] = (jobs_theirs, replies_theirs, control_theirs.detach())
        self.reader: wire.FrameReader = wire.FrameReader(wire.REPLY)  #: of what comes by the control socket
        self.adopted_reader: wire.FrameReader = wire.FrameReader(wire.REPLY)  #: of a reply whose caller has left

    @property
    def dead(self) -> bool:
        """Whether its process is no more."""
        return self.state == DEAD

    # -- life ----------------------------------------------------------------------------------------------------------

    def became_ready(self) -> None:
        """It takes jobs."""
        self.state = READY
        self.was_ready = True

    def stops(self) -> None:
        """It is to end, or ends."""
        if self.state != DEAD:
            self.state = STOPPING

    def park(self) -> None:
        """It has nothing to do and gets nothing to do any more."""
        self.stops()
        self.parked = True

    def died(self) -> None:
        """Its process is no more."""
        if self.state != DEAD:
            self._last_begun = self._board[wire.BEGUN]  # before the state, and long before `release`; see `begun`
            self.state = DEAD

    def close_their_fds(self) -> None:
        """After the launch: only the process may hold its ends, or their closing would tell nothing."""
        fds, self.their_fds = self.their_fds, ()
        for fd in fds:
            os.close(fd)

    def close(self) -> None:
        """Close our ends; an idle worker exits at that.  Only for the holder."""
        if self.jobs_fd >= 0:
            fds = self.jobs_fd, self.replies_fd
            self.jobs_fd = self.replies_fd = -1  # first, for a child forked in between closes what it finds here
            for fd in fds:
                os.close(fd)
            self.control.close()

    def release(self) -> None:
        """Let go of the shared memory.  After that, what it did not deliver is lost."""
        self.died()
        self._board.release()
        self.channel = None  # who holds the worker may still look at it
        self._payloads.clear()
        self._arena = None

    # -- channels ------------------------------------------------------------------------------------------------------

    def writes(self, data: bytes | memoryview) -> Iterator[int]:
        """A single write of some jobs, made when its result is asked for: how many bytes the pipe has taken.

        Raises (when asked):
            BlockingIOError: none.
            BrokenPipeError: the worker has died.
        """
        channel = self.channel
        if channel is not None and channel.turn[0] == page.AWAKE:
            channel.turn[0] = page.ASLEEP  # have the worker look here; or it does so by itself
        return map(os.write, (self.jobs_fd,), (data,))

    def write(self, data: bytes | memoryview) -> int:
        """Write what the pipe takes of some jobs; how many bytes that was."""
        try:
            return sum(self.writes(data))
        except BlockingIOError:
            return 0
        except BrokenPipeError:  # it has died; its control socket tells the dispatcher, who clears up
            return len(data)

    def read(self) -> bytes:
        """What has come of a reply, at least a byte; empty if the worker has died."""
        return os.read(self.replies_fd, REPLY_BYTES)

    def readable(self, milliseconds: float | None) -> bool:
        """Whether a read would return at once, after at most that time; None for any time."""
        poll = select.poll()
        poll.register(self.replies_fd, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def open_channel(self) -> None:
        """Have calls go by the page from now on, where they can.  For the holder.

        Raises:
            OSError: it cannot be mapped.
        """
        if RAW and self.channel is None and self.state is READY:
            self.channel = Channel(lambda store: self._memory.head_memory(store, self._row))

    def command(self, command: int, number: int = 0, item: int = 0) -> None:
        """Send a control command.  A full socket or a dead worker swallows it: both end by the worker being killed."""
        try:
            self.control.send(wire.CONTROL.pack(command, item, number))
        except OSError:
            pass

    # -- the board -----------------------------------------------------------------------------------------------------

    @property
    def begun(self) -> int:
        """How many jobs the worker has begun, also after its death.  From any thread."""
        if self.state != DEAD:
            with contextlib.suppress(ValueError):  # it has died since, and the board was released
                return self._board[wire.BEGUN]
        return self._last_begun

    def fence(self, start: int, stop: int) -> None:
        """Have the worker skip the jobs numbered from ``start`` to before ``stop`` unless it has begun them."""
        self._board[wire.VOID] = wire.fence_to_cell(start, stop)

    def timed(self) -> tuple[int, int]:
        """How many submitted jobs it has done since this was last asked, and how many nanoseconds they took together."""
        busy, done = self._board[wire.BUSY_NS], self._board[wire.DONE]
        jobs, nanoseconds = done - self._counted[1], busy - self._counted[0]
        self._counted = busy, done
        return jobs, nanoseconds

    @property
    def run_ns(self) -> int:
        """How many nanoseconds the last job took that was answered by the replies pipe."""
        try:
            return self._board[wire.RUN_NS]
        except ValueError:  # it has died, and the board was released
            return 0

    @property
    def start_cpu(self) -> float:
        """Seconds of processor time that its process had used when it turned to its first job; 0 before that."""
        return self._board[wire.START_CPU_NS] / 1e9

    # -- memory --------------------------------------------------------------------------------------------------------

    @property
    def arena(self) -> memoryview:
        """The memory shared with the worker's drivers.

        Raises:
            OSError: it cannot be mapped; there are no addresses left, for one.
        """
        if self._arena is None:
            self._arena = self._memory.arena(self._row)
        return self._arena

    def payload(self, slot: int, size: int) -> memoryview | None:
        """The memory of a payload slot, at least ``size`` bytes; None if there is none, and the pipe has to do."""
        if size > self._memory.payload_bytes:
            return None
        try:
            return self.payload_mapped(slot, size)
        except (OSError, ValueError):
            return None

    def payload_mapped(self, slot: int, size: int) -> memoryview:
        """The same, where it is known to exist.

        Raises:
            OSError: it cannot be mapped.
        """
        mapping = self._payloads.get(slot)
        if mapping is None or len(mapping) < size:
            mapping = self._payloads[slot] = self._memory.payload(self._row, slot, size)
        return mapping

    def give_up_payload(self, slot: int, size: int) -> None:
        """What lies in a slot is not needed any more: give memory back to the system, if it is much."""
        if size > KEPT_PAYLOAD and slot in self._payloads:
            give_up_pages(self._payloads[slot])
