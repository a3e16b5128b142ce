"""Maps of an export: many items to a chunk, which a worker runs in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import BadArguments
from ..supervisor.jobs.batch import item_bytes, most_items
from ..supervisor.jobs.call import Export
from ..supervisor.jobs.chunk import Chunk
from ..wire import loaded
from .course import Course, Runner, Ticket
from .options import MapOptions
from .sizes import ChunkSizes
from .sources import PackedData, Piece, Source

#: The most items of Python objects per chunk.  What a chunk costs is then lost in what packing its items costs, and the
#: parent comes round to the workers often enough.
MOST_OBJECTS = 16384
#: The most parameters and results together.  wasm allows 1,000 parameters, and the driver takes one for each, and three.
MOST_COLUMNS = 997
#: How much of a buffer a chunk of an array fills, in bytes.  Measured: 1 MiB and 4 MiB are both slower.
ARRAY_CHUNK_BYTES = 2 << 20


class Run(Ticket):
    """A chunk on its way, and where in the input it begins."""

    def __init__(self, chunk: Chunk, piece: Piece, first: int) -> None:
        self.chunk = chunk
        self.piece = piece
        self.first = first
        self.taken: int = piece.count + (piece.error is not None)

    @property
    def done(self) -> bool:
        return self.chunk.done

    def watch(self, callback: Callable[[], None]) -> None:
        self.chunk.on_done(callback)


class ExportMap(Course[Run]):
    """A map of an export over a source.

    Args:
        export: what to call.
        source: the items.
        context: what `capture` gave.
        most: how many items a chunk may have at most.
    """

    def __init__(
        self,
        runner: Runner,
        export: Export,
        source: Source,
        options: MapOptions,
        context: bytes,
        owner: object,
        most: int = MOST_OBJECTS,
    ) -> None:
        signature = export.codec.signature
        columns = len(signature.params) + len(signature.results)
        if columns > MOST_COLUMNS:
            raise BadArguments(
                f"{export.name} takes and returns {columns} values, and a map can do with {MOST_COLUMNS}; use submit"
            )
        super().__init__(runner, options, source.total, 2 * max(runner.lanes, 1) + 2, owner)
        self._export = export
        self._source = source
        self._context = context
        self._sizes = self._chunk_sizes(most)
        self._left = source.total
        self._at = 0

    def _chunk_sizes(self, most: int) -> ChunkSizes:
        """What says how many items go into the next chunk."""
        workers = max(self._runner.lanes, 1)
        chunksize, buffersize = self._options.chunksize, self._options.buffersize
        most = max(1, min(most, most_items(self._export)))
        if chunksize is not None:
            most = chunksize = min(chunksize, most_items(self._export))
        if buffersize is not None:
            # Several chunks should fit in: one that is being taken, and others under way.
            most = max(1, min(most, buffersize // (workers + 1)))
        return ChunkSizes(workers, most, chunksize and min(chunksize, most))

    def _read(self, room: int | None) -> Run | None:
        size = self._sizes.next(self._left)
        piece = self._source.take(size if room is None else min(size, room), self._options.chunksize is not None)
        if not piece.count and piece.error is None:
            return None
        limit, retries = self._options.item_timeout, self._runner.retries
        run = Run(Chunk(self._export, piece.data, piece.count, limit, retries, self._context), piece, self._at)
        run.chunk.tenant = self.tenant
        if piece.error is not None and not self._options.return_exceptions:
            self._stop_reading()
        self._at += run.taken
        if self._left is not None:
            self._left = max(0, self._left - run.taken)
        return run

    def _submit(self, ticket: Run) -> bool:
        return not ticket.piece.count or self._runner.try_submit_chunk(ticket.chunk)

    def _abandon(self, tickets: list[Run]) -> None:
        for run in tickets:
            self._runner.abandon(run.chunk)

    def _measured(self, ticket: Run) -> None:
        if ticket.piece.count:
            self._sizes.measured(ticket.piece.count, ticket.chunk.nanoseconds)

    def _outcomes(self, ticket: Run) -> tuple[list[Any], int | None]:
        data, errors = ticket.piece.data, ticket.chunk.errors
        assert isinstance(data, PackedData)
        values = data.values()
        for index, report in errors.items():
            values[index] = loaded(report)
        failure = min(errors, default=None)
        if ticket.piece.error is not None:
            failure = ticket.piece.count if failure is None else failure
            values.append(ticket.piece.error)
        return values, failure


class ArrayMap(ExportMap):
    """A map over arrays, which are their own store: nothing comes out but the first failure."""

    def __init__(
        self, runner: Runner, export: Export, source: Source, options: MapOptions, context: bytes, owner: object
    ) -> None:
        most = max(1, ARRAY_CHUNK_BYTES // max(item_bytes(export), 1))
        super().__init__(runner, export, source, options, context, owner, most)

    def _outcomes(self, ticket: Run) -> tuple[list[Any], int | None]:
        errors = ticket.chunk.errors
        return ([loaded(errors[min(errors)])], 0) if errors else ([], None)
