"""Mapping an export over many items: cutting the input into chunks, and putting the results in order."""

from __future__ import annotations

import concurrent.futures
from array import array
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from time import monotonic
from typing import Any, Protocol, TypeVar

from .columns import WIDTH, ColumnCodec
from .options import positive
from .supervisor.batch import Chunk, Data, most_items
from .supervisor.dispatcher import Dispatcher
from .supervisor.job import Export

#: How long a chunk should take a worker, in nanoseconds: long against what a chunk costs the parent (some 70 us; at 4 ms
#: that still showed, docs/rationale.md), short against what anybody waits for.
TARGET_NS = 8_000_000
#: Towards the end chunks shrink, but not below this: a chunk can be cut while it runs, should that be needed.
LEAST_NS = 500_000
#: The first chunks, while nothing is known about the cost of an item, double from one item up to this many.
MOST_UNMEASURED = 64
#: The most items of Python objects per chunk.  What a chunk costs is then lost in what packing its items costs, and the
#: parent comes round to the workers often enough.
MOST_OBJECTS = 16384
#: How many calls of a Python function to have under way.
MOST_JOBS_AHEAD = 1024

T = TypeVar("T")
Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True)
class MapOptions:
    """What `map` and `starmap` may be told; see there.

    Raises:
        ValueError: a size is no positive int.
    """

    timeout: float | None
    chunksize: int | None
    buffersize: int | None
    item_timeout: float | None
    return_exceptions: bool
    ordered: bool
    progress: bool | Progress

    def __post_init__(self) -> None:
        positive("chunksize", self.chunksize)
        positive("buffersize", self.buffersize)

    def deadline(self) -> float | None:
        """When ``timeout`` ends that begins now, in the time of time.monotonic."""
        return None if self.timeout is None else monotonic() + self.timeout


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


