"""ProcessWasmPool: what a user holds."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from collections.abc import Mapping as MappingType
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

from . import pickler, wire
from .bytes_function import BytesFunction, bytes_function
from .checks import boolean, choice, is_int, shown
from .compiled_program import CompiledProgram, compile_program
from .confinement import Sandbox, SandboxLevel, check_run, decide
from .deadline import Deadline
from .engine import Feature
from .errors import BadSnapshot, BadWasi, CallTimeout
from .export_function import ExportFunction, ExportTable
from .imports import Imports, OnMissing, Renames
from .job_context import capture, deadline_of
from .kind import kind_of
from .lifetime import Lifetime
from .maps.callable_map import CallableMap
from .maps.course import Course, MapsUnderWay
from .maps.export_map import ArrayMap
from .maps.options import Casting, MapOptions, Progress
from .maps.results import AsyncMapResults, MapResults, Waiting
from .maps.sources import Columns, Given, Rows
from .module import ModuleSource, content_of, is_path
from .options import (
    MAX_WORKERS,
    Balance,
    Isolation,
    OnFull,
    PoolOptions,
    Start,
    StartMethod,
    checked_timeout,
    checked_workers,
    default_start_method,
    usable_cpus,
)
from .plain_executor import PlainExecutor
from .printable import printable
from .saved import opened, save
from .stats import PoolStats, observe
from .supervisor.awaiting import ended_async, running_loop, turn_for_others, wait_async, wait_for
from .supervisor.direct import DirectCalls
from .supervisor.dispatcher import Dispatcher
from .supervisor.events import PoolEvent, announced
from .supervisor.jobs.call import Callee, Job
from .supervisor.jobs.command import CommandRun
from .supervisor.jobs.shipped import ShippedCall, Shipper
from .supervisor.launch import Inheritance, reserve_stdio
from .supervisor.lease import Lease, Request
from .supervisor.leasing import Leasing
from .supervisor.prompt import PromptCalls
from .tenancy import NOBODY, as_tenant, tenant_of
from .trust import Trust
from .warming import Warming, compiled_keeper
from .wasi import (
    CAPTURE,
    INHERIT,
    CompletedRun,
    Preopens,
    Stdin,
    Stream,
    WasiConfig,
    empty_files,
)
from .worktime import PoolReport, account

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import TypeVarTuple, Unpack

    from .signatures import (
        AnyMap,
        AnyOrderMap,
        BytesConvention,
        Items,
        JobKeywords,
        OrderedMap,
        OutcomesMap,
        Returning,
        RunKeywords,
        UnorderedMap,
    )
    from .worker.instance import Instance

    Args = TypeVarTuple("Args")

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
#: What is waited for, for messages.
_READY, _REPLACED = "all workers are ready", "the workers are replaced"


class ProcessWasmPool(Lifetime):
    """N worker processes that run the exports of one WebAssembly module in parallel.

    It is a :class:`concurrent.futures.Executor` whose "function" is the name of an export.  Any number of threads and
    event loops may use one pool at once.

    Args:
        src: the module, or a component: bytes (binary or text), WAT text, or the path of a ``.wasm`` or ``.wat`` file; or
            the path of a file that :meth:`save_snapshot` has made.
        workers: how many processes; by default as many as this process may use CPUs.
        timeout: seconds each job has from when it is given to the pool, waiting for a worker included, unless the call says
            otherwise; None for no limit.
        kill_grace: seconds an interrupted job may take to stop before its worker is killed.
        memory_limit: bytes that each linear memory of an instance may grow to; beyond, ``memory.grow`` fails.
        fuel: how much a call may burn, about one unit per wasm instruction; then it traps with code OUT_OF_FUEL.  In a map,
            each item has that much.
        max_pending: jobs that may wait in the queue; by default any number.
        instances: how many instances each worker process serves at once, on a thread each.  More than one helps when host
            functions wait for something.
        imports: what the module imports: ``{"env": {"log": function}}``.  Functions run in the workers; they travel by
            cloudpickle.  A number serves an imported global, and a MemoryType or TableType has one made per instance.
            For a component, functions by interface, ``{"ns:pkg/log@1.0.0": {"write": function}}``, or an object with
            methods for one; those of no interface under ``""``.
        modules: other modules that ``src``, or one another, import from, by the name they are imported by: ``{"math":
            "math.wasm"}``.  Each instance of ``src`` gets instances of its own of them.  What they export is known as
            ``"math.sin"`` to every method here.  What no module exports is looked for in ``imports``.  ``_initialize`` of a
            linked module is called before anything uses it.
        rename_imports: import's module name (or (module, name)) -> the name that it has in ``imports`` or ``modules``.  For
            the imports of one linked module alone: its name -> such a mapping, which goes first.
        on_missing_import: what serves imports that nothing is given for.  By default the module is refused, with all of
            them named.  ``"trap"``: a function whose call fails; ``"zero"``: one that returns zeros and nulls; with both,
            memories and tables of the type imported, and globals that are zero or null.  Or a function of yours that gets
            the :class:`Import` and returns what ``imports`` would give for it.
        isolation: ``"pooled"`` reuses an instance until a call of it fails; ``"fresh"`` makes a new one for every call;
            ``"snapshot"`` has each call, item of a map, callable, command and lease find the instance as ``start`` and
            ``warm`` have left it.
        prewarm: how many of a worker's instances are made before it is ready; the others when they are first used.
        recycle_memory: bytes; an instance one of whose exported memories has grown beyond this, and beyond what it began
            with, does not serve another call.
        idle_expiry: seconds after which an unused instance beyond ``prewarm``, and with ``min_workers`` an unused worker
            beyond those, goes.
        min_workers: start with so many, add one when all are busy and jobs wait, and go back when they are not needed.
        initializer: called with ``initargs`` in each worker before it is ready; what it puts into ``procpool.state`` is
            there for host functions and callables.
        start: what to do once in each new instance, in turn: call an export (``"name"``), call it with arguments
            (``("name", 1, 2)``), or call a function of yours with the :class:`Instance`.  By default ``_initialize``, if
            there is one.  A start that exits with code 0 has succeeded.
        warm: likewise, one step or a list of them, and only once for the pool: all instances, and the commands of
            :meth:`run`, begin with the memories, globals and tables that were there after ``start`` and these steps.
        wasi: gives the module WASI, and what :meth:`run` starts from; see :class:`WasiConfig`.
        balance: ``"least_busy"`` gives a job to the worker used last of those with nothing to do, whose caches are warm;
            ``"round_robin"`` to each in turn.
        retries: how often a job is run again after the worker it ran in died.  For a module with imports that may repeat
            what its host functions have done.
        rlimits: limits for each worker process, name as in ``resource.RLIMIT_...`` -> value: ``{"AS": 2**33, "CPU": 60}``.
            CORE is 0 unless given.
        max_stack: bytes of wasm stack; a deeper recursion traps.
        on_event: called with a :class:`PoolEvent` when the module is compiled, a worker starts, gets ready, crashes, is
            killed, replaced, or a call times out.  Runs in a thread for such code, one event after the other.
        on_full: what ``submit`` does when so many wait: ``"block"`` until there is room, for ``full_timeout`` seconds at
            most, or ``"raise"`` PoolFull.
        max_tasks_per_worker: calls after which a worker is replaced; the new one is ready before the old one goes.
        start_timeout: seconds a worker may take to become ready, initializer and start functions included; one that takes
            longer is killed.  Also how long to wait for another program that compiles the same module, before this one does
            so without keeping the result, and for a process that compiles and was stopped.
        max_worker_memory: resident bytes, looked at four times a second, beyond which a worker is likewise replaced; it is
            killed at twice that.
        start_method: ``"forkserver"`` (forks ready workers from a template process; default on Linux) or ``"spawn"`` (a
            fresh interpreter for each; default elsewhere).
        cache: keep the compiled module on disk, in a directory of this user's, so that the next run of the program, or
            another one, need not compile.
        sandbox: what workers give up before guest code runs, so that a guest that gets out of wasm finds nothing that it
            could do: ``"default"`` all that the system lets them, if no Python code of yours can run in them (see
            ``callables``); ``"strict"`` all, whatever runs in them, and the pool is not made if something is missing;
            ``"off"`` nothing.  `sandbox` says what came of it.
        tenants: jobs belong to tenants, see `tenant`, and those of different ones never share a process.  Each call is
            queued then, and nothing is sent ahead to a worker that is busy.
        callables: false refuses Python callables, in `submit`, `map` and the like.
        features: proposals for WebAssembly that the modules may use beside those that wasmtime allows by itself:
            ``["custom-page-sizes"]``.  See `Feature`.
        trust: which answers of workers are unpickled: whoever has taken over a worker can run any code here by one of
            those.  ``"auto"``: results and exceptions of callables; other exceptions only if Python code of yours runs with
            every job anyhow, being among ``imports``, ``start`` or ``warm``, or the ``initializer``.  ``"nothing"``: none.
            Then callables return plain data: None, bool, int, float, complex, str, bytes, bytearray, and tuples, lists,
            dicts, sets and frozensets of these, and numpy's arrays and numbers.  Exceptions of other types than Python's
            own and procpool's come as a RemoteError.  ``"workers"``: all.

    Raises:
        InvalidModule: ``src`` is not a module that wasmtime accepts.
        MissingImport: the module imports something that neither ``imports`` nor ``modules`` gives.
        BadImport: ``imports`` or ``modules`` gives something that does not fit, ``imports`` something that no module
            imports, or modules import from each other in a circle.
        UnknownExport, BadArguments: ``start`` or ``warm`` names no function, or gives one what it does not take.
        BadSnapshot: with ``warm`` or ``isolation="snapshot"``, the instance holds something that cannot be kept; or a saved
            snapshot is not whole, or for another release of wasmtime.
        Whatever ``initializer`` raises.
        OSError: the file cannot be read.
        SandboxUnavailable: ``sandbox="strict"`` cannot be had here; names what is missing.
        StartupError: no worker could be started, or none was ready within ``start_timeout``; the cause is attached.
        ValueError, TypeError: another argument is out of its range.

    **Timeouts.**  All are seconds: any positive real number (a float, an int, a Decimal, one of numpy's) of any size, and
    ``math.inf`` for no limit.  The ``timeout`` of a method counts from when it is called, so it includes waiting for a
    worker, and for room in the queue.  None is the pool's own ``timeout`` where a method runs something or leases an
    instance; to methods that wait for the pool itself (`wait_ready`, `drain`, `restart`, `shutdown`) it is no limit.

    **Asyncio.**  Each method that blocks has a twin that does not: `acall`, `acall_bytes`, `arun`, `amap`, `aget`, `aput`,
    `await_ready`, `adrain`, `arestart`, `ashutdown`, ``async with pool.instance()``, ``async with pool``.  A twin takes the
    same keywords; cancelling the task cancels what it waits for.  They work under asyncio, uvloop and anyio on asyncio.
    Under trio, run the blocking ones in threads: ``await trio.to_thread.run_sync(pool.call, "add", 1, 2)``.  A job that
    raises StopIteration, which no coroutine can raise, arrives as a RuntimeError with that as its cause, as in PEP 479.
    For ``loop.run_in_executor`` see `plain_executor`, and `function` for exports.

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
        modules: MappingType[str, ModuleSource] | None = None,
        rename_imports: Renames | None = None,
        on_missing_import: OnMissing = None,
        isolation: Isolation = "pooled",
        prewarm: int = 1,
        recycle_memory: int | None = None,
        idle_expiry: float | None = None,
        min_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        start: Sequence[Start] | None = None,
        warm: Start | Sequence[Start] | None = None,
        wasi: WasiConfig | None = None,
        balance: Balance = "least_busy",
        retries: int = 0,
        rlimits: MappingType[str, int] | None = None,
        max_stack: int | None = None,
        on_event: Callable[[PoolEvent], None] | None = None,
        kill_grace: float = 1.0,
        memory_limit: int | None = None,
        fuel: int | None = None,
        max_pending: int | None = None,
        on_full: OnFull = "block",
        full_timeout: float | None = None,
        max_tasks_per_worker: int | None = None,
        max_worker_memory: int | None = None,
        start_method: StartMethod | None = None,
        start_timeout: float = 60.0,
        cache: bool = True,
        sandbox: SandboxLevel = "default",
        tenants: bool = False,
        callables: bool = True,
        features: Sequence[Feature] = (),
        trust: Trust = "auto",
    ) -> None:
        options = PoolOptions(
            workers=usable_cpus() if workers is None else workers,
            timeout=timeout,
            instances=instances,
            imports={} if imports is None else imports,
            rename_imports={} if rename_imports is None else rename_imports,
            on_missing_import=on_missing_import,
            isolation=isolation,
            prewarm=prewarm,
            recycle_memory=recycle_memory,
            idle_expiry=math.inf if idle_expiry is None else idle_expiry,
            min_workers=min_workers,
            initializer=initializer,
            initargs=initargs,
            start=start,
            warm=warm,
            wasi=wasi,
            balance=balance,
            retries=retries,
            rlimits={} if rlimits is None else rlimits,
            max_stack=max_stack,
            on_event=on_event,
            kill_grace=kill_grace,
            memory_limit=memory_limit,
            fuel=fuel,
            max_pending=max_pending,
            on_full=on_full,
            full_timeout=full_timeout,
            max_tasks_per_worker=math.inf if max_tasks_per_worker is None else max_tasks_per_worker,
            max_worker_memory=max_worker_memory,
            start_method=default_start_method() if start_method is None else start_method,
            start_timeout=start_timeout,
            cache=cache,
            sandbox=sandbox,
            tenants=tenants,
            callables=callables,
            features=features,
            modules={} if modules is None else modules,
            trust=trust,
        )
        self._options = options
        self._timeout = options.timeout
        self._retries = options.retries
        self._maps = MapsUnderWay()
        with announced(options.on_event) as (delivery, journal), contextlib.ExitStack() as on_failure:
            saved = opened(src)
            if saved is None:
                self._source, self._name = src, os.path.basename(src) if is_path(src) else "<bytes>"
            else:
                on_failure.callback(os.close, saved.state)
                self._source, self._name = saved.module, saved.name
                _check_not_done(options)
            snapshots = saved is not None or options.snapshots
            reserved = reserve_stdio()
            for fd in reserved:
                on_failure.callback(os.close, fd)
            compiled = compile_program(
                self._source,
                options.modules,
                options.rename_imports,
                options.cache,
                options.engine,
                journal.note,
                options.start_timeout,
                snapshots,
            )
            on_failure.callback(compiled.close)
            kind = self._kind = kind_of(compiled)
            program = compiled.program
            self._sources = compiled.sources
            if saved is not None and saved.linked != self._linked_sources():
                known = ", ".join(map(printable, saved.linked)) or "none"
                raise BadSnapshot(f"the snapshot was saved with other modules linked ({known}); give the same as modules=")
            #: what the module exports, by name: signatures of functions, and memories, tables and globals; what a linked
            #: module exports is there as ``"module.name"``
            self.exports: MappingType[str, Any] = kind.exports
            self._shipped = Shipper(self.exports, options.callables)
            #: what it imports, but from linked modules, and what those do
            self.imports: tuple[Any, ...] = kind.imports
            self._functions = kind.functions
            self._callables = ExportTable(self)
            prepared = kind.prepare(options)
            functions = kind.signatures
            self._wasi = options.wasi
            spec = self._spec = None if self._wasi is None else self._wasi.spec()
            found = prepared.found
            environment = wire.Environment(found, options.initializer, tuple(options.initargs), spec, prepared.start)
            self._sandbox = decide(options.sandbox, environment, options.callables, prepared.warm)
            self._visible = bool(found)  # whether Python code runs with a call
            self._trusted = options.trusted
            if self._wasi is not None:
                empty_files(stdout=self._wasi.stdout, stderr=self._wasi.stderr)
            snapshot = -1 if saved is None else saved.state
            keeper = -1
            if snapshots:
                assert isinstance(compiled, CompiledProgram)  # of anything else, none could be compiled for that
                if snapshot < 0:
                    warming = Warming(compiled, functions, environment, prepared.warm, options, self._name)
                    snapshot = warming.snapshot()
                    on_failure.callback(os.close, snapshot)
                keeper = compiled_keeper(snapshot, compiled.program, options)
                on_failure.callback(os.close, keeper)
                environment = environment._replace(start=())  # it is behind all instances
            told = self._sandbox.told
            pickles = self._trusted.all
            guest = options.guest(pickler.dumps(environment), bool(self.imports), self._name, pickles, told)
            limits = options.guest_limits()
            inheritance = Inheritance(
                compiled.artifacts,
                functions,
                program,
                limits,
                guest,
                options.instances,
                MAX_WORKERS,
                reserved,
                snapshot,
                keeper,
            )
            on_failure.pop_all()  # they are the inheritance's now
            on_failure.callback(inheritance.close)
            self._inheritance = inheritance
            self._runner = self._dispatcher = Dispatcher(inheritance, options, delivery, journal)
            on_failure.pop_all()
        self._direct = DirectCalls(self._dispatcher, self._visible)
        self._prompt = PromptCalls(self._dispatcher, self._direct)
        # Not at exit, where the dispatcher sees to itself: then nobody is left to want the results.
        weakref.finalize(self, self._dispatcher.close_soon).atexit = False
        try:
            self._dispatcher.wait_started()
        except BaseException:
            self._dispatcher.terminate()
            raise

    # -- running things ------------------------------------------------------------------------------------------------

    def call(self, export: str, /, *args: Any, timeout: float | None = None) -> Any:
        """Call an export and wait for its result.

        Args:
            args: one per parameter: ints for i32 and i64, ints or floats for f32 and f64, 16 bytes for v128.  For a
                component, values of the types of WIT that ``exports`` shows: numbers, str, bytes, lists, `types`.
            timeout: seconds from now; None for the pool's, math.inf for no limit.

        Returns:
            None, the value, or a tuple of several.  Integers come back signed.

        Raises:
            UnknownExport: there is no such function; the message lists near matches.
            BadArguments, ArgumentOutOfRange: an argument does not fit; nothing was sent.
            WasmTrap: the guest trapped.
            WasmResultError: the function of a component returned the error of its ``result``.
            CallTimeout: time is up.  The guest is stopped, and the worker serves others again.
            WorkerCrashed: the worker died while running it.
            PoolClosed: the pool was shut down.
            ValueError, TypeError: ``timeout`` is no positive number.
        """
        deadline = deadline_of(timeout, self._timeout)
        function = (self._functions.get(export) if isinstance(export, str) else None) or self._function(export)
        if self._options.tenants:  # a caller that takes a worker itself does not ask whose it is
            return _result(self._dispatcher.submit(self._call_job(function.name, args, deadline), deadline))
        if self._dispatcher.closed:
            raise self._dispatcher.why_closed()
        return self._direct.call(function, args, deadline)

    @overload
    async def acall(self, export: str, /, *args: Any, **how: Unpack[JobKeywords]) -> Any: ...
    @overload
    async def acall(
        self, export: Callable[[Instance, Unpack[Args]], T], /, *args: Unpack[Args], **how: Unpack[JobKeywords]
    ) -> T: ...
    async def acall(  # type: ignore[misc]  # mypy does not know that Any takes what Args does
        self,
        export: str | Callable[..., Any],
        /,
        *args: Any,
        timeout: float | None = None,
        priority: int = 0,
        key: Hashable = None,
        retries: int | None = None,
    ) -> Any:
        """:meth:`call` for asyncio, and :meth:`submit`: takes a callable and the other keywords as well.

        For a future of asyncio's, ``asyncio.create_task(pool.acall("add", 1, 2))``: it waits for room in the queue without
        blocking the loop, which `submit` cannot.
        """
        loop = running_loop("pool.call, ...")
        deadline = deadline_of(timeout, self._timeout)
        function = self._ordinary(export, priority, key, retries)
        job = None if function is None else self._prompt.attempt(function, args, deadline, self._retries)
        if job is None:
            job = self._call_job(export, args, deadline, priority, key, retries)
            return await self._run(job, deadline, loop)
        if job.done():
            await turn_for_others()
            return job.result()
        return await wait_async(job, Deadline.NEVER, "the job is done", loop)

    @overload  # type: ignore[override]  # Executor's takes keywords for the function; an export has none
    def submit(self, export: str, /, *args: Any, **how: Unpack[JobKeywords]) -> Future[Any]: ...
    @overload
    def submit(
        self, export: Callable[[Instance, Unpack[Args]], T], /, *args: Unpack[Args], **how: Unpack[JobKeywords]
    ) -> Future[T]: ...
    def submit(  # type: ignore[misc]  # as for acall
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

        A call of an export may be made at once, if a worker is idle: then this takes up to one and a half times what it
        costs to wake a worker (0.75 ms at most), and the future may have ended when it is returned.

        Args:
            export: the name of an export; or a callable, run as ``export(instance, *args)`` with an
                :class:`~procpool.worker.instance.Instance`.  It is sent once per worker (by cloudpickle, so lambdas and
                functions of ``__main__`` work too), as it was when it was first given.
            args: the arguments; for a callable, anything that pickles.  Large bytes and arrays go through shared memory.
            timeout: seconds from now, queueing included; None for the pool's, math.inf for no limit.
            priority: jobs of higher priority go first; among equals, the one submitted first.
            key: jobs with the same key run in the order they were submitted, one after the other, on the same worker and
                instance as long as it lives.  Jobs with other keys, and without, are not held up.  Compared in the calling
                thread only.
            retries: how often to run it again if its worker dies; by default the pool's.

        Returns:
            A future.  It ends in what :meth:`call` returns or raises.  ``cancel()`` drops a queued job and interrupts a
            running one.  An exception that a callable raises arrives as itself, with the worker's traceback as its cause,
            and the instance is thrown away.

        Raises:
            UnknownExport, BadArguments, PoolClosed: at once, as :meth:`call`.
            PoolFull: ``max_pending`` jobs are waiting.
            CallTimeout: there was no room in the queue in time.
            ValueError, TypeError: a keyword is none of those above; names it.
            Whatever pickling a callable or its arguments raises, or comparing the key with itself, at once.
        """
        deadline = deadline_of(timeout, self._timeout)
        function = self._ordinary(export, priority, key, retries)
        if function is not None:
            return self._prompt.submit(function, args, deadline, self._retries)
        return self._dispatcher.submit(self._call_job(export, args, deadline, priority, key, retries), deadline)

    def _ordinary(
        self, export: str | Callable[..., Any], priority: int, key: Hashable, retries: int | None
    ) -> Callee | None:
        """The function that a call without anything special is for; None if it has to be looked into."""
        if self._options.tenants or type(priority) is not int or priority or key is not None or retries is not None:
            return None
        if not isinstance(export, str):
            return None
        return self._functions.get(export)

    def _call_job(
        self,
        export: str | Callable[..., Any],
        args: tuple[Any, ...],
        deadline: Deadline,
        priority: int = 0,
        key: Hashable = None,
        retries: int | None = None,
        limit: float | None = None,
    ) -> Job:
        """A job to submit; ``limit`` is how long it may run, in seconds, however long it was queued."""
        if type(priority) is not int and not is_int(priority):
            raise TypeError(f"priority must be an int, got {shown(priority)}")
        if retries is not None and not is_int(retries, 0):
            raise ValueError(f"retries must be an int from 0, or None for the pool's, got {shown(retries)}")
        at = None if deadline is Deadline.NEVER else deadline.at
        function = self._functions.get(export) if isinstance(export, str) else None
        if function is None and callable(export) and not isinstance(export, ExportFunction):
            if self._dispatcher.closing:  # before the user's code is asked how it pickles
                raise self._dispatcher.why_closed()
            context = capture(True, limit, at)
            job: Job = ShippedCall(self._shipped.ship(export), args, limit, context, self._trusted.callables)
        else:
            job = (function or self._function(export)).job(args, capture(self._visible, limit, at), limit)
        job.tenant = self._whose()
        if priority:
            job.priority = priority
        if key is not None and self._options.tenants:
            raise ValueError("key and tenants=True do not go together: jobs of a tenant may go to any of its workers")
        if key is not None:
            self._check_open()
            job.owner = self._dispatcher  # whom it gives its key back to, however it ends, and just once
            job.key = self._dispatcher.keys.hold(key)
        job.retries = self._retries if retries is None else retries
        return job

    async def _run(self, job: Job, deadline: Deadline, loop: asyncio.AbstractEventLoop) -> Any:
        """What a job ends in; if we are cancelled while we wait, it is too."""
        await self._offer(job, deadline, loop)
        # The dispatcher keeps the time of jobs, so there is none to keep here.
        return await wait_async(job, Deadline.NEVER, "the job is done", loop)

    async def _offer(self, job: Job, deadline: Deadline, loop: asyncio.AbstractEventLoop) -> None:
        """Queue a job, when there is room."""
        try:
            taken = self._dispatcher.offer(job, deadline)
        except BaseException:
            job.cancel()
            raise
        if taken is None:
            return
        full = Deadline.after(self._options.full_timeout)
        try:
            if not await ended_async(taken, deadline.sooner(full), loop):
                raise self._dispatcher.no_room(job, deadline)
            taken.result()
        except BaseException:
            if not taken.cancel():  # perhaps it is being queued in this moment
                taken.exception()
            job.cancel()
            raise

    def tenant(self, name: str) -> contextlib.AbstractContextManager[None]:
        """``with pool.tenant("alice"):`` has all that is given to the pool inside belong to that tenant.

        Of a pool made with ``tenants=True``.  A worker process serves the tenant of its first job until it ends; another
        tenant gets another process, forked anew from the template.  A worker that is idle gives way to a tenant who has
        none, and so does one of the tenant who has most; no job is interrupted.  What is given outside of such a block
        belongs to nobody, who is a tenant like any other.  The tenant of a map is that of the block where it was begun.  It
        holds for the thread or task, as :func:`context` does.

        Raises:
            ValueError: the pool has no tenants, or the name is empty.
            TypeError: it is no str.
        """
        if not self._options.tenants:
            raise ValueError("this pool does not tell tenants apart; make it with tenants=True")
        return as_tenant(id(self), name)

    def _whose(self) -> str:
        return tenant_of(id(self)) if self._options.tenants else NOBODY

    def function(self, export: str) -> ExportFunction:
        """An export as a callable: ``pool.function("add")(1, 2)`` is ``pool.call("add", 1, 2)``.

        For those who insist on callables, as asyncio in debug mode does: ``loop.run_in_executor(pool,
        pool.function("add"), 1, 2)``.  Given to this pool's `submit` and the like, it stands for the export's name.

        Raises:
            UnknownExport: there is no such function.
        """
        return ExportFunction(self, self._function(export).name)

    def plain_executor(self) -> PlainExecutor:
        """The pool as an executor of the standard library's kind, for functions that take no instance.

        ``loop.run_in_executor(pool.plain_executor(), math.sqrt, 2.0)``, and for libraries that take an Executor.  With the
        keywords of `submit`, and in maps: ``pool.submit(procpool.without_instance(math.sqrt), 2.0, timeout=1)``.
        """
        return PlainExecutor(self)

    def call_bytes(
        self, export: str, /, *args: Any, timeout: float | None = None, **convention: Unpack[BytesConvention]
    ) -> Any:
        """Call an export that takes or returns bytes or text, and wait for its result.

        ``pool.call_bytes("format", "x=1", result=str)``.  Bytes-like and ``str`` arguments are put into the guest's memory,
        by the module's :class:`Convention`, which its exports tell.

        Args:
            timeout: as for :meth:`call`.
            convention: what the exports do not tell, see :class:`BytesFunction`.

        Raises:
            As :meth:`call`; and MemoryError when the guest's allocator has no room.
            GuestError: the export returned an error.
            ValueError: it did not do what the convention says, or the text it returned is none.
        """
        return _result(self.submit_bytes(export, *args, timeout=timeout, **convention))

    async def acall_bytes(
        self, export: str, /, *args: Any, timeout: float | None = None, **convention: Unpack[BytesConvention]
    ) -> Any:
        """:meth:`call_bytes` for asyncio."""
        loop = running_loop("functools.partial(pool.call_bytes, ...)")
        deadline = deadline_of(timeout, self._timeout)
        job = self._call_job(self._bytes_function(export, convention), args, deadline)
        return await self._run(job, deadline, loop)

    def submit_bytes(
        self, export: str, /, *args: Any, timeout: float | None = None, **convention: Unpack[BytesConvention]
    ) -> Future[Any]:
        """:meth:`call_bytes` as a future.  For many, ``pool.map(BytesFunction("sha256", returns=32), blobs)``."""
        deadline = deadline_of(timeout, self._timeout)
        return self._dispatcher.submit(self._call_job(self._bytes_function(export, convention), args, deadline), deadline)

    def _bytes_function(self, export: str, convention: MappingType[str, Any]) -> BytesFunction:
        return bytes_function(self._function(export).core("call_bytes").name, convention)

    # -- commands ------------------------------------------------------------------------------------------------------

    def run(
        self,
        args: Sequence[Any] | None = None,
        *,
        stdin: Stdin = None,
        env: MappingType[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        preopens: Preopens | None = None,
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
            timeout: seconds from now, waiting for a worker included; None for the pool's, math.inf for no limit.
            check: raise if the exit code is not 0.
            text: stdout and stderr as str instead of bytes; what is not UTF-8 becomes U+FFFD.

        Raises:
            UnknownExport: the module is no command: it exports no ``_start``.
            BadWasi: something cannot be given to it.
            WasmTrap: it trapped; ``stdout`` and ``stderr`` of the exception hold what it had printed.
            CallTimeout: time is up; likewise, None if it had not begun.
            OutputLimit: it printed more than ``max_output``; likewise.
            RunFailed: ``check`` was asked for; likewise.
            WorkerCrashed, PoolClosed: as :meth:`call`.
            ValueError, TypeError: ``timeout`` is no positive number, ``check`` or ``text`` is neither True nor False.
        """
        deadline = deadline_of(timeout, self._timeout)
        config = self._configure(args, stdin, env, cwd, preopens, stdout, stderr, max_output)
        command = self._begun(config, stdout, stderr, text, check, deadline)
        done: CompletedRun = _result(self._dispatcher.submit(command, deadline))
        return done

    async def arun(
        self,
        args: Sequence[Any] | None = None,
        *,
        stdin: Stdin = None,
        env: MappingType[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        preopens: Preopens | None = None,
        stdout: Stream = CAPTURE,
        stderr: Stream = CAPTURE,
        timeout: float | None = None,
        check: bool = False,
        text: bool = False,
        max_output: int | None = None,
    ) -> CompletedRun:
        """:meth:`run` for asyncio; cancelling the task stops the command."""
        loop = running_loop("functools.partial(pool.run, ...)")
        deadline = deadline_of(timeout, self._timeout)
        config = self._configure(args, stdin, env, cwd, preopens, stdout, stderr, max_output)
        command = self._begun(config, stdout, stderr, text, check, deadline)
        done: CompletedRun = await self._run(command, deadline, loop)
        return done

    def submit_run(
        self,
        args: Sequence[Any] | None = None,
        *,
        stdin: Stdin = None,
        env: MappingType[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        preopens: Preopens | None = None,
        stdout: Stream = CAPTURE,
        stderr: Stream = CAPTURE,
        timeout: float | None = None,
        check: bool = False,
        text: bool = False,
        max_output: int | None = None,
    ) -> Future[CompletedRun]:
        """:meth:`run` as a future; ``cancel()`` stops the command."""
        deadline = deadline_of(timeout, self._timeout)
        config = self._configure(args, stdin, env, cwd, preopens, stdout, stderr, max_output)
        command = self._begun(config, stdout, stderr, text, check, deadline)
        return self._dispatcher.submit(command, deadline)

    def _configure(
        self,
        args: Sequence[Any] | None = None,
        stdin: Stdin = None,
        env: MappingType[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        preopens: Preopens | None = None,
        stdout: Stream = CAPTURE,
        stderr: Stream = CAPTURE,
        max_output: int | None = None,
    ) -> WasiConfig:
        """The pool's configuration with what a run gives."""
        base = self._wasi
        if base is None:
            raise BadWasi("give the pool wasi=WasiConfig() to run the module as a command")
        self._kind.check_command()
        for name, given in (("env", env), ("preopens", preopens)):
            if given is not None and not isinstance(given, MappingType):
                raise BadWasi(f"{name} must be a mapping, got {shown(given)}")
        return replace(
            base,
            args=base.args if args is None else args,
            env={**(base.env or {}), **(env or {})},
            preopens={**(base.preopens or {}), **(preopens or {}), **({} if cwd is None else {".": (cwd, "rw")})},
            stdin=base.stdin if stdin is None else stdin,
            stdout=base.stdout if isinstance(stdout, str) and stdout == CAPTURE else stdout,
            stderr=base.stderr if isinstance(stderr, str) and stderr == CAPTURE else stderr,
            max_output=base.max_output if max_output is None else max_output,
        )

    def _command(
        self, config: WasiConfig, text: bool, check: bool, deadline: Deadline, limit: float | None = None
    ) -> CommandRun:
        boolean("check", check)
        boolean("text", text)
        self._check_open()
        if isinstance(config.stdin, str) and config.stdin == INHERIT and self._options.instances > 1:
            raise BadWasi("stdin='inherit' needs instances=1: a process has one standard input, whatever runs in it")
        lines = {n: stream for n, stream in ((1, config.stdout), (2, config.stderr)) if callable(stream)}
        context = capture(self._visible, limit, deadline.limit)
        spec, base = config.spec(), self._spec
        assert base is not None  # who runs commands has said what they may see
        check_run(self._sandbox.told, base, spec)
        command = CommandRun(spec, text, check, lines, limit, context)
        command.tenant = self._whose()
        return command

    def _begun(
        self, config: WasiConfig, stdout: Stream, stderr: Stream, text: bool, check: bool, deadline: Deadline
    ) -> CommandRun:
        """A run with streams of its own, whose files are emptied when nothing can be wrong with it any more."""
        command = self._command(config, text, check, deadline)
        empty_files(stdout=stdout, stderr=stderr)
        return command

    def run_map(
        self,
        runs: Iterable[Any],
        *,
        args: Sequence[Any] | None = None,
        timeout: float | None = None,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        progress: bool | Progress = False,
        check: bool = False,
        text: bool = False,
        **options: Unpack[RunKeywords],
    ) -> MapResults[CompletedRun]:
        """:meth:`run` for each of many: items are the stdin (bytes) of a run with ``args``, or its own list of arguments.

        Args:
            timeout: seconds each run may take, from when a worker turns to it; None for the pool's, math.inf for no limit.
            buffersize, return_exceptions, progress: as for :meth:`map`.
            check, text, options: as for :meth:`run`.

        Returns:
            A lazy iterator over the completed runs in order.

        Raises:
            ValueError, TypeError, BadWasi, UnknownExport, PoolClosed: at once, if it is wrong for every run.
        """
        limit = self._timeout if timeout is None else checked_timeout(timeout)
        boolean("check", check)
        boolean("text", text)
        self._configure(args, **options)
        self._check_open()

        def make(item: Any) -> Job:
            if isinstance(item, (bytes, bytearray, memoryview)):
                given: RunKeywords = {**options, "stdin": item}
                config = self._configure(args, **given)
            else:
                config = self._configure(item, **options)
            deadline = deadline_of(None, None)
            job = self._command(config, text, check, deadline, limit)
            job.deadline = deadline
            return job

        shape = MapOptions.checked(buffersize=buffersize, return_exceptions=return_exceptions, progress=progress)
        given = Rows(runs)
        empty_files(stdout=options.get("stdout"), stderr=options.get("stderr"))
        course = CallableMap(self._dispatcher, make, given.rows(), given.total, shape, self)
        course.tenant = self._whose()
        self._maps.add(course)
        course.start()
        return MapResults.of(course)

    # -- leases --------------------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> Lease:
        """Lease an instance: nobody else uses it until it is given to :meth:`put`.

        Args:
            timeout: seconds to wait when all instances are in use; None for the pool's, math.inf for as long as it takes.

        Raises:
            TimeoutError: there was none to be had in that time.
            PoolClosed: the pool was shut down.
            ValueError, TypeError: ``timeout`` is no positive number.
        """
        deadline = deadline_of(timeout, self._timeout)
        lease, request = self._ask()
        try:
            self._dispatcher.submit(request, deadline)
            wait_for(request, Deadline.NEVER, "an instance is free")
            lease.grant(request)
        except CallTimeout:
            raise TimeoutError("all instances were in use until the time was up") from None
        except BaseException:
            lease.decline(request)
            raise
        return lease

    async def aget(self, timeout: float | None = None) -> Lease:
        """:meth:`get` for asyncio.  The lease's own methods block: ``await asyncio.to_thread(lease.call, "add", 1, 2)``."""
        loop = running_loop("pool.get")
        deadline = deadline_of(timeout, self._timeout)
        lease, request = self._ask()
        try:
            await self._offer(request, deadline, loop)
            await ended_async(request, Deadline.NEVER, loop)
            lease.grant(request)
        except CallTimeout:
            raise TimeoutError("all instances were in use until the time was up") from None
        except BaseException:
            lease.decline(request)
            raise
        return lease

    def _ask(self) -> tuple[Lease, Request]:
        """A lease that has not begun, and the job that asks for its instance."""
        self._check_open()
        module = (self._callables, self._kind.types, self._shipped.calls)
        lease = Lease(self._dispatcher, self._direct, *module, self._visible, self._timeout)
        request = Request()
        request.tenant = self._whose()
        return lease, request

    def put(self, lease: Lease, discard: bool = False) -> None:
        """Give a leased instance back; with ``discard`` it is thrown away.

        Raises:
            LeaseEnded: it was given back before.
            TypeError: it is no lease, or ``discard`` is neither True nor False.
        """
        if not isinstance(lease, Lease):
            raise TypeError(f"put takes a Lease, got {shown(lease)}")
        lease.put(discard)

    async def aput(self, lease: Lease, discard: bool = False) -> None:
        """:meth:`put` for asyncio.  It goes on, in a thread, if the task is cancelled."""
        import asyncio

        loop = running_loop("pool.put, lease")
        await asyncio.shield(loop.run_in_executor(None, self.put, lease, discard))

    def instance(self, timeout: float | None = None, discard: bool = False) -> Leasing:
        """``with pool.instance() as lease:`` leases an instance for the block; so does ``async with``.

        In a task the lease's own methods still block: ``await asyncio.to_thread(lease.call, "add", 1, 2)``.

        Arguments as for `get` and `put`; the time counts from the beginning of the block.
        """
        Deadline.after(timeout)  # what is wrong is said here
        boolean("discard", discard)
        return Leasing(
            functools.partial(self.get, timeout),
            functools.partial(self.put, discard=discard),
            functools.partial(self.aget, timeout),
            functools.partial(self.aput, discard=discard),
        )

    # -- many at once --------------------------------------------------------------------------------------------------

    @overload  # type: ignore[override]  # Executor's gives a callable no instance; see `plain_executor`
    def map(self, export: str, /, *items: Items, **how: Unpack[AnyMap]) -> MapResults[Any]: ...
    @overload
    def map(self, export: Callable[[Instance, A], T], a: Iterable[A], /, **how: Unpack[OrderedMap]) -> MapResults[T]: ...
    @overload
    def map(
        self, export: Callable[[Instance, A, B], T], a: Iterable[A], b: Iterable[B], /, **how: Unpack[OrderedMap]
    ) -> MapResults[T]: ...
    @overload
    def map(
        self, export: Returning[T], a: Items, b: Items, c: Items, /, *more: Items, **how: Unpack[OrderedMap]
    ) -> MapResults[T]: ...
    @overload
    def map(self, export: Returning[T], /, *items: Items, **how: Unpack[UnorderedMap]) -> MapResults[tuple[int, T]]: ...
    @overload
    def map(self, export: Returning[T], /, *items: Items, **how: Unpack[OutcomesMap]) -> MapResults[T | BaseException]: ...
    @overload
    def map(self, export: Returning[Any], /, *items: Items, **how: Unpack[AnyOrderMap]) -> MapResults[Any]: ...
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
        With ``max_pending``, it reads ahead only as far as there is room in the queue, and waits for room rather than
        raise PoolFull.

        ``shutdown()``, and so the end of a ``with`` block, reads inputs that have a length to their end, and the results
        can be taken afterwards.  Inputs without a length, which may be endless, and maps with ``buffersize`` are read no
        further: they end in PoolClosed after the results of what had been read.  So they do after ``shutdown`` with
        ``wait=False`` or ``cancel_futures=True``; with the latter, items that had been read and not begun end in
        concurrent.futures.CancelledError first.

        Args:
            timeout: seconds from now until which results may be waited for; by default any number.
            chunksize: items per chunk; by default that follows from how long items are seen to take.  A callable's items
                are jobs of their own, grouped by measured duration in any case.
            buffersize: how many items to read ahead of the results taken, at most.
            item_timeout: seconds one item may run, noticed within a quarter more; by default the pool's ``timeout``, and
                math.inf for any number.
            return_exceptions: give an item's exception in its place and go on, instead of raising it.
            ordered: false gives pairs (index, result) as they get done.
            progress: true shows a bar (by tqdm, an extra); a callable is called with (items done, items in all or None)
                by who takes the results.  What it raises ends the map.

        Returns:
            An iterator over the results in order.  The first failing item raises in its place, and ends it.  ``close()``
            it, or drop it, to stop what is under way; it is exhausted then.

        Raises:
            UnknownExport, PoolClosed: at once.
            Whatever pickling a callable raises: at once.
            BadArguments: from the iterator, in the item's place; names its index.
            concurrent.futures.TimeoutError: from the iterator, when ``timeout`` has passed, which ends it.
            RuntimeError: from the iterator; an item raised StopIteration, which is the cause; or an iterable or
                ``progress`` has asked this very map for a result.
            Whatever :meth:`call` raises, from the iterator, in the item's place.
        """
        shape = (timeout, chunksize, buffersize, item_timeout, return_exceptions, ordered, progress)
        return MapResults.of(self._start_map(export, Columns(iterables), *shape))

    @overload
    def starmap(self, export: Returning[T], rows: Iterable[Items], **how: Unpack[OrderedMap]) -> MapResults[T]: ...
    @overload
    def starmap(self, export: str | Returning[Any], rows: Iterable[Items], **how: Unpack[AnyMap]) -> MapResults[Any]: ...
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
        shape = (timeout, chunksize, buffersize, item_timeout, return_exceptions, ordered, progress)
        return MapResults.of(self._start_map(export, Rows(rows), *shape))

    @overload
    def amap(self, export: str, /, *items: Items, **how: Unpack[AnyMap]) -> AsyncMapResults[Any]: ...
    @overload
    def amap(
        self, export: Callable[[Instance, A], T], a: Iterable[A], /, **how: Unpack[OrderedMap]
    ) -> AsyncMapResults[T]: ...
    @overload
    def amap(
        self, export: Callable[[Instance, A, B], T], a: Iterable[A], b: Iterable[B], /, **how: Unpack[OrderedMap]
    ) -> AsyncMapResults[T]: ...
    @overload
    def amap(
        self, export: Returning[T], a: Items, b: Items, c: Items, /, *more: Items, **how: Unpack[OrderedMap]
    ) -> AsyncMapResults[T]: ...
    @overload
    def amap(
        self, export: Returning[T], /, *items: Items, **how: Unpack[UnorderedMap]
    ) -> AsyncMapResults[tuple[int, T]]: ...
    @overload
    def amap(
        self, export: Returning[T], /, *items: Items, **how: Unpack[OutcomesMap]
    ) -> AsyncMapResults[T | BaseException]: ...
    @overload
    def amap(self, export: Returning[Any], /, *items: Items, **how: Unpack[AnyOrderMap]) -> AsyncMapResults[Any]: ...
    def amap(
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
    ) -> AsyncMapResults[Any]:
        """:meth:`map` for asyncio: ``async for result in pool.amap("add", xs, ys)``.

        The event loop is never blocked but by the iterables and ``progress``, which are called in it.  ``aclose()`` it,
        or drop it, to stop what is under way; cancelling a task that waits for a result does that too.

        Raises:
            RuntimeError: when iterated where no event loop of asyncio's runs.
            As for :meth:`map`, otherwise.
        """
        shape = (timeout, chunksize, buffersize, item_timeout, return_exceptions, ordered, progress)
        return AsyncMapResults(self._start_map(export, Columns(iterables), *shape))

    def _mappable(self, export: str | ExportFunction) -> Callee:
        function = self._function(export)
        self._check_open()
        return function

    def _start_map(self, export: str | Callable[..., Any], given: Given, *shape: Any) -> Course[Any]:
        options = MapOptions.checked(*shape, default_item_timeout=self._timeout)
        course: Course[Any]
        if callable(export) and not isinstance(export, ExportFunction):
            self._check_open()
            shipped, limit = self._shipped.ship(export), options.item_timeout
            context, deadline = capture(True, limit), deadline_of(None, None)
            retries, pickled = self._options.retries, self._trusted.callables

            def make(row: Iterable[Any]) -> Job:
                job = ShippedCall(shipped, tuple(row), limit, context, pickled)
                job.retries = retries
                job.deadline = deadline
                return job

            course = CallableMap(self._dispatcher, make, given.rows(), given.total, options, self)
        else:
            function = self._mappable(export)
            course = self._kind.course(self._dispatcher, function, given, options, self._visible, self)
        course.tenant = self._whose()
        self._maps.add(course)
        course.start()
        return course

    def map_array(
        self,
        export: str,
        *arrays: Any,
        out: Any = None,
        casting: Casting = "same_kind",
        timeout: float | None = None,
        progress: bool | Progress = False,
    ) -> Any:
        """Call an export on each item of arrays, as a numpy ufunc does.

        Args:
            arrays: one per parameter; numpy arrays, anything with the buffer protocol, nested lists, or scalars.  They
                are broadcast against each other.  Any shape and strides.  Objects go by the rules of :meth:`call`.
            out: an array, or a tuple of one per result, to write into: of the exact dtype (int32, int64, float32,
                float64, V16) and shape, C-contiguous.
            casting: ``"same_kind"`` takes dtypes that numpy so casts (int64 to int32, float64 to float32, but no float to
                an int) and items that fit, by the rules of :meth:`call`; ``"safe"`` only dtypes of which every value
                fits; ``"equiv"`` only the parameter's own dtype, in any byte order; ``"no"`` only that very dtype;
                ``"unsafe"`` takes what it is given, and integers wrap, floats are cut off or become infinite.
                A Python int or float has no dtype, and is taken where it fits.
            timeout: seconds that all of it may take; by default any number.  How long an item may run, the pool's says.
            progress: as for :meth:`map`.

        Returns:
            What was given as ``out``; else an array of the broadcast shape, a tuple of one per result, or None for
            an export without results.  Arrays of any size are streamed through a few megabytes per worker.

        Raises:
            ImportError: numpy is not installed.
            BadArguments: a dtype, a shape or ``out`` does not fit; nothing has run then.
            ArgumentOutOfRange: an item does not fit, likewise; names the first.
            ValueError: ``casting`` is none of the five.
            concurrent.futures.TimeoutError: ``timeout`` has passed; what was written to ``out`` stays.
            Whatever :meth:`call` raises for the first item that failed; what was written to ``out`` stays.
        """
        from .maps.arrays import ArraySource

        choice("casting", casting, *get_args(Casting))
        function = self._mappable(export).core("map_array")
        options = MapOptions.checked(timeout, progress=progress, default_item_timeout=self._timeout)
        source = ArraySource(function.name, function.codec.signature, arrays, out, casting)
        course = ArrayMap(self._dispatcher, function, source, options, capture(self._visible), self)
        course.tenant = self._whose()
        course.start()
        for _ in Waiting(course):
            pass
        return source.result()

    def ufunc(self, export: str) -> Callable[..., Any]:
        """``pool.ufunc("add")(a, b)`` is ``pool.map_array("add", a, b)``.

        Raises:
            UnknownExport, PoolClosed: at once.
        """
        self._mappable(export).core("ufunc")
        return functools.partial(self.map_array, export)

    # -- life ----------------------------------------------------------------------------------------------------------

    def wait_ready(self, timeout: float | None = None) -> None:
        """Block until every worker is ready.

        Args:
            timeout: seconds; None for no limit.

        Raises:
            TimeoutError: that took longer than ``timeout`` seconds.
            PoolClosed: the pool was shut down meanwhile.
            ValueError, TypeError: ``timeout`` is no positive number.
        """
        deadline = Deadline.after(timeout)
        self._check_open()
        wait_for(self._dispatcher.when_ready(), deadline, _READY)

    async def await_ready(self, timeout: float | None = None) -> None:
        """:meth:`wait_ready` for asyncio."""
        loop, deadline = running_loop("pool.wait_ready"), Deadline.after(timeout)
        self._check_open()
        await wait_async(self._dispatcher.when_ready(), deadline, _READY, loop)

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

        Args:
            timeout: seconds; None for no limit.

        Raises:
            TimeoutError: that took longer than ``timeout`` seconds; it goes on.
            PoolClosed: the pool was shut down.
            ValueError, TypeError: ``timeout`` is no positive number.
        """
        deadline = Deadline.after(timeout)
        self._check_open()
        wait_for(self._dispatcher.when_replaced(), deadline, _REPLACED)

    async def arestart(self, timeout: float | None = None) -> None:
        """:meth:`restart` for asyncio.  It goes on if the task is cancelled."""
        loop, deadline = running_loop("pool.restart"), Deadline.after(timeout)
        self._check_open()
        await wait_async(self._dispatcher.when_replaced(), deadline, _REPLACED, loop)

    def save_snapshot(self, path: str | os.PathLike[str]) -> None:
        """Save what all instances begin with, so that a later pool can too: ``ProcessWasmPool(path)``.

        The file holds the module, what its memories, globals and tables held, and which release of wasmtime it is for.  It
        replaces what was there when it is whole.  Imports, linked modules, ``wasi`` and other options are not in it; the
        linked modules must be the same again.

        Raises:
            BadSnapshot: the pool has no snapshot, being made without ``warm`` and without ``isolation="snapshot"``; or the
                module's file has changed since the pool was made.
            PoolClosed: the pool was shut down.
            OSError: it cannot be written.
        """
        self._check_open()
        module = content_of(self._source)
        if self._inheritance.snapshot < 0:
            raise BadSnapshot('this pool has no snapshot to save; give it warm=, or isolation="snapshot"')
        if hashlib.sha256(module).digest() != self._sources[None]:
            raise BadSnapshot(f"{self._name} has changed since the pool was made")
        with self._inheritance.held_snapshot() as state:
            save(path, module, self._name, self._linked_sources(), state)

    def _linked_sources(self) -> dict[str, str]:
        """SHA-256 of the linked modules, by name."""
        return {name: digest.hex() for name, digest in self._sources.items() if name is not None}

    def terminate(self) -> None:
        """End all processes now.  Jobs that have not finished end in PoolClosed.  In a forked child it does nothing."""
        if not self._dispatcher.forked:
            self._dispatcher.terminate()

    # -- looking -------------------------------------------------------------------------------------------------------

    @property
    def types(self) -> Any:
        """Of a component: the classes of its types, as attributes: ``pool.types.Point(1, 2)``.  A core module has none."""
        return self._kind.classes

    def stats(self) -> PoolStats:
        """What the pool is doing now, and has done.

        Raises:
            PoolClosed: this is a forked child, which sees nothing of it.
        """
        if self._dispatcher.forked:
            raise self._dispatcher.why_closed()
        return observe(self._dispatcher, self.sandbox)

    @property
    def sandbox(self) -> Sandbox:
        """What the workers have given up before guest code runs in them, and what the system did not let them."""
        return self._sandbox.seen(self._dispatcher.population.unconfined)

    def report(self) -> PoolReport:
        """What the workers have done with their time since the pool was made, and how long the jobs took.

        ``report.since(earlier)`` is what has come since an earlier one: of one map, say.  Of a closed pool it is the last
        word.  Nothing is measured for it that would not be measured anyway, so it costs nothing before it is asked for;
        then some 0.1 ms per worker.

        Raises:
            PoolClosed: this is a forked child, which sees nothing of it.
        """
        if self._dispatcher.forked:
            raise self._dispatcher.why_closed()
        return account(self._dispatcher)

    def _repr_html_(self) -> str:
        """For notebooks: the workers as a table."""
        from .display.html import pool_html

        return pool_html(repr(self), None if self._dispatcher.forked else observe(self._dispatcher, self.sandbox))

    def __repr__(self) -> str:
        dispatcher = self._dispatcher
        if dispatcher.closed:
            return f"<ProcessWasmPool {self._name} closed>"
        idle, pending = len(dispatcher.scheduler.idle), dispatcher.scheduler.pending()
        return f"<ProcessWasmPool {self._name} workers={len(dispatcher.population.present)} idle={idle} pending={pending}>"

    def _check_open(self) -> None:
        self._dispatcher.check_open()

    def _function(self, export: object) -> Callee:
        """The export of that name.

        Raises:
            UnknownExport, BadArguments, TypeError: there is none that can be called.
        """
        found = self._functions.get(export) if isinstance(export, str) else None
        return found or self._other_function(export)

    def _other_function(self, export: object) -> Callee:
        """What no whole name stands for, but perhaps something that `function` gives; otherwise as `_function`."""
        if isinstance(export, ExportFunction):
            return self._functions[export.name_in(self)]
        return self._kind.function(export)


def _result(job: Future[T]) -> T:
    """Its result; if we are interrupted while we wait, nobody needs it any more.  The dispatcher keeps its time."""
    return wait_for(job, Deadline.NEVER, "the job is done")


def _check_not_done(options: PoolOptions) -> None:
    """Whether a pool that begins from a saved snapshot is asked for nothing that lies behind that.

    Raises:
        ValueError: it is.
    """
    for option in ("start", "warm"):
        if getattr(options, option) is not None:
            raise ValueError(f"{option} was done before the snapshot was saved; give it to the pool that saves one")
