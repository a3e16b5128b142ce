"""What a map is over: the rows of a file, or ranges that count."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

from ..pool import ProcessWasmPool
from .failures import BadRequest
from .output import Outcome
from .rows import Reading, Row

#: Rows that cannot be read, one behind the other, after which they are told before there is another for the map.
MOST_UNREADABLE = 1000


class Input(Protocol):
    """Rows of arguments, and what becomes of them."""

    total: int | None  #: how many there are, if that is known

    def outcomes(self, pool: ProcessWasmPool, export: str) -> Generator[Outcome, None, None]:
        """Call the export for each, and give what becomes of it, in order.

        Raises:
            BadRow, OSError: the input cannot be read on.
        """

    def place(self, row: int) -> str:
        """Where that row is, for people."""


class Ranges:
    """Ranges of one length, one for each parameter.

    Raises:
        BadRequest: they are not of one length.
    """

    def __init__(self, ranges: Sequence[range]) -> None:
        lengths = sorted({*map(len, ranges)})
        if len(lengths) > 1:
            raise BadRequest(f"the --range options count to different lengths: {', '.join(str(len(r)) for r in ranges)}")
        self._ranges = ranges
        self.total: int | None = lengths[0]

    def outcomes(self, pool: ProcessWasmPool, export: str) -> Generator[Outcome, None, None]:
        """See :class:`Input`."""
        with contextlib.closing(pool.map(export, *self._ranges, return_exceptions=True)) as results:
            for row, (args, result) in enumerate(zip(zip(*self._ranges, strict=True), results, strict=False), start=1):
                yield _outcome(row, args, result, row - 1)

    def place(self, row: int) -> str:
        """See :class:`Input`."""
        return f"row {row}, ({', '.join(str(one[row - 1]) for one in self._ranges)})"


class FileRows:
    """The rows of a file.

    Args:
        go_on: whether to read on behind a row that cannot be read.
        before_reading: called before a row is read, which may take long.
        buffersize: how many rows to read ahead of their outcomes, as in `map`; of those that cannot be read, too.
    """

    total: int | None = None

    def __init__(
        self,
        rows: Iterator[Row],
        reading: Reading,
        go_on: bool,
        before_reading: Callable[[], None],
        buffersize: int | None = None,
    ) -> None:
        self._rows = rows
        self._reading = reading
        self._go_on = go_on
        self._before_reading = before_reading
        self._buffersize = buffersize
        self._most_unreadable = buffersize or MOST_UNREADABLE
        self._open: deque[Row] = deque()  # read, and without an outcome
        self._ended = False
        self._broken: BadRequest | OSError | None = None

    def outcomes(self, pool: ProcessWasmPool, export: str) -> Generator[Outcome, None, None]:
        """See :class:`Input`."""
        while not self._ended:
            found = pool.starmap(export, self._readable(), return_exceptions=True, buffersize=self._buffersize)
            with contextlib.closing(found) as results:
                for index, result in enumerate(results):
                    yield from self._unreadable()
                    row = self._open.popleft()
                    yield _outcome(row.line, row.args, result, index)
            yield from self._unreadable()
        if self._broken is not None:
            raise self._broken

    def place(self, row: int) -> str:
        """See :class:`Input`."""
        return self._reading.place(row)

    def _readable(self) -> Iterator[list[Any]]:
        """The rows to call the export for, up to the end or to many in a row that cannot be read.

        A map gives nothing while it reads.  There might never be another row for it, and what is to be said of the others
        would take ever more memory.
        """
        unreadable = 0
        while unreadable < self._most_unreadable:
            self._before_reading()
            try:
                row = next(self._rows, None)
            except (BadRequest, OSError) as error:  # raised here, it would count as an item of the map
                self._broken = error
                row = None
            if row is None:
                self._ended = True
                return
            self._open.append(row)
            if row.error is None:
                unreadable = 0
                yield row.args
            elif self._go_on:
                unreadable += 1
            else:
                self._ended = True
                return

    def _unreadable(self) -> Iterator[Outcome]:
        """Those that come next and never went to the pool."""
        while self._open and self._open[0].error is not None:
            row = self._open.popleft()
            yield Outcome(row.line, row.args, error=row.error)


def _outcome(row: int, args: Sequence[Any], result: Any, index: int) -> Outcome:
    """What became of the item of that index of a map that returns exceptions."""
    if not isinstance(result, BaseException):
        return Outcome(row, args, result)
    error = result
    if error.args and isinstance(error.args[0], str):  # the map counts items, and we count lines
        error.args = (error.args[0].removeprefix(f"item {index}: "), *error.args[1:])
    return Outcome(row, args, error=error)
