"""What the tests without processes stand on: a model of a worker, a port to it, and how thorough hypothesis is to be."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, Phase, settings

from procpool import wire
from procpool.supervisor.jobs.call import Job

#: How many times as many examples as by default; a fraction for fewer.
ROUNDS = float(os.environ.get("PROCPOOL_MODEL", "1"))


def thorough(examples: int, steps: int) -> settings:
    return settings(
        max_examples=max(1, round(examples * ROUNDS)),
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


class BrokenJob(Exception):
    """Raised where a job's frame is made."""


class ModelJob(Job):
    """A job whose frame tells the model worker which it is."""

    def __init__(self, id: int, buffers: int = 0, function: bytes | None = None, broken: bool = False) -> None:
        super().__init__(f"job {id}", b"")
        self.id = id
        self.buffers = buffers
        self.placed = bool(buffers) or function is not None or broken
        self.function = None if function is None else SimpleNamespace(digest=function, pickle=function * 10)
        self.broken = broken
        self.spins = False  #: it runs until it is interrupted
        self.direct = False  #: it goes by no queue
        self.moved = False  #: it has been taken back
        self.frame = self._frame(-1, False, [])
        self.read = lambda payload: id

    def _frame(self, buffer: int, carries: bool, forget: list[bytes], kind: int = wire.SUBMIT) -> bytes:
        function = None if self.function is None else self.function.digest
        payload = pickle.dumps((self.id, buffer, function, carries, forget))
        return wire.JOB.pack(len(payload), 0, kind, 0) + payload

    def direct_frame(self) -> bytes:
        return self._frame(-1, False, [], wire.CALL)

    def place(self, memory: Any, buffer: int, functions: Any, results_taken: int) -> bytes:
        assert (buffer >= 0) == bool(self.buffers)
        carries, forget = False, []
        if self.function is not None:
            carries, forget = functions.send(self.function)
        if self.broken:
            raise BrokenJob
        self.buffer = buffer
        return self._frame(buffer, carries, forget)

    def unplace(self, functions: Any, begun: bool) -> None:
        if self.function is not None:
            functions.answered() if begun else functions.undo()


