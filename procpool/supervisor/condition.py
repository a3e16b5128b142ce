"""What can be waited for, and Ctrl-C may come at any moment.

`threading.Condition` takes its lock in a method written in Python.  A KeyboardInterrupt that is raised when that returns
leaves the lock taken for ever, and the dispatcher hangs when it wants to tell of an end.  A lock whose ``__enter__`` is
written in C is safe in a `with` statement: the interpreter looks for no signal between that and the block.
"""

from __future__ import annotations

from _thread import LockType, RLock, allocate_lock
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")


class Condition(RLock):  # type: ignore[misc]  # final in typeshed only
    """As `threading.Condition`, for those who hold it: `wait`, `wait_for`, `notify` and `notify_all`."""

    def __init__(self) -> None:
        self._sleepers: deque[LockType] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """Let go of it until it is notified, or for so many seconds; whether it was."""
        sleeper = allocate_lock()
        sleeper.acquire()
        self._sleepers.append(sleeper)
        notified = False
        # A loop, for no signal is looked for between its step and the block: it is either ours, or will be again.
        for held in map(_release, (self,)):
            try:
                notified = sleeper.acquire(True, -1 if timeout is None else max(0.0, timeout))
            finally:
                _take_again(self, held)
                with suppress(ValueError):  # it was notified
                    self._sleepers.remove(sleeper)
        return notified

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> bool:
        """`wait` until that is so, for so many seconds at most; whether it is."""
        until = None if timeout is None else monotonic() + timeout
        while not predicate():
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                return False
            self.wait(left)
        return True

    def notify(self) -> None:
        """Wake one of those who wait."""
        if self._sleepers:
            for _ in map(_wake, (self._sleepers[0],)):  # in one step with the next, as above
                del self._sleepers[0]

    def notify_all(self) -> None:
        """Wake all of them."""
        while self._sleepers:
            self.notify()


_wake: Callable[[LockType], None] = LockType.release
_release: Callable[[Condition], Any] = RLock._release_save  # type: ignore[attr-defined]
_take_again: Callable[[Condition, Any], None] = RLock._acquire_restore  # type: ignore[attr-defined]


class Moment(Future[T]):
    """Ends when something has come about."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = Condition()  # type: ignore[assignment]

    def come(self, result: T) -> None:
        """It has, with that; nothing happens if it had, or who waited for it has cancelled it."""
        with suppress(InvalidStateError):
            self.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Likewise: it will not, for that reason."""
        with suppress(InvalidStateError):
            self.set_exception(error)
