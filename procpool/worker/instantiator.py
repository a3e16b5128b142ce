"""How an instance of the program is made: its imports found, in a store of its own."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import wasmtime

from .. import wire
from ..binary import FuncType, Import, is_shared
from ..errors import GuestExit
from ..program import Program
from ..wasi import MODULES, PROC_EXIT, STATELESS, THREAD_SPAWN, WRITES
from . import ffi
from .assembly import Assembly
from .deterministic import Deterministic
from .host import HostCalls
from .made import Own
from .snapshot import Place, Snapshot
from .stages import Stages
from .threads import ThreadGroup
from .traffic import Running

T = TypeVar("T")

#: A table element takes a pointer.
_ELEMENT_BYTES = 8


class Instantiator:
    """Makes instances.  What is the same for all of them is done once, when the first is made."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        modules: Sequence[wasmtime.Module],
        program: Program,
        limits: wire.GuestLimits,
        environment: wire.Environment,
        running: Running,
    ) -> None:
        self.engine = engine
        self.modules = modules  #: those of the program, in its order
        self.program = program
        self.environment = environment
        self.limits: wire.GuestLimits = limits
        self._running = running
        self._tags = program.tags
        self._places = program.places | program.inner_places
        self.calls: HostCalls = HostCalls()
        self.stages: Stages = Stages()
        self.surface: Any = None  #: what host functions get that want the calling instance
        self.groups: set[ThreadGroup] = set()  #: of threads that live
        self.threads: set[int] = set()  #: identifiers of those that groups have started
        self.doomed = False  #: threads are left that nothing but the end of the process can end
        #: told by a thread that has ended its group, when the main thread does not notice: it sits in a host call
        self.on_stuck: Callable[[BaseException], object] | None = None
        self.snapshot: Snapshot | None = None  #: what new instances begin as, if not as the module says
        spec = environment.wasi
        #: what serves clocks and random numbers; None if wasmtime does
        self.deterministic: Deterministic | None = None
        if spec is not None and (spec.clock is not None or spec.random_seed is not None):
            self.deterministic = Deterministic(spec)
        self._compiled: dict[str, wasmtime.Module] = {}
        self._assembly: Assembly | None = None
        self.threaded: bool = any(each.names == THREAD_SPAWN or is_shared(each.type) for each in program.needed)

    @property
    def _instead(self) -> dict[str, tuple[FuncType, Callable[..., int]]]:
        return {} if self.deterministic is None else self.deterministic.functions

    @property
    def prints(self) -> bool:
        """Whether a module of the program can print."""
        return any(each.module in MODULES and each.name in WRITES for each in self.program.needed)

    @property
    def reads_files(self) -> bool:
        """Whether a module of the program can do something that later calls of WASI show."""
        return any(each.module in MODULES and each.name not in STATELESS for each in self.program.needed)

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

    def exceptions(self, store: wasmtime.Store, instance: wasmtime.Instance, own: Own) -> ffi.Exceptions:
        """Takes what that instance throws and does not catch."""
        return ffi.Exceptions(
            store, {known: functools.partial(self.find, store, instance, own, known) for known in self._tags}
        )

    def find(self, store: wasmtime.Store, instance: wasmtime.Instance, own: Own, name: str) -> Any:
        """What is exported under that name, by the instance or a linked one; None if there is no such thing."""
        return ffi.find(store, *self.place(instance, own, name))

    def place(self, instance: wasmtime.Instance, own: Own, name: str) -> tuple[wasmtime.Instance, str]:
        """Whose export is known under that name, and its own name."""
        found = self._places.get(name)
        return (instance, name) if found is None else (own.linked[found[0]], found[1])

    def placing(self, instance: wasmtime.Instance, own: Own) -> Place:
        """Likewise, of that instance's."""
        return functools.partial(self.place, instance, own)

    def limit_memory(self, store: wasmtime.Store) -> None:
        """Bound what the guest's memories and tables in that store may grow to."""
        if self.limits.memory is not None:
            store.set_limits(memory_size=self.limits.memory, table_elements=self.limits.memory // _ELEMENT_BYTES)

    def beside(self, store: wasmtime.Store, text: str) -> wasmtime.Instance:
        """An instance of a module of ours that imports what the main module of an instance in that store could."""
        assert self._assembly is not None
        linker, module = self._assembly.members[-1].linker, self.compiled(text)
        return self.unlimited(store, lambda: linker.instantiate(store, module))

    def unlimited(self, store: wasmtime.Store, make: Callable[[], T]) -> T:
        """Make what is ours, and not the guest's, in a store."""
        store.set_limits()
        try:
            return make()
        finally:
            self.limit_memory(store)

    def instantiate(
        self,
        store: wasmtime.Store,
        wasi: Callable[[], wasmtime.WasiConfig] | None,
        max_threads: int,
        own: Own,
        starts: bool = True,
    ) -> tuple[wasmtime.Instance, ThreadGroup | None]:
        """An instance, and the group of its threads if the module has such.

        Args:
            store: for it alone.
            wasi: what makes the configuration of a thread.
            max_threads: how many there may be.
            own: gets the imports that were made for it, by name, before anything of it runs.
            starts: start functions run, unless a snapshot has them behind it.

        Raises:
            wasmtime.Trap, wasmtime.WasmtimeError: it cannot be made, or its start function trapped.
            Whatever a host function raised that the start function called.
        """
        self.stages.forget()
        if self.deterministic is not None:
            self.deterministic.restart()
        self.calls.failed = False
        self.calls.making = True
        try:
            if self.threaded:
                group = ThreadGroup(self, wasi, max_threads)
                try:
                    return group.instantiate(store, own, True), group
                except BaseException:
                    group.close()
                    raise
            if self._assembly is None:
                self._assembly = self.new_assembly()
            instance = self._assembly.instantiate(store, own, starts and self.snapshot is None)
            if self.snapshot is not None:
                self.snapshot.begin(store, self.placing(instance, own))
            return instance, None
        except BaseException as error:
            cause, stage = self.calls.take(), self.stages.of(error)
            if cause is not None:
                if stage is not None:
                    self.stages.ended(cause, stage)
                raise cause from None
            ffi.Exceptions(store).mark(error)
            raise
        finally:
            self.calls.making = False

    def new_assembly(self) -> Assembly:
        """The modules with WASI and the host functions."""
        assembly = Assembly(self.engine, zip(self.program.parts, self.modules, strict=True), self.calls, self.stages)
        for member in assembly.members:
            if self.environment.wasi is not None:
                member.linker.define_wasi()
                for module in MODULES:
                    if (module, PROC_EXIT) in member.left:
                        assembly.serve(member, Import(module, PROC_EXIT, FuncType(("i32",))), _exit)
                    for name, (type_, function) in self._instead.items():
                        if (module, name) in member.left:
                            assembly.serve(member, Import(module, name, type_), function, self.surface)
            for names, needed in member.left.items():
                given = member.part.name, names
                if given not in self.environment.imports:
                    continue  # it is WASI's
                value = self.environment.imports[given]
                if isinstance(needed.type, FuncType):
                    assembly.serve(member, needed, value, self.surface)
                elif not is_shared(needed.type):  # of those, a group makes one for all its threads
                    assembly.make(member, names, value)
        return assembly


def _exit(code: int) -> NoReturn:
    """WASI's proc_exit.  wasmtime's own traps for codes above 125."""
    raise GuestExit(code & 0xFFFFFFFF)
