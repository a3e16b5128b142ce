"""The course of a map, whatever it maps: input is read and submitted a bounded number ahead, outcomes come out."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from threading import Lock, get_ident
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from ..bell import Bell, Rings
from ..deadline import Deadline
from ..errors import PoolClosed, ProcpoolError, StartupError
from ..supervisor.jobs.call import Job
from ..supervisor.jobs.chunk import Chunk
from ..weak import WeakBag
from .options import MapOptions
from .progress import Reporter
from .sources import READING_SECONDS


class Runner(Protocol):
    """What runs a map's work: the dispatcher of a pool, or what stands for many of them."""

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that made it."""

    @property
    def closed(self) -> bool:
        """Whether it takes no more work."""

    @property
    def lanes(self) -> int:
        """Workers that it has."""

    @property
    def retries(self) -> int:
        """How often what ran in a worker that died is run again."""

    def why_closed(self) -> ProcpoolError:
        """A fresh exception for a use of it when it is closed."""

    def try_submit(self, job: Job) -> bool:
        """Queue a job if there is room; whether there was.

        Raises:
            PoolClosed, StartupError: nothing runs any more.
        """

    def try_submit_chunk(self, chunk: Chunk) -> bool:
        """The same for a stretch of a map."""

    def abandon(self, chunk: Chunk) -> None:
        """Run no more of a stretch: nobody waits for it.  For finalizers too."""

    def on_room(self, callback: Callable[[], None]) -> None:
        """Call something quick once, from any thread, when there may be room, or it is closed."""

    def do(self, command: Callable[[], None]) -> None:
        """Have something quick run in another thread soon.  Takes no lock."""


class Ticket(ABC):
    """A stretch of the input on its way.  Compared by identity."""

    first: int  #: the index of its first item
    taken: int  #: how many items of the input it stands for
    watched = False  #: somebody is told when it is done

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether all its items have ended."""

    @abstractmethod
    def watch(self, callback: Callable[[], None]) -> None:
        """Have something quick called when it is done, perhaps more than once: at once if it is, else in any thread."""


T = TypeVar("T", bound=Ticket)
#: What :meth:`Course.poll` gives when there is nothing more to come.
ENDED: Iterator[Any] = iter(())


