"""What the scheduler does, step by step; in every other order it is tested by test_scheduler.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bounded import started
from conftest import DEADLINE, eventually
from models import ModelJob, ModelPort, ModelWorker

from procpool import wire
from procpool.deadline import Deadline
from procpool.supervisor import scheduler as scheduler_module
from procpool.supervisor.jobs.call import Abandoned, Job, Purge
from procpool.supervisor.lane import Lane
from procpool.supervisor.lease import Request
from procpool.supervisor.scheduler import Scheduler


def scheduler_with_one_worker() -> tuple[Scheduler, Lane, list[float]]:
    now = [0.0]
    scheduler = Scheduler(lambda: now[0], lambda at: None)
    lane = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.add()
    scheduler.release(lane)
    return scheduler, lane, now


def finish_all(scheduler: Scheduler, lane: Lane) -> None:
    while lane.depth:
        scheduler.answered(lane, lane.depth)
        scheduler.settle(lane)


def job_for_a_held_worker() -> tuple[Scheduler, Lane, ModelJob]:
    """Somebody holds the one worker, and a job waits for that very one, which is the home of its key."""
    scheduler, lane, _ = scheduler_with_one_worker()
    before, job = ModelJob(0), ModelJob(1)
    before.key = job.key = 1
    scheduler.submit(before)
    finish_all(scheduler, lane)
    assert scheduler.next_idle() is lane
    scheduler.submit(job)
    return scheduler, lane, job


def test_homes_are_forgotten_but_not_those_with_jobs(monkeypatch: Any) -> None:
    monkeypatch.setattr(scheduler_module, "MOST_HOMES", 10)
    scheduler, lane, _ = scheduler_with_one_worker()
    for id in range(1, 101):
        job = ModelJob(id)
        job.key = id
        scheduler.submit(job)
    assert len(scheduler._homes) == 100
    finish_all(scheduler, lane)
    assert list(scheduler._homes) == list(scheduler._vacant) == list(range(91, 101)), "the last used"
    assert scheduler._crowd == {lane: 10}
    job = ModelJob(101)
    job.key = 91
    scheduler.submit(job)
    assert 91 not in scheduler._vacant
    finish_all(scheduler, lane)
    assert list(scheduler._vacant) == [*range(92, 101), 91]


def test_deadlines_of_jobs_that_have_ended_are_forgotten() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    for id in range(4_000):
        job = ModelJob(id)
        job.deadline = Deadline(1e6, 1e6)
        scheduler.submit(job)
        job.succeed(None)
        finish_all(scheduler, lane)
    assert len(scheduler._deadlines) <= 1025


def test_clearing_the_deadlines_is_paid_by_those_that_came() -> None:
    """Jobs of one key wait in its home's own queue, and all have deadlines: none can be cleared."""
    scheduler, _, _ = scheduler_with_one_worker()
    looked = 0

    class Job_(ModelJob):
        def done(self) -> bool:
            nonlocal looked
            looked += 1
            return super().done()

    jobs = [Job_(id) for id in range(3_000)]
    for job in jobs:
        job.key = 1
        job.deadline = Deadline(1e6, 1e6)
        scheduler.submit(job)
    assert looked < 5 * len(jobs)


@pytest.mark.parametrize("round_robin", [False, True])
def test_direct_calls_overtake_a_job_for_one_worker_only_once(round_robin: bool) -> None:
    """Threads that call in a loop take each idle worker the moment they can, and a keyed job waits for this very one."""
    scheduler = Scheduler(lambda: 0.0, lambda at: None, round_robin)
    lane = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.add()
    scheduler.release(lane)
    before = ModelJob(0)
    before.key = 1
    scheduler.submit(before)  # so that it is the key's home
    finish_all(scheduler, lane)
    assert scheduler.next_idle() is lane  # one calls
    overtaken = 0

    def call() -> None:
        nonlocal overtaken
        if lane in scheduler.idle and not scheduler.queue:
            assert scheduler.next_idle() is lane
            overtaken += 1

    lane.port.on_look = call  # type: ignore[attr-defined]  # others, in the very moment when it is given back
    job = ModelJob(1)
    job.key = 1
    scheduler.submit(job)
    for _ in range(100):
        if job.in_flight:
            break
        scheduler.release(lane)
    assert job.in_flight and overtaken <= 1


