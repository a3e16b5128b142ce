"""Python callables that run beside an instance in a worker."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle

from ... import wire
from ...wire import values
from ..worker import Worker
from .call import Job
from .pickled import PickledJob


class Shipped:
    """A callable ready to travel: its pickle, and the digest that stands for it after the first time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = getattr(function, "__qualname__", str(function))
        self.pickle = cloudpickle.dumps(function)
        self.digest = hashlib.blake2b(self.pickle, digest_size=16).digest()


class Shipper:
    """The callables seen so far.

    A function is pickled when it is first seen: what it refers to is sent as it was then.  Objects that cannot be
    weakly referenced or hashed are pickled each time.
    """

    def __init__(self) -> None:
        self._last: tuple[Any, Any] = None, None
        self._seen: weakref.WeakKeyDictionary[Any, Shipped] = weakref.WeakKeyDictionary()

    def ship(self, function: Callable[..., Any]) -> Shipped:
        """The callable in its travelling form.

        Raises:
            Whatever pickling it raises.
        """
        if function is self._last[0]:  # by far the commonest case, and half a microsecond less
            last: Shipped = self._last[1]
            return last
        try:
            shipped = self._seen.get(function)
            if shipped is None:
                shipped = self._seen[function] = Shipped(function)
        except TypeError:
            return Shipped(function)
        self._last = function, shipped
        return shipped


class ShippedCall(PickledJob):
    """One call of a shipped function.

    Large arguments go into a payload slot of the worker, of which it has as many as buffers for batches, and the two are
    counted together.
    """

    def __init__(self, function: Shipped, args: tuple[Any, ...], timeout: float | None, context: bytes) -> None:
        self._args = values.dump(args)
        super().__init__(function.name, self._args.pickle, timeout)
        self._function = function
        self._context = context
        self._carries = False
        self._size = self._args.size
        if 0 < self._size <= wire.PAYLOAD_BYTES:
            self.buffers = 1

    def place(self, worker: Worker) -> bytes:
        """The frame, with the function in it if this worker has not seen it."""
        function = self._function
        self._carries = function.digest not in worker.functions
        worker.functions.add(function.digest)
        code = function.pickle if self._carries else b""
        slot = worker.next_buffer
        if self.buffers:
            worker.next_buffer = (slot + 1) % wire.BUFFERS
            worker.batches += 1
        area = worker.payload(slot, self._size) if self.buffers else None
        args = self._args.inline() if area is None else self._args.place(slot, area)
        head = wire.SHIPPED_HEAD.pack(function.digest, len(code), worker.results_taken & 0xFFFFFFFF)
        payload = b"".join((self._context, head, code, args))
        flags = wire.HAS_CONTEXT if self._context else 0
        return wire.JOB.pack(len(payload), 0, wire.SHIPPED, flags) + payload

    def unplace(self, worker: Worker) -> None:
        # Jobs are taken back from the end, so none that relies on the function stays behind.
        if self._carries:
            worker.functions.discard(self._function.digest)
        if self.buffers:
            worker.batches -= 1
            worker.next_buffer = (worker.next_buffer - 1) % wire.BUFFERS

    def answered(self, worker: Worker, status: int, payload: bytes) -> list[Job]:
        left = super().answered(worker, status, payload)
        if self.buffers:
            worker.batches -= 1
            worker.give_up_payload(self._slot_of(worker), self._size)
        return left

    def _slot_of(self, worker: Worker) -> int:
        """The slot its arguments were in: jobs in flight use them in turn."""
        return (worker.next_buffer - worker.batches - 1) % wire.BUFFERS
