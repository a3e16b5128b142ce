"""The instance of the module that one of the worker's threads uses."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import wasmtime

from .. import wire
from ..binary import FuncType, MemoryType, once_each
from ..codec import SLOT
from ..raw import Slots
from ..wire import page
from . import ffi
from .arena import Arena
from .descriptors import check_descriptors
from .driver import Drivers, signature_of_driver
from .host import HostCalls
from .instantiator import Instantiator
from .made import Own
from .server import SIGNATURE, Servers
from .snapshot import Keeper, take
from .stages import Stages
from .streams import Streams
from .threads import ThreadGroup

logger: logging.Logger = logging.getLogger("procpool")

#: Live threads of an instance, where no WasiConfig says otherwise.
MAX_THREADS = 64
_FOR_EVER = 1 << 62  # ticks of the epoch, or units of fuel
#: A store is for one thread at a time, and the main thread may be in it now.
_NOT_ITS_OWN = (
    "this host function was called by another thread of the guest than the main one, whose instance it cannot use; what"
    " the threads share is there: the imported memory, by the name of its import"
)


class Function(NamedTuple):
    """An export ready to be called: write ``params``, call ``run``, read ``results``.  Both are views of one block."""

    params: memoryview
    run: Callable[[], None]
    results: memoryview


def waiter(servers: Servers, engine: wasmtime.Engine, arena: Arena, calls: HostCalls, fuelled: bool) -> Function:
    """A server for no exports, in a store of its own, which outlives all instances."""
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(_FOR_EVER)  # there is nothing to stop: it comes back by itself
    if fuelled:
        store.set_fuel(_FOR_EVER)
    slots = Slots(1)
    linked = servers.link(store, arena.head(store), {}, ())
    run = ffi.bind(store, linked, "serve", SIGNATURE, slots, calls)
    return Function(slots.bytes[:SLOT], run, slots.bytes[:SLOT])


class InstanceHolder:
    """Hands out the exports of an instance that no failed call has touched.

    There is one instance at a time.  It is made on first use and reused until :meth:`discard`.
    """

    def __init__(self, instantiator: Instantiator, settings: wire.Settings, arena: Arena, streams: Streams) -> None:
        self._instantiator = instantiator
        self._streams = streams
        self._exports = settings.exports
        program = instantiator.program
        self._imported = program.imported
        self._memory_names = [name for name, type_ in once_each(program.storage).items() if isinstance(type_, MemoryType)]
        self._limits = settings.limits
        self._start = instantiator.environment.start
        self._wasi = instantiator.environment.wasi
        self.fuelled: bool = settings.limits.fuel is not None
        # A driver takes an argument per column, and three of its own.
        self._slots = ffi.Slots(2 * settings.slots + 3)
        self._arena = arena
        self._drivers = {part.name: Drivers(instantiator.engine, part.interface.declared) for part in program.parts}
        self.calls: HostCalls = instantiator.calls
        self.stages: Stages = instantiator.stages
        self.threaded: bool = instantiator.threaded
        self._memory: wasmtime.Memory | None = None
        self._store: wasmtime.Store | None = None
        self._instance: wasmtime.Instance | None = None
        self._group: ThreadGroup | None = None
        self._exceptions: ffi.Exceptions | None = None
        self._own: Own = Own()  # the imports that were made for the instance
        self._sized: list[tuple[wasmtime.Memory, int]] = []  # its memories and first sizes, if they matter
        #: the exports bound so far, by index; the job loop looks here first
        self.bound: dict[int, Function] = {}
        self._bound_drivers: dict[int, Function] = {}
        self._servers = Servers(instantiator.engine)
        self.served: tuple[int, ...] = ()  #: the exports that the server calls
        self._server: Function | None = None
        self._head: wasmtime.Memory | None = None  # of this store: each mapping takes addresses until the store goes
        self._fresh = settings.guest.fresh
        self._restored = settings.guest.restored
        self._rewinds = self._restored and self._wasi is not None and instantiator.reads_files
        self._keeper: Keeper | None = None  # puts the instance back after each job
        self._check: tuple[wasmtime.Func, Any] | None = None  # the same, for the server to call

    # -- making one ----------------------------------------------------------------------------------------------------

    def warm(self) -> None:
        """Make the instance now, if there is none.

        Raises:
            wasmtime.Trap, wasmtime.WasmtimeError: it cannot be made, or its start function trapped.
            Whatever a host function raised that the start function called.
            RuntimeError: it is being made, and its start function has called who wants it.
        """
        if self._instance is not None:
            return
        if self.calls.making:
            raise RuntimeError("the instance is being made: until its start function is done, no export can be called")
        fds: list[int] = []
        wasi = None if self._wasi is None else self._streams.configuring(self._wasi, fds)
        try:
            self._store = self._instantiator.new_store(None if wasi is None else wasi())
            most = self._wasi.max_threads if self._wasi is not None else MAX_THREADS
            self._instance, self._group = self._instantiator.instantiate(self._store, wasi, most, self._own)
            self._exceptions = self._instantiator.exceptions(self._store, self._instance, self._own)
            for each in self._start:
                with self.stages.step(each.name, self.calls):
                    self._run(each.do)
            if self._restored and self._instantiator.snapshot is not None:
                make = functools.partial(
                    self._instantiator.snapshot.keeper, self._store, self._instantiator.placing(self._instance, self._own)
                )
                self._keeper = self._instantiator.unlimited(self._store, make)
        except BaseException:
            self.discard()
            raise
        finally:
            for fd in fds:
                os.close(fd)
        if self._limits.recycle is not None:
            found = [memory for name in self._memory_names if isinstance(memory := self.extern(name)[1], wasmtime.Memory)]
            self._sized = [(memory, memory.data_len(self._store)) for memory in found]

    def _run(self, do: wire.StartCall | wire.Capture | Callable[[Any], object]) -> None:
        """Do one thing in a new instance."""
        assert self._store is not None and self._instance is not None
        if isinstance(do, wire.Capture):
            self._capture(self._store, self._instance, do.fd)
            return
        if callable(do):
            do(self._instantiator.surface)
            return
        self._slots.bytes[: len(do.arguments)] = do.arguments
        self._bind(*self._instantiator.place(self._instance, self._own, do.export), do.signature).run()

    def _capture(self, store: wasmtime.Store, instance: wasmtime.Instance, fd: int) -> None:
        """Write a snapshot of the instance.

        Raises:
            BadSnapshot: something cannot be kept; names it.
        """
        if self.fuelled:
            store.set_fuel(_FOR_EVER)
        if self._wasi is not None:
            directories = [host for host, _, _ in self._wasi.preopens]
            check_descriptors(store, self._instantiator.beside, directories)
        with contextlib.closing(self._instantiator.new_store(None)) as other:
            own = Own()
            new, _ = self._instantiator.instantiate(other, None, 0, own, starts=False)
            place = self._instantiator.placing
            take((store, place(instance, self._own)), (other, place(new, own)), self._instantiator.program.inner, fd)

    @contextlib.contextmanager
    def fuelled_anew(self) -> Iterator[None]:
        """Fuel for a call within another, perhaps, which goes on afterwards with what it had left."""
        store = self._store
        assert store is not None
        left = store.get_fuel()
        self.refuel()
        try:
            yield
        finally:
            store.set_fuel(left)

    def refuel(self) -> None:
        """Give the instance the fuel for one call."""
        if self._limits.fuel is not None and self._store is not None:
            self._store.set_fuel(self._limits.fuel)

    # -- using it ------------------------------------------------------------------------------------------------------

    def function(self, index: int) -> Function:
        """The export of that index, bound to the instance.

        Raises:
            RuntimeError: the instance is another thread's, or being made.
        """
        if self.threaded and self._instantiator.in_thread:
            raise RuntimeError(_NOT_ITS_OWN)
        function = self.bound.get(index)
        if function is None:
            self.warm()
            assert self._store is not None and self._instance is not None
            name, signature = self._exports[index]
            function = self._bind(*self._instantiator.place(self._instance, self._own, name), signature)
            if self._group is not None:
                function = function._replace(run=self._group.watched(function.run))
            self.bound[index] = function
        return function

    def check(self, export: int, payload: bytes) -> None:
        """Whether a failed call can have been what the parent meant.

        Raises:
            CorruptStream: it cannot.
        """
        if export >= len(self._exports) or len(payload) != SLOT * len(self._exports[export][1].params):
            raise wire.CorruptStream(f"a call of export {export} with {len(payload)} bytes of arguments")

    def call_with_references(self, name: str, args: Sequence[Any]) -> Any:
        """Call an export that takes or returns references.

        Raises:
            LookupError: there is no such function.
            BadArguments: an argument does not fit.
            RuntimeError: the instance is another thread's, or being made.
            Whatever the call raises.
        """
        signature = self._instantiator.program.exports.get(name)
        if not isinstance(signature, FuncType):
            raise LookupError(f"the module exports no function {name!r}")
        if self.threaded:
            raise RuntimeError("in a module with threads, an export cannot take or return references")
        self.warm()
        assert self._store is not None and self._instance is not None
        place = self._instantiator.place(self._instance, self._own, name)
        with self.fuelled_anew() if self.fuelled else contextlib.nullcontext():
            return ffi.call_with_references(self._store, *place, signature, args, self.calls, self._exceptions)

    def driver(self, index: int) -> Function:
        """The driver of the export of that index, bound to the instance."""
        driver = self._bound_drivers.get(index)
        if driver is None:
            self.warm()
            assert self._store is not None and self._instance is not None
            if self._memory is None:
                self._memory = self._instantiator.unlimited(self._store, functools.partial(self._arena.memory, self._store))
            known, signature = self._exports[index]
            module, name = self._instantiator.program.places.get(known, (None, known))
            export = self._instantiator.find(self._store, self._instance, self._own, known)
            linked = self._drivers[module].link(self._store, name, signature, export, self._memory)
            driver = self._bound_drivers[index] = self._bind(linked, "run", signature_of_driver(signature))
        return driver

    def importable(self, index: int) -> bool:
        """Whether there is an export of that index that a server may import by its signature, and whose values fit."""
        if index >= len(self._exports):
            return False
        known, signature = self._exports[index]
        if not page.fits(SLOT * len(signature.params), SLOT * len(signature.results)):
            return False
        module, name = self._instantiator.program.places.get(known, (None, known))
        return self._drivers[module].importable(name)

    def serve(self, index: int) -> None:
        """From now on have the server call the export of that index too."""
        self.served = (*self.served, index)
        self._server = None

    def serve_none(self) -> None:
        """From now on have Python make all calls."""
        self.served = ()
        self._server = None

    def server(self) -> Function | None:
        """A server for those exports, bound to the instance; None if there is none, or no such export."""
        if self._server is None and self.served and self._instance is not None:
            assert self._store is not None
            if self._head is None:
                self._head = self._instantiator.unlimited(self._store, functools.partial(self._arena.head, self._store))
            found = [
                self._instantiator.find(self._store, self._instance, self._own, self._exports[index][0])
                for index in self.served
            ]
            signatures = {index: self._exports[index][1] for index in self.served}
            if self._restored and self._check is None:
                self._check = ffi.host_check(self._store, self._put_back)
            check = None if self._check is None else self._check[0]
            linked = self._servers.link(self._store, self._head, signatures, found, check)
            self._server = self._bind(linked, "serve", SIGNATURE)
        return self._server

    def waiter(self) -> Function:
        """A server for no exports."""
        return waiter(self._servers, self._instantiator.engine, self._arena, self.calls, self.fuelled)

    def extern(self, name: str) -> tuple[wasmtime.Store, Any]:
        """The store, and the instance's export of that name, or else the import that was made for it; None if neither.

        Raises:
            RuntimeError: the instance is another thread's, and what is asked for is no memory that they share.
        """
        if self.threaded and self._instantiator.in_thread:
            shared = self._import(name)
            if self._store is None or not isinstance(shared, wasmtime.SharedMemory):
                raise RuntimeError(_NOT_ITS_OWN)
            return self._store, shared
        if not self.calls.making:
            self.warm()
        assert self._store is not None
        if self._instance is not None:
            found = self._instantiator.find(self._store, self._instance, self._own, name)
        else:  # a host function called by the start function
            found = ffi.caller_export(self.calls.caller, name)
        return self._store, self._import(name) if found is None else found

    def _import(self, name: str) -> Any:
        names = self._imported.get(name)
        return None if names is None else self._own.imports.get(names)

    # -- giving way to another ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def giving_way(self) -> Iterator[Callable[[wasmtime.Store, Own, wasmtime.Instance | None], None]]:
        """Meanwhile, Python code sees another instance of the module, which somebody else makes, and not ours.

        Gives what to tell of it: its store, the imports made for it, and the instance when it is made.
        """
        ours = self._store, self._own, self._instance, self._exceptions, self._group, self.bound
        failed = self.calls.failed
        deterministic = self._instantiator.deterministic
        state = None if deterministic is None else deterministic.state

        def show(store: wasmtime.Store, own: Own, instance: wasmtime.Instance | None) -> None:
            self._store, self._own, self._instance = store, own, instance
            self._exceptions = None if instance is None else self._instantiator.exceptions(store, instance, own)
            self._group, self.bound = None, {}

        try:
            yield show
        finally:
            self._store, self._own, self._instance, self._exceptions, self._group, self.bound = ours
            if deterministic is not None and state is not None:
                deterministic.state = state
            self.calls.failed = failed  # a command that fails leaves ours as it was

    # -- getting rid of it ---------------------------------------------------------------------------------------------

    @property
    def settles(self) -> bool:
        """Whether there may be something to do after a job that went well."""
        return self._fresh or self._restored or self._limits.recycle is not None

    @property
    def served_by_wasm(self) -> bool:
        """Whether wasm may make calls, and Python need not see to the instance after each."""
        snapshot = self._instantiator.snapshot
        in_place = snapshot is not None and snapshot.in_place and not self._rewinds
        return not (self._fresh or self._limits.recycle is not None) and (in_place or not self._restored)

    def settle(self) -> None:
        """A job, or a lease, is over: see to it that the next one finds an instance as it should be."""
        if self._restored and self._put_back():
            self._streams.end_lines()
        elif self._fresh or self._restored or self.calls.failed or self.outgrown():
            self.discard_ended()
            self.discard()

    def _put_back(self) -> bool:
        """Have the instance be what the snapshot says; false if it cannot be, and has to go."""
        keeper, store = self._keeper, self._store
        if keeper is None or store is None or self.calls.failed:
            return False
        try:
            if self.fuelled:
                store.set_fuel(_FOR_EVER)
            if not keeper.restore():
                return False
            if self._rewinds:
                self._rewind(store)
            if self._instantiator.deterministic is not None:
                self._instantiator.deterministic.restart()
        except Exception:  # it was interrupted, say
            return False
        return True

    def _rewind(self, store: wasmtime.Store) -> None:
        """Give the instance a WASI with which nothing was done yet."""
        fds: list[int] = []
        assert self._wasi is not None
        try:
            store.set_wasi(self._streams.configure(self._wasi, fds))
        finally:
            for fd in fds:
                os.close(fd)

    def outgrown(self) -> bool:
        """Whether a memory has grown past the limit for reuse."""
        most, store = self._limits.recycle, self._store
        if most is None or store is None:
            return False
        return any(memory.data_len(store) > max(most, initial) for memory, initial in self._sized)

    def discard(self) -> None:
        """Throw the instance away: the next use makes a new one."""
        self.bound.clear()
        self._bound_drivers.clear()
        self._server = self._head = self._keeper = self._check = None
        self._own.clear()
        group, self._group = self._group, None
        if group is not None:
            group.close()
        store, self._store, self._instance, self._memory = self._store, None, None, None
        self._exceptions = None
        self._sized.clear()
        if store is not None:
            store.close()
        self._streams.end_lines()  # also those of its threads, which may print until they have ended

    def discard_ended(self) -> None:
        """Throw the instance away if a thread of it has failed, and no call for it: the next one is not to blame."""
        error = None if self._group is None else self._group.error
        if error is not None:
            logger.error("a thread of an instance failed, and no call for it; the instance is replaced", exc_info=error)
            self.discard()

    def _bind(self, instance: wasmtime.Instance, name: str, signature: FuncType) -> Function:
        assert self._store is not None
        run = ffi.bind(self._store, instance, name, signature, self._slots, self.calls, self._exceptions)
        slots = self._slots.bytes
        return Function(slots[: len(signature.params) * SLOT], run, slots[: len(signature.results) * SLOT])
