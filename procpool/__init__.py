"""A multiprocess worker pool for CPU-bound WebAssembly on wasmtime."""

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

__version__ = "0.1.0"

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
