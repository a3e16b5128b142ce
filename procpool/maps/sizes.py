"""How many items to put into the next chunk."""

from __future__ import annotations

#: How long a chunk should take a worker, in nanoseconds: long against what a chunk costs the parent (some 70 us; at 4 ms
#: that still showed, docs/rationale.md), short against what anybody waits for.
TARGET_NS = 8_000_000
#: Towards the end chunks shrink, but not below this: a chunk can be cut while it runs, should that be needed.
LEAST_NS = 500_000
#: The first chunks, while nothing is known about the cost of an item, double from one item up to this many.
MOST_UNMEASURED = 64


class ChunkSizes:
    """How many items to put into the next chunk.

    Small while nothing is known, then so many as take a worker ``target_ns`` by the latest measurement, growing eightfold
    at most (a tiny chunk's time is mostly overhead); and towards a known end a share of what is left, so that the workers
    finish together (guided self-scheduling, Polychronopoulos and Kuck 1987).
    """

    def __init__(
        self, workers: int, most: int, fixed: int | None, target_ns: int = TARGET_NS, unmeasured: int = MOST_UNMEASURED
    ) -> None:
        self._workers = workers
        self._most = most
        self._fixed = fixed
        self._target_ns = target_ns
        self._unmeasured = unmeasured
        self._size = 1
        self._item_ns: float | None = None

    @property
    def known(self) -> bool:
        """Whether anything has been measured."""
        return self._item_ns is not None

    def next(self, left: int | None) -> int:
        """The size of the next chunk when ``left`` items remain, if that is known."""
        if self._fixed is not None:
            return self._fixed
        if self._item_ns is None:
            wanted = min(2 * self._size, self._unmeasured)
            size, self._size = self._size, wanted
        else:
            size = self._size = max(1, min(int(self._target_ns / self._item_ns), 8 * self._size, self._most))
        if left is not None:
            least = 1 if self._item_ns is None else max(1, int(LEAST_NS / self._item_ns))
            size = min(size, max(least, -(-left // (2 * self._workers))))
        return size

    def measured(self, count: int, nanoseconds: int) -> None:
        """Learn from a chunk that is done."""
        latest = max(nanoseconds / max(count, 1), 0.1)
        self._item_ns = latest if self._item_ns is None else (self._item_ns + latest) / 2
