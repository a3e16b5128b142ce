"""A component, as a pool sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import InvalidModule, UnknownExport
from ..job_context import capture
from ..kind import Prepared
from ..maps.callable_map import CallableMap
from ..maps.course import Course
from ..maps.options import MapOptions
from ..maps.sources import Given
from ..options import PoolOptions
from ..raw import RAW
from ..supervisor.jobs.call import Callee, Job
from .callee import ComponentFunctions
from .imports import resolve
from .program import CompiledComponent
from .refused import check_options
from .starting import start_steps
from .values import Types
from .wasi import RUN

if TYPE_CHECKING:
    from ..supervisor.dispatcher import Dispatcher


class ComponentKind:
    """See `procpool.kind.Kind`."""

    def __init__(self, compiled: CompiledComponent) -> None:
        if not RAW:
            raise InvalidModule("components need wasmtime-py's private names, not used here (PROCPOOL_PUBLIC_API, say)")
        program = compiled.program
        self._program = program
        self._world = program.world
        self._found = ComponentFunctions(program)
        self.functions: dict[str, Callee] = dict(self._found.by_name)
        self.signatures: tuple[tuple[str, Any], ...] = self._found.signatures
        self.exports: Mapping[str, Any] = MappingProxyType({each.name: each for each in self._world.exports})
        self.imports: tuple[Any, ...] = self._world.imports
        self.classes: Any = Types(self._world)
        self.types: Mapping[str, Any] = MappingProxyType({})

    def prepare(self, options: PoolOptions) -> Prepared:
        check_options(options)
        found = resolve(self._program, options.imports, options.wasi is not None, options.on_missing_import)
        return Prepared(found, start_steps(options.start, self._found), ())

    def function(self, export: object) -> Callee:
        return self._found.find(export)

    def check_command(self) -> None:
        if not any(map(RUN.fullmatch, self.exports)):
            raise UnknownExport("the component is no command: it exports no wasi:cli/run; is it a library, to be called?")

    def course(
        self, runner: Dispatcher, function: Callee, given: Given, options: MapOptions, visible: bool, owner: object
    ) -> Course[Any]:
        limit, retries = options.item_timeout, runner.retries

        def make(row: Iterable[Any]) -> Job:
            job = function.job(tuple(row), capture(visible, limit), limit)
            job.retries = retries
            return job

        return CallableMap(runner, make, given.rows(), given.total, options, owner)
