"""An instance of a component as Python code beside it sees it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import wasmtime

from ...component.callee import ComponentFunctions
from ...component.program import ComponentProgram
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

    @cached_property
    def _functions(self) -> ComponentFunctions:
        return ComponentFunctions(self._program)

    @cached_property
    def exports(self) -> Mapping[str, Callable[..., Any]]:
        return MappingProxyType({name: functools.partial(self.call, name) for name in self._names})

    def call(self, export: str, /, *args: Any) -> Any:
        """Call an export.

        Raises:
            LookupError: there is no such function.
            BadArguments, WasmResultError, WasmTrap, GuestExit: as ``pool.call``.
            Whatever a host function raised that it called.
        """
        known = self._functions.find(export)
        packed = known.pack(args)
        try:
            function = self._instances.function(known.index)
            function.params[:] = packed
            self._instances.refuel()
            function.run()
        except wasmtime.WasmtimeError as error:
            raise seen_beside(error, self._instances.stages.of(error), export) from error
        return known.unpack(function.results)
