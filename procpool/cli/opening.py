"""The pool that a command works with."""

from __future__ import annotations

import argparse

from ..binary import FuncType
from ..errors import MissingImport
from ..pool import ProcessWasmPool
from ..printable import printable
from ..supervisor.jobs.call import Export
from ..wasi import MODULES, WasiConfig
from .failures import BadRequest
from .progress import Compiling


def open_pool(options: argparse.Namespace, workers: int | None = None, stdout: str | None = None) -> ProcessWasmPool:
    """A pool of the module on the line.

    Args:
        workers: how many, if not as many as the line says.
        stdout: where goes what a function prints by WASI, as in WasiConfig.

    Raises:
        BadRequest: the module wants something that the command line cannot give.
        Whatever ProcessWasmPool raises.
    """
    wasi = WasiConfig(
        args=[options.module],
        env=dict(given for given in options.env if given is not None),
        stdout=stdout,
        stderr="inherit",
    )
    limits = {"timeout": options.timeout, "fuel": options.fuel, "memory_limit": options.memory_limit}
    module = {"on_missing_import": options.missing_imports, "features": options.feature}
    try:
        with Compiling() as compiling:
            pool = ProcessWasmPool(
                options.module,
                workers or options.workers,
                wasi=wasi,
                on_event=compiling.hear,
                callables=False,
                **module,
                **limits,
            )
    except MissingImport as error:
        raise not_to_be_had(options.module, error) from None
    if options.env and not any(needed.module in MODULES for needed in pool.imports):
        pool.shutdown()
        raise BadRequest(f"--env: {printable(options.module)} does not import WASI, so it could not see a variable")
    return pool


def not_to_be_had(module: str, error: MissingImport) -> BadRequest:
    """Why a module that wants more than WASI cannot be used."""
    fact = " ".join(str(error).partition("\nGive it as")[0].split())  # what follows is about Python's keywords
    hint = "the command line has only WASI to give, so call it from Python, with imports, or see --missing-imports"
    return BadRequest(f"{printable(module)}: {fact}; {hint}")


def signature(pool: ProcessWasmPool, export: str) -> FuncType:
    """The type of an export.

    Raises:
        UnknownExport, BadArguments: there is no such function, or it cannot be called from here.
    """
    type_ = pool._function(export)
    if not isinstance(type_, Export):
        raise BadRequest(f"{printable(export)} is a function of a component, which only call and run can do from here")
    return type_.codec.signature