def test_what_comes_back_of_a_key_goes_before_what_comes() -> None:
    """Its worker has died.  Between what is said to the job that it was running, and its return, others submit."""
    scheduler, lane, _ = scheduler_with_one_worker()
    scheduler.measured(1000.0)
    jobs = [ModelJob(id) for id in range(4)]
    for job in jobs:
        job.key = 1
    jobs[0].retries = 1
    for job in jobs[:3]:
        scheduler.submit(job)
    assert [lane.job_at(n) for n in range(lane.depth)] == jobs[:3]
    worker = lane.port.worker  # type: ignore[attr-defined]
    while worker.state != "running":
        worker.step()
    worker.dies()
    other = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.add()
    scheduler.release(other)
    lane.port.died()
    assert scheduler.remove(lane)
    guilty, rest = scheduler.crash(lane, lane.port.begun)
    assert guilty is jobs[0]
    retried, left = guilty.crashed(lane, lane.port, RuntimeError("died"))
    assert retried
    scheduler.submit(jobs[3])
    scheduler.pump()
    assert not other.depth
    scheduler.bury(lane, [*left, *rest])
    scheduler.pump()
    order = []
    while other.depth:
        order.append(other.job_at(0))
        finish_one(scheduler, other)
    assert order == jobs


def finish_one(scheduler: Scheduler, lane: Lane) -> None:
    scheduler.answered(lane, 1)
    scheduler.settle(lane)


def test_the_dispatcher_hears_of_a_worker_that_a_direct_call_leaves_idle_if_it_waits_for_that() -> None:
    told: list[float | None] = []
    scheduler = Scheduler(lambda: 0.0, told.append)
    lane = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.add()
    scheduler.release(lane)
    for _ in range(3):
        scheduler.release(scheduler.next_idle())
    assert told == [], "it costs a direct call nothing"
    assert scheduler.hungry()
    scheduler.next_idle()
    assert not scheduler.hungry()
    scheduler.release(lane)
    assert told == [None]
    scheduler.release(scheduler.next_idle())
    assert told == [None], "only once"


def test_the_idle_workers_of_a_process_are_taken_all_or_none() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    other = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.add()
    scheduler.release(other)
    assert scheduler.next_idle() is other  # somebody calls
    assert not scheduler.take_all_resting([lane, other])
    assert list(scheduler.idle) == [lane] and lane.open
    scheduler.release(other)
    assert scheduler.take_all_resting([lane, other])
    assert not scheduler.idle and list(scheduler.left) == [lane, other] and lane.leaving and other.leaving


# -- room in the queue -------------------------------------------------------------------------------------------------


def crowded() -> tuple[Scheduler, list[ModelJob]]:
    """Two jobs, and no worker."""
    scheduler = Scheduler(lambda: 0.0, lambda at: None)
    jobs = [ModelJob(id) for id in range(2)]
    for job in jobs:
        scheduler.submit(job)
    return scheduler, jobs


def test_space_is_waited_for_no_longer_than_it_takes() -> None:
    scheduler, _ = crowded()
    assert not scheduler.wait_for_space(2, lambda: False, 0)
    assert scheduler.wait_for_space(3, lambda: False, 0)
    assert scheduler.wait_for_space(2, lambda: True, 0), "it has waited for something else too"


def test_a_queued_job_that_ends_makes_room_once() -> None:
    scheduler, (job, other) = crowded()
    told: list[str] = []
    waiting = started(lambda: scheduler.wait_for_space(2, lambda: False, DEADLINE))
    eventually(lambda: bool(scheduler._waiting_for_space), "a thread that waits for space")
    scheduler.when_space(lambda: told.append("space"))
    for _ in range(2):
        scheduler.dropped(job)
    assert waiting.result(DEADLINE) and told == ["space"] and scheduler.pending() == 1
    scheduler.dropped(other)
    assert told == ["space"] and scheduler.pending() == 0