class Course(ABC, Generic[T]):
    """A map as a state machine that never waits.  It is pulled: nothing happens but in :meth:`poll`.

    Whoever takes the results (results.py) calls `poll`, and when nothing is ready waits for a bell in its own manner: a
    thread by a lock, a task by a future of its loop.  So there is one implementation for both.

    Any thread may call anything.  One at a time is inside `poll` or `finish`; the user's iterables and progress callables
    are called there, and may use the pool, but may not ask their own map for results.

    Args:
        runner: runs the work.
        options: what the user asked for.
        total: how many items there are in all, if that is known.
        most_ahead: how many tickets to have under way.
        owner: what must live until the input has been read: the pool.
    """

    def __init__(self, runner: Runner, options: MapOptions, total: int | None, most_ahead: int, owner: object) -> None:
        self.deadline: Deadline = options.deadline
        self.tenant: str = ""  #: whose it is, in a pool with tenants
        self._runner = runner
        self._options = options
        self._total = total
        self._most_ahead = most_ahead
        self._owner: object = owner
        self._reporter = Reporter(options.progress, total)
        self._turn = _Turn()
        self._bells: deque[Rings] = deque()  # of those who wait for news
        self._room_asked = False
        self._closed = False
        self._reading = True
        self._held: T | None = None  # read, and not submitted because there was no room
        self._ahead: dict[T, None] = {}  # submitted and not taken, in the order of the items
        self._arrived: deque[T] = deque()  # of those, what is done, where order does not matter
        self._kept: deque[T] = deque()  # done, and taken out of `_ahead` by `finish`
        self._items_ahead = 0  # read, and not yet taken by the user
        self._given: list[Any] = []  # what the user takes at present
        self._giving: Iterator[Any] = iter(())  # over that
        self._given_items = 0
        self._failure: BaseException | None = None  # to be raised behind that
        self._ending: BaseException | None = None  # why reading has stopped before the end of the input

    # -- what the kinds of maps differ in ------------------------------------------------------------------------------

    @abstractmethod
    def _read(self, room: int | None) -> T | None:
        """The next stretch of the input, of so many items at most; None at its end."""

    @abstractmethod
    def _submit(self, ticket: T) -> bool:
        """Have it run; false if there is no room in the queue.

        Raises:
            PoolClosed, StartupError: nothing runs any more.
        """

    @abstractmethod
    def _abandon(self, tickets: list[T]) -> None:
        """Run no more of these.  Only posts: takes no lock, because the garbage collector may call it."""

    @abstractmethod
    def _outcomes(self, ticket: T) -> tuple[list[Any], int | None]:
        """The results and exceptions of its items, and which is the first exception."""

    def _iterate(self, outcomes: list[Any]) -> Iterator[Any]:
        """An iterator over outcomes that has a length hint, and ends if they are cleared."""
        return iter(outcomes)

    def _measured(self, ticket: T) -> None:
        """Learn from one that is done."""

    # -- for who takes the results -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read ahead."""
        self._turn.take(Bell())
        try:
            self._fill(hasty=True)
        except BaseException:
            self.end()
            raise
        finally:
            self._turn.give_back()

    def poll(self, bell: Rings) -> Iterator[Any] | None:
        """An iterator over outcomes to go on with, ENDED, or None: nothing is ready, and the bell will tell of news.

        When two threads take turns, both get the same iterator until it is exhausted: so neither loses anything.

        Raises:
            The first failure, in its place; the map has ended then.
            RuntimeError: called from inside itself, that is, by the user's iterable or progress callable.
        """
        if self._runner.forked:
            raise self._runner.why_closed()
        if not self._turn.take(bell):
            return None
        try:
            found = self._step()
            if found is None:
                self._bells.append(bell)
                found = self._step()  # news may have come before there was a bell to ring
            if self._turn.reentered:
                raise _reentered()
            if found is ENDED:
                self.end()
            return found
        except (StopIteration, StopAsyncIteration) as error:
            # Let through, it would look like the end of the results (the reason of PEP 479).
            self.end()
            raise RuntimeError(f"an item, the input or the progress callable of a map raised {error!r}") from error
        except BaseException:
            self.end()
            raise
        finally:
            self._turn.give_back()

    def close(self) -> None:
        """Give up what has not been taken.  Takes no lock and only posts: the garbage collector may call it anywhere."""
        if self._closed and not self._ahead:
            return
        self._closed = True
        self._given.clear()
        self._abandon(list(self._ahead))
        self._news()

    def end(self) -> None:
        """The same, for everybody but the garbage collector: clears up after it too."""
        self.close()
        self._reporter.close()

    # -- for the pool --------------------------------------------------------------------------------------------------

    @property
    def finite(self) -> bool:
        """Whether `finish` will read all of its input: there is an end, and the user has set no bound to reading ahead."""
        return self._total is not None and self._options.buffersize is None

    def finish(self, deadline: Deadline) -> None:
        """The pool is about to end: read the rest of a finite input, and keep the results for who takes them later.

        It gives up at the deadline, and when called from inside `poll`.
        """
        while self.finite and not self._turn.mine:
            bell = Bell()
            if self._turn.take(bell) and not self._keep(bell):
                return
            if not bell.wait(deadline.remaining()) and deadline.passed():
                return

    def _keep(self, bell: Rings) -> bool:
        """In turn: set aside what is done and read on; false if there is nothing to wait for."""
        listening = False
        try:
            while True:
                self._fill()
                ticket = self._pop_done()
                if ticket is not None:
                    self._kept.append(ticket)
                elif self._closed or not (self._reading or self._held):
                    return False
                elif listening:
                    return True
                else:
                    self._bells.append(bell)
                    listening = True
        except Exception as error:
            self._stop_reading(error)
            return False
        except BaseException:
            self.end()
            raise
        finally:
            self._turn.give_back()

    # -- steps, in turn ------------------------------------------------------------------------------------------------

    def _step(self) -> Iterator[Any] | None:
        if operator.length_hint(self._giving):
            return self._giving
        if self._given_items:
            items, self._given_items = self._given_items, 0
            self._items_ahead -= items
            self._reporter.add(items)
        if self._closed:
            return ENDED
        if self._failure is not None:
            raise self._failure
        self._fill(hasty=bool(self._kept))
        ticket = self._kept.popleft() if self._kept else self._pop_done()
        if ticket is None:
            if self._closed:
                return ENDED
            if self._ahead or self._held is not None:
                return None
            if self._ending is not None:
                raise self._ending
            return ENDED
        self._fill(hasty=True)  # so that the workers have something to do while these are taken
        self._give(ticket)
        return self._giving

    def _give(self, ticket: T) -> None:
        outcomes, failure = self._outcomes(ticket)
        if failure is not None and not self._options.return_exceptions:
            self._failure = outcomes[failure]
            del outcomes[failure:]
        if not self._options.ordered:
            outcomes = list(enumerate(outcomes, ticket.first))
        self._given = outcomes
        self._giving = self._iterate(outcomes)
        self._given_items = ticket.taken
        if self._closed:  # by another thread, which has emptied what was there before
            outcomes.clear()

    def _pop_done(self) -> T | None:
        """Take out the next ticket that is done."""
        if not self._options.ordered:
            while self._arrived:
                ticket = self._arrived.popleft()
                if ticket in self._ahead:  # it may be told twice
                    break
            else:
                return None
        else:
            head = next(iter(self._ahead), None)
            if head is None:
                return None
            if not head.done:
                if not head.watched:
                    head.watched = True
                    head.watch(self._news)
                return None
            ticket = head
        del self._ahead[ticket]
        self._measured(ticket)
        return ticket

    def _fill(self, hasty: bool = False) -> None:
        """Read and submit until enough is under way, there is no room, or the input ends.

        An input may be slow.  After READING_SECONDS it reads no further than to where there is a result to give, or the
        map's time is up.  One that has a length is there, and to pickle its items may be what is slow: it is read until
        every worker has something to do.

        Args:
            hasty: there is something to give, or nobody waits.
        """
        enough = monotonic() + READING_SECONDS
        while not self._closed and (self._held is not None or (self._reading and self._wanted())):
            ticket = self._held
            if ticket is None:
                bound = self._options.buffersize
                room = None if bound is None else bound - self._items_ahead
                # Of a closed pool it only wants to know whether there is more, which would be missing.
                ticket = self._read(1 if self._runner.closed else room)
                if ticket is None:
                    self._stop_reading()
                    return
                self._items_ahead += ticket.taken
                self._held = ticket
            try:
                if not self._submit(ticket):
                    self._wait_for_room()
                    return
            except (PoolClosed, StartupError) as closed:
                self._held = None
                self._stop_reading(self._why_unread(closed))
                return
            self._ahead[ticket] = None
            self._held = None
            if not self._options.ordered:
                ticket.watch(partial(self._arrive, ticket))
            if monotonic() > enough and (self.deadline.passed() or (self._all_at_work() if hasty else self._some_done())):
                break
        if self._closed:  # perhaps by another thread, which did not know of the last one
            self._abandon(list(self._ahead))

    def _all_at_work(self) -> bool:
        return self._total is None or len(self._ahead) >= self._runner.lanes

    def _some_done(self) -> bool:
        if not self._options.ordered:
            return bool(self._arrived)
        head = next(iter(self._ahead), None)
        return head is not None and head.done

    def _wanted(self) -> bool:
        bound = self._options.buffersize
        return len(self._ahead) < self._most_ahead and (bound is None or self._items_ahead < bound)

    def _wait_for_room(self) -> None:
        if not self._ahead and not self._room_asked:  # else it is tried again when one of those is done
            self._room_asked = True
            self._runner.on_room(self._room)

    def _stop_reading(self, why: BaseException | None = None) -> None:
        self._reading = False
        self._owner = None
        self._ending = self._ending or why

    def _why_unread(self, closed: ProcpoolError) -> ProcpoolError:
        if isinstance(closed, PoolClosed) and not self._runner.forked:
            return PoolClosed(
                "this pool was shut down before the map had read its whole input; take the results before, or give inputs"
                " that have a length, and no buffersize: then shutdown() reads them to the end"
            )
        return closed

    # -- news, in any thread -------------------------------------------------------------------------------------------

    def _arrive(self, ticket: T) -> None:
        self._arrived.append(ticket)
        self._news()

    def _room(self) -> None:
        self._room_asked = False
        self._news()

    def _news(self) -> None:
        _ring_all(self._bells)


