"""A lane against a model of its worker, in every order in which the two can take their steps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from models import BrokenJob, ModelJob, ModelPort, ModelWorker, thorough

from procpool import wire
from procpool.supervisor.jobs.call import Job
from procpool.supervisor.jobs.shipped import FunctionsSent
from procpool.supervisor.lane import MOST_LOSSES, Lane, Nonsense

GRACE = 1.0

KINDS = st.sampled_from(["plain", "plain", "buffer", "function", "both", "broken", "broken buffer", "broken function"])
STEPS = st.integers(1, 12)


class Traffic(RuleBasedStateMachine):
    """A lane, the rules of whose users are kept: the dispatcher's, the scheduler's, and those of holders."""

    @initialize(exactly_once=st.booleans())
    def begin(self, exactly_once: bool) -> None:
        self.worker = ModelWorker(exactly_once)
        self.worker.runs = self.runs
        self.port = ModelPort(self.worker)
        self.lane = Lane(self.port)  # type: ignore[arg-type]
        self.lane._functions = FunctionsSent(2, 1000)  # so few that they are forgotten often
        self.now = 0.0
        self.ids = 0
        self.jobs: dict[int, ModelJob] = {}
        self.numbers: dict[int, int] = {}  # of jobs, by id
        self.sent = 0  # jobs ever
        self.inflight: list[ModelJob] = []
        self.over: set[int] = set()  # ids of jobs that have left the lane
        self.calls = 0
        self.holding: ModelJob | None = None
        self.adopted = False
        self.crashed = False
        self.interrupts: dict[int, float] = {}  # numbers, and when first

    def runs(self, id: int) -> None:
        assert id not in self.worker.ran, "run twice"
        assert id not in self.over, "run though it was taken back, or has ended"
        assert self.numbers[id] == self.worker.begun, "the two sides count differently"

    # -- the worker

    @rule(steps=STEPS)
    def works(self, steps: int) -> None:
        for _ in range(steps):
            self.worker.step()

    @rule()
    def flushes(self) -> None:
        if self.worker.alive:
            self.worker.flush()

    @rule()
    def begun_is_visible(self) -> None:
        self.worker.worker_drains()

    @rule()
    def fence_is_visible(self) -> None:
        self.worker.parent_drains()

    @precondition(lambda self: self.worker.alive)
    @rule(hesitates=st.integers(0, 9))
    def dies(self, hesitates: int) -> None:
        if not hesitates:
            self.worker.dies()

    # -- the parent

    @precondition(lambda self: self.lane.open and self.holding is None)
    @rule(kinds=st.lists(KINDS, min_size=1, max_size=5), capacity=st.none() | st.integers(0, 300))
    def sends(self, kinds: list[str], capacity: int | None) -> None:
        jobs = []
        room = self.lane.buffers
        for kind in kinds:
            needs = "buffer" in kind or kind == "both"
            if needs and not room:
                continue
            room -= needs
            function = b"f%d" % (self.ids % 4) if "function" in kind or kind == "both" else None
            jobs.append(ModelJob(self.ids, int(needs), function, "broken" in kind))
            self.ids += 1
        refused = self.lane.send(jobs, self.now)
        assert [job for job, _ in refused] == [job for job in jobs if job.broken]
        assert all(isinstance(error, BrokenJob) for _, error in refused)
        for job in jobs:
            if not job.broken:
                self._goes(job)
        self.port.capacity = capacity
        self.lane.write()

    def _goes(self, job: ModelJob) -> None:
        self.jobs[job.id] = job
        self.numbers[job.id] = self.sent
        self.sent += 1
        self.inflight.append(job)

    @precondition(lambda self: self.lane.unwritten)
    @rule(capacity=st.none() | st.integers(0, 300))
    def writes_more(self, capacity: int | None) -> None:
        self.port.capacity = capacity
        self.lane.write(self.now)

    @precondition(lambda self: self.worker.socket)
    @rule(most=st.integers(1, 6))
    def hears(self, most: int) -> None:
        """As Dispatcher._take does."""
        count = 0
        self.now += 0.001
        for _ in range(min(most, len(self.worker.socket))):
            status, what = self.worker.socket.popleft()
            if status == wire.PASSED:
                self._answered(count)
                count = 0
                self._back(self.lane.passed(what))
            else:
                assert self.lane.job_at(count) is self.jobs[what], "the answer to another job"
                count += 1
        self._answered(count)

    def _answered(self, count: int) -> None:
        if count:
            self.lane.calls_done(count)
            assert self.lane.answered(count, self.now) == self.inflight[:count]
            self._out(self.inflight[:count])
            self.calls += count

    def _back(self, jobs: list[Job]) -> None:
        assert jobs == self.inflight[len(self.inflight) - len(jobs) :]
        for job in jobs:
            assert isinstance(job, ModelJob)
            assert job.id not in self.worker.ran, "taken back though it was run"
            if job is self.holding:
                self.holding, self.adopted = None, False
        self._out(jobs)

    def _out(self, jobs: list[Any]) -> None:
        for job in jobs:
            assert not job.in_flight
            self.inflight.remove(job)
            assert job.id not in self.over
            self.over.add(job.id)

    @precondition(lambda self: not self.crashed and (self.holding is None or self.adopted))
    @rule()
    def fences(self) -> None:
        before = self.lane.fenced
        numbers = self.lane.fence(self.port.begun, self.now)
        if numbers is not None:
            assert not before
            self.port.fence(*numbers)
        unwanted = self.adopted and self.holding is not None and self.holding.expired
        assert numbers is None or not unwanted, "nobody wants it back"
        assert numbers is not None or before or unwanted or self.port.begun >= self.sent or not self.inflight

    @precondition(lambda self: self.lane.settles_at is not None)
    @rule()
    def withdraws(self) -> None:
        self.worker.settles()
        assert self.lane.settles_at is not None
        self.now = max(self.now, self.lane.settles_at)
        self._back(self.lane.withdraw(self.port.begun))
        # What is left is announced, and the worker alone can tell about it.
        assert all(self.numbers[job.id] < self.port.begun for job in self.inflight)

    @precondition(lambda self: self.inflight and not self.crashed)
    @rule(later=st.sampled_from([0.0, 0.0005, 0.01, 2.0]))
    def interrupts_head(self, later: float) -> None:
        self.now += later
        number = self.numbers[self.inflight[0].id]
        asked = self.lane.interrupt(0, self.now, GRACE)
        assert asked.first == (number not in self.interrupts)
        since = self.interrupts.setdefault(number, self.now)
        assert asked.kill == (self.now >= since + GRACE)
        assert asked.send is None or asked.send == (number, 0)
        assert not asked.first or asked.send is not None
        assert asked.kill or all(due > self.now for due in asked.due)

    @rule()
    def leaves(self) -> None:
        self.lane.leave()
        assert not self.lane.open

    @precondition(lambda self: self.lane.quiet and self.holding is None and not self.crashed)
    @rule()
    def calls_directly(self) -> None:
        self.holding = ModelJob(self.ids)
        self.numbers[self.ids] = self.sent
        self.ids += 1
        self.sent += 1
        self.port.capacity = None
        self.port.write(self.holding.direct_frame())

    @precondition(lambda self: self.holding is not None and self.worker.replies and not self.crashed)
    @rule()
    def is_served(self) -> None:
        assert self.worker.replies.popleft() == self.holding.id
        if self.adopted:
            self.lane.calls_done(1)
            assert self.lane.answered(1, self.now) == self.inflight
            self._out(list(self.inflight))
        else:
            self.lane.served()
        self.calls += 1
        self.holding, self.adopted = None, False

    @precondition(lambda self: self.holding is not None and not self.adopted and not self.crashed)
    @rule(wanted=st.booleans())
    def is_adopted(self, wanted: bool) -> None:
        assert self.holding is not None
        self.holding.expired = not wanted
        self.lane.adopt(self.holding, since=self.now, taken=False)
        self.jobs[self.holding.id] = self.holding
        self.inflight.append(self.holding)
        self.adopted = True

    @precondition(lambda self: not self.worker.alive and not self.worker.socket and not self.crashed)
    @rule()
    def is_buried(self) -> None:
        """After its last words have been heard."""
        # Its holder has to come first.
        if self.holding is not None and not self.adopted and self.port.begun > self.lane.number:
            self.lane.served()
            self.calls += 1
        guilty, rest = self.lane.crash(self.port.begun)
        self.crashed = True
        for job in self.inflight:
            assert (job is guilty) == (self.numbers[job.id] == self.port.begun - 1)
            assert (job in rest) == (job is not guilty)
            if job is not guilty and self.worker.exactly_once:
                assert job.id not in self.worker.ran, "it would be run again"
        assert rest == [job for job in self.inflight if job is not guilty]
        self._out(list(self.inflight))
        assert self.lane.quiet and not self.lane.open

    # -- always

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "lane"):
            return
        lane = self.lane
        assert lane.depth == len(self.inflight)
        assert [lane.job_at(place) for place in range(lane.depth)] == self.inflight
        assert list(lane.waiting()) == self.inflight[1:]
        assert all(job.in_flight for job in self.inflight)
        if self.inflight:
            assert lane.head is self.inflight[0]
            assert lane.number == self.numbers[self.inflight[0].id]
        assert lane.calls == self.calls
        if self.holding is None:
            assert lane.used == self.sent or self.crashed
            assert lane.open or lane.leaving or not lane.quiet, "it has nothing to do, and gets nothing"
        if not self.crashed:
            taken = [job.buffer for job in self.inflight if job.buffers]
            assert len(set(taken)) == len(taken), "a buffer given twice"
            assert lane.buffers == wire.BUFFERS - len(taken)

    @rule()
    def nonsense(self) -> None:
        if not self.lane.fenced:
            with pytest.raises(Nonsense):
                self.lane.passed(self.sent)
        with pytest.raises(Nonsense):
            self.lane.job_at(self.lane.depth)

    def teardown(self) -> None:
        """A worker that lives and answers gets quiet again, with nothing left anywhere."""
        if not hasattr(self, "lane") or not self.worker.alive:
            return
        while True:
            went = self.worker.step()
            self.worker.settles()
            if self.lane.unwritten:
                self.port.capacity = None
                self.lane.write(self.now)
                went = True
            if self.lane.settles_at is not None:
                self.withdraws()
                went = True
            if self.worker.socket:
                self.hears(6)
                went = True
            if self.holding is not None and self.worker.replies:
                self.is_served()
                went = True
            self.agrees()
            if not went:
                break
        assert self.lane.quiet
        assert self.lane.buffers == wire.BUFFERS
        assert self.worker.begun == self.sent == self.lane.number
        assert not self.lane._functions._in_flight
        assert set(self.lane._functions._known) == self.worker.functions


def test_a_job_that_ends_before_it_is_sent_takes_no_number() -> None:
    """Cancelled by one thread while another was about to send it: the worker never hears of it."""
    lane = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    ended, other = (Job(name, wire.JOB.pack(0, 0, wire.SUBMIT, 0)) for name in ("ended", "other"))
    assert ended.begin()
    assert other.begin()
    assert ended.cancel()
    refused = lane.send([ended, other], 0.0)
    assert lane.unwritten == other.frame
    assert [job for job, _ in refused] == [ended]
    assert lane.head is other
    assert lane.depth == 1


def lane_with(count: int) -> tuple[Lane, list[ModelJob]]:
    """So many jobs in flight, of which nothing has been heard."""
    lane = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
    jobs = [ModelJob(id) for id in range(count)]
    assert not lane.send(jobs, 0.0)
    lane.write()
    return lane, jobs


def test_a_worker_that_passes_its_fence_over_unanswered_jobs_talks_nonsense() -> None:
    lane, jobs = lane_with(3)
    assert lane.fence(1, 0.0) == (1, 3)
    with pytest.raises(Nonsense, match="unanswered"):
        lane.passed(1)
    assert lane.crash(1) == (jobs[0], jobs[1:]), "and takes none of them with it"


def test_a_job_that_workers_die_of_without_ever_having_begun_it_is_not_run_for_ever() -> None:
    """Whoever has taken over a worker writes on its board what it likes."""
    job, other = ModelJob(0), ModelJob(1)
    for losses in range(MOST_LOSSES + 1):
        lane = Lane(ModelPort(ModelWorker(False)))  # type: ignore[arg-type]
        assert not lane.send([job, other], 0.0)
        assert lane.crash(0) == ((None, [job, other]) if losses < MOST_LOSSES else (job, [other]))


def test_who_is_to_end_whatever_it_is_at_gets_no_more_time_by_being_at_something_else() -> None:
    lane, _ = lane_with(1)
    assert not lane.interrupt(0, 0.0, 1.0).kill
    assert not lane.interrupt(1, 5.0, 1.0, True).kill, "the first word of that"
    for item in range(2, 10):
        asked = lane.interrupt(item, 5.0 + item / 10, 1.0, True)
        assert asked.kill == (item >= 10)
    assert lane.interrupt(10, 6.0, 1.0, True).kill


@pytest.mark.parametrize("begun", [-1, 3, 1 << 63])
def test_a_board_that_was_written_over_blames_the_first(begun: int) -> None:
    lane, (first, second) = lane_with(2)
    assert lane.crash(begun) == (first, [second])


@pytest.mark.parametrize("begun, guilty", [(0, None), (1, 0), (2, 1)])
def test_the_board_tells_which_job_a_worker_died_of(begun: int, guilty: int | None) -> None:
    lane, jobs = lane_with(2)
    blamed = None if guilty is None else jobs[guilty]
    assert lane.crash(begun) == (blamed, [job for job in jobs if job is not blamed])
    assert lane.quiet and not lane.open and not any(job.in_flight for job in jobs)


def test_the_last_interrupt_is_known() -> None:
    lane, _ = lane_with(1)
    assert lane.interrupted == (-1, -1)
    lane.interrupt(7, 1.0, GRACE)
    assert lane.interrupted == (0, 7)


def test_a_worker_hears_how_many_large_results_were_taken() -> None:
    lane, _ = lane_with(0)
    heard: list[int] = []

    class Told(ModelJob):
        def place(self, memory: Any, buffer: int, functions: Any, results_taken: int) -> bytes:
            heard.append(results_taken)
            return super().place(memory, buffer, functions, results_taken)

    for id in range(2):
        lane.send([Told(id, buffers=1)], 0.0)
        lane.result_taken()
    assert heard == [0, 1]


def test_a_buffer_is_free_again_when_its_job_is_taken_back_or_could_not_be_sent() -> None:
    lane, _ = lane_with(0)
    assert len(lane.send([ModelJob(0, buffers=1, broken=True)], 0.0)) == 1
    assert lane.buffers == wire.BUFFERS
    job = ModelJob(1, buffers=1)
    assert not lane.send([job], 0.0) and lane.buffers == wire.BUFFERS - 1
    lane.fence(0, 0.0)
    assert lane.withdraw(0) == [job] and lane.buffers == wire.BUFFERS


TestTraffic = Traffic.TestCase
TestTraffic.settings = thorough(150, 60)
