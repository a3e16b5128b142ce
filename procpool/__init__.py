"""A multiprocess worker pool for CPU-bound WebAssembly on wasmtime.

Names are imported when they are first used.  A worker is told to import ``procpool.worker`` and comes through here, so it
would otherwise carry all that only the parent needs.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

logging.getLogger(__name__).addHandler(logging.NullHandler())  # who wants to see its records says so

if TYPE_CHECKING:
    from .binary import ExternType, FuncType, GlobalType, Import, MemoryType, TableType, TagType
    from .bytes_function import BytesFunction, Result, Returns
    from .confinement import Sandbox, SandboxLevel
    from .conventions import Convention, ConventionName
    from .durations import Durations
    from .engine import Feature
    from .errors import (
        ArgumentOutOfRange,
        BadArguments,
        BadImport,
        BadSnapshot,
        BadWasi,
        CallTimeout,
        GuestError,
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
        SandboxUnavailable,
        StartupError,
        UnknownExport,
        WasmException,
        WasmFrame,
        WasmTrap,
        WorkerCrashed,
    )
    from .export_function import ExportFunction
    from .imports import Imports, OnMissing, Renames, wants_instance
    from .job_context import Context, context, current_context, state
    from .maps.options import Casting, Progress
    from .maps.results import AsyncMapResults, MapResults
    from .module import Inspection, ModuleSource, inspect
    from .options import Balance, Isolation, OnFull, Start, StartMethod
    from .plain_executor import PlainExecutor
    from .plain_function import without_instance
    from .pool import ProcessWasmPool
    from .signatures import (
        AnyMap,
        AnyOrderMap,
        BytesConvention,
        JobKeywords,
        MapKeywords,
        OrderedMap,
        OutcomesMap,
        RunKeywords,
        UnorderedMap,
    )
    from .stats import PoolStats, WorkerStats
    from .supervisor.events import EventKind, PoolEvent
    from .supervisor.lease import Lease, Memory
    from .supervisor.leasing import Leasing
    from .trust import Trust
    from .wasi import Access, CompletedRun, Preopens, Stdin, Stream, WasiConfig
    from .worker.instance import Instance
    from .worker.references import Reference
    from .worktime import PoolReport, WorkerTime

__all__ = [
    "Access",
    "AnyMap",
    "AnyOrderMap",
    "ArgumentOutOfRange",
    "AsyncMapResults",
    "BadArguments",
    "BadImport",
    "BadSnapshot",
    "BadWasi",
    "Balance",
    "BytesConvention",
    "BytesFunction",
    "CallTimeout",
    "Casting",
    "CompletedRun",
    "Context",
    "Convention",
    "ConventionName",
    "Durations",
    "EventKind",
    "ExportFunction",
    "ExternType",
    "Feature",
    "FuncType",
    "GlobalType",
    "GuestError",
    "GuestExit",
    "Import",
    "Imports",
    "Inspection",
    "Instance",
    "InvalidModule",
    "Isolation",
    "JobKeywords",
    "Lease",
    "LeaseEnded",
    "Leasing",
    "MapKeywords",
    "MapResults",
    "Memory",
    "MemoryType",
    "MissingImport",
    "ModuleSource",
    "OnFull",
    "OnMissing",
    "OrderedMap",
    "OutcomesMap",
    "OutputLimit",
    "PlainExecutor",
    "PoolClosed",
    "PoolEvent",
    "PoolFull",
    "PoolReport",
    "PoolStats",
    "Preopens",
    "ProcessWasmPool",
    "ProcpoolError",
    "Progress",
    "Reference",
    "RemoteError",
    "Renames",
    "Result",
    "Returns",
    "RunFailed",
    "Sandbox",
    "SandboxLevel",
    "SandboxUnavailable",
    "RunKeywords",
    "Start",
    "StartMethod",
    "StartupError",
    "Stdin",
    "Stream",
    "TableType",
    "TagType",
    "Trust",
    "UnknownExport",
    "UnorderedMap",
    "WasiConfig",
    "WasmException",
    "WasmFrame",
    "WasmTrap",
    "WorkerCrashed",
    "WorkerStats",
    "WorkerTime",
    "__version__",
    "context",
    "current_context",
    "inspect",
    "state",
    "wants_instance",
    "without_instance",
]

#: Where each name is, by module; what is in none of these is in ``errors``.
_PLACES = {
    "binary": ("ExternType", "FuncType", "GlobalType", "Import", "MemoryType", "TableType", "TagType"),
    "bytes_function": ("BytesFunction", "Result", "Returns"),
    "conventions": ("Convention", "ConventionName"),
    "durations": ("Durations",),
    "engine": ("Feature",),
    "export_function": ("ExportFunction",),
    "imports": ("Imports", "OnMissing", "Renames", "wants_instance"),
    "confinement": ("Sandbox", "SandboxLevel"),
    "job_context": ("Context", "context", "current_context", "state"),
    "maps.options": ("Casting", "Progress"),
    "maps.results": ("AsyncMapResults", "MapResults"),
    "module": ("Inspection", "ModuleSource", "inspect"),
    "options": ("Balance", "Isolation", "OnFull", "Start", "StartMethod"),
    "plain_executor": ("PlainExecutor",),
    "pool": ("ProcessWasmPool",),
    "signatures": (
        *("AnyMap", "AnyOrderMap", "OrderedMap", "OutcomesMap", "UnorderedMap"),
        *("BytesConvention", "JobKeywords", "MapKeywords", "RunKeywords"),
    ),
    "stats": ("PoolStats", "WorkerStats"),
    "supervisor.events": ("EventKind", "PoolEvent"),
    "supervisor.lease": ("Lease", "Memory"),
    "supervisor.leasing": ("Leasing",),
    "trust": ("Trust",),
    "wasi": ("Access", "CompletedRun", "Preopens", "Stdin", "Stream", "WasiConfig"),
    "plain_function": ("without_instance",),
    "worker.instance": ("Instance",),
    "worker.references": ("Reference",),
    "worktime": ("PoolReport", "WorkerTime"),
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
