"""What the workers of a pool have done with their time, and how long the jobs took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from .checks import shown
from .durations import Durations
from .supervisor.timesheet import Account, cpu_seconds

if TYPE_CHECKING:
    from .supervisor.dispatcher import Dispatcher
    from .supervisor.lane import Lane

#: Characters of a bar that stands for all of a worker's time.
_BAR = 20


@dataclass(frozen=True)
class WorkerTime:
    """What one worker has done with its time, in seconds.

    Processes that follow one another, because one was replaced or died, are one worker here.  With ``instances=n`` a worker
    has n instances at work, and `timed` and `cpu` are their means.
    """

    pid: int | None  #: of its process; None if that is gone, or not there yet
    processes: int  #: how many it has had
    calls: int  #: jobs and items of maps it has finished
    starting: float  #: from when a process was asked for to when it was ready: imports, initializer, first instance
    serving: float  #: from then on
    timed: float  #: of that, with submitted jobs and items of maps
    cpu: float  #: of that, on a processor; to 10 ms, and not known of processes that died by themselves

    @property
    def working(self) -> float:
        """With jobs: ``timed`` or ``cpu``, whichever is more; see :class:`PoolReport` for why."""
        return min(self.serving, max(self.timed, self.cpu))

    @property
    def waiting(self) -> float:
        """The rest: for jobs, for who submits them, for others to finish."""
        return self.serving - self.working

    @property
    def busy(self) -> float:
        """The share of its time, start not included, in which it worked: from 0 to 1."""
        return self.working / self.serving if self.serving > 0 else 0.0


@dataclass(frozen=True)
class PoolReport:
    """What the workers have done with their time, and how long the jobs took, since the pool was made.

    Submitted jobs, and items of maps, are timed by the workers as they always are, for the pool itself has to know.
    A small job that `submit` made at once is timed here, with its way there and back.
    Items of a map of an export are timed a chunk at a time, so they share the mean of their chunk; a chunk takes some 8 ms
    (unless ``chunksize`` says otherwise), so an item that takes longer is timed alone, but for some of a map's first 64.
    Submitted jobs that take less than a millisecond may be timed some hundred at a time.

    Blocking calls and leases are not timed, for that would cost them; the processor time they use is known.  So a worker
    counts as working for as long as its jobs took, or for as long as it used the processor, whichever is more.  Waiting
    awake for the next of calls that follow each other closely uses it too.
    """

    workers: tuple[WorkerTime, ...]
    jobs: Durations  #: how long submitted jobs and items of maps took, failed ones included

    @property
    def busy(self) -> float:
        """The share of the workers' time, starts not included, in which they worked: from 0 to 1."""
        serving = sum(worker.serving for worker in self.workers)
        return sum(worker.working for worker in self.workers) / serving if serving > 0 else 0.0

    def since(self, earlier: PoolReport) -> PoolReport:
        """What has come since an earlier report of the same pool.

        Raises:
            TypeError: it is no report.
            ValueError: it is later, or another pool's.
        """
        if not isinstance(earlier, PoolReport):
            raise TypeError(f"since takes an earlier report of the same pool, got {shown(earlier)}")
        # Only what never gets less; times of what runs are guesses.
        pairs = zip(self.workers, earlier.workers, strict=False)
        if (
            len(earlier.workers) > len(self.workers)
            or earlier.jobs.count > self.jobs.count
            or any(then.processes > now.processes for now, then in pairs)
        ):
            raise ValueError("since takes an earlier report of the same pool; this one is later, or another pool's")
        # Places are numbered from 0, and none is ever left out.
        known, new = self.workers[: len(earlier.workers)], self.workers[len(earlier.workers) :]
        workers = tuple(_minus(*pair) for pair in zip(known, earlier.workers, strict=False)) + new
        return PoolReport(workers, self.jobs.minus(earlier.jobs))

    def plot(self) -> Any:
        """One picture: how long the jobs took, and what each worker did with its time.

        Returns:
            A ``matplotlib.figure.Figure``, which a notebook shows and ``savefig`` writes; its background is transparent
            and its text grey, so that it can be read on light and on dark.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from .display.picture import report_picture

        return report_picture(self)

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        """For notebooks."""
        from .display.html import report_html

        return report_html(self)


def in_words(seconds: float) -> str:
    """A time for people: three digits and a unit."""
    seconds = float(f"{seconds:.3g}")  # first, or what is nearly a millisecond would be 1e+03 us
    if not seconds:
        return "0 s"
    if seconds >= 1000:
        return f"{seconds:,.0f} s"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def jobs_in_words(jobs: Durations) -> str:
    """How long they took, as a sentence."""
    if not jobs.count:
        return "No submitted job and no item of a map has ended."
    half, most, longest = (in_words(jobs.percentile(percent)) for percent in (50, 99, 100))
    return (
        f"{jobs.count:,} jobs took {in_words(jobs.mean)} on average: half of them at most {half}, 99 % at most {most}, "
        f"the longest {longest}."
    )


def _lines(report: PoolReport) -> Iterator[str]:
    yield jobs_in_words(report.jobs)
    yield f"The workers were busy for {report.busy:.0%} of their time."
    yield f"{'worker':>8} {'calls':>12} {'starting':>9} {'working':>9} {'waiting':>9}  busy"
    for worker in report.workers:
        times = " ".join(f"{in_words(seconds):>9}" for seconds in (worker.starting, worker.working, worker.waiting))
        bar = "#" * round(_BAR * worker.busy)
        yield f"{worker.pid or 'gone':>8} {worker.calls:>12,} {times}  {worker.busy:4.0%} {bar:.<{_BAR}}"


def _minus(worker: WorkerTime, earlier: WorkerTime) -> WorkerTime:
    # Not below 0: of a job that runs, the time until now is a guess.
    return replace(
        worker,
        calls=max(0, worker.calls - earlier.calls),
        starting=max(0.0, worker.starting - earlier.starting),
        serving=max(0.0, worker.serving - earlier.serving),
        timed=max(0.0, worker.timed - earlier.timed),
        cpu=max(0.0, worker.cpu - earlier.cpu),
    )


# -- from a dispatcher -------------------------------------------------------------------------------------------------


def account(dispatcher: Dispatcher) -> PoolReport:
    """The report of that dispatcher's pool.  While a worker ends, what it did may be missed for an instant."""
    population, now = dispatcher.population, monotonic()
    jobs = Durations()
    jobs.add(population.timesheet.durations)
    accounts = population.timesheet.accounts()
    for process in list(population.present.values()):
        lanes = population.lanes(process)
        present = accounts.setdefault(process.slot, Account(instances=dispatcher.options.instances))
        present.pid = process.pid
        present.add_process(process, now)
        if not process.stopping:
            present.cpu += cpu_seconds(process, lanes)
        for lane in lanes:
            present.add_lane(lane)
            present.timed += _running(lane, now)
            jobs.add(lane.durations)
    return PoolReport(tuple(_worker_time(accounts[slot]) for slot in sorted(accounts)), jobs)


def _running(lane: Lane, now: float) -> float:
    """For how long the job that runs has done so."""
    return max(0.0, now - lane.since) if lane.depth else 0.0


def _worker_time(account: Account) -> WorkerTime:
    return WorkerTime(
        pid=account.pid,
        processes=account.processes,
        calls=account.calls,
        starting=account.starting,
        serving=max(0.0, account.present - account.starting),
        timed=account.timed / account.instances,
        cpu=account.cpu / account.instances,
    )
