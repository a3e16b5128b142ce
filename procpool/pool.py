"""ProcessWasmPool: what a user holds."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
import os
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Sequence, Sized
from collections.abc import Mapping as MappingType
from concurrent.futures import Executor, Future
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, TypeVar

import cloudpickle

from . import wire
from .binary import ExternType, FuncType, Import
from .bytes_function import BytesFunction
from .codec import Codec
from .columns import ColumnCodec
from .errors import BadArguments, BadWasi, UnknownExport
from .imports import Imports, Renames, resolve
from .job_context import bounded, capture
from .maps.mapping import MOST_JOBS_AHEAD, MOST_OBJECTS, JobMapping, MapOptions, Mapping, Progress
from .maps.results import MapResults, job_lists, result_lists, with_progress
from .maps.sources import RowSource, Source, source_of
from .module import Source as ModuleSource
from .module import compile_module
from .options import (
    MAX_INSTANCES,
    MAX_WORKERS,
    checked_timeout,
    checked_workers,
    choice,
    count,
    log_levels,
    positive,
    resource_limits,
    usable_cpus,
)
from .stats import PoolStats, observe
from .supervisor.direct import DirectCalls
from .supervisor.dispatcher import Dispatcher
from .supervisor.events import PoolEvent
from .supervisor.jobs.batch import item_bytes
from .supervisor.jobs.call import Export, Job
from .supervisor.jobs.command import CommandRun
from .supervisor.jobs.shipped import ShippedCall, Shipper
from .supervisor.launch import LAUNCHERS, Inheritance, reserve_stdio
from .supervisor.lease import Lease, Leasing
from .supervisor.limits import Limits
from .wasi import CAPTURE, THREAD_SPAWN, CompletedRun, Stdin, Stream, WasiConfig

T = TypeVar("T")
#: How much of a buffer `map_array` fills at once, in bytes.  Measured: 1 MiB and 4 MiB are both slower.
ARRAY_CHUNK_BYTES = 2 << 20


class ProcessWasmPool(Executor):
    """N worker processes that run the exports of one WebAssembly module in parallel.

    It is a :class:`concurrent.futures.Executor` whose "function" is the name of an export.  Any number of threads and
    event loops may use one pool at once.

    Args:
        src: the module: bytes (binary or text), WAT text, or the path of a ``.wasm`` or ``.wat`` file.
        workers: how many processes; by default as many as this process may use CPUs.
        timeout: seconds each job may run, unless the call says otherwise; None for no limit.
        kill_grace: seconds an interrupted job may take to stop before its worker is killed.
        memory_limit: bytes that each linear memory of an instance may grow to; beyond, ``memory.grow`` fails.
        fuel: how much a call may burn, about one unit per wasm instruction; then it traps with code OUT_OF_FUEL.  In a map,
            each item has that much.
        max_pending: jobs that may wait in the queue; by default any number.
        instances: how many instances each worker process serves at once, on a thread each.  More than one helps when host
            functions wait for something.
        imports: what the module imports: ``{"env": {"log": function}}``.  Functions run in the workers; they travel by
            cloudpickle.  A number serves an imported global, and a MemoryType or TableType has one made per instance.
        rename_imports: import's module name (or (module, name)) -> the name under which ``imports`` gives it.
        isolation: ``"pooled"`` reuses an instance until a call of it fails; ``"fresh"`` makes a new one for every call.
        prewarm: how many of a worker's instances are made before it is ready; the others when they are first used.
        recycle_memory: bytes; an instance one of whose exported memories has grown beyond this, and beyond what it began
            with, does not serve another call.
        idle_expiry: seconds after which an unused instance beyond ``prewarm``, and with ``min_workers`` an unused worker
            beyond those, goes.
        min_workers: start with so many, add one when all are busy and jobs wait, and go back when they are not needed.
        initializer: called with ``initargs`` in each worker before it is ready; what it puts into ``procpool.state`` is
            there for host functions and callables.
        start: exports to call once in each new instance; by default ``_initialize``, if there is one.  A start that exits
            with code 0 has succeeded.
        wasi: gives the module WASI, and what :meth:`run` starts from; see :class:`WasiConfig`.
        balance: ``"least_busy"`` gives a job to the worker used last of those with nothing to do, whose caches are warm;
            ``"round_robin"`` to each in turn.
        retries: how often a job is run again after the worker it ran in died.  For a module with imports that may repeat
            what its host functions have done.
        rlimits: limits for each worker process, name as in ``resource.RLIMIT_...`` -> value: ``{"AS": 2**33, "CPU": 60}``.
            CORE is 0 unless given.
        max_stack: bytes of wasm stack; a deeper recursion traps.
        on_event: called with a :class:`PoolEvent` when a worker starts, gets ready, crashes, is killed, replaced, or a call
            times out.  Runs in the pool's own thread, so it must not wait for the pool.
        on_full: what ``submit`` does when so many wait: ``"block"`` until there is room, for ``full_timeout`` seconds at
            most, or ``"raise"`` PoolFull.  A callback of a future is never blocked.
        max_tasks_per_worker: calls after which a worker is replaced; the new one is ready before the old one goes.
        max_worker_memory: resident bytes, looked at four times a second, beyond which a worker is likewise replaced; it is
            killed at twice that.
        start_method: ``"forkserver"`` (forks ready workers from a template process; default on Linux) or ``"spawn"`` (a
            fresh interpreter for each; default elsewhere).
        cache: let wasmtime remember the compiled module on disk, so that the next run of the program need not compile.

    Raises:
        InvalidModule: ``src`` is not a module that wasmtime accepts.
        MissingImport: the module imports something that ``imports`` does not give.
        BadImport: ``imports`` gives something that does not fit, or that the module does not import.
        UnknownExport: ``start`` names no function without parameters.
        Whatever ``initializer`` raises.
        OSError: the file cannot be read.
        StartupError: no worker could be started; the cause is attached.
        ValueError, TypeError: another argument is out of its range.

    Returns when the first worker is ready.  Leaving the ``with`` block waits for what was submitted; after an
    exception, what has not begun is cancelled, and after KeyboardInterrupt or SystemExit, running jobs are killed too.
    A pool that is dropped without ``shutdown`` finishes its jobs and goes; the exit of the interpreter kills them.
    """

    def __init__(
        self,
        src: ModuleSource,
        workers: int | None = None,
        *,
        timeout: float | None = None,
        instances: int = 1,
        imports: Imports | None = None,
        rename_imports: Renames | None = None,
        isolation: str = "pooled",
        prewarm: int = 1,
        recycle_memory: int | None = None,
        idle_expiry: float | None = None,
        min_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        start: Sequence[str] | None = None,
        wasi: WasiConfig | None = None,
        balance: str = "least_busy",
        retries: int = 0,
        rlimits: MappingType[str, int] | None = None,
        max_stack: int | None = None,
        on_event: Callable[[PoolEvent], None] | None = None,
        kill_grace: float = 1.0,
        memory_limit: int | None = None,
        fuel: int | None = None,
        max_pending: int | None = None,
        on_full: str = "block",
        full_timeout: float | None = None,
        max_tasks_per_worker: int | None = None,
        max_worker_memory: int | None = None,
        start_method: str | None = None,
        cache: bool = True,
    ) -> None:
        workers = checked_workers(usable_cpus() if workers is None else workers)
        choice("on_full", on_full, "block", "raise")
        choice("isolation", isolation, "pooled", "fresh")
        choice("balance", balance, "least_busy", "round_robin")
        if not kill_grace >= 0:
            raise ValueError(f"kill_grace must be a number of seconds, got {kill_grace!r}")
        count("instances", instances, 1, MAX_INSTANCES)
        count("prewarm", prewarm, 0, instances)
        count("retries", retries, 0)
        if min_workers is not None and not 1 <= checked_workers(min_workers, "min_workers") <= workers:
            raise ValueError(f"min_workers is {min_workers}, more than the {workers} workers")
        stack = positive("max_stack", max_stack)
        guest = wire.GuestLimits(
            positive("memory_limit", memory_limit),
            positive("fuel", fuel),
            stack,
            positive("recycle_memory", recycle_memory),
        )
        limits = Limits(
            kill_grace,
            positive("max_pending", max_pending),
            0.0 if on_full == "raise" else checked_timeout(full_timeout, "full_timeout"),
            positive("max_tasks_per_worker", max_tasks_per_worker) or math.inf,
            positive("max_worker_memory", max_worker_memory),
            min_workers,
            math.inf if idle_expiry is None else checked_timeout(idle_expiry, "idle_expiry") or math.inf,
            prewarm,
            balance == "round_robin",
            retries,
        )
        if start_method is None:
            start_method = "forkserver" if sys.platform.startswith("linux") else "spawn"
        if start_method not in LAUNCHERS:
            raise ValueError(f"start_method must be one of {', '.join(map(repr, LAUNCHERS))}, got {start_method!r}")
        self._timeout = checked_timeout(timeout)
        self._name = os.path.basename(src) if isinstance(src, (str, os.PathLike)) and "(" not in str(src) else "<bytes>"
        self._functions: dict[str, Export] = {}
        self._refused: dict[str, BadArguments] = {}
        self._callables = _ExportTable(self)
        self._shipped = Shipper()
        with contextlib.ExitStack() as on_failure:
            reserved = reserve_stdio()
            for fd in reserved:
                on_failure.callback(os.close, fd)
            compiled = compile_module(src, cache, fuel=fuel is not None, stack=stack)
            on_failure.callback(os.close, compiled.artifact)
            #: what the module exports, by name: signatures of functions, and memories, tables and globals
            self.exports: MappingType[str, ExternType] = MappingProxyType(compiled.interface.exports)
            #: what it imports
            self.imports: tuple[Import, ...] = tuple(compiled.interface.imports)
            found = resolve(self.imports, imports or {}, rename_imports or {}, wasi is not None)
            functions = self._index_functions()
            start = self._start_exports(start)
            types = {(needed.module, needed.name): needed.type for needed in self.imports}
            if THREAD_SPAWN in types and self.exports.get("wasi_thread_start") != FuncType(("i32", "i32")):
                raise BadWasi("the module imports wasi.thread-spawn and exports no wasi_thread_start(i32, i32)")
            self._wasi = wasi
            spec = None if wasi is None else wasi.spec()
            environment = wire.Environment(found, types, initializer, tuple(initargs), spec, start)
            self._visible = bool(found)  # whether Python code runs with a call
            surroundings = wire.Guest(
                isolation == "fresh",
                prewarm,
                bool(self.imports),
                cloudpickle.dumps(environment),
                resource_limits(rlimits or {}),
                log_levels(),
            )
            inheritance = Inheritance(compiled.artifact, functions, guest, surroundings, instances, MAX_WORKERS, reserved)
            on_failure.pop_all()
        self._dispatcher = Dispatcher(inheritance, start_method, workers, limits, on_event)
        self._direct = DirectCalls(self._dispatcher, self._visible)
        # Not at exit, where the dispatcher sees to itself: then nobody is left to want the results.
        weakref.finalize(self, self._dispatcher.close).atexit = False
        try:
            self._dispatcher.wait_started()
        except BaseException:
            self._dispatcher.terminate()
            raise

    def _start_exports(self, given: Sequence[str] | None) -> tuple[str, ...]:
        """What to call in each new instance."""
        if given is None:
            return ("_initialize",) if self.exports.get("_initialize") == FuncType() else ()
        for name in given:
            if self.exports.get(name) != FuncType():
                raise UnknownExport(f"start names {name!r}, and the module exports no function () -> () of that name")
        return tuple(given)

    def _index_functions(self) -> tuple[tuple[str, FuncType], ...]:
        exported: list[tuple[str, FuncType]] = []
        for name, type_ in self.exports.items():
            if isinstance(type_, FuncType):
                try:
                    codec = Codec(name, type_)
                except BadArguments as refusal:
                    self._refused[name] = refusal
                    continue
                self._functions[name] = Export(len(exported), codec)
                exported.append((name, type_))
        return tuple(exported)

    # -- running things ------------------------------------------------------------------------------------------------

    def call(self, export: str, /, *args: Any, timeout: float | None = None) -> Any:
        """Call an export and wait for its result.

        Args:
            args: one per parameter: ints for i32 and i64, ints or floats for f32 and f64, 16 bytes for v128.
            timeout: seconds from now, waiting for a worker included.

        Returns:
            None, the value, or a tuple of several.  Integers come back signed.

        Raises:
            UnknownExport: there is no such function; the message lists near matches.
            BadArguments, ArgumentOutOfRange: an argument does not fit; nothing was sent.
            WasmTrap: the guest trapped.
            CallTimeout: time is up.  The guest is stopped, and the worker serves others again.
            WorkerCrashed: the worker died while running it.
            PoolClosed: the pool was shut down.
        """
        function = self._functions.get(export) or self._no_function(export)
        timeout = bounded(self._timeout if timeout is None else checked_timeout(timeout))
        if self._dispatcher.closed:
            raise self._dispatcher.why_closed()
        return self._direct.call(function, args, timeout)

    def submit(  # type: ignore[override]  # Executor's takes keywords for the function; an export has none
        self,
        export: str | Callable[..., Any],
        /,
        *args: Any,
        timeout: float | None = None,
        priority: int = 0,
        key: Hashable = None,
        retries: int | None = None,
    ) -> Future[Any]:
        """Queue a call of an export, or of a Python function that runs in a worker beside an instance.

        Args:
            export: the name of an export; or a callable, run as ``export(instance, *args)`` with an
                :class:`~procpool.worker.instance.Instance`.  It is sent once per worker (by cloudpickle, so lambdas and
                functions of ``__main__`` work too), as it was when it was first given.
            args: the arguments; for a callable, anything that pickles.  Large bytes and arrays go through shared memory.
            timeout: seconds the job may run once a worker turns to it.
            priority: jobs of higher priority go first; among equals, the one submitted first.
            key: jobs with the same key run in the order they were submitted, one after the other, on the same worker and
                instance as long as it lives.  Jobs with other keys, and without, are not held up.
            retries: how often to run it again if its worker dies; by default the pool's.

        Returns:
            A future.  It ends in what :meth:`call` returns or raises.  ``cancel()`` drops a queued job and interrupts a
            running one.  An exception that a callable raises arrives as itself, with the worker's traceback as its cause,
            and the instance is thrown away.

        Raises:
            UnknownExport, BadArguments, PoolClosed: at once, as :meth:`call`.
            PoolFull: ``max_pending`` jobs are waiting.
            Whatever pickling a callable or its arguments raises, at once.
        """
        timeout = bounded(self._timeout if timeout is None else checked_timeout(timeout))
        if callable(export):
            if self._dispatcher.closed:
                raise self._dispatcher.why_closed()
            job: Job = ShippedCall(self._shipped.ship(export), args, timeout, capture(True, timeout))
        else:
            function = self._functions.get(export) or self._no_function(export)
            frame = function.frame(wire.SUBMIT, function.pack(args), capture(self._visible, timeout))
            job = Job(function.name, frame, function.codec.unpack, timeout)
        if priority:
            job.priority = priority
        if key is not None:
            hash(key)
            job.key = key
        job.retries = self._dispatcher.limits.retries if retries is None else retries
        self._dispatcher.submit(job)
        return job

    def call_bytes(self, export: str, /, *args: Any, timeout: float | None = None, **convention: Any) -> Any:
        """Call an export that takes bytes by pointer and length, and wait for its result.

        ``pool.call_bytes("sha256", data, returns=32)``.  Bytes-like arguments are put into the guest's memory.

        Args:
            timeout: seconds from now.
            convention: how the module allocates and returns, see :class:`BytesFunction`.

        Raises:
            As :meth:`call`; and MemoryError when the guest's allocator has no room.
        """
        timeout = self._timeout if timeout is None else checked_timeout(timeout)
        return _wait(self.submit_bytes(export, *args, timeout=timeout, **convention))

    def submit_bytes(self, export: str, /, *args: Any, timeout: float | None = None, **convention: Any) -> Future[Any]:
        """:meth:`call_bytes` as a future.  For many, ``pool.map(BytesFunction("sha256", returns=32), blobs)``."""
        if export not in self._functions:
            self._no_function(export)
        function = BytesFunction(export, **convention)
        for name in (function.alloc, function.free):
            if name is not None and name not in self._functions:
                raise UnknownExport(f"the module exports no function {name!r} to allocate or free with; name its own")
        return self.submit(function, *args, timeout=timeout)

    # -- commands ------------------------------------------------------------------------------------------------------

    def run(
        self,
        args: Sequence[Any] | None = None,
        *,
        stdin: Stdin = None,
        env: MappingType[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        preopens: MappingType[str, Any] | None = None,
        stdout: Stream = CAPTURE,
        stderr: Stream = CAPTURE,
        timeout: float | None = None,
        check: bool = False,
        text: bool = False,
        max_output: int | None = None,
    ) -> CompletedRun:
        """Run the module as a WASI command, in a new instance, and wait for its end, as :func:`subprocess.run`.

        What is not given is as in the pool's ``wasi``.

        Args:
            args: the arguments, the program's name first.
            stdin, env, preopens, stdout, stderr, max_output: see :class:`WasiConfig`; ``env`` and ``preopens`` add to the
                pool's.
            cwd: a host directory that the guest sees, and may write, as its working directory ``.``.
            timeout: seconds it may run.
            check: raise if the exit code is not 0.
            text: stdout and stderr as str instead of bytes; what is not UTF-8 becomes U+FFFD.

        Raises:
            UnknownExport: the module is no command: it exports no ``_start``.
            BadWasi: something cannot be given to it.
            WasmTrap: it trapped; ``stdout`` and ``stderr`` of the exception hold what it had printed.
            CallTimeout: time is up; likewise.
            OutputLimit: it printed more than ``max_output``; likewise.
            RunFailed: ``check`` was asked for; likewise.
            WorkerCrashed, PoolClosed: as :meth:`call`.
        """
        future = self.submit_run(
            args,
            stdin=stdin,
            env=env,
            cwd=cwd,
            preopens=preopens,
            stdout=stdout,
            stderr=stderr,
            timeout=timeout,
            check=check,
            text=text,
            max_output=max_output,
        )
        return _wait(future)

    def submit_run(
        self,
        args: Sequence[Any] | None = None,
        *,
        stdin: Stdin = None,
        env: MappingType[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        preopens: MappingType[str, Any] | None = None,
        stdout: Stream = CAPTURE,
        stderr: Stream = CAPTURE,
        timeout: float | None = None,
        check: bool = False,
        text: bool = False,
        max_output: int | None = None,
    ) -> Future[CompletedRun]:
        """:meth:`run` as a future; ``cancel()`` stops the command."""
        if self._wasi is None:
            raise BadWasi("give the pool wasi=WasiConfig() to run the module as a command")
        if self.exports.get("_start") != FuncType():
            raise UnknownExport("the module is no command: it exports no _start; is it a library, to be called?")
        base = self._wasi
        config = replace(
            base,
            args=base.args if args is None else args,
            env={**(base.env or {}), **(env or {})},
            preopens={**(base.preopens or {}), **(preopens or {}), **({} if cwd is None else {".": (cwd, "rw")})},
            stdin=base.stdin if stdin is None else stdin,
            stdout=base.stdout if stdout == CAPTURE else stdout,
            stderr=base.stderr if stderr == CAPTURE else stderr,
            max_output=base.max_output if max_output is None else max_output,
        )
        timeout = bounded(self._timeout if timeout is None else checked_timeout(timeout))
        lines = {n: stream for n, stream in ((1, config.stdout), (2, config.stderr)) if callable(stream)}
        job = CommandRun(config.spec(), text, check, lines, timeout, capture(self._visible, timeout))
        self._dispatcher.submit(job)
        return job

    def run_map(
        self,
        runs: Iterable[Any],
        *,
        args: Sequence[Any] | None = None,
        timeout: float | None = None,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        progress: bool | Progress = False,
        **options: Any,
    ) -> MapResults[CompletedRun]:
        """:meth:`run` for each of many: items are the stdin (bytes) of a run with ``args``, or its own list of arguments.

        Args:
            timeout: seconds each run may take.
            buffersize, return_exceptions, progress: as for :meth:`map`.
            options: others of :meth:`run`.

        Returns:
            A lazy iterator over the completed runs in order.
        """

        def submit(item: Any) -> Future[CompletedRun]:
            if isinstance(item, (bytes, bytearray, memoryview)):
                return self.submit_run(args, stdin=item, timeout=timeout, **options)
            return self.submit_run(item, timeout=timeout, **options)

        shape = MapOptions(None, None, buffersize, None, return_exceptions, True, progress)
        jobs = JobMapping(submit, iter(runs), buffersize or MOST_JOBS_AHEAD, return_exceptions)
        return MapResults.over(job_lists(jobs.in_order(None), shape, _shortest((runs,))), jobs.stop)

    # -- leases --------------------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> Lease:
        """Lease an instance: nobody else uses it until it is given to :meth:`put`.

        Args:
            timeout: seconds to wait when all instances are in use; None for as long as it takes.

        Raises:
            TimeoutError: there was none to be had in that time.
            PoolClosed: the pool was shut down.
        """
        lease = Lease(self._dispatcher, self._direct, self._callables, self.exports, self._visible, self._timeout)
        lease.acquire(checked_timeout(timeout))
        return lease

    def put(self, lease: Lease, discard: bool = False) -> None:
        """Give a leased instance back; with ``discard`` it is thrown away.

        Raises:
            LeaseEnded: it was given back before.
        """
        lease.put(discard)

    def instance(self, timeout: float | None = None, discard: bool = False) -> Leasing:
        """``with pool.instance() as lease:`` leases an instance for the block.  Arguments as for `get` and `put`."""
        return Leasing(functools.partial(self.get, timeout), discard)

    # -- many at once --------------------------------------------------------------------------------------------------

    def map(
        self,
        export: str | Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        item_timeout: float | None = None,
        return_exceptions: bool = False,
        ordered: bool = True,
        progress: bool | Progress = False,
    ) -> MapResults[Any]:
        """Call an export, or a callable as in :meth:`submit`, on the items of iterables, as Executor.map does.

        Items for an export travel as columns and the loop over them runs inside wasm, so a small call costs
        nanoseconds.  Lazy: items are read as results are taken, a bounded number ahead, so the iterables may be endless.

        Args:
            timeout: seconds from now until which results may be waited for.
            chunksize: items per chunk; by default that follows from how long items are seen to take.  A callable's items
                are jobs of their own, grouped by measured duration in any case.
            buffersize: how many items to read ahead of the results taken, at most.
            item_timeout: seconds one item may run, noticed within a quarter more; by default the pool's ``timeout``.
            return_exceptions: give an item's exception in its place and go on, instead of raising it.
            ordered: false gives pairs (index, result) as they get done.
            progress: true shows a bar (by tqdm, an extra); a callable is called with (items done, items in all or None).

        Returns:
            An iterator over the results in order.  The first failing item raises in its place.  ``close()`` it, or drop
            it, to stop what is under way.

        Raises:
            UnknownExport, PoolClosed: at once.
            BadArguments: from the iterator, in the item's place; names its index.
            concurrent.futures.TimeoutError: from the iterator, when ``timeout`` has passed.
            Whatever :meth:`call` raises, from the iterator, in the item's place.
        """
        options = MapOptions(timeout, chunksize, buffersize, item_timeout, return_exceptions, ordered, progress)
        if callable(export):
            return self._map_shipped(export, zip(*iterables, strict=False), _shortest(iterables), options)
        function = self._mappable(export)
        return self._map(function, source_of(ColumnCodec(function.codec), iterables), options)

    def starmap(
        self,
        export: str | Callable[..., Any],
        rows: Iterable[Iterable[Any]],
        *,
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        item_timeout: float | None = None,
        return_exceptions: bool = False,
        ordered: bool = True,
        progress: bool | Progress = False,
    ) -> MapResults[Any]:
        """As :meth:`map`, over an iterable of argument tuples (multiprocessing.Pool's spelling)."""
        options = MapOptions(timeout, chunksize, buffersize, item_timeout, return_exceptions, ordered, progress)
        if callable(export):
            return self._map_shipped(export, iter(rows), _shortest((rows,)), options)
        function = self._mappable(export)
        return self._map(function, RowSource(ColumnCodec(function.codec), rows), options)

    def _mappable(self, export: str) -> Export:
        function = self._functions.get(export) or self._no_function(export)
        if self._dispatcher.closed:
            raise self._dispatcher.why_closed()
        return function

    def _map(self, function: Export, source: Source, options: MapOptions) -> MapResults[Any]:
        deadline = options.deadline()
        mapping = Mapping(
            self._dispatcher,
            function,
            source,
            most=MOST_OBJECTS,
            chunksize=options.chunksize,
            buffersize=options.buffersize,
            item_timeout=self._timeout if options.item_timeout is None else checked_timeout(options.item_timeout),
            go_on=options.return_exceptions,
            context=capture(self._visible),
        )
        runs = mapping.in_order(deadline) if options.ordered else mapping.as_completed(deadline)
        runs = with_progress(runs, options.progress, source.total)
        return MapResults.over(result_lists(runs, options.return_exceptions, not options.ordered), mapping.stop)

    def _map_shipped(
        self, function: Callable[..., Any], rows: Iterator[Iterable[Any]], total: int | None, options: MapOptions
    ) -> MapResults[Any]:
        deadline = options.deadline()

        surroundings = contextvars.copy_context()  # as they are now, not when the items come to be read

        def submit(row: Iterable[Any]) -> Future[Any]:
            return surroundings.run(self.submit, function, *row, timeout=options.item_timeout)

        jobs = JobMapping(submit, rows, options.buffersize or MOST_JOBS_AHEAD, options.return_exceptions)
        done = jobs.in_order(deadline) if options.ordered else jobs.as_completed(deadline)
        return MapResults.over(job_lists(done, options, total), jobs.stop)

    def map_array(self, export: str, *arrays: Any, out: Any = None, progress: bool | Progress = False) -> Any:
        """Call an export on each item of arrays, as a numpy ufunc does.

        Args:
            arrays: one per parameter; numpy arrays, anything with the buffer protocol, nested lists, or scalars.  They
                are broadcast against each other and cast by numpy's ``same_kind`` rule.  Any shape and strides.
            out: an array, or a tuple of one per result, to write into: of the exact dtype (int32, int64, float32,
                float64, V16) and shape, C-contiguous.
            progress: as for :meth:`map`.

        Returns:
            An array of the broadcast shape, a tuple of one per result, or None for an export without results.  Arrays of
            any size are streamed through a few megabytes per worker.

        Raises:
            ImportError: numpy is not installed.
            BadArguments: a dtype, a shape or ``out`` does not fit; nothing has run then.
            Whatever :meth:`call` raises for the first item that failed; what was written to ``out`` stays.
        """
        from .maps.arrays import ArraySource

        function = self._mappable(export)
        source = ArraySource(export, function.codec.signature, arrays, out)
        most = max(1, ARRAY_CHUNK_BYTES // max(item_bytes(function), 1))
        context = capture(self._visible)
        mapping = Mapping(self._dispatcher, function, source, most=most, item_timeout=self._timeout, context=context)
        for run in with_progress(mapping.in_order(None), progress, source.total):
            if run.chunk.errors:
                mapping.stop()
                raise run.chunk.errors[min(run.chunk.errors)]
        return source.result()

    def ufunc(self, export: str) -> Callable[..., Any]:
        """``pool.ufunc("add")(a, b)`` is ``pool.map_array("add", a, b)``.

        Raises:
            UnknownExport, PoolClosed: at once.
        """
        self._mappable(export)
        return functools.partial(self.map_array, export)

    async def acall(self, export: str, /, *args: Any, timeout: float | None = None) -> Any:
        """:meth:`call` for asyncio: does not block the event loop."""
        import asyncio  # only here: it takes longer to import than a pool to start

        return await asyncio.wrap_future(self.submit(export, *args, timeout=timeout))

    async def amap(
        self, export: str, *iterables: Iterable[Any], return_exceptions: bool = False, chunksize: int | None = None
    ) -> AsyncIterator[Any]:
        """:meth:`map` for asyncio: ``async for result in pool.amap("add", xs, ys)``."""
        function = self._mappable(export)
        source = source_of(ColumnCodec(function.codec), iterables)
        mapping = Mapping(
            self._dispatcher,
            function,
            source,
            most=MOST_OBJECTS,
            chunksize=positive("chunksize", chunksize),
            item_timeout=self._timeout,
            go_on=return_exceptions,
            context=capture(self._visible),
        )
        async with contextlib.aclosing(mapping.in_order_async()) as runs:
            async for run in runs:
                for results in result_lists(iter((run,)), return_exceptions, False):
                    for result in results:
                        yield result

    # -- life ----------------------------------------------------------------------------------------------------------

    def wait_ready(self, timeout: float | None = None) -> None:
        """Block until every worker is ready.

        Raises:
            TimeoutError: that took longer than ``timeout`` seconds.
            PoolClosed: the pool was shut down meanwhile.
        """
        self._dispatcher.wait_ready(timeout)

    def resize(self, workers: int) -> None:
        """Have that many workers from now on.  Returns at once; `wait_ready` waits for new ones.

        Workers that are too many go when they have nothing to do; no job is interrupted.

        Raises:
            ValueError: not an int from 1 to MAX_WORKERS.
            PoolClosed: the pool was shut down.
        """
        self._dispatcher.resize(checked_workers(workers))

    def restart(self, timeout: float | None = None) -> None:
        """Replace all workers, one after the other, each when another is ready; no job is lost or interrupted.

        Raises:
            TimeoutError: that took longer than ``timeout`` seconds; it goes on.
            PoolClosed: the pool was shut down.
        """
        self._dispatcher.restart(timeout)

    def drain(self, timeout: float | None = None) -> None:
        """Block until no job is queued or running.

        Raises:
            TimeoutError: that took longer than ``timeout`` seconds.
            PoolClosed: the pool was shut down.
        """
        self._dispatcher.drain(timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs, finish those there are, and end all processes.  May be called again, from any thread.

        Args:
            wait: return when all has ended; otherwise at once.
            cancel_futures: cancel what has not begun.
        """
        if cancel_futures:
            scheduler = self._dispatcher.scheduler
            processes = list(self._dispatcher.population.present.values())
            waiting = [job for process in processes for worker in process.workers for job in worker.own]
            for job in (*scheduler.queue, *waiting):
                job.cancel()
        self._dispatcher.close()
        if wait:
            self._dispatcher.join()

    def terminate(self) -> None:
        """End all processes now.  Jobs that have not finished end in PoolClosed."""
        self._dispatcher.terminate()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None or issubclass(kind, Exception):
            self.shutdown(cancel_futures=kind is not None)
        else:
            self.terminate()

    # -- looking -------------------------------------------------------------------------------------------------------

    def stats(self) -> PoolStats:
        """What the pool is doing now, and has done."""
        return observe(self._dispatcher)

    def __repr__(self) -> str:
        dispatcher = self._dispatcher
        if dispatcher.closed:
            return f"<ProcessWasmPool {self._name} closed>"
        idle, pending = len(dispatcher.scheduler.idle), dispatcher.scheduler.pending()
        return f"<ProcessWasmPool {self._name} workers={len(dispatcher.population.present)} idle={idle} pending={pending}>"

    def _no_function(self, export: object) -> NoReturn:
        if not isinstance(export, str):
            raise TypeError(f"expected the name of an export, got {export!r} ({type(export).__name__})")
        if export in self._refused:
            raise BadArguments(*self._refused[export].args)
        if export in self.exports:
            raise UnknownExport(f"the export {export!r} is a {self.exports[export]}, not a function")
        near = get_close_matches(export, self._functions, n=3) or sorted(self._functions)[:5]
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; it exports no callable function at all"
        raise UnknownExport(f"the module exports no function {export!r}{hint}")


def _wait(future: Future[T]) -> T:
    """Its result; if we are interrupted while we wait, nobody needs it any more."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _shortest(iterables: Sequence[Iterable[Any]]) -> int | None:
    """How many items there will be, if all can tell."""
    if iterables and all(isinstance(item, Sized) for item in iterables):
        return min(len(item) for item in iterables if isinstance(item, Sized))
    return None


class _ExportTable(MappingType[str, Export]):
    """The pool's functions, for leases: looking one up explains itself as the pool does."""

    def __init__(self, pool: ProcessWasmPool) -> None:
        self._functions = pool._functions
        self._refuse = weakref.WeakMethod(pool._no_function)

    def __getitem__(self, name: str) -> Export:
        function = self._functions.get(name)
        refuse = self._refuse()
        if function is None and refuse is not None:
            refuse(name)
        if function is None:
            raise UnknownExport(f"the module exports no function {name!r}")
        return function

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)
