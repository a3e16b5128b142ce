"""What instances print outside of `run`: to the user's line functions, or the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any, Literal

from ..wasi import CAPTURE, WasiConfig
from .jobs.lines import LineSplitter

#: Where lines go that are captured when there is no result to hold them.
logger: logging.Logger = logging.getLogger("procpool.guest")
_logger: logging.Logger = logging.getLogger("procpool")

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
        self._splitters: dict[tuple[Hashable, int], LineSplitter] = {}  # by worker and stream

    def heard(self, worker: Hashable, payload: bytes) -> None:
        """A worker has sent a chunk.

        Raises:
            ValueError: of a stream that it was not told to send.
        """
        number = payload[0] if payload else -1
        if number not in self._functions:
            raise ValueError(f"output of the unknown stream {number}")
        splitter = self._splitters.setdefault((worker, number), LineSplitter())
        self._show(number, splitter.feed(payload[1:]))

    def ended(self, worker: Hashable) -> None:
        """It sends nothing more: what has no end of line is a line."""
        for number in self._functions:
            splitter = self._splitters.pop((worker, number), None)
            if splitter is not None and (rest := splitter.rest()):
                self._show(number, [rest])

    def _show(self, number: int, lines: list[str]) -> None:
        if lines:
            self._tell(lambda: self._seen(number, lines))

    def _seen(self, number: int, lines: list[str]) -> None:
        function: Any = self._functions[number]
        for line in lines:
            try:
                function(line)
            except BaseException:  # no job to end for it
                _logger.exception("procpool: a line function raised at %.200r", line)


def _logs(level: int) -> Callable[[str], object]:
    return lambda line: logger.log(level, "%s", line)
