"""The instance of the module that one of the worker's threads uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import wasmtime

from .. import wire
from ..binary import FuncType, GlobalType, MemoryType, TableType
from ..codec import SLOT
from . import ffi
from .arena import Arena
from .driver import Drivers, signature_of_driver
from .host import HostCalls, HostFunction

#: A table element takes a pointer.
_ELEMENT_BYTES = 8


class Function(NamedTuple):
    """An export ready to be called: write ``params``, call ``run``, read ``results``.  Both are views of one block."""

    params: memoryview
    run: Callable[[], None]
    results: memoryview


class Instances:
    """Hands out the exports of an instance that no failed call has touched.

    There is one instance at a time.  It is made on first use and reused until :meth:`discard`.  Host functions that want
    the calling instance get ``surface``, which finds the current one through us.
    """

    def __init__(
        self,
        engine: wasmtime.Engine,
        module: wasmtime.Module,
        settings: wire.Settings,
        environment: wire.Environment,
        arena: Arena,
    ) -> None:
        self._engine = engine
        self._module = module
        self._exports = settings.exports
        self._limits = settings.limits
        self._start = environment.start
        self.fuelled = settings.limits.fuel is not None
        # A driver takes an argument per column, and three of its own.
        self._slots = ffi.Slots(2 * settings.slots + 3)
        self._arena = arena
        self._drivers = Drivers(engine)
        self.calls = HostCalls()
        self.surface: Any = None
        self._environment = environment
        self._linker: wasmtime.Linker | None = None
        self._callbacks: list[Any] = []  # what the linker refers to by address
        self._instantiate: Callable[[wasmtime.Store], wasmtime.Instance] | None = None
        self._memory: wasmtime.Memory | None = None
        self._store: wasmtime.Store | None = None
        self._instance: wasmtime.Instance | None = None
        self._initial: dict[str, int] = {}  # sizes of the memories of a new instance, by name, where that matters
        #: the exports bound so far, by index; the job loop looks here first
        self.bound: dict[int, Function] = {}
        self._bound_drivers: dict[int, Function] = {}

    # -- making one ----------------------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Make the instance now, if there is none.

        Raises:
            wasmtime.Trap, wasmtime.WasmtimeError: it cannot be made, or its start function trapped.
            Whatever a host function raised that the start function called.
        """
        if self._instance is not None:
            return
        instantiate = self._instantiate or self._prepare()
        # A store keeps every instance ever made in it, so each instance has its own.
        self._store = wasmtime.Store(self._engine)
        # Any raise of the epoch from now on stops it; without a deadline it would trap at once.
        self._store.set_epoch_deadline(1)
        self.refuel()  # for the start function
        self._limit_memory()
        self.calls.failed = False
        self.calls.making = True
        try:
            self._instance = instantiate(self._store)
            self.calls.making = False
            for name in self._start:
                ffi.bind(self._store, self._instance, name, FuncType(), self._slots, self.calls)()
        except BaseException:
            cause = self.calls.take()
            self.discard()
            if cause is not None:
                raise cause from None
            raise
        finally:
            self.calls.making = False
        if self._limits.recycle is not None:
            self._initial = {name: memory.data_len(self._store) for name, memory in self._memories()}

    def _prepare(self) -> Callable[[wasmtime.Store], wasmtime.Instance]:
        """Do what needs to be done only once for all instances."""
        environment = self._environment
        linker = self._linker = wasmtime.Linker(self._engine)
        made: list[tuple[str, str, Any, Any]] = []  # imports of which each instance gets its own
        for (module, name), value in environment.imports.items():
            type_ = environment.types[module, name]
            if isinstance(type_, FuncType):
                function = HostFunction(module, name, type_, value)
                self._callbacks.append(ffi.define(linker, function, self.surface, self.calls))
            else:
                made.append((module, name, type_, value))
        if not made:
            self._instantiate = linker.instantiate_pre(self._module).instantiate
            return self._instantiate
        linker.allow_shadowing = True

        def instantiate(store: wasmtime.Store) -> wasmtime.Instance:
            for module, name, type_, value in made:
                linker.define(store, module, name, _made(store, type_, value))
            return linker.instantiate(store, self._module)

        self._instantiate = instantiate
        return instantiate

    def refuel(self) -> None:
        """Give the instance the fuel for one call."""
        if self._limits.fuel is not None and self._store is not None:
            self._store.set_fuel(self._limits.fuel)

    def _limit_memory(self) -> None:
        if self._limits.memory is not None and self._store is not None:
            most = self._limits.memory
            self._store.set_limits(memory_size=most, table_elements=most // _ELEMENT_BYTES)

    # -- using it ------------------------------------------------------------------------------------------------------

    def function(self, index: int) -> Function:
        """The export of that index, bound to the instance."""
        function = self.bound.get(index)
        if function is None:
            self.warm()
            assert self._store is not None and self._instance is not None
            name, signature = self._exports[index]
            function = self.bound[index] = self._bind(self._instance, name, signature)
        return function

    def driver(self, index: int) -> Function:
        """The driver of the export of that index, bound to the instance."""
        driver = self._bound_drivers.get(index)
        if driver is None:
            self.warm()
            assert self._store is not None and self._instance is not None
            if self._memory is None:
                self._store.set_limits()  # the arena is ours, not the guest's
                self._memory = self._arena.memory(self._store)
                self._limit_memory()
            name, signature = self._exports[index]
            export = ffi.export(self._store, self._instance, name)
            linked = self._drivers.link(self._store, signature, export, self._memory)
            driver = self._bound_drivers[index] = self._bind(linked, "run", signature_of_driver(signature))
        return driver

    def exported(self, name: str, kind: type[Any]) -> tuple[wasmtime.Store, Any]:
        """The instance's export of that name, and the store to use it with.

        Raises:
            LookupError: it has no such export of that kind.
        """
        if not self.calls.making:
            self.warm()
        assert self._store is not None
        if self._instance is not None:
            found = self._instance.exports(self._store).get(name)
        else:  # a host function called by the start function
            found = ffi.caller_export(self.calls.caller, name)
        if not isinstance(found, kind):
            raise LookupError(f"the module exports no {kind.__name__.lower()} {name!r}")
        return self._store, found

    def _memories(self) -> list[tuple[str, wasmtime.Memory]]:
        assert self._store is not None and self._instance is not None
        exports = self._instance.exports(self._store)
        return [(name, export) for name, export in exports.items() if isinstance(export, wasmtime.Memory)]

    # -- getting rid of it ---------------------------------------------------------------------------------------------

    def outgrown(self) -> bool:
        """Whether an exported memory has grown past the limit for reuse."""
        most = self._limits.recycle
        if most is None or self._store is None or self._instance is None:
            return False
        sizes = ((name, memory.data_len(self._store)) for name, memory in self._memories())
        return any(size > max(most, self._initial.get(name, 0)) for name, size in sizes)

    def discard(self) -> None:
        """Throw the instance away: the next use makes a new one."""
        self.bound.clear()
        self._bound_drivers.clear()
        store, self._store, self._instance, self._memory = self._store, None, None, None
        if store is not None:
            store.close()

    def _bind(self, instance: wasmtime.Instance, name: str, signature: FuncType) -> Function:
        assert self._store is not None
        run = ffi.bind(self._store, instance, name, signature, self._slots, self.calls)
        slots = self._slots.bytes
        return Function(slots[: len(signature.params) * SLOT], run, slots[: len(signature.results) * SLOT])


def _made(store: wasmtime.Store, type_: Any, value: Any) -> Any:
    """A new memory, table or global for one instance to import."""
    if isinstance(value, MemoryType):
        return wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(value.minimum, value.maximum)))
    if isinstance(value, TableType):
        element = wasmtime.ValType.funcref() if value.element == "funcref" else wasmtime.ValType.externref()
        return wasmtime.Table(store, wasmtime.TableType(element, wasmtime.Limits(value.minimum, value.maximum)), None)
    assert isinstance(type_, GlobalType)
    content = getattr(wasmtime.ValType, type_.content)()
    number = getattr(wasmtime.Val, type_.content)(value)
    return wasmtime.Global(store, wasmtime.GlobalType(content, type_.mutable), number)
