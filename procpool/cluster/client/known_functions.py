"""Which callables a node knows."""

from __future__ import annotations

from ...supervisor.jobs.shipped import Shipped


class KnownFunctions:
    """The callables that one node knows when it has heard all that it was told.

    Args:
        most: how many it keeps.
        most_bytes: how large their pickles may be together, in bytes.  It always keeps the one used last.
    """

    def __init__(self, most: int = 256, most_bytes: int = 64 << 20) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._sizes: dict[bytes, int] = {}  # of their pickles, by digest, the least recently used first
        self._bytes = 0

    def use(self, function: Shipped) -> bool:
        """Something is to be sent that calls it; whether the node must be told of it first."""
        size = self._sizes.pop(function.digest, None)
        self._sizes[function.digest] = len(function.pickle)
        if size is None:
            self._bytes += len(function.pickle)
        return size is None

    def forget(self) -> list[bytes]:
        """The digests of those that are too much; the node is to be told to forget them when it has all that calls them."""
        forgotten = []
        while len(self._sizes) > 1 and (len(self._sizes) > self._most or self._bytes > self._most_bytes):
            digest = next(iter(self._sizes))
            self._bytes -= self._sizes.pop(digest)
            forgotten.append(digest)
        return forgotten
