"""A WASI command that runs in this very process, which then is the program as far as anybody outside can tell."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

import wasmtime

from . import wire
from .compilation import Note, compile_module, unheard
from .engine import loading_engine
from .errors import GuestExit, MissingImport, WasmTrap
from .imports import OnMissing, resolve
from .module import ModuleSource
from .wasi import WasiConfig, check_command, check_threads
from .worker.channels import Running
from .worker.failures import as_trap
from .worker.linkage import Linkage
from .worker.streams import surroundings
from .worker.wasi_run import run_start


class ForegroundCommand:
    """A command that is ready to run, once.

    Its streams are this process's own, whatever ``wasi`` says of them.  Nothing but the end of the process stops it.

    Args:
        source: the module, as for :class:`ProcessWasmPool`.
        wasi: what the command sees.
        memory_limit: bytes that each of its linear memories may grow to; None for no limit.
        fuel: how much it may burn, about one unit per wasm instruction; None for no limit.
        on_missing_import: what serves imports that nothing is given for, as for a pool.
        note: told when the module is compiled.

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
        note: Note = unheard,
    ) -> None:
        self._spec = wasi.spec()
        compiled = compile_module(source, fuel=fuel is not None, note=note)
        try:
            engine = loading_engine(fuel is not None)
            module = wasmtime.Module.deserialize_file(engine, f"/dev/fd/{compiled.artifact}")
        finally:
            os.close(compiled.artifact)
        interface = compiled.interface
        types = interface.import_types
        check_command(interface.exports)
        check_threads(types, interface.exports)
        found = resolve(interface.imports, {}, {}, wasi=True, otherwise=on_missing_import)
        environment = wire.Environment(found, types, wasi=self._spec)
        limits = wire.GuestLimits(memory=memory_limit, fuel=fuel)
        self._linkage = Linkage(engine, module, limits, interface.declared, environment, Running(engine), interface.tags)

    def run(self, end: Callable[[int | WasmTrap], NoReturn]) -> NoReturn:
        """Run it, and then end this process.

        Args:
            end: called once with its exit code, or the trap it ended in, to end the process.  Threads of the command may be
                left that nothing else can end, as they sit in host calls; then it may be one of them that calls.
        """
        self._linkage.on_stuck = lambda error: end(_outcome(error))
        try:
            outcome: int | WasmTrap = run_start(self._linkage, self._wasi, self._spec.max_threads)
        except Exception as error:
            outcome = _outcome(error)
        end(outcome)

    def _wasi(self) -> wasmtime.WasiConfig:
        config = surroundings(self._spec)
        config.inherit_stdin()
        config.inherit_stdout()
        config.inherit_stderr()
        return config


def _outcome(error: BaseException) -> int | WasmTrap:
    """What a thread's exception means for the program."""
    if isinstance(error, GuestExit):
        return error.code
    if isinstance(error, MissingImport):  # a stand-in was called
        return WasmTrap(str(error))
    trap = as_trap(error)
    if trap is None:
        raise error
    return trap
