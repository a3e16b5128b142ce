"""Submitted calls that are over when `submit` returns: a hot worker makes them, and no other thread is woken.

To have the dispatcher send a small call and hear its answer takes far longer than the call.  So who submits one while a
worker is idle posts it in that worker's page, and looks there for a moment.  A call that takes longer goes on by itself:
the dispatcher gets it with its worker, and its answer comes by the pipe.  Then calls of this export are queued for a while.

Who submits many and asks for their results later gains nothing from that: from the queue many calls travel at a time, to
all workers.  So once BURST calls have been made whose results nobody asked for meanwhile, the next ones are queued.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import get_ident
from time import monotonic_ns
from typing import Any, Final

from .. import wire
from ..deadline import Deadline
from ..wire import page
from .channel import REFUSED, Channel
from .direct import WAITING, DirectCalls, plain_reply, result_of
from .dispatcher import Dispatcher
from .jobs.call import Callee, Job
from .lane import Lane
from .spinning import Outcome, Pauses

#: The part of a toll for which a submitter waits, beside the moment that `post` does: to queue a job costs the parent about
#: that much time, so waiting for one that is over by then loses nothing, also where other workers are idle.
SHARE: Final = 0.25
#: Calls in a row whose results nobody has asked for, before the next ones are queued.
BURST: Final = 8
#: Of those, one in so many is made at once: the result that nobody asks for may be one that somebody has forgotten.
TRIED_AGAIN: Final = 256


class PromptCalls:
    """For the threads that submit."""

    def __init__(self, dispatcher: Dispatcher, direct: DirectCalls) -> None:
        self._dispatcher = dispatcher
        self._scheduler = dispatcher.scheduler
        self._direct = direct
        self._pauses: dict[str, Pauses] = {}  # by export, of those that once took long
        self._last: Callable[[], Job | None] = _none  # the last job made here, while its caller keeps it
        self._unasked = 0  # calls submitted since, or in a row whose results were not asked for

    def submit(self, export: Callee, args: tuple[Any, ...], deadline: Deadline, retries: int) -> Job:
        """Make a call now, or queue it.

        Raises:
            As `Dispatcher.submit`.
        """
        # In a burst no worker is idle, and an attempt would be as long as all the rest is.
        job = self.attempt(export, args, deadline, retries) if self._scheduler.idle else None
        if job is None:
            job = export.job(args, self._direct.context(deadline))
            job.retries = retries
            self._dispatcher.submit(job, deadline)
        return job

    def attempt(self, export: Callee, args: tuple[Any, ...], deadline: Deadline, retries: int) -> Job | None:
        """Make a call now if a worker is hot, or should be.

        Returns:
            The job, which has ended, or runs; None if it is to be queued: nothing has begun.
        """
        scheduler, dispatcher = self._scheduler, self._dispatcher
        if not scheduler.nobody_waits() or self._bursting():
            return None
        pauses = self._pauses.get(export.name)
        if pauses is not None and pauses.lasts():
            return None
        dispatcher.notice_fork()
        if dispatcher.closing:
            return None
        if self._direct.context(deadline) or not export.takes(map(type, args)):
            return None
        started = monotonic_ns()
        lane: Lane | None = None
        me = get_ident()
        try:
            try:
                for lane in scheduler.takes:
                    lane.holder = me
                    break
            except IndexError:
                return None
            assert lane is not None
            channel = lane.port.channel
            turn = REFUSED if channel is None else self._post(lane, channel, export, args)
            posted = turn != REFUSED
            if not posted:
                channel, turn = self._wake(lane, export, args, started)
            if channel is None or turn == REFUSED:
                self._direct.done_with(lane, unused=True)
                return None
            job = export.awaiting(b"")
            job.owner = dispatcher
            job.deadline = deadline
            job.retries = retries
            if turn == page.RUNG:
                self._pauses.setdefault(export.name, Pauses()).failed()
                job.frame = export.frame(wire.SUBMIT, export.pack(args), b"")
                job.begin()
                dispatcher.keep(lane, job, started / 1e9, posted)
            else:
                if pauses is not None:
                    pauses.worked()
                self._end(lane, channel, export, job, started)
            self._last = weakref.ref(job)
            return job
        except BaseException as error:  # Ctrl-C, or the arguments do not fit
            if lane is not None and lane.holder == me:
                self._direct.leave(lane, export.name, error)
            raise

    def _bursting(self) -> bool:
        """Whether calls are submitted whose results are asked for later.  Threads may miscount, which costs little."""
        last = self._last()
        if last is None or last.asked:
            self._unasked = 0
            return False
        self._unasked += 1
        return self._unasked >= BURST and self._unasked % TRIED_AGAIN != 0

    def _end(self, lane: Lane, channel: Channel, export: Callee, job: Job, started: int) -> None:
        """The reply lies in the page."""
        plain = plain_reply(channel, export)
        if plain is not None:
            lane.served(False)
        else:
            reply = self._direct.taken(lane, channel)
        lane.durations.record(1, monotonic_ns() - started)
        self._direct.done_with(lane)
        if plain is not None:
            job.succeed(result_of(plain))
        elif reply[4] == wire.OK:
            job.succeed(export.unpack(reply, 8))
        else:
            job.report(reply[4], reply[8:])

    def _post(self, lane: Lane, channel: Channel, export: Callee, args: tuple[Any, ...]) -> int:
        """Post the call if the worker is hot, and wait a moment; whose turn it is then, or REFUSED."""
        if channel.turn[0] != page.AWAKE:
            return REFUSED
        turn = self._direct.post(channel, export, args)
        if turn in WAITING:
            turn = channel.wait(lane.spinning.toll_ns * SHARE)
        return channel.ring() if turn in WAITING else turn

    def _wake(self, lane: Lane, export: Callee, args: tuple[Any, ...], now: int) -> tuple[Channel | None, int]:
        """Wake the worker with the call and have it stay, if calls follow each other that closely, and wait for it."""
        spinning = lane.spinning
        if not spinning.begin(now, lane.calls, int(lane.since * 1e9), sleeps=False):
            return None, REFUSED
        frame = export.frame(wire.CALL, export.pack(args), b"")
        channel = self._direct.opened(lane)
        if channel is None:
            return None, REFUSED
        turn = self._direct.wake(lane, channel, export.name, frame, Deadline.NEVER)
        answered = turn != page.RUNG  # and `_end` will count it
        outcome: Outcome = "answered" if answered else "missed"
        spinning.end(monotonic_ns(), lane.calls + answered, lane.port.run_ns, outcome)
        return channel, turn


def _none() -> None:
    """There is no job."""
