"""Which worker gets which job.  Knows queues and lanes, no processes, no descriptors and no clocks."""

from __future__ import annotations

import heapq
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from ..deadline import Deadline
from .condition import Condition
from .jobs.call import Job
from .lane import Lane
from .queue import JobQueue
from .tenants import Tenants

_NEVER = Deadline.NEVER

#: How much work to keep in a worker's pipe, in nanoseconds: enough to outlast the parent's next turn, little enough
#: that taking it back hardly ever matters.
TARGET_NS = 1_000_000
#: Behind a job that takes longer than this nothing waits in the pipe: the pause until the next one is sent is lost in it,
#: and with hundreds of busy instances nobody need look for one with room.
LONG_NS = 8_000_000
#: The most jobs in flight per worker, and bytes per write (half of a pipe's usual capacity).
MAX_INFLIGHT = 512
MAX_WRITE = 32768
#: Keys without unfinished jobs whose home is remembered.
MOST_HOMES = 65536


class _Home:
    """Where the jobs of a key go."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.unfinished = 0  # jobs of the key


class Scheduler:
    """The queue of jobs, the idle workers, and the rule that joins them.

    Any thread may call :meth:`submit`, :meth:`pump` and :meth:`release`; the rest belongs to the dispatcher.

    Whoever makes a job or a worker available *first* publishes it (appends to the queue or ``idle``) and *then* looks
    whether the other side is there.  So of two threads doing so at once, the later one sees both, and no job is left
    lying beside an idle worker.

    Jobs with a *key* go to one worker, the key's home, as long as that lives.  When such a job gets to the head of the
    queue it moves to its home's own queue, so it holds up nobody behind it.

    Args:
        clock: seconds, as time.monotonic.
        watch: told a time by which the dispatcher has to look, or None for soon.
        round_robin: take idle workers in turn, not the one used last.
        tenants: jobs have tenants; see `Tenants`.  Then nobody else takes workers out of ``idle`` to run jobs there.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        watch: Callable[[float | None], None],
        round_robin: bool = False,
        tenants: bool = False,
    ) -> None:
        self.queue: JobQueue = JobQueue()
        self.idle: deque[Lane] = deque()  #: used as a stack: the last used worker has the warmest caches
        #: takes an idle worker, or raises IndexError
        self.next_idle: Callable[[], Lane] = self.idle.popleft if round_robin else self.idle.pop
        self._put_back: Callable[[Lane], None] = self.idle.appendleft if round_robin else self.idle.append
        #: the same as an iterator: Ctrl-C may come between a call and what is done with its value, but not between taking
        #: something from an iterator and the loop's first statement
        self.takes: Iterator[Lane] = iter(self.next_idle, None)
        self.busy: dict[Lane, None] = {}  #: with jobs in flight of the dispatcher; an ordered set
        self.left: deque[Lane] = deque()  #: have done their last job, or died; for the dispatcher to end or bury
        self._clock = clock
        self._watch = watch
        self._tenants: Tenants | None = Tenants() if tenants else None
        self._lock = threading.Lock()
        self._space = Condition()  # notified when the queue has become shorter and somebody waits for that
        self._waiting_for_space = 0
        self._on_space: deque[Callable[[], None]] = deque()  # told once, likewise
        self._lanes = 0  # how many there are in all
        self._idle_awaited = False  # whether the dispatcher is to be told when one is given back
        self._room = False  # whether some busy worker has nothing waiting behind its job, and may
        self._job_ns: float | None = None  # moving average of a job's duration; None until one was measured
        self._dropped = 0  # jobs in queues that have ended
        self._own: dict[Lane, deque[Job]] = {}  # jobs that only this worker may run; most have keys
        self._homes: dict[int, _Home] = {}  # of keys
        self._vacant: dict[int, None] = {}  # keys whose homes have no unfinished jobs, the longest unused first
        self._crowd: dict[Lane, int] = {}  # how many keys have that home
        self._refused: list[tuple[Job, BaseException]] = []  # jobs that could not be sent, to be told so
        # What `pump` is at, for who finds that it never came to its end; see `_mend`.
        self._pumping = self._interrupted = False
        self._moving: list[Job] = []  # taken from a queue, and in no lane yet
        self._feeding: Lane | None = None  # whose own queue that was
        self._granting: tuple[Lane, Job] | None = None  # taken from `idle`, for that request
        self._deadlines: list[tuple[float, int, weakref.ref[Job]]] = []  # a heap, of jobs that were queued
        self._many_deadlines = 1024  # with more entries, the heap is cleared of those that are of no use
        self._serial = itertools.count()

    # -- asking --------------------------------------------------------------------------------------------------------

    def resting(self, lane: Lane) -> bool:
        """Whether a worker has nothing to do: it is idle, or all was taken back from it."""
        return lane in self.idle or (lane in self.busy and not lane.depth)

    def pending(self) -> int:
        """How many jobs have not been sent to a worker."""
        own = sum(map(len, tuple(self._own.values()))) if self._own else 0
        waiting = 0 if self._tenants is None else len(self._tenants)
        return max(0, len(self.queue) + own + waiting - self._dropped)

    @property
    def lanes(self) -> int:
        """How many workers there are."""
        return self._lanes

    @property
    def job_seconds(self) -> float | None:
        """How long a job takes on average, lately."""
        return None if self._job_ns is None else self._job_ns / 1e9

    # -- jobs come -----------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queue a job, and send it on if a worker is idle or has nothing waiting behind its job.

        Deeper pipes are filled by the dispatcher, many jobs at a time: one write each would cost the submitter more
        than the jobs are worth.
        """
        # Nothing comes between these two, not even Ctrl-C: who finds the one may rely on the other.
        if job.priority:
            with self._lock:
                self.queue.insert(job)
        else:
            job.queued = True
            self.queue.append(job)
        if job.deadline is not _NEVER:
            self._keep_deadline(job, job.deadline.at)
        if self.idle or self._room or job.key is not None or self._tenants is not None:
            self.pump(depth=2)

    def _keep_deadline(self, job: Job, at: float) -> None:
        with self._lock:
            heap = self._deadlines
            if len(heap) > self._many_deadlines:  # perhaps most of them are of jobs that have ended
                heap[:] = [entry for entry in heap if (known := entry[2]()) is not None and not known.done()]
                heapq.heapify(heap)
                self._many_deadlines = 2 * len(heap) + 1024
            self._push_deadline(job)
        self._watch(at)

    def _push_deadline(self, job: Job) -> None:
        heapq.heappush(self._deadlines, (job.deadline.at, next(self._serial), weakref.ref(job)))

    def expired(self, now: float) -> list[Job]:
        """Jobs whose deadlines have passed and that no worker runs: they are to be told so."""
        late: list[Job] = []
        with self._lock:
            while self._deadlines and self._deadlines[0][0] <= now:
                job = heapq.heappop(self._deadlines)[2]()
                if job is not None and not job.in_flight and not job.done():
                    late.append(job)
        return late

    @property
    def next_deadline(self) -> float | None:
        """When `expired` may have something to tell."""
        try:
            return self._deadlines[0][0]
        except IndexError:
            return None

    def dropped(self, job: Job) -> None:
        """A queued job has ended.  It stays where it is until its turn comes, and does not count any more."""
        with self._lock:
            if not job.queued or job.dropped:
                return
            job.dropped = True
            self._dropped += 1
        self._tell_space()

    def wait_for_space(self, most: int, enough: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until fewer than ``most`` jobs are pending, or ``enough()``; false if that took too long."""
        with self._space:
            self._waiting_for_space += 1
            try:
                return self._space.wait_for(lambda: enough() or self.pending() < most, timeout)
            finally:
                self._waiting_for_space -= 1

    def when_space(self, tell: Callable[[], None]) -> None:
        """Call that once when the queue may have become shorter: at the next occasion, in any thread."""
        self._on_space.append(tell)

    def _tell_space(self) -> None:
        if self._waiting_for_space:
            with self._space:
                self._space.notify_all()
        for _ in range(len(self._on_space)):
            try:
                tell = self._on_space.popleft()
            except IndexError:  # another thread was faster
                return
            tell()

    def tell_waiting(self) -> None:
        """Have those who wait for space look again: the pool is closing."""
        with self._space:
            self._space.notify_all()
        self._tell_space()

    def starved(self) -> bool:
        """Whether jobs wait that no worker there is could take now."""
        if self._tenants is not None:
            return len(self._tenants) > 0
        return bool(self.queue) and not self.idle

    def nobody_waits(self) -> bool:
        """Whether no job is queued: only then may a caller take an idle worker itself."""
        queue = self.queue  # looked into, for each direct call asks
        return not (queue.ordinary or queue.levels)

    # -- workers come and go -------------------------------------------------------------------------------------------

    def add(self) -> None:
        """There is one more worker; it is not ready yet."""
        self._lanes += 1

    def gone(self) -> None:
        """There is one worker less."""
        self._lanes -= 1

    def release(self, lane: Lane, unused: bool = False) -> None:
        """Give back a worker taken from ``idle``; to where it was taken from if it is ``unused``."""
        if self._own and self._turns_to_own(lane):
            self.pump()
            return
        if lane.leaving:
            self.leave(lane)
        else:
            put = self._put_back if unused else self.idle.append
            lane.holder = None
            put(lane)
            # It may have died after it answered.  The dispatcher marks it dead first and looks for it in `idle` second;
            # we put it there first and look second: one of us finds the other.
            if lane.port.dead and self.take_idle(lane):
                self.leave(lane)
            if self._idle_awaited:
                self._tell_idle()
        queue = self.queue
        if queue.ordinary or queue.levels or self._own or self._tenants:
            self.pump()

    def _turns_to_own(self, lane: Lane) -> bool:
        """Have a worker that its holder gives back run what waits for it and nobody else; false if nothing does.

        Not by way of ``idle``: there a direct call may be quicker, and the next one too, for ever.
        """
        with self._lock:
            if lane not in self._own:
                return False
            if lane.port.dead:  # as in `_feed_one`; whoever buries it finds what waits
                self.leave(lane)
            else:
                lane.holder = None
                self.busy[lane] = None
                self._feed_own(lane, self._depth())
            return True

    def hungry(self) -> bool:
        """Whether a worker is idle and no job waits for one.  If not, the dispatcher is told when one is given back.

        Of the ends of direct calls it hears nothing otherwise, and may have work to share.
        """
        if self._tenants is not None:  # who is idle may be another's
            return False
        if self.idle and not self.queue:
            return True
        self._idle_awaited = True  # first: whoever gives one back does that, and looks at this second
        return bool(self.idle and not self.queue)

    def _tell_idle(self) -> None:
        self._idle_awaited = False
        self._watch(None)

    def leave(self, lane: Lane) -> None:
        """Hand a worker to the dispatcher for good."""
        lane.holder = None
        self.left.append(lane)
        self._watch(None)

    def retire(self, lane: Lane) -> None:
        """Give a worker no more jobs."""
        with self._lock:
            lane.leave()

    def take_idle(self, lane: Lane) -> bool:
        """Take a worker out of service if it is idle, so that it may be given a job; whether it was.

        One step: looked for first and removed later, it could have been sent jobs in between.
        """
        with self._lock:
            return self._take_idle(lane)

    def take_resting(self, lane: Lane) -> bool:
        """Take a worker out of service for good if it has nothing to do; whether that is so.

        Other than an idle one it may have yet to pass its fence, stopped by somebody perhaps, and cannot be sent jobs.
        """
        with self._lock:
            if lane in self.busy and lane.fenced and not lane.depth and lane not in self._own:
                del self.busy[lane]
                return True
            return self._take_idle(lane)

    def take_all_resting(self, lanes: Sequence[Lane]) -> bool:
        """Take the workers of a process that is to be killed out of service if none has anything to do; whether that is so.

        Those that are idle are taken first: a direct call could take one after a look at it.
        """
        with self._lock:
            taken = []
            for lane in lanes:
                try:
                    self.idle.remove(lane)
                    taken.append(lane)
                except ValueError:
                    if lane not in self.busy or lane.depth:
                        self.idle.extend(taken)
                        break
            else:
                for lane in lanes:
                    lane.leave()
                self.left.extend(taken)
                return True
        self.pump()  # there may be jobs by now for those that we had
        return False

    def _take_idle(self, lane: Lane) -> bool:
        own = () if lane.port.dead else self._own.get(lane, ())
        if own and not (lane.leaving and all(job.bound for job in own)):
            return False
        try:
            self.idle.remove(lane)
        except ValueError:
            return False
        if own:  # jobs for the very instance, which ends
            del self._own[lane]
        return True

    def remove(self, lane: Lane) -> bool:
        """Take a worker that has died out of service; whether the caller is now its holder."""
        with self._lock:
            if lane in self.busy:
                del self.busy[lane]
                return True
            for place in (self.idle, self.left):
                try:
                    place.remove(lane)
                except ValueError:
                    continue
                return True
            waiting = self._evict(lane)  # its holder may not notice for long
            self._requeue(waiting)
        if waiting:
            self.pump()
        return False

    def crash(self, lane: Lane, begun: int) -> tuple[Job | None, list[Job]]:
        """Of a dead worker that we hold: the job it was running, if any, and what others may run of the rest in flight.

        Until `bury`, it stays the home of its keys: jobs that come meanwhile wait behind those that come back.
        """
        with self._lock:
            guilty, rest = lane.crash(begun)
        return guilty, [job for job in rest if not job.bound]

    def bury(self, lane: Lane, left: Sequence[Job]) -> None:
        """Of a dead worker that we hold: what is left of all it was to do waits for others now, in its order."""
        with self._lock:
            if self._tenants is not None:
                self._tenants.gone(lane.port.process)
            self._requeue([*left, *self._evict(lane)])

    def _evict(self, lane: Lane) -> list[Job]:
        """A dead worker is nobody's home any more; the jobs that waited for it."""
        for key in [key for key, home in self._homes.items() if home.lane is lane]:
            del self._homes[key]
            self._vacant.pop(key, None)
        self._crowd.pop(lane, None)
        return [job for job in self._own.pop(lane, ()) if not job.bound]

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Put what is left of a job, or a job to be run again, before all others."""
        with self._lock:
            self._requeue(jobs)

    def _requeue(self, jobs: Sequence[Job]) -> None:
        again = []
        for job in jobs:
            if job.expired:
                self._passed(job)
                self._finished(job)
            else:
                self._queued_again(job)
                again.append(job)
        self.queue.give_back(again)

    def _queued_again(self, job: Job) -> None:
        job.queued = True
        # `expired` has passed it over, and forgotten it, if its time was up while it was in flight behind another.
        if job.deadline.at <= self._clock():
            self._push_deadline(job)
            self._watch(None)

    def adopt(self, lane: Lane, job: Job, since: float, taken: bool) -> None:
        """Take over a worker with the job that it runs for its holder; see `Lane.adopt`."""
        with self._lock:
            lane.adopt(job, since, taken)
            if job.deadline is not _NEVER:  # it may be queued yet, if its worker dies
                self._push_deadline(job)
            self.busy[lane] = None

    def assign(self, lane: Lane, job: Job) -> None:
        """As the holder of a worker: have it run that very job."""
        with self._lock:
            self.busy[lane] = None
            job.begin()
            self._send(lane, [job])

    def take_queued(self) -> list[Job]:
        """Take all jobs that no worker has been sent."""
        with self._lock:
            jobs = self.queue.clear()
            if self._tenants is not None:
                jobs += self._tenants.clear()
            for lane in tuple(self._own):
                own = self._own.pop(lane)
                for job in own:
                    self._finished(job)
                jobs.extend(own)
            for job in jobs:
                self._passed(job)
        return jobs

    # -- answers come --------------------------------------------------------------------------------------------------

    def answered(self, lane: Lane, count: int) -> None:
        """So many jobs at the head of a lane were answered."""
        with self._lock:
            for job in lane.answered(count, self._clock()):
                if job.key is not None:
                    self._finished(job)

    def settle(self, lane: Lane) -> None:
        """After replies: the worker is idle if nothing is in flight, and may be sent more."""
        with self._lock:
            if lane in self.busy and lane.quiet:
                del self.busy[lane]
                if not lane.leaving or lane in self._own:
                    self.idle.append(lane)
                else:  # not by way of `idle`, from where it would be sent a next job and never get away
                    self.left.append(lane)
        self.pump()

    def measured(self, job_ns: float) -> None:
        """Learn how long jobs take now."""
        self._job_ns = job_ns if self._job_ns is None else 0.7 * self._job_ns + 0.3 * job_ns

    def fence(self, lane: Lane, begun: int) -> tuple[int, int] | None:
        """Begin to take back what a worker has not begun; the numbers to put on its board, if there are any."""
        with self._lock:
            return lane.fence(begun, self._clock())

    def withdraw(self, lane: Lane, begun: int) -> None:
        """What lies behind a worker's fence waits for others now, in its place."""
        with self._lock:
            self._returned(lane, lane.withdraw(begun))
        self.settle(lane)

    def passed(self, lane: Lane, start: int) -> None:
        """A worker has passed its fence, and skipped from the job of that number on."""
        with self._lock:
            self._returned(lane, lane.passed(start))

    def _returned(self, lane: Lane, jobs: list[Job]) -> None:
        own = [job for job in jobs if (job.bound or job.key is not None) and not job.expired]
        if own:  # only this worker may run them
            for job in own:
                self._queued_again(job)
            self._own.setdefault(lane, deque()).extendleft(reversed(own))
        self._requeue([job for job in jobs if job.expired or not (job.bound or job.key is not None)])

    def write_more(self, lane: Lane) -> bool:
        """Write what a pipe would not take before; whether it took all."""
        with self._lock:
            if not lane.port.dead:
                lane.write(self._clock())
            return not lane.unwritten

    # -- joining the two -----------------------------------------------------------------------------------------------

    def pump(self, depth: int = MAX_INFLIGHT) -> None:
        """Send queued jobs to workers, up to ``depth`` in flight in each, until one of the two runs out."""
        try:
            with self._lock:
                if self._pumping:
                    self._mend()
                self._pumping = True
                while True:
                    if self._own:
                        self._feed_owning(depth)
                    while self.queue and self._feed_one(depth):
                        pass
                    if self._tenants is not None:
                        self._feed_tenants(self._tenants)
                    self._room = self._depth() > 1 and any(lane.depth < 2 and lane.open for lane in self.busy)
                    # A job queued before `_room` was set was not pumped by its submitter; see it now.
                    if not (self.queue and self._feed_one(depth)):
                        break
                self._pumping = False
            if self._idle_awaited and self.idle:
                self._tell_idle()
            if self._refused:
                self._tell_refused()
            if self._waiting_for_space or self._on_space:
                self._tell_space()
        except BaseException:  # Ctrl-C in a submitter's thread
            self._interrupted = True
            self._watch(None)
            raise

    def mend(self) -> None:
        """For the dispatcher: put right what a `pump` that Ctrl-C has ended left undone, if one has."""
        if self._interrupted:
            self._interrupted = False
            self.pump()  # which mends first

    def _mend(self) -> None:
        """Find out how far an interrupted `pump` came.

        Ctrl-C comes where a function begins or has been called, and where a loop goes back to its start, but not between
        other steps.  So what `pump` takes from one place it has either in another, or written down in `_moving`.
        """
        moving, self._moving = self._moving, []
        left = [job for job in moving if not job.in_flight]
        if self._tenants is not None:
            left = [job for job in left if job not in self._tenants]
        for job in [job for job in left if job.done()]:
            left.remove(job)
            self._passed(job)
            self._finished(job)
        if self._feeding is None:
            self._requeue(left)
        else:
            self._returned(self._feeding, left)
        self._feeding = None
        for each in [each for each, own in self._own.items() if not own]:
            del self._own[each]
        if self._granting is not None:
            granted, lessee = self._granting
            if not lessee.ended_in(granted):
                self.idle.append(granted)
            self._granting = None
        for each in tuple(self.busy):
            self._back_to_idle(each)
        self.queue.tidy()
        self._pumping = False

    def _tell_refused(self) -> None:
        """Without the lock, for what a job does at its end is its own affair."""
        for refused in tuple(self._refused):
            job, error = refused
            job.fail(error)
            with suppress(ValueError):  # another thread was faster
                self._refused.remove(refused)

    def _depth(self) -> int:
        """How many jobs may be in flight in one worker."""
        if self._job_ns is None or self._job_ns > LONG_NS:
            return 1  # nothing goes behind a job of unknown length
        return min(MAX_INFLIGHT, max(2, int(TARGET_NS / max(self._job_ns, 1))))

    @staticmethod
    def _takes(lane: Lane, job: Job, depth: int) -> bool:
        """Whether the job may go behind those in flight."""
        if job.buffers:  # of bounded length, so its own length need not be known
            return lane.buffers > 0 and lane.depth < max(depth, 2) and lane.open
        return lane.depth < depth and lane.open

    def _feed_owning(self, depth: int) -> None:
        """Send workers what waits for them and nobody else."""
        depth = min(depth, self._depth())
        for lane in tuple(self._own):
            if lane not in self.busy:
                try:
                    for _ in map(self.idle.remove, (lane,)):  # in one step with what follows, as far as Ctrl-C goes
                        self.busy[lane] = None
                except ValueError:  # in a direct call or a lease, which will give it back
                    continue
                if lane.port.dead:  # as in `_feed_one`
                    del self.busy[lane]
                    self.leave(lane)
                    continue
            elif not self._takes(lane, self._own[lane][0], depth):
                continue
            self._feed_own(lane, depth)

    def _feed_own(self, lane: Lane, depth: int) -> None:
        """Send a worker that is among the busy ones what waits for it."""
        own = self._own[lane]
        self._feeding = lane
        self._send(lane, self._take(own, max(1, depth - lane.depth), lane.buffers, own=True))
        self._feeding = None
        if not own:
            del self._own[lane]
        self._back_to_idle(lane)

    def _feed_one(self, depth: int) -> bool:
        """Send one worker its share of the queue; false if no worker takes any."""
        front = self.queue.front()
        if self._tenants is not None:
            self._wait_by_tenant(self._tenants, front)
            return True
        first = front[0]
        if first.key is not None:
            return self._go_home(front, first.key)
        if first.exclusive:
            return self._hand_over(front)
        depth = min(depth, self._depth())
        lane: Lane
        try:
            for lane in self.takes:  # a direct call may take the last one first
                self.busy[lane] = None
                break
        except IndexError:
            if depth == 1 and not first.buffers:
                return False
            takers = [lane for lane in self.busy if self._takes(lane, first, depth)]
            if not takers:
                return False
            lane = min(takers, key=_lane_depth)
        else:
            # Dead already: nobody would look for the jobs it was sent.  If it dies after this, the dispatcher, which needs
            # our lock to look for it, finds it in `busy`.
            if lane.port.dead:
                del self.busy[lane]
                self.leave(lane)
                return True
        share = -(-len(self.queue) // max(self._lanes, 1))
        self._send(lane, self._take(front, max(1, min(depth - lane.depth, share)), lane.buffers))
        self._back_to_idle(lane)
        return True

    def _back_to_idle(self, lane: Lane) -> None:
        """Nothing came of sending a worker something: all jobs had ended, or could not be sent."""
        if lane.quiet and lane in self.busy:
            del self.busy[lane]
            if lane.leaving:
                self.leave(lane)
            else:
                self.idle.append(lane)

    def _go_home(self, front: deque[Job], key: int) -> bool:
        """Move the first job of the queue to the own queue of its key's home; false if there is no worker at all yet."""
        home = self._homes.get(key)
        # One that has died with unfinished jobs is still where they are, and so where those behind them have to go.
        if home is None or (not home.unfinished and (home.lane.port.dead or home.lane.leaving)):
            here = [lane for lane in (*self.idle, *self.busy) if not lane.leaving and not lane.port.dead]
            if not here:
                return False
            if home is not None:
                self._moves_out(home)
            home = _Home(min(here, key=lambda lane: (lane.depth + len(self._own.get(lane, ())), self._crowd.get(lane, 0))))
            self._crowd[home.lane] = self._crowd.get(home.lane, 0) + 1
            self._homes[key] = home
        self._vacant.pop(key, None)
        job = front[0]
        own = self._own.setdefault(home.lane, deque())
        ended = job.expired or job.cancelled()
        del front[0]
        if not ended:
            home.unfinished += 1
            own += (job,)
        self.queue.taken(front)
        if ended:
            self._passed(job)
            if not home.unfinished:
                self._vacate(key)
        if not own:
            del self._own[home.lane]
        self._feed_owning(MAX_INFLIGHT)
        return True

    def _moves_out(self, home: _Home) -> None:
        if home.lane in self._crowd:
            self._crowd[home.lane] -= 1

    def _vacate(self, key: int) -> None:
        """A key has no unfinished jobs: its home is forgotten some time.  Before, their order would be lost."""
        self._vacant[key] = None
        if len(self._vacant) > MOST_HOMES:
            longest_unused = next(iter(self._vacant))
            del self._vacant[longest_unused]
            self._moves_out(self._homes.pop(longest_unused))

    def _finished(self, job: Job) -> None:
        """A job with a key will not run any more."""
        home = self._homes.get(job.key) if job.key is not None else None
        if job.key is not None and home is not None and home.unfinished:
            home.unfinished -= 1
            if not home.unfinished:
                self._vacate(job.key)

    def _wait_by_tenant(self, tenants: Tenants, front: deque[Job]) -> None:
        """Move the first job of the queue to where its tenant's wait."""
        self._moving += (front[0],)
        del front[0]
        self.queue.taken(front)
        tenants.add(self._moving[0])
        self._moving = []

    def _feed_tenants(self, tenants: Tenants) -> None:
        """Send each tenant's jobs to workers of its own, one at a time, and have others replaced for who has none."""
        while any(self._feed_tenant(tenants, tenant) for tenant in tenants.in_turn()):
            pass
        leaving = tenants.to_leave(tuple(self.idle), tuple(self.busy))
        if leaving is not None:
            leaving.outdate()
            self._watch(None)

    def _feed_tenant(self, tenants: Tenants, tenant: str) -> bool:
        """Give a tenant's first job to a worker; false if there is none for it."""
        lane = tenants.lane(tenant, tuple(self.idle))
        if lane is None:
            return False
        tenants.claim(lane.port.process, tenant)
        waiting = tenants.queue(tenant)
        front = waiting.front()
        if front[0].exclusive:
            self.idle.remove(lane)
            self._give(front, waiting, lane)
        else:
            for _ in map(self.idle.remove, (lane,)):  # in one step with what follows, as far as Ctrl-C goes
                self.busy[lane] = None
            self._send(lane, self._take(front, 1, lane.buffers, own=True))
            waiting.taken(front)
            self._back_to_idle(lane)
        tenants.served(tenant)
        return True

    def _hand_over(self, front: deque[Job]) -> bool:
        """Give the first job of the queue, which is a request for a worker, an idle one; false if there is none."""
        job = front[0]
        lane: Lane
        try:
            for lane in self.takes:
                self._granting = lane, job
                break
        except IndexError:
            return False
        if lane.port.dead:
            self.left += (lane,)
            self._granting = None
            self._watch(None)
            return True
        self._give(front, self.queue, lane)
        return True

    def _give(self, front: deque[Job], queue: JobQueue, lane: Lane) -> None:
        """Give a worker that was taken from ``idle`` to the first job of a queue, which asks for one."""
        job = front[0]
        self._granting = lane, job
        self._moving += (job,)
        del front[0]
        queue.taken(front)
        self._passed(job)
        # It may have ended in this moment, and then nobody would ever give the worker back.
        if not (job.begin() and job.succeed(lane)):
            self.idle += (lane,)
        self._granting = None
        self._moving = []

    def _take(self, queue: deque[Job], count: int, buffers: int, own: bool = False) -> list[Job]:
        """Up to ``count`` jobs from a queue that have not ended meanwhile; from now on they cannot be cancelled there."""
        size = 0
        while len(self._moving) < count and queue and size < MAX_WRITE:
            job = queue[0]
            # A job with a key, or for a worker of its own, waits for its turn at the head.
            if job.buffers > buffers or (not own and (job.exclusive or job.key is not None)):
                break
            self._moving += (job,)
            del queue[0]
            if job.begin():
                job.queued = False
                buffers -= job.buffers
                size += len(job.frame)
            else:
                del self._moving[-1]
                self._passed(job)
                self._finished(job)
        if not own:
            self.queue.taken(queue)
        return self._moving

    def _passed(self, job: Job) -> None:
        """A job came to its turn, and had ended."""
        job.queued = False
        self._dropped -= job.dropped
        job.dropped = False

    def _send(self, lane: Lane, jobs: list[Job]) -> None:
        if not jobs:
            return
        refused = lane.send(jobs, self._clock())
        if refused:
            self._refused.extend(refused)
            for job, _ in refused:
                self._finished(job)
        self._moving = []
        if len(refused) == len(jobs):
            return
        lane.write()
        head = lane.head
        assert head is not None
        if lane.depth > 1 or lane.unwritten or head.buffers:
            self._watch(None)
        elif head.limit is not None:
            self._watch(self._clock() + head.limit)


def _lane_depth(lane: Lane) -> int:
    return lane.depth
