"""Where a mapping's items come from: the input, read once from front to back, a stretch at a time."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from ..columns import WIDTH, ColumnCodec
from ..supervisor.jobs.batch import Data

#: How long a chunk should take a worker, in nanoseconds: long against what a chunk costs the parent (some 70 us; at 4 ms

T = TypeVar("T")


@dataclass
class Piece:
    """A stretch of the input, ready to run."""

    data: Data
    count: int
    #: what is wrong with the item after those; it takes an index, but is not sent
    error: BaseException | None = None


class Source(Protocol):
    """An input that is read once, from front to back."""

    total: int | None  #: how many items there are, if that is known

    def take(self, count: int) -> Piece:
        """The next ``count`` items; fewer only before an unfit item and at the end."""


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

    def take(self, count: int) -> Piece:
        columns = [_listed(sequence[self._at : self._at + count]) for sequence in self._sequences]
        shortest = min(map(len, columns))
        columns = [column[:shortest] for column in columns]
        packed = self._codec.pack_columns(columns, self._at)
        self._at += packed.fit + (packed.error is not None)
        return Piece(PackedData(self._codec, packed.columns, packed.fit), packed.fit, packed.error)


class RowSource:
    """An iterable of argument tuples."""

    def __init__(self, codec: ColumnCodec, rows: Iterable[Any]) -> None:
        self._codec = codec
        self._rows = iter(rows)
        self._unread: list[Any] = []  # taken from the iterator, and behind an unfit item
        self._raised: Exception | None = None
        self._at = 0
        self.total: int | None = len(rows) if isinstance(rows, Sized) else None

    def take(self, count: int) -> Piece:
        rows, self._unread = self._unread[:count], self._unread[count:]
        if len(rows) < count and self._raised is None:
            try:
                rows.extend(islice(self._rows, count - len(rows)))
            except Exception as raised:
                self._raised = raised  # the caller's own; `rows` has kept what came before it
        packed = self._codec.pack_rows(rows, self._at)
        error: BaseException | None = packed.error
        if error is not None:
            self._unread = rows[packed.fit + 1 :] + self._unread
        elif self._raised is not None and not self._unread:
            error, self._raised, self._rows = self._raised, None, iter(())
        self._at += packed.fit + (error is not None)
        return Piece(PackedData(self._codec, packed.columns, packed.fit), packed.fit, error)


def source_of(codec: ColumnCodec, iterables: Sequence[Iterable[Any]]) -> Source:
    """The fastest reader that reads as ``zip`` does.

    Slices are taken only of types that allow it without a side effect: from an iterator given twice, say, columns would
    come out different from rows.
    """
    if iterables and all(isinstance(item, _SLICEABLE) or _is_flat_array(item) for item in iterables):
        return SequenceSource(codec, iterables)
    return RowSource(codec, zip(*iterables, strict=False))


_SLICEABLE = (list, tuple, range, array)


def _is_flat_array(item: Any) -> bool:
    """A one-dimensional numpy array, without importing numpy to find out."""
    return type(item).__module__ == "numpy" and getattr(item, "ndim", 0) == 1


def _listed(column: Any) -> Sequence[Any]:
    """Array items as plain Python numbers, which pack faster."""
    listed: Sequence[Any] = column.tolist() if hasattr(column, "tolist") else column
    return listed
