"""The one thread of a pool: hears workers, and keeps time."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from .. import wire
from ..deadline import Deadline
from ..errors import BadImport, BadSnapshot, CallTimeout, PoolClosed, PoolFull, ProcpoolError, StartupError
from ..options import PoolOptions
from ..weak import WeakBag
from .awaiting import ended
from .condition import Moment
from .delivery import Delivery
from .events import Journal
from .fork_mark import fork_mark
from .jobs.batch import Segment, segment_of
from .jobs.call import Abandoned, Job, Purge
from .jobs.chunk import Chunk
from .keys import Keys
from .lane import Lane, Nonsense
from .launch import CLOSE_GRACE, Inheritance
from .overseer import Overseer
from .population import Population
from .port import DEAD, READY, STOPPING, Port
from .printed import Printed
from .scheduler import Scheduler
from .watch import Watch

if TYPE_CHECKING:
    from .lease import Lease

J = TypeVar("J", bound=Job)

logger: logging.Logger = logging.getLogger("procpool")

#: Bytes read from a worker's socket at once, and how often before others get their turn.
RECEIVE_BYTES = 262144
RECEIVE_TIMES = 16
#: Seconds for which `terminate` waits for the user's callbacks.
CALLBACK_GRACE = 1.0


def _nothing() -> None:
    pass


def _log(payload: bytes) -> None:
    """Log here what was logged in a worker."""
    record = wire.record_from_bytes(payload)
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        target.handle(record)


#: Pools that run, for the two things that reach a pool from nowhere: a fork of the process, and its end.
_live: WeakBag[Dispatcher] = WeakBag()


def _forsake_all() -> None:
    for dispatcher in _live:
        dispatcher.forsake()


def _terminate_all() -> None:
    for dispatcher in _live:
        dispatcher.notice_fork()
        dispatcher.terminate()


os.register_at_fork(after_in_child=_forsake_all)
# Not atexit: that comes after the interpreter has waited for all threads, and one in an endless call would never end.
# As concurrent.futures does.
threading._register_atexit(_terminate_all)  # type: ignore[attr-defined]


class Dispatcher:
    """Runs a pool's workers.  Everything below `_run` happens in its thread; the rest may be called from any.

    Owns all it is given from when it is made; if it cannot be made, the caller still does.

    Raises:
        OSError, RuntimeError: there are no descriptors or threads left.
    """

    def __init__(self, inheritance: Inheritance, options: PoolOptions, delivery: Delivery, journal: Journal) -> None:
        self.options = options
        self.leases: WeakBag[Lease] = WeakBag()
        self.closing: bool = False  #: nothing new is taken any more but jobs of maps under way, and leases end
        self.closed: bool = False  #: nor these
        self.forked: bool = False  #: this is a child of the process that made the pool
        self.terminated: bool = False
        self.attentive: bool = False  #: direct calls should wake the thread when they are done
        self._inheritance = inheritance
        self._watch = Watch()
        self._delivery = delivery
        self._log = self._delivery.strand()
        self.hear_log: Callable[[bytes], None] = _log  #: takes what was logged in a worker; in a thread for user code
        self._printed = Printed(options.wasi, self._delivery.strand())
        self.keys: Keys = Keys()
        self.journal: Journal = journal
        self.scheduler: Scheduler = Scheduler(monotonic, self._look_by, options.round_robin)
        self.population: Population = Population(
            inheritance, options, self.scheduler, self.journal, self._watch, self._hear, self._printed.ended
        )
        population = self.population
        self._overseer = Overseer(self.scheduler, self.journal, options.kill_grace, population.kill, population.lanes)
        self._startup: Moment[None] = Moment()  # the first worker is ready, or why none will be
        self._awaited: list[tuple[Moment[None], Callable[[], bool]]] = []  # ends when it is so
        self._endings: list[Moment[None]] = []
        self._ending = threading.Lock()
        self._admitting = threading.Lock()
        self._commands: deque[Callable[[], None]] = deque()
        self._looks_at = 0.0  # when the thread wakes by itself
        self._again = False  # it has made work for itself that it has passed in this round
        self._swept = False  # the queue has been emptied for good
        self._deaf = False  # the thread has run its last command; whoever has another runs it
        self._stopped: Moment[None] = Moment()  # the workers have ended, and all is closed
        self._ended = False  # and the callbacks
        self._thread = threading.Thread(target=self._run, name="procpool-dispatcher", daemon=True)
        self._unforked = fork_mark()
        delivery.wake = self.look_again
        _live.add(self)
        try:
            self._thread.start()
        except BaseException:  # there are too many threads
            _live.discard(self)
            self._watch.close()
            raise

    # -- from any thread -----------------------------------------------------------------------------------------------

    @property
    def lanes(self) -> int:
        """Workers that there are, one for each instance of a process."""
        return self.scheduler.lanes

    @property
    def retries(self) -> int:
        """How often a job is run again whose worker died, unless it says otherwise."""
        return self.options.retries

    def wait_started(self) -> None:
        """Block until the first worker is ready.

        Raises:
            StartupError: no worker gets that far.
            BadImport: modules do not fit each other.
            Whatever the user's own code raised at the start of one.
        """
        self._startup.result()
        if self.population.unfit is not None and self.population.broken is not None:
            error = wire.loaded(self.population.unfit)
            if isinstance(error, ProcpoolError) and not isinstance(error, (BadImport, BadSnapshot)):
                raise self.why_closed() from error
            raise error

    def do(self, command: Callable[[], None]) -> None:
        """Have the dispatcher's thread run something soon.  Takes no lock that a finalizer's thread might hold."""
        if self.forked:
            return
        self._commands.append(command)
        self._commanded()

    def _commanded(self) -> None:
        self.look_again()
        if self._deaf:
            self._run_commands()

    def look_again(self) -> None:
        """Wake the thread, because something it keeps the time of has changed."""
        if threading.current_thread() is self._thread:
            self._again = True
        else:
            self._watch.wake()

    def _look_by(self, at: float | None) -> None:
        """Have the thread look at that time, None for soon."""
        # Whoever calls this has published what there is to see; the thread publishes when it will look, and only then looks
        # for the last time what there is.
        if at is None or at < self._looks_at:
            self.look_again()
        if self._deaf:
            self._close_left()

    def submit(self, job: J, deadline: Deadline = Deadline.NEVER) -> J:
        """Queue a job, which ends by the deadline; the job, which is cancelled if this raises.

        Raises:
            PoolClosed, StartupError: no more jobs are taken.
            PoolFull: the queue is full, and stayed so.
            CallTimeout: it was full until the deadline.
        """
        job.deadline = deadline
        most = self.options.max_pending
        try:
            if most is None:
                self._enqueue(job)
            else:
                self._enqueue_when_room(job, most)
        except BaseException:  # Ctrl-C may come when it is queued already
            job.cancel()
            raise
        return job

    def _enqueue_when_room(self, job: Job, most: int) -> None:
        full = Deadline.after(self.options.full_timeout) if self.options.full_timeout else Deadline.NEVER
        while not self._admit(job, most):
            until = full.sooner(job.deadline)
            self.scheduler.wait_for_space(most, lambda: self.closing, until.remaining())
            if until.passed():
                raise self.no_room(job, job.deadline)

    def offer(self, job: Job, deadline: Deadline = Deadline.NEVER) -> Future[None] | None:
        """Queue a job without waiting for room: None if there was some, or what ends when it has been queued.

        Cancelling that takes the offer back.

        Raises:
            PoolClosed, StartupError: no more jobs are taken.
            PoolFull: the queue is full, and ``on_full`` is "raise".
        """
        job.deadline = deadline
        most = self.options.max_pending
        if most is None:
            self._enqueue(job)
            return None
        if self._admit(job, most):
            return None
        taken: Moment[None] = Moment()

        def try_again() -> None:
            try:
                if taken.cancelled():
                    return
                self.check_open()  # before the lock: after the end, it may be its very holder who runs this
                with self._admitting:
                    room = not self._full(most)
                    # Cancelling `taken` is in vain from here on, and who tries waits: queued first, and said to be second.
                    if room and taken.set_running_or_notify_cancel():
                        self._enqueue(job)
                if not room:
                    self.on_room(lambda: self.do(try_again))
                elif not taken.cancelled():
                    taken.set_result(None)
            except Exception as error:
                taken.fail(error)

        self.do(try_again)
        return taken

    def try_submit(self, job: Job) -> bool:
        """Queue a job of a map if there is room, also while the pool takes no others; whether there was.

        Raises:
            PoolClosed, StartupError: nothing runs any more.
        """
        most = self.options.max_pending
        if most is None:
            self._enqueue(job, of_map=True)
            return True
        if self.closed:
            raise self.why_closed()
        with self._admitting:
            if self._full(most) and not self.closed:
                return False
            self._enqueue(job, of_map=True)
            return True

    def try_submit_chunk(self, chunk: Chunk) -> bool:
        """The same for a stretch of a map."""
        return self.try_submit(segment_of(chunk))

    def on_room(self, callback: Callable[[], None]) -> None:
        """Call something quick once, from any thread, when there may be room in the queue or the pool is closed."""
        self.scheduler.when_space(callback)
        if self.closed or not self._full(self.options.max_pending or 1):
            self.scheduler.tell_waiting()

    def _full(self, most: int) -> bool:
        return self.scheduler.pending() >= most

    def _admit(self, job: Job, most: int) -> bool:
        self.check_open()  # before the lock: in a forked child, who holds it may not exist
        with self._admitting:  # or several would find the same room
            if self._full(most) and not self.closing:
                if self.options.full_timeout == 0:
                    raise self.no_room(job, Deadline.NEVER)
                return False
            self._enqueue(job)
            return True

    def no_room(self, job: Job, deadline: Deadline) -> CallTimeout | PoolFull:
        """Why a job that found no room in the queue is not waited with any longer."""
        if deadline.passed():
            return CallTimeout(f"{job.name} found no room in the queue within {job.timeout_text()}")
        most = self.options.max_pending
        return PoolFull(f"{most} jobs are waiting already, and max_pending={most}")

    def _enqueue(self, job: Job, of_map: bool = False) -> None:
        if not self._unforked():
            self.notice_fork()
        if self.closed or (self.closing and not of_map):
            raise self.why_closed()
        job.owner = self
        self.scheduler.submit(job)
        if self.options.min_workers is not None and self.scheduler.queue:
            self.look_again()  # there may be a reason for more workers
        # The thread may have swept the queue for the last time between the check and the submission.
        if self._swept:
            self._sweep()

    def resize(self, workers: int) -> None:
        """Have that many workers from now on."""
        if self.closed:
            raise self.why_closed()

        def resize() -> None:
            self.population.want(workers)
            self.journal.note("resized", None, f"{workers} workers are wanted")

        self.do(resize)

    def when_ready(self) -> Future[None]:
        """What ends when as many workers as are wanted are ready."""
        return self._when(self.population.complete)

    def when_drained(self) -> Future[None]:
        """What ends when nothing is queued and nothing runs."""
        return self._when(self._quiet)

    def when_replaced(self) -> Future[None]:
        """Replace all workers, each when another is ready; what ends when that is done."""
        if self.closed:
            raise self.why_closed()
        old: list[int] = []
        self.do(lambda: old.extend(process.id for process in self.population.replace()))
        # Complete too, for an old one may have died and not left to another.
        return self._when(lambda: not any(id in self.population.present for id in old) and self.population.complete())

    def when_ended(self) -> Future[None]:
        """What ends when all processes have, and the callbacks of all jobs; for a callback, that is at once."""
        happened: Moment[None] = Moment()
        self.notice_fork()
        if self.forked:  # and who held the lock may not exist
            happened.set_result(None)
            return happened
        with self._ending:
            if self._ended or self._delivery.inside() or threading.current_thread() is self._thread:
                happened.set_result(None)
            else:
                self._endings.append(happened)
        return happened

    def _when(self, condition: Callable[[], bool]) -> Future[None]:
        if self.closed:
            raise self.why_closed()
        happened: Moment[None] = Moment()
        self.do(lambda: self._await(happened, condition))
        return happened

    def _await(self, happened: Moment[None], condition: Callable[[], bool]) -> None:
        if self._deaf:
            happened.fail(self.why_closed())
            return
        self.attentive = True
        self._awaited.append((happened, condition))

    def _quiet(self) -> bool:
        lanes = [lane for process in self.population.present.values() for lane in self.population.lanes(process)]
        ready = [lane for lane in lanes if lane.port.state == READY]
        return not self.scheduler.pending() and all(map(self.scheduler.resting, ready))

    def check_open(self) -> None:
        """For those who want to begin something.

        Raises:
            PoolClosed, StartupError: nothing new is taken any more.
        """
        self.notice_fork()
        if self.closing:
            raise self.why_closed()

    def why_closed(self) -> ProcpoolError:
        """A fresh exception for a use of the closed pool."""
        if self.forked:
            return PoolClosed("this pool was made before a fork; its workers belong to the parent process, make a new one")
        if self.population.broken is not None:
            error = StartupError(*self.population.broken.args)
            error.__cause__ = self.population.broken.__cause__
            return error
        return PoolClosed("this pool was shut down")

    # What a job asks of its owner.

    def post(self, code: Callable[[], object]) -> None:
        """Run the user's code where it harms nobody."""
        self._delivery.post(code)

    def strand(self) -> Callable[[Callable[[], object]], None]:
        """The same in order."""
        return self._delivery.strand()

    def failed(self) -> None:
        """A job has ended in an exception."""
        self.journal.job_failed()

    def key_free(self, key: int) -> None:
        """A job with that key has ended."""
        self.keys.release(key)

    def cancelled(self, job: Job, queued: bool) -> None:
        """Stop a cancelled job where it runs, or take it back from a worker that has not begun it."""
        if self.forked:
            return
        if queued:
            self.scheduler.dropped(job)
            return

        def take_back() -> None:
            # It may have come back before it was cancelled.  And who was about to send it has, after this.
            self.scheduler.dropped(job)
            if not job.in_flight:
                return
            for lane in list(self.scheduler.busy):
                if not lane.fenced and any(job is waiting for waiting in lane.waiting()):
                    self._overseer.withdraw(lane)

        self.do(take_back)

    def abandon(self, chunk: Chunk) -> None:
        """Run no more of a chunk: nobody waits for it.  For finalizers too."""
        chunk.abandon()
        self.do(_nothing)

    # For those who hold a worker.

    def adopt(self, lane: Lane, name: str, timed_out: bool, used: bool) -> None:
        """Take over a worker whose caller in a direct call has left, and stop what it runs.

        Args:
            used: nobody else may see its instance.
        """

        def take_over() -> None:
            self.failed()
            if timed_out:
                self.journal.note("timeout", lane.port.process.pid, f"a call of {name} ran out of time")
            self._keep(lane, Abandoned(name), monotonic(), False, used)

        self._hand_over(lane, take_over)

    def keep(self, lane: Lane, job: Job, since: float, taken: bool) -> None:
        """Take over a worker with the job that it runs for its holder.  The answer comes by the replies pipe.

        Args:
            since: when its holder sent it.
            taken: it went by the page, and the worker has begun it, which the board does not say.
        """
        self._hand_over(lane, lambda: self._keep(lane, job, since, taken, False))

    def _keep(self, lane: Lane, job: Job, since: float, taken: bool, used: bool) -> None:
        port = lane.port
        if self._deaf:
            port.close()
            job.fail(self.why_closed())
            return
        self.scheduler.adopt(lane, job, since, taken)
        if port.dead:
            self.scheduler.remove(lane)
            self.population.bury(lane)
        else:
            self._watch.read(port.replies_fd, lambda: self._hear_adopted(lane, used))

    def lost(self, lane: Lane, deadline: Deadline, posted: bool) -> bool:
        """For the holder of a worker whose pipe has closed: wait for its end, and leave the rest to us.

        Args:
            posted: the job went by the page, and the worker had taken it.

        Returns:
            Whether it had begun the job of its holder.  Its exit code is None if that is not known by the deadline.
        """
        process = lane.port.process
        self.do(lambda: self.population.expect_end(process))  # it may have closed this pipe and live on
        ended(process.exited, deadline.sooner(Deadline.after(2 * CLOSE_GRACE)))
        begun = posted or lane.has_begun(lane.port.begun)
        if begun:
            lane.served()

        def take_over() -> None:
            if self._deaf:
                lane.port.close()
            elif process.exited.done():
                self.population.bury(lane)
            else:  # until then its place is not free
                lane.port.park()

        self._hand_over(lane, take_over)
        return begun

    def take_back(self, lane: Lane) -> None:
        """Take over a worker with whose instance nobody knows what was done: it is asked to throw that away, as a job."""

        def take_over() -> None:
            if lane.port.dead:
                self.scheduler.leave(lane)
            elif self.closed and not self.scheduler.pending():  # it serves nobody any more
                self.scheduler.release(lane)
            else:
                self.scheduler.assign(lane, Purge())

        self._hand_over(lane, take_over)

    def _hand_over(self, lane: Lane, take_over: Callable[[], None]) -> None:
        """As the holder of a worker: `do`, after which it is not ours; Ctrl-C cannot come between the two."""
        if self.forked:
            return
        lane.holder = None
        self._commands.append(take_over)
        self._commanded()

    def nonsense(self, lane: Lane, error: Exception) -> None:
        """For the holder of a worker that has sent what no sound worker sends: have it killed."""
        self.do(lambda: self.population.kill(lane.port.process, f"it sent nonsense: {error}"))

    # The end.

    def cancel_queued(self) -> None:
        """Cancel all jobs that no worker has been sent."""
        for job in self.scheduler.take_queued():
            if isinstance(job, Segment) or not job.cancel():
                job.fail(CancelledError())

    def finish(self) -> None:
        """From now on take jobs of maps only, and let nobody keep the workers that these need."""
        self.closing = self.attentive = True
        self.scheduler.tell_waiting()
        self.look_again()

    def close(self, kill: bool = False) -> None:
        """Let the workers finish what is queued, or kill them, then end.  Does not wait."""
        self.notice_fork()
        if self.forked:
            return
        self.closing = self.closed = True
        self.terminated = self.terminated or kill
        self.attentive = True
        self.scheduler.tell_waiting()
        self.look_again()

    def close_soon(self) -> None:
        """`close`, for finalizers."""
        self.do(self.close)

    def terminate(self) -> None:
        """Kill the workers and wait until everything has ended, but not for ever for the user's callbacks."""
        self.notice_fork()
        if self.forked:
            return
        self.close(kill=True)
        if threading.current_thread() is not self._thread:
            ended(self._stopped, Deadline.NEVER)
            if not self._delivery.inside():
                self._delivery.close(CALLBACK_GRACE)
                self._tell_ended()  # nobody need wait for callbacks that never end

    def notice_fork(self) -> None:
        """Find out about a fork that Python was not told of, as by C code that calls fork() itself.

        Not asked by blocking calls of exports, which would take some 50 ns longer each.
        """
        if not self._unforked() and not self.forked:
            self.forsake()

    def forsake(self) -> None:
        """In a forked child: let go of everything, touching no lock (its owner may not exist here) and no worker."""
        self.closing = self.closed = self.forked = True
        self._stopped = Moment()
        self._stopped.come(None)
        self.population.forsake()
        self._inheritance.close()
        self._watch.forsake()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._finished():
                seconds = self._keep_time()
                self._watch.wait(0.0 if self._again else seconds)
                self._run_commands()
                self._again = False  # what there was to see until now is seen from here on
                self.population.let_go()
                if self.population.broken is not None and not self.terminated:
                    self.close(kill=True)
                if self._awaited:
                    self._tell_awaiting()
        except BaseException:
            logger.exception("procpool: the dispatcher failed; the pool is closed")
            self.close(kill=True)
            raise
        finally:
            self._tear_down()

    def _run_commands(self) -> None:
        while True:
            try:
                command = self._commands.popleft()
            except IndexError:
                return
            command()

    def _keep_time(self) -> float | None:
        """Do what is due, and say how long nothing will be, in seconds; None for ever."""
        while True:
            # A pool that is shut down finishes its jobs, so it replaces the workers it needs for that.
            if not self.closed or self.scheduler.pending():
                self.population.start_missing(self.closed)
            self.scheduler.mend()
            now = monotonic()
            due = self.population.keep_time(now)
            for lane in list(self.scheduler.busy):
                if lane.unwritten and not self._watch.knows(lane.port.jobs_fd):
                    self._watch.write(lane.port.jobs_fd, lambda lane=lane: self._write_more(lane))  # type: ignore[misc]
                due.extend(self._overseer.look_after(lane, now))
            for job in self.scheduler.expired(now):
                if job.expire():
                    self.journal.note("timeout", None, f"{job.name} outlived its limit before it began")
                    self.scheduler.dropped(job)
                    due.append(now)  # somebody may wait for the end of the last one
            delivers_at = self._delivery.keep_time(now)
            if delivers_at is not None:
                due.append(delivers_at)
            self._looks_at = min(due, default=float("inf"))
            deadline = self.scheduler.next_deadline
            if deadline is None or deadline >= self._looks_at:
                break
            self._looks_at = deadline
            if self.scheduler.next_deadline == deadline:
                break
        return None if self._looks_at == float("inf") else max(0.0, self._looks_at - monotonic())

    def _tell_awaiting(self) -> None:
        waiting = self._awaited
        self._awaited = []
        for happened, condition in waiting:
            if happened.cancelled():
                continue
            if condition():
                happened.come(None)
            else:
                self._awaited.append((happened, condition))
        self.attentive = self.closing or bool(self._awaited)

    def _finished(self) -> bool:
        if not self.closing:
            return False
        if self.terminated:
            return True
        for lease in self.leases:
            lease.revoke()
        if not self.closed:
            return False
        if self.scheduler.pending() and not self.population.broken:
            return False
        return self.population.all_let_go()

    def _tear_down(self) -> None:
        error = self.why_closed()
        self._swept = True
        self._sweep()  # first of all, so that no worker that comes free is given to a job
        for lease in self.leases:
            lease.revoke()
        self.population.end(error)
        if self.population.unfit is not None:
            self._startup.come(None)  # whoever waits for it looks there
        else:
            self._startup.fail(error)
        for happened, _ in self._awaited:
            happened.fail(self.why_closed())
        self._deaf = True
        self._run_commands()  # workers given back by direct calls that saw them die
        self._close_left()
        self._watch.close()
        self._inheritance.close()
        self._stopped.come(None)
        while not self._delivery.close(None if (at := self._delivery.keep_time(monotonic())) is None else at - monotonic()):
            pass
        self._tell_ended()
        _live.discard(self)  # not before: a child forked until now has to be told that nothing ends there any more

    def _tell_ended(self) -> None:
        with self._ending:
            self._ended = True
            endings, self._endings = self._endings, []
        for happened in endings:
            happened.come(None)

    def _close_left(self) -> None:
        """Close the channels of workers that their holders have given back when all had ended.  From any thread."""
        while self.scheduler.left:
            try:
                lane = self.scheduler.left.popleft()
            except IndexError:  # another thread was faster
                return
            lane.port.close()

    def _sweep(self) -> None:
        """End what is queued when nothing will run any more.  Any thread may do it: each job is taken once."""
        for job in self.scheduler.take_queued():
            job.fail(self.why_closed())

    # -- events --------------------------------------------------------------------------------------------------------

    def _hear(self, lane: Lane, last: bool) -> None:
        """Take what a worker has sent; all of it if it has died, for nothing will tell of the rest."""
        port = lane.port
        times = 0
        while port.state not in (STOPPING, DEAD) and (last or times < RECEIVE_TIMES):
            times += 1
            try:
                data = port.control.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.population.unwatch(lane)
                port.stops()
                self.population.expect_end(port.process)
                return
            try:
                self._take(lane, port.reader.feed(data))
            except Exception as error:  # whatever it sent, it is not what a sound worker sends
                self.population.unwatch(lane)
                port.stops()  # what follows is not looked at, not even at its end: who knows which jobs it answers
                self.population.kill(port.process, f"it sent nonsense: {error}")
                return

    def _take(self, lane: Lane, frames: list[tuple[tuple[Any, ...], bytes]]) -> None:
        port = lane.port
        count = 0  # of the jobs in flight, so many are answered
        changed = False
        jobs, nanoseconds = port.timed()
        if jobs:  # before their callers hear of them, who may ask for a report
            lane.durations.record(jobs, nanoseconds)
            self.scheduler.measured(nanoseconds / jobs)
        try:
            for (_, status), payload in frames:
                if status < wire.READY:
                    job = lane.job_at(count)
                    lane.calls_done(1)
                    left = job.answered(lane, port, status, payload)
                    count += 1
                    if left:
                        self.scheduler.give_back(left)
                elif status == wire.PASSED:
                    self.scheduler.answered(lane, count)
                    count, changed = 0, True
                    self.scheduler.passed(lane, wire.COUNT.unpack(payload)[0])
                    self._expect_no_reply(port)  # if the job was to be answered by the replies pipe
                else:
                    self._take_news(lane, count, status, payload)
        finally:
            if count:
                self.scheduler.answered(lane, count)
                changed = True
        if changed:
            self.scheduler.settle(lane)

    def _take_news(self, lane: Lane, place: int, status: int, payload: bytes) -> None:
        """What is no answer to a job; ``place`` is that of the job that runs."""
        if status == wire.ITEM:
            segment = lane.job_at(place)
            if not isinstance(segment, Segment):
                raise Nonsense("an item failed, and there is no batch")
            segment.item_failed(lane, payload)
        elif status == wire.OUTPUT:
            lane.job_at(place).output(payload)
        elif status == wire.PRINTED:
            self._printed.heard(lane, payload)
        elif status == wire.LOG:
            self._log(lambda: self.hear_log(payload))
        elif status in (wire.READY, wire.UNFIT) and lane.port.was_ready:
            raise Nonsense("a worker is ready once")  # twice among the idle, it would have two holders
        elif status == wire.SPENT:
            lane.port.process.outdate()
        elif status == wire.READY:
            self._take_on(lane, wire.COUNT.unpack(payload)[0])
        elif status == wire.UNFIT:
            self.population.started_badly(lane, wire.report_of(status, payload, None))
        else:
            raise Nonsense(f"unknown status {status}")

    def _take_on(self, lane: Lane, pid: int) -> None:
        """A worker is ready for jobs."""
        process = lane.port.process
        self.population.born(process, pid)
        self.scheduler.release(lane)
        self.population.started_well(lane)  # after that, for ready and not idle means busy to `stats`
        if self.population.ready(process):
            process.is_ready(monotonic())
            self.journal.note("ready", process.pid, f"{process.title} is ready")
        self._startup.come(None)

    def _hear_adopted(self, lane: Lane, used: bool) -> None:
        """The reply to a job whose caller has left."""
        port = lane.port
        data = port.read()
        try:
            frames = port.adopted_reader.feed(data)
            if frames and lane.depth:
                (_, status), payload = frames[0]
                job = lane.job_at(0)
                lane.calls_done(1)
                if not isinstance(job, Abandoned):
                    lane.durations.record(1, int((monotonic() - lane.since) * 1e9))
                job.answered(lane, port, status, payload)
        except Exception as error:  # whatever it sent, it is not what a sound worker sends
            self._watch.forget(port.replies_fd)
            self.population.kill(port.process, f"it sent nonsense: {error}")
            return
        if frames or not data:
            self._expect_no_reply(port)
        if frames and lane.depth:
            self.scheduler.answered(lane, 1)
            if used:
                self.scheduler.assign(lane, Purge())
            else:
                self.scheduler.settle(lane)

    def _expect_no_reply(self, port: Port) -> None:
        """Before another holds the worker, who reads the replies pipe, and may post in the page."""
        self._watch.forget(port.replies_fd)
        if port.channel is not None:
            port.channel.settle()

    def _write_more(self, lane: Lane) -> None:
        if self.scheduler.write_more(lane):
            self._watch.forget(lane.port.jobs_fd)
            self.scheduler.settle(lane)
