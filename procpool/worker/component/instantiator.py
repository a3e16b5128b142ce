"""How an instance of a component is made: its imports found, in a store of its own."""

from __future__ import annotations

from typing import Any

import wasmtime
from wasmtime.component import Component, Instance, Linker

from ... import wire
from ...component.program import ComponentProgram
from ..host import HostCalls
from ..stages import Stages
from ..traffic import Running

_MAKING = "making an instance of the component"
#: A table element takes a pointer.
_ELEMENT_BYTES = 8


class ComponentInstantiator:
    """Makes instances.  What is the same for all of them is done once, when the first is made."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        component: Component,
        program: ComponentProgram,
        limits: wire.GuestLimits,
        environment: wire.Environment,
        running: Running,
    ) -> None:
        self.engine = engine
        self.environment = environment
        self.program = program
        self.calls: HostCalls = HostCalls()
        self.stages: Stages = Stages()
        self.surface: Any = None  #: what Python code beside the instance gets
        self._component = component
        self._limits = limits
        self._running = running
        self._alive: list[Any] = []  # what the linker refers to by address
        self._linker: Linker | None = None

    def instantiate(self, wasi: wasmtime.WasiConfig | None) -> tuple[wasmtime.Store, Instance]:
        """A store, and an instance in it.

        Raises:
            Interrupted: the job that it is for is being interrupted.
            wasmtime.WasmtimeError: it cannot be made.
            Whatever a host function raised that was called meanwhile.
        """
        self.stages.forget()
        store = wasmtime.Store(self.engine)
        try:
            # Any raise of the epoch from now on stops it; without a deadline it would trap at once.
            store.set_epoch_deadline(1)
            self._running.check()
            limits = self._limits
            if limits.fuel is not None:
                store.set_fuel(limits.fuel)
            if wasi is not None:
                store.set_wasi(wasi)
            if limits.memory is not None:
                store.set_limits(memory_size=limits.memory, table_elements=limits.memory // _ELEMENT_BYTES)
            self.calls.failed = False
            self.calls.making = True
            try:
                if self._linker is None:
                    self._linker = self._new_linker()
                return store, self._linker.instantiate(store, self._component)
            except BaseException as error:
                cause = self.calls.take()
                self.stages.ended(cause or error, _MAKING)
                if cause is not None:
                    raise cause from None
                raise
            finally:
                self.calls.making = False
        except BaseException:
            store.close()
            raise

    def _new_linker(self) -> Linker:
        linker = Linker(self.engine)
        linker.allow_shadowing = True
        if self.environment.wasi is not None:
            linker.add_wasip2()
        if self.program.imports:
            from .hosting import define_imports  # most components have none

            self._alive = define_imports(linker, self.program, self.environment.imports, self.surface, self.calls)
        return linker
