"""What the dispatcher's thread listens to."""

from __future__ import annotations

import os
import selectors
import threading
from collections.abc import Callable

#: select and epoll refuse waits of more than some 24 days.
LONGEST_WAIT = 86400.0


class Watch:
    """Descriptors, and what to do when they are ready.  For the dispatcher's thread, but for `wake`."""

    def __init__(self) -> None:
        self._wake_fd, self._notify_fd = os.pipe()
        try:
            self._selector = selectors.DefaultSelector()
        except OSError:  # there are no descriptors left
            os.close(self._wake_fd)
            os.close(self._notify_fd)
            raise
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(self._notify_fd, False)
        self._woken = False
        # Between looking at the descriptor and writing to it, nobody may close it.  Reentrant, for a finalizer may come
        # at any moment, also to a thread that has just taken it, and wakes us too.
        self._closing = threading.RLock()
        self._selector.register(self._wake_fd, selectors.EVENT_READ, self._drain)

    def wake(self) -> None:
        """Have `wait` return.  From any thread, also from a finalizer."""
        # The flag falls before the thread looks for what there is to do; so who finds it up is seen in the round under way.
        if self._woken:
            return
        self._woken = True
        with self._closing:
            if self._notify_fd >= 0:
                try:
                    os.write(self._notify_fd, b"\0")
                except BlockingIOError:  # awake anyway
                    pass

    def wait(self, timeout: float | None) -> None:
        """Do what is to be done for each descriptor that is ready, or gets ready within ``timeout`` seconds."""
        ready = self._selector.select(None if timeout is None else min(timeout, LONGEST_WAIT))
        for key, _ in ready:
            # An earlier one of the same round may have ended it.
            if len(ready) == 1 or self._selector.get_map().get(key.fd) is key:
                key.data()

    def read(self, file: int, on_ready: Callable[[], None]) -> None:
        """Call that whenever there is something to read."""
        self._selector.register(file, selectors.EVENT_READ, on_ready)

    def write(self, file: int, on_ready: Callable[[], None]) -> None:
        """Call that whenever there is room to write."""
        self._selector.register(file, selectors.EVENT_WRITE, on_ready)

    def knows(self, file: int) -> bool:
        """Whether it is listened to."""
        return file >= 0 and file in self._selector.get_map()

    def forget(self, *files: int) -> None:
        """Listen to those no more.  Before they are closed: a number may come back for another file."""
        for file in files:
            if self.knows(file):
                self._selector.unregister(file)

    def close(self) -> None:
        """Close what is ours."""
        with self._closing:
            self._close()

    def forsake(self) -> None:
        """In a forked child: close our copies, and touch no lock, for its owner may not exist here."""
        self._close()

    def _close(self) -> None:
        fds = self._wake_fd, self._notify_fd
        self._wake_fd = self._notify_fd = -1  # first, for a child forked in between closes what it finds here
        for fd in fds:
            if fd >= 0:
                os.close(fd)
        self._selector.close()

    def _drain(self) -> None:
        # Emptied before the flag falls: the other way round, a byte written in between would be eaten while its flag
        # stays up, and nobody would ever write another.
        os.read(self._wake_fd, 4096)
        self._woken = False
