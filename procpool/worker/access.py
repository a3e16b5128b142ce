"""What the holder of a lease does with the instance, by wire.

Bytes of memory go through the batch buffers of the arena, which no batch uses while the worker is leased.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..wire import values
from .arena import Arena
from .holder import InstanceHolder
from .instance import Instance
from .payloads import Payloads
from .streams import Streams

if TYPE_CHECKING:
    from ..bytes_function import BytesFunction


class Access:
    """Runs the operations of ACCESS frames."""

    def __init__(
        self,
        instances: InstanceHolder,
        surface: Instance,
        arena: Arena,
        payloads: Payloads,
        streams: Streams,
    ) -> None:
        self._instances = instances
        self._surface = surface
        self._arena = arena
        self._payloads = payloads
        self._streams = streams
        self._operations: dict[str, Callable[..., Any]] = {
            "size": lambda name: len(surface.memory_named(name)),
            "read": self.read,
            "write": self.write,
            "grow": lambda name, pages: surface.grow(pages, name),
            "get": surface.globals.__getitem__,
            "set": surface.globals.__setitem__,
            "call_bytes": self._call_bytes,
            "end": self._end,
        }

    def run(self, operation: str, *args: Any) -> Any:
        """Run one."""
        return self._operations[operation](*args)

    def read(self, name: str, start: int | None, stop: int | None, single: bool) -> tuple[int, int] | int:
        """Put down the bytes from ``start``, as many as there is room for.

        Args:
            name: of the memory.
            start, stop: addresses, which may count from the end; None for its ends.
            single: one byte is meant.

        Returns:
            The addresses from and to which it would be, had it room; or the size of the memory, if they are outside.
        """
        memory = self._surface.memory_named(name)
        found = _within(len(memory), start, stop, single)
        if found is None:
            return len(memory)
        piece = memory[found[0] : min(found[1], found[0] + len(self._arena.transfer))]
        self._arena.transfer[: len(piece)] = piece
        return found

    def write(self, name: str, start: int | None, stop: int | None, single: bool, size: int) -> tuple[int, int] | int:
        """Take up the bytes for the memory from ``start`` on, if ``size`` of them are just what fits in there.

        The arguments and what is returned are those of `read`.
        """
        memory = self._surface.memory_named(name)
        found = _within(len(memory), start, stop, single)
        if found is None:
            return len(memory)
        if found[1] - found[0] == size:
            piece = self._arena.transfer[:size]
            memory[found[0] : found[0] + len(piece)] = piece
        return found

    def _call_bytes(self, function: BytesFunction, args: bytes) -> Any:
        return function(self._surface, *values.load(args, self._payloads.slot, slots=values.ARGUMENTS))

    def _end(self, discard: bool) -> None:
        """The lease ends."""
        if discard:
            self._instances.discard()
        else:
            self._instances.settle()
            self._streams.end_lines()


def _within(size: int, start: int | None, stop: int | None, single: bool) -> tuple[int, int] | None:
    """The addresses meant, if a memory of that size has them.

    Negative ones count from the end.  Unlike a sequence's, bounds of a slice beyond the ends are wrong: they are addresses.
    """
    first, last = 0 if start is None else start, size if stop is None else stop
    if first < 0:
        first, last = first + size, last + size if single else last
    if last < 0:
        last += size
    return (first, max(first, last)) if 0 <= first <= size and 0 <= last <= size else None
