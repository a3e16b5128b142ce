"""What client and nodes say to each other: lists that msgpack takes, and bytes.

A message of the transport is a list of *sayings*, each a list that begins with what it is.  The two directions are two
streams: what one side says arrives in that order, or the connection is lost.  Nothing that a user gave is unpickled on the
way to a worker process, nor what a worker returned on its way to the caller.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any, NamedTuple

from .. import wire as core
from .._version import __version__

#: What one side says: its kind, and what belongs to it.
Saying = list[Any]
#: What a saying can hold: the bytes of a value, and a number of tries.  Text is UTF-8, so what others have made up goes
#: through `printable`.
MOST_BYTES = (1 << 32) - 1
MOST_RETRIES = (1 << 32) - 1

# Beats and their acknowledgements have a connection of their own: behind something large they would be late, and the lease
# would be over.
BEAT = "beat"  #: from a node: its number
ACK = "ack"  #: from the client: the number of a beat
PULSE = (BEAT, ACK)

# -- from the client ---------------------------------------------------------------------------------------------------
UNITS = "units"  #: units, each as `Unit`
BEGIN = "begin"  #: numbers of units that were sent, and may begin
DROP = "drop"  #: numbers of units that nobody wants any more
FUNCTION = "function"  #: digest, name, pickle: a callable that units will name
FORGET = "forget"  #: digests of callables that no later unit names, unless it is told of them again
BLOB = "blob"  #: digest, the bytes of a module
RESIZE = "resize"  #: number of workers: the host has more Dask workers now, or fewer
ASK = "ask"  #: number of the question; what about
END = "end"  #: whether to finish what has begun

# -- from a node -------------------------------------------------------------------------------------------------------
NEED = "need"  #: digests of modules that it does not have
READY = "ready"  #: its pool takes jobs; `Host` as a list, and the number of workers
REFUSED = "refused"  #: a reason, and what making its pool raised, as workers report it, or nothing
ANSWERS = "answers"  #: answers, each as `Answer`
EVENT = "event"  #: kind, pid, message of a PoolEvent
LOG = "log"  #: a log record, as `wire.record_to_bytes` makes it
TOLD = "told"  #: number of the question, pickled answer
LEAVING = "leaving"  #: why: it begins nothing more, and ends when it has nothing left
ENDED = "ended"  #: why; the last saying of a node that has answered all that it has begun: it begins nothing else
BROKEN = "broken"  #: why; the last saying of a node that has lost what it had begun

# -- kinds of units ----------------------------------------------------------------------------------------------------
CALL = 0  #: of an export: the payload is arguments as slots
SHIPPED = 1  #: of a callable, which ``name`` is the digest of: the payload is arguments as `values` dumps them
RUN = 2  #: of a command: the payload is pickled keywords of `submit_run`
STRETCH = 3  #: of a map of an export: the payload is a column per parameter

# -- statuses of answers, beside those of workers -----------------------------------------------------------------------
FAILED = 200  #: a pickled exception of the node's pool
COLUMNS = 201  #: a column per result, and a pickled {index: report} or nothing
PICKLED = 202  #: a pickled result

assert FAILED > core.ITEM, "statuses of workers are passed on as they are"


class Unit(NamedTuple):
    """A job, or a stretch of a map, on its way to a node."""

    number: int
    kind: int
    name: Any  #: of the export, or digest of the callable; None for a command
    begins: bool  #: it may begin at once
    left: float | None  #: seconds until its caller gives up
    seconds: float  #: how many those were when the caller began to wait, for messages
    limit: float | None  #: seconds that it, or each item, may run
    retries: int  #: how often the node's pool may run it again after a worker died
    context: bytes  #: what `capture` gave, without a deadline
    items: int  #: of a stretch
    pickled: bool  #: of a callable: what comes of it is a pickle, for the client to load
    payload: Any


class Answer(NamedTuple):
    """What became of a unit."""

    number: int
    status: int
    nanoseconds: int  #: that it took a worker; 0 if that is not known
    payload: Any


class Host(NamedTuple):
    """What matters of an installation when jobs travel between two."""

    procpool: str
    wasmtime: str
    python: str
    machine: str

    @classmethod
    def here(cls) -> Host:
        """This one."""
        return cls(__version__, version("wasmtime"), platform.python_version(), platform.machine())

    def refuses(self, other: Host) -> str | None:
        """Why a node of the other installation cannot serve a client of this one; None if it can."""
        if self.procpool != other.procpool:
            return f"it has procpool {other.procpool}, and the client {self.procpool}: they must be the same"
        if _minor(self.python) != _minor(other.python):
            return (
                f"it has Python {other.python}, and the client {self.python}: functions travel only within a minor version"
            )
        return None

    def differs(self, other: Host) -> str | None:
        """What is worth saying of a node of the other installation that can serve; None for nothing."""
        found = [
            f"{name} {theirs} where the client has {mine}"
            for name, mine, theirs in (
                ("wasmtime", self.wasmtime, other.wasmtime),
                ("a processor of the kind", self.machine, other.machine),
            )
            if mine != theirs
        ]
        return " and ".join(found) or None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
