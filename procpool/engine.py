"""The one wasmtime configuration that modules are compiled with and the workers load with.

A serialised module can only be loaded by an engine configured like the one that compiled it, so both sides build theirs
here and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, get_args

import wasmtime

from .checks import shown

#: Proposals for WebAssembly that wasmtime can be told to allow, by the names of their repositories.
Feature = Literal[
    "branch-hinting",
    "bulk-memory-operations",
    "compact-import-section",
    "custom-page-sizes",
    "exception-handling",
    "function-references",
    "gc",
    "memory64",
    "multi-memory",
    "multi-value",
    "reference-types",
    "relaxed-simd",
    "simd",
    "tail-call",
    "threads",
    "wide-arithmetic",
]
#: What wasmtime's C API calls those that it has under another name.
_SETTINGS = {
    "bulk-memory-operations": "bulk_memory",
    "compact-import-section": "compact_imports",
    "exception-handling": "exceptions",
}
_NO_SETTING = "wasmtime's C API (50) has no setting for it"
#: Why others cannot be had.
_REFUSED = {
    "component-model": "it is always there: a component needs no feature",
    "custom-descriptors": _NO_SETTING,
    "legacy-exceptions": f"{_NO_SETTING}, and its compiler does not know them; compile with -sWASM_LEGACY_EXCEPTIONS=0, or "
    "translate the module with wasm-opt --translate-to-exnref",
    "memory-control": _NO_SETTING,
    "shared-everything-threads": _NO_SETTING,
    "stack-switching": "the library of wasmtime-py (50) takes the setting, and ends the process at the first cont.new",
}
#: Words of wasmtime's where it refuses a module, and the proposal that would allow it.
_HINTS = {
    r"custom[ _]page[ _]sizes": "custom-page-sizes",
    r"stack[ _]switching": "stack-switching",
    r"compact imports proposal": "compact-import-section",
    r"wide[ _]arithmetic": "wide-arithmetic",
    r"legacy[ _]exceptions": "legacy-exceptions",
    r"memory[ _]control": "memory-control",
    r"shared-everything-threads": "shared-everything-threads",
    r"custom descriptors": "custom-descriptors",
}

_ASYNC_STACK = 2 << 20  # wasmtime's default
_EMPTY = b"\0asm\1\0\0\0"
_ffi: Any = getattr(wasmtime, "_ffi", None)  # for what wasmtime-py has no name for


class EngineSettings(NamedTuple):
    """What of the configuration is the user's choice."""

    fuel: bool = False  #: calls burn it
    stack: int | None = None  #: bytes of wasm stack
    features: tuple[str, ...] = ()  #: proposals to allow beside those that wasmtime does by itself


PLAIN = EngineSettings()


def checked_features(features: Iterable[str]) -> tuple[str, ...]:
    """The proposals of ``features``, each once.

    Raises:
        ValueError: one cannot be had; says why.
        TypeError: it is no sequence of names.
    """
    if isinstance(features, str) or not isinstance(features, Iterable):
        raise TypeError(f"features must be a sequence of names of proposals, got {shown(features)}")
    found = sorted(set(features))
    for name in found:
        if name in _REFUSED:
            raise ValueError(f"features: {name} cannot be had: {_REFUSED[name]}")
        if name not in get_args(Feature):
            near = get_close_matches(str(name), get_args(Feature), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(get_args(Feature))}"
            raise ValueError(f"features: wasmtime knows no proposal {shown(name)}; {hint}")
        if not hasattr(_ffi, _setter(name)):
            raise ValueError(f"features: {name} cannot be had: this release of wasmtime-py has no setting for it")
    return tuple(found)


def hint_for(refusal: str) -> str:
    """What to add to wasmtime's reason for refusing a module, if it is a proposal that is not enabled."""
    for words, name in _HINTS.items():
        if re.search(words, refusal):
            how = f"cannot be had: {_REFUSED[name]}" if name in _REFUSED else f"features=[{name!r}] allows it"
            return f"{'' if refusal.endswith(chr(10)) else chr(10)}The module needs the proposal {name}; {how}"
    return ""


def compiling_engine(settings: EngineSettings = PLAIN, parallel: bool = False) -> wasmtime.Engine:
    """An engine that compiles; with ``parallel`` on all cores, by threads that stay as long as the process."""
    return wasmtime.Engine(_config(settings, parallel))


def fingerprint(settings: EngineSettings = PLAIN) -> bytes:
    """Tells apart engines that cannot load each other's code.

    It is a hash of what wasmtime makes of an empty module: that holds all that wasmtime compares when it loads, such as the
    target, the features of this machine's processor that the code may use, and the settings.  Of its version wasmtime
    compares the major number only; here it is the whole, for a release may mend what the compiler of the last did wrong.
    """
    with wasmtime.Module(compiling_engine(settings), _EMPTY) as module:
        return hashlib.sha256(repr(release()).encode() + module.serialize()).digest()


def release() -> list[object]:
    """Which release of wasmtime is installed: importlib.metadata would tell too, and takes 20 ms to import."""
    package = os.path.dirname(wasmtime.__file__)
    beside = os.listdir(os.path.dirname(package))
    found = sorted(name for name in beside if name.startswith("wasmtime-") and name.endswith(".dist-info"))
    return [*found] or [os.stat(package).st_mtime_ns]


def loading_engine(settings: EngineSettings = PLAIN) -> wasmtime.Engine:
    """An engine for a worker, which loads, and compiles small modules of ours; also for validating."""
    return wasmtime.Engine(_config(settings))


def mapped(engine: wasmtime.Engine, fd: int, component: bool) -> Any:
    """The compiled code in a file, mapped: a Module or a Component.  Nothing is compiled, and no thread is started.

    Raises:
        wasmtime.WasmtimeError: it is for another engine.
    """
    path = f"/dev/fd/{fd}"
    if not component:
        return wasmtime.Module.deserialize_file(engine, path)
    from wasmtime.component import Component  # only where there are any

    return Component.deserialize_file(engine, path)


def _setter(feature: str) -> str:
    return f"wasmtime_config_wasm_{_SETTINGS.get(feature, feature.replace('-', '_'))}_set"


def _config(settings: EngineSettings, parallel: bool = False) -> wasmtime.Config:
    config = wasmtime.Config()
    # The threads would stay, and a fork, which does not have them, would wait for them when it compiles or validates.
    config.parallel_compilation = parallel
    config.consume_fuel = settings.fuel
    # Raising the epoch is the only way to stop a call that does not return.  Cost: a load and a compare per loop
    # iteration and function entry.
    config.epoch_interruption = True
    config.wasm_threads = True
    config.shared_memory = True
    for feature in settings.features:  # some have no other name in wasmtime-py
        getattr(_ffi, _setter(feature))(config.ptr(), True)
    stack = settings.stack
    if stack is not None:
        config.max_wasm_stack = stack
        # wasmtime ends the process when this is the smaller one, though nothing here is async; wasmtime-py has no name
        # for it.
        try:
            _ffi.wasmtime_config_async_stack_size_set(config.ptr(), max(stack, _ASYNC_STACK))
        except AttributeError:
            if stack > _ASYNC_STACK:
                raise ValueError(f"max_stack: this release of wasmtime-py allows at most {_ASYNC_STACK} bytes") from None
    return config
