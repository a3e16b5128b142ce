"""Running Python callables that the parent sent."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from .. import wire
from ..errors import add_note
from ..wire import values
from .instance import Instance
from .payloads import Payloads

_LOCKED = (
    "the worker is locked by the pool's sandbox: it opens no files, and so imports no modules; have an initializer import "
    "them, or see sandbox="
)


class ShippedFunctions:
    """The functions that the parent has sent and not said to forget, by digest."""

    def __init__(self, surface: Instance, payloads: Payloads, locked: bool = False) -> None:
        self._functions: dict[bytes, Callable[..., Any] | _Unloaded] = {}
        self._surface = surface
        self._payloads = payloads
        self._locked = locked

    def run(self, payload: bytes, pickled: bool = True) -> bytes:
        """Run the call that ``payload`` describes; the payload of its result, which is a pickle or plain data.

        Raises:
            CorruptStream: it is none that our parent would send.
            Whatever unpickling the function or its arguments, running it, or pickling its result raises.
        """
        try:
            return self._run(payload, pickled)
        except (PermissionError, ImportError) as error:
            if self._locked:
                add_note(error, _LOCKED)
            raise

    def _run(self, payload: bytes, pickled: bool) -> bytes:
        digest, taken, start = self.learn(payload)
        function = self._functions.get(digest)
        if function is None:
            raise wire.CorruptStream("a call of a function that was not sent, or was to be forgotten")
        if isinstance(function, _Unloaded):
            function = self._functions[digest] = function.load()
        args = values.load(payload, self._payloads.slot, slots=values.ARGUMENTS, at=start)
        return self._payloads.result(function(self._surface, *args), taken, pickled)

    def learn(self, payload: bytes) -> tuple[bytes, int, int]:
        """Forget and learn what it says: afterwards the parent knows which functions are here, whatever the call does.

        Returns:
            The digest of the function to call, the large results taken so far, and where the arguments begin.
        """
        head = wire.SHIPPED_HEAD
        if len(payload) < head.size:
            raise wire.CorruptStream(f"a call of a Python function in {len(payload)} bytes")
        digest, size, taken, count = head.unpack_from(payload)
        code = head.size + count * wire.DIGEST_BYTES
        start = code + size
        if start > len(payload):
            raise wire.CorruptStream(f"a function of {size} bytes in a payload of {len(payload)}")
        for at in range(head.size, code, wire.DIGEST_BYTES):
            self._functions.pop(payload[at : at + wire.DIGEST_BYTES], None)
        if size:
            self._functions[digest] = _Unloaded(payload, code, start)
        return digest, taken, start


class _Unloaded:
    """A function that did not unpickle yet: if that fails, it fails for each call of it, not only for the first.

    It keeps the whole frame, as copying a part of it may take memory that there is not.
    """

    def __init__(self, payload: bytes, start: int, stop: int) -> None:
        self._payload = payload
        self._start = start
        self._stop = stop

    def load(self) -> Callable[..., Any]:
        function: Callable[..., Any] = pickle.loads(memoryview(self._payload)[self._start : self._stop])
        return function
