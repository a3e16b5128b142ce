"""The context of a job: how long it may still run, and what its caller said about it.

The caller's side packs it into the job (`capture`); on the worker's side host functions and shipped callables read it
(`current_context`).  Jobs that carry nothing cost one look at a context variable.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

from . import tracing, wire
from .deadline import Deadline

_NEVER = Deadline.NEVER


class _State(SimpleNamespace):
    def __reduce__(self) -> str:
        return "state"  # where it arrives it is that process's own: `from procpool import state` ships no copy


#: A place for what an initializer wants to keep for host functions and shipped callables: one per worker process.
state: SimpleNamespace = _State()


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Context:
    """What is known about the job that runs, or about the caller."""

    #: when time is up, in the time of ``time.monotonic()``, which all processes of a machine share; None for never
    deadline: float | None = None
    #: what was set by :func:`context`
    baggage: Mapping[str, Any] = field(default_factory=dict)
    _is_cancelled: Callable[[], bool] = field(default=_never, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether the job has been cancelled or has run out of time: what it still does is for nobody."""
        return self._is_cancelled()

    def remaining(self) -> float | None:
        """Seconds until the deadline, 0 when it has passed; None if there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())


class _Baggage(NamedTuple):
    values: Mapping[str, Any]
    pickled: bytes


_baggage: ContextVar[_Baggage | None] = ContextVar("procpool.baggage", default=None)
#: In the threads of a worker that run jobs: tells the context of the job that runs.
_job: ContextVar[Callable[[], Context] | None] = ContextVar("procpool.job", default=None)


@contextlib.contextmanager
def context(**baggage: Any) -> Iterator[None]:
    """Attach values to all jobs submitted inside; they add to what is attached already.

    Raises:
        Whatever pickling a value raises, at once.
    """
    values = {**current_context().baggage, **baggage}
    token = _baggage.set(_Baggage(MappingProxyType(values), pickle.dumps((values, None))))
    try:
        yield
    finally:
        _baggage.reset(token)


def current_context() -> Context:
    """In a worker, the context of the job that runs; elsewhere, what :func:`context` has set."""
    job = _job.get()
    current = Context() if job is None else job()
    own = _baggage.get()
    return current if own is None else Context(current.deadline, own.values, current._is_cancelled)


def serve_contexts(job: Callable[[], Context]) -> None:
    """Have :func:`current_context` answer this in the calling thread, which runs a worker's jobs."""
    _job.set(job)


def deadline_of(timeout: float | None, default: float | None) -> Deadline:
    """The deadline of a job submitted here and now: not beyond that of the job that submits it.

    Args:
        timeout, default: as for :meth:`Deadline.after`.

    Raises:
        ValueError, TypeError: ``timeout`` is no positive number.
    """
    deadline = _NEVER if timeout is None and default is None else Deadline.after(timeout, default)
    job = _job.get()
    if job is None:
        return deadline
    limit = job().deadline
    return deadline if limit is None else deadline.sooner(Deadline(limit, max(0.0, limit - monotonic())))


def capture(visible: bool, timeout: float | None = None, deadline: float | None = None) -> bytes:
    """The context to send with a job; empty if there is nothing in it that somebody could see there.

    Args:
        visible: whether Python code runs with the job.
        timeout: seconds from the job's beginning.
        deadline: in the time of time.monotonic.
    """
    trace = tracing.carrier()
    if trace is None:
        if not visible:
            return b""
        if timeout is None and deadline is None and _baggage.get() is None and _job.get() is None:
            return b""
    own = _baggage.get()
    if own is not None and trace is None:
        pickled = own.pickled
    else:
        pickled = pickle.dumps((dict(current_context().baggage), trace))
    infinity = float("inf")
    limits = infinity if deadline is None else deadline, infinity if timeout is None else timeout
    return wire.CONTEXT.pack(*limits, len(pickled), trace is not None) + pickled


class Travelled(NamedTuple):
    """What arrives with a job."""

    deadline: float | None
    baggage: bytes  #: pickled, with the trace
    traced: bool
    size: int  #: of all in the payload

    @classmethod
    def read(cls, payload: bytes) -> Travelled:
        """Read the beginning of a payload whose job begins now.

        Raises:
            CorruptStream: it is too short.
        """
        if len(payload) < wire.CONTEXT.size:
            raise wire.CorruptStream(f"a context of {len(payload)} bytes")
        deadline, timeout, size, traced = wire.CONTEXT.unpack_from(payload)
        end = wire.CONTEXT.size + size
        if len(payload) < end:
            raise wire.CorruptStream(f"a context beyond its payload of {len(payload)} bytes")
        deadline = min(deadline, monotonic() + timeout)
        return cls(None if deadline == float("inf") else deadline, payload[wire.CONTEXT.size : end], traced, end)
