"""Which process serves which tenant, and what waits for one.  Pure: knows lanes and jobs by what it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .jobs.call import Job
from .lane import Lane
from .process import Process
from .queue import JobQueue


class Tenants:
    """For the holder of the scheduler's lock.

    A process belongs to the tenant of its first job until it ends.  Jobs wait for a process by tenant, so none holds up
    another's.
    """

    def __init__(self) -> None:
        self._owners: dict[Process, str] = {}
        self._waiting: dict[str, JobQueue] = {}  # the longest waiting first

    def __len__(self) -> int:
        """How many jobs wait."""
        return sum(map(len, tuple(self._waiting.values())))

    def __contains__(self, job: Job) -> bool:
        queue = self._waiting.get(job.tenant)
        return queue is not None and job in queue

    def add(self, job: Job) -> None:
        """A job waits from now on."""
        if job.tenant not in self._waiting:
            self._waiting[job.tenant] = JobQueue()
        self._waiting[job.tenant].insert(job)

    def queue(self, tenant: str) -> JobQueue:
        """What waits for a tenant, which is among `in_turn`."""
        return self._waiting[tenant]

    def served(self, tenant: str) -> None:
        """A job of that tenant has been taken: it is the others' turn."""
        queue = self._waiting.pop(tenant)
        if queue:
            self._waiting[tenant] = queue

    def clear(self) -> list[Job]:
        """Take all that waits."""
        waiting, self._waiting = self._waiting, {}
        return [job for queue in waiting.values() for job in queue.clear()]

    def in_turn(self) -> list[str]:
        """Tenants for which jobs wait: those with the fewest processes first, and of these the longest waiting."""
        processes = Counter(self._owners.values())
        return sorted(self._waiting, key=lambda tenant: processes[tenant])

    def lane(self, tenant: str, idle: Iterable[Lane]) -> Lane | None:
        """The one of those that a job of the tenant may go to: of its own processes, else of one that nobody has had."""
        found: Lane | None = None
        for lane in idle:
            if lane.leaving or lane.port.dead:
                continue
            owner = self._owners.get(lane.port.process)
            if owner == tenant:
                return lane
            if owner is None and found is None:
                found = lane
        return found

    def claim(self, process: Process, tenant: str) -> None:
        """A job of the tenant goes there."""
        assert self._owners.setdefault(process, tenant) == tenant, "a process has one tenant"

    def gone(self, process: Process) -> None:
        """A process has ended."""
        self._owners.pop(process, None)

    def to_leave(self, idle: Iterable[Lane], busy: Iterable[Lane]) -> Process | None:
        """A process to be replaced by a new one, which whoever waits can have; None if none should, or one is already.

        One that does nothing, and whose tenant wants nothing, gives way to anybody.  Else who has none gets one of who
        has most.
        """
        busy = list(busy)
        at_work = {lane.port.process for lane in busy}
        resting = {lane.port.process for lane in idle} - at_work
        present = {process: owner for process, owner in self._owners.items() if process in at_work | resting}
        if not self._waiting or any(process.outdated for process in present):
            return None
        for process in resting:
            if process in present and present[process] not in self._waiting:
                return process
        processes = Counter(present.values())
        if not all(processes[tenant] for tenant in self._waiting):
            most = max(processes, key=lambda tenant: processes[tenant], default=None)
            return next((process for process, owner in present.items() if owner == most), None)
        return None
