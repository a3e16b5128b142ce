"""ClusterWasmPool: what a user holds."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from inspect import signature as inspect_signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from .. import pickler
from ..binary import ExternType, FuncType, Import
from ..bytes_function import bytes_function
from ..checks import boolean, choice, is_int, seconds, shown
from ..codec import Codec
from ..columns import ColumnCodec
from ..deadline import Deadline
from ..errors import BadArguments, BadWasi, InvalidModule
from ..export_function import refuse
from ..job_context import capture, deadline_of
from ..lifetime import Lifetime
from ..maps.callable_map import CallableMap
from ..maps.course import Course, MapsUnderWay
from ..maps.options import Casting, MapOptions, Progress
from ..maps.results import AsyncMapResults, MapResults, Waiting
from ..maps.sources import Columns, Given, Rows
from ..module import Inspection, ModuleSource, inspect, is_path
from ..options import MAX_WORKERS, PoolOptions, checked_timeout, log_levels
from ..plain_executor import PlainExecutor
from ..pool import ProcessWasmPool
from ..supervisor.awaiting import running_loop, wait_async, wait_for
from ..supervisor.delivery import Delivery
from ..supervisor.jobs.call import Export, Job
from ..supervisor.jobs.shipped import Shipper
from ..wasi import CompletedRun, check_command, checked_args
from . import wire
from .client.backend import Backend
from .client.conductor import Conductor, Demand
from .client.maps import ClusterArrayMap, ClusterMap
from .client.units import CallUnit, RunUnit, ShippedUnit
from .events import ClusterEvent, ClusterJournal
from .node.terms import Terms
from .observed import ClusterStats, NodeInfo

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..signatures import BytesConvention

#: Keywords of `ProcessWasmPool` that a cluster has no use for.
_NOT_HERE = ("workers", "max_pending", "on_full", "full_timeout")
#: Those that mean the same on each host, by what they are if they are not given.
_OF_NODES: Mapping[str, Any] = {
    name: keyword.default
    for name, keyword in inspect_signature(ProcessWasmPool).parameters.items()
    if keyword.kind is keyword.KEYWORD_ONLY and name not in _NOT_HERE
}
_RUN_KEYWORDS = ("stdin", "env", "cwd", "preopens", "stdout", "stderr", "check", "text", "max_output")
#: Until when it is waited, for messages.
_READY, _DONE = "all nodes are ready", "the job is done"
#: Seconds for which `stats` waits for the slowest node, and `terminate` for the last.
STATS_SECONDS = 2.0
LAST_SECONDS = 10.0
#: The shortest lease, in seconds: a node that is only busy must not be taken for lost.  And the longest: a day, for which a
#: thread can wait at once.
LEAST_LEASE = 0.5
MOST_LEASE = 86_400.0


class ClusterWasmPool(Lifetime):
    """The pool of :class:`~procpool.ProcessWasmPool` on every host of a Dask cluster: a node on each, an ordinary pool.

    Methods mean what they mean there, but for what is said here.  Any number of threads may use one pool at once.

    Args:
        src: the module, as for a pool; a path is read here.  It travels to each host once.
        client: a :class:`distributed.Client`, not an asynchronous one.  Its cluster may grow and shrink meanwhile.
        workers_per_node: worker processes on each host.  By default what the host's Dask workers say together: of each the
            resource ``procpool`` if it has that, else its number of threads.
        timeout: seconds each job has from when it is given to the pool; None for no limit.  Kept by the clock of this
            machine, and on each host by its own from the seconds that were left: no clocks are compared.
        retries: how often a job is run again after the worker it ran in died, or after the node was lost that had begun it.
            With 0 nothing is ever run twice.
        lease: seconds that a node may work without being heard by the client.  A node that is cut off stops its work when
            they are over; the client takes it for lost at most a sixth of that and 0.75 seconds later.
        on_event: called with a :class:`ClusterEvent` when a host joins, leaves, is lost or refused, and for what happens in
            the pools there.
        start_timeout: seconds to wait for the first node, and for each worker process on it.
        modules: as for a pool; these too are read here.
        options: all other keywords of a pool, for the pools on the hosts.  Directories given for WASI are directories
            there.

    Raises:
        ImportError: Dask is not installed.
        StartupError: no host served within ``start_timeout``; says why.
        InvalidModule, MissingImport, BadImport, UnknownExport, BadArguments: as for a pool.
        BadWasi: ``wasi`` has a stream that is a thing of this machine.
        ValueError, TypeError: an argument is out of its range.

    What a node that is lost had begun fails with :class:`NodeLost`, and what it had not begun runs elsewhere.  A node
    begins only what the client has said it may, and that is counted as begun from then on, whatever became of the message.

    Leases (`ProcessWasmPool.get`), ``key=``, and streams of WASI that are files or functions belong to one machine, and are
    not to be had here.

    Returns when the first node serves.  Leaving the ``with`` block is as for a pool.
    """

    def __init__(
        self,
        src: ModuleSource,
        *,
        client: Any,
        workers_per_node: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        lease: float = 3.0,
        on_event: Callable[[ClusterEvent], None] | None = None,
        start_timeout: float = 60.0,
        modules: Mapping[str, ModuleSource] | None = None,
        **options: Any,
    ) -> None:
        from .dask.engine import DaskEngine

        if workers_per_node is not None and not is_int(workers_per_node, 1, MAX_WORKERS):
            raise ValueError(f"workers_per_node must be an int from 1 to {MAX_WORKERS}, got {shown(workers_per_node)}")
        self._open(
            src,
            DaskEngine(client, workers_per_node),
            {"timeout": timeout, "retries": retries, "on_event": on_event, "start_timeout": start_timeout},
            {} if modules is None else modules,
            lease,
            options,
        )

    def _open(
        self,
        src: ModuleSource,
        backend: Backend,
        own: Mapping[str, Any],
        modules: Mapping[str, ModuleSource],
        lease: float,
        options: Mapping[str, Any],
    ) -> None:
        unknown = [name for name in options if name not in _OF_NODES]
        if unknown:
            raise TypeError(f"a ClusterWasmPool has no keyword {unknown[0]!r}")
        options = {name: value for name, value in options.items() if value is not None or _OF_NODES[name] is not None}
        checked = PoolOptions(**own, **options)
        lease = seconds("lease", lease)
        if not LEAST_LEASE <= lease <= MOST_LEASE:
            raise ValueError(f"lease must be a number of seconds from {LEAST_LEASE} to {MOST_LEASE:g}, got {shown(lease)}")
        if not isinstance(modules, Mapping):
            raise TypeError(f"modules must be a mapping of names to modules, got {shown(modules)}")
        if checked.wasi is not None:
            _check_streams(checked.wasi.stdin, checked.wasi.stdout, checked.wasi.stderr)
        self._timeout = checked.timeout
        self._retries = checked.retries
        self._trusted = checked.trusted
        self._wasi = checked.wasi
        self._name = os.path.basename(src) if is_path(src) else "<bytes>"
        sources = {name: _bytes_of(source) for name, source in modules.items()}
        main = _bytes_of(src)
        inspection = inspect(
            main, modules=sources, rename_imports=options.get("rename_imports"), features=options.get("features", ())
        )
        if type(inspection) is not Inspection:
            raise InvalidModule(f"{self._name} is a component, and a cluster runs core modules; a ProcessWasmPool takes it")
        #: what the module exports, by name; what a linked module exports is there as ``"module.name"``
        self.exports: Mapping[str, ExternType] = MappingProxyType(dict(inspection.exports))
        self.imports: tuple[Import, ...] = inspection.imports  #: what it imports, but from linked modules
        self._shipped = Shipper(self.exports)
        self._functions: dict[str, Export] = {}
        self._refused: dict[str, BadArguments] = {}
        self._index_functions()
        self._maps = MapsUnderWay()
        demand = _demand(main, sources, lease, checked, {**options, "start_timeout": checked.start_timeout})
        delivery = Delivery()
        try:
            journal = ClusterJournal(checked.on_event, delivery.strand())
            self._runner = self._conductor = Conductor(backend, demand, delivery, journal)
            self._conductor.start()
        except BaseException:
            delivery.close(0)
            raise
        # Not at exit: then the connections end, and with them all that the nodes do.
        weakref.finalize(self, self._conductor.close).atexit = False
        try:
            self._conductor.wait_started(Deadline.after(checked.start_timeout))
        except BaseException:
            self.terminate()
            raise

    def _index_functions(self) -> None:
        for name, type_ in self.exports.items():
            if isinstance(type_, FuncType):
                try:
                    self._functions[name] = Export(len(self._functions), Codec(name, type_))
                except BadArguments as refusal:
                    self._refused[name] = refusal

    # -- running things ------------------------------------------------------------------------------------------------

    def call(self, export: str, /, *args: Any, timeout: float | None = None) -> Any:
        """Call an export on some node, and wait for its result; as :meth:`ProcessWasmPool.call`.

        Raises:
            NodeLost: the node that had begun it was lost.
            As there, otherwise.
        """
        return _result(self.submit(self._function(export).name, *args, timeout=timeout))

    async def acall(
        self,
        export: str | Callable[..., Any],
        /,
        *args: Any,
        timeout: float | None = None,
        priority: int = 0,
        retries: int | None = None,
    ) -> Any:
        """:meth:`call` for asyncio, and :meth:`submit`: takes a callable and the other keywords as well."""
        loop = running_loop("pool.call, ...")
        job = self.submit(export, *args, timeout=timeout, priority=priority, retries=retries)
        return await wait_async(job, Deadline.NEVER, _DONE, loop)

    def submit(  # type: ignore[override]  # Executor's takes keywords for the function; an export has none
        self,
        export: str | Callable[..., Any],
        /,
        *args: Any,
        timeout: float | None = None,
        priority: int = 0,
        retries: int | None = None,
    ) -> Future[Any]:
        """Queue a call of an export, or of a Python function that runs in some worker of some node beside an instance.

        As :meth:`ProcessWasmPool.submit`.  A callable travels to each node, and to each of its
        workers, when it is new there, or was not used for long.

        Returns:
            A future.  It ends in what :meth:`call` returns or raises.
        """
        deadline = deadline_of(timeout, self._timeout)
        job = self._job(export, args, None)
        job.deadline = deadline
        if type(priority) is not int:
            raise TypeError(f"priority must be an int, got {shown(priority)}")
        if retries is not None and not is_int(retries, 0):
            raise ValueError(f"retries must be an int from 0, or None for the pool's, got {shown(retries)}")
        job.priority = priority
        job.retries = self._retries if retries is None else retries
        self._conductor.submit(job)
        return job

    def _job(self, export: str | Callable[..., Any], args: tuple[Any, ...], limit: float | None) -> CallUnit | ShippedUnit:
        self._conductor.check_open()
        if callable(export):
            return ShippedUnit(self._shipped.ship(export), args, capture(True, limit), limit, self._trusted.callables)
        function = self._functions.get(export) or self._function(export)
        return CallUnit(function, args, capture(bool(self.imports)), limit)

    def plain_executor(self) -> PlainExecutor:
        """The pool as an executor of the standard library's kind; as :meth:`ProcessWasmPool.plain_executor`."""
        return PlainExecutor(self)

    def call_bytes(
        self, export: str, /, *args: Any, timeout: float | None = None, **convention: Unpack[BytesConvention]
    ) -> Any:
        """Call an export that takes or returns bytes or text; as :meth:`ProcessWasmPool.call_bytes`."""
        return _result(self.submit_bytes(export, *args, timeout=timeout, **convention))

    async def acall_bytes(
        self, export: str, /, *args: Any, timeout: float | None = None, **convention: Unpack[BytesConvention]
    ) -> Any:
        """:meth:`call_bytes` for asyncio."""
        loop = running_loop("functools.partial(pool.call_bytes, ...)")
        job = self.submit_bytes(export, *args, timeout=timeout, **convention)
        return await wait_async(job, Deadline.NEVER, _DONE, loop)

    def submit_bytes(
        self, export: str, /, *args: Any, timeout: float | None = None, **convention: Unpack[BytesConvention]
    ) -> Future[Any]:
        """:meth:`call_bytes` as a future."""
        return self.submit(bytes_function(self._function(export).name, convention), *args, timeout=timeout)

    # -- commands ------------------------------------------------------------------------------------------------------

    def run(self, args: Sequence[Any] | None = None, *, timeout: float | None = None, **options: Any) -> CompletedRun:
        """Run the module as a WASI command on some node, and wait for its end; as :meth:`ProcessWasmPool.run`.

        Args:
            options: ``stdin`` (bytes), ``env``, ``cwd`` and ``preopens`` (directories of the host that it runs on),
                ``stdout`` and ``stderr`` (captured or dropped), ``check``, ``text``, ``max_output``.
        """
        done: CompletedRun = _result(self.submit_run(args, timeout=timeout, **options))
        return done

    async def arun(
        self, args: Sequence[Any] | None = None, *, timeout: float | None = None, **options: Any
    ) -> CompletedRun:
        """:meth:`run` for asyncio; cancelling the task stops the command."""
        loop = running_loop("functools.partial(pool.run, ...)")
        done: CompletedRun = await wait_async(
            self.submit_run(args, timeout=timeout, **options), Deadline.NEVER, _DONE, loop
        )
        return done

    def submit_run(
        self, args: Sequence[Any] | None = None, *, timeout: float | None = None, **options: Any
    ) -> Future[CompletedRun]:
        """:meth:`run` as a future; ``cancel()`` stops the command."""
        deadline = deadline_of(timeout, self._timeout)
        job = self._run_job(args, options, None)
        job.deadline = deadline
        self._conductor.submit(job)
        return job

    def _run_job(self, args: Sequence[Any] | None, options: Mapping[str, Any], limit: float | None) -> RunUnit:
        if self._wasi is None:
            raise BadWasi("give the pool wasi=WasiConfig() to run the module as a command")
        check_command(self.exports)
        for name in ("check", "text"):
            boolean(name, options.get(name, False))
        unknown = [name for name in options if name not in _RUN_KEYWORDS]
        if unknown:
            raise TypeError(f"run takes no keyword {unknown[0]!r}")
        _check_streams(options.get("stdin"), options.get("stdout", "capture"), options.get("stderr", "capture"))
        if args is not None:
            args = checked_args(args)
        if isinstance(options.get("stdin"), (bytearray, memoryview)):
            options = {**options, "stdin": bytes(options["stdin"])}
        self._conductor.check_open()
        given = self._wasi.args if args is None else args
        job = RunUnit(str(given[0]) if given else "the command", {"args": args, **options}, capture(True, limit), limit)
        job.retries = self._retries
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
        """:meth:`run` for each of many; as :meth:`ProcessWasmPool.run_map`.

        Args:
            options: as for :meth:`run`.
        """
        limit = self._timeout if timeout is None else checked_timeout(timeout)
        self._run_job(args, options, limit)  # what is wrong with every run is said here

        def make(item: Any) -> Job:
            if isinstance(item, (bytes, bytearray, memoryview)):
                return self._run_job(args, {**options, "stdin": item}, limit)
            return self._run_job(item, options, limit)

        shape = MapOptions.checked(buffersize=buffersize, return_exceptions=return_exceptions, progress=progress)
        given = Rows(runs)
        return MapResults.of(self._started(CallableMap(self._conductor, make, given.rows(), given.total, shape, self)))

    # -- many at once --------------------------------------------------------------------------------------------------

    def map(  # Executor's gives a callable no instance
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
        """Call an export, or a callable, on the items of iterables; as :meth:`ProcessWasmPool.map`.

        Items for an export travel in frames of some 50 ms of a node's time, as columns, and the node's own pool shares a
        frame out.  A node has a few frames at a time, so what there is in memory does not depend on how many items there
        are.

        Args:
            chunksize: items per frame; by default that follows from how long items are seen to take.

        Raises:
            NodeLost: from the iterator, in the place of an item of a frame that a lost node had begun.
            As there, otherwise.
        """
        shape = (timeout, chunksize, buffersize, item_timeout, return_exceptions, ordered, progress)
        return MapResults.of(self._start_map(export, Columns(iterables), *shape))

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
        """As :meth:`map`, over an iterable of argument tuples."""
        shape = (timeout, chunksize, buffersize, item_timeout, return_exceptions, ordered, progress)
        return MapResults.of(self._start_map(export, Rows(rows), *shape))

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
        """:meth:`map` for asyncio: ``async for result in pool.amap("add", xs, ys)``."""
        shape = (timeout, chunksize, buffersize, item_timeout, return_exceptions, ordered, progress)
        return AsyncMapResults(self._start_map(export, Columns(iterables), *shape))

    def _start_map(self, export: str | Callable[..., Any], given: Given, *shape: Any) -> Course[Any]:
        options = MapOptions.checked(*shape, default_item_timeout=self._timeout)
        if callable(export):
            self._conductor.check_open()
            shipped, limit = self._shipped.ship(export), options.item_timeout
            context, deadline, retries = capture(True, limit), deadline_of(None, None), self._retries
            pickled = self._trusted.callables

            def make(row: Iterable[Any]) -> Job:
                job = ShippedUnit(shipped, tuple(row), context, limit, pickled)
                job.retries = retries
                job.deadline = deadline
                return job

            return self._started(CallableMap(self._conductor, make, given.rows(), given.total, options, self))
        function = self._mappable(export)
        source = given.source(ColumnCodec(function.codec))
        return self._started(ClusterMap(self._conductor, function, source, options, capture(bool(self.imports)), self))

    def _started(self, course: Course[Any]) -> Course[Any]:
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
        """Call an export on each item of arrays, as a numpy ufunc does; as :meth:`ProcessWasmPool.map_array`."""
        from ..maps.arrays import ArraySource

        choice("casting", casting, *get_args(Casting))
        function = self._mappable(export)
        options = MapOptions.checked(timeout, progress=progress, default_item_timeout=self._timeout)
        source = ArraySource(function.name, function.codec.signature, arrays, out, casting)
        course = ClusterArrayMap(self._conductor, function, source, options, capture(bool(self.imports)), self)
        course.start()
        for _ in Waiting(course):
            pass
        return source.result()

    def ufunc(self, export: str) -> Callable[..., Any]:
        """``pool.ufunc("add")(a, b)`` is ``pool.map_array("add", a, b)``."""
        self._mappable(export)
        return functools.partial(self.map_array, export)

    # -- life ----------------------------------------------------------------------------------------------------------

    def wait_ready(self, timeout: float | None = None) -> None:
        """Block until every host that Dask knows of serves, or has said that it does not.

        Raises:
            TimeoutError: that took longer than ``timeout`` seconds.
            PoolClosed: the pool was shut down meanwhile.
        """
        deadline = Deadline.after(timeout)
        self._conductor.check_open()
        wait_for(self._conductor.when(self._conductor.manned), deadline, _READY)

    async def await_ready(self, timeout: float | None = None) -> None:
        """:meth:`wait_ready` for asyncio."""
        loop, deadline = running_loop("pool.wait_ready"), Deadline.after(timeout)
        self._conductor.check_open()
        await wait_async(self._conductor.when(self._conductor.manned), deadline, _READY, loop)

    def terminate(self) -> None:
        """End all that runs on all nodes now.  Jobs that have not finished end in PoolClosed."""
        if not self._conductor.forked:
            self._conductor.close(kill=True)
            with contextlib.suppress(FutureTimeout):
                self._conductor.when_ended().result(LAST_SECONDS)

    # -- looking -------------------------------------------------------------------------------------------------------

    def nodes(self) -> tuple[NodeInfo, ...]:
        """The nodes of now: one for each host that serves, or is about to."""
        return self._conductor.observed()

    def stats(self) -> ClusterStats:
        """What the nodes are doing now, and have done.  Asks each of them, and waits for two seconds at most."""
        deadline = Deadline.after(STATS_SECONDS)
        answers = {}
        for host, asked in self._conductor.ask("stats").items():
            with contextlib.suppress(Exception):  # it is being lost, or takes too long
                answers[host] = asked.result(deadline.remaining())
        counts = self._conductor.journal.counts()
        return ClusterStats(
            nodes=MappingProxyType(answers),
            workers=sum(len(each.workers) for each in answers.values()),
            busy=sum(each.busy for each in answers.values()),
            idle=sum(each.idle for each in answers.values()),
            pending=self._conductor.pending,
            calls=sum(each.calls for each in answers.values()),
            failed=counts["failed"],
            lost=counts["node_lost"],
            retried=counts["retried"],
        )

    def __repr__(self) -> str:
        if self._conductor.closed:
            return f"<ClusterWasmPool {self._name} closed>"
        serving = sum(node.state == "serving" for node in self.nodes())
        return f"<ClusterWasmPool {self._name} nodes={serving} workers={self._conductor.lanes}>"

    def _mappable(self, export: str) -> Export:
        function = self._function(export)
        self._conductor.check_open()
        return function

    def _function(self, export: object) -> Export:
        """The export of that name.

        Raises:
            UnknownExport, BadArguments, TypeError: there is none that can be called.
        """
        found = self._functions.get(export) if isinstance(export, str) else None
        return found or refuse(export, self._functions, self._refused, self.exports)


def _bytes_of(source: ModuleSource) -> bytes:
    """A module as it travels: binary or text."""
    if is_path(source):
        with open(source, "rb") as file:
            return file.read()
    return source.encode() if isinstance(source, str) else bytes(source)  # type: ignore[arg-type]  # is_path told


def _demand(
    main: bytes, linked: Mapping[str, bytes], lease: float, checked: PoolOptions, options: Mapping[str, Any]
) -> Demand:
    """What is asked of nodes."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in linked.items()}
    digest = hashlib.sha256(main).hexdigest()
    modules = {digest: main, **{digests[name]: data for name, data in linked.items()}}
    # A node's pool has an initializer of ours, and passes on what comes of callables: it is told what that comes to.
    trust = "workers" if checked.trusted.all else "nothing"
    terms = Terms(digest, digests, {**options, "trust": trust}, log_levels())
    hello = {
        "host": list(wire.Host.here()),
        "lease": lease,
        "modules": list(modules),
        "terms": pickler.dumps(terms),
    }
    return Demand(hello, modules, lease, checked.retries, checked.trusted.all)


def _check_streams(stdin: Any, stdout: Any, stderr: Any) -> None:
    if stdin is not None and not isinstance(stdin, (bytes, bytearray, memoryview)):
        raise BadWasi(
            f"stdin must be bytes for a cluster, got {shown(stdin)}: the node that reads it is on another machine"
        )
    for name, stream in (("stdout", stdout), ("stderr", stderr)):
        if stream is not None and not (isinstance(stream, str) and stream == "capture"):
            raise BadWasi(
                f"{name} must be 'capture' or None for a cluster, got {shown(stream)}: a command runs on another machine"
            )


def _result(job: Future[Any]) -> Any:
    """Its result; if we are interrupted while we wait, nobody needs it any more."""
    return wait_for(job, Deadline.NEVER, _DONE)
