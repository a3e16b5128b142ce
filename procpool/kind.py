"""What a pool does otherwise for a core module than for something else that it can run."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from . import wire
from .binary import FuncType
from .checks import shown
from .codec import Codec
from .columns import ColumnCodec
from .compiled_program import CompiledProgram
from .errors import BadArguments
from .export_function import refuse
from .imports import resolve
from .job_context import capture
from .maps.course import Course
from .maps.export_map import ExportMap
from .maps.options import MapOptions
from .maps.sources import Given
from .options import PoolOptions
from .program import Names
from .start_steps import start_steps
from .supervisor.jobs.call import Callee, Export
from .warming import check_possible
from .wasi import check_command, check_deterministic, check_threads

if TYPE_CHECKING:
    from .component.program import CompiledComponent
    from .supervisor.dispatcher import Dispatcher


class Prepared(NamedTuple):
    """What is given to a program, checked, and ready to travel."""

    found: dict[tuple[str | None, Names], Any]  #: what serves its imports
    start: tuple[wire.Step, ...]
    warm: tuple[wire.Step, ...]


class Kind(Protocol):
    """What is compiled, as a pool sees it."""

    exports: Mapping[str, Any]  #: the types of what is exported, by name
    imports: tuple[Any, ...]  #: what is left to be given
    types: Mapping[str, Any]  #: of exports, and of memories, tables and globals that are imported, by name
    functions: dict[str, Callee]  #: that can be called, by name
    classes: Any  #: of the types of values, as attributes
    signatures: tuple[tuple[str, Any], ...]  #: what a worker has to know of these, by index

    def prepare(self, options: PoolOptions) -> Prepared:
        """Check what the user gives.

        Raises:
            MissingImport, BadImport, UnknownExport, BadArguments, BadWasi: something is missing, or does not fit.
        """

    def function(self, export: object) -> Callee:
        """The function that a name stands for.

        Raises:
            UnknownExport, BadArguments, TypeError: there is none that can be called.
        """

    def check_command(self) -> None:
        """Whether it can be run as a command.

        Raises:
            UnknownExport: it cannot.
        """

    def course(
        self, runner: Dispatcher, function: Callee, given: Given, options: MapOptions, visible: bool, owner: object
    ) -> Course[Any]:
        """A map of a function."""


class ModuleKind:
    """A core module, and those that are linked to it."""

    def __init__(self, compiled: CompiledProgram) -> None:
        self._compiled = compiled
        program = compiled.program
        self.exports: Mapping[str, Any] = MappingProxyType(program.exports)
        self.imports: tuple[Any, ...] = program.needed
        self.types: Mapping[str, Any] = {**program.storage, **program.exports}
        self.functions: dict[str, Callee] = {}
        self._refused: dict[str, BadArguments] = {}
        self.classes: Any = SimpleNamespace()
        signatures: list[tuple[str, FuncType]] = []
        for name, type_ in self.exports.items():
            if isinstance(type_, FuncType):
                try:
                    codec = Codec(name, type_)
                except BadArguments as refusal:
                    self._refused[name] = refusal
                    continue
                self.functions[name] = Export(len(signatures), codec)
                signatures.append((name, type_))
        self.signatures: tuple[tuple[str, Any], ...] = tuple(signatures)

    def prepare(self, options: PoolOptions) -> Prepared:
        program = self._compiled.program
        if options.snapshots:
            check_possible(self._compiled)
        for module, names in options.imports.items():
            if not isinstance(names, Mapping):
                raise TypeError(f"imports[{module!r}] must be a mapping, got {shown(names)}")
        found = resolve(
            self.imports,
            options.imports,
            options.rename_imports,
            options.wasi is not None,
            options.on_missing_import,
            {name: part.interface for name, part in program.linked.items()},
        )
        start = start_steps(options.start, self.exports)
        warm = start_steps(options.warm_steps, self.exports, "warm")
        check_threads(program)
        check_deterministic(program, options.wasi)
        return Prepared(found, start, warm)

    def function(self, export: object) -> Callee:
        found = self.functions.get(export) if isinstance(export, str) else None
        return found or refuse(export, self.functions, self._refused, self.exports)

    def check_command(self) -> None:
        check_command(self.exports)

    def course(
        self, runner: Dispatcher, function: Callee, given: Given, options: MapOptions, visible: bool, owner: object
    ) -> Course[Any]:
        export = function.core("map")
        return ExportMap(runner, export, given.source(ColumnCodec(export.codec)), options, capture(visible), owner)


def kind_of(compiled: CompiledProgram | CompiledComponent) -> Kind:
    """What a pool has to know of what was compiled for it."""
    if isinstance(compiled, CompiledProgram):
        return ModuleKind(compiled)
    from .component.kind import ComponentKind

    return ComponentKind(compiled)
