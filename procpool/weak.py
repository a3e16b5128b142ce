"""A collection that keeps nothing alive."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class WeakBag(Generic[T]):
    """Objects, told apart by identity, for as long as somebody else refers to them.

    Any thread may do anything at any time.  A :class:`weakref.WeakSet` cannot be walked through while another thread
    changes it.
    """

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[T]] = {}

    def add(self, item: T) -> None:
        """Have it in."""
        key, references = id(item), self._references
        references[key] = weakref.ref(item, lambda _: references.pop(key, None))

    def discard(self, item: T) -> None:
        """Have it in no more, if it is."""
        self._references.pop(id(item), None)

    def __iter__(self) -> Iterator[T]:
        """Those of now that live until their turn comes."""
        for reference in list(self._references.values()):
            item = reference()
            if item is not None:
                yield item

    def __len__(self) -> int:
        return len(self._references)
