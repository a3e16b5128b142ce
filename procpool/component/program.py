"""What a pool runs that was given a component.  Plain data, for both sides."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from .wasi import own

if TYPE_CHECKING:
    from . import wit


@dataclass(frozen=True)
class ComponentProgram:
    """A component."""

    outline: bytes  #: a binary of the same world

    @cached_property
    def world(self) -> wit.World:
        """What it needs and gives."""
        from .binary import read_world  # a worker that runs exports alone does without

        return read_world(self.outline)

    @cached_property
    def served(self) -> dict[str, str]:
        """The functions that it imports, other than WASI's -> the imports of the wrapper that serve them."""
        if not any(map(own, self.world.needs)):
            return {}
        from .wrapper import wrap

        return wrap(self.outline, self.world, own).hosts

    @cached_property
    def imports(self) -> bool:
        """Whether it imports anything that is not WASI's."""
        return any(map(own, self.world.needs))

    def __getstate__(self) -> dict[str, object]:
        return {"outline": self.outline, "served": self.served, "imports": self.imports}  # likewise


@dataclass(frozen=True)
class CompiledComponent:
    """A component, compiled for the workers."""

    program: ComponentProgram
    artifacts: tuple[int, ...]  #: one file descriptor; the owner closes it
    sources: dict[str | None, bytes]  #: SHA-256 of what it was compiled from, under None

    def close(self) -> None:
        """Close the descriptor."""
        for fd in self.artifacts:
            os.close(fd)


def component_program(outline: bytes) -> ComponentProgram:
    """The program of a component of that outline."""
    return ComponentProgram(outline)
