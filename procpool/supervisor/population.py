"""Which worker processes there are: those that are wanted are started, others end, and no death is missed."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
from collections.abc import Callable, Sequence
from time import monotonic

import psutil

from .. import wire
from ..errors import RemoteError, StartupError, WorkerCrashed
from ..options import PoolOptions
from .events import EventKind, Journal
from .jobs.call import Job, Purge
from .lane import Lane
from .launch import LAUNCHERS, Inheritance, Launcher, LauncherBusy
from .memory import ProcessMemory
from .port import READY, STARTING, Port
from .process import Process
from .scheduler import Scheduler
from .timesheet import Timesheet
from .watch import Watch

logger: logging.Logger = logging.getLogger("procpool")

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
    """The processes of one pool.  For the dispatcher's thread; any may ask `present`, `lanes` and the counters.

    Args:
        inheritance: what each process gets.
        options: how many to have, how they are started, and what they may grow to.
        scheduler: takes the workers of those that are ready.
        journal: is told what becomes of them.
        watch: where the dispatcher listens.
        hear: takes what a worker has sent, all of it if it has ended.
        deaf: told of a worker that nothing more is taken of.
    """

    def __init__(
        self,
        inheritance: Inheritance,
        options: PoolOptions,
        scheduler: Scheduler,
        journal: Journal,
        watch: Watch,
        hear: Callable[[Lane, bool], None],
        deaf: Callable[[Lane], None],
    ) -> None:
        self.present: dict[int, Process] = {}  #: by their ids
        self.broken: StartupError | None = None  #: why no worker can be made
        self.unfit: wire.Report | None = None  #: what the start of a worker raised, last
        self.calls_retired: int = 0  #: calls that workers now gone had done
        self.timesheet: Timesheet = Timesheet(inheritance.instances)  #: of processes now gone
        self._inheritance = inheritance
        self._options = options
        self._scheduler = scheduler
        self._journal = journal
        self._watch = watch
        self._hear = hear
        self._deaf = deaf
        self._launcher: Launcher | None = None
        self._lanes: dict[Process, tuple[Lane, ...]] = {}
        self._launching: tuple[Process, list[Port]] | None = None  # what is being asked for, and its ports so far
        self._slots = list(range(inheritance.slots - 1, -1, -1))
        self._most = options.workers
        self._wanted = options.workers if options.min_workers is None else min(options.min_workers, options.workers)
        self._started = 0
        self._worked = False  # a worker has been ready: so it can be done
        self._closing = False  # what cannot be had now is not waited for
        self._bad_starts = 0
        self._start_at = 0.0
        self._memory_due = 0.0 if options.max_worker_memory is not None else math.inf
        self._expiry_due = monotonic() + options.idle_expiry
        self._calls_seen: dict[Process, int] = {}  # when it was last looked whether they are used
        self._used_seen: dict[Lane, int] = {}
        self._purged_at: dict[Lane, int] = {}  # when its instance was last thrown away for lying idle
        self._dying: dict[Process, float] = {}  # no longer heard of, not yet reported dead -> when to kill

    # -- how many ------------------------------------------------------------------------------------------------------

    def lanes(self, process: Process) -> tuple[Lane, ...]:
        """The workers of a process."""
        return self._lanes.get(process, ())

    def calls(self, process: Process) -> int:
        """How many calls a process has finished, each item of a batch being one."""
        return sum(lane.calls for lane in self.lanes(process))

    def ready(self, process: Process) -> bool:
        """Whether all its workers take jobs."""
        lanes = self.lanes(process)
        return bool(lanes) and all(lane.port.state == READY for lane in lanes)

    def leaving(self, process: Process) -> bool:
        """Whether its workers get no more jobs."""
        return any(lane.leaving for lane in self.lanes(process))

    def _serving(self, process: Process) -> bool:
        return self.ready(process) and not self.leaving(process)

    def _starting(self, process: Process) -> bool:
        return not self.leaving(process) and any(lane.port.state == STARTING for lane in self.lanes(process))

    def _surplus(self) -> int:
        """How many more there are than there should be, those that leave not counted; negative if some are missing."""
        present = [process for process in self.present.values() if not self.leaving(process)]
        # One more than wanted, to be ready before an outdated one goes.
        return len(present) - self._wanted - any(process.outdated for process in present)

    def want(self, workers: int) -> None:
        """Have that many from now on."""
        self._most = self._wanted = workers

    def complete(self) -> bool:
        """Whether as many take jobs as are wanted."""
        return sum(map(self._serving, list(self.present.values()))) >= self._wanted

    def replace(self) -> list[Process]:
        """Have all of now replaced, each when another is ready; which they are."""
        old = list(self.present.values())
        for process in old:
            process.outdate()
        return old

    def let_go(self) -> None:
        """End processes that are too many or outdated, as soon as there are enough others, and never in a job."""
        staying = [process for process in self.present.values() if self._serving(process)]
        for process in staying:
            if self.calls(process) >= self._options.max_tasks_per_worker:
                process.outdate()
        going: list[Process] = []
        if len(staying) > self._wanted:
            staying.sort(key=lambda process: (not process.outdated, not self._idle(process)))
            going = staying[: len(staying) - self._wanted]
        surplus = self._surplus() - len(going)
        if surplus > 0:  # nobody waits for those that are starting; the youngest has the longest way to go
            going += [process for process in self.present.values() if self._starting(process)][-surplus:]
        for process in going:
            why: EventKind = "recycled" if process.outdated else "retired"
            text = f"{process.title} is {why} after {self.calls(process)} calls"
            self._journal.note(why, process.pid, text)
            for lane in self.lanes(process):
                self._scheduler.retire(lane)
        for process in list(self.present.values()):
            if self.leaving(process):
                self._dismiss(process)
        while self._scheduler.left:
            lane = self._scheduler.left.popleft()
            if lane.port.dead:
                self.bury(lane)
            else:
                self._park(lane)

    def all_let_go(self) -> bool:
        """The pool is closing: end all, none in a job; whether they are gone."""
        for process in list(self.present.values()):
            for lane in self.lanes(process):
                self._scheduler.retire(lane)
            self._dismiss(process)
        return not self.present

    def _dismiss(self, process: Process) -> None:
        """Put away those of its workers that do nothing."""
        for lane in self.lanes(process):
            # One in a direct call comes back to the idle list when it is done.
            if lane.port.state == STARTING or self._scheduler.take_resting(lane):
                self._park(lane)

    def _idle(self, process: Process) -> bool:
        return all(lane in self._scheduler.idle for lane in self.lanes(process))

    def _park(self, lane: Lane) -> None:
        """Put away a worker that we hold and that has nothing to do; its process ends when the last one comes."""
        if lane.port.state == READY:  # what it has logged and printed came before its last answer
            self._hear(lane, True)
        lane.port.park()
        self.unwatch(lane)
        process = lane.port.process
        lanes = self.lanes(process)
        if all(each.port.state != READY for each in lanes) and not process.stopping:
            process.stops()
            self.timesheet.ends(process, lanes)
            for each in lanes:
                self.unwatch(each)
                each.port.close()  # that tells it to
            self.expect_end(process)

    def _grow(self) -> None:
        """Want one more worker when there is work that none has taken."""
        if self._options.min_workers is None or self._wanted >= self._most:
            return
        starting = any(not self.ready(process) for process in self.present.values())
        if self._scheduler.queue and not self._scheduler.idle and not starting:
            self._wanted += 1

    def _expire(self, now: float) -> None:
        """Let go of what was not used between the last two looks: processes beyond the least, instances beyond the warm.

        Looked at twice per expiry, so that an idle worker needs no clock of its own and calls need not write one.
        """
        if now < self._expiry_due:
            return
        self._expiry_due = now + self._options.idle_expiry / 2
        for process in list(self.present.values()):
            calls = self.calls(process)
            unused = self._calls_seen.get(process) == calls and self._idle(process)
            self._calls_seen[process] = calls
            if unused and self._options.min_workers is not None and self._wanted > self._options.min_workers:
                self._wanted -= 1
            for number, lane in enumerate(self.lanes(process)):
                unused = lane.used == self._used_seen.get(lane) and lane.used != self._purged_at.get(lane, 0)
                self._used_seen[lane] = lane.used
                if unused and number >= self._options.prewarm and self._scheduler.take_idle(lane):
                    self._purged_at[lane] = self._used_seen[lane] = lane.used + 1
                    self._scheduler.assign(lane, Purge())

    def _watch_memory(self, now: float) -> None:
        """Have workers replaced that hold too much, and kill what holds twice that: it may not live to the next look."""
        most = self._options.max_worker_memory
        if most is None or now < self._memory_due:
            return
        self._memory_due = now + MEMORY_PERIOD
        for process in list(self.present.values()):
            try:
                held = 0 if process.pid is None else psutil.Process(process.pid).memory_info().rss
            except (psutil.Error, OSError):  # it has ended, or there are no descriptors left
                continue
            if held > most:
                process.outdate()
            if held > 2 * most:
                self.kill(process, f"it held {held:,} bytes, more than twice max_worker_memory={most:,}")

    # -- births --------------------------------------------------------------------------------------------------------

    def start_missing(self, closing: bool) -> None:
        """Start as many as there should be.  Whatever fails is tried again later, and ends nothing."""
        self._closing = closing
        self._grow()
        while not self.broken and monotonic() >= self._start_at:
            if self._surplus() >= 0 or not self._slots:
                return
            try:
                self._launch()
            except LauncherBusy:
                self._start_at = monotonic() + BACKOFF_FIRST
            except Exception as error:  # no descriptors, threads, memory
                self._start_failed(error if isinstance(error, OSError) else OSError(str(error)))

    def _launch(self) -> None:
        """Start a process.

        Raises:
            OSError, RuntimeError, MemoryError: it cannot be asked for.  Then nothing is left of it.
        """
        if self._launcher is None:
            self._launcher = LAUNCHERS[self._options.start_method](self._inheritance)
            self._watch.read(self._launcher.events.fileno(), self._read_launcher)
        instances = self._inheritance.instances
        memory = ProcessMemory(instances)
        process = Process(self._started, self._slots[-1], memory, monotonic() + self._options.start_timeout)
        ports = list[Port]()
        self._launching = process, ports
        try:
            for row in range(instances):
                ports.append(Port(process, row))
            fds = [fd for port in ports for fd in port.their_fds]
            self._launcher.launch(process.id, process.slot, [memory.fd, *fds])
        except BaseException:
            for port in ports:
                port.close_their_fds()
                port.close()
                port.release()
            memory.close()
            raise
        for port in ports:
            port.close_their_fds()
        self._started += 1
        self._slots.pop()
        self.present[process.id] = process
        lanes = self._lanes[process] = tuple(Lane(port) for port in ports)
        self._launching = None
        for lane in lanes:
            self._scheduler.add()
            self._watch.read(lane.port.control.fileno(), lambda lane=lane: self._hear(lane, False))  # type: ignore[misc]

    def _start_failed(self, error: BaseException) -> None:
        """A worker did not get ready: pause longer each time, and give up when none ever does.

        What is lacking for the moment, processes, descriptors or time, may be had again: a pool that has worked waits.
        """
        self._bad_starts += 1
        self._start_at = monotonic() + min(BACKOFF_FIRST * 2**self._bad_starts, BACKOFF_MOST)
        why = error.args[0] if isinstance(error, RemoteError) else str(error)
        self._journal.note("start_failed", None, f"a worker could not be started ({self._bad_starts} in a row): {why}")
        if any(lane.port.state == READY for process in self.present.values() for lane in self.lanes(process)):
            return
        if isinstance(error, OSError) and self.present:  # others are starting, however slowly, and may get ready
            return
        if isinstance(error, (OSError, StartupError)) and self._worked and not self._closing:
            return
        if self._bad_starts >= GIVE_UP_AFTER or not isinstance(error, (OSError, WorkerCrashed)):
            failure = StartupError(f"no worker can be started: {why}")
            failure.__cause__ = error
            self.broken = failure
            self._journal.note("broken", None, f"the pool is closed: {failure}")

    def born(self, process: Process, pid: int) -> None:
        """Its pid has become known, from the launcher or from itself, whichever is heard first."""
        if process.pid is None:
            process.born(pid)
            self._journal.note("started", pid, f"{process.title} is starting")

    def started_well(self, lane: Lane) -> None:
        """A worker is ready."""
        lane.port.became_ready()
        self._worked = True
        self._bad_starts = 0

    def started_badly(self, lane: Lane, report: wire.Report) -> None:
        """A worker cannot be made: the start function trapped, or an initializer raised."""
        lane.port.process.cannot_start()
        self.unfit = report
        # Without loading it: that would run the user's code here.
        self._start_failed(RemoteError(_last_line(report)) if isinstance(report, wire.Raised) else report)

    # -- deaths --------------------------------------------------------------------------------------------------------

    def _read_launcher(self) -> None:
        while self._launcher is not None:
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
                self.born(process, number)
            elif event == wire.LAUNCH_FAILED:
                self._died(process, None, OSError(number, os.strerror(number)))
            else:
                process.is_reaped()
                for lane in self.lanes(process):
                    self._hear(lane, True)  # replies sent before its end count
                self._died(process, number)

    def _template_died(self) -> None:
        """Have a new template.  Workers that live go on; those it owed us an answer about are given up."""
        assert self._launcher is not None
        self._watch.forget(self._launcher.events.fileno())
        self._launcher.close()
        self._launcher = None
        self._journal.note("template_died", None, "the template process died; starting another")
        for process in list(self.present.values()):
            process.orphan()
            if process.pid is None or process in self._dying:
                self._died(process, None)

    def expect_end(self, process: Process) -> None:
        """It should end by itself; kill it if it does not."""
        if process.id in self.present:
            self._dying.setdefault(process, monotonic() + (REPORT_GRACE if process.reported else 0.0))

    def unwatch(self, lane: Lane) -> None:
        """Listen to it no more."""
        port = lane.port
        self._watch.forget(port.control.fileno(), port.jobs_fd, port.replies_fd)
        self._deaf(lane)

    def kill(self, process: Process, why: str) -> None:
        """Kill a process that should not live on."""
        # Its exit has not been reported, so the pid is still its own, but for the instant between the template's
        # waitpid and our reading of the report.
        if process.pid is not None and not process.reaped:
            if not process.killed and not process.stopping:
                process.is_killed(why)
                self._journal.note("killed", process.pid, f"{process.title} is killed: {why}")
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _holds(self, lane: Lane) -> bool:
        """Whether the dispatcher holds the worker, or does so from now on; if not, a direct call or a lease does."""
        return self._scheduler.remove(lane) or lane.port.parked or not lane.port.was_ready

    def _died(self, process: Process, exitcode: int | None, error: BaseException | None = None) -> None:
        """A process has ended: its jobs find their ends, and a place is free."""
        lanes = self.lanes(process)
        ready = any(lane.port.was_ready for lane in lanes)
        self._dying.pop(process, None)
        self._calls_seen.pop(process, None)
        del self.present[process.id]
        for lane in lanes:
            self.unwatch(lane)
            self._scheduler.gone()
            lane.port.died()
        process.ended(exitcode)
        self.timesheet.ended(process, monotonic())
        for lane in lanes:
            if self._holds(lane):
                self.bury(lane)
        if process.unfit or process.stopping:
            return
        if not ready:
            self._start_failed(error or self._why_not_ready(process, exitcode))
        elif exitcode == wire.EXIT_SPENT:
            self._journal.note("recycled", process.pid, f"worker {process.pid} could serve no other and is replaced")
        elif not process.killed:
            self._journal.note("crashed", process.pid, f"{process.title} died (exit code {exitcode}) and is replaced")

    def _why_not_ready(self, process: Process, exitcode: int | None) -> Exception:
        if exitcode == wire.EXIT_SCARCE:
            return OSError(errno.EAGAIN, "a worker could not start its threads")
        if process.starts_by > monotonic():
            return process.crash(None)
        return StartupError(
            f"a worker was not ready within start_timeout={self._options.start_timeout:g} s; does its initializer or start"
            " function ever end?"
        )

    def bury(self, lane: Lane) -> None:
        """As its holder: end the jobs of a dead worker, and close its descriptors.

        Jobs it had not begun go back to the front of the queue, and so do those it had finished without delivering: the
        module has no imports, so running one again is the same to everybody.  The one it was running fails.
        """
        port, process = lane.port, lane.port.process
        guilty, rest = self._scheduler.crash(lane, port.begun)
        left: Sequence[Job] = ()
        if guilty is not None:
            retried, left = guilty.crashed(lane, port, process.crash(guilty.name))
            if retried:
                self._journal.note("retried", process.pid, f"{guilty.name} runs again")
        self._scheduler.bury(lane, [*left, *rest])
        self.calls_retired += lane.calls
        self.timesheet.buried(lane)
        self._used_seen.pop(lane, None)
        self._purged_at.pop(lane, None)
        port.close()
        port.release()
        self._lanes[process] = tuple(each for each in self._lanes[process] if each is not lane)
        if not self._lanes[process]:
            del self._lanes[process]
            self._slots.append(process.slot)
            process.memory.close()
        self._scheduler.pump()

    def end(self, error: Exception) -> None:
        """Kill all, and end their jobs with that error."""
        lanes = [lane for process in self.present.values() for lane in self.lanes(process)]
        for lane in lanes:
            self.unwatch(lane)
        for process in self.present.values():
            if not process.stopping:
                self.timesheet.ends(process, self.lanes(process))
        if self._launcher is not None:
            self._watch.forget(self._launcher.events.fileno())
            self._launcher.close()
        for process in list(self.present.values()):
            for lane in self.lanes(process):
                lane.port.died()
            process.ended(-signal.SIGKILL)
            self.timesheet.ended(process, monotonic())
        for lane in lanes:
            if self._holds(lane):
                lane.port.close()
            guilty, rest = self._scheduler.crash(lane, lane.port.begun)
            if guilty is not None:
                guilty.fail(error)
            self._scheduler.bury(lane, rest)
            lane.port.release()
            self.calls_retired += lane.calls
            self.timesheet.buried(lane)
        for process in self._lanes:  # with those that have ended and not been buried
            process.memory.close()
        self.present.clear()
        self._lanes.clear()
        for job in self._scheduler.take_queued():
            job.fail(error)

    def forsake(self) -> None:
        """In a forked child: close our copies, and touch no lock and no process."""
        for process, lanes in self._lanes.items():
            process.memory.close()
            for lane in lanes:
                lane.port.close()
        if self._launching is not None:
            # With the worker's ends, or nobody would ever be told of its death by their closing.
            process, ports = self._launching
            process.memory.close()
            for port in ports:
                port.close_their_fds()
                port.close()
        if self._launcher is not None:
            self._launcher.forsake()

    # -- time ----------------------------------------------------------------------------------------------------------

    def keep_time(self, now: float) -> list[float]:
        """Do what is due; the times at which to look again."""
        self._watch_memory(now)
        self._expire(now)
        due = [at for at in (self._start_at, self._memory_due, self._expiry_due) if now < at < math.inf]
        for process in list(self.present.values()):
            if process.unfit or all(lane.port.was_ready for lane in self.lanes(process)):
                continue
            if process.starts_by > now:
                due.append(process.starts_by)
            else:
                self.kill(process, f"it was not ready within {self._options.start_timeout:g} s")
                self.expect_end(process)
        for process, kill_at in list(self._dying.items()):
            if kill_at <= now:
                self.kill(process, "its channels are closed and it does not end")
                # If even that is not reported, the template is stuck or gone: do without the exit code.
                if kill_at + REPORT_GRACE <= now or not process.reported:
                    self._died(process, None)
                    kill_at = now  # somebody may wait for that
                else:
                    kill_at += REPORT_GRACE
            due.append(kill_at)
        return due


def _last_line(report: wire.Raised) -> str:
    """The line of a traceback that says what was raised; its message may have more.  And the note, if there is one."""
    lines = [line for line in report.text.splitlines() if line and not line.startswith(" ")]
    # The class may be one made in a function.
    named = [line for line in lines if line.partition(":")[0].replace("<locals>", "").replace(".", "_").isidentifier()]
    line = (named or lines or [report.text])[-1]
    return f"{line} ({report.note})" if report.note else line
