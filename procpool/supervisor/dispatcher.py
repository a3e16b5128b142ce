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
from typing import TYPE_CHECKING, Any

import psutil

from .. import wire
from ..errors import PoolClosed, PoolFull, ProcpoolError, StartupError, WorkerCrashed
from .batch import Chunk, Segment
from .events import Journal, PoolEvent
from .job import Job, Purge
from .launch import CLOSE_GRACE, LAUNCHERS, Inheritance
from .overseer import Overseer
from .scheduler import Scheduler
from .worker import DEAD, READY, STARTING, STOPPING, Process, Worker

if TYPE_CHECKING:
    from .lease import Lease

logger = logging.getLogger("procpool")

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
    min_workers: int | None = None  #: processes to keep when there is little to do; None to keep all
    idle_expiry: float = math.inf  #: seconds after which what is unused goes: processes beyond those, instances
    prewarm: int = 1  #: instances per process that stay however long they are unused
    round_robin: bool = False  #: take idle workers in turn, not the last used one
    retries: int = 0  #: how often a job is run again whose worker died


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
        self._overseer = Overseer(self.scheduler, self.journal, limits.kill_grace, self._kill)
        self.processes: dict[int, Process] = {}
        self.leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self.closed = False
        self.broken: StartupError | None = None  #: why no worker can be made
        self.unfit: BaseException | None = None  #: what the user's own code raised at the start of a worker
        self.calls_retired = 0  #: jobs that workers now gone had done
        self.failed_retired = 0
        self._inheritance = inheritance
        self._launch_type = LAUNCHERS[start_method]
        self._launcher = self._launch_type(inheritance)
        self._slots = list(range(inheritance.slots - 1, -1, -1))
        self._most = workers
        self._wanted = workers if limits.min_workers is None else min(limits.min_workers, workers)
        self._expiry_due = monotonic() + limits.idle_expiry
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
        self._dying: dict[Process, float] = {}  # no longer heard of, not yet reported dead -> when to kill
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
        self._wait_until(lambda: self._ready() >= self._wanted, timeout, "all workers are ready")

    def _ready(self) -> int:
        return sum(process.ready and not process.leaving for process in list(self.processes.values()))

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
        self._most = self._wanted = workers
        self.do(lambda: self.journal.note("resized", None, f"{workers} workers are wanted"))

    def restart(self, timeout: float | None) -> None:
        """Replace all workers, each when another is ready, and wait for that."""
        if self.closed:
            raise self.why_closed()
        old = list(self.processes.values())
        for process in old:
            process.outdated = True
        self._wait_until(
            lambda: not any(process.id in self.processes for process in old), timeout, "the workers are replaced"
        )

    def drain(self, timeout: float | None) -> None:
        """Wait until nothing is queued and nothing runs."""
        self._wait_until(self._quiet, timeout, "all jobs are done")

    def _quiet(self) -> bool:
        processes = list(self.processes.values())
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
        if self.broken is not None:
            error = StartupError(*self.broken.args)
            error.__cause__ = self.broken.__cause__
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
                self._bury(worker)
            else:
                self._selector.register(worker.replies_fd, selectors.EVENT_READ, lambda: self._read_abandoned(worker))

        self.do(take_over)

    def lost(self, worker: Worker) -> int | None:
        """For the holder of a worker whose pipe has closed: wait for its exit code, and leave the rest to us."""
        process = worker.process

        def expect_its_end() -> None:  # it may have closed this pipe and live on
            if process.id in self.processes:
                self._dying.setdefault(process, monotonic() + REPORT_GRACE)

        self.do(expect_its_end)
        process.exited.wait(2 * CLOSE_GRACE)
        if self.join(0):
            worker.close()
        else:
            self.do(lambda: self._bury(worker))
        return process.exitcode

    def nonsense(self, worker: Worker, error: Exception) -> None:
        """For the holder of a worker that has sent what no sound worker sends: have it killed."""
        self.do(lambda: self._kill(worker.process, f"it sent nonsense: {error}"))

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
        for process in self.processes.values():
            for worker in process.workers:
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
        for lease in list(self.leases):
            lease.revoke()
        if self.scheduler.pending() and not self.broken:
            return False
        for process in list(self.processes.values()):
            process.leave()
            for worker in process.workers:
                # Only idle workers: one in a direct call comes back to the idle list when it is done.
                if worker.state == STARTING or self.scheduler.take_idle(worker):
                    self._park(worker)
        return not self.processes

    def _let_go(self) -> None:
        """End processes that are too many or outdated, as soon as there are enough others, and never in a job."""
        staying = [process for process in self.processes.values() if process.ready and not process.leaving]
        for process in staying:
            process.outdated = process.outdated or process.calls >= self.limits.max_tasks_per_worker
        staying.sort(key=lambda process: (not process.outdated, not self._idle(process)))
        for process in staying[: max(0, len(staying) - self._wanted)]:
            why = "recycled" if process.outdated else "retired"
            self.journal.note(why, process.pid, f"worker {process.pid} is {why} after {process.calls} calls")
            process.leave()
        for process in list(self.processes.values()):
            if process.leaving:
                for worker in process.workers:
                    if self.scheduler.take_idle(worker):
                        self._park(worker)
        while self.scheduler.left:
            worker = self.scheduler.left.popleft()
            if worker.state == DEAD:
                self._bury(worker)
            else:
                self._park(worker)

    def _idle(self, process: Process) -> bool:
        return all(worker in self.scheduler.idle for worker in process.workers)

    def _park(self, worker: Worker) -> None:
        """Put away a worker that we hold and that has nothing to do; its process ends when the last one comes."""
        worker.state = STOPPING
        worker.parked = True
        self._unwatch(worker)
        process = worker.process
        if process.left and not process.stopping:
            process.stopping = True
            for each in process.workers:
                self._unwatch(each)
                each.close()  # that tells it to
            self._dying.setdefault(process, monotonic() + (REPORT_GRACE if process.reported else 0.0))

    def _watch_memory(self, now: float) -> None:
        """Have workers replaced that hold too much, and kill what holds twice that: it may not live to the next look."""
        most = self.limits.max_worker_memory
        if most is None or now < self._memory_due:
            return
        self._memory_due = now + MEMORY_PERIOD
        for process in list(self.processes.values()):
            try:
                held = psutil.Process(process.pid).memory_info().rss if process.pid else 0
            except psutil.Error:
                continue
            if held > most and not process.outdated:
                logger.info("procpool: worker %d holds %d bytes and is to be replaced", process.pid, held)
                process.outdated = True
            if held > 2 * most:
                self._kill(process, f"it holds {held} bytes, twice max_worker_memory")

    def _grow(self) -> None:
        """Want one more worker when there is work that none has taken."""
        starting = any(not process.ready for process in self.processes.values())
        waiting = self.scheduler.queue and not self.scheduler.idle
        if self.limits.min_workers is not None and waiting and not starting and self._wanted < self._most:
            self._wanted += 1

    def _expire(self, now: float) -> None:
        """Let go of what was not used between the last two looks: processes beyond the least, instances beyond the warm.

        Looked at twice per expiry, so that an idle worker needs no clock of its own and calls need not write one.
        """
        if now < self._expiry_due:
            return
        self._expiry_due = now + self.limits.idle_expiry / 2
        for process in list(self.processes.values()):
            unused = process.calls == process.calls_seen and self._idle(process)
            process.calls_seen = process.calls
            if unused and self.limits.min_workers is not None and self._wanted > self.limits.min_workers:
                self._wanted -= 1
            for number, worker in enumerate(process.workers):
                unused = worker.sent == worker.sent_seen and worker.sent != worker.purged_at
                worker.sent_seen = worker.sent
                if unused and number >= self.limits.prewarm and self.scheduler.take_idle(worker):
                    worker.purged_at = worker.sent_seen = worker.sent + 1
                    self.scheduler.assign(worker, Purge())

    def _tear_down(self) -> None:
        error = self.why_closed()
        self._swept = True
        self._sweep()  # first of all, so that no worker that comes free is given to a job
        for lease in list(self.leases):
            lease.revoke()
        for process in self.processes.values():
            for worker in process.workers:
                self._unwatch(worker)
        self._launcher.close()
        for process in list(self.processes.values()):
            process.ended(-signal.SIGKILL)
            for worker in process.workers:
                if self._holds(worker):
                    worker.close()
                for job in (*worker.inflight, *worker.own):
                    job.fail(error)
                worker.release()
        if not self._startup.done():
            self._startup.set_exception(self.unfit or error)
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
        # A pool that is shut down finishes its jobs, so it replaces the workers it needs for that.
        needed = not self.closed or (not self.terminated and self.scheduler.pending() > 0)
        if not needed or self.broken or monotonic() < self._start_at:
            return
        while True:
            present = [process for process in self.processes.values() if not process.leaving]
            # One more than wanted, to be ready before an outdated one goes.
            if len(present) >= self._wanted + any(process.outdated for process in present) or not self._slots:
                return
            slot = self._slots.pop()
            try:
                process = Process(self._started, slot, self._inheritance)
            except OSError as error:  # no descriptors left
                self._slots.append(slot)
                self._start_failed(error)
                return
            self._started += 1
            try:
                self._launcher.launch(process.id, process.slot, process.their_fds)
            except OSError as error:
                process.close_their_fds()
                for worker in process.workers:
                    worker.close()
                    worker.release()
                self._slots.append(slot)
                self._start_failed(error)
                return
            process.close_their_fds()
            self.processes[process.id] = process
            self.scheduler.workers += len(process.workers)
            for worker in process.workers:
                self._selector.register(worker.control, selectors.EVENT_READ, lambda w=worker: self._read_control(w))

    def _start_failed(self, error: BaseException) -> None:
        """A worker did not get ready: pause longer each time, and give up when none ever does."""
        self._bad_starts += 1
        self._start_at = monotonic() + min(BACKOFF_FIRST * 2**self._bad_starts, BACKOFF_MOST)
        self.journal.note("start_failed", None, f"a worker could not be started ({self._bad_starts} in a row): {error}")
        alive = any(worker.state == READY for process in self.processes.values() for worker in process.workers)
        if not alive and (self._bad_starts >= GIVE_UP_AFTER or not isinstance(error, (OSError, WorkerCrashed))):
            failure = StartupError(f"no worker can be started: {error}")
            failure.__cause__ = error
            self.broken = failure
            self.journal.note("broken", None, f"the pool is closed: {failure}")
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
            process = self.processes.get(id)
            if process is None:
                continue
            if event == wire.LAUNCHED:
                process.pid = number
                self.journal.note("started", number, f"worker {number} is starting")
            elif event == wire.LAUNCH_FAILED:
                self._died(process, None, OSError(number, os.strerror(number)))
            else:
                for worker in process.workers:
                    self._read_control(worker)  # replies sent before its end count
                self._died(process, number)

    def _template_died(self) -> None:
        """Get a new template.  Workers that live go on; those it owed us an answer about are given up."""
        self._selector.unregister(self._launcher.events)
        self._launcher.close()
        self.journal.note("template_died", None, "the template process died; starting another")
        for process in list(self.processes.values()):
            process.reported = False
            if not process.pid or process in self._dying:
                self._died(process, None)
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
                grace = REPORT_GRACE if worker.process.reported else 0.0
                self._dying.setdefault(worker.process, monotonic() + grace)
                return
            try:
                self._take_replies(worker, worker.reader.feed(data))
            except Exception as error:  # whatever it sent, it is not what a sound worker sends
                self._unwatch(worker)
                self._kill(worker.process, f"it sent nonsense: {error}")
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
                worker.process.unfit = True
                error = wire.error_from_reply(status, payload, None)
                if not isinstance(error, ProcpoolError):
                    self.unfit = error
                self._start_failed(error)
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
        worker.process.pid = worker.process.pid or pid
        self._bad_starts = 0
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

    # -- deaths --------------------------------------------------------------------------------------------------------

    def _unwatch(self, worker: Worker) -> None:
        for fd in (worker.control.fileno(), worker.jobs_fd, worker.replies_fd):
            if fd >= 0 and fd in self._selector.get_map():
                self._selector.unregister(fd)

    def _kill(self, process: Process, why: str) -> None:
        # Its exit has not been reported, so the pid is still its own, but for the instant between the template's
        # waitpid and our reading of the report.
        if process.pid and not process.exited.is_set():
            if not process.killed and not process.stopping:
                process.killed = True
                self.journal.note("killed", process.pid, f"worker {process.pid} is killed: {why}")
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _holds(self, worker: Worker) -> bool:
        """Whether the dispatcher holds the worker, or does so from now on; if not, a direct call or a lease does."""
        return self.scheduler.remove(worker) or worker.parked or not worker.ready

    def _died(self, process: Process, exitcode: int | None, error: BaseException | None = None) -> None:
        """A process has ended: its jobs find their ends, and a place is free."""
        self.look_again()  # there is a place to fill, or it was the last one
        ready = any(worker.ready for worker in process.workers)
        for worker in process.workers:
            self._unwatch(worker)
        self._dying.pop(process, None)
        del self.processes[process.id]
        self.scheduler.workers -= len(process.workers)
        process.ended(exitcode)
        for worker in process.workers:
            if self._holds(worker):
                self._bury(worker)
        if process.unfit or process.stopping:
            return
        if not ready:
            self._start_failed(error or WorkerCrashed(process.pid, None, exitcode))
        elif not process.killed:
            self.journal.note("crashed", process.pid, f"worker {process.pid} died (exit code {exitcode}) and is replaced")

    def _bury(self, worker: Worker) -> None:
        """As its holder: end the jobs of a dead worker, and close its descriptors.

        Jobs it had not begun go back to the front of the queue, and so do those it had finished without delivering: the
        module has no imports, so running one again is the same to everybody.  The one it was running fails.
        """
        inflight = list(worker.inflight)
        finished = worker.head
        guilty = worker.begun - 1 - finished
        worker.inflight.clear()
        self.scheduler.disown(worker)
        for position, job in reversed(list(enumerate(inflight))):
            if position == guilty:
                again = job.crashed(worker)
                finished += job not in again
                if job in again:
                    self.journal.note("retried", worker.process.pid, f"{job.name} runs again")
                self.scheduler.queue.extendleft(reversed(again))
            elif not job.expired:
                self.scheduler.queue.appendleft(job)
        self.failed_retired += worker.failed
        self.calls_retired += finished + worker.items
        worker.close()
        worker.release()
        process = worker.process
        process.buried += 1
        if process.buried == len(process.workers):
            self._slots.append(process.slot)
        self.scheduler.pump()

    # -- time ----------------------------------------------------------------------------------------------------------

    def _keep_time(self) -> float | None:
        """Do what is due, and say how long nothing will be, in seconds; None for ever."""
        now = monotonic()
        self._watch_memory(now)
        self._expire(now)
        self._grow()
        due = [at for at in (self._start_at, self._memory_due, self._expiry_due) if now < at < math.inf]
        for process, kill_at in list(self._dying.items()):
            if kill_at <= now:
                self._kill(process, "its channels are closed and it does not end")
                # If even that is not reported, the template is stuck or gone: do without the exit code.
                if kill_at + REPORT_GRACE <= now or not process.reported:
                    self._died(process, None)
                    continue
                kill_at += REPORT_GRACE
            due.append(kill_at)
        for worker in list(self.scheduler.busy):
            if worker.outbox and worker.jobs_fd not in self._selector.get_map():
                self._selector.register(worker.jobs_fd, selectors.EVENT_WRITE, lambda w=worker: self._write_outbox(w))
            due.extend(self._overseer.look_after(worker, now))
        return max(0.0, min(due) - monotonic()) if due else None
