"""The one thread of a pool: reads replies, watches workers live and die, keeps time."""

from __future__ import annotations

import atexit
import logging
import math
import os
import selectors
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic
from typing import Any

import psutil

from .. import wire
from ..errors import PoolClosed, PoolFull, ProcpoolError, StartupError, WorkerCrashed
from .batch import Chunk, Segment
from .job import Export, Job
from .launch import CLOSE_GRACE, LAUNCHERS, Inheritance
from .scheduler import Scheduler
from .worker import DEAD, READY, STARTING, STOPPING, Worker

logger = logging.getLogger("procpool")

#: A submitted job with others waiting behind it in the same worker may run this long, in seconds, or this many times
#: the average, before the others are taken back.
STALL_SECONDS = 0.005
STALL_FACTOR = 8
#: Taking jobs back for an idle worker costs two system calls and a thread switch on each side; below this much work, in
#: seconds, it does not pay.
STEAL_SECONDS = 0.0005
#: How long a worker whose socket has closed may take to be reported dead, in seconds, before it is killed.
REPORT_GRACE = 1.0
#: Replacing workers that die before they are ready: first pause and longest pause, in seconds, and how many such deaths
#: in a row, with no worker left, mean that the pool cannot work.
BACKOFF_FIRST = 0.05
BACKOFF_MOST = 5.0
GIVE_UP_AFTER = 5
#: Seconds between looks at the workers' memory, if that is limited.
MEMORY_PERIOD = 0.25


@dataclass(frozen=True)
class Limits:
    """What a pool's workers and queue may grow to."""

    kill_grace: float  #: seconds from an interrupt to the kill
    max_pending: int | None  #: jobs in the queue
    full_timeout: float | None  #: seconds to wait when it is full; 0 to raise at once, None for ever
    max_tasks_per_worker: float  #: calls by direct call or submit, or in batches
    max_worker_memory: int | None  #: bytes, resident


def _nothing() -> None:
    pass


#: Pools that run, for the one thing that reaches a pool from nowhere: a fork of the process.
_live: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


def _forsake_all() -> None:
    for dispatcher in list(_live):
        dispatcher.forsake()


os.register_at_fork(after_in_child=_forsake_all)


