"""The instance as Python code beside it sees it: shipped callables, host functions, and the holder of a lease by wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import wasmtime

from ..binary import ExternType, FuncType, GlobalType, MemoryType, TableType
from ..checks import count, is_int, shown
from ..codec import Codec
from ..program import absent
from . import ffi
from .failures import seen_beside
from .holder import InstanceHolder

if TYPE_CHECKING:
    from ..bytes_function import CallTable

T = TypeVar("T")

#: In the largest memory that there can be, one of 64-bit addresses.
MOST_PAGES = 1 << 48


class Instance:
    """The instance that a shipped callable, or a host function that wants it, gets first.  Valid during that call.

    Attributes:
        exports: the exported functions by name, as callables that take and return what ``pool.call`` does.
        globals: the globals, exported or imported, by name; those that are mutable can be assigned.
    """

    def __init__(
        self,
        instances: InstanceHolder,
        exports: tuple[tuple[str, FuncType], ...],
        types: Mapping[str, ExternType],
    ) -> None:
        self._instances = instances
        self._exported = exports
        #: the types of exports, and of memories, tables and globals that are imported, by name
        self.types: Mapping[str, ExternType] = MappingProxyType(types)
        self.globals: MutableMapping[str, Any] = _InstanceGlobals(instances, types)

    # Made when first asked for: a worker that only runs exports has no use for them, and a module may have thousands.

    @cached_property
    def exports(self) -> Mapping[str, Callable[..., Any]]:
        return MappingProxyType({name: self._callable(name) for name, _ in self._exported})

    @cached_property
    def _codecs(self) -> dict[str, tuple[int, Codec]]:
        return {name: (index, Codec(name, type_)) for index, (name, type_) in enumerate(self._exported)}

    def call(self, export: str, /, *args: Any) -> Any:
        """Call an export.  Here it may take and return references too, as host functions do.

        Raises:
            LookupError: there is no such function.
            BadArguments, WasmTrap, WasmException, GuestExit: as ``pool.call``.  Whoever catches what the guest failed with
                may go on; the instance serves no other job.
            Whatever a host function raised that it called.
        """
        known = self._codecs.get(export)
        try:
            if known is None:
                return self._instances.call_with_references(export, args)
            index, codec = known
            function = self._instances.function(index)
            function.params[:] = codec.pack(args)
            if self._instances.fuelled:
                with self._instances.fuelled_anew():
                    function.run()
            else:
                function.run()
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise seen_beside(error, self._instances.stages.of(error), export) from error
        return codec.unpack(function.results)

    def arity(self, export: str) -> int:
        """How many parameters an export takes.

        Raises:
            LookupError: there is no such function.
        """
        try:
            return len(self._codecs[export][1].signature.params)
        except KeyError:
            raise LookupError(f"the module exports no function {export!r}") from None

    @cached_property
    def bytes_calls(self) -> CallTable:
        """How the module passes bytes and text, for :class:`BytesFunction`."""
        from ..bytes_function import CallTable

        return CallTable(self.types)

    @property
    def memory(self) -> memoryview:
        """The bytes of the exported memory named ``memory``, without a copy; see :meth:`memory_named`."""
        return self.memory_named("memory")

    def memory_named(self, name: str) -> memoryview:
        """The bytes of a memory, exported or imported, without a copy.

        Take it anew after a call that may have grown the memory: growth can move it.

        Raises:
            LookupError: the module has no such memory.
        """
        store, memory = self._memory(name)
        if isinstance(memory, wasmtime.SharedMemory):
            return ffi.view(memory.data_ptr(), memory.data_len())
        return ffi.view(memory.data_ptr(store), memory.data_len(store))

    def grow(self, pages: int, name: str = "memory") -> int:
        """Grow a memory by pages of 64 KiB; its size before, in pages.

        Raises:
            MemoryError: its maximum or ``memory_limit`` does not allow that.
            LookupError: the module has no such memory.
            ValueError: ``pages`` is no int from 0.
        """
        pages = min(count("pages", pages, 0), MOST_PAGES)  # of a larger number wasmtime would take the last 64 bits
        store, memory = self._memory(name)
        try:
            before: int = memory.grow(pages) if isinstance(memory, wasmtime.SharedMemory) else memory.grow(store, pages)
        except wasmtime.WasmtimeError as error:
            raise MemoryError(f"cannot grow {name!r} by {pages} pages: {error}") from None
        return before

    def element(self, table: str, index: int) -> Any:
        """What a table holds: an object, a Reference, or None.

        Raises:
            LookupError: the module has no such table, or the table no such element.
            TypeError: Python cannot hold references of its type, or the index is no int.
        """
        if not is_int(index):
            raise TypeError(f"an index of the table {table!r} is an int from 0, got {shown(index)}")
        return ffi.get_element(*self._table(table), index)

    def append(self, table: str, *values: Any) -> int:
        """Grow a table by values, which are what a host function may return; the index of the first.

        Raises:
            LookupError: the module has no such table.
            TypeError: a value does not fit.
            MemoryError: its maximum or ``memory_limit`` does not allow that.
            ValueError: there are no values.
        """
        if not values:
            raise ValueError("append takes at least one value")
        found = self._table(table)
        first, *_ = [ffi.append_element(*found, value) for value in values]
        return first

    def _table(self, name: str) -> tuple[wasmtime.Store, wasmtime.Table, str, str]:
        type_, store, table = _found(self._instances, self.types, TableType, "table", name)
        return store, table, f"the table {name!r}", type_.element

    def _memory(self, name: str) -> tuple[wasmtime.Store, Any]:
        return _found(self._instances, self.types, MemoryType, "memory", name)[1:]

    def _callable(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            return self.call(name, *args)

        call.__name__ = call.__qualname__ = name
        return call


def _found(
    instances: InstanceHolder, types: Mapping[str, ExternType], kind: type[T], what: str, name: str
) -> tuple[T, wasmtime.Store, Any]:
    """Its type, its store, and wasmtime's object for it.

    Raises:
        LookupError: there is no such thing; or not yet, for a host function that the start function calls.
        WasmTrap, GuestExit: the instance cannot be made.
    """
    type_ = types.get(name)
    if isinstance(type_, kind):
        try:
            store, found = instances.extern(name)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise seen_beside(error, instances.stages.of(error)) from error
        if found is not None:
            return type_, store, found
    raise LookupError(absent(types, kind, what, name))


class _InstanceGlobals(MutableMapping[str, Any]):
    def __init__(self, instances: InstanceHolder, types: Mapping[str, ExternType]) -> None:
        self._instances = instances
        self._types = types

    def __getitem__(self, name: str) -> Any:
        return ffi.get_global(*self._found(name))

    def __setitem__(self, name: str, value: Any) -> None:
        found = self._found(name)
        try:
            ffi.set_global(*found, value)
        except wasmtime.WasmtimeError as error:
            raise TypeError(f"cannot set the global {name!r} to {shown(value)}: {error}") from None

    def _found(self, name: str) -> tuple[wasmtime.Store, wasmtime.Global, str, str]:
        type_, store, found = _found(self._instances, self._types, GlobalType, "global", name)
        return store, found, f"the global {name!r}", type_.content

    def __delitem__(self, name: str) -> None:
        raise TypeError("an instance's globals cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        raise TypeError("name the global; an instance does not list them (pool.exports does)")

    def __len__(self) -> int:
        raise TypeError("name the global; an instance does not list them (pool.exports does)")
