"""Jobs that wait for workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from .jobs.call import Job


class JobQueue:
    """Jobs by priority, and among equals in the order they came.

    `append` may be called by any thread at any time, where it is a single operation on a deque.  The rest is for the
    holder of the scheduler's lock.
    """

    def __init__(self) -> None:
        self.ordinary: deque[Job] = deque()  #: of priority 0
        self.levels: dict[int, deque[Job]] = {}  #: the others, of which there are seldom any
        self._order: list[int] = []  # their priorities, highest first
        self.append: Callable[[Job], None] = self.ordinary.append  #: a job of priority 0

    def __len__(self) -> int:
        return len(self.ordinary) + (sum(map(len, tuple(self.levels.values()))) if self.levels else 0)

    def __bool__(self) -> bool:
        return bool(self.ordinary or self.levels)

    def __contains__(self, job: Job) -> bool:
        return job in self.ordinary or any(job in level for level in self.levels.values())

    def front(self) -> deque[Job]:
        """The deque whose first job is the next one; empty if there is none."""
        for priority in self._order:
            if priority > 0 or not self.ordinary:
                return self.levels[priority]
            break
        return self.ordinary

    def insert(self, job: Job) -> None:
        """Queue a job behind its equals."""
        level = self.levels.get(job.priority)
        if level is None:
            self._begin_level(job)
        else:
            job.queued = True
            level.append(job)

    def give_back(self, jobs: Iterable[Job]) -> None:
        """Queue jobs, given in their order, before their equals."""
        for job in reversed(tuple(jobs)):
            level = self.levels.get(job.priority) if job.priority else self.ordinary
            if level is None:
                self._begin_level(job)
            else:
                level.appendleft(job)

    def taken(self, front: deque[Job]) -> None:
        """Something was taken from what `front` gave."""
        if not front and front is not self.ordinary:
            self.tidy()

    def tidy(self) -> None:
        """Forget priorities of which there are no jobs."""
        self.levels = {priority: level for priority, level in self.levels.items() if level}
        self._order = sorted(self.levels, reverse=True)

    def clear(self) -> list[Job]:
        """Take all."""
        jobs: list[Job] = []
        while self:
            front = self.front()
            jobs.append(front.popleft())
            self.taken(front)
        return jobs

    def _begin_level(self, job: Job) -> None:
        level, order = deque((job,)), sorted((*self.levels, job.priority), reverse=True)
        # In one step as far as Ctrl-C goes, which comes where something is called: no level is ever empty.
        job.queued = True
        self.levels[job.priority] = level
        self._order = order
