"""A multiprocess worker pool for CPU-bound WebAssembly on wasmtime."""

from ._version import __version__
from .binary import FuncType, GlobalType, Import, MemoryType, TableType, TagType
from .errors import (
    ArgumentOutOfRange,
    BadArguments,
    CallTimeout,
    GuestExit,
    InvalidModule,
    MissingImport,
    PoolClosed,
    PoolFull,
    ProcpoolError,
    RemoteError,
    StartupError,
    UnknownExport,
    WasmFrame,
    WasmTrap,
    WorkerCrashed,
)
from .pool import PoolStats, ProcessWasmPool, WorkerStats

__all__ = [
    "ArgumentOutOfRange",
    "BadArguments",
    "CallTimeout",
    "FuncType",
    "GlobalType",
    "GuestExit",
    "Import",
    "InvalidModule",
    "MemoryType",
    "MissingImport",
    "PoolClosed",
    "PoolFull",
    "PoolStats",
    "ProcessWasmPool",
    "ProcpoolError",
    "RemoteError",
    "StartupError",
    "TableType",
    "TagType",
    "UnknownExport",
    "WasmFrame",
    "WasmTrap",
    "WorkerCrashed",
    "WorkerStats",
    "__version__",
]
