"""Where the user's code runs that a pool calls: callbacks, unpickling, line functions, ``on_event``, handlers of loggers.

Never in the thread that keeps time.  Code that dawdles holds up only what has to come after it: when what waits has
waited for a moment, another thread takes it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from .condition import Condition

logger: logging.Logger = logging.getLogger("procpool")

Code = Callable[[], object]

#: Seconds that code may keep others waiting before they get another thread.
PATIENCE = 0.01
#: The most threads.  When the user's code has blocked so many, what else is the user's waits.
MOST_THREADS = 64
#: Seconds after which a thread that has had nothing to do goes.
IDLE_SECONDS = 10.0


def _log_what_was_raised() -> None:
    # Also SystemExit and KeyboardInterrupt: they are for the thread whose code that is, and it has none.
    try:
        logger.exception("procpool: a callback raised")
    except BaseException:  # the logger's handlers are the user's too, and there is nobody else to tell
        pass


def _nobody() -> None:
    pass


class Delivery:
    """Threads that run the user's code, started as they are needed.

    Args:
        wake: told when code was posted: `keep_time` is to be called.  Who keeps time may come later, and set it then.
    """

    def __init__(self, wake: Callable[[], None] = _nobody) -> None:
        self.wake = wake
        self._waiting: deque[Code] = deque()
        self._changed = Condition()
        self._threads = 0
        self._idle = 0
        self._taken_at = -math.inf  # when code was last taken, or posted while none waited
        self._closed = False
        self._mine = threading.local()

    def post(self, code: Code) -> None:
        """Have code run soon.  What it raises is logged.  From any thread."""
        with self._changed:
            if not self._waiting:
                self._taken_at = monotonic()
            self._waiting.append(code)
            self._changed.notify()
            alone = not self._threads
        if alone:
            self._start()
        self.wake()  # so that somebody looks whether it has to wait

    def strand(self) -> Callable[[Code], None]:
        """A `post` whose calls run one after the other, in their order."""
        return _Strand(self.post).post

    def keep_time(self, now: float) -> float | None:
        """Start a thread if code has waited for too long; when to look again, None for never.

        For the thread that keeps time.
        """
        with self._changed:
            if not self._waiting or self._threads >= MOST_THREADS:
                return None
            due = self._taken_at + PATIENCE
            idle = self._idle
        if due > now:
            return due
        if not idle:
            self._start()
        return now + PATIENCE

    def inside(self) -> bool:
        """Whether the calling thread is one of ours."""
        return getattr(self._mine, "inside", False)

    def close(self, timeout: float | None) -> bool:
        """Run what was posted, and end the threads; whether all was run within ``timeout`` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._waiting and not self._threads, timeout)

    def _start(self) -> bool:
        """Start a thread; false if none is to be had now."""
        with self._changed:
            self._threads += 1
            self._taken_at = monotonic()
        try:
            threading.Thread(target=self._run, name="procpool-delivery", daemon=True).start()
        except RuntimeError:  # there are too many in this process; the next look tries again
            with self._changed:
                self._threads -= 1
            return False
        return True

    def _run(self) -> None:
        self._mine.inside = True
        while True:
            with self._changed:
                self._idle += 1
                try:
                    self._changed.wait_for(lambda: self._waiting or self._closed, IDLE_SECONDS)
                finally:
                    self._idle -= 1
                if not self._waiting:
                    self._threads -= 1
                    self._changed.notify_all()
                    return
                code = self._waiting.popleft()
                self._taken_at = monotonic()
            try:
                code()
            except BaseException:
                _log_what_was_raised()
            del code  # or it would live, with all it refers to, until the next one comes


class _Strand:
    """Code that runs in order, in whichever thread takes it."""

    def __init__(self, post: Callable[[Code], None]) -> None:
        self._post = post
        self._waiting: deque[Code] = deque()
        self._lock = threading.Lock()
        self._running = False

    def post(self, code: Code) -> None:
        with self._lock:
            self._waiting.append(code)
            if self._running:
                return
            self._running = True
        self._post(self._run)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return
                code = self._waiting.popleft()
            try:
                code()
            except BaseException:
                _log_what_was_raised()
            del code
