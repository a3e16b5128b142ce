"""Reading a pipe whose answer is usually microseconds away.

Going to sleep and being woken costs more than a whole small call: 5-11 us per round trip between two cores here, against
1.5-3 us when both sides look again for a moment before they sleep (docs/rationale.md).  Looking again is pure waste when
the other side cannot run at that moment (one core, or all cores taken) or when jobs are long, so each reader watches
whether it pays: a miss makes it sleep at once for a growing number of reads, until it tries again.

The bytes still travel through the pipe, so no memory ordering is relied upon.
"""

from __future__ import annotations

import os
import select
from time import perf_counter_ns

#: How long to look again before sleeping.  About one trip through the scheduler, so that waiting at most doubles.
EAGER_NS = 6_000
#: After a miss, this many reads go to sleep at once; each further miss doubles it, up to the second number.
FIRST_PAUSE = 32
LONGEST_PAUSE = 1024


class EagerReader:
    """``os.read`` on a pipe, waiting in the cheapest way that has been working lately.  For one thread at a time."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self._size = size
        self._pause = 0  # reads until the next eager one; while it lasts, the descriptor is in blocking mode
        self._next_pause = FIRST_PAUSE
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        os.set_blocking(fd, False)

    def read(self) -> bytes:
        """Up to ``size`` bytes, at least one; empty at the end of the stream."""
        if self._pause:
            self._pause -= 1
            data = os.read(self.fd, self._size)
            if not self._pause:
                os.set_blocking(self.fd, False)
            return data
        stop = perf_counter_ns() + EAGER_NS
        while True:
            try:
                data = os.read(self.fd, self._size)
            except BlockingIOError:
                if perf_counter_ns() < stop:
                    continue
                break
            self._next_pause = FIRST_PAUSE
            return data
        self._pause = self._next_pause
        self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)
        os.set_blocking(self.fd, True)
        return os.read(self.fd, self._size)

    def wait(self, milliseconds: float | None) -> bool:
        """Whether a read would return at once, after at most that time; None for any time."""
        return bool(self._poll.poll(milliseconds))
