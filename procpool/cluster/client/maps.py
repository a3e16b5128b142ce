"""Maps of an export over a cluster: what is a chunk for a worker elsewhere is a frame for a node, whose own pool shares it
out."""

from __future__ import annotations

from ...maps.export_map import ArrayMap, ExportMap
from ...maps.sizes import ChunkSizes
from ...supervisor.jobs.batch import item_bytes
from .. import wire
from .conductor import Conductor
from .ledger import FRAME_NS

#: The most items in a frame of Python objects: to pack and unpack them takes the client some 50 ns each, and while it does,
#: no other node gets anything.
MOST_OBJECTS = 1 << 17
#: The most bytes of arguments and results in a frame.
MOST_BYTES = 4 << 20
#: Bytes that all frames of a map that are under way may have together.
MOST_AHEAD = 256 << 20
#: Frames under way for each node: one that runs, one that is about to, one that is held, one on its way back.
FRAMES_AHEAD = 4


def frame_sizes(nodes: int, lanes: int, most: int, fixed: int | None = None) -> ChunkSizes:
    """How many items go into the next frame.

    It keeps a node busy, and so each of its workers.  While nothing is known about the cost of an item, a frame has one for
    each
    worker at most: an item may take minutes, and what is in a frame that has begun goes nowhere else.
    """
    each = -(-lanes // nodes)
    return ChunkSizes(nodes, most, fixed, FRAME_NS * each, min(each, most))


def most_frame_bytes(nodes: int) -> int:
    """How large a frame may be: with many nodes they are smaller, so that there is one for each."""
    return min(MOST_BYTES, MOST_AHEAD // (FRAMES_AHEAD * nodes))


def may_read(nodes: int, lanes: int, known: bool, frames: int, nbytes: int) -> bool:
    """Whether there should be another frame under way.

    Args:
        known: whether the cost of an item is.
        frames: that are under way.
        nbytes: that they have.
    """
    if not known:
        return frames < lanes + nodes
    return frames < FRAMES_AHEAD * nodes + 2 * lanes and nbytes < MOST_AHEAD


class _Frames(ExportMap):
    """What frames of objects and of arrays have in common."""

    _runner: Conductor
    _most_items = MOST_OBJECTS

    def _chunk_sizes(self, most: int) -> ChunkSizes:
        nodes, lanes = max(1, len(self._runner.nodes)), max(1, self._runner.lanes)
        chunksize, buffersize = self._options.chunksize, self._options.buffersize
        self._width = item_bytes(self._export)
        most = max(1, min(self._most_items, most_frame_bytes(nodes) // max(self._width, 1)))
        if chunksize is not None:
            most = chunksize = min(chunksize, wire.MOST_BYTES // max(self._width, 1))
        if buffersize is not None:
            # Several frames should fit in: one that is being taken, and others under way.
            most = max(1, min(most, buffersize // (nodes + 1)))
        return frame_sizes(nodes, lanes, most, None if chunksize is None else most)

    def _wanted(self) -> bool:
        # Nodes come and go while a map runs; with none, there is still something to wait for one.
        nodes, lanes, bound = max(1, len(self._runner.nodes)), max(1, self._runner.lanes), self._options.buffersize
        known = self._sizes.known or self._options.chunksize is not None
        if bound is not None and self._items_ahead >= bound:
            return False
        return may_read(nodes, lanes, known, len(self._ahead), self._items_ahead * self._width)


class ClusterMap(_Frames):
    """A map of an export over Python objects."""


class ClusterArrayMap(_Frames, ArrayMap):
    """A map of an export over arrays."""

    _most_items = MOST_BYTES
