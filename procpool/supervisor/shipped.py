"""Python callables that run beside an instance in a worker."""

from __future__ import annotations

import hashlib
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle

from .. import wire
from .job import Job
from .worker import Worker


class Shipped:
    """A callable ready to travel: its pickle, and the digest that stands for it after the first time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = getattr(function, "__qualname__", repr(function))
        self.pickle = cloudpickle.dumps(function)
        self.digest = hashlib.blake2b(self.pickle, digest_size=16).digest()


class Functions:
    """The callables seen so far.

    A function is pickled when it is first seen: what it refers to is sent as it was then.  Objects that cannot be
    weakly referenced or hashed are pickled each time.
    """

    def __init__(self) -> None:
        self._seen: weakref.WeakKeyDictionary[Any, Shipped] = weakref.WeakKeyDictionary()

    def ship(self, function: Callable[..., Any]) -> Shipped:
        """The callable in its travelling form.

        Raises:
            Whatever pickling it raises.
        """
        try:
            shipped = self._seen.get(function)
            if shipped is None:
                shipped = self._seen[function] = Shipped(function)
        except TypeError:
            return Shipped(function)
        return shipped


class ShippedCall(Job):
    """One call of a shipped function."""

    success = wire.VALUE

    def __init__(self, function: Shipped, args: tuple[Any, ...], timeout: float | None) -> None:
        super().__init__(function.name, cloudpickle.dumps(args, protocol=pickle.HIGHEST_PROTOCOL), pickle.loads, timeout)
        self._function = function
        self._carries = False

    def place(self, worker: Worker) -> bytes:
        """The frame, with the function in it if this worker has not seen it."""
        function = self._function
        self._carries = function.digest not in worker.functions
        worker.functions.add(function.digest)
        code = function.pickle if self._carries else b""
        payload = wire.SHIPPED_HEAD.pack(function.digest, len(code)) + code + self.frame
        return wire.JOB.pack(len(payload), 0, wire.SHIPPED) + payload

    def unplace(self, worker: Worker) -> None:
        # Jobs are taken back from the end, so none that relies on the function stays behind.
        if self._carries:
            worker.functions.discard(self._function.digest)
