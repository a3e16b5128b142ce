"""Jobs on their way through the worker: waiting, running, answered.

Two threads meet here.  The *main* thread runs jobs; the *control* thread wakes only to interrupt.
Everything hot is done by single operations on built-in containers, which are atomic, so that the main thread takes no
lock per job.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .. import wire

_READ_SIZE = 65536  # a pipe's capacity: more never arrives at once


class Waiting:
    """Jobs read from the pipe that have not begun.  For the main thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._reader = wire.FrameReader(wire.JOB)
        self.jobs: deque[tuple[tuple[Any, ...], bytes]] = deque()

    def read(self) -> bool:
        """Wait for jobs; false at the end of the stream."""
        data = os.read(self._fd, _READ_SIZE)
        self.jobs.extend(self._reader.feed(data))
        if not data and self._reader.incomplete:
            raise wire.CorruptStream("the stream ends within a frame")
        return bool(data)


class Interrupted(Exception):
    """Raised in a job that is being interrupted, where the guest cannot be."""


class Running:
    """Which job runs now, and who decides how it ends.

    ``dict.pop`` is the referee: whoever pops the number first, the main thread having finished the job or the control
    thread wanting to stop it, has decided.  So an interrupt can never hit the job after the one it was meant for.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._numbers: dict[Any, None] = {}
        self._raised = threading.Event()
        self._stopping = False
        self.interrupted: int = -1  #: number of the last job that was interrupted
        self.why: BaseException | None = None  #: why the job was stopped that has not ended by itself, if by `stop`
        #: main thread, before the job; or (job, item) before the item of a batch
        self.begin: Callable[[Any], None] = self._numbers.setdefault

    def finish(self, number: Any) -> bool:
        """Main thread, after the job: whether it ended by itself.  If not, its result must not be used."""
        if self._numbers.pop(number, self) is None:
            return True
        # The epoch has to be up before the next store takes its deadline from it, or that one would be stopped too.
        self._raised.wait()
        self._raised.clear()
        self._stopping = False
        return False

    def check(self) -> None:
        """Main thread, after a new store took its deadline from the epoch: made after the interrupt, it would not hear it.

        Raises:
            Interrupted: the job is being interrupted.
        """
        if self._stopping:
            raise Interrupted

    @property
    def number(self) -> Any:
        """What was last begun and has not ended; None if there is nothing."""
        numbers = list(self._numbers)
        return numbers[-1] if numbers else None

    def raise_epoch(self) -> None:
        """Stop what runs on the engine, and leave the job to say why it has ended."""
        self._engine.increment_epoch()

    def stop(self, number: Any, why: BaseException) -> bool:
        """Another thread of this worker: stop the job, and have it fail, if it is running; whether it was.

        Of a batch, that is the item that runs; whoever means a certain one holds the batch before (`Arena.hold`).
        """
        if self._numbers.pop(number, self) is not None:
            return False
        self.why = why
        self._stopping = True  # see `interrupt`
        self._engine.increment_epoch()
        self._raised.set()
        return True

    def interrupt(self, number: int, item: int, at_item: bool, tell: Callable[[], None]) -> None:
        """Control thread: stop the job if it is running, and, for a batch, at the item that was meant.

        ``tell`` is called between stopping the job and the beginning of the next one.
        """
        if self._numbers.pop((number, item), self) is None or (at_item and self._numbers.pop(number, self) is None):
            self.interrupted = number
            self._stopping = True  # before the epoch, which whoever makes a store looks at first; see `check`
            self._engine.increment_epoch()
            try:
                tell()
            finally:
                self._raised.set()


class Replies:
    """Replies to submitted jobs, collected so that many small ones cost one system call."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self._sending = threading.Lock()  # keeps the order when both threads flush
        self.waiting: deque[bytes] = deque()  #: not sent yet
        self.add: Callable[[bytes], None] = self.waiting.append

    def flush(self, announcement: bytes = b"") -> None:
        """Send all there are, and the announcement after them."""
        with self._sending:
            frames = []
            while self.waiting:
                frames.append(self.waiting.popleft())
            if announcement:
                frames.append(announcement)
            if frames:
                self.control.sendall(b"".join(frames))


def write_all(fd: int, data: bytes) -> None:
    """Write, and wait until all is taken."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
