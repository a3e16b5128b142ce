"""What a worker is told at birth."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..binary import FuncType
from ..engine import EngineSettings
from ..program import Names


class GuestLimits(NamedTuple):
    """What an instance may use."""

    memory: int | None = None  #: bytes per linear memory; a table may have an element for every 8 of them
    fuel: int | None = None  #: per call
    stack: int | None = None  #: bytes of wasm stack
    recycle: int | None = None  #: bytes of grown memory beyond which an instance is not used again


class Guest(NamedTuple):
    """How instances are made and kept, and what surrounds them."""

    fresh: bool = False  #: a new instance for every call
    prewarm: int = 1  #: how many of a process's instances are made before it is ready
    exactly_once: bool = False  #: calls have effects outside the instance, so none may ever be run again
    environment: bytes = b""  #: pickled Environment
    rlimits: tuple[tuple[int, int], ...] = ()  #: (resource, limit) pairs for the process
    log_levels: tuple[tuple[str, int], ...] = ()  #: of the parent's loggers
    module: str = "<bytes>"  #: its name, for people
    features: tuple[str, ...] = ()  #: proposals that the module may use
    restored: bool = False  #: every job finds the instance as the snapshot says


class StartCall(NamedTuple):
    """An export to call in a new instance."""

    export: str
    signature: FuncType
    arguments: bytes  #: packed


class Capture(NamedTuple):
    """Have what an instance holds written into a file, as a snapshot."""

    fd: int


class Step(NamedTuple):
    """What to do once in every new instance."""

    name: str  #: for people: which step it is, and what it calls
    do: StartCall | Capture | Callable[[Any], object]  #: a function gets the instance


class Environment(NamedTuple):
    """What the user's own code adds to a worker; unpickled in each, since importing may start threads."""

    imports: dict[tuple[str | None, Names], Any]  #: (who imports it, its two names) -> host function, number, or type
    initializer: Any = None
    initargs: tuple[Any, ...] = ()
    wasi: Any = None  #: WasiConfig
    start: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What a worker is told at birth, pickled into an anonymous file.

    Descriptors are inherited under their numbers.
    """

    artifacts: tuple[int, ...]  #: the compiled modules, in the program's order
    lifeline: int  #: read end of a pipe whose write end only the parent has
    exports: tuple[tuple[str, Any], ...]  #: the functions, in the order of their indexes, and how they are called
    program: Any  #: a Program, or a ComponentProgram
    limits: GuestLimits
    slots: int  #: the largest number of values any of them takes or returns
    instances: int  #: per process
    guest: Guest
    snapshot: int = -1  #: a file with what new instances begin as; -1 if they begin as the module says
    keeper: int = -1  #: the compiled module of a keeper for that, which see
    parent: int = -1  #: readable once the parent has ended, whoever holds the lifeline; -1 where there is no such thing

    @property
    def engine(self) -> EngineSettings:
        """How the engine is configured that loads the modules."""
        return EngineSettings(self.limits.fuel is not None, self.limits.stack, self.guest.features)

    def dump(self) -> bytes:
        return pickle.dumps(self)


@dataclass(frozen=True)
class Compilation:
    """What a process that compiles is told at birth, pickled into an anonymous file.

    Descriptors are inherited under their numbers.
    """

    subject: str  #: what errors call the module, with its verb
    source: int  #: a file with the module, binary or text
    artifact: int  #: where the compiled module goes: an empty file
    answer: int  #: an empty file for COMPILED, or REFUSED and why; nothing if the process fails
    lifeline: int  #: read end of a pipe whose write end only the parent has
    engine: EngineSettings
    inner: bool  #: have the module export all of its state

    def dump(self) -> bytes:
        return pickle.dumps(self)


COMPILED = b"+"
REFUSED = b"-"