def test_a_job_that_is_sent_makes_room() -> None:
    scheduler, _ = crowded()
    told: list[int] = []
    scheduler.when_space(lambda: told.append(scheduler.pending()))
    scheduler.add()
    scheduler.release(Lane(ModelPort(ModelWorker(False))))  # type: ignore[arg-type]
    assert told == [1]


def test_who_waits_for_space_is_told_of_the_end() -> None:
    scheduler, _ = crowded()
    closing = False
    told: list[bool] = []
    waiting = started(lambda: scheduler.wait_for_space(1, lambda: closing, DEADLINE))
    eventually(lambda: bool(scheduler._waiting_for_space), "a thread that waits for space")
    scheduler.when_space(lambda: told.append(closing))
    closing = True
    scheduler.tell_waiting()
    assert waiting.result(DEADLINE) and told == [True]


# -- workers that die or leave in the wrong moment ---------------------------------------------------------------------


def test_a_worker_that_died_in_a_call_is_left_for_its_burial() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    assert scheduler.next_idle() is lane
    lane.port.died()
    scheduler.release(lane)
    assert not scheduler.idle and list(scheduler.left) == [lane]
    assert scheduler.remove(lane), "and whoever hears of its death takes it from there"
    assert not scheduler.left


def test_a_worker_that_was_to_leave_in_a_call_leaves_after_it() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    assert scheduler.next_idle() is lane
    scheduler.retire(lane)
    scheduler.release(lane)
    assert not scheduler.idle and list(scheduler.left) == [lane]


@pytest.mark.parametrize("kind", ["plain", "key", "request"])
def test_an_idle_worker_that_has_died_is_sent_nothing(kind: str) -> None:
    """The dispatcher has not looked for it among the idle ones yet."""
    scheduler, lane, _ = scheduler_with_one_worker()
    job = ModelJob(1)
    if kind == "key":
        before = ModelJob(0)
        before.key = job.key = 1
        scheduler.submit(before)
        finish_all(scheduler, lane)
        waiting = ModelJob(2)
        waiting.key = 1
        assert scheduler.next_idle() is lane  # so that one waits for this very worker
        scheduler.submit(waiting)
        scheduler.idle.append(lane)
    job.exclusive = kind == "request"
    lane.port.died()
    scheduler.submit(job)
    assert not lane.depth and not scheduler.idle and not scheduler.busy and list(scheduler.left) == [lane]
    assert job.queued and not job.done()
    assert scheduler.remove(lane)
    scheduler.bury(lane, [])
    scheduler.add()
    other = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.release(other)
    finish_all(scheduler, other)
    assert not scheduler.pending()
    assert not job.exclusive or job.result(0) is other


def test_what_waits_for_a_worker_that_dies_in_a_call_runs_elsewhere() -> None:
    scheduler, lane, job = job_for_a_held_worker()
    lane.port.died()
    scheduler.release(lane)
    assert list(scheduler.left) == [lane] and not lane.depth
    assert scheduler.remove(lane)
    scheduler.bury(lane, [])
    other = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.release(other)
    assert other.head is job


def test_a_key_moves_out_of_a_worker_that_leaves() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    jobs = [ModelJob(id) for id in range(2)]
    for job in jobs:
        job.key = 1
    scheduler.submit(jobs[0])
    finish_all(scheduler, lane)
    scheduler.retire(lane)
    other = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.add()
    scheduler.release(other)
    scheduler.submit(jobs[1])
    assert other.head is jobs[1] and scheduler._crowd == {lane: 0, other: 1}


def test_a_worker_that_is_to_leave_does_so_when_its_last_job_came_to_nothing() -> None:
    scheduler, lane, last = job_for_a_held_worker()
    scheduler.retire(lane)
    last.cancel()
    scheduler.release(lane)
    assert not scheduler.busy and not scheduler.idle and list(scheduler.left) == [lane]


# -- what comes back ---------------------------------------------------------------------------------------------------


