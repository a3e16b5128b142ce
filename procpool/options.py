"""What may be given to a pool: checked before anything is started."""

from __future__ import annotations

import logging
import math
import os
import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from . import wire
from .checks import boolean, choice, count, is_int, positive, seconds, shown
from .confinement import SandboxLevel
from .engine import EngineSettings, checked_features
from .imports import OnMissing, checked_renames
from .trust import Trust, Trusted
from .wasi import WasiConfig

#: The most workers a pool can have: rows of the shared board, 64 bytes each.
MAX_WORKERS = 4096
#: The most instances per worker process: three descriptors of each travel in one message, which holds 253.
MAX_INSTANCES = 64

Isolation = Literal["pooled", "fresh", "snapshot"]
Balance = Literal["least_busy", "round_robin"]
OnFull = Literal["block", "raise"]
StartMethod = Literal["forkserver", "spawn"]


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_start_method() -> StartMethod:
    """Forking is safe, and much the faster, on Linux; elsewhere system libraries do not stand it."""
    return "forkserver" if sys.platform.startswith("linux") else "spawn"


def checked_workers(workers: object, name: str = "workers") -> int:
    """How many workers to have; ValueError if there cannot be so many."""
    return count(name, workers, 1, MAX_WORKERS)


def checked_timeout(timeout: object, name: str = "timeout") -> float | None:
    """Seconds as a float; None for no limit.

    Raises:
        TypeError: it is neither None nor a real number.
        ValueError: it is nan, 0 or negative.
    """
    if timeout is None:
        return None
    limit = seconds(name, timeout)
    return None if limit == math.inf else limit