class ChunkSizes:
    """How many items to put into the next chunk.

    Small while nothing is known, then so many as take a worker TARGET_NS by the latest measurement, growing eightfold at
    most (a tiny chunk's time is mostly overhead); and towards a known end a share of what is left, so that the workers
    finish together (guided self-scheduling, Polychronopoulos and Kuck 1987).
    """

    def __init__(self, workers: int, most: int, fixed: int | None) -> None:
        self._workers = workers
        self._most = most
        self._fixed = fixed
        self._size = 1
        self._item_ns: float | None = None

    def next(self, left: int | None) -> int:
        """The size of the next chunk when ``left`` items remain, if that is known."""
        if self._fixed is not None:
            return self._fixed
        if self._item_ns is None:
            wanted = min(2 * self._size, MOST_UNMEASURED)
            size, self._size = self._size, wanted
        else:
            size = self._size = max(1, min(int(TARGET_NS / self._item_ns), 8 * self._size, self._most))
        if left is not None:
            least = 1 if self._item_ns is None else max(1, int(LEAST_NS / self._item_ns))
            size = min(size, max(least, -(-left // (2 * self._workers))))
        return size

    def measured(self, count: int, nanoseconds: int) -> None:
        """Learn from a chunk that is done."""
        latest = max(nanoseconds / max(count, 1), 0.1)
        self._item_ns = latest if self._item_ns is None else (self._item_ns + latest) / 2


class Mapping:
    """One run of an export over a source.  Iterating gives the chunks in order, a bounded number being under way."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        export: Export,
        source: Source,
        *,
        most: int,
        chunksize: int | None = None,
        buffersize: int | None = None,
        item_timeout: float | None = None,
        go_on: bool = False,
        context: bytes = b"",
    ) -> None:
        self._dispatcher = dispatcher
        self._context = context
        self._export = export
        self._source = source
        self._item_timeout = item_timeout
        self._go_on = go_on
        workers = max(dispatcher.scheduler.workers, 1)
        most = max(1, min(most, most_items(export)))
        if chunksize is not None:
            most = chunksize = min(chunksize, most_items(export))
        if buffersize is not None:
            most = max(1, min(most, buffersize))
        self._sizes = ChunkSizes(workers, most, chunksize and min(chunksize, most))
        self._most_ahead = 2 * workers + 2
        self._buffersize = buffersize
        self._left = source.total
        self._read = 0
        self._reading = True
        self.ahead: deque[Run] = deque()
        self._items_ahead = 0
        self.read_ahead()

    def read_ahead(self) -> None:
        """Submit chunks until enough are under way, or the input ends."""
        while self._reading and len(self.ahead) < self._most_ahead:
            size = self._sizes.next(self._left)
            if self._buffersize is not None:
                size = min(size, self._buffersize - self._items_ahead)
                if size < 1:
                    return
            piece = self._source.take(size)
            taken = piece.count + (piece.error is not None)
            if piece.error is not None and not self._go_on:
                self._reading = False
            if not taken:
                self._reading = False
                return
            retries = self._dispatcher.limits.retries
            chunk = Chunk(self._export, piece.data, piece.count, self._item_timeout, retries, self._context)
            if piece.count:
                self._dispatcher.submit(chunk.segment())
            else:
                chunk.set_result(None)
            self.ahead.append(Run(chunk, piece, self._read))
            self._read += taken
            self._items_ahead += taken
            if self._left is not None:
                self._left = max(0, self._left - taken)

    def finish(self, run: Run) -> None:
        """Account for a chunk that is done, before its results are used."""
        self._items_ahead -= run.taken
        if run.piece.count:
            self._sizes.measured(run.piece.count, run.chunk.nanoseconds)

    def stop(self) -> None:
        """Give up what is under way."""
        for run in self.ahead:
            self._dispatcher.abandon(run.chunk)

    def in_order(self, deadline: float | None) -> Iterator[Run]:
        """The chunks in order, each when it is done; TimeoutError when one is not by the deadline."""
        try:
            while self.ahead:
                run = self.ahead[0]
                run.chunk.result(None if deadline is None else max(0.0, deadline - monotonic()))
                self.finish(run)
                self.ahead.popleft()
                self.read_ahead()
                yield run
        finally:
            self.stop()

    def as_completed(self, deadline: float | None) -> Iterator[Run]:
        """The chunks as they get done."""
        try:
            while self.ahead:
                remaining = None if deadline is None else max(0.0, deadline - monotonic())
                first = concurrent.futures.FIRST_COMPLETED
                done, _ = concurrent.futures.wait([run.chunk for run in self.ahead], remaining, first)
                if not done:
                    raise concurrent.futures.TimeoutError
                finished = [run for run in self.ahead if run.chunk in done]
                for run in finished:
                    self.finish(run)
                    self.ahead.remove(run)
                self.read_ahead()
                yield from finished
        finally:
            self.stop()

    async def in_order_async(self) -> AsyncGenerator[Run, None]:
        """:meth:`in_order` for asyncio."""
        import asyncio  # only here: it takes longer to import than a pool to start

        try:
            while self.ahead:
                run = self.ahead[0]
                await asyncio.wrap_future(run.chunk)
                self.finish(run)
                self.ahead.popleft()
                self.read_ahead()
                yield run
        finally:
            self.stop()


@dataclass(eq=False)
class Run:
    """A chunk on its way, and where in the input it begins."""

    chunk: Chunk
    piece: Piece
    first: int

    @property
    def taken(self) -> int:
        """How many items of the input it stands for."""
        return self.piece.count + (self.piece.error is not None)

    def outcomes(self) -> list[Any]:
        """Each item's result, or its exception."""
        data = self.piece.data
        assert isinstance(data, PackedData)
        values = data.values()
        for index, error in self.chunk.errors.items():
            values[index] = error
        if self.piece.error is not None:
            values.append(self.piece.error)
        return values

    def first_failure(self) -> int | None:
        """Which of the outcomes is the first exception."""
        if self.chunk.errors:
            return min(self.chunk.errors)
        return self.piece.count if self.piece.error is not None else None


class JobMapping:
    """A mapping in which each item is a job of its own."""

    def __init__(self, submit: Callable[[Any], Future[Any]], rows: Iterator[Any], most_ahead: int, go_on: bool) -> None:
        self._submit = submit
        self._rows = rows
        self._most_ahead = most_ahead
        self._go_on = go_on
        self._index = 0
        self.ahead: dict[Future[Any], int] = {}  # in the order of the items
        self.read_ahead()

    def read_ahead(self) -> None:
        """Submit items until enough are under way, or the input ends.  What is wrong with an item is its outcome."""
        while len(self.ahead) < self._most_ahead:
            future: Future[Any]
            try:
                row = next(self._rows)
                future = self._submit(row)
            except StopIteration:
                return
            except Exception as error:
                future = Future()
                future.set_exception(error)
                if not self._go_on:
                    self._rows = iter(())
            self.ahead[future] = self._index
            self._index += 1

    def stop(self) -> None:
        """Give up what has not begun."""
        for future in self.ahead:
            future.cancel()

    def in_order(self, deadline: float | None) -> Iterator[tuple[int, Future[Any]]]:
        """(index, done future) of each item; TimeoutError when one is not done by the deadline."""
        try:
            while self.ahead:
                future = next(iter(self.ahead))
                future.exception(None if deadline is None else max(0.0, deadline - monotonic()))
                yield self.ahead.pop(future), future
                self.read_ahead()
        finally:
            self.stop()

    def as_completed(self, deadline: float | None) -> Iterator[tuple[int, Future[Any]]]:
        """The same as they get done."""
        try:
            while self.ahead:
                remaining = None if deadline is None else max(0.0, deadline - monotonic())
                done, _ = concurrent.futures.wait(self.ahead, remaining, concurrent.futures.FIRST_COMPLETED)
                if not done:
                    raise concurrent.futures.TimeoutError
                for future in done:
                    yield self.ahead.pop(future), future
                self.read_ahead()
        finally:
            self.stop()


def job_lists(done: Iterator[tuple[int, Future[Any]]], options: MapOptions, total: int | None) -> Iterator[list[Any]]:
    """The outcomes of jobs, each as a list of one; raises a failure in its place."""
    count = 0
    with _reporting(options.progress, total) as report:
        for index, future in done:
            error = future.exception()
            if error is not None and not options.return_exceptions:
                raise error
            outcome = future.result() if error is None else error
            yield [outcome if options.ordered else (index, outcome)]
            count += 1
            report(count, total)


class MapResults(chain[T]):
    """The iterator that ``map`` returns.  Items come straight from lists, without a Python frame for each."""

    _stop: Callable[[], None] | None = None

    @classmethod
    def over(cls, lists: Iterator[list[T]], stop: Callable[[], None]) -> MapResults[T]:
        """Iterate over the items of lists; ``stop`` ends what is under way."""
        results = cls.from_iterable(lists)
        assert isinstance(results, cls)
        results._stop = stop
        return results

    def close(self) -> None:
        """Give up what has not been taken."""
        if self._stop is not None:
            self._stop()

    # Dropping it does the same.  A generator's own `finally` would not do: one that was never started has none to run.
    __del__ = close


def result_lists(runs: Iterator[Run], return_exceptions: bool, indexed: bool) -> Iterator[list[Any]]:
    """The outcomes of chunks as lists of items; raises the first failure in its place."""
    for run in runs:
        outcomes = run.outcomes()
        failure = None if return_exceptions else run.first_failure()
        error = None
        if failure is not None:
            error = outcomes[failure]
            del outcomes[failure:]
        yield list(enumerate(outcomes, run.first)) if indexed else outcomes
        if error is not None:
            raise error


def with_progress(runs: Iterator[Run], progress: bool | Progress, total: int | None) -> Iterator[Run]:
    """Report after each chunk: to a callable as (items done, items in all or None), or with True as a bar."""
    done = 0
    with _reporting(progress, total) as report:
        for run in runs:
            yield run
            done += run.taken
            report(done, total)


def _reporting(progress: bool | Progress, total: int | None) -> AbstractContextManager[Progress]:
    if progress is True:
        return _Bar(total)
    return nullcontext(progress if callable(progress) else lambda done, total: None)


class _Bar(AbstractContextManager[Progress]):
    """A progress bar by tqdm."""

    def __init__(self, total: int | None) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError("progress=True needs tqdm: pip install 'procpool[cli]', or give a callable") from None
        self._bar = tqdm(total=total, unit="call", unit_scale=True)

    def __enter__(self) -> Progress:
        return self._report

    def _report(self, done: int, total: int | None) -> None:
        self._bar.update(done - self._bar.n)

    def __exit__(self, *exc: object) -> None:
        self._bar.close()