class ModelWorker:
    """A worker as seen through its channels, one memory access at a time.  Follows worker/loop.py line by line.

    Its writes to the board, and the parent's, become visible some time after they are made, each side's in their order;
    what a side has written it sees itself at once.
    """

    def __init__(self, exactly_once: bool) -> None:
        self.exactly_once = exactly_once
        self.pipe = deque[tuple[int, bytes]]()  # kind and payload of each frame
        self._reader = wire.FrameReader(wire.JOB)
        self.socket = deque[tuple[int, int]]()  #: status and the job's id, or a number: on the way to the parent
        self.replies = deque[int]()  #: ids of direct calls that were answered
        self.commands = deque[tuple[int, int, int]]()  #: on the way to the control thread
        self.begun_seen = 0  #: BEGUN, as the parent sees it
        self.void_seen = 0  # VOID, as the worker sees it
        self._begun_written = deque[int]()  # on the way to the parent
        self._void_written = deque[int]()  # on the way to the worker
        self.state = "waiting"
        self.alive = True
        self.stopped = False  #: by a signal: nothing moves, the control thread neither
        self.begun = 0  # of the loop
        self.void = -1
        self._fence = self._passed = 0
        self.waiting: list[tuple[int, int]] = []  # answers that are held back
        self.job: tuple[int, int, Any] = (0, 0, None)
        self.ran: list[int] = []  #: ids in order
        self.functions: set[bytes] = set()
        self.runs: Any = lambda id: None  #: told at the beginning of a run
        self.spins: Any = lambda id: False
        self.interrupted = False

    # -- the parent's side

    def take(self, data: bytes | memoryview) -> None:
        for (_, _, kind, _), payload in self._reader.feed(bytes(data)):
            self.pipe.append((kind, payload))

    def fence(self, start: int, stop: int) -> None:
        assert start < stop
        cell = wire.fence_to_cell(start, stop)
        assert cell < 1 << 64 and wire.fence_of_cell(cell) == (start, stop)
        self._void_written.append(cell)

    def parent_drains(self, all: bool = False) -> None:
        while self._void_written:
            self.void_seen = self._void_written.popleft()
            if not all:
                return

    def worker_drains(self, all: bool = False) -> None:
        while self._begun_written:
            self.begun_seen = self._begun_written.popleft()
            if not all:
                return

    def settles(self) -> None:
        """After SETTLE_SECONDS: what either side had written before is visible."""
        self.parent_drains(all=True)
        self.worker_drains(all=True)

    def dies(self) -> None:
        self.alive = False
        self.worker_drains(all=True)

    # -- its own side

    def flush(self, announcement: tuple[int, int] | None = None) -> None:
        self.socket.extend(self.waiting)
        self.waiting = []
        if announcement is not None:
            self.socket.append(announcement)

    def control(self) -> bool:
        """The control thread hears one command."""
        if not self.commands or not self.alive or self.stopped:
            return False
        command, number, _ = self.commands.popleft()
        self.parent_drains(all=True)  # what was written before a system call is visible to who has heard of that
        if command == wire.FLUSH:
            self.flush()
        elif self.state == "running" and number == self.begun:
            self.interrupted = True
        return True

    def step(self) -> bool:
        """Do the next thing; whether there was one."""
        if not self.alive or self.stopped:
            return False
        if self.state == "waiting":
            if not self.pipe:
                if self.waiting:
                    self.flush()
                    return True
                return False
            kind, payload = self.pipe.popleft()
            id, buffer, function, carries, forget = pickle.loads(payload)
            self.job = kind, id, (buffer, function, carries, forget)
            self._begun_written.append(self.begun + 1)
            self.state = "announced"
        elif self.state == "announced":
            self._fence = self.void_seen
            self.state = "looked" if self._fence != self._passed else "beginning"
        elif self.state == "looked":
            start, stop = wire.fence_of_cell(self._fence)
            self.state = "skipping" if start <= self.begun < stop else "beginning"
            if self.begun >= stop:
                self._passed = self._fence
        elif self.state == "skipping":
            self.void = self.begun if self.void < 0 else self.void
            self.begun += 1
            if self.begun == wire.fence_of_cell(self._fence)[1]:
                self.flush((wire.PASSED, self.void))
                self._passed, self.void = self._fence, -1
            self.state = "waiting"
        elif self.state == "beginning":
            _, id, (_, function, carries, forget) = self.job
            self.runs(id)
            self.ran.append(id)
            self.functions.difference_update(forget)
            if carries:
                self.functions.add(function)
            assert function is None or function in self.functions, "the worker does not know what it is to call"
            self.interrupted = False
            self.state = "running"
        elif self.state == "running":
            kind, id, _ = self.job
            if self.spins(id) and not self.interrupted:
                return False
            status = wire.INTERRUPTED if self.interrupted else wire.OK
            self.begun += 1
            self.state = "waiting"
            if kind == wire.CALL:
                self.replies.append(id)
            else:
                self.waiting.append((status, id))
                if self.exactly_once:
                    self.state = "answering"
        elif self.state == "answering":  # it may die before it does
            self.flush()
            self.state = "waiting"
        return True


class ModelPort:
    """A port to a model worker."""

    def __init__(self, worker: ModelWorker, pid: int = 0) -> None:
        self.worker = worker
        self.process: Any = SimpleNamespace(pid=pid)
        self._dead = False
        self.arena: memoryview = memoryview(b"")
        self.capacity: int | None = None  #: bytes that the pipe still takes; None for any number
        self.on_look: Any = None  #: called when somebody looks whether it is dead: what another thread does then

    @property
    def dead(self) -> bool:
        if self.on_look is not None:
            self.on_look()
        return self._dead

    def died(self) -> None:
        self._dead = True

    @property
    def begun(self) -> int:
        return self.worker.begun_seen

    def writes(self, data: bytes | memoryview) -> Iterator[int]:
        if not self.worker.alive:
            raise BrokenPipeError
        count = len(data)
        if self.capacity is not None:
            count = min(count, self.capacity)
            self.capacity -= count
        self.worker.take(data[:count])
        yield count

    def write(self, data: bytes | memoryview) -> None:
        with contextlib.suppress(BrokenPipeError):
            list(self.writes(data))

    def command(self, command: int, number: int = 0, item: int = 0) -> None:
        self.worker.commands.append((command, number, item))

    def fence(self, start: int, stop: int) -> None:
        self.worker.fence(start, stop)
