"""A worker's traffic: what was sent to it, what it has begun, answered and lost.  The one place that knows.

A lane has no descriptors, no clock and no lock.  Jobs go in by `send`; each leaves by exactly one of `answered`,
`withdraw`, `passed` and `crash`, and until then it is in flight.  Who calls what, and under which lock:

* `send`, `fence`, `withdraw`, `passed`, `adopt` and `leave` under the scheduler's lock, for any thread may be sending;
* `answered`, `crash` and `interrupt` in the dispatcher's thread, which alone hears the worker;
* `served` by the holder of a worker that is in no scheduler's hands: a direct call, a lease.

*Withdrawing* takes back what a worker has not begun, without its help, for it may be stopped or hold the GIL.  The worker
announces each job on the board before it looks at the fence there; the lane sets the fence, waits until both writes
are visible to both sides, and only then looks which jobs were announced.  So for each job at least one of the two
sees the other (Dekker's rule): what is not announced by then will never be run.  Each side needs its write to be visible
before its look, which no processor promises without a barrier, and Python has none.  So the lane waits between the two: a
write leaves a processor's store buffer within nanoseconds, and a look is not made earlier than that before its turn.  The
fence is one cell, so no other order matters, on ARM as on x86.  A job announced in that very moment may
be run or not; it stays in flight until it is answered, or until the worker has *passed* the fence and says from which
job on it skipped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..durations import Durations
from ..wire import BUFFERS
from .jobs.shipped import FunctionsSent
from .spinning import Spinning

if TYPE_CHECKING:
    from .jobs.call import Job
    from .port import Port

#: Seconds from setting a fence to looking what was begun: long against the nanoseconds in which a processor makes a
#: write visible, short against what is worth withdrawing for.
SETTLE_SECONDS = 0.0005
#: A worker hears an interrupt only while it runs what is meant, and may be about to begin it.  So it is interrupted again
#: after this many seconds, then after twice that, and so on until it is killed.
INSIST_SECONDS = 0.001
#: A job that was the next one of so many workers when they died was begun by some of them, whatever they have said.
MOST_LOSSES = 8


class Memory(Protocol):
    """The memory that a worker shares with us, as jobs see it."""

    @property
    def arena(self) -> memoryview:
        """The memory shared with the worker's drivers."""

    def payload(self, slot: int, size: int) -> memoryview | None:
        """A payload slot's memory, at least ``size`` bytes; None if there is none."""

    def payload_mapped(self, slot: int, size: int) -> memoryview:
        """The same, where it is known to exist."""

    def give_up_payload(self, slot: int, size: int) -> None:
        """What lies in a slot is not needed any more."""


class Interrupt(NamedTuple):
    """What is to be done about a job that should stop."""

    first: bool  #: nobody has told the worker before
    send: tuple[int, int] | None  #: tell it now: number and item
    kill: bool  #: it has had its time
    due: tuple[float, ...]  #: when to look again


class Nonsense(ValueError):
    """Raised when a worker answers what no sound worker answers; it is to be killed, and its jobs end with it."""


