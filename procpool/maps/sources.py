"""Where a mapping's items come from: the input, read once from front to back, a stretch at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any, Protocol

from ..columns import WIDTH, ColumnCodec
from ..supervisor.jobs.chunk import Data

#: Seconds after which an input that is being read counts as slow.
READING_SECONDS = 0.005
#: Items of it that are read between two looks at the clock, at most.
MOST_UNTIMED = 64


@dataclass
class Piece:
    """A stretch of the input, ready to run."""

    data: Data
    count: int
    #: what is wrong with the item after those; it takes an index, but is not sent
    error: Exception | None = None


class Source(Protocol):
    """An input that is read once, from front to back."""

    total: int | None  #: how many items there are, if that is known

    def take(self, count: int, all_of_them: bool = True) -> Piece:
        """The next ``count`` items; fewer only before an unfit item and at the end.

        Args:
            all_of_them: false gives what there is, but one item at least, when the input turns out to be slow.
        """


class PackedData:
    """Columns of bytes, and room for the results."""

    def __init__(self, codec: ColumnCodec, params: list[bytes], count: int) -> None:
        self._codec = codec
        self._count = count
        self._params = [memoryview(column) for column in params]
        self._results = [bytearray(WIDTH[kind] * count) for kind in codec.signature.results]

    def load(self, column: int, start: int, stop: int, target: memoryview) -> None:
        width = WIDTH[self._codec.signature.params[column]]
        target[:] = self._params[column][start * width : stop * width]

    def store(self, column: int, start: int, stop: int, source: memoryview) -> None:
        width = WIDTH[self._codec.signature.results[column]]
        self._results[column][start * width : stop * width] = source

    def values(self) -> list[Any]:
        """The results as Python objects."""
        return self._codec.unpack(self._results, self._count)


class SequenceSource:
    """Sequences of equal standing, one per parameter, read by slices; as long as the shortest."""

    def __init__(self, codec: ColumnCodec, sequences: Sequence[Any]) -> None:
        self._codec = codec
        self._sequences = sequences
        self._at = 0
        self.total: int | None = min(map(len, sequences))

    def take(self, count: int, all_of_them: bool = True) -> Piece:
        stop = min(self._at + count, *map(len, self._sequences))
        if stop <= self._at:
            return _nothing(self._codec)
        columns = [_listed(sequence[self._at : stop]) for sequence in self._sequences]
        packed = self._codec.pack_columns(columns, self._at)
        self._at += packed.fit + (packed.error is not None)
        return Piece(PackedData(self._codec, packed.columns, packed.fit), packed.fit, packed.error)


class RowSource:
    """An iterable of argument tuples."""

    def __init__(self, codec: ColumnCodec, rows: Iterable[Any], total: int | None) -> None:
        self._codec = codec
        self._rows = iter(rows)
        self._unread: list[Any] = []  # taken from the iterator, and behind an unfit item
        self._raised: Exception | None = None
        self._at = 0
        self.total = total

    def take(self, count: int, all_of_them: bool = True) -> Piece:
        rows, self._unread = self._unread[:count], self._unread[count:]
        if len(rows) < count and self._raised is None:
            try:
                if all_of_them:
                    rows.extend(islice(self._rows, count - len(rows)))
                else:
                    self._read(rows, count)
            except Exception as raised:
                self._raised = raised  # the caller's own; `rows` has kept what came before it
        if not rows and self._raised is None:
            return _nothing(self._codec)
        packed = self._codec.pack_rows(rows, self._at)
        error = packed.error
        if error is not None:
            self._unread = rows[packed.fit + 1 :] + self._unread
        elif self._raised is not None and not self._unread:
            error, self._raised, self._rows = self._raised, None, iter(())
        self._at += packed.fit + (error is not None)
        return Piece(PackedData(self._codec, packed.columns, packed.fit), packed.fit, error)

    def _read(self, rows: list[Any], count: int) -> None:
        enough = monotonic() + READING_SECONDS
        step = 1
        while len(rows) < count:
            wanted = min(len(rows) + step, count)
            rows.extend(islice(self._rows, wanted - len(rows)))
            if len(rows) < wanted or monotonic() > enough:
                return
            step = min(2 * step, MOST_UNTIMED)


def _nothing(codec: ColumnCodec) -> Piece:
    return Piece(PackedData(codec, [], 0), 0)


class Given(Protocol):
    """What a user wants mapped."""

    @property
    def total(self) -> int | None:
        """How many items there are, if that is known."""

    def rows(self) -> Iterator[Iterable[Any]]:
        """As rows of arguments."""

    def source(self, codec: ColumnCodec) -> Source:
        """As the source for an export."""


class Columns:
    """An iterable for each parameter, as `map` takes them."""

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        self._iterables = iterables

    @property
    def total(self) -> int | None:
        """See :class:`Given`."""
        return shortest(self._iterables)

    def rows(self) -> Iterator[Iterable[Any]]:
        """See :class:`Given`."""
        return zip(*self._iterables, strict=False)

    def source(self, codec: ColumnCodec) -> Source:
        """See :class:`Given`."""
        return source_of(codec, self._iterables)


class Rows:
    """An iterable of rows of arguments, as `starmap` takes it."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = rows
        self.total: int | None = shortest((rows,))

    def rows(self) -> Iterator[Iterable[Any]]:
        """See :class:`Given`."""
        return iter(self._rows)

    def source(self, codec: ColumnCodec) -> Source:
        """See :class:`Given`."""
        return RowSource(codec, iter(self._rows), self.total)


def source_of(codec: ColumnCodec, iterables: Sequence[Iterable[Any]]) -> Source:
    """The fastest reader that reads as ``zip`` does.

    Slices are taken only of types that allow it without a side effect: from an iterator given twice, say, columns would
    come out different from rows.
    """
    if iterables and all(type(item) in _SLICEABLE or _is_flat_array(item) for item in iterables):
        return SequenceSource(codec, iterables)
    return RowSource(codec, zip(*iterables, strict=False), shortest(iterables))


#: Not what is derived from them, which may iterate otherwise.
_SLICEABLE = (list, tuple, range, array)


def shortest(iterables: Sequence[Iterable[Any]]) -> int | None:
    """How many items there will be, if all can tell."""
    if iterables and all(isinstance(item, Sized) for item in iterables):
        return min(len(item) for item in iterables if isinstance(item, Sized))
    return None


def _is_flat_array(item: Any) -> bool:
    """A one-dimensional numpy array, without importing numpy to find out."""
    return type(item).__module__ == "numpy" and getattr(item, "ndim", 0) == 1


def _listed(column: Any) -> Sequence[Any]:
    """Array items as plain Python numbers, which pack faster."""
    listed: Sequence[Any] = column.tolist() if hasattr(column, "tolist") else column
    return listed
