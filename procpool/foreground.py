"""A WASI command that runs in this very process, which then is the program as far as anybody outside can tell."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn

import wasmtime

from . import wire
from .compilation import Announce, compile_module, unheard
from .engine import EngineSettings, Feature, checked_features, loading_engine, mapped
from .errors import GuestExit, MissingImport, WasmTrap, add_note
from .imports import OnMissing, resolve
from .module import ModuleSource
from .program import single
from .wasi import WasiConfig, check_command, check_threads
from .worker.failures import as_trap, raised_by
from .worker.instantiator import Instantiator
from .worker.streams import surroundings
from .worker.traffic import Running
from .worker.wasi_run import run_start

if TYPE_CHECKING:
    from .worker.component.instantiator import ComponentInstantiator


class ForegroundCommand:
    """A command that is ready to run, once.

    Its streams are this process's own, whatever ``wasi`` says of them.  Nothing but the end of the process stops it.

    Args:
        source: the module, as for :class:`ProcessWasmPool`.
        wasi: what the command sees.
        memory_limit: bytes that each of its linear memories may grow to; None for no limit.
        fuel: how much it may burn, about one unit per wasm instruction; None for no limit.
        on_missing_import: what serves imports that nothing is given for, as for a pool.
        features: proposals that the module may use, as for a pool.
        announce: told when the module is compiled.

    Raises:
        InvalidModule, MissingImport, OSError, TypeError: as for a pool.
        UnknownExport: the module is no command.
        BadWasi: ``wasi`` holds what cannot be given to a command.
    """

    def __init__(
        self,
        source: ModuleSource,
        wasi: WasiConfig,
        *,
        memory_limit: int | None = None,
        fuel: int | None = None,
        on_missing_import: OnMissing = None,
        features: Iterable[Feature] = (),
        announce: Announce = unheard,
    ) -> None:
        self._spec = wasi.spec()
        settings = EngineSettings(fuel is not None, features=checked_features(features))
        compiled = compile_module(source, settings=settings, announce=announce)
        try:
            engine = loading_engine(settings)
            code = mapped(engine, compiled.artifact, compiled.is_component)
        finally:
            os.close(compiled.artifact)
        limits = wire.GuestLimits(memory=memory_limit, fuel=fuel)
        #: runs it; its exit code
        self._start: Callable[[], int]
        self._instantiator: Instantiator | ComponentInstantiator
        if compiled.is_component:
            from .component.program import component_program
            from .worker.component.foreground import command_of

            program_ = component_program(compiled.outline)
            self._instantiator, run = command_of(engine, code, program_, limits, self._spec, on_missing_import)
            self._start = lambda: run(self._wasi())
            return
        program = single(compiled.interface)
        check_command(program.exports)
        check_threads(program)
        found = resolve(program.needed, {}, {}, wasi=True, otherwise=on_missing_import)
        environment = wire.Environment(found, wasi=self._spec)
        instantiator = self._instantiator = Instantiator(engine, [code], program, limits, environment, Running(engine))
        instantiator.on_stuck = lambda error: self._end(self._outcome(error))
        self._start = lambda: run_start(instantiator, self._wasi, self._spec.max_threads)

    def run(self, end: Callable[[int | WasmTrap], NoReturn]) -> NoReturn:
        """Run it, and then end this process.

        Args:
            end: called once with its exit code, or the trap it ended in, to end the process.  Threads of the command may be
                left that nothing else can end, as they sit in host calls; then it may be one of them that calls.
        """
        self._end = end
        try:
            outcome: int | WasmTrap = self._start()
        except Exception as error:
            outcome = self._outcome(error)
        end(outcome)

    def _wasi(self) -> wasmtime.WasiConfig:
        config = surroundings(self._spec)
        config.inherit_stdin()
        config.inherit_stdout()
        config.inherit_stderr()
        return config

    def _outcome(self, error: BaseException) -> int | WasmTrap:
        """What a thread's exception means for the program."""
        if isinstance(error, GuestExit):
            return error.code
        if isinstance(error, MissingImport):  # a stand-in was called
            return WasmTrap(str(error))
        stage = self._instantiator.stages.of(error)
        trap = as_trap(error, stage)
        if trap is not None:
            return trap
        if stage is not None:
            add_note(error, raised_by(stage))
        raise error