def behind_a_fence() -> tuple[Scheduler, Lane, list[float], list[ModelJob]]:
    """Three jobs in a worker that has begun the first, and is to give back what is behind it."""
    scheduler, lane, now = scheduler_with_one_worker()
    scheduler.measured(1000.0)
    jobs = [ModelJob(id) for id in range(3)]
    for job in jobs[1:]:
        job.deadline = Deadline(5.0, 5.0)
    for job in jobs:
        scheduler.submit(job)
    worker = lane.port.worker  # type: ignore[attr-defined]
    while worker.state != "running":
        worker.step()
    worker.settles()
    scheduler.pump()
    assert lane.depth == 3
    numbers = scheduler.fence(lane, lane.port.begun)
    assert numbers == (1, 3)
    lane.port.fence(*numbers)
    return scheduler, lane, now, jobs


def test_what_comes_back_and_has_ended_is_not_queued_again() -> None:
    scheduler, lane, _, jobs = behind_a_fence()
    jobs[1].cancel()
    scheduler.withdraw(lane, lane.port.begun)
    assert scheduler.pending() == 1 and not jobs[1].queued and jobs[2].queued


def test_what_comes_back_too_late_is_told_so() -> None:
    """Its deadline came while it was in a worker, behind another job, and was passed over."""
    scheduler, lane, now, jobs = behind_a_fence()
    now[0] = 6.0
    assert scheduler.expired(now[0]) == [] and scheduler.next_deadline is None
    scheduler.withdraw(lane, lane.port.begun)
    assert scheduler.next_deadline == 5.0
    assert sorted(job.name for job in scheduler.expired(now[0])) == ["job 1", "job 2"]
    assert jobs[1].queued and jobs[2].queued


def test_a_worker_that_has_yet_to_pass_its_fence_may_be_taken_for_good() -> None:
    scheduler, lane, _, _ = behind_a_fence()
    scheduler.withdraw(lane, lane.port.begun)
    assert not scheduler.take_resting(lane), "it runs a job"
    scheduler.answered(lane, 1)
    scheduler.settle(lane)
    assert lane in scheduler.busy and scheduler.resting(lane), "it has only its fence to pass"
    assert scheduler.take_resting(lane)
    assert not scheduler.busy and not scheduler.idle
    assert not scheduler.take_resting(lane), "only once"


def test_an_idle_worker_may_be_taken_for_good() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    assert scheduler.resting(lane) and scheduler.take_resting(lane)
    assert not scheduler.idle and not scheduler.resting(lane)


def test_closing_takes_also_what_waits_for_one_worker() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    jobs = [ModelJob(id) for id in range(3)]
    jobs[0].key = jobs[1].key = 1
    for job in jobs:
        scheduler.submit(job)
    assert lane.head is jobs[0] and scheduler.pending() == 2
    assert scheduler.take_queued() == [jobs[2], jobs[1]]
    assert not scheduler.pending() and not scheduler._own and not any(job.queued for job in jobs)
    finish_all(scheduler, lane)
    assert list(scheduler._vacant) == [1], "no job of the key is unfinished"


def test_what_could_not_be_sent_fails_alone() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    broken, sound = ModelJob(0, broken=True), ModelJob(1)
    broken.key = 1
    scheduler.submit(broken)
    scheduler.submit(sound)
    assert isinstance(broken.exception(0), Exception) and lane.head is sound and not scheduler._homes[1].unfinished


def test_the_pipe_takes_the_rest_when_it_has_room() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    lane.port.capacity = 5  # type: ignore[attr-defined]
    job = ModelJob(0)
    scheduler.submit(job)
    assert len(lane.unwritten) == len(job.frame) - 5 and not lane.open
    assert not scheduler.write_more(lane), "it is full"
    lane.port.capacity = None  # type: ignore[attr-defined]
    assert scheduler.write_more(lane) and lane.open
    worker = lane.port.worker  # type: ignore[attr-defined]
    while worker.step():
        pass
    assert worker.ran == [0]


