"""The one thread of a pool: reads replies, watches workers live and die, keeps time."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import selectors
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import wire
from ..errors import PoolClosed, PoolFull, ProcpoolError, StartupError
from .events import Journal, PoolEvent
from .jobs.batch import Chunk, Segment
from .jobs.call import Job
from .launch import CLOSE_GRACE, Inheritance
from .limits import Limits
from .overseer import Overseer
from .population import Population
from .scheduler import Scheduler
from .worker import DEAD, READY, STOPPING, Worker

if TYPE_CHECKING:
    from .lease import Lease

logger = logging.getLogger("procpool")


def _nothing() -> None:
    pass


def _log(record: logging.LogRecord) -> None:
    """Log here what was logged in a worker."""
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        target.handle(record)


#: Pools that run, for the one thing that reaches a pool from nowhere: a fork of the process.
_live: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


def _forsake_all() -> None:
    for dispatcher in list(_live):
        dispatcher.forsake()


os.register_at_fork(after_in_child=_forsake_all)


class Dispatcher:
    """Runs a pool's workers.  Everything below `_run` happens in its thread; the rest may be called from any."""

    def __init__(
        self,
        inheritance: Inheritance,
        start_method: str,
        workers: int,
        limits: Limits,
        on_event: Callable[[PoolEvent], None] | None = None,
    ) -> None:
        self.limits = limits
        self.journal = Journal(on_event)
        self.scheduler = Scheduler(monotonic, self.look_again, limits.round_robin)
        self.leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self.closed = False
        self._inheritance = inheritance
        self._selector = selectors.DefaultSelector()
        self.population = Population(
            *(inheritance, start_method, workers, limits, self.scheduler, self.journal, self._selector),
            read_replies=self._read_control,
            wake=self.look_again,
            on_broken=functools.partial(self.close, kill=True),
        )
        self._startup: Future[None] = Future()  # the first worker is ready, or why none will be
        self._news = threading.Condition()  # notified after each round while somebody waits, and when the pool closes
        self._waiting_for_news = 0
        self.attentive = False  #: direct calls should wake the thread when they are done
        self._commands: deque[Callable[[], None]] = deque()
        self._woken = False
        self._wake_fd, self._notify_fd = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(self._notify_fd, False)
        self._selector.register(self._wake_fd, selectors.EVENT_READ, self._drain_wakeups)
        self._overseer = Overseer(self.scheduler, self.journal, limits.kill_grace, self.population.kill)
        self._swept = False  # the queue has been emptied for good
        self.forked = False  #: this is a child of the process that made the pool
        self.terminated = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="procpool-dispatcher", daemon=True)
        _live.add(self)
        atexit.register(self.terminate)
        self._thread.start()

    # -- from any thread -----------------------------------------------------------------------------------------------

    def wait_started(self) -> None:
        """Block until the first worker is ready.

        Raises:
            StartupError: no worker gets that far.
        """
        self._startup.result()

    def wait_ready(self, timeout: float | None) -> None:
        """Block until as many workers as are wanted are ready."""
        self._wait_until(self.population.complete, timeout, "all workers are ready")

    def do(self, command: Callable[[], None]) -> None:
        """Have the dispatcher's thread run something soon."""
        self._commands.append(command)
        # Appended before the flag is looked at, and the flag falls before the commands are run: so a command that finds
        # it up is run in the round under way.
        if not self._woken:
            self._woken = True
            try:
                os.write(self._notify_fd, b"\0")
            except (BlockingIOError, OSError):  # awake anyway, or stopped for good
                pass

    def look_again(self) -> None:
        """Wake the thread, because something it keeps the time of has changed."""
        self.do(_nothing)

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            PoolClosed, StartupError: no more jobs are taken.
            PoolFull: the queue is full, and stayed so.
        """
        if self.closed:
            raise self.why_closed()
        if self.limits.max_pending is not None and self.scheduler.pending() >= self.limits.max_pending:
            self._wait_for_space(self.limits.max_pending)
        job.on_cancel = self.withdraw
        self.scheduler.submit(job)
        if self.limits.min_workers is not None and self.scheduler.queue:
            self.look_again()  # there may be a reason for more workers
        # The thread may have swept the queue for the last time between the check and the submission.
        if self._swept and not job.cancelled():
            self._sweep()

    def _wait_for_space(self, most: int) -> None:
        # A callback must not wait: it runs in the thread that would have to make the space.
        if threading.current_thread() is self._thread:
            return
        space, timeout = self.scheduler.space, self.limits.full_timeout
        with space:
            self.scheduler.waiting_for_space += 1
            try:
                got = space.wait_for(lambda: self.closed or self.scheduler.pending() < most, timeout)
            finally:
                self.scheduler.waiting_for_space -= 1
        if self.closed:
            raise self.why_closed()
        if not got:
            raise PoolFull(f"{most} jobs are waiting already, and max_pending={most}")

    def resize(self, workers: int) -> None:
        """Have that many workers from now on."""
        if self.closed:
            raise self.why_closed()
        self.population.want(workers)
        self.do(lambda: self.journal.note("resized", None, f"{workers} workers are wanted"))

    def restart(self, timeout: float | None) -> None:
        """Replace all workers, each when another is ready, and wait for that."""
        if self.closed:
            raise self.why_closed()
        old = self.population.replace()
        self._wait_until(
            lambda: not any(process.id in self.population.present for process in old), timeout, "the workers are replaced"
        )

    def drain(self, timeout: float | None) -> None:
        """Wait until nothing is queued and nothing runs."""
        self._wait_until(self._quiet, timeout, "all jobs are done")

    def _quiet(self) -> bool:
        processes = list(self.population.present.values())
        ready = [worker for process in processes for worker in process.workers if worker.state == READY]
        return not self.scheduler.pending() and all(worker in self.scheduler.idle for worker in ready)

    def _wait_until(self, condition: Callable[[], bool], timeout: float | None, what: str) -> None:
        with self._news:
            self._waiting_for_news += 1
            self.attentive = True
            self.look_again()
            try:
                done = self._news.wait_for(lambda: self.closed or condition(), timeout)
            finally:
                self._waiting_for_news -= 1
                self.attentive = self.closed or self._waiting_for_news > 0
        if self.closed:
            raise self.why_closed()
        if not done:
            raise TimeoutError(f"waited {timeout} s until {what}")

    def why_closed(self) -> ProcpoolError:
        """A fresh exception for a use of the closed pool."""
        if self.forked:
            return PoolClosed("this pool was made before a fork; its workers belong to the parent process, make a new one")
        if self.population.broken is not None:
            error = StartupError(*self.population.broken.args)
            error.__cause__ = self.population.broken.__cause__
            return error
        return PoolClosed("this pool was shut down")

    def withdraw(self, job: Job, queued: bool) -> None:
        """Stop a cancelled job where it runs, or take it back from a worker that has not begun it."""
        if queued:
            self.scheduler.dropped(job)
            return

        def take_back() -> None:
            for worker in list(self.scheduler.busy):
                waiting = job in worker.inflight and worker.inflight[0] is not job
                if waiting and not (worker.recalling or worker.outbox):
                    self.scheduler.recall(worker)
                    worker.command(wire.RECALL)
            if job in self.scheduler.queue:  # it has come back before it was cancelled
                self.scheduler.dropped(job)

        self.do(take_back)

    def abandon(self, chunk: Chunk) -> None:
        """Run no more of a chunk: nobody waits for it."""
        chunk.abandoned = True
        self.look_again()

    def adopt(self, worker: Worker, name: str, timed_out: bool) -> None:
        """Take over a worker whose caller in a direct call has left, and stop what it runs."""
        job = Job(name, b"")
        job.expired = True

        def take_over() -> None:
            if timed_out:
                self.journal.note("timeout", worker.process.pid, f"a call of {name} ran out of time")
            self.scheduler.adopt(worker, job)
            if worker.state == DEAD:
                self.scheduler.remove(worker)
                self.population.bury(worker)
            else:
                self._selector.register(worker.replies_fd, selectors.EVENT_READ, lambda: self._read_abandoned(worker))

        self.do(take_over)

    def lost(self, worker: Worker) -> int | None:
        """For the holder of a worker whose pipe has closed: wait for its exit code, and leave the rest to us."""
        process = worker.process
        self.do(lambda: self.population.expect_end(process))  # it may have closed this pipe and live on
        process.exited.wait(2 * CLOSE_GRACE)
        if self.join(0):
            worker.close()
        else:
            self.do(lambda: self.population.bury(worker))
        return process.exitcode

    def nonsense(self, worker: Worker, error: Exception) -> None:
        """For the holder of a worker that has sent what no sound worker sends: have it killed."""
        self.do(lambda: self.population.kill(worker.process, f"it sent nonsense: {error}"))

    def close(self, kill: bool = False) -> None:
        """Let the workers finish what is queued, or kill them, then end.  Does not wait."""
        self.closed = True
        self.terminated = self.terminated or kill
        self.attentive = True
        with self._news:
            self._news.notify_all()
        with self.scheduler.space:
            self.scheduler.space.notify_all()
        self.look_again()

    def terminate(self) -> None:
        """Kill the workers and wait until everything has ended."""
        self.close(kill=True)
        self.join()

    def forsake(self) -> None:
        """In a forked child: let go of everything, touching no lock (its owner may not exist here) and no worker."""
        self.closed = self.forked = True
        self._stopped = threading.Event()
        self._stopped.set()
        self.population.forsake()
        self._inheritance.close()
        self._selector.close()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until everything has ended; whether it has."""
        if threading.current_thread() is self._thread:  # a callback; the thread cannot wait for itself
            return False
        return self._stopped.wait(timeout)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._finished():
                timeout = self._keep_time()
                # A pool that is shut down finishes its jobs, so it replaces the workers it needs for that.
                if not self.closed or self.scheduler.pending():
                    self.population.start_missing()
                for key, _ in self._selector.select(timeout):
                    key.data()
                while self._commands:
                    self._commands.popleft()()
                self.population.let_go()
                if self._waiting_for_news:
                    with self._news:
                        self._news.notify_all()
        except BaseException:
            logger.exception("procpool: the dispatcher failed; the pool is closed")
            self.close(kill=True)
            raise
        finally:
            self._tear_down()

    def _keep_time(self) -> float | None:
        """Do what is due, and say how long nothing will be, in seconds; None for ever."""
        now = monotonic()
        due = self.population.keep_time(now)
        for worker in list(self.scheduler.busy):
            if worker.outbox and worker.jobs_fd not in self._selector.get_map():
                self._selector.register(worker.jobs_fd, selectors.EVENT_WRITE, lambda w=worker: self._write_outbox(w))
            due.extend(self._overseer.look_after(worker, now))
        return max(0.0, min(due) - monotonic()) if due else None

    def _drain_wakeups(self) -> None:
        # Emptied before the flag falls: the other way round, a byte written in between would be eaten while its flag
        # stays up, and nobody would ever write another.
        os.read(self._wake_fd, 4096)
        self._woken = False

    def _finished(self) -> bool:
        if not self.closed:
            return False
        if self.terminated:
            return True
        for lease in list(self.leases):
            lease.revoke()
        if self.scheduler.pending() and not self.population.broken:
            return False
        return self.population.all_let_go()

    def _tear_down(self) -> None:
        error = self.why_closed()
        self._swept = True
        self._sweep()  # first of all, so that no worker that comes free is given to a job
        for lease in list(self.leases):
            lease.revoke()
        self.population.end(error)
        if not self._startup.done():
            self._startup.set_exception(self.population.unfit or error)
        self._stopped.set()
        while self._commands:  # workers given back by direct calls that saw them die
            self._commands.popleft()()
        for worker in self.scheduler.left:
            worker.close()
        _live.discard(self)
        atexit.unregister(self.terminate)
        self._selector.close()
        self._inheritance.close()
        os.close(self._wake_fd)
        fd, self._notify_fd = self._notify_fd, -1
        os.close(fd)

    def _sweep(self) -> None:
        """End what is queued when nothing will run any more.  Any thread may do it: each job is popped once."""
        while True:
            try:
                job = self.scheduler.queue.popleft()
            except IndexError:
                return
            if job.begin():
                job.fail(self.why_closed())

    # -- events --------------------------------------------------------------------------------------------------------

    def _read_control(self, worker: Worker) -> None:
        while worker.state not in (STOPPING, DEAD):
            try:
                data = worker.control.recv(262144)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.population.unwatch(worker)
                worker.state = STOPPING
                self.population.expect_end(worker.process)
                return
            try:
                self._take_replies(worker, worker.reader.feed(data))
            except Exception as error:  # whatever it sent, it is not what a sound worker sends
                self.population.unwatch(worker)
                self.population.kill(worker.process, f"it sent nonsense: {error}")
                return

    def _take_replies(self, worker: Worker, frames: list[tuple[tuple[Any, ...], bytes]]) -> None:
        answered = recalled = False
        for (_, status), payload in frames:
            if status < wire.READY:
                # Popped before it is settled: a callback that the settling runs may submit again.
                job = worker.inflight.popleft()
                try:
                    left = job.answered(worker, status, payload)
                except Exception:  # no answer to this job: it ends with its worker
                    worker.inflight.appendleft(job)
                    raise
                if left:
                    self.scheduler.queue.extendleft(reversed(left))
                worker.stalled = False
                answered = True
            elif status == wire.ITEM:
                segment = worker.inflight[0]
                assert isinstance(segment, Segment)
                segment.item_failed(worker, payload)
                worker.failed += 1
            elif status == wire.READY:
                self._take_on(worker, wire.COUNT.unpack(payload)[0])
            elif status == wire.RECALLED:
                self.scheduler.take_back(worker, wire.COUNT.unpack(payload)[0])
                recalled = True
            elif status == wire.UNFIT:
                error = wire.error_from_reply(status, payload, None)
                self.population.started_badly(worker, error, own=not isinstance(error, ProcpoolError))
            elif status == wire.LOG:
                _log(wire.record_from_bytes(payload))
            elif status == wire.OUTPUT:
                worker.inflight[0].output(payload)
            else:
                raise ValueError(f"unknown status {status}")
        if answered:
            worker.head_since = monotonic()
            mean = worker.mean_job_ns()
            if mean is not None:
                self.scheduler.measured(mean)
        if answered or recalled:
            self.scheduler.answered(worker)

    def _take_on(self, worker: Worker, pid: int) -> None:
        """A worker is ready for jobs."""
        worker.ready = True
        self.population.started_well(worker, pid)
        self.scheduler.release(worker)
        with self._news:
            worker.state = READY  # after that, for ready and not idle means busy to `stats`
            self._news.notify_all()
        if worker.process.ready:
            self.journal.note("ready", worker.process.pid, f"worker {worker.process.pid} is ready")
        if not self._startup.done():
            self._startup.set_result(None)

    def _read_abandoned(self, worker: Worker) -> None:
        """The reply to a direct call whose caller has left."""
        if worker.replies_fd not in self._selector.get_map():  # unwatched by an earlier event of the same round
            return
        data = worker.replies.read()
        replied = worker.abandoned_reader.feed(data)
        if replied or not data:
            self._selector.unregister(worker.replies_fd)
        if replied:
            worker.failed += 1
            worker.inflight.clear()
            worker.recalling = False
            self.scheduler.answered(worker)

    def _write_outbox(self, worker: Worker) -> None:
        self.scheduler.flush(worker, worker.outbox)
        if not worker.outbox:
            self._selector.unregister(worker.jobs_fd)
            self.scheduler.answered(worker)