class Lane:
    """One worker's traffic."""

    def __init__(self, port: Port) -> None:
        self.port = port  #: the worker's descriptors and memory, for those who need them; the lane hands on the memory
        #: how long submitted jobs and items of batches took: by the worker's own clock, or by that of the submitter who
        #: made the call; recorded by who hears it
        self.durations: Durations = Durations()
        self._inflight: deque[Job] = deque()  # in the order sent
        self._first = 0  # number of the first in flight, or of the next one if there is none
        self._next = 0  # number of the next one
        self._unwritten: bytes | memoryview = b""
        self._free = list(range(BUFFERS))  # buffers of the arena that no job in flight uses
        self._functions = FunctionsSent()
        self._results_taken = 0
        self._since = 0.0  # when the first in flight became the first
        self._took_at = 0.0  # when the pipe took something that it would not take before
        self.leaving: bool = False  #: it gets no more jobs
        self._adopted = False
        self._taken = False  # what was adopted has begun, whatever the board says
        self._fence: tuple[int, int] | None = None  # the numbers that are void, until the worker has passed them
        self._fenced_at = 0.0
        self._settles_at: float | None = None  # when what was begun before the fence is visible
        self._calls = 0  # finished
        self._used = 0
        #: how calls of its holders wait; for the holder
        self.spinning: Spinning = Spinning()
        #: who of other threads holds it: what they know themselves by, or None.  Written when it is taken, and in the step
        #: before it is given back: Ctrl-C may come after a call, but not between an assignment and the next call.
        self.holder: object = None
        self.asked: bool = False  #: for its holder, who has sent something and has no answer yet
        self._interrupted = -1, -1
        self._ended_whole = -1  # the job of that number is to be stopped wherever it is
        self._kill_at = self._insist_at = self._insistence = 0.0

    # -- asking --------------------------------------------------------------------------------------------------------

    @property
    def head(self) -> Job | None:
        """The first job in flight: the one that runs, if any does."""
        try:
            return self._inflight[0]
        except IndexError:
            return None

    @property
    def number(self) -> int:
        """The head's number, or that of the job that its holder sends."""
        return self._first

    @property
    def depth(self) -> int:
        """How many jobs are in flight."""
        return len(self._inflight)

    def has_begun(self, begun: int) -> bool:
        """Whether the worker has begun the job of `number`, when the board says that it has begun so many."""
        return begun > self._first or (self._adopted and self._taken)

    @property
    def since(self) -> float:
        """When the head became the head, by the clock of who sent it."""
        return self._since

    @property
    def received_at(self) -> float:
        """When the head became the head, or the worker received some more of what is too long for the pipe."""
        return max(self._since, self._took_at)

    @property
    def fenced(self) -> bool:
        """Whether jobs are being withdrawn from it."""
        return self._fence is not None

    @property
    def idle_behind_fence_since(self) -> float | None:
        """Since when at the latest it has had nothing to do but to pass its fence; None if it has more, or no fence."""
        if self._fence is None or self._inflight:
            return None
        # It may have answered a job from before the fence, and it has to receive what it is to skip.
        return max(self._fenced_at, self._since, self._took_at)

    @property
    def open(self) -> bool:
        """Whether more jobs may be sent."""
        return not (self.leaving or self._unwritten or self._adopted or self._fence is not None)

    @property
    def quiet(self) -> bool:
        """Whether nothing is in flight, unwritten, or void and not passed yet: it is idle."""
        return not (self._inflight or self._unwritten or self._fence is not None)

    @property
    def unwritten(self) -> bytes | memoryview:
        """What the pipe would not take yet."""
        return self._unwritten

    @property
    def buffers(self) -> int:
        """How many of the arena's buffers are free."""
        return len(self._free)

    @property
    def interrupted(self) -> tuple[int, int]:
        """Number of the job, and the item, that the last interrupt was for."""
        return self._interrupted

    @property
    def calls(self) -> int:
        """How many calls it has finished, each item of a batch being one."""
        return self._calls

    @property
    def used(self) -> int:
        """A number that grows when a job is sent."""
        return self._used

    def waiting(self) -> Iterator[Job]:
        """The jobs in flight behind the head."""
        jobs = iter(tuple(self._inflight))
        next(jobs, None)
        return jobs

    def job_at(self, place: int) -> Job:
        """The job in flight at that place, 0 being the head's.

        Raises:
            Nonsense: there are not so many; the worker has answered more than it was asked.
        """
        try:
            return self._inflight[place]
        except IndexError:
            raise Nonsense("an answer to no job") from None

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, jobs: Iterable[Job], now: float) -> list[tuple[Job, BaseException]]:
        """Have jobs in flight, behind those there are; `write` sends them.

        Each is encoded first, and all are in flight after: one that cannot be encoded is refused, and leaves no trace.  So
        is one that another thread has ended since it was taken from its queue, for it has let go of its frame.

        Returns:
            Those refused, and why.
        """
        if not self._inflight:
            self._since = now
        frames: list[bytes] = []
        sent: list[Job] = []
        refused: list[tuple[Job, BaseException]] = []
        free = self._free.copy()
        functions = self._functions.in_flight
        try:
            for job in jobs:
                if job.placed:
                    try:
                        frame = self._place(job, free)
                    except Exception as error:
                        refused.append((job, error))
                        continue
                else:
                    frame = job.frame
                    if not frame:
                        refused.append((job, CancelledError()))
                        continue
                frames.append(frame)
                sent.append(job)
                job.in_flight = True
            data, count = b"".join(frames), len(sent)
        except BaseException:  # Ctrl-C: none is sent
            self._functions.undo_to(functions)
            for job in sent:
                job.in_flight = False
            raise
        # In one step, as far as Ctrl-C goes, which comes where something is called.
        self._free = free
        self._inflight += sent
        self._next += count
        self._used += count
        self._unwritten = data
        return refused

    def _place(self, job: Job, free: list[int]) -> bytes:
        """The frame of a job that needs something of this very worker, as one of the free buffers."""
        functions = self._functions.in_flight
        try:
            frame = job.place(self.port, free[-1] if job.buffers else -1, self._functions, self._results_taken)
        except BaseException:
            self._functions.undo_to(functions)
            raise
        if job.buffers:
            free.pop()
        return frame

    def _unplace(self, job: Job) -> None:
        if job.placed:
            if job.buffers:
                self._free.append(job.buffer)
            job.unplace(self._functions, begun=False)

    def write(self, now: float = 0.0) -> None:
        """Write what the pipe takes of what is to be written.

        Args:
            now: counts as the time when it took something, which it would not take before.
        """
        rest = memoryview(self._unwritten)  # of tens of megabytes a pipe takes only some pages at a time
        size = len(rest)
        try:
            # Nothing is called between the write and its being noted, so Ctrl-C cannot come there.
            for count in self.port.writes(rest):
                self._unwritten = rest[count:] if count < size else b""
                self._took_at = now or self._took_at
        except BlockingIOError:
            pass
        except BrokenPipeError:  # it has died; its control socket tells the dispatcher, who clears up
            self._unwritten = b""

    def served(self, numbered: bool = True) -> None:
        """Its holder has had a job answered that never was in this lane.

        Args:
            numbered: whether the worker counts it among its jobs; see wire/page.py.
        """
        if numbered:
            self._first += 1
            self._next += 1
        self._used += 1
        self._calls += 1

    def adopt(self, job: Job, since: float, taken: bool) -> None:
        """Its holder has left while the worker runs a job for it: that is in flight now, and alone until it ends.

        Args:
            since: when its holder sent it.
            taken: it went by the page, and the worker has begun it, which the board does not say.
        """
        assert not self._inflight
        job.in_flight = True
        self._inflight.append(job)
        self._next += 1
        self._used += 1
        self._since = since
        self._adopted = True
        self._taken = taken
        self.asked = False

    def leave(self) -> None:
        """Send nothing more."""
        self.leaving = True

    # -- hearing -------------------------------------------------------------------------------------------------------

    def answered(self, count: int, now: float) -> list[Job]:
        """The first jobs in flight were answered, so many of them; which they were."""
        jobs = [self._inflight.popleft() for _ in range(count)]
        self._first += count
        self._since = now
        self._adopted = False
        if self._fence is not None and self._first == self._fence[1]:
            # All behind it was announced before it was set, and has been run: nothing is skipped, so no word comes.
            self._fence = self._settles_at = None
        for job in jobs:
            job.in_flight = False
            if job.placed:
                if job.buffers:
                    self._free.append(job.buffer)
                job.unplace(self._functions, begun=True)
        return jobs

    def calls_done(self, count: int) -> None:
        """Count calls as finished, or so many fewer if negative: before their callers hear of it, who may ask."""
        self._calls += count

    def result_taken(self) -> None:
        """A large result was copied out of its slot, which the worker may use again."""
        self._results_taken += 1

    # -- withdrawing ---------------------------------------------------------------------------------------------------

    def fence(self, begun: int, now: float) -> tuple[int, int] | None:
        """Begin to take back all that is not begun; the numbers to put on the board, or None if there is nothing.

        Until the worker has passed them it is sent nothing, so that there is never more than one fence.
        """
        start = max(begun, self._first)
        if self._fence is not None or not self._returnable or start >= self._next:
            return None
        self._fence = start, self._next
        self._fenced_at = now
        self._settles_at = now + SETTLE_SECONDS
        return self._fence

    @property
    def _returnable(self) -> bool:
        """Whether what is in flight could wait for another worker.  What its holder left may be begun, or for nobody."""
        return not self._adopted or not (self._taken or self._inflight[0].expired)

    @property
    def settles_at(self) -> float | None:
        """When `withdraw` may be called; None if no fence waits for that."""
        return self._settles_at

    def withdraw(self, begun: int) -> list[Job]:
        """Take back, in their order, the jobs that lie behind the fence and were not announced."""
        assert self._fence is not None
        self._settles_at = None
        return self._take_back(max(begun, self._fence[0]))

    def passed(self, start: int) -> list[Job]:
        """The worker has passed the fence, and skipped from the job of number ``start`` on.

        Returns:
            The job that was announced and skipped in the same moment, if it was still in flight.

        Raises:
            Nonsense: there is no such fence, or it skipped what it should not.
        """
        if self._fence is None or not self._fence[0] <= start <= self._fence[1]:
            raise Nonsense(f"it has passed job {start} on, and was not asked to")
        if self._inflight and self._first < start:
            raise Nonsense("it has passed its fence and left jobs before it unanswered")
        skipped = self._take_back(start)
        self._first = self._next
        self._fence = self._settles_at = None
        self._adopted = False
        return skipped

    def _take_back(self, start: int) -> list[Job]:
        jobs: list[Job] = []
        while self._inflight and self._first + len(self._inflight) > start:
            job = self._inflight.pop()
            job.in_flight = False
            self._unplace(job)
            jobs.append(job)
        jobs.reverse()
        return jobs

    # -- stopping ------------------------------------------------------------------------------------------------------

    def interrupt(self, item: int, now: float, grace: float, whole: bool = False) -> Interrupt:
        """The head, or that item of it, should stop: what to do about it now.

        Args:
            whole: no other item may come after it, so there is no more time for another.
        """
        running = self._first, item
        first = self._interrupted != running
        if first:
            if not whole or self._ended_whole != self._first:
                self._kill_at = now + grace
            if whole:
                self._ended_whole = self._first
            self._interrupted = running
            self._insist_at, self._insistence = now, INSIST_SECONDS
        if self._kill_at <= now:
            return Interrupt(first, None, True, ())
        send = None
        if self._insist_at <= now:
            send = running
            self._insist_at = now + self._insistence
            self._insistence *= 2
        return Interrupt(first, send, False, (self._kill_at, self._insist_at))

    def crash(self, begun: int) -> tuple[Job | None, list[Job]]:
        """The worker has died, with so many jobs begun: the one it was running, if any, and all others in flight.

        The others it had not begun, or had finished without delivering their results, or skipped.
        """
        if self._adopted and self._taken:
            begun = self._next
        if not self._first <= begun <= self._next:  # the board was written over, by whatever killed the worker
            begun = self._first + 1
        head, guilty = self.head, None
        rest: list[Job] = []
        for number, job in enumerate(self._inflight, self._first):
            job.in_flight = False
            if number == begun - 1:
                guilty = job
            else:
                rest.append(job)
        self._inflight.clear()
        self._fence = self._settles_at = None
        self._unwritten = b""
        self.leaving = True
        if guilty is None and head is not None:
            head.losses += 1
            if head.losses > MOST_LOSSES:
                guilty = rest.pop(0)
        return guilty, rest
