"""The sandbox of a pool's workers: whether they are locked, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from . import wire
from .errors import BadWasi
from .wasi import INHERIT, Spec

SandboxLevel = Literal["off", "default", "strict"]

#: In the environment: "off" has pools with ``sandbox="default"`` lock nothing, for debuggers and measurements of coverage.
SWITCH = "PROCPOOL_SANDBOX"

#: What each layer keeps a worker from, for people.
DENIES: Mapping[str, str] = MappingProxyType(
    {
        "environment": "seeing the program's environment variables",
        "descriptors": "using any descriptor but its own",
        "limits": "leaving core dumps, and having more than 4,096 descriptors",
        "namespaces": "seeing the machine's network and System V objects",
        "capabilities": "doing what only root may",
        "no_new_privileges": "gaining rights by running a program",
        "not_dumpable": "having its memory read by another worker",
        "landlock": "opening files that WASI was not given, signals to others, and tracing them",
        "seccomp": "system calls that it does not need: sockets, programs, processes, mounts",
    }
)


@dataclass(frozen=True)
class Sandbox:
    """What the workers of a pool have given up.  ``str()`` says it in words.

    What a worker says of itself, it says before guest code runs in it.
    """

    level: SandboxLevel  #: as it was asked for
    locked: bool  #: whether workers give up what they can before guest code runs
    reason: str = ""  #: why not
    enforced: tuple[str, ...] = ()  #: layers that stand
    #: those that could not be had, and why
    missing: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.locked:
            return f"sandbox={self.level!r}: not locked: {self.reason}"
        lines = [f"sandbox={self.level!r}: locked before guest code runs"]
        lines += [f"  {layer} keeps them from {DENIES[layer]}" for layer in self.enforced]
        lines += [f"  {layer}: MISSING: {why}" for layer, why in self.missing.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Decision:
    """What a pool's workers are to be told."""

    level: SandboxLevel
    told: wire.Confinement
    reason: str = ""  #: why they are not locked

    def seen(self, missing: Mapping[str, str]) -> Sandbox:
        """What came of it, if they say that those layers could not be had."""
        if not self.told.locked:
            return Sandbox(self.level, False, self.reason)
        enforced = tuple(layer for layer in wire.LAYERS if layer not in missing)
        return Sandbox(self.level, True, "", enforced, dict(missing))


def decide(level: SandboxLevel, environment: wire.Environment, callables: bool, more: Sequence[wire.Step] = ()) -> Decision:
    """Whether workers are locked, and what they need to keep.

    Args:
        environment: of the workers.
        callables: the pool takes Python callables.
        more: steps beside those of the environment, done once for a snapshot.

    Raises:
        BadWasi: with ``sandbox="strict"``, it wants something that a locked worker cannot have.
    """
    spec: Spec | None = environment.wasi
    steps = [step.do for step in (*environment.start, *more)]
    code = next(_python(environment, steps), "")
    takes_stdin = spec is not None and spec.stdin_path == INHERIT
    if level == "strict" and takes_stdin:
        raise BadWasi("stdin='inherit' and sandbox='strict': a locked worker cannot open the program's standard input")
    if level == "default":
        if os.environ.get(SWITCH) == "off":
            return Decision("default", wire.Confinement(), f"{SWITCH}=off is in the environment")
        if code:
            return Decision("default", wire.Confinement(), f"Python code of yours runs in the workers ({code})")
        if callables:
            why = "Python callables may be given to this pool; callables=False refuses them, and locks"
            return Decision("default", wire.Confinement(), why)
        if takes_stdin:
            return Decision("default", wire.Confinement(), "stdin='inherit' is opened in the workers")
    elif level == "off":
        return Decision("off", wire.Confinement(), "sandbox='off'")
    allowed = () if spec is None else tuple(_files(spec))
    changes = any(writable for _, writable in allowed)
    return Decision(
        level,
        wire.Confinement(True, level == "strict", spec is not None, changes, bool(code) or callables, allowed),
    )


def _python(environment: wire.Environment, steps: Sequence[Any]) -> Iterator[str]:
    """What runs Python code of the user's in a worker, whatever is called."""
    if any(map(callable, environment.imports.values())):
        yield "imports"
    if environment.initializer is not None:
        yield "initializer"
    if any(callable(do) and not isinstance(do, tuple) for do in steps):
        yield "a function among start or warm"


def _files(spec: Spec) -> Iterator[tuple[str, bool]]:
    """The files and directories that instances are given, and whether they may write there."""
    for host, _, writable in spec.preopens:
        yield host, writable
    if spec.stdin_path not in (None, INHERIT):
        yield str(spec.stdin_path), False
    for stream in (spec.stdout, spec.stderr):
        if stream is not None and stream.startswith("file:"):
            yield stream[5:], True


def check_run(told: wire.Confinement, pool: Spec, run: Spec) -> None:
    """Whether a locked worker can give a command what it is to have.

    Raises:
        BadWasi: it cannot: it was locked to what the pool's own configuration says.
    """
    if not told.locked:
        return
    if run.stdin_path == INHERIT:
        raise BadWasi("stdin='inherit': the workers of this pool are locked, and cannot open the program's standard input")
    for name, given, to in (("stdout", pool.stdout, run.stdout), ("stderr", pool.stderr, run.stderr)):
        if to == INHERIT and given != INHERIT:
            raise BadWasi(f"{name}='inherit': the workers of this pool are locked; say so in the pool's wasi= too")
    for path, writable in _files(run):
        if not any(_within(path, known) and (may or not writable) for known, may in told.allowed):
            to = "written" if writable else "read"
            raise BadWasi(
                f"{path!r} cannot be {to}: the workers of this pool are locked to what its own wasi= names; name it there, "
                "or a directory above it"
            )


def _within(path: str, directory: str) -> bool:
    path, directory = os.path.realpath(path), os.path.realpath(directory)
    return os.path.commonpath((path, directory)) == directory


#: Variables that a locked worker is started with, if the program has them: how it finds libraries, how text and time are
#: written, and how its interpreter, its allocator and its threads behave.
_LISTED = frozenset({"LANG", "LANGUAGE", "TZ", "TZDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES", "SYSTEMROOT"})
_LISTED_PREFIXES = ("LC_", "PYTHON", "PROCPOOL_", "MALLOC_", "RAYON_", "RUST_")


def listed(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of the program's environment variables that a locked worker gets."""
    return {name: value for name, value in environment.items() if name in _LISTED or name.startswith(_LISTED_PREFIXES)}
