"""Which worker processes there are: those that are wanted are started, others end, and no death is missed."""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
from collections.abc import Callable
from time import monotonic

import psutil

from .. import wire
from ..errors import StartupError, WorkerCrashed
from .events import Journal
from .jobs.call import Purge
from .launch import LAUNCHERS, Inheritance
from .limits import Limits
from .scheduler import Scheduler
from .worker import DEAD, READY, STARTING, STOPPING, Process, Worker

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


class Population:
    """The processes of one pool.  For the dispatcher's thread, but for `ready`, `want` and `replace`.

    Args:
        inheritance: what each process gets.
        start_method: how they are started.
        workers: how many to have.
        limits: what they may grow to.
        scheduler: takes the workers of those that are ready.
        journal: is told what becomes of them.
        selector: where the dispatcher listens.
        read_replies: reads what a worker has sent.
        wake: has the dispatcher look again.
        on_broken: told when no process can be made to work.
    """

    def __init__(
        self,
        inheritance: Inheritance,
        start_method: str,
        workers: int,
        limits: Limits,
        scheduler: Scheduler,
        journal: Journal,
        selector: selectors.BaseSelector,
        read_replies: Callable[[Worker], None],
        wake: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self.present: dict[int, Process] = {}
        self.broken: StartupError | None = None  #: why no worker can be made
        self.unfit: BaseException | None = None  #: what the user's own code raised at the start of a worker
        self.calls_retired = 0  #: jobs that workers now gone had done
        self.failed_retired = 0
        self._inheritance = inheritance
        self._limits = limits
        self._scheduler = scheduler
        self._journal = journal
        self._selector = selector
        self._read_replies = read_replies
        self._wake = wake
        self._on_broken = on_broken
        self._launch_type = LAUNCHERS[start_method]
        self._launcher = self._launch_type(inheritance)
        self._selector.register(self._launcher.events, selectors.EVENT_READ, self._read_launcher)
        self._slots = list(range(inheritance.slots - 1, -1, -1))
        self._most = workers
        self._wanted = workers if limits.min_workers is None else min(limits.min_workers, workers)
        self._started = 0
        self._bad_starts = 0
        self._start_at = 0.0
        self._memory_due = 0.0 if limits.max_worker_memory is not None else math.inf
        self._expiry_due = monotonic() + limits.idle_expiry
        self._dying: dict[Process, float] = {}  # no longer heard of, not yet reported dead -> when to kill

    # -- how many ------------------------------------------------------------------------------------------------------

    def ready(self) -> int:
        """How many take jobs."""
        return sum(process.ready and not process.leaving for process in list(self.present.values()))

    def want(self, workers: int) -> None:
        """Have that many from now on."""
        self._most = self._wanted = workers

    def complete(self) -> bool:
        """Whether as many take jobs as are wanted."""
        return self.ready() >= self._wanted

    def replace(self) -> list[Process]:
        """Have all of now replaced, each when another is ready; which they are."""
        old = list(self.present.values())
        for process in old:
            process.outdated = True
        return old

    def let_go(self) -> None:
        """End processes that are too many or outdated, as soon as there are enough others, and never in a job."""
        staying = [process for process in self.present.values() if process.ready and not process.leaving]
        for process in staying:
            process.outdated = process.outdated or process.calls >= self._limits.max_tasks_per_worker
        staying.sort(key=lambda process: (not process.outdated, not self._idle(process)))
        for process in staying[: max(0, len(staying) - self._wanted)]:
            why = "recycled" if process.outdated else "retired"
            self._journal.note(why, process.pid, f"worker {process.pid} is {why} after {process.calls} calls")
            process.leave()
        for process in list(self.present.values()):
            if process.leaving:
                for worker in process.workers:
                    if self._scheduler.take_idle(worker):
                        self._park(worker)
        while self._scheduler.left:
            worker = self._scheduler.left.popleft()
            if worker.state == DEAD:
                self.bury(worker)
            else:
                self._park(worker)

    def all_let_go(self) -> bool:
        """The pool is closing: end all, none in a job; whether they are gone."""
        for process in list(self.present.values()):
            process.leave()
            for worker in process.workers:
                # Only idle workers: one in a direct call comes back to the idle list when it is done.
                if worker.state == STARTING or self._scheduler.take_idle(worker):
                    self._park(worker)
        return not self.present

    def _idle(self, process: Process) -> bool:
        return all(worker in self._scheduler.idle for worker in process.workers)

    def _park(self, worker: Worker) -> None:
        """Put away a worker that we hold and that has nothing to do; its process ends when the last one comes."""
        worker.state = STOPPING
        worker.parked = True
        self.unwatch(worker)
        process = worker.process
        if process.left and not process.stopping:
            process.stopping = True
            for each in process.workers:
                self.unwatch(each)
                each.close()  # that tells it to
            self.expect_end(process)

    def _grow(self) -> None:
        """Want one more worker when there is work that none has taken."""
        starting = any(not process.ready for process in self.present.values())
        waiting = self._scheduler.queue and not self._scheduler.idle
        if self._limits.min_workers is not None and waiting and not starting and self._wanted < self._most:
            self._wanted += 1

    def _expire(self, now: float) -> None:
        """Let go of what was not used between the last two looks: processes beyond the least, instances beyond the warm.

        Looked at twice per expiry, so that an idle worker needs no clock of its own and calls need not write one.
        """
        if now < self._expiry_due:
            return
        self._expiry_due = now + self._limits.idle_expiry / 2
        for process in list(self.present.values()):
            unused = process.calls == process.calls_seen and self._idle(process)
            process.calls_seen = process.calls
            if unused and self._limits.min_workers is not None and self._wanted > self._limits.min_workers:
                self._wanted -= 1
            for number, worker in enumerate(process.workers):
                unused = worker.sent == worker.sent_seen and worker.sent != worker.purged_at
                worker.sent_seen = worker.sent
                if unused and number >= self._limits.prewarm and self._scheduler.take_idle(worker):
                    worker.purged_at = worker.sent_seen = worker.sent + 1
                    self._scheduler.assign(worker, Purge())

    def _watch_memory(self, now: float) -> None:
        """Have workers replaced that hold too much, and kill what holds twice that: it may not live to the next look."""
        most = self._limits.max_worker_memory
        if most is None or now < self._memory_due:
            return
        self._memory_due = now + MEMORY_PERIOD
        for process in list(self.present.values()):
            try:
                held = psutil.Process(process.pid).memory_info().rss if process.pid else 0
            except psutil.Error:
                continue
            if held > most and not process.outdated:
                logger.info("procpool: worker %d holds %d bytes and is to be replaced", process.pid, held)
                process.outdated = True
            if held > 2 * most:
                self.kill(process, f"it holds {held} bytes, twice max_worker_memory")

    # -- births --------------------------------------------------------------------------------------------------------

    def start_missing(self) -> None:
        """Start as many as there should be."""
        if self.broken or monotonic() < self._start_at:
            return
        while True:
            present = [process for process in self.present.values() if not process.leaving]
            # One more than wanted, to be ready before an outdated one goes.
            if len(present) >= self._wanted + any(process.outdated for process in present) or not self._slots:
                return
            slot = self._slots.pop()
            try:
                process = self._launch(slot)
            except OSError as error:
                self._slots.append(slot)
                self._start_failed(error)
                return
            self.present[process.id] = process
            self._scheduler.workers += len(process.workers)
            for worker in process.workers:
                self._selector.register(worker.control, selectors.EVENT_READ, lambda w=worker: self._read_replies(w))

    def _launch(self, slot: int) -> Process:
        """A process that is being started.

        Raises:
            OSError: there are no descriptors left, or it cannot be asked for.
        """
        process = Process(self._started, slot, self._inheritance)
        self._started += 1
        try:
            self._launcher.launch(process.id, process.slot, process.their_fds)
        except OSError:
            process.never_ran()
            raise
        process.close_their_fds()
        return process

    def _start_failed(self, error: BaseException) -> None:
        """A worker did not get ready: pause longer each time, and give up when none ever does."""
        self._bad_starts += 1
        self._start_at = monotonic() + min(BACKOFF_FIRST * 2**self._bad_starts, BACKOFF_MOST)
        self._journal.note("start_failed", None, f"a worker could not be started ({self._bad_starts} in a row): {error}")
        alive = any(worker.state == READY for process in self.present.values() for worker in process.workers)
        if not alive and (self._bad_starts >= GIVE_UP_AFTER or not isinstance(error, (OSError, WorkerCrashed))):
            failure = StartupError(f"no worker can be started: {error}")
            failure.__cause__ = error
            self.broken = failure
            self._journal.note("broken", None, f"the pool is closed: {failure}")
            self._on_broken()

    def started_well(self, worker: Worker, pid: int) -> None:
        """One of its workers is ready."""
        worker.process.pid = worker.process.pid or pid
        self._bad_starts = 0

    def started_badly(self, worker: Worker, error: BaseException, own: bool) -> None:
        """One of its workers cannot be made; ``own`` if that is the fault of the user's code."""
        worker.process.unfit = True
        if own:
            self.unfit = error
        self._start_failed(error)

    # -- deaths --------------------------------------------------------------------------------------------------------

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
            process = self.present.get(id)
            if process is None:
                continue
            if event == wire.LAUNCHED:
                process.pid = number
                self._journal.note("started", number, f"worker {number} is starting")
            elif event == wire.LAUNCH_FAILED:
                self._died(process, None, OSError(number, os.strerror(number)))
            else:
                for worker in process.workers:
                    self._read_replies(worker)  # replies sent before its end count
                self._died(process, number)

    def _template_died(self) -> None:
        """Get a new template.  Workers that live go on; those it owed us an answer about are given up."""
        self._selector.unregister(self._launcher.events)
        self._launcher.close()
        self._journal.note("template_died", None, "the template process died; starting another")
        for process in list(self.present.values()):
            process.reported = False
            if not process.pid or process in self._dying:
                self._died(process, None)
        self._launcher = self._launch_type(self._inheritance)
        self._selector.register(self._launcher.events, selectors.EVENT_READ, self._read_launcher)

    def expect_end(self, process: Process) -> None:
        """It should end by itself; kill it if it does not."""
        if process.id in self.present:
            self._dying.setdefault(process, monotonic() + (REPORT_GRACE if process.reported else 0.0))

    def unwatch(self, worker: Worker) -> None:
        """Listen to it no more."""
        for fd in (worker.control.fileno(), worker.jobs_fd, worker.replies_fd):
            if fd >= 0 and fd in self._selector.get_map():
                self._selector.unregister(fd)

    def kill(self, process: Process, why: str) -> None:
        """Kill a process that should not live on."""
        # Its exit has not been reported, so the pid is still its own, but for the instant between the template's
        # waitpid and our reading of the report.
        if process.pid and not process.exited.is_set():
            if not process.killed and not process.stopping:
                process.killed = True
                self._journal.note("killed", process.pid, f"worker {process.pid} is killed: {why}")
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _holds(self, worker: Worker) -> bool:
        """Whether the dispatcher holds the worker, or does so from now on; if not, a direct call or a lease does."""
        return self._scheduler.remove(worker) or worker.parked or not worker.ready

    def _died(self, process: Process, exitcode: int | None, error: BaseException | None = None) -> None:
        """A process has ended: its jobs find their ends, and a place is free."""
        self._wake()  # there is a place to fill, or it was the last one
        ready = any(worker.ready for worker in process.workers)
        for worker in process.workers:
            self.unwatch(worker)
        self._dying.pop(process, None)
        del self.present[process.id]
        self._scheduler.workers -= len(process.workers)
        process.ended(exitcode)
        for worker in process.workers:
            if self._holds(worker):
                self.bury(worker)
        if process.unfit or process.stopping:
            return
        if not ready:
            self._start_failed(error or WorkerCrashed(process.pid, None, exitcode))
        elif not process.killed:
            self._journal.note("crashed", process.pid, f"worker {process.pid} died (exit code {exitcode}) and is replaced")

    def bury(self, worker: Worker) -> None:
        """As its holder: end the jobs of a dead worker, and close its descriptors.

        Jobs it had not begun go back to the front of the queue, and so do those it had finished without delivering: the
        module has no imports, so running one again is the same to everybody.  The one it was running fails.
        """
        inflight = list(worker.inflight)
        finished = worker.head
        guilty = worker.begun - 1 - finished
        worker.inflight.clear()
        self._scheduler.disown(worker)
        for position, job in reversed(list(enumerate(inflight))):
            if position == guilty:
                again = job.crashed(worker)
                finished += job not in again
                if job in again:
                    self._journal.note("retried", worker.process.pid, f"{job.name} runs again")
                self._scheduler.queue.extendleft(reversed(again))
            elif not job.expired:
                self._scheduler.queue.appendleft(job)
        self.failed_retired += worker.failed
        self.calls_retired += finished + worker.items
        worker.close()
        worker.release()
        process = worker.process
        process.buried += 1
        if process.buried == len(process.workers):
            self._slots.append(process.slot)
        self._scheduler.pump()

    def end(self, error: Exception) -> None:
        """Kill all, and end their jobs with that error."""
        for process in self.present.values():
            for worker in process.workers:
                self.unwatch(worker)
        self._launcher.close()
        for process in list(self.present.values()):
            process.ended(-signal.SIGKILL)
            for worker in process.workers:
                if self._holds(worker):
                    worker.close()
                for job in (*worker.inflight, *worker.own):
                    job.fail(error)
                worker.release()

    def forsake(self) -> None:
        """In a forked child: close our copies, and touch no lock and no process."""
        for process in self.present.values():
            for worker in process.workers:
                worker.close()
        self._launcher.events.close()

    # -- time ----------------------------------------------------------------------------------------------------------

    def keep_time(self, now: float) -> list[float]:
        """Do what is due; the times at which to look again."""
        self._watch_memory(now)
        self._expire(now)
        self._grow()
        due = [at for at in (self._start_at, self._memory_due, self._expiry_due) if now < at < math.inf]
        for process, kill_at in list(self._dying.items()):
            if kill_at <= now:
                self.kill(process, "its channels are closed and it does not end")
                # If even that is not reported, the template is stuck or gone: do without the exit code.
                if kill_at + REPORT_GRACE <= now or not process.reported:
                    self._died(process, None)
                    continue
                kill_at += REPORT_GRACE
            due.append(kill_at)
        return due
