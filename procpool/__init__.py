"""A multiprocess worker pool for CPU-bound WebAssembly on wasmtime."""

from ._version import __version__
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
    WasmFrame,
    WasmTrap,
    WorkerCrashed,
)
from .imports import wants_instance
from .job_context import Context, context, current_context, state
from .pool import ProcessWasmPool
from .stats import PoolStats, WorkerStats
from .supervisor.events import PoolEvent
from .supervisor.lease import Lease
from .wasi import CompletedRun, WasiConfig

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
    "InvalidModule",
    "Lease",
    "LeaseEnded",
    "MemoryType",
    "MissingImport",
    "OutputLimit",
    "PoolClosed",
    "PoolEvent",
    "PoolFull",
    "PoolStats",
    "ProcessWasmPool",
    "ProcpoolError",
    "RemoteError",
    "RunFailed",
    "StartupError",
    "TableType",
    "TagType",
    "UnknownExport",
    "WasiConfig",
    "WasmFrame",
    "WasmTrap",
    "WorkerCrashed",
    "WorkerStats",
    "__version__",
    "context",
    "current_context",
    "state",
    "wants_instance",
]