def test_a_purge_ends_with_the_worker_that_it_was_for() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    purge: Job = Purge()
    assert scheduler.take_idle(lane)
    scheduler.assign(lane, purge)
    assert lane.head is purge
    lane.port.died()
    assert scheduler.remove(lane)
    assert scheduler.crash(lane, 0) == (None, [])
    scheduler.bury(lane, [])
    assert not scheduler.pending()


def test_a_dead_workers_own_jobs_run_elsewhere_though_its_holder_has_not_noticed() -> None:
    scheduler, lane, job = job_for_a_held_worker()
    scheduler.add()
    other = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.release(other)
    assert job.queued and not other.depth, "its key's home is the other one"
    lane.port.died()
    assert not scheduler.remove(lane), "its holder has it"
    assert other.head is job


def test_an_idle_worker_that_keeps_work_for_itself_is_not_taken() -> None:
    """It is idle for a moment, between what it has done and what waits for it."""
    scheduler, lane, job = job_for_a_held_worker()
    scheduler.idle.append(lane)
    assert not scheduler.take_idle(lane) and list(scheduler.idle) == [lane]
    scheduler.pump()
    assert lane.head is job


def test_what_is_given_back_goes_before_all_others() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    running, waiting, left = (ModelJob(id) for id in range(3))
    for job in (running, waiting):
        scheduler.submit(job)
    scheduler.give_back([left])
    order = []
    while lane.head is not None:
        order.append(lane.head)
        finish_one(scheduler, lane)
    assert order == [running, left, waiting]


def test_the_number_of_workers_is_known_before_they_are_ready() -> None:
    scheduler, _, _ = scheduler_with_one_worker()
    scheduler.add()
    assert scheduler.lanes == 2
    scheduler.gone()
    assert scheduler.lanes == 1


def test_a_key_stays_where_it_was_when_its_jobs_come_back() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    scheduler.measured(1000.0)
    scheduler.submit(ModelJob(0))
    keyed = ModelJob(1)
    keyed.key = 1
    scheduler.submit(keyed)
    scheduler.add()
    other = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.release(other)
    assert scheduler.fence(lane, 1) == (1, 2)
    scheduler.withdraw(lane, 1)
    assert keyed.queued and not other.depth, "only its key's worker may run it"
    scheduler.answered(lane, 1)
    scheduler.passed(lane, 1)
    scheduler.settle(lane)
    assert lane.head is keyed


def test_a_key_waits_for_the_first_worker() -> None:
    scheduler = Scheduler(lambda: 0.0, lambda at: None)
    scheduler.add()
    job = ModelJob(0)
    job.key = 1
    scheduler.submit(job)
    assert job.queued and not scheduler._homes
    lane = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    scheduler.release(lane)
    assert lane.head is job


def test_a_worker_is_not_handed_to_a_caller_that_has_just_left() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()

    class Leaves(ModelJob):
        exclusive = True

        def begin(self) -> bool:
            self.cancel()
            return super().begin()

    job = Leaves(0)
    scheduler.submit(job)
    assert job.cancelled() and not job.queued and list(scheduler.idle) == [lane]


def test_what_a_caller_leaves_running_is_in_flight() -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    assert scheduler.next_idle() is lane
    left = Abandoned("f")
    scheduler.adopt(lane, left, since=0.0, taken=False)
    assert lane.head is left and lane in scheduler.busy and not lane.open
    assert scheduler.fence(lane, 0) is None, "there is nothing to take back"
    finish_one(scheduler, lane)
    assert list(scheduler.idle) == [lane] and lane.open


@pytest.mark.parametrize("taken", [False, True])
def test_what_a_worker_has_taken_from_its_page_has_begun_whatever_its_board_says(taken: bool) -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    assert scheduler.next_idle() is lane
    job = Job("f", b"frame")
    scheduler.adopt(lane, job, 0.25, taken)
    assert lane.since == 0.25, "its time began when its holder sent it"
    guilty, rest = scheduler.crash(lane, begun=0)
    assert (guilty, rest) == ((job, []) if taken else (None, [job]))


