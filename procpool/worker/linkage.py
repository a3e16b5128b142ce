"""How an instance of the module is made: its imports found, in a store of its own."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import wasmtime

from .. import wire
from ..binary import Declared, FuncType, MemoryType
from ..errors import GuestExit
from ..wasi import MODULES, PROC_EXIT, THREAD_SPAWN
from . import ffi
from .channels import Running
from .host import HostCalls, HostFunction
from .made import Made, Own, instantiate_with
from .threads import ThreadGroup

#: A table element takes a pointer.
_ELEMENT_BYTES = 8


class Linkage:
    """Makes instances.  What is the same for all of them is done once, when the first is made."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        module: wasmtime.Module,
        limits: wire.GuestLimits,
        declared: Declared,
        environment: wire.Environment,
        running: Running,
        tags: Sequence[str],
    ) -> None:
        self.engine = engine
        self.module = module
        self.environment = environment
        self.limits: wire.GuestLimits = limits
        self.types: ffi.ImportTypes = ffi.ImportTypes(module)
        self.tags: Sequence[str] = tags  #: those of exceptions that the module exports
        self._declared = declared
        self._running = running
        self.calls: HostCalls = HostCalls()
        self.surface: Any = None  #: what host functions get that want the calling instance
        self.groups: set[ThreadGroup] = set()  #: of threads that live
        self.threads: set[int] = set()  #: identifiers of those that groups have started
        self.doomed = False  #: threads are left that nothing but the end of the process can end
        #: told by a thread that has ended its group, when the main thread does not notice: it sits in a host call
        self.on_stuck: Callable[[BaseException], object] | None = None
        self._callbacks: list[Any] = []  # what the linker refers to by address
        self._compiled: dict[str, wasmtime.Module] = {}
        self._instantiate: Callable[[wasmtime.Store, Own], wasmtime.Instance] | None = None
        self.threaded: bool = THREAD_SPAWN in environment.types or any(
            isinstance(type_, MemoryType) and type_.shared for type_ in environment.types.values()
        )

    @property
    def in_thread(self) -> bool:
        """Whether the calling thread is one that a group has started, and so not the main one of its instance."""
        return threading.get_ident() in self.threads

    def compiled(self, text: str) -> wasmtime.Module:
        """A module of our own, compiled when it is first needed."""
        if text not in self._compiled:
            self._compiled[text] = wasmtime.Module(self.engine, text)
        return self._compiled[text]

    def new_store(self, wasi: wasmtime.WasiConfig | None) -> wasmtime.Store:
        """A store for one instance; a store keeps every instance ever made in it.

        Raises:
            Interrupted: the job that it is for is being interrupted.
        """
        store = wasmtime.Store(self.engine)
        ffi.mark(store)
        # Any raise of the epoch from now on stops it; without a deadline it would trap at once.
        store.set_epoch_deadline(1)
        self._running.check()
        if self.limits.fuel is not None:
            store.set_fuel(self.limits.fuel)  # for the start function
        if wasi is not None:
            store.set_wasi(wasi)
        self.limit_memory(store)
        return store

    def limit_memory(self, store: wasmtime.Store) -> None:
        """Bound what the guest's memories and tables in that store may grow to."""
        if self.limits.memory is not None:
            store.set_limits(memory_size=self.limits.memory, table_elements=self.limits.memory // _ELEMENT_BYTES)

    def instantiate(
        self,
        store: wasmtime.Store,
        wasi: Callable[[], wasmtime.WasiConfig] | None,
        max_threads: int,
        own: Own,
    ) -> tuple[wasmtime.Instance, ThreadGroup | None]:
        """An instance, and the group of its threads if the module has such.

        Args:
            store: for it alone.
            wasi: what makes the configuration of a thread.
            max_threads: how many there may be.
            own: gets the imports that were made for it, by name, before anything of it runs.

        Raises:
            wasmtime.Trap, wasmtime.WasmtimeError: it cannot be made, or its start function trapped.
            Whatever a host function raised that the start function called.
        """
        self.calls.failed = False
        self.calls.making = True
        try:
            if self.threaded:
                group = ThreadGroup(self, wasi, max_threads)
                try:
                    return group.instantiate(store, own), group
                except BaseException:
                    group.close()
                    raise
            return (self._instantiate or self._prepare())(store, own), None
        except BaseException as error:
            cause = self.calls.take()
            if cause is not None:
                raise cause from None
            ffi.Exceptions(store, None, self.tags).mark(error)
            raise
        finally:
            self.calls.making = False

    def new_linker(self, calls: HostCalls) -> tuple[wasmtime.Linker, list[Any], list[Made]]:
        """A linker with WASI and the host functions, what must live as long, and the imports made for each instance."""
        linker = wasmtime.Linker(self.engine)
        callbacks: list[Any] = []
        made: list[Made] = []
        if self.environment.wasi is not None:
            linker.define_wasi()
            linker.allow_shadowing = True
            for module in MODULES:
                if (module, PROC_EXIT) in self.environment.types:
                    own = HostFunction(module, PROC_EXIT, FuncType(("i32",)), _exit)
                    callbacks.append(ffi.define(linker, self.types, own, None, calls, declared=False))
        for (module, name), value in self.environment.imports.items():
            type_ = self.environment.types[module, name]
            if isinstance(type_, FuncType):
                function = HostFunction(module, name, type_, value)
                declared = (module, name) in self._declared.imports
                callbacks.append(ffi.define(linker, self.types, function, self.surface, calls, declared))
            else:
                made.append(Made(module, name, type_, value, self.types.of(module, name)))
        return linker, callbacks, made

    def _prepare(self) -> Callable[[wasmtime.Store, Own], wasmtime.Instance]:
        linker, self._callbacks, made = self.new_linker(self.calls)
        if made:
            linker.allow_shadowing = True
            self._instantiate = functools.partial(instantiate_with, linker, made, self.module)
        else:
            prepared = linker.instantiate_pre(self.module)
            self._instantiate = lambda store, _own: prepared.instantiate(store)
        return self._instantiate


def _exit(code: int) -> NoReturn:
    """WASI's proc_exit.  wasmtime's own traps for codes above 125."""
    raise GuestExit(code & 0xFFFFFFFF)