#: what to do in a new instance: call an export, the same with arguments, or a function that gets the instance
Start = str | tuple[Any, ...] | Callable[[Any], object]


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """All that a pool is told but the module: the keywords of :class:`ProcessWasmPool`, which says what each is for.

    What has no limit is math.inf here, or None where the field says so.

    Raises:
        ValueError, TypeError: a value is none of those expected; names the option, the value and what is expected.
    """

    workers: int = field(default_factory=usable_cpus)  #: processes
    timeout: float | None = None  #: seconds for each job that says nothing else; None for no limit
    instances: int = 1  #: per process
    imports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rename_imports: Mapping[Any, Any] = field(default_factory=dict)
    on_missing_import: OnMissing = None
    isolation: Isolation = "pooled"
    prewarm: int = 1  #: instances per process that are there from the start and never expire
    recycle_memory: int | None = None  #: bytes of grown memory beyond which an instance is not used again
    idle_expiry: float = math.inf  #: seconds after which what is unused goes: processes beyond the least, instances
    min_workers: int | None = None  #: processes to keep when there is little to do; None to keep all
    initializer: Callable[..., object] | None = None
    initargs: Sequence[Any] = ()
    start: Sequence[Start] | None = None  #: what to do once in a new instance; None for the usual
    warm: Start | Sequence[Start] | None = None  #: what to do once, for each instance to begin behind it
    wasi: WasiConfig | None = None
    balance: Balance = "least_busy"
    retries: int = 0  #: how often a job is run again whose worker died
    rlimits: Mapping[str, int] = field(default_factory=dict)
    max_stack: int | None = None  #: bytes of wasm stack
    on_event: Callable[[Any], None] | None = None
    kill_grace: float = 1.0  #: seconds from an interrupt to the kill; 0 to kill at once
    memory_limit: int | None = None  #: bytes of each linear memory
    fuel: int | None = None  #: per call
    max_pending: int | None = None  #: jobs in the queue; None for any number
    on_full: OnFull = "block"
    full_timeout: float | None = None  #: seconds to wait when it is full; 0 with ``on_full="raise"``, None for ever
    max_tasks_per_worker: float = math.inf  #: calls after which a process is replaced
    max_worker_memory: int | None = None  #: bytes, resident
    start_method: StartMethod = field(default_factory=default_start_method)
    start_timeout: float = 60.0  #: seconds a process may take to become ready
    cache: bool = True
    features: Sequence[str] = ()  #: proposals that the module may use
    sandbox: SandboxLevel = "default"
    tenants: bool = False  #: jobs of different tenants share no process
    callables: bool = True  #: whether it takes Python callables
    modules: Mapping[str, Any] = field(default_factory=dict)  #: those that are linked to it, by name
    trust: Trust = "auto"  #: what of the workers' answers is unpickled

    def __post_init__(self) -> None:
        checked_workers(self.workers)
        count("instances", self.instances, 1, MAX_INSTANCES)
        count("prewarm", self.prewarm, 0, self.instances)
        count("retries", self.retries, 0)
        if self.min_workers is not None and checked_workers(self.min_workers, "min_workers") > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, more than the {self.workers} workers")
        choice("isolation", self.isolation, *get_args(Isolation))
        choice("balance", self.balance, *get_args(Balance))
        choice("on_full", self.on_full, *get_args(OnFull))
        choice("trust", self.trust, *get_args(Trust))
        choice("start_method", self.start_method, *get_args(StartMethod))
        for name in ("memory_limit", "fuel", "max_stack", "recycle_memory", "max_pending", "max_worker_memory"):
            positive(name, getattr(self, name))
        if self.max_tasks_per_worker != math.inf:
            positive("max_tasks_per_worker", self.max_tasks_per_worker)  # type: ignore[arg-type]  # anything may be there
        boolean("cache", self.cache)
        choice("sandbox", self.sandbox, *get_args(SandboxLevel))
        boolean("callables", self.callables)
        boolean("tenants", self.tenants)
        if self.on_missing_import is not None and not callable(self.on_missing_import):
            choice("on_missing_import", self.on_missing_import, "trap", "zero")
        for name, function in (("initializer", self.initializer), ("on_event", self.on_event)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, got {shown(function)}")
        if self.wasi is not None and not isinstance(self.wasi, WasiConfig):
            raise TypeError(f"wasi must be a WasiConfig, got {shown(self.wasi)}")
        for name in ("imports", "rlimits", "modules"):
            self._freeze(name, MappingProxyType(dict(_mapping(name, getattr(self, name)))))
        self._freeze("rename_imports", MappingProxyType(dict(checked_renames(self.rename_imports))))
        self._freeze("features", checked_features(self.features))
        self._freeze("initargs", _sequence("initargs", self.initargs))
        if isinstance(self.start, str):
            raise TypeError(f"start must be a list of steps, got {shown(self.start)}; write start=[{self.start!r}]")
        if self.start is not None:
            self._freeze("start", _sequence("start", self.start))
        if self.warm is not None:
            self._freeze("warm", list(self.warm_steps))
        resource_limits(self.rlimits)
        self._freeze("timeout", checked_timeout(self.timeout))
        self._freeze("idle_expiry", seconds("idle_expiry", self.idle_expiry))
        self._freeze("start_timeout", seconds("start_timeout", self.start_timeout))
        self._freeze("kill_grace", seconds("kill_grace", self.kill_grace, zero=True))
        waits = self.on_full == "block"
        self._freeze("full_timeout", checked_timeout(self.full_timeout, "full_timeout") if waits else 0.0)

    def _freeze(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def snapshots(self) -> bool:
        """Whether instances begin as a snapshot says."""
        return self.warm is not None or self.isolation == "snapshot"

    @property
    def warm_steps(self) -> tuple[Start, ...]:
        """The steps of ``warm``, which may be one."""
        if isinstance(self.warm, (str, tuple)) or callable(self.warm):
            return (self.warm,)
        return () if self.warm is None else _sequence("warm", self.warm)

    @property
    def trusted(self) -> Trusted:
        """What of the workers' answers is unpickled."""
        # What is given for an interface of a component may be an object with methods, which are Python code in any case.
        given = (names.values() if isinstance(names, Mapping) else (type(names),) for names in self.imports.values())
        imported = (value for values in given for value in values)
        steps = (*(self.start or ()), *self.warm_steps)
        return Trusted.given(self.trust, (*imported, self.on_missing_import, self.initializer, *steps))

    @property
    def round_robin(self) -> bool:
        """Take idle workers in turn, not the last used one."""
        return self.balance == "round_robin"

    @property
    def engine(self) -> EngineSettings:
        """How the engine is configured that compiles the module."""
        return EngineSettings(self.fuel is not None, self.max_stack, tuple(self.features))

    def guest_limits(self) -> wire.GuestLimits:
        """What travels to a worker about what an instance may use."""
        return wire.GuestLimits(self.memory_limit, self.fuel, self.max_stack, self.recycle_memory)

    def guest(
        self, environment: bytes, exactly_once: bool, module: str, pickles: bool, confinement: wire.Confinement
    ) -> wire.Guest:
        """What travels to a worker about how instances are made.

        Args:
            environment: pickled wire.Environment.
            exactly_once: no call may be run again after its worker died, because it has effects outside.
            module: the module's name, for people.
            pickles: exceptions and the like are unpickled here; see `Trusted`.
            confinement: what workers give up.
        """
        fresh, restored = self.isolation == "fresh", self.isolation == "snapshot"
        limits = resource_limits(self.rlimits)
        return wire.Guest(
            *(fresh, self.prewarm, exactly_once, environment, limits, log_levels(), module, tuple(self.features)),
            *(restored, pickles, confinement),
        )


def _mapping(name: str, value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, got {shown(value)}")
    return value


def _sequence(name: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a sequence, got {shown(value)}")
    return tuple(value)


def resource_limits(given: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    """(resource, limit) pairs for a worker process.  No core dumps unless asked for: they hold what users passed in.

    Raises:
        ValueError: there is no such resource here, or a limit is no int.
    """
    limits = {"CORE": 0, **given}
    pairs = []
    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{str(name).upper().removeprefix('RLIMIT_')}", None)
        if kind is None:
            raise ValueError(f"rlimits names {name!r}, which this system does not have")
        if not is_int(most, -1):
            raise ValueError(f"rlimits[{name!r}] must be an int from -1, for no limit, got {shown(most)}")
        pairs.append((kind, most))
    return tuple(pairs)


def log_levels() -> tuple[tuple[str, int], ...]:
    """The levels set on this process's loggers, the root's under ""."""
    named = {
        name: logger.level
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and logger.level
    }
    return (("", logging.root.level), *named.items())
