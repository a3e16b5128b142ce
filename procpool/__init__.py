"""A multiprocess worker pool for CPU-bound WebAssembly on wasmtime.

Names are imported when they are first used.  A worker is told to import ``procpool.worker`` and comes through here, so it
would otherwise carry all that only the parent needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .binary import FuncType, GlobalType, Import, MemoryType, TableType, TagType
    from .bytes_function import BytesFunction
    from .errors import (
        ArgumentOutOfRange,
        BadArguments,
        BadImport,
        BadWasi,
        CallTimeout,
        GuestExit,
        InvalidModule,
        LeaseEnded,
        MissingImport,
        OutputLimit,
        PoolClosed,
        PoolFull,
        ProcpoolError,
        RemoteError,
        RunFailed,
        StartupError,
        UnknownExport,
        WasmException,
        WasmFrame,
        WasmTrap,
        WorkerCrashed,
    )
    from .imports import wants_instance
    from .job_context import Context, context, current_context, state
    from .maps.results import MapResults
    from .module import Inspection, inspect
    from .pool import ProcessWasmPool
    from .stats import PoolStats, WorkerStats
    from .supervisor.events import PoolEvent
    from .supervisor.lease import Lease
    from .wasi import CompletedRun, WasiConfig
    from .worker.instance import Instance
    from .worker.references import Reference

__all__ = [
    "ArgumentOutOfRange",
    "BadArguments",
    "BadImport",
    "BadWasi",
    "BytesFunction",
    "CallTimeout",
    "CompletedRun",
    "Context",
    "FuncType",
    "GlobalType",
    "GuestExit",
    "Import",
    "Inspection",
    "Instance",
    "InvalidModule",
    "Lease",
    "LeaseEnded",
    "MapResults",
    "MemoryType",
    "MissingImport",
    "OutputLimit",
    "PoolClosed",
    "PoolEvent",
    "PoolFull",
    "PoolStats",
    "ProcessWasmPool",
    "ProcpoolError",
    "Reference",
    "RemoteError",
    "RunFailed",
    "StartupError",
    "TableType",
    "TagType",
    "UnknownExport",
    "WasiConfig",
    "WasmException",
    "WasmFrame",
    "WasmTrap",
    "WorkerCrashed",
    "WorkerStats",
    "__version__",
    "context",
    "current_context",
    "inspect",
    "state",
    "wants_instance",
]

#: Where each name is, by module; what is in none of these is in ``errors``.
_PLACES = {
    "binary": ("FuncType", "GlobalType", "Import", "MemoryType", "TableType", "TagType"),
    "bytes_function": ("BytesFunction",),
    "imports": ("wants_instance",),
    "job_context": ("Context", "context", "current_context", "state"),
    "maps.results": ("MapResults",),
    "module": ("Inspection", "inspect"),
    "pool": ("ProcessWasmPool",),
    "stats": ("PoolStats", "WorkerStats"),
    "supervisor.events": ("PoolEvent",),
    "supervisor.lease": ("Lease",),
    "wasi": ("CompletedRun", "WasiConfig"),
    "worker.instance": ("Instance",),
    "worker.references": ("Reference",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES.get(name, 'errors')}", __name__), name)
    globals()[name] = value  # so that the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
