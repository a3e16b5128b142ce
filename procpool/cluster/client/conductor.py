"""The client's edge: tells nodes what the ledger decides, and the ledger what nodes tell.

All that is not marked otherwise happens in the engine's thread, so the ledger and the vigils have one owner and need no
lock. Other threads put things into a deque and have that thread look (`do`).
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ... import wire as core
from ...deadline import Deadline
from ...errors import PoolClosed, ProcpoolError, StartupError
from ...supervisor.condition import Moment
from ...supervisor.delivery import Delivery
from ...supervisor.jobs.chunk import Chunk
from .. import wire
from ..events import ClusterJournal
from ..heartbeat import LOOKS
from ..observed import NodeInfo
from .backend import Backend, Member
from .ledger import Ledger
from .session import Session
from .units import StretchUnit, Travels, lost

if TYPE_CHECKING:
    from ...supervisor.lane import Lane

#: Seconds for which a pool without any node waits for one when its engine's coordinator is gone.
FORLORN = 5.0
#: Seconds for which `close` waits for a node to say that it has ended.
LAST_WORDS = 5.0
#: Seconds after which a host that would not serve is asked again, at first; each time it is twice as long.
AGAIN = 1.0
_MOST_AGAIN = 60.0


@dataclass(frozen=True)
class Demand:
    """What a pool asks of nodes."""

    hello: Mapping[str, Any]  #: what each is told first
    modules: Mapping[str, bytes]  #: by digest
    lease: float  #: seconds
    retries: int  #: of each job that says nothing else
    pickles: bool  #: exceptions come back from workers as pickles; see `Trusted`


class _Refusals:
    """A host that would not serve, and when to ask it again."""

    def __init__(self) -> None:
        self.times = 0
        self.until = 0.0
        self.reason = ""

    def another(self, now: float, reason: str) -> None:
        self.until = now + min(AGAIN * 2**self.times, _MOST_AGAIN)
        self.times += 1
        self.reason = reason


class Conductor:
    """Runs a cluster's jobs.

    It is what a job asks of its owner, and what a map asks of whom it runs on.
    """

    def __init__(self, backend: Backend, demand: Demand, delivery: Delivery, journal: ClusterJournal) -> None:
        self._demand = demand
        self.journal = journal
        self.closing: bool = False  #: nothing new is taken any more but jobs of maps under way
        self.closed: bool = False  #: nor these
        self.retries: int = demand.retries
        self.pickles: bool = demand.pickles
        self._backend = backend
        self._delivery = delivery
        self._pid = os.getpid()
        self._why: ProcpoolError | None = None  # what broke the pool
        self._inbox: deque[Callable[[], None]] = deque()
        self._posted = False
        self._ledger = Ledger()
        self._numbers = itertools.count()
        self._units: dict[int, Travels] = {}
        self._of_chunks: WeakKeyDictionary[Chunk, int] = WeakKeyDictionary()
        self._deadlines: list[tuple[float, int]] = []
        self._members: Mapping[str, Member] = {}
        self._sessions: dict[str, Session] = {}  # by host
        self._refusals: dict[str, _Refusals] = {}
        self._fences: list[tuple[float, int, list[Travels]]] = []
        self._awaited: list[tuple[Moment[None], Callable[[], bool]]] = []
        self._questions: dict[int, tuple[Session, Moment[Any]]] = {}
        self._looks_at = 0.0  # when all nodes are looked at for silence
        self._alarm: tuple[float, Callable[[], None]] | None = None
        self._forlorn_at: float | None = None  # since when there has been neither a node nor a coordinator
        self._scheduler_well = True
        self._end_by: float | None = None
        self._killing = False
        self._ended = False
        self._startup: Moment[None] = Moment()
        self._endings: Moment[None] = Moment()  # ends when all has
        delivery.wake = self.look

    # -- from any thread -----------------------------------------------------------------------------------------------

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that made the pool."""
        return os.getpid() != self._pid

    @property
    def lanes(self) -> int:
        """Workers of all nodes."""
        return self._ledger.lanes

    @property
    def nodes(self) -> list[Session]:
        """The sessions of now."""
        return list(self._sessions.values())

    @property
    def pending(self) -> int:
        """Units that no node has."""
        return self._ledger.queued

    def observed(self) -> tuple[NodeInfo, ...]:
        """The nodes of now."""
        return tuple(self._observed(session) for session in self.nodes)

    def _observed(self, session: Session) -> NodeInfo:
        waiting, running = self._ledger.held(session.member.host) if session.serving else (0, 0)
        member, host = session.member, session.host or ("", "", "", "")
        return NodeInfo(member.name, member.host, member.address, session.state, session.workers, waiting, running, *host)

    def start(self) -> None:
        """Begin to look for nodes.  Blocks until the engine is ready.

        Raises:
            What the engine does when it cannot be used.
        """
        self._backend.start(self)

    def wait_started(self, deadline: Deadline) -> None:
        """Block until the first node serves.

        Raises:
            StartupError: none does.
            What making its pool raised on the first node that refused.
        """
        try:
            self._startup.result(deadline.remaining())
        except FutureTimeout:  # before CPython 3.11, another than the built-in
            if self._startup.done():
                raise
            raise StartupError(f"no node was ready within {deadline.seconds:g} s; {self._whereabouts()}") from None

    def do(self, command: Callable[[], None]) -> None:
        """Have the engine's thread run something soon.  Takes no lock."""
        if self.forked:
            return
        self._inbox.append(command)
        if not self._posted:
            self._posted = True  # set before it is posted, and cleared before the inbox is looked into
            self._backend.post(self._turn)

    def look(self) -> None:
        """Have the engine's thread look at everything that may have changed, soon."""
        self.do(_nothing)

    def submit(self, unit: Travels, of_map: bool = False) -> None:
        """Queue a unit.

        Raises:
            PoolClosed, StartupError: no more are taken.
        """
        if self.closed or (self.closing and not of_map) or self.forked:
            raise self.why_closed()
        if not isinstance(unit, StretchUnit):
            unit.owner = self  # type: ignore[attr-defined]  # a Job
        self.do(lambda: self._add(unit))
        # The engine's thread may have looked into the inbox for the last time between the check and this.
        if self._ended:
            unit.fail(self.why_closed())

    def try_submit(self, job: Any) -> bool:
        """Queue a job of a map; there is always room, for maps read ahead only so far.

        Raises:
            PoolClosed, StartupError: nothing runs any more.
        """
        self.submit(job, of_map=True)
        return True

    def try_submit_chunk(self, chunk: Chunk) -> bool:
        """The same for a stretch of a map."""
        self.submit(StretchUnit(chunk), of_map=True)
        return True

    def on_room(self, callback: Callable[[], None]) -> None:
        """Call something quick when there may be room: now."""
        callback()

    def abandon(self, chunk: Chunk) -> None:
        """Run no more of a stretch.  For finalizers too."""
        chunk.abandon()
        self.do(lambda: self._forget(self._of_chunks.get(chunk, -1)))

    def cancelled(self, job: Any, queued: bool) -> None:
        """See `Owner`."""
        self.do(lambda: self._forget(job.number))

    def post(self, code: Callable[[], object]) -> None:
        """See `Owner`."""
        self._delivery.post(code)

    def strand(self) -> Callable[[Callable[[], object]], None]:
        """See `Owner`."""
        return self._delivery.strand()

    def failed(self) -> None:
        """See `Owner`."""
        self.journal.job_failed()

    def key_free(self, key: int) -> None:
        """See `Owner`.  No job here has a key."""

    def nonsense(self, lane: Lane, error: Exception) -> None:
        """See `Owner`.  No worker is here: nodes see to theirs."""

    def check_open(self) -> None:
        """For those who want to begin something.

        Raises:
            PoolClosed, StartupError: nothing new is taken any more.
        """
        if self.closing or self.forked:
            raise self.why_closed()

    def why_closed(self) -> ProcpoolError:
        """A fresh exception for a use of the closed pool."""
        if self.forked:
            return PoolClosed(
                "this pool was made before a fork; its connections belong to the parent process, make a new one"
            )
        if self._why is not None:
            return type(self._why)(*self._why.args)
        return PoolClosed("this pool was shut down")

    def when(self, condition: Callable[[], bool]) -> Future[None]:
        """What ends when that is so; the condition is asked in the engine's thread, whenever something has changed."""
        happened: Moment[None] = Moment()
        self.do(lambda: self._awaited.append((happened, condition)))
        if self._ended:  # as in `submit`
            happened.fail(self.why_closed())
        return happened

    def when_drained(self) -> Future[None]:
        """What ends when nothing is queued and nothing runs."""
        return self.when(lambda: not self._units)

    def manned(self) -> bool:
        """Whether every host that is there, and does not refuse, serves."""
        return bool(self._members) and all(
            host in self._refusals or (host in self._sessions and self._sessions[host].serving) for host in self._members
        )

    def ask(self, what: str) -> dict[str, Future[Any]]:
        """Ask each node that serves; what will hold the answers, by host."""
        answers: dict[str, Future[Any]] = {}
        for session in self.nodes:
            if session.serving:
                future: Moment[Any] = Moment()
                answers[session.member.host] = future
                self.do(lambda session=session, future=future: self._ask(session, what, future))  # type: ignore[misc]
        return answers

    def finish(self) -> None:
        """From now on take jobs of maps only."""
        self.closing = True

    def close(self, kill: bool = False) -> None:
        """Let the nodes finish what is queued, or stop it, then end.  Does not wait."""
        self.closing = self.closed = True
        self.do(lambda: self._close(kill))

    def when_ended(self) -> Future[None]:
        """What ends when all has, the callbacks of jobs too; for a callback, that is at once."""
        happened: Moment[None] = Moment()  # of the caller's own, who may cancel it
        if self._delivery.inside():
            happened.set_result(None)
        else:
            self._endings.add_done_callback(lambda _: happened.come(None))
        return happened

    def cancel_queued(self) -> None:
        """Cancel all units that no node has begun."""
        self.do(self._cancel_queued)

    # -- the crowd -----------------------------------------------------------------------------------------------------

    def members(self, members: Mapping[str, Member]) -> None:
        """See `Crowd`."""
        self._members = members
        for host in [host for host in self._refusals if host not in members]:
            del self._refusals[host]
        if self.closed and not self._units:
            return
        now = monotonic()
        for host, member in members.items():
            refusals, running = self._refusals.get(host), self._sessions.get(host)
            if running is not None:
                self._resize(running, member.workers)
            elif refusals is None or now >= refusals.until:
                session = self._sessions[host] = Session(self, member, self._demand)
                self._backend.open(member, {**self._demand.hello, "workers": member.workers}, session)
        self._turn()

    def _resize(self, session: Session, workers: int) -> None:
        """More Dask workers, or fewer, share the host now."""
        if session.serving and not session.leaving and session.workers != workers:
            session.resize(workers)
            self._ledger.resize(session.member.host, workers)

    def scheduler(self, well: bool, message: str) -> None:
        """See `Crowd`."""
        if well != self._scheduler_well:
            self._scheduler_well = well
            self.journal.note("scheduler_back" if well else "scheduler_lost", None, message)
            self._turn()

    def gone(self, reason: str) -> None:
        """See `Crowd`."""
        self._break(PoolClosed(f"this pool has ended: {reason}"))
        self._turn()  # there is no later

    def _break(self, why: ProcpoolError) -> None:
        """End all jobs, and take no more."""
        if self._why is None and not self._ended:
            self._why = why
            self.journal.note("broken", None, str(why))
            self._startup.fail(why)
            self.closing = self.closed = True
            self._close(kill=True)

    # -- what sessions tell ---------------------------------------------------------------------------------------------

    def joined(self, session: Session, workers: int, remark: str | None) -> None:
        """A node serves."""
        host = session.member.host
        self._refusals.pop(host, None)
        self._ledger.join(host, workers)
        self.journal.note("node_ready", session.member, f"the node on {session.member.name} serves with {workers} workers")
        if remark is not None:
            self.journal.note("node_differs", session.member, f"the node on {session.member.name} has {remark}")
        self._startup.come(None)
        self.look()

    def refused(self, session: Session, reason: str, raised: bytes = b"") -> None:
        """A host will not serve.

        Args:
            raised: what making its pool raised there, as workers report it.
        """
        self._refusals.setdefault(session.member.host, _Refusals()).another(monotonic(), reason)
        self._sessions.pop(session.member.host, None)
        self.journal.note("node_refused", session.member, f"the host {session.member.name} does not serve: {reason}")
        if raised:
            # It may be of a class of the user's, whose code does not run in this thread.
            self.post(lambda: self._startup.fail(core.loaded(core.report_of(core.RAISED, raised, None, True))))
        self.look()

    def answered(self, session: Session, answer: wire.Answer) -> None:
        """A node has answered a unit."""
        if self._ledger.answered(session.member.host, answer.number, answer.nanoseconds) is not None:
            self._units.pop(answer.number).settle(answer)

    def told(self, question: int, answer: Any) -> None:
        """A node has answered a question."""
        asked = self._questions.pop(question, None)
        if asked is not None:
            asked[1].come(answer)

    def hushed(self, session: Session, quiet: bool) -> None:
        """A node that serves is to be given nothing more, or can be again."""
        self._ledger.hush(session.member.host, not quiet)
        self.look()

    def parted(self, session: Session, reason: str, safe_at: float, expected: bool) -> None:
        """A node that served is no more.

        Args:
            safe_at: when it has certainly stopped working.
            expected: it had said so, and has answered all that it has begun.
        """
        member = session.member
        if self._sessions.get(member.host) is session:
            del self._sessions[member.host]
        for number in [number for number, (asked, _) in self._questions.items() if asked is session]:
            self._questions.pop(number)[1].fail(PoolClosed("the node is gone"))
        loss = self._ledger.lose(member.host, finished=expected)
        now = monotonic()
        for unit in loss.failed:
            travels = self._units.pop(unit.number)
            travels.fail(lost(travels, member.name, member.address, reason))
        if loss.fenced:
            fenced = [self._units[unit.number] for unit in loss.fenced]
            heapq.heappush(self._fences, (safe_at, next(self._numbers), fenced))
        self._refusals.setdefault(member.host, _Refusals()).until = now + AGAIN
        if expected:
            self.journal.note("node_left", member, f"the node on {member.name} has left: {reason}")
        else:
            self.journal.note("node_lost", member, f"the node on {member.name} is lost: {reason}")
        self.look()

    def withdrawn(self, session: Session, reason: str) -> None:
        """A node that had not begun to serve has gone, as it was told to."""
        member = session.member
        self._sessions.pop(member.host, None)
        self._refusals.setdefault(member.host, _Refusals()).until = monotonic() + AGAIN
        self.journal.note("node_left", member, f"the node on {member.name} has left: {reason}")
        self.look()

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Look at everything that may have changed."""
        self._posted = False
        self._open_inbox()
        if self._ended:
            return
        now = monotonic()
        self._keep_time(now)
        for host, orders in self._ledger.share().items():
            self._sessions[host].give(orders, self._units, self._forget)
        self._tell_awaiting()
        if self.closed:
            self._end_when_done(now)
        self._set_alarm(now)

    def _open_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _add(self, unit: Travels) -> None:
        if self._killing or self._ended:  # since it was submitted
            unit.fail(self.why_closed())
            return
        unit.number = next(self._numbers)
        self._units[unit.number] = unit
        if isinstance(unit, StretchUnit):
            self._of_chunks[unit.chunk] = unit.number
        if unit.deadline is not Deadline.NEVER:
            heapq.heappush(self._deadlines, (unit.deadline.at, unit.number))
            if len(self._deadlines) > 2 * len(self._units) + 64:  # most are of jobs that have ended long before
                self._deadlines = [entry for entry in self._deadlines if entry[1] in self._units]
                heapq.heapify(self._deadlines)
        self._ledger.add(unit)
        if unit.expired if not isinstance(unit, StretchUnit) else unit.chunk.abandoned:  # type: ignore[attr-defined]
            self._forget(unit.number)  # it was cancelled before it had a number to be forgotten by

    def _forget(self, number: int) -> None:
        unit = self._units.pop(number, None)
        if unit is not None:
            self._ledger.forget(number)
            if isinstance(unit, StretchUnit) and not unit.chunk.done:
                unit.chunk.finished(unit.chunk.count)  # nobody looks at it, but it has ended

    def _cancel_queued(self) -> None:
        for unit in self._ledger.unbegun():
            travels = self._units.get(unit.number)
            if travels is None:
                continue
            self._forget(unit.number)
            cancel = getattr(travels, "cancel", None)
            if cancel is None or not cancel():
                travels.fail(CancelledError())

    def _keep_time(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            unit = self._units.get(number)
            if unit is not None:
                self._forget(number)
                if unit.expire():
                    self.journal.note("timeout", None, f"{unit.name} outlived its limit")
        while self._fences and self._fences[0][0] <= now:
            _, _, units = heapq.heappop(self._fences)
            again = [unit for unit in units if unit.number in self._units]
            self._ledger.requeue(again)
            if again:
                self.journal.note("retried", None, f"{len(again)} jobs run again that a lost node had begun")
        if now >= self._looks_at:
            # Not at each turn: a thousand nodes beat two thousand times a second, and each beat is a turn.
            self._looks_at = now + self._demand.lease / LOOKS
            for session in self.nodes:
                session.keep_time(now)
        self._despair(now)

    def _despair(self, now: float) -> None:
        """Break the pool when there are no nodes and nobody is left to find any."""
        if self._scheduler_well or any(session.serving for session in self.nodes) or self.closed:
            self._forlorn_at = None
        elif self._forlorn_at is None:
            self._forlorn_at = now
        elif now >= self._forlorn_at + FORLORN:
            self._break(
                StartupError(f"there are no nodes, and the scheduler that knew of any is lost; {self._whereabouts()}")
            )

    def _set_alarm(self, now: float) -> None:
        due = [self._looks_at] if self._sessions else []
        due += [self._deadlines[0][0]] if self._deadlines else []
        due += [self._fences[0][0]] if self._fences else []
        due += [self._forlorn_at + FORLORN] if self._forlorn_at is not None else []
        due += [self._end_by] if self._end_by is not None else []
        delivers = self._delivery.keep_time(now)
        due += [delivers] if delivers is not None else []
        at = min(due, default=math.inf)
        if self._alarm is not None:
            if self._alarm[0] == at:
                return
            self._alarm[1]()
            self._alarm = None
        if at != math.inf:
            self._alarm = at, self._backend.later(max(0.0, at - now), self._rung)

    def _rung(self) -> None:
        self._alarm = None
        self._turn()

    def _tell_awaiting(self) -> None:
        waiting, self._awaited = self._awaited, []
        for happened, condition in waiting:
            if happened.cancelled():
                continue
            if self._ended:
                happened.fail(self.why_closed())
            elif condition():
                happened.come(None)
            else:
                self._awaited.append((happened, condition))

    def _ask(self, session: Session, what: str, future: Moment[Any]) -> None:
        if not session.serving or self._ended:
            future.fail(PoolClosed("the node is gone"))
            return
        number = next(self._numbers)
        self._questions[number] = session, future
        session.say([wire.ASK, number, what])

    def _whereabouts(self) -> str:
        """What is known of the hosts, for messages."""
        if not self._members:
            return "the scheduler knows no workers"
        refusing = [
            f"{self._members[host].name} does not serve: {refusals.reason}"
            for host, refusals in self._refusals.items()
            if host in self._members and refusals.reason
        ]
        return "; ".join([f"{len(self._members)} hosts were known", *refusing])

    # -- the end -------------------------------------------------------------------------------------------------------

    def _close(self, kill: bool) -> None:
        self._killing = self._killing or kill
        if kill:
            for number in list(self._units):
                unit = self._units[number]
                self._forget(number)
                unit.fail(self.why_closed())

    def _end_when_done(self, now: float) -> None:
        if self._units:
            return
        if self._end_by is None:
            self._end_by = now + LAST_WORDS
            for session in self.nodes:
                session.end(finish=not self._killing)
        if self._sessions and now < self._end_by and not self._killing:
            return
        self._ended = True
        self._open_inbox()  # whoever puts something in from now on looks at `_ended` afterwards
        for session in self.nodes:
            session.drop()
        self._sessions.clear()
        self._tell_awaiting()
        for _, future in self._questions.values():
            future.fail(self.why_closed())
        self._startup.fail(self.why_closed())
        if self._alarm is not None:
            self._alarm[1]()
        self._backend.close()
        # Not here: it waits for the user's callbacks.
        threading.Thread(target=self._end_delivery, name="procpool-cluster-end", daemon=True).start()

    def _end_delivery(self) -> None:
        while not self._delivery.close(None if (at := self._delivery.keep_time(monotonic())) is None else at - monotonic()):
            pass
        self._endings.come(None)


def _nothing() -> None:
    pass
