"""A stretch of a map: what a map hands over, and waits for."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from threading import Lock
from typing import Protocol

from ...bell import Bell
from ...deadline import Deadline
from ...wire import Report
from .call import Export


class Data(Protocol):
    """Where a chunk's arguments come from and its results go to, item ranges at a time."""

    def load(self, column: int, start: int, stop: int, target: memoryview) -> None:
        """Write an argument column's items [start, stop) to ``target``."""

    def store(self, column: int, start: int, stop: int, source: memoryview) -> None:
        """Take a result column's items [start, stop) from ``source``, which is overwritten afterwards."""


class Chunk:
    """Some items of a map.  It is done when each has its result, or its exception in ``errors``.

    It is no Future: nobody can cancel it, or set its result from outside.  Who does not want it any more abandons it.
    Nothing but `finished` takes a lock, so the garbage collector may call the rest.
    """

    def __init__(
        self, export: Export, data: Data, count: int, item_timeout: float | None, retries: int = 0, context: bytes = b""
    ) -> None:
        self.export = export
        self.data = data
        self.count = count
        self.item_timeout = item_timeout  #: seconds that each item may run
        self.retries = retries  #: how often each item may be run again after a worker died in it
        self.context = context  #: what `capture` gave
        self.tenant: str = ""  #: whose it is, in a pool with tenants
        self.deaths: Counter[int] = Counter()  #: that each item has seen
        self.errors: dict[int, Report] = {}  #: to be loaded by who takes the results, for that may run the user's code
        self.nanoseconds = 0  #: time that workers have spent on it
        self.abandoned: bool = False  #: nobody waits for it: run no more of it than has begun
        self._missing = count
        self._counting = Lock()
        self._callbacks: deque[Callable[[], None]] = deque()

    @property
    def done(self) -> bool:
        """Whether all its items have ended."""
        return not self._missing

    def finished(self, count: int) -> None:
        """That many more items have ended.  Calls no code of the user's.

        From several threads at once: one cancels what is queued of it while another reads the answer to the rest.
        """
        with self._counting:
            self._missing -= count
        if not self._missing:
            self._call_back()

    def abandon(self) -> None:
        """Nobody waits for it any more: let no more of it run than has begun."""
        self.abandoned = True

    def on_done(self, callback: Callable[[], None]) -> None:
        """Have something called once when it is done: at once if it is, else in the thread that ends it.

        Only for what is quick, raises nothing and is not the user's.
        """
        # Appended first and looked at second, while `finished` counts first and calls second: whoever comes later sees
        # both, and who pops a callback calls it.
        self._callbacks.append(callback)
        if self.done:
            self._call_back()

    def wait(self, deadline: Deadline) -> bool:
        """Wait until it is done, or the deadline has passed; whether it is done."""
        if not self.done:
            bell = Bell()
            self.on_done(bell.ring)
            while not bell.wait(deadline.remaining()) and not deadline.passed():
                pass  # a wait is a day long at most
        return self.done

    def _call_back(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread was faster
                return
            callback()
