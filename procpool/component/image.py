"""Bytes that hold values as the canonical ABI lays them out, with all that they point to.

The first bytes are the values themselves; addresses in them count from where the image begins, which is at `BASE`.
"""

from __future__ import annotations

from typing import Any

from .errors import BadImage
from .layout import BASE, aligned


class Output:
    """An image that is being written.

    Args:
        size: bytes for the values themselves, at the beginning.
    """

    def __init__(self, size: int) -> None:
        self.data: bytearray = bytearray(size)
        self.given: list[Any] = []  #: the resources that the component owns from now on

    def reserve(self, size: int, alignment: int) -> int:
        """Where in `data` so many bytes have been added."""
        data = self.data
        at = aligned(len(data), alignment)
        data += bytes(at + size - len(data))
        return at

    def put(self, content: Any, alignment: int) -> int:
        """The address of a copy of the content."""
        data = self.data
        gap = -len(data) & alignment - 1
        if gap:
            data += bytes(gap)
        at = len(data)
        data += content
        return at + BASE


class Input:
    """An image that is being read.

    What it points to may be anything, if a worker or its guest has been tampered with.  So each region must lie in the
    image, and all of them together are no longer than it: honest ones do not overlap.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = data
        self.size: int = len(data)
        self._left: int = self.size

    def region(self, address: int, size: int, alignment: int) -> int:
        """Where in `data` a region is.

        Raises:
            BadImage: it is not in there, not aligned, or one too many.
        """
        at = address - BASE
        if not 0 <= at <= self.size - size:
            raise BadImage(f"a pointer to {size} bytes at {address} leaves the {self.size} bytes of the result")
        if address & alignment - 1:
            raise BadImage(f"the address {address} is not aligned to {alignment} bytes")
        self._left -= size
        if self._left < 0:
            raise BadImage("the regions of the result overlap")
        return at
