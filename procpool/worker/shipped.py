"""Running Python callables that the parent sent, and the instance they see."""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import cloudpickle

from .. import wire
from ..binary import FuncType
from ..codec import Codec
from .instances import Instances


class Instance:
    """The instance that a shipped callable gets as its first argument.  Valid during that call.

    Attributes:
        exports: the exported functions by name, as callables that take and return what ``pool.call`` does.
    """

    def __init__(self, instances: Instances, codecs: dict[str, tuple[int, Codec]]) -> None:
        self._instances = instances
        self._codecs = codecs
        self.exports = MappingProxyType({name: self._callable(name) for name in codecs})

    def call(self, export: str, /, *args: Any) -> Any:
        """Call an export.

        Raises:
            LookupError: there is no such function.
            BadArguments, WasmTrap: as ``pool.call``.
        """
        try:
            index, codec = self._codecs[export]
        except KeyError:
            raise LookupError(f"the module exports no function {export!r}") from None
        function = self._instances.function(index)
        function.params[:] = codec.pack(args)
        if self._instances.fuelled:
            self._instances.refuel()
        function.run()
        return codec.unpack(function.results)

    @property
    def memory(self) -> memoryview:
        """The bytes of the exported memory named ``memory``, without a copy.

        Take it anew after a call that may have grown the memory: growth can move it.

        Raises:
            LookupError: the module exports no such memory.
        """
        store, memory = self._instances.exported_memory("memory")
        size = memory.data_len(store)
        address = ctypes.cast(memory.data_ptr(store), ctypes.c_void_p).value
        if not size or address is None:
            return memoryview(bytearray())
        return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")

    def _callable(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            return self.call(name, *args)

        call.__name__ = call.__qualname__ = name
        return call


class Functions:
    """The functions that the parent has sent, by digest."""

    def __init__(self, instances: Instances, exports: tuple[tuple[str, FuncType], ...]) -> None:
        self._functions: dict[bytes, Callable[..., Any]] = {}
        self._instance = Instance(instances, {name: (n, Codec(name, type_)) for n, (name, type_) in enumerate(exports)})

    def run(self, payload: bytes) -> bytes:
        """Run the call that ``payload`` describes; its pickled result."""
        digest, size = wire.SHIPPED_HEAD.unpack_from(payload)
        start = wire.SHIPPED_HEAD.size + size
        if size:
            self._functions[digest] = _Unloaded(payload[wire.SHIPPED_HEAD.size : start])
        function = self._functions[digest]
        if isinstance(function, _Unloaded):
            function = self._functions[digest] = function.load()
        args = pickle.loads(payload[start:])
        result: bytes = cloudpickle.dumps(function(self._instance, *args), protocol=pickle.HIGHEST_PROTOCOL)
        return result


class _Unloaded:
    """A function that did not unpickle yet: if that fails, it fails for each call of it, not only for the first."""

    def __init__(self, code: bytes) -> None:
        self._code = code

    def load(self) -> Callable[..., Any]:
        function: Callable[..., Any] = pickle.loads(self._code)
        return function

    def __call__(self, *args: Any) -> Any:
        raise AssertionError("load it first")
