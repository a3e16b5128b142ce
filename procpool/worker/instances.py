"""The worker's instances of the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import wasmtime

from .. import wire
from ..binary import FuncType
from ..codec import SLOT
from . import ffi
from .arena import Arena
from .driver import Drivers, signature_of_driver


class Function(NamedTuple):
    """An export ready to be called: write ``params``, call ``run``, read ``results``.  Both are views of one block."""

    params: memoryview
    run: Callable[[], None]
    results: memoryview


class Instances:
    """Hands out the exports of an instance that no failed call has touched.

    There is one instance at a time.  It is made on first use and reused until :meth:`discard`.
    """

    def __init__(
        self,
        engine: wasmtime.Engine,
        module: wasmtime.Module,
        exports: tuple[tuple[str, FuncType], ...],
        slots: int,
        limits: wire.GuestLimits,
        arena: Arena,
    ) -> None:
        self._engine = engine
        self._instantiate = wasmtime.Linker(engine).instantiate_pre(module).instantiate
        self._exports = exports
        self._limits = limits
        self.fuelled = limits.fuel is not None
        # A driver takes an argument per column, and three of its own.
        self._slots = ffi.Slots(2 * slots + 3)
        self._arena = arena
        self._drivers = Drivers(engine)
        self._memory: wasmtime.Memory | None = None
        self._store: wasmtime.Store | None = None
        self._instance: wasmtime.Instance | None = None
        #: the exports bound so far, by index; the job loop looks here first
        self.bound: dict[int, Function] = {}
        self._bound_drivers: dict[int, Function] = {}

    def warm(self) -> None:
        """Make the instance now, if there is none.

        Raises:
            wasmtime.Trap, wasmtime.WasmtimeError: it cannot be made, or its start function trapped.
        """
        if self._instance is None:
            # A store keeps every instance ever made in it, so each instance has its own.
            self._store = wasmtime.Store(self._engine)
            # Any raise of the epoch from now on stops it; without a deadline it would trap at once.
            self._store.set_epoch_deadline(1)
            self.refuel()  # for the start function
            self._limit_memory()
            self._instance = self._instantiate(self._store)

    def refuel(self) -> None:
        """Give the instance the fuel for one call."""
        if self._limits.fuel is not None and self._store is not None:
            self._store.set_fuel(self._limits.fuel)

    def _limit_memory(self) -> None:
        if self._limits.memory is not None and self._store is not None:
            self._store.set_limits(memory_size=self._limits.memory)

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

    def exported_memory(self, name: str) -> tuple[wasmtime.Store, wasmtime.Memory]:
        """The instance's memory of that name, and the store to use it with.

        Raises:
            LookupError: it exports no such memory.
        """
        self.warm()
        assert self._store is not None and self._instance is not None
        memory = self._instance.exports(self._store).get(name)
        if not isinstance(memory, wasmtime.Memory):
            raise LookupError(f"the module exports no memory {name!r}")
        return self._store, memory

    def discard(self) -> None:
        """Throw the instance away: the next use makes a new one."""
        self.bound.clear()
        self._bound_drivers.clear()
        store, self._store, self._instance, self._memory = self._store, None, None, None
        if store is not None:
            store.close()

    def _bind(self, instance: wasmtime.Instance, name: str, signature: FuncType) -> Function:
        assert self._store is not None
        run = ffi.bind(self._store, instance, name, signature, self._slots)
        slots = self._slots.bytes
        return Function(slots[: len(signature.params) * SLOT], run, slots[: len(signature.results) * SLOT])
