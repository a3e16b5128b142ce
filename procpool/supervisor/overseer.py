"""What runs too long is stopped, and what waits behind it is freed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import wire
from .events import Journal
from .jobs.batch import Segment
from .jobs.call import Job
from .lane import Lane
from .process import Process
from .scheduler import Scheduler

#: A submitted job with others waiting behind it in the same worker may run this long, in seconds, or this many times
#: the average, before the others are taken back.
STALL_SECONDS = 0.005
STALL_FACTOR = 8
#: Sharing work with an idle worker costs some system calls and a thread switch on each side; below this much work, in
#: seconds, it does not pay.
STEAL_SECONDS = 0.0005
#: A worker that has nothing to do may take so many seconds to come to see that, whatever ``kill_grace``: on a crowded
#: machine a healthy one may have to wait for its turn.
STILL_SECONDS = 1.0


class Overseer:
    """Looks after busy workers.  For the dispatcher's thread, which keeps the time: it is told when to look again."""

    def __init__(
        self,
        scheduler: Scheduler,
        journal: Journal,
        kill_grace: float,
        kill: Callable[[Process, str], None],
        lanes: Callable[[Process], Sequence[Lane]],
    ) -> None:
        self._scheduler = scheduler
        self._journal = journal
        self._kill_grace = kill_grace
        self._kill = kill
        self._lanes = lanes

    def look_after(self, lane: Lane, now: float) -> list[float]:
        """Do what is due with a busy worker; the times at which to look again."""
        due: list[float] = []
        if lane.settles_at is not None:
            if lane.settles_at <= now:
                self._scheduler.withdraw(lane, lane.port.begun)
            else:
                due.append(lane.settles_at)
        job = lane.head
        if job is None:
            return due + self._look_whether_it_moves(lane, now)
        stop_at = job.stop_at(lane, lane.port, now)
        if stop_at is not None and stop_at <= now:
            due.extend(self._interrupt(lane, job, now))
        elif stop_at is not None:
            due.append(stop_at)
        sampling = job.sampling()
        if sampling is not None:
            due.append(now + sampling)
        look_again = self._share(lane, job, now)
        if look_again is not None:
            due.append(look_again)
        return due

    def _look_whether_it_moves(self, lane: Lane, now: float) -> list[float]:
        """A worker with nothing to do that does not come to see that is stopped; killing it costs nobody a job.

        Unless another instance in its process runs one, which may also be what keeps this one still.
        """
        since = lane.idle_behind_fence_since
        if since is None:
            return []
        until = since + max(self._kill_grace, STILL_SECONDS)
        if until > now:
            return [until]
        if not self._scheduler.take_all_resting(self._lanes(lane.port.process)):
            return [now + STILL_SECONDS]
        self._kill(lane.port.process, "it does not move")
        return []

    def _interrupt(self, lane: Lane, job: Job, now: float) -> tuple[float, ...]:
        """Stop what the worker runs, or the worker if that takes too long; the times at which to look again."""
        asked = lane.interrupt(job.item(lane.port), now, self._kill_grace, job.unwanted)
        if asked.first:
            if not job.unwanted:
                self._journal.note("timeout", lane.port.process.pid, f"{job.name} outlived its limit")
            job.overdue()
        if asked.kill:
            self._kill(lane.port.process, "it does not react to an interrupt")
        elif asked.send is not None:
            lane.port.command(wire.INTERRUPT, *asked.send)
        return asked.due

    def _share(self, lane: Lane, job: Job, now: float) -> float | None:
        """Free what waits in one worker while others could run it; when to look again."""
        unbegun = not lane.has_begun(lane.port.begun)
        if isinstance(job, Segment):
            shared = lane.depth == 1 and not unbegun and (job.halted or job.stop - job.start == 1)
            if shared or lane.unwritten or not self._scheduler.hungry():
                return None
            if now - lane.since < STEAL_SECONDS:
                return lane.since + STEAL_SECONDS
            if lane.depth == 1 and not unbegun:
                if job.seconds_left(lane, lane.port, now) > STEAL_SECONDS:
                    job.halt(lane.port)
                # The items still to come may be longer than those so far.
                return None if job.halted or job.stop - job.start == 1 else now + STEAL_SECONDS
        elif lane.depth == 1 and (job.key is not None or not unbegun or not self._scheduler.hungry()):
            return None
        if lane.fenced:
            return None
        average = self._scheduler.job_seconds or 0.0
        # One that is still receiving its job does not stall, and another would have to receive it anew.
        stalled_at = (lane.received_at if unbegun else lane.since) + max(STALL_SECONDS, STALL_FACTOR * average)
        worth = not unbegun and (isinstance(job, Segment) or average * (lane.depth - 1) > STEAL_SECONDS)
        if stalled_at > now and not (worth and self._scheduler.hungry()):
            return stalled_at
        self.withdraw(lane)
        return lane.settles_at

    def withdraw(self, lane: Lane) -> None:
        """Begin to take back what a worker has not begun, and have it send what it has finished."""
        numbers = self._scheduler.fence(lane, lane.port.begun)
        if numbers is not None:
            lane.port.fence(*numbers)
        # Behind the fence: what the worker begins because it has not seen that may take long, and what it had finished by
        # then has to come.
        lane.port.command(wire.FLUSH)
