"""What the holder of a lease does with the instance, by wire.

Bytes of memory go through the batch buffers of the arena, which no batch uses while the worker is leased.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .arena import Arena
from .holder import InstanceHolder
from .instance import Instance


class Access:
    """Runs the operations of ACCESS frames."""

    def __init__(self, instances: InstanceHolder, surface: Instance, arena: Arena, fresh: bool) -> None:
        self._instances = instances
        self._surface = surface
        self._arena = arena
        self._fresh = fresh
        self._operations: dict[str, Callable[..., Any]] = {
            "size": lambda name: len(surface.memory_named(name)),
            "read": self._read,
            "write": self._write,
            "grow": lambda name, pages: surface.grow(pages, name),
            "get": surface.globals.__getitem__,
            "set": surface.globals.__setitem__,
            "end": self._end,
        }

    def run(self, operation: str, *args: Any) -> Any:
        """Run one."""
        return self._operations[operation](*args)

    def _read(self, name: str, start: int, stop: int) -> None:
        self._arena.transfer[: stop - start] = self._surface.memory_named(name)[start:stop]

    def _write(self, name: str, start: int, stop: int) -> None:
        self._surface.memory_named(name)[start:stop] = self._arena.transfer[: stop - start]

    def _end(self, discard: bool) -> None:
        """The lease ends."""
        if discard or self._fresh or self._instances.calls.failed or self._instances.outgrown():
            self._instances.discard()
