"""An instance of a component as Python code beside it sees it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import wasmtime

from ...component import wit
from ...component.names import Functions
from ...component.packing import Packing
from ...component.program import ComponentProgram
from ...component.values import Resource
from ...component.wrapper import Entry
from ..failures import seen_beside
from .holder import ComponentHolder


class ComponentInstance:
    """The instance that a shipped callable, or a step of ``start``, gets first.  Valid during that call.

    Attributes:
        exports: the exported functions by name, as callables that take and return what ``pool.call`` does.
    """

    def __init__(
        self, instances: ComponentHolder, program: ComponentProgram, exports: tuple[tuple[str, Entry], ...]
    ) -> None:
        self._instances = instances
        self._program = program
        self._names = [name for name, _ in exports]
        self._packings: dict[str, tuple[int, Packing]] = {}

    @cached_property
    def _functions(self) -> Functions:
        return Functions(self._program.world.exports)

    @cached_property
    def exports(self) -> Mapping[str, Callable[..., Any]]:
        functions = self._program.world.exports
        return MappingProxyType({each.name: functools.partial(self.call, each.name) for each in functions})

    def call(self, export: str, /, *args: Any) -> Any:
        """Call an export.

        Raises:
            LookupError: there is no such function.
            BadArguments, WasmResultError, WasmTrap, GuestExit: as ``pool.call``.
            Whatever a host function raised that it called.
        """
        index, packing = self._packing(self._functions.find(export))
        packed = packing.pack(args)
        try:
            function = self._instances.function(index)
            function.params[:] = packed
            self._instances.refuel()
            function.run()
        except wasmtime.WasmtimeError as error:
            raise seen_beside(error, self._instances.stages.of(error), export) from error
        return packing.unpack(function.results)

    def _resource(self, handle: int, resource: wit.Resource) -> Resource:
        return Resource(handle, resource, self, functools.partial(self._drop, resource))

    def _drop(self, resource: wit.Resource, handle: int) -> None:
        resources = wit.resources(self._program.world.exports)
        function = self._instances.function(len(self._program.world.exports) + resources.index(resource))
        function.params[:] = handle.to_bytes(8, "little")
        function.run()

    def _packing(self, function: wit.Function) -> tuple[int, Packing]:
        found = self._packings.get(function.name)
        if found is None:
            found = self._packings[function.name] = self._names.index(function.name), Packing(function, self._resource)
        return found