class _Turn:
    """A lock that nobody waits for: who finds it taken has a bell rung when it is free."""

    def __init__(self) -> None:
        self.reentered = False  #: who has it has asked for it again
        self._lock = Lock()
        self._holder: int | None = None
        self._waiting: deque[Rings] = deque()

    @property
    def mine(self) -> bool:
        """Whether the calling thread has it."""
        return self._holder == get_ident()

    def take(self, bell: Rings) -> bool:
        """Take it, if it is free.

        Raises:
            RuntimeError: this very thread has it.
        """
        if self.mine:
            self.reentered = True
            raise _reentered()
        if not self._lock.acquire(blocking=False):
            self._waiting.append(bell)
            if not self._lock.acquire(blocking=False):
                return False
        self._holder = get_ident()
        return True

    def give_back(self) -> None:
        """Let the next one have it."""
        self._holder = None
        self._lock.release()
        _ring_all(self._waiting)


def _ring_all(bells: deque[Rings]) -> None:
    while bells:
        try:
            bell = bells.popleft()
        except IndexError:  # another thread was faster
            return
        bell.ring()


def _reentered() -> RuntimeError:
    return RuntimeError("the input or the progress callable of a map has asked that very map for a result")


class MapsUnderWay:
    """The maps of a pool whose input has not been read to the end.  Does not keep them alive."""

    def __init__(self) -> None:
        self._maps: WeakBag[Course[Any]] = WeakBag()

    def add(self, course: Course[Any]) -> None:
        """Look after one, if `finish` has something to do for it."""
        if course.finite:
            self._maps.add(course)

    def finish(self, deadline: Deadline) -> None:
        """Have all finite inputs read to the end and all results kept, as far as there is time until the deadline.

        Raises:
            What is no Exception, from an input: KeyboardInterrupt and the like.
        """
        for course in self._maps:
            course.finish(deadline)
