"""What the processes of a pool have done with their time, place by place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from ..durations import Durations

if TYPE_CHECKING:
    from .lane import Lane
    from .process import Process


@dataclass
class Account:
    """What the processes that had one place, one after the other, have done.  Times are in seconds."""

    pid: int | None = None  #: of the one that is there
    processes: int = 0  #: how many have had the place
    instances: int = 1  #: how many each serves at once
    present: float = 0.0  #: since they were asked for
    starting: float = 0.0  #: of that, until they were ready
    timed: float = 0.0  #: submitted jobs and items of maps, by the workers' own clocks; of all instances together
    cpu: float = 0.0  #: processor time since they were ready, as far as it is known
    calls: int = 0  #: jobs and items of maps finished

    def add_process(self, process: Process, now: float) -> None:
        """Count the life of a process until now."""
        self.processes += 1
        self.present += now - process.asked_at
        self.starting += min(process.ready_at, now) - process.asked_at

    def add_lane(self, lane: Lane) -> None:
        """Count what one of its workers has done."""
        self.timed += lane.durations.total
        self.calls += lane.calls


class Timesheet:
    """The accounts of processes that are gone, by their places, and how long the jobs took that they did.

    There are no more places than there may be workers, so it stays small however many processes come and go.  Written by
    the dispatcher's thread; any may ask for a copy.
    """

    def __init__(self, instances: int) -> None:
        self.durations: Durations = Durations()
        self._instances = instances
        self._accounts: dict[int, Account] = {}

    def ends(self, process: Process, lanes: Iterable[Lane]) -> None:
        """A process is about to be told to end: the last moment to ask how much processor time it has used."""
        self._account(process).cpu += cpu_seconds(process, lanes)

    def ended(self, process: Process, now: float) -> None:
        """A process is no more."""
        self._account(process).add_process(process, now)

    def buried(self, lane: Lane) -> None:
        """A worker will do nothing more."""
        self._account(lane.port.process).add_lane(lane)
        self.durations.add(lane.durations)

    def accounts(self) -> dict[int, Account]:
        """Copies of the accounts, by place."""
        return {place: dataclasses.replace(account) for place, account in self._accounts.copy().items()}

    def _account(self, process: Process) -> Account:
        return self._accounts.setdefault(process.slot, Account(instances=self._instances))


def cpu_seconds(process: Process, lanes: Iterable[Lane]) -> float:
    """Processor time that a living process has used since it was ready; 0 if that cannot be known."""
    if process.pid is None or process.reaped:
        return 0.0
    try:
        before = max((lane.port.start_cpu for lane in lanes), default=0.0)
        if not before:  # it says that it is ready just before it looks what it has used
            return 0.0
        used = psutil.Process(process.pid).cpu_times()
    except (psutil.Error, OSError, ValueError):  # it has ended, or there are no descriptors left
        return 0.0
    return max(0.0, float(used.user + used.system) - before)
