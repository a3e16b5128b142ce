"""Which worker gets which job.  Knows queues and counts, no processes and no clocks."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable

from ..wire import BUFFERS
from .jobs.call import Job
from .worker import DEAD, Worker

#: How much work to keep in a worker's pipe, in nanoseconds: enough to outlast the parent's next turn, little enough
#: that taking it back hardly ever matters.
TARGET_NS = 1_000_000
#: Behind a job that takes longer than this nothing waits in the pipe: the pause until the next one is sent is lost in it,
#: and with hundreds of busy instances nobody need look for one with room.
LONG_NS = 8_000_000
#: The most jobs in flight per worker, and bytes per write (half of a pipe's usual capacity).
MAX_INFLIGHT = 512
MAX_WRITE = 32768


class Scheduler:
    """The queue of jobs, the idle workers, and the rule that joins them.

    Any thread may call :meth:`submit`, :meth:`pump` and :meth:`release`; the rest belongs to the dispatcher.

    Whoever makes a job or a worker available *first* publishes it (appends to ``queue`` or ``idle``) and *then* looks
    whether the other side is there.  So of two threads doing so at once, the later one sees both, and no job is left
    lying beside an idle worker.

    Jobs with a *key* go to one worker, the key's home, as long as that lives.  When such a job gets to the head of the
    queue it moves to its home's own queue, so it holds up nobody behind it.
    """

    def __init__(self, clock: Callable[[], float], on_watch: Callable[[], None], round_robin: bool = False) -> None:
        self.queue: deque[Job] = deque()  #: sorted by priority
        self.idle: deque[Worker] = deque()  #: used as a stack: the last used worker has the warmest caches
        #: takes an idle worker, or raises IndexError
        self.next_idle = self.idle.popleft if round_robin else self.idle.pop
        self.busy: dict[Worker, None] = {}  #: with jobs in flight of the dispatcher; an ordered set
        self.left: deque[Worker] = deque()  #: have done their last job, or died; for the dispatcher to end or bury
        self.space = threading.Condition()  #: notified when the queue has become shorter and somebody waits for that
        self.waiting_for_space = 0
        self.workers = 0  #: how many there are in all
        self._clock = clock
        self._on_watch = on_watch  # called when a job was sent whose time the dispatcher must keep
        self._lock = threading.Lock()
        self._room = False  # whether some busy worker has nothing waiting behind its job, and may
        self._job_ns: float | None = None  # moving average of a job's duration; None until one was measured
        self._cancelled = 0  # jobs in queues that were cancelled
        self._homes: dict[Hashable, Worker] = {}  # of keys
        self._owning: set[Worker] = set()  # workers with jobs in their own queues

    def submit(self, job: Job) -> None:
        """Queue a job, and send it on if a worker is idle or has nothing waiting behind its job.

        Deeper pipes are filled by the dispatcher, many jobs at a time: one write each would cost the submitter more
        than the jobs are worth.
        """
        if job.priority or (self.queue and self.queue[-1].priority):
            self._insert(job)
        else:
            self.queue.append(job)
        if self.idle or self._room or job.key is not None:
            self.pump(depth=2)

    def _insert(self, job: Job) -> None:
        """Queue a job before those of lower priority and behind all others."""
        with self._lock:
            # Others may append meanwhile, without the lock, but only behind; and only its holder takes from the front.
            at = len(self.queue)
            while at and self.queue[at - 1].priority < job.priority:
                at -= 1
            self.queue.insert(at, job)

    def pending(self) -> int:
        """How many jobs have not been sent to a worker."""
        return len(self.queue) + sum(len(worker.own) for worker in list(self._owning)) - self._cancelled

    def dropped(self, job: Job) -> None:
        """A queued job was cancelled.  It stays where it is until its turn comes, and does not count any more."""
        with self._lock:
            if job.passed or job.dropped:
                return
            job.dropped = True
            self._cancelled += 1
        if self.waiting_for_space:
            with self.space:
                self.space.notify_all()

    def release(self, worker: Worker) -> None:
        """Give back a worker taken from ``idle``."""
        if worker.leaving:
            self.leave(worker)
        else:
            self.idle.append(worker)
            # It may have died after it answered.  The dispatcher marks it dead first and looks for it in `idle` second;
            # we put it there first and look second: one of us finds the other.
            if worker.state == DEAD and self.take_idle(worker):
                self.leave(worker)
        if self.queue or worker.own:
            self.pump()

    def pump(self, depth: int = MAX_INFLIGHT) -> None:
        """Send queued jobs to workers, up to ``depth`` in flight in each, until one of the two runs out."""
        with self._lock:
            while True:
                if self._owning:
                    self._feed_owning(depth)
                while self.queue and self._feed_one(depth):
                    pass
                self._room = self._depth() > 1 and any(len(w.inflight) < 2 and self._open(w) for w in self.busy)
                # A job queued before `_room` was set was not pumped by its submitter; see it now.
                if not (self.queue and self._feed_one(depth)):
                    break
        if self.waiting_for_space:
            with self.space:
                self.space.notify_all()

    def measured(self, job_ns: float) -> None:
        """Learn how long jobs take now."""
        self._job_ns = job_ns if self._job_ns is None else 0.7 * self._job_ns + 0.3 * job_ns

    @property
    def job_seconds(self) -> float | None:
        """How long a job takes on average, lately."""
        return None if self._job_ns is None else self._job_ns / 1e9

    def answered(self, worker: Worker) -> None:
        """After replies: the worker is idle if nothing is in flight, and may be sent more."""
        with self._lock:
            if not worker.inflight and not worker.outbox and worker in self.busy:
                del self.busy[worker]
                if not worker.leaving or worker.own:
                    self.idle.append(worker)
                else:  # not by way of `idle`, from where it would be sent a next job and never get away
                    self.left.append(worker)
        self.pump()

    def assign(self, worker: Worker, job: Job) -> None:
        """As the holder of a worker: have it run that very job."""
        with self._lock:
            self.busy[worker] = None
            job.begin()
            self._send(worker, [job])

    def disown(self, worker: Worker) -> None:
        """Of a dead worker: what waited in its own queue finds another home."""
        with self._lock:
            for key in [key for key, home in self._homes.items() if home is worker]:
                del self._homes[key]
            self.queue.extendleft(reversed(worker.own))
            worker.own.clear()
            self._owning.discard(worker)

    def take_back(self, worker: Worker, count: int) -> None:
        """Return the last ``count`` jobs in flight to the front of the queue, in their order.

        Raises:
            ValueError: so many cannot have been waiting.
        """
        with self._lock:
            if count > worker.sent - max(worker.begun, worker.head):
                raise ValueError(f"a worker gave back {count} jobs, more than it was sent and has not begun")
            jobs = [worker.inflight.pop() for _ in range(count)]
            worker.sent -= count
            for job in jobs:
                job.unplace(worker)
                if job.expired:
                    continue
                if job.key is None:
                    self.queue.appendleft(job)
                else:
                    worker.own.appendleft(job)
                    self._owning.add(worker)
            worker.recalling = False

    def leave(self, worker: Worker) -> None:
        """Hand a worker to the dispatcher for good."""
        self.left.append(worker)
        self._on_watch()

    def take_idle(self, worker: Worker) -> bool:
        """Take a worker out of service if it is idle; whether it was.

        One step: looked for first and removed later, it could have been sent jobs in between.
        """
        with self._lock:
            if worker.own and worker.state != DEAD:
                return False
            try:
                self.idle.remove(worker)
            except ValueError:
                return False
            return True

    def remove(self, worker: Worker) -> bool:
        """Take a worker that has died out of service; whether the caller is now its holder."""
        with self._lock:
            if worker in self.busy:
                del self.busy[worker]
                return True
            for place in (self.idle, self.left):
                try:
                    place.remove(worker)
                except ValueError:
                    continue
                return True
        return False

    def adopt(self, worker: Worker, job: Job) -> None:
        """Take over a worker from a direct call, with the job it still runs."""
        with self._lock:
            worker.inflight.append(job)
            worker.recalling = True  # nothing may be sent until that one is answered
            self.busy[worker] = None

    def recall(self, worker: Worker) -> None:
        """Stop sending to a worker, because it is about to be sent a RECALL, until it has answered that and a job."""
        with self._lock:
            worker.recalling = True
            worker.recalled_at = self._clock()
            worker.stalled = True

    def _depth(self) -> int:
        """How many jobs may be in flight in one worker."""
        if self._job_ns is None or self._job_ns > LONG_NS:
            return 1  # nothing goes behind a job of unknown length
        return min(MAX_INFLIGHT, max(2, int(TARGET_NS / max(self._job_ns, 1))))

    def _open(self, worker: Worker) -> bool:
        return not (worker.recalling or worker.stalled or worker.leaving or worker.outbox)

    def _takes(self, worker: Worker, job: Job, depth: int) -> bool:
        """Whether the job may go behind those in flight."""
        if job.buffers:  # of bounded length, so its own length need not be known
            return worker.batches < BUFFERS and len(worker.inflight) < max(depth, BUFFERS) and self._open(worker)
        return len(worker.inflight) < depth and self._open(worker)

    def _feed_owning(self, depth: int) -> None:
        """Send workers what waits for them and nobody else."""
        depth = min(depth, self._depth())
        for worker in list(self._owning):
            if worker in self.idle:
                try:
                    self.idle.remove(worker)
                except ValueError:  # taken by a direct call, which will give it back
                    continue
                self.busy[worker] = None
            elif worker not in self.busy or not self._takes(worker, worker.own[0], depth):
                continue
            jobs = self._take(worker.own, max(1, depth - len(worker.inflight)), BUFFERS - worker.batches)
            if jobs:
                self._send(worker, jobs)
            elif not worker.inflight:
                del self.busy[worker]
                self.idle.append(worker)
            if not worker.own:
                self._owning.discard(worker)

    def _feed_one(self, depth: int) -> bool:
        """Send one worker its share of the queue; false if no worker takes any."""
        first = self.queue[0]
        if first.key is not None:
            return self._go_home(first, first.key)
        if first.exclusive:
            return self._hand_over(first)
        depth = min(depth, self._depth())
        try:
            worker = self.next_idle()  # a direct call may take the last one first
            # Dead already: nobody would look for the jobs it was sent.  If it dies after this, the dispatcher, which needs
            # our lock to look for it, finds it in `busy`.
            if worker.state == DEAD:
                self.leave(worker)
                return True
            self.busy[worker] = None
        except IndexError:
            if depth == 1 and not first.buffers:
                return False
            takers = [w for w in self.busy if self._takes(w, self.queue[0], depth)]
            if not takers:
                return False
            worker = min(takers, key=lambda w: len(w.inflight))
        share = -(-len(self.queue) // max(self.workers, 1))
        jobs = self._take(self.queue, max(1, min(depth - len(worker.inflight), share)), BUFFERS - worker.batches)
        if jobs:
            self._send(worker, jobs)
        elif not worker.inflight:
            del self.busy[worker]
            self.idle.append(worker)
        return True

    def _go_home(self, job: Job, key: Hashable) -> bool:
        """Move the first job of the queue to the own queue of its key's home; false if there is no worker at all yet."""
        home = self._homes.get(key)
        if home is None or home.state == DEAD or home.parked or (home.leaving and not home.own and not home.inflight):
            here = [worker for worker in (*self.idle, *self.busy) if not worker.leaving and worker.state != DEAD]
            if not here:
                return False
            crowd = Counter(self._homes.values())
            home = self._homes[key] = min(here, key=lambda w: (len(w.own) + len(w.inflight), crowd[w]))
        self.queue.popleft()
        home.own.append(job)
        self._owning.add(home)
        self._feed_owning(MAX_INFLIGHT)
        return True

    def _hand_over(self, job: Job) -> bool:
        """Give the first job of the queue, which is a request for a worker, an idle one; false if there is none."""
        try:
            worker = self.next_idle()
        except IndexError:
            return False
        if worker.state == DEAD:
            self.leave(worker)
            return True
        self.queue.popleft()
        if job.begin():
            job.set_result(worker)
        else:
            self._passed(job)
            self.idle.append(worker)
        return True

    def _take(self, queue: deque[Job], count: int, buffers: int) -> list[Job]:
        """Up to ``count`` jobs from a queue that were not cancelled meanwhile; from now on they cannot be."""
        jobs: list[Job] = []
        size = 0
        while len(jobs) < count and queue and size < MAX_WRITE:
            # A job with a key, or for a worker of its own, waits for its turn at the head.
            if queue[0].buffers > buffers or (queue is self.queue and (queue[0].exclusive or queue[0].key is not None)):
                break
            job = queue.popleft()
            buffers -= job.buffers
            if job.begin():
                jobs.append(job)
                size += len(job.frame)
            else:
                self._passed(job)
        return jobs

    def _passed(self, job: Job) -> None:
        """A job came to its turn, and was cancelled."""
        job.passed = True
        self._cancelled -= job.dropped

    def _send(self, worker: Worker, jobs: list[Job]) -> None:
        if not worker.inflight:
            worker.head_since = self._clock()
        worker.inflight.extend(jobs)
        worker.sent += len(jobs)
        self.flush(worker, b"".join([job.place(worker) for job in jobs]))
        if len(worker.inflight) > 1 or worker.outbox or jobs[0].buffers or jobs[0].timeout is not None:
            self._on_watch()

    def flush(self, worker: Worker, data: bytes) -> None:
        """Write what the pipe takes; the dispatcher writes the rest when it takes more."""
        try:
            data = data[os.write(worker.jobs_fd, data) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # it has died; its control socket tells the dispatcher, who clears up
            data = b""
        worker.outbox = data
