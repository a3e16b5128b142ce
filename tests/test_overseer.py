"""What the overseer does with a worker, step by step; in every other order it is tested by test_scheduler.py."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from models import ModelJob, ModelPort, ModelWorker

from procpool import wire
from procpool.binary import FuncType
from procpool.codec import Codec
from procpool.deadline import Deadline
from procpool.supervisor.events import Journal
from procpool.supervisor.jobs.batch import Segment
from procpool.supervisor.jobs.call import Export, Job
from procpool.supervisor.jobs.chunk import Chunk
from procpool.supervisor.lane import Lane
from procpool.supervisor.overseer import STALL_SECONDS, STEAL_SECONDS, STILL_SECONDS, Overseer
from procpool.supervisor.scheduler import Scheduler

GRACE = 1.0


class Pool:
    """Two workers and an overseer, with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.scheduler = Scheduler(lambda: self.now, lambda at: None, round_robin=True)
        self.killed: list[int] = []
        self.journal = Journal(None, lambda code: None)
        self.overseer = Overseer(self.scheduler, self.journal, GRACE, self._kill, self._lanes_of)
        self.workers = [ModelWorker(False) for _ in range(2)]
        self.lanes = [Lane(ModelPort(worker, pid)) for pid, worker in enumerate(self.workers)]  # type: ignore[arg-type]
        self.jobs: dict[int, Job] = {}
        for worker, lane in zip(self.workers, self.lanes):
            worker.spins = lambda id: self.jobs[id].spins  # type: ignore[attr-defined]
            self.scheduler.add()
            self.scheduler.release(lane)

    def _lanes_of(self, process: Any) -> list[Lane]:
        return [lane for lane in self.lanes if lane.port.process is process]

    def _kill(self, process: Any, why: str) -> None:
        self.killed.append(process.pid)

    def submit(self, spins: bool = False, limit: float | None = None, timeout: float | None = None) -> ModelJob:
        job = ModelJob(len(self.jobs))
        job.spins, job.limit = spins, limit
        if timeout is not None:
            job.deadline = Deadline(self.now + timeout, timeout)
        self.jobs[job.id] = job
        self.scheduler.submit(job)
        return job

    def steps(self, which: int, count: int = 100) -> None:
        for _ in range(count):
            self.workers[which].step()
            self.workers[which].settles()

    def hears(self) -> None:
        for lane, worker in zip(self.lanes, self.workers):
            while worker.control():
                pass
            while worker.socket:
                status, what = worker.socket.popleft()
                if status == wire.PASSED:
                    self.scheduler.passed(lane, what)
                else:
                    lane.job_at(0).answered(lane, lane.port, status, b"")
                    self.scheduler.answered(lane, 1)
                self.scheduler.settle(lane)

    def looks(self, later: float = 0.0) -> list[float]:
        self.now += later
        due: list[float] = []
        for lane in list(self.scheduler.busy):
            due += self.overseer.look_after(lane, self.now)
        return due


def behind_one_that_spins(pool: Pool) -> tuple[ModelJob, ModelJob]:
    """Both workers have a job that spins, and the first another one behind it."""
    pool.scheduler.measured(100_000.0)
    first = pool.submit(spins=True)
    pool.submit(spins=True)
    behind = pool.submit()
    assert pool.lanes[0].depth == 2
    pool.steps(0)
    pool.steps(1)
    return first, behind


def test_what_waits_behind_a_stalled_job_is_taken_back_after_a_while() -> None:
    pool = Pool()
    _, behind = behind_one_that_spins(pool)
    due = pool.looks()
    assert pool.now + STALL_SECONDS == pytest.approx(min(due)) and not pool.lanes[0].fenced
    due = pool.looks(STALL_SECONDS)
    assert pool.lanes[0].settles_at in due
    pool.looks(0.001)
    assert pool.lanes[0].depth == 1 and list(pool.lanes[1].waiting()) == [behind], "it tries the other one"


