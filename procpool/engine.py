"""The one wasmtime configuration that the parent compiles with and the workers load with.

A serialised module can only be loaded by an engine configured like the one that compiled it, so both sides build theirs
here and nowhere else.
"""

from __future__ import annotations

import logging

import wasmtime

logger: logging.Logger = logging.getLogger("procpool")


_ASYNC_STACK = 2 << 20  # wasmtime's default


def compiling_engine(cache: bool, fuel: bool = False, stack: int | None = None) -> wasmtime.Engine:
    """An engine for the parent.  With ``cache``, wasmtime's own on-disk cache remembers what it compiled."""
    config = _config(fuel, stack)
    if cache:
        try:
            config.cache = True
        except wasmtime.WasmtimeError as error:  # no home directory, or one that cannot be written
            logger.warning("compiling without wasmtime's cache: %s", error)
    return wasmtime.Engine(config)


def loading_engine(fuel: bool = False, stack: int | None = None) -> wasmtime.Engine:
    """An engine for a worker, which only loads."""
    return wasmtime.Engine(_config(fuel, stack))


def _config(fuel: bool, stack: int | None) -> wasmtime.Config:
    config = wasmtime.Config()
    config.consume_fuel = fuel
    # Raising the epoch is the only way to stop a call that does not return.  Cost: a load and a compare per loop
    # iteration and function entry.
    config.epoch_interruption = True
    config.wasm_threads = True
    config.shared_memory = True
    if stack is not None:
        config.max_wasm_stack = stack
        # wasmtime ends the process when this is the smaller one, though nothing here is async; wasmtime-py has no name
        # for it.
        try:
            from wasmtime import _ffi

            _ffi.wasmtime_config_async_stack_size_set(config.ptr(), max(stack, _ASYNC_STACK))
        except (ImportError, AttributeError):
            if stack > _ASYNC_STACK:
                raise ValueError(f"max_stack: this release of wasmtime-py allows at most {_ASYNC_STACK} bytes") from None
    return config
