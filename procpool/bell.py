"""How one thread, or one event loop, waits for another without taking a lock that others take."""

from __future__ import annotations

from threading import Lock
from typing import Protocol


class Rings(Protocol):
    """What can be told that something has happened."""

    def ring(self) -> None:
        """It has.  Quick, from any thread, any number of times, and it takes no lock that anybody may hold."""


class Bell:
    """Rung once, by anybody; waited for by one thread."""

    def __init__(self) -> None:
        self._silent = Lock()  # held until it rings
        self._silent.acquire()

    def ring(self) -> None:
        """See :class:`Rings`."""
        try:
            self._silent.release()
        except RuntimeError:  # it has rung
            pass

    def wait(self, seconds: float | None) -> bool:
        """Wait until it has rung, so long at most; whether it has.  None for ever; else at most a day."""
        return self._silent.acquire(timeout=-1 if seconds is None else seconds)