def test_an_answer_is_not_kept_by_a_worker_that_begins_the_next_job() -> None:
    """It begins it just after it was told to flush, or just before it sees the fence."""
    pool = Pool()
    pool.scheduler.measured(100_000.0)
    done = pool.submit(spins=True)
    pool.submit(spins=True)
    endless = pool.submit(spins=True)
    worker = pool.workers[0]
    pool.steps(0)
    original = pool.scheduler.fence

    def fence(lane: Lane, begun: int) -> Any:
        while worker.control():
            pass
        numbers = original(lane, begun)
        done.spins = False
        for _ in range(8):  # the next job is begun before the board says that it is void
            worker.step()
        return numbers

    pool.scheduler.fence = fence  # type: ignore[method-assign]
    pool.overseer.withdraw(pool.lanes[0])
    assert worker.ran == [done.id, endless.id] and worker.state == "running"
    pool.hears()
    assert done.done()


@pytest.mark.parametrize("how", ["limit", "timeout"])
def test_what_runs_too_long_is_interrupted_again_and_again_and_then_killed(how: str) -> None:
    pool = Pool()
    job = pool.submit(spins=True, **{how: 0.5})  # type: ignore[arg-type]
    pool.steps(0)
    assert pool.looks() == [pool.now + 0.5]
    worker = pool.workers[0]
    pool.looks(0.5)
    assert worker.commands.popleft() == (wire.INTERRUPT, 0, 0)
    assert job.done() and pool.journal.counts()["timeout"] == 1
    sent = 0
    while not pool.killed:
        due = pool.looks()
        sent += len(worker.commands)
        worker.commands.clear()
        assert pool.killed or min(due) > pool.now
        pool.now = min(due, default=pool.now)
    assert pool.killed == [0] and pool.now == pytest.approx(100.0 + 0.5 + GRACE)
    assert 5 < sent < 15, "less and less often"
    assert pool.journal.counts()["timeout"] == 1


def test_a_worker_that_hears_goes_on() -> None:
    pool = Pool()
    job = pool.submit(spins=True, limit=0.5)
    pool.steps(0)
    pool.looks(0.5)
    pool.hears()
    pool.steps(0)
    pool.hears()
    assert job.done() and not pool.killed and list(pool.scheduler.idle) == [pool.lanes[1], pool.lanes[0]]


def past_a_stopped_worker(pool: Pool) -> ModelJob:
    """A job that was sent to a worker which is stopped, and has been run by the other."""
    pool.workers[0].stopped = True
    job = pool.submit()
    pool.looks(2 * STALL_SECONDS)
    pool.looks(0.001)
    pool.steps(1)
    pool.hears()
    return job


def test_what_a_stopped_worker_has_not_begun_goes_to_one_that_is_idle() -> None:
    pool = Pool()
    job = past_a_stopped_worker(pool)
    assert job.done() and list(pool.scheduler.busy) == [pool.lanes[0]], "which has a fence to pass"
    pool.workers[0].stopped = False
    pool.steps(0)
    pool.hears()
    assert not pool.scheduler.busy and pool.workers[0].ran == []


def test_no_call_is_sent_to_the_neighbour_of_a_stopped_worker_when_their_process_is_killed() -> None:
    pool = Pool()
    pool.lanes[1].port.process = pool.lanes[0].port.process
    job = past_a_stopped_worker(pool)
    assert job.done() and list(pool.scheduler.idle) == [pool.lanes[1]]
    killed: list[Any] = []
    called: list[Lane] = []

    def kill(process: Any, why: str) -> None:
        killed.append(process)
        with contextlib.suppress(IndexError):
            called.append(pool.scheduler.next_idle())

    pool.overseer._kill = kill
    lane = pool.scheduler.next_idle()
    pool.looks(STILL_SECONDS + GRACE)  # not while one of them is in a call
    pool.scheduler.release(lane)
    assert not killed
    pool.looks(STILL_SECONDS)
    assert killed == [pool.lanes[0].port.process] and not called


# -- batches -----------------------------------------------------------------------------------------------------------


class Columns:
    """A map's data, of which nothing is looked at here."""

    def load(self, column: int, start: int, stop: int, target: memoryview) -> None:
        target[:] = bytes(len(target))

    def store(self, column: int, start: int, stop: int, source: memoryview) -> None:
        pass


