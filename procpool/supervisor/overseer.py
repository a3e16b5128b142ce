"""What runs too long is stopped, and what waits behind it is freed."""

from __future__ import annotations

from collections.abc import Callable

from .. import wire
from .events import Journal
from .jobs.batch import Segment
from .jobs.call import Job
from .scheduler import Scheduler
from .worker import Process, Worker

#: A submitted job with others waiting behind it in the same worker may run this long, in seconds, or this many times
#: the average, before the others are taken back.
STALL_SECONDS = 0.005
STALL_FACTOR = 8
#: Taking jobs back for an idle worker costs two system calls and a thread switch on each side; below this much work, in
#: seconds, it does not pay.
STEAL_SECONDS = 0.0005
#: A worker hears an interrupt only while it runs what is meant, and may be about to begin it.  So it is interrupted again
#: after this many seconds, then after twice that, and so on until it is killed.
INSIST_SECONDS = 0.001


class Overseer:
    """Looks after busy workers.  For the dispatcher's thread, which keeps the time: it is told when to look again."""

    def __init__(
        self, scheduler: Scheduler, journal: Journal, kill_grace: float, kill: Callable[[Process, str], None]
    ) -> None:
        self._scheduler = scheduler
        self._journal = journal
        self._kill_grace = kill_grace
        self._kill = kill

    def look_after(self, worker: Worker, now: float) -> list[float]:
        """Do what is due with a busy worker; the times at which to look again."""
        try:
            job = worker.inflight[0]
        except IndexError:
            return []
        due: list[float] = []
        deadline = job.deadline(worker, now)
        if deadline is not None and deadline <= now:
            due.extend(self._interrupt(worker, job, now))
        elif deadline is not None:
            due.append(deadline)
        sampling = job.sampling()
        if sampling is not None:
            due.append(now + sampling)
        look_again = self._share(worker, job, now)
        if look_again is not None:
            due.append(look_again)
        return due

    def _interrupt(self, worker: Worker, job: Job, now: float) -> list[float]:
        """Stop what the worker runs, or the worker if that takes too long; the times at which to look again."""
        running = (worker.head, job.item(worker))
        if worker.interrupted != running:
            worker.interrupted = running
            worker.kill_at = now + self._kill_grace
            worker.insist_at, worker.insistence = now, INSIST_SECONDS
            if not job.expired:
                self._journal.note("timeout", worker.process.pid, f"{job.name} outlived its limit")
            job.timed_out()
        if worker.kill_at <= now:
            self._kill(worker.process, "it does not react to an interrupt")
            return []
        if worker.insist_at <= now:
            worker.command(wire.INTERRUPT, *running)
            worker.insist_at = now + worker.insistence
            worker.insistence *= 2
        return [worker.kill_at, worker.insist_at]

    def _share(self, worker: Worker, job: Job, now: float) -> float | None:
        """Free what waits in one worker while others could run it; when to look again."""
        hungry = bool(self._scheduler.idle and not self._scheduler.queue)
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
        average = self._scheduler.job_seconds or 0.0
        # What was recalled may still be there: a worker that the system did not run meanwhile gives nothing back while it
        # has yet to read what it was sent.  So it is asked again, as long as something waits in it.
        stalled_at = max(worker.head_since, worker.recalled_at) + max(STALL_SECONDS, STALL_FACTOR * average)
        steal = hungry and (isinstance(job, Segment) or average * (len(worker.inflight) - 1) > STEAL_SECONDS)
        if stalled_at > now and (worker.stalled or not steal):
            return stalled_at
        self._scheduler.recall(worker)
        worker.command(wire.RECALL)
        return None
