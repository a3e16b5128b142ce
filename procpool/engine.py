"""The one wasmtime configuration that modules are compiled with and the workers load with.

A serialised module can only be loaded by an engine configured like the one that compiled it, so both sides build theirs
here and nowhere else.
"""

from __future__ import annotations

import hashlib
import os

import wasmtime

_ASYNC_STACK = 2 << 20  # wasmtime's default
_EMPTY = b"\0asm\1\0\0\0"


def compiling_engine(fuel: bool = False, stack: int | None = None, parallel: bool = False) -> wasmtime.Engine:
    """An engine that compiles; with ``parallel`` on all cores, by threads that stay as long as the process."""
    return wasmtime.Engine(_config(fuel, stack, parallel))


def fingerprint(fuel: bool = False, stack: int | None = None) -> bytes:
    """Tells apart engines that cannot load each other's code.

    It is a hash of what wasmtime makes of an empty module: that holds all that wasmtime compares when it loads, such as the
    target, the features of this machine's processor that the code may use, and the settings.  Of its version wasmtime
    compares the major number only; here it is the whole, for a release may mend what the compiler of the last did wrong.
    """
    with wasmtime.Module(compiling_engine(fuel, stack), _EMPTY) as module:
        return hashlib.sha256(repr(_release()).encode() + module.serialize()).digest()


def _release() -> list[object]:
    """Which release of wasmtime is installed: importlib.metadata would tell too, and takes 20 ms to import."""
    package = os.path.dirname(wasmtime.__file__)
    beside = os.listdir(os.path.dirname(package))
    found = sorted(name for name in beside if name.startswith("wasmtime-") and name.endswith(".dist-info"))
    return [*found] or [os.stat(package).st_mtime_ns]


def loading_engine(fuel: bool = False, stack: int | None = None) -> wasmtime.Engine:
    """An engine for a worker, which loads, and compiles small modules of ours; also for validating."""
    return wasmtime.Engine(_config(fuel, stack))


def _config(fuel: bool, stack: int | None, parallel: bool = False) -> wasmtime.Config:
    config = wasmtime.Config()
    # The threads would stay, and a fork, which does not have them, would wait for them when it compiles or validates.
    config.parallel_compilation = parallel
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
