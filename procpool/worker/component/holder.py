"""The instance of a component that one of the worker's threads uses."""

from __future__ import annotations

import os

import wasmtime
from wasmtime.component import Instance

from ... import wire
from ...component.entry import Entry
from ..arena import Arena
from ..ffi.components import ComponentFunction
from ..holder import Function, waiter
from ..host import HostCalls
from ..server import Servers
from ..stages import Stages
from ..streams import Streams
from .instantiator import ComponentInstantiator


class ComponentHolder:
    """Hands out the exports of an instance that no failed call has touched, as `InstanceHolder` does for a module.

    A component that has trapped cannot be entered again, so whatever fails ends the instance.
    """

    threaded: bool = False  #: components have no threads
    served_by_wasm: bool = False  #: the canonical ABI is wasmtime's, so no module of ours can make a call
    served: tuple[int, ...] = ()

    def __init__(
        self, instantiator: ComponentInstantiator, settings: wire.Settings, arena: Arena, streams: Streams
    ) -> None:
        self._instantiator = instantiator
        self._entries: tuple[tuple[str, Entry], ...] = settings.exports
        self._fresh = settings.guest.fresh
        self._fuel = settings.limits.fuel
        self._arena = arena
        self._streams = streams
        self._start = instantiator.environment.start
        self._store: wasmtime.Store | None = None
        self._instance: Instance | None = None
        self._servers = Servers(instantiator.engine)
        self.fuelled: bool = settings.limits.fuel is not None
        self.calls: HostCalls = instantiator.calls
        self.stages: Stages = instantiator.stages
        #: the exports bound so far, by index; the job loop looks here first
        self.bound: dict[int, ComponentFunction] = {}

    def warm(self) -> None:
        """Make the instance now, if there is none.

        Raises:
            wasmtime.WasmtimeError: it cannot be made, or trapped.
            Whatever a host function raised, or a step of ``start``.
            RuntimeError: it is being made, and who wants it is called by that.
        """
        if self._instance is not None:
            return
        if self.calls.making:
            raise RuntimeError("the instance is being made: until that is done, no export can be called")
        fds: list[int] = []
        wasi = self._instantiator.environment.wasi
        try:
            config = None if wasi is None else self._streams.configure(wasi, fds)
            self._store, self._instance = self._instantiator.instantiate(config)
            for each in self._start:
                with self.stages.step(each.name, self.calls):
                    self._run(each.do)
        except BaseException:
            self.discard()
            raise
        finally:
            for fd in fds:
                os.close(fd)

    def _run(self, do: object) -> None:
        if isinstance(do, wire.StartCall):
            function = self._function(do.export)
            function.params[:] = do.arguments
            function.run()
        elif callable(do):
            do(self._instantiator.surface)

    def _function(self, name: str) -> ComponentFunction:
        return self.function([known for known, _ in self._entries].index(name))

    def function(self, index: int) -> ComponentFunction:
        """The export of that index, bound to the instance."""
        function = self.bound.get(index)
        if function is None:
            self.warm()
            assert self._store is not None and self._instance is not None
            _, entry = self._entries[index]
            function = self.bound[index] = ComponentFunction(self._store, self._instance, entry, self.calls)
        return function

    def check(self, export: int, payload: bytes) -> None:
        """Whether a failed call can have been what the parent meant.

        Raises:
            CorruptStream: it cannot.
        """
        if export >= len(self._entries):
            raise wire.CorruptStream(f"a call of export {export}")
        entry = self._entries[export][1]
        if not entry.image and len(payload) != 8 * len(entry.params):
            raise wire.CorruptStream(f"a call of export {export} with {len(payload)} bytes of arguments")

    def refuel(self) -> None:
        """Give the instance the fuel for one call."""
        if self._fuel is not None and self._store is not None:
            self._store.set_fuel(self._fuel)

    def importable(self, index: int) -> bool:
        """Whether wasm may call that export; see `served_by_wasm`."""
        return False

    def server(self) -> None:
        """There is none; see `served_by_wasm`."""

    def waiter(self) -> Function:
        """What waits in the page for the next call."""
        return waiter(self._servers, self._instantiator.engine, self._arena, self.calls, self.fuelled)

    # -- getting rid of it ---------------------------------------------------------------------------------------------

    @property
    def settles(self) -> bool:
        """Whether there may be something to do after a job that went well."""
        return self._fresh

    def settle(self) -> None:
        """A job, or a lease, is over: see to it that the next one finds an instance as it should be."""
        if self._fresh or self.calls.failed:
            self.discard()

    def discard(self) -> None:
        """Throw the instance away: the next use makes a new one."""
        self.bound.clear()
        store, self._store, self._instance = self._store, None, None
        if store is not None:
            store.close()
        self._streams.end_lines()

    def discard_ended(self) -> None:
        """No thread of an instance can have failed."""
