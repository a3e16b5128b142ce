"""What a pool is doing, and has done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from .confinement import Sandbox
from .supervisor.dispatcher import Dispatcher
from .supervisor.lane import Lane
from .supervisor.port import READY
from .supervisor.process import Process


@dataclass(frozen=True)
class WorkerStats:
    """One worker process at one moment."""

    pid: int | None  #: None while it is being started
    state: str  #: "starting", "idle", "busy" or "stopping"
    calls: int  #: jobs it has finished
    rss: int  #: resident memory in bytes, pages shared with its siblings included; 0 when it cannot be read


@dataclass(frozen=True)
class PoolStats:
    """A pool at one moment.  The counters are over its whole life, workers now gone included.

    ``str()`` gives a line per worker, and a notebook shows a table; ``repr()`` has all fields.
    """

    workers: tuple[WorkerStats, ...]
    busy: int  #: workers running a job, or with a leased instance
    idle: int  #: workers waiting for one
    pending: int  #: jobs queued and not sent to a worker
    leased: int  #: instances leased
    calls: int  #: jobs finished
    failed: int  #: those of them that ended in an exception
    timeouts: int  #: jobs, and items of maps, interrupted because they outlived their limits
    retried: int  #: jobs run again because their worker had died
    started: int  #: worker processes
    start_failures: int  #: attempts to start one that did not get as far as ready
    crashed: int  #: workers that died without having been told to
    killed: int  #: workers that the pool killed: they did not react, or held too much memory
    recycled: int  #: workers replaced because of their age or size, or by `restart`
    retired: int  #: workers that went because there were too many
    sandbox: Sandbox | None = None  #: what workers have given up before guest code runs in them

    def __str__(self) -> str:
        lines = [
            f"{self.busy} busy, {self.idle} idle, {self.pending} jobs waiting; {self.calls:,} calls, {self.failed:,} failed"
        ]
        lines += [
            f"  worker {worker.pid or '(none yet)'}: {worker.state}, {worker.calls:,} calls, {worker.rss / 2**20:.1f} MiB"
            for worker in self.workers
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For notebooks."""
        from .display.html import stats_html

        return stats_html(self)


def observe(dispatcher: Dispatcher, sandbox: Sandbox) -> PoolStats:
    """The pool of that dispatcher, whose workers have given that up, at this moment."""
    population, scheduler = dispatcher.population, dispatcher.scheduler
    present = [(process, population.lanes(process)) for process in list(population.present.values())]
    # States before the idle list: a worker becomes idle first and ready second, so one that is ready here and not in
    # the list really has something to do.
    states = [[lane.port.state for lane in lanes] for _, lanes in present]
    idle = set(scheduler.idle)
    rows = tuple(_worker_stats(*known, seen, idle) for known, seen in zip(present, states, strict=True))
    counts = dispatcher.journal.counts()
    return PoolStats(
        workers=rows,
        busy=sum(row.state == "busy" for row in rows),
        idle=sum(row.state == "idle" for row in rows),
        pending=scheduler.pending(),
        leased=len(dispatcher.leases),
        calls=population.calls_retired + sum(row.calls for row in rows),
        failed=counts["failed"],
        timeouts=counts["timeout"],
        retried=counts["retried"],
        started=counts["started"],
        start_failures=counts["start_failed"],
        crashed=counts["crashed"],
        killed=counts["killed"],
        recycled=counts["recycled"],
        retired=counts["retired"],
        sandbox=sandbox,
    )


def _worker_stats(process: Process, lanes: tuple[Lane, ...], states: Sequence[str], idle: set[Lane]) -> WorkerStats:
    try:
        rss = 0 if process.pid is None else psutil.Process(process.pid).memory_info().rss
    except (psutil.Error, OSError):  # it has ended, or there are no descriptors left
        rss = 0
    if all(state == READY for state in states):
        state = "idle" if all(lane in idle for lane in lanes) else "busy"
    else:
        state = next(state for state in states if state != READY)
    return WorkerStats(process.pid, state, sum(lane.calls for lane in lanes), rss)