def test_a_purge_that_comes_back_is_sent_to_the_same_worker_again() -> None:
    """The worker was stopped before it began it, and is to leave after it."""
    scheduler, lane, _ = scheduler_with_one_worker()
    assert scheduler.take_idle(lane)
    purge = Purge()
    scheduler.assign(lane, purge)
    assert scheduler.fence(lane, 0) == (0, 1)
    scheduler.withdraw(lane, 0)
    assert purge.queued and not purge.in_flight
    assert not scheduler.take_idle(lane), "it has its fence to pass"
    scheduler.retire(lane)
    scheduler.passed(lane, 0)
    scheduler.settle(lane)
    assert lane.head is purge and not scheduler._own
    finish_one(scheduler, lane)
    assert list(scheduler.left) == [lane] and not scheduler.busy


class Interrupted:
    """In place of a function: raises KeyboardInterrupt once, before or after what that does."""

    def __init__(self, function: Callable[..., Any], before: bool = True) -> None:
        self._function = function
        self._before = before
        self._due = True

    def __call__(self, *how: Any, **more: Any) -> Any:
        due, self._due = self._due, False
        if due and self._before:
            raise KeyboardInterrupt
        done = self._function(*how, **more)
        if due:
            raise KeyboardInterrupt
        return done


@pytest.mark.parametrize("key", [None, 1])
@pytest.mark.parametrize("priority", [0, 3])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("what", ["begin", "place", "writes", "send"])
def test_whoever_is_interrupted_while_it_sends_jobs_loses_none(
    what: str, before: bool, priority: int, key: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    jobs = [ModelJob(0, buffers=1, function=b"f"), ModelJob(1, buffers=1)]
    owner: Any = {"begin": jobs[0], "place": jobs[0], "writes": lane.port, "send": lane}[what]
    monkeypatch.setattr(owner, what, Interrupted(getattr(owner, what), before))
    for job in jobs:
        job.priority, job.key = priority, key
    with pytest.raises(KeyboardInterrupt):
        scheduler.submit(jobs[0])
    scheduler.submit(jobs[1])
    scheduler.mend()
    scheduler.mend()  # there is nothing left to do
    worker = lane.port.worker  # type: ignore[attr-defined]
    while lane.depth or lane.unwritten:
        assert lane in scheduler.busy
        scheduler.write_more(lane)
        while worker.step():
            pass
        scheduler.answered(lane, lane.depth)
        scheduler.settle(lane)
    assert worker.ran == [0, 1] and scheduler.pending() == 0
    assert list(scheduler.idle) == [lane] and not scheduler.busy and lane.buffers == wire.BUFFERS


@pytest.mark.parametrize("ends", [False, True])
def test_whoever_is_interrupted_while_a_job_begins_that_ends_leaves_nothing(
    ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    job = ModelJob(0)

    def begin() -> bool:
        if ends:
            job.fail(KeyError())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "begin", begin)
        with pytest.raises(KeyboardInterrupt):
            scheduler.submit(job)
    scheduler.mend()
    assert lane.depth == (not ends) and scheduler.pending() == 0


@pytest.mark.parametrize("before", [True, False])
def test_whoever_is_interrupted_while_it_hands_a_worker_over_loses_none(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, lane, _ = scheduler_with_one_worker()
    request = Request()
    monkeypatch.setattr(request, "succeed", Interrupted(request.succeed, before))
    with pytest.raises(KeyboardInterrupt):
        scheduler.submit(request)
    scheduler.mend()
    assert request.result(0) is lane, "it is asked for again if it had not got it"
    assert not scheduler.idle and not scheduler.busy
    scheduler.release(lane)
    assert list(scheduler.idle) == [lane]


@pytest.mark.parametrize("error", [BlockingIOError, BrokenPipeError])
def test_what_a_pipe_does_not_take_is_kept_unless_nobody_reads_it_any_more(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, lane, _ = scheduler_with_one_worker()

    def writes(data: bytes) -> Iterator[int]:
        raise error
        yield

    monkeypatch.setattr(lane.port, "writes", writes)
    scheduler.submit(ModelJob(0))
    assert bool(lane.unwritten) == (error is BlockingIOError) and lane.depth == 1
