"""Mapping an export or a callable over many items: chunks under way, and their order."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ..options import positive
from ..supervisor.dispatcher import Dispatcher
from ..supervisor.jobs.batch import Chunk, most_items
from ..supervisor.jobs.call import Export

#: How long a chunk should take a worker, in nanoseconds: long against what a chunk costs the parent (some 70 us; at 4 ms
from .sizes import ChunkSizes
from .sources import PackedData, Piece, Source

#: The most items of Python objects per chunk.  What a chunk costs is then lost in what packing its items costs, and the
#: parent comes round to the workers often enough.
MOST_OBJECTS = 16384
#: How many calls of a Python function to have under way.
MOST_JOBS_AHEAD = 1024

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
