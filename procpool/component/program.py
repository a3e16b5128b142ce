"""What a pool runs that was given a component.  Plain data, for both sides."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

from . import wit
from .binary import read_world


@dataclass(frozen=True)
class ComponentProgram:
    """A component."""

    outline: bytes  #: a binary of the same world

    @cached_property
    def world(self) -> wit.World:
        """What it needs and gives."""
        return read_world(self.outline)

    def __getstate__(self) -> dict[str, bytes]:
        return {"outline": self.outline}  # a worker that runs exports alone need not know their types


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
