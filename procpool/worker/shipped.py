"""Running Python callables that the parent sent."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from .. import wire
from ..wire import values
from .instance import Instance
from .payloads import Payloads


class ShippedFunctions:
    """The functions that the parent has sent, by digest."""

    def __init__(self, surface: Instance, payloads: Payloads) -> None:
        self._functions: dict[bytes, Callable[..., Any]] = {}
        self._surface = surface
        self._payloads = payloads

    def run(self, payload: bytes) -> bytes:
        """Run the call that ``payload`` describes; the payload of its result."""
        digest, size, taken = wire.SHIPPED_HEAD.unpack_from(payload)
        start = wire.SHIPPED_HEAD.size + size
        if size:
            self._functions[digest] = _Unloaded(payload[wire.SHIPPED_HEAD.size : start])
        function = self._functions[digest]
        if isinstance(function, _Unloaded):
            function = self._functions[digest] = function.load()
        args = values.load(memoryview(payload)[start:], self._payloads.slot)
        return self._payloads.result(function(self._surface, *args), taken)


class _Unloaded:
    """A function that did not unpickle yet: if that fails, it fails for each call of it, not only for the first."""

    def __init__(self, code: bytes) -> None:
        self._code = code

    def load(self) -> Callable[..., Any]:
        function: Callable[..., Any] = pickle.loads(self._code)
        return function

    def __call__(self, *args: Any) -> Any:
        raise AssertionError("load it first")
