"""What instances print outside of `run`: to the user's line functions, or the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any, Literal

from ..wasi import CAPTURE, WasiConfig
from .jobs.lines import LineSplitter

#: Where lines go that are captured when there is no result to hold them.
logger: logging.Logger = logging.getLogger("procpool.guest")
_logger: logging.Logger = logging.getLogger("procpool")

#: The most that may wait for those who see it, in bytes; what comes then is dropped until all that waits is seen.
MOST_WAITING = 64 << 20
#: What a line takes beside its characters.
_LINE_BYTES = 64
#: The number of each stream, its name in a WasiConfig, and the level at which it is logged.
_STREAMS: tuple[tuple[int, Literal["stdout", "stderr"], int], ...] = (
    (1, "stdout", logging.INFO),
    (2, "stderr", logging.WARNING),
)


class Printed:
    """Cuts it into lines, and has each seen.

    Args:
        wasi: what the pool was given; None if nothing can print.
        tell: runs the user's code, one call after the other.
    """

    def __init__(self, wasi: WasiConfig | None, tell: Callable[[Callable[[], object]], None]) -> None:
        self._tell = tell
        self._functions: dict[int, Callable[[str], object]] = {}
        for number, name, level in _STREAMS if wasi is not None else ():
            to = getattr(wasi, name)
            if callable(to):
                self._functions[number] = to
            elif isinstance(to, str) and to == CAPTURE:
                self._functions[number] = _logs(level)
        self._lock = threading.Lock()  # over both counts
        self._waiting = 0  # bytes
        self._dropped = 0  # lines, since the last that waits came
        self._splitters: dict[tuple[Hashable, int], LineSplitter] = {}  # by worker and stream

    def heard(self, worker: Hashable, payload: bytes) -> None:
        """A worker has sent a chunk; an empty one where an instance or a lease ends, and its line with it.

        Raises:
            ValueError: of a stream that it was not told to send.
        """
        number = payload[0] if payload else -1
        if number not in self._functions:
            raise ValueError(f"output of the unknown stream {number}")
        if len(payload) == 1:
            self._end_line(worker, number)
        else:
            splitter = self._splitters.setdefault((worker, number), LineSplitter())
            self._show(number, splitter.feed(payload[1:]))

    def ended(self, worker: Hashable) -> None:
        """It sends nothing more."""
        for number in self._functions:
            self._end_line(worker, number)

    def _end_line(self, worker: Hashable, number: int) -> None:
        """What has no end of line is a line."""
        splitter = self._splitters.pop((worker, number), None)
        if splitter is not None and (rest := splitter.rest()):
            self._show(number, [rest])

    def _show(self, number: int, lines: list[str]) -> None:
        if not lines:
            return
        size = sum(map(len, lines)) + _LINE_BYTES * len(lines)
        with self._lock:
            full = self._waiting > 0 and self._waiting + size > MOST_WAITING
            if full and not self._dropped:
                self._tell(self._own_up)  # behind what waits
            if full or self._dropped:
                self._dropped += len(lines)
                return
            self._waiting += size
        self._tell(lambda: self._seen(number, lines, size))

    def _own_up(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        _logger.warning(
            "procpool: %d lines that a guest printed were dropped: %d MiB waited for the line function, or for handlers of"
            " the logger procpool.guest",
            dropped,
            MOST_WAITING >> 20,
        )

    def _seen(self, number: int, lines: list[str], size: int) -> None:
        function: Any = self._functions[number]
        for line in lines:
            try:
                function(line)
            except BaseException:  # no job to end for it
                _logger.exception("procpool: a line function raised at %.200r", line)
        with self._lock:
            self._waiting -= size


def _logs(level: int) -> Callable[[str], object]:
    return lambda line: logger.log(level, "%s", line)