def runs_a_batch(pool: Pool, items: int, item_timeout: float | None = None) -> Segment:
    """The first worker is at the first item of a batch, and the other one is idle."""
    lane = pool.lanes[0]
    lane.port.arena = memoryview(bytearray(wire.ARENA_BYTES))  # type: ignore[misc]
    export = Export(0, Codec("f", FuncType(("i32",), ("i32",))))
    batch = Segment(Chunk(export, Columns(), items, item_timeout), 0, items)
    pool.scheduler.submit(batch)
    pool.workers[0].begun_seen = 1
    assert lane.head is batch and list(pool.scheduler.idle) == [pool.lanes[1]]
    return batch


def is_at(pool: Pool, batch: Segment, item: int) -> None:
    cell = batch.buffer * wire.CELLS + wire.INDEX
    pool.lanes[0].port.arena[cell : cell + 4] = item.to_bytes(4, "little")
    assert batch.item(pool.lanes[0].port) == item


def test_the_rest_of_a_batch_is_shared_if_another_worker_has_nothing_to_do() -> None:
    pool = Pool()
    batch = runs_a_batch(pool, 10)
    assert pool.looks() == [pool.now + STEAL_SECONDS] and not batch.halted, "it may be over in a moment"
    assert pool.looks(STEAL_SECONDS) == [] and batch.halted
    assert pool.looks(STEAL_SECONDS) == [] and not pool.lanes[0].fenced, "what it is at it runs to its end"


def test_a_batch_whose_rest_is_short_is_looked_at_again() -> None:
    """The items still to come may be longer than those so far."""
    pool = Pool()
    batch = runs_a_batch(pool, 10)
    is_at(pool, batch, 8)
    assert pool.looks(2 * STEAL_SECONDS) == [pool.now + STEAL_SECONDS] and not batch.halted
    assert pool.looks(20 * STEAL_SECONDS) == [] and batch.halted


def test_one_item_cannot_be_shared() -> None:
    pool = Pool()
    batch = runs_a_batch(pool, 1)
    assert pool.looks(1.0) == [] and not batch.halted


def test_a_batch_that_others_have_no_time_for_goes_on() -> None:
    pool = Pool()
    batch = runs_a_batch(pool, 10)
    assert pool.scheduler.next_idle() is pool.lanes[1]  # somebody calls
    assert pool.looks(1.0) == [] and not batch.halted
    pool.scheduler.release(pool.lanes[1])
    assert pool.looks() == [] and batch.halted


def test_each_item_has_its_own_limit_and_is_looked_at_in_time() -> None:
    pool = Pool()
    batch = runs_a_batch(pool, 1000, item_timeout=0.4)
    assert pool.scheduler.next_idle() is pool.lanes[1]  # somebody calls, so that there is nobody to share with
    assert sorted(pool.looks()) == [pool.now + 0.1, pool.now + 0.4]
    is_at(pool, batch, 1)
    assert sorted(pool.looks(0.3)) == [pytest.approx(pool.now + 0.1), pytest.approx(pool.now + 0.4)]
    assert not pool.workers[0].commands
    pool.looks(0.4)
    assert pool.workers[0].commands.popleft() == (wire.INTERRUPT, 0, 1)


# -- in between --------------------------------------------------------------------------------------------------------


def test_what_is_not_begun_is_not_taken_back_before_both_sides_have_seen_the_fence() -> None:
    pool = Pool()
    _, behind = behind_one_that_spins(pool)
    pool.overseer.withdraw(pool.lanes[0])
    at = pool.lanes[0].settles_at
    assert at is not None and at in pool.looks() and behind.in_flight


def test_a_worker_that_has_become_idle_meanwhile_is_left_alone() -> None:
    pool = Pool()
    assert pool.overseer.look_after(pool.lanes[0], pool.now + 1000.0) == [] and not pool.killed


def test_what_a_worker_has_taken_from_its_page_does_not_stall() -> None:
    """Though the board does not say that it has begun: the worker is not told again and again to flush."""
    pool = Pool()
    lane = pool.scheduler.next_idle()
    pool.scheduler.adopt(lane, Job("f", b"frame"), pool.now, taken=True)
    assert pool.looks(10 * STALL_SECONDS) == []
    assert not lane.fenced and not pool.workers[pool.lanes.index(lane)].commands