class Dispatcher:
    """Runs a pool's workers.  Everything below `_run` happens in its thread; the rest may be called from any."""

    def __init__(self, inheritance: Inheritance, start_method: str, workers: int, limits: Limits) -> None:
        self.limits = limits
        self.scheduler = Scheduler(monotonic, self.look_again)
        self.workers: dict[int, Worker] = {}
        self.closed = False
        self.broken: StartupError | None = None  #: why no worker can be made
        self.calls_retired = 0  #: jobs that workers now gone had done
        self.failed_retired = 0
        self._inheritance = inheritance
        self._launch_type = LAUNCHERS[start_method]
        self._launcher = self._launch_type(inheritance)
        self._rows = list(range(inheritance.rows - 1, -1, -1))
        self._wanted = workers
        self._started = 0
        self._bad_starts = 0
        self._start_at = 0.0
        self._startup: Future[None] = Future()  # the first worker is ready, or why none will be
        self._news = threading.Condition()  # notified after each round while somebody waits, and when the pool closes
        self._waiting_for_news = 0
        self.attentive = False  #: direct calls should wake the thread when they are done
        self._memory_due = 0.0 if limits.max_worker_memory is not None else math.inf
        self._commands: deque[Callable[[], None]] = deque()
        self._woken = False
        self._wake_fd, self._notify_fd = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(self._notify_fd, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_fd, selectors.EVENT_READ, self._drain_wakeups)
        self._selector.register(self._launcher.events, selectors.EVENT_READ, self._read_launcher)
        self._dying: dict[Worker, float] = {}  # no longer heard of, not yet reported dead -> when to kill
        self._swept = False  # the queue has been emptied for good
        self._forked = False
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
        self._wait_until(lambda: self._ready() >= self._wanted, timeout, "all workers are ready")

    def _ready(self) -> int:
        return sum(worker.state == READY and not worker.leaving for worker in list(self.workers.values()))

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
        if self.limits.max_pending is not None and len(self.scheduler.queue) >= self.limits.max_pending:
            self._wait_for_space(self.limits.max_pending)
        self.scheduler.submit(job)
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
                got = space.wait_for(lambda: self.closed or len(self.scheduler.queue) < most, timeout)
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
        self._wanted = workers
        self.look_again()

    def restart(self, timeout: float | None) -> None:
        """Replace all workers, each when another is ready, and wait for that."""
        if self.closed:
            raise self.why_closed()
        old = list(self.workers.values())
        for worker in old:
            worker.outdated = True
        self._wait_until(lambda: not any(worker.id in self.workers for worker in old), timeout, "the workers are replaced")

    def drain(self, timeout: float | None) -> None:
        """Wait until nothing is queued and nothing runs."""
        self._wait_until(self._quiet, timeout, "all jobs are done")

    def _quiet(self) -> bool:
        ready = [worker for worker in list(self.workers.values()) if worker.state == READY]
        return not self.scheduler.queue and all(worker in self.scheduler.idle for worker in ready)

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
        if self._forked:
            return PoolClosed("this pool was made before a fork; its workers belong to the parent process, make a new one")
        if self.broken is not None:
            error = StartupError(*self.broken.args)
            error.__cause__ = self.broken.__cause__
            return error
        return PoolClosed("this pool was shut down")

    def forget(self, job: Job) -> None:
        """Cancel a job, or stop it where it runs: nobody waits for it."""
        if not job.cancel():
            job.expired = True
            self.look_again()

    def abandon(self, chunk: Chunk) -> None:
        """Run no more of a chunk: nobody waits for it."""
        chunk.abandoned = True
        self.look_again()

    def adopt(self, worker: Worker, export: Export) -> None:
        """Take over a worker whose caller in a direct call has left, and stop what it runs."""
        job = Job(export.name, b"")
        job.expired = True

        def take_over() -> None:
            self.scheduler.adopt(worker, job)
            if worker.state == DEAD:
                self.scheduler.remove(worker)
                self._bury(worker)
            else:
                self._selector.register(worker.replies_fd, selectors.EVENT_READ, lambda: self._read_abandoned(worker))

        self.do(take_over)

    def lost(self, worker: Worker) -> int | None:
        """For the holder of a worker whose pipe has closed: wait for its exit code, and leave the rest to us."""
        worker.exited.wait(2 * CLOSE_GRACE)
        if self.join(0):
            worker.close()
        else:
            self.do(lambda: self._bury(worker))
        return worker.exitcode

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
        self.closed = self._forked = True
        self._stopped = threading.Event()
        self._stopped.set()
        for worker in self.workers.values():
            worker.close()
        self._launcher.events.close()
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
                self._start_missing()
                for key, _ in self._selector.select(timeout):
                    key.data()
                while self._commands:
                    self._commands.popleft()()
                self._let_go()
                if self._waiting_for_news:
                    with self._news:
                        self._news.notify_all()
        except BaseException:
            logger.exception("procpool: the dispatcher failed; the pool is closed")
            self.close(kill=True)
            raise
        finally:
            self._tear_down()

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
        if self.scheduler.queue and not self.broken:
            return False
        for worker in list(self.workers.values()):
            # Only idle workers: one in a direct call comes back to the idle list when it is done.
            if worker.state == STARTING or self.scheduler.take_idle(worker):
                self._stop(worker)
        return not self.workers

    def _let_go(self) -> None:
        """End workers that are too many or outdated, as soon as there are enough others, and never in a job."""
        ready = [worker for worker in self.workers.values() if worker.state == READY]
        for worker in ready:
            worker.outdated = worker.outdated or worker.calls >= self.limits.max_tasks_per_worker
        staying = [worker for worker in ready if not worker.leaving]
        staying.sort(key=lambda worker: (not worker.outdated, worker not in self.scheduler.idle))
        for worker in staying[: max(0, len(staying) - self._wanted)]:
            worker.leaving = True
        for worker in ready:
            if worker.leaving and self.scheduler.take_idle(worker):
                self._stop(worker)
        while self.scheduler.left:
            worker = self.scheduler.left.popleft()
            if worker.state == DEAD:
                self._bury(worker)
            else:
                self._stop(worker)

    def _stop(self, worker: Worker) -> None:
        """End a worker that we hold and that has nothing to do, by closing its pipes."""
        worker.state = STOPPING
        self._unwatch(worker)
        worker.close()
        self._dying[worker] = monotonic() + (REPORT_GRACE if worker.reported else 0.0)

    def _watch_memory(self, now: float) -> None:
        """Have workers replaced that hold too much, and kill what holds twice that: it may not live to the next look."""
        most = self.limits.max_worker_memory
        if most is None or now < self._memory_due:
            return
        self._memory_due = now + MEMORY_PERIOD
        for worker in list(self.workers.values()):
            try:
                held = psutil.Process(worker.pid).memory_info().rss if worker.pid else 0
            except psutil.Error:
                continue
            if held > most and not worker.outdated:
                logger.warning("procpool: worker %d holds %d bytes and is replaced", worker.pid, held)
                worker.outdated = True
            if held > 2 * most:
                self._kill(worker)

    def _tear_down(self) -> None:
        error = self.why_closed()
        for worker in list(self.workers.values()):
            self._unwatch(worker)
        self._launcher.close()
        for worker in list(self.workers.values()):
            worker.ended(-signal.SIGKILL)
            if self._holds(worker):
                worker.close()
            for job in worker.inflight:
                job.fail(error)
            worker.release()
        self._swept = True
        self._sweep()
        if not self._startup.done():
            self._startup.set_exception(error)
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

    # -- births --------------------------------------------------------------------------------------------------------

    def _start_missing(self) -> None:
        if self.closed or self.broken or monotonic() < self._start_at:
            return
        while True:
            present = [worker for worker in self.workers.values() if not worker.leaving]
            # One more than wanted, to be ready before an outdated one goes.
            if len(present) >= self._wanted + any(worker.outdated for worker in present) or not self._rows:
                return
            row = self._rows.pop()
            try:
                worker = Worker(self._started, row, self._inheritance)
            except OSError as error:  # no descriptors left
                self._rows.append(row)
                self._start_failed(error)
                return
            self._started += 1
            try:
                self._launcher.launch(worker.id, worker.row, worker.their_fds)
            except OSError as error:
                worker.close_their_fds()
                worker.close()
                worker.release()
                self._rows.append(row)
                self._start_failed(error)
                return
            worker.close_their_fds()
            self.workers[worker.id] = worker
            self.scheduler.workers = len(self.workers)
            self._selector.register(worker.control, selectors.EVENT_READ, lambda w=worker: self._read_control(w))

    def _start_failed(self, error: BaseException) -> None:
        """A worker did not get ready: pause longer each time, and give up when none ever does."""
        self._bad_starts += 1
        self._start_at = monotonic() + min(BACKOFF_FIRST * 2**self._bad_starts, BACKOFF_MOST)
        logger.warning("procpool: a worker could not be started (%d in a row): %s", self._bad_starts, error)
        alive = any(w.state == READY for w in self.workers.values())
        if not alive and (self._bad_starts >= GIVE_UP_AFTER or not isinstance(error, (OSError, WorkerCrashed))):
            failure = StartupError(f"no worker can be started: {error}")
            failure.__cause__ = error
            self.broken = failure
            self.close(kill=True)

    # -- events --------------------------------------------------------------------------------------------------------

    def _read_launcher(self) -> None:
        while True:
            try:
                message = self._launcher.events.recv(wire.LAUNCH_EVENT.size)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._template_died()
                return
            event, id, number = wire.LAUNCH_EVENT.unpack(message)
            worker = self.workers.get(id)
            if worker is None:
                continue
            if event == wire.LAUNCHED:
                worker.pid = number
            elif event == wire.LAUNCH_FAILED:
                self._unwatch(worker)
                self._died(worker, None, OSError(number, os.strerror(number)))
            else:
                self._read_control(worker)  # replies sent before its end count
                self._died(worker, number)

    def _template_died(self) -> None:
        """Get a new template.  Workers that live go on; those it owed us an answer about are given up."""
        self._selector.unregister(self._launcher.events)
        self._launcher.close()
        logger.warning("procpool: the template process died; starting another")
        for worker in list(self.workers.values()):
            worker.reported = False
            if worker.state == STARTING or worker in self._dying:
                self._unwatch(worker)
                self._died(worker, None)
        self._launcher = self._launch_type(self._inheritance)
        self._selector.register(self._launcher.events, selectors.EVENT_READ, self._read_launcher)

    def _read_control(self, worker: Worker) -> None:
        while worker.state not in (STOPPING, DEAD):
            try:
                data = worker.control.recv(262144)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._unwatch(worker)
                worker.state = STOPPING
                self._dying[worker] = monotonic() + (REPORT_GRACE if worker.reported else 0.0)
                return
            try:
                self._take_replies(worker, worker.reader.feed(data))
            except Exception as error:  # whatever it sent, it is not what a sound worker sends
                logger.error("procpool: worker %d sent nonsense and is killed: %s", worker.pid, error)
                self._kill(worker)
                return

    def _take_replies(self, worker: Worker, frames: list[tuple[tuple[Any, ...], bytes]]) -> None:
        answered = False
        for (_, status), payload in frames:
            if status < wire.READY:
                # Popped before it is settled: a callback that the settling runs may submit again.
                left = worker.inflight.popleft().answered(worker, status, payload)
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
                worker.ready = True
                self._bad_starts = 0
                self.scheduler.release(worker)
                with self._news:
                    worker.state = READY  # after that, for ready and not idle means busy to `stats`
                    self._news.notify_all()
                if not self._startup.done():
                    self._startup.set_result(None)
            elif status == wire.RECALLED:
                self.scheduler.take_back(worker, wire.COUNT.unpack(payload)[0])
                answered = True
            elif status == wire.UNFIT:
                worker.unfit = True
                self._start_failed(wire.error_from_reply(status, payload, None))
            else:
                raise ValueError(f"unknown status {status}")
        if answered:
            worker.head_since = monotonic()
            mean = worker.mean_job_ns()
            if mean is not None:
                self.scheduler.measured(mean)
            self.scheduler.answered(worker)

    def _read_abandoned(self, worker: Worker) -> None:
        """The reply to a direct call whose caller has left."""
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

    # -- deaths --------------------------------------------------------------------------------------------------------

    def _unwatch(self, worker: Worker) -> None:
        for fd in (worker.control.fileno(), worker.jobs_fd, worker.replies_fd):
            if fd >= 0 and fd in self._selector.get_map():
                self._selector.unregister(fd)

    def _kill(self, worker: Worker) -> None:
        # Its exit has not been reported, so the pid is still its own, but for the instant between the template's
        # waitpid and our reading of the report.
        if worker.pid and not worker.exited.is_set():
            try:
                os.kill(worker.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _holds(self, worker: Worker) -> bool:
        """Whether the dispatcher holds the worker, or does so from now on; if not, a direct call does."""
        return self.scheduler.remove(worker) or not worker.ready or worker.jobs_fd < 0

    def _died(self, worker: Worker, exitcode: int | None, error: BaseException | None = None) -> None:
        """A worker has ended: its jobs find their ends, and a place is free."""
        expected = worker.jobs_fd < 0
        self.look_again()  # there is a place to fill, or it was the last one
        self._unwatch(worker)
        self._dying.pop(worker, None)
        del self.workers[worker.id]
        self.scheduler.workers = len(self.workers)
        worker.ended(exitcode)
        self.calls_retired += worker.calls
        if self._holds(worker):
            self._bury(worker)
        if worker.unfit or expected:
            return
        if not worker.ready:
            self._start_failed(error or WorkerCrashed(worker.pid, None, exitcode))
        else:
            logger.warning("procpool: worker %d died (exit code %s) and is replaced", worker.pid, exitcode)

    def _bury(self, worker: Worker) -> None:
        """As its holder: end the jobs of a dead worker, and close its descriptors.

        Jobs it had not begun go back to the front of the queue, and so do those it had finished without delivering: the
        module has no imports, so running one again is the same to everybody.  The one it was running fails.
        """
        inflight = list(worker.inflight)
        guilty = worker.begun - 1 - worker.head
        worker.inflight.clear()
        for position, job in reversed(list(enumerate(inflight))):
            if position == guilty:
                self.scheduler.queue.extendleft(reversed(job.crashed(worker)))
            elif not job.expired:
                self.scheduler.queue.appendleft(job)
        self.failed_retired += worker.failed
        worker.close()
        worker.release()
        self._rows.append(worker.row)
        self.scheduler.pump()

    # -- time ----------------------------------------------------------------------------------------------------------

    def _keep_time(self) -> float | None:
        """Do what is due, and say how long nothing will be, in seconds; None for ever."""
        now = monotonic()
        self._watch_memory(now)
        due = [at for at in (self._start_at, self._memory_due) if now < at < math.inf]
        for worker, kill_at in list(self._dying.items()):
            if kill_at <= now:
                self._kill(worker)
                # If even that is not reported, the template is stuck or gone: do without the exit code.
                if kill_at + REPORT_GRACE <= now or not worker.reported:
                    self._died(worker, None)
                    continue
                kill_at += REPORT_GRACE
            due.append(kill_at)
        for worker in list(self.scheduler.busy):
            due.extend(self._supervise(worker, now))
        return max(0.0, min(due) - monotonic()) if due else None

    def _supervise(self, worker: Worker, now: float) -> list[float]:
        """Enforce limits on what the worker runs; the times at which to look again."""
        due: list[float] = []
        if worker.outbox and worker.jobs_fd not in self._selector.get_map():
            self._selector.register(worker.jobs_fd, selectors.EVENT_WRITE, lambda: self._write_outbox(worker))
        try:
            job = worker.inflight[0]
        except IndexError:
            return due
        deadline = job.deadline(worker, now)
        if deadline is not None and deadline <= now:
            running = (worker.head, job.item(worker))
            if worker.interrupted != running:
                worker.interrupted = running
                worker.kill_at = now + self.limits.kill_grace
                worker.command(wire.INTERRUPT, *running)
                job.timed_out()
            if worker.kill_at <= now:
                logger.warning("procpool: worker %d does not react to an interrupt and is killed", worker.pid)
                self._kill(worker)
            else:
                due.append(worker.kill_at)
        elif deadline is not None:
            due.append(deadline)
        sampling = job.sampling()
        if sampling is not None:
            due.append(now + sampling)
        look_again = self._share(worker, job, now)
        if look_again is not None:
            due.append(look_again)
        return due

    def _share(self, worker: Worker, job: Job, now: float) -> float | None:
        """Free what waits in one worker while others could run it; when to look again."""
        hungry = bool(self.scheduler.idle and not self.scheduler.queue)
        if isinstance(job, Segment):
            if not hungry or worker.outbox:
                return None
            if now - worker.head_since < STEAL_SECONDS:
                return worker.head_since + STEAL_SECONDS
            if len(worker.inflight) == 1:
                if job.seconds_left(worker, now) > STEAL_SECONDS:
                    job.halt(worker)
                # The items still to come may be longer than those so far.
                return None if job.halted or job.stop - job.start == 1 else now + STEAL_SECONDS
        elif len(worker.inflight) == 1:
            return None
        if worker.recalling or worker.outbox:
            return None
        average = self.scheduler.job_seconds or 0.0
        stalled_at = worker.head_since + max(STALL_SECONDS, STALL_FACTOR * average)
        steal = hungry and (isinstance(job, Segment) or average * (len(worker.inflight) - 1) > STEAL_SECONDS)
        if stalled_at > now and not steal:
            return stalled_at
        if not worker.stalled:
            self.scheduler.recall(worker)
            worker.command(wire.RECALL)
        return None
