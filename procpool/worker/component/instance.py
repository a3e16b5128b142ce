"""An instance of a component as Python code beside it sees it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import wasmtime

from ...component.program import ComponentProgram
from ..failures import seen_beside
from .holder import ComponentHolder

if TYPE_CHECKING:
    from .functions import BesideFunctions


class ComponentInstance:
    """The instance that a shipped callable, or a step of ``start``, gets first.  Valid during that call.

    Attributes:
        exports: the exported functions by name, as callables that take and return what ``pool.call`` does.
    """

    def __init__(self, instances: ComponentHolder, program: ComponentProgram) -> None:
        self._instances = instances
        self._program = program
        self._waits = 0  # for how many host functions

    @cached_property
    def _functions(self) -> BesideFunctions:
        from .functions import BesideFunctions

        return BesideFunctions(self._instances, self._program.world, self)

    @cached_property
    def exports(self) -> Mapping[str, Callable[..., Any]]:
        functions = self._program.world.exports
        return MappingProxyType({each.name: functools.partial(self.call, each.name) for each in functions})

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The instance waits for a host function meanwhile."""
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1

    def call(self, export: str, /, *args: Any) -> Any:
        """Call an export.

        Raises:
            LookupError: there is no such function.
            RuntimeError: the instance waits for a host function, and a component cannot be entered meanwhile.
            BadArguments, WasmResultError, WasmTrap, GuestExit: as ``pool.call``.
            Whatever a host function raised that it called.
        """
        index, packing = self._functions.find(export)
        packed = packing.pack(args)
        if self._waits:  # it would write over what the call before has in the wrapper
            raise RuntimeError(
                f"{export} cannot be called by a host function: a component that waits for one cannot be entered"
            )
        try:
            function = self._instances.function(index)
            function.params[:] = packed
            self._instances.refuel()
            function.run()
        except wasmtime.WasmtimeError as error:
            raise seen_beside(error, self._instances.stages.of(error), export) from error
        return packing.unpack(function.results)
