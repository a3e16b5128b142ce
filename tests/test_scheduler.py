"""A scheduler with its lanes against models of their workers: no processes, no descriptors, and a clock that we set."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from models import BrokenJob, ModelJob, ModelPort, ModelWorker, thorough

from procpool import wire
from procpool.deadline import Deadline
from procpool.supervisor.events import Journal
from procpool.supervisor.jobs.call import Abandoned, Job, Purge
from procpool.supervisor.lane import Lane
from procpool.supervisor.overseer import Overseer
from procpool.supervisor.scheduler import Scheduler

MOST_LANES = 4
WHICH = st.integers(0, 11)
STEPS = st.integers(1, 12)


class Request(ModelJob):
    exclusive = True


class Pool(RuleBasedStateMachine):
    """Does with a scheduler what a pool's other parts do: the dispatcher, the population, direct calls and leases."""

    @initialize(exactly_once=st.booleans(), round_robin=st.booleans(), workers=st.integers(0, 3))
    def begin(self, exactly_once: bool, round_robin: bool, workers: int) -> None:
        self.exactly_once = exactly_once
        self.now = 100.0
        self.scheduler = Scheduler(lambda: self.now, self._look_by, round_robin)
        self.journal = Journal(None, lambda code: None)
        self.overseer = Overseer(self.scheduler, self.journal, 1.0, self._kill, self._lanes_of)
        self.looks_at: float | None = math.inf  # None: soon
        self.lanes: list[Lane] = []  # all that have not been buried
        self.held: dict[Lane, ModelJob | None] = {}  # by a direct call with that job, or a lease
        self.parked: list[Lane] = []
        self.jobs: dict[int, Job] = {}
        self.runs_on: dict[int, Lane] = {}
        self.keyed_runs: dict[int, list[int]] = {}  # ids by key in the order in which they were run
        self.order: dict[Lane, dict[int, int]] = {}  # the last that was run, by lane and priority
        self.disturbed: set[int] = set()  # ids of jobs that a worker died with
        self.purged: dict[int, Lane] = {}
        self.pids = 0
        for _ in range(workers):
            self.worker_gets_ready()

    def _look_by(self, at: float | None) -> None:
        self.looks_at = at if at is None or self.looks_at is None else min(at, self.looks_at)

    def _kill(self, process: Any, why: str) -> None:
        lane = next(lane for lane in self.lanes if lane.port.process.pid == process.pid)
        lane.port.worker.dies()

    def _lanes_of(self, process: Any) -> list[Lane]:
        return [lane for lane in self.lanes if lane.port.process is process]

    # What a job asks of its owner.

    def cancelled(self, job: Job, queued: bool) -> None:
        if queued or not job.in_flight:
            self.scheduler.dropped(job)
        else:
            for lane in list(self.scheduler.busy):
                if any(job is waiting for waiting in lane.waiting()):
                    self.overseer.withdraw(lane)

    def post(self, code: Any) -> None:
        code()

    def failed(self) -> None:
        pass

    def key_free(self, key: int) -> None:
        pass

    # -- workers

    def _worker(self, lane: Lane) -> ModelWorker:
        worker = lane.port.worker
        assert isinstance(worker, ModelWorker)
        return worker

    def _lane(self, which: int) -> Lane:
        return self.lanes[which % len(self.lanes)]

    @precondition(lambda self: len(self.lanes) < MOST_LANES)
    @rule()
    def worker_gets_ready(self) -> None:
        worker = ModelWorker(self.exactly_once)
        self.pids += 1
        lane = Lane(ModelPort(worker, self.pids))  # type: ignore[arg-type]
        worker.runs = lambda id: self._runs(lane, id)
        worker.spins = lambda id: getattr(self.jobs[id], "spins", False) if id >= 0 else False
        self.lanes.append(lane)
        self.order[lane] = {}
        self.scheduler.add()
        self.scheduler.release(lane)

    def _runs(self, lane: Lane, id: int) -> None:
        job = self.jobs.get(id)
        if isinstance(job, Purge):
            assert self.purged[id] is lane, "another's instance is thrown away"
        if not isinstance(job, ModelJob):
            return
        assert id not in self._worker(lane).ran, "run twice by one worker"
        if job is self.held.get(lane):
            return
        assert job.in_flight and any(lane.job_at(n) is job for n in range(lane.depth)), "run elsewhere than where it is"
        if self.exactly_once:
            assert id not in self.runs_on or id in self.disturbed, "run twice"
        if job.key is not None:
            if id not in self.disturbed:
                before = self.keyed_runs.setdefault(job.key, [])
                assert not before or before[-1] < id, "a key's jobs are run in another order"
                before.append(id)
        elif not job.moved and not isinstance(job, Request):
            last = self.order[lane]
            assert last.get(job.priority, -1) < id, "equals are run in another order"
            last[job.priority] = id
        self.runs_on[id] = lane

    @precondition(lambda self: self.lanes)
    @rule(which=WHICH, steps=STEPS)
    def worker_works(self, which: int, steps: int) -> None:
        worker = self._worker(self._lane(which))
        for _ in range(steps):
            worker.step()

    @precondition(lambda self: self.lanes)
    @rule(which=WHICH, steps=STEPS, stop=st.booleans())
    def worker_controls(self, which: int, steps: int, stop: bool) -> None:
        worker = self._worker(self._lane(which))
        for _ in range(steps):
            worker.control()
        worker.stopped = stop and steps == 1

    @precondition(lambda self: self.lanes)
    @rule(which=WHICH)
    def memory_is_seen(self, which: int) -> None:
        self._worker(self._lane(which)).settles()

    @precondition(lambda self: self.lanes)
    @rule(which=WHICH, most=st.integers(1, 6))
    def hears(self, which: int, most: int) -> None:
        self._hear(self._lane(which), most)

    def _hear(self, lane: Lane, most: int) -> None:
        """As Dispatcher._take does."""
        worker = self._worker(lane)
        count, most = 0, min(most, len(worker.socket))
        for _ in range(most):
            status, what = worker.socket.popleft()
            if status == wire.PASSED:
                self.scheduler.answered(lane, count)
                count = 0
                self._moves(lane)
                self.scheduler.passed(lane, what)
            else:
                job = lane.job_at(count)
                assert job is self.jobs[what], "the answer to another job"
                left = job.answered(lane, lane.port, status, b"")
                assert not left
                count += 1
        if count:
            self.scheduler.answered(lane, count)
        if most:
            self.scheduler.settle(lane)

    def _moves(self, lane: Lane) -> None:
        for n in range(lane.depth):
            lane.job_at(n).moved = True  # type: ignore[attr-defined]

    @precondition(lambda self: self.lanes)
    @rule(which=WHICH)
    def worker_dies(self, which: int) -> None:
        lane = self._lane(which)
        if lane.port.dead or which > MOST_LANES:
            return
        self._worker(lane).dies()
        self._dies(lane)

    def _dies(self, lane: Lane) -> None:
        """As Population._died does."""
        if lane in self.scheduler.busy or lane in self.scheduler.idle:
            self._hear(lane, 1000)
        self.scheduler.gone()
        lane.port.died()
        if self.scheduler.remove(lane) or lane in self.parked:
            self._bury(lane)

    def _bury(self, lane: Lane) -> None:
        assert lane.port.dead
        self._moves(lane)
        for n in range(lane.depth):
            job = lane.job_at(n)
            if isinstance(job, ModelJob) and (job.retries or not self.exactly_once):
                self.disturbed.add(job.id)
        own = self.scheduler._own.get(lane, ())
        for job in own:
            job.moved = True  # type: ignore[attr-defined]
        guilty, rest = self.scheduler.crash(lane, lane.port.begun)
        left: Sequence[Job] = ()
        if guilty is not None:
            retried, left = guilty.crashed(lane, lane.port, RuntimeError("died"))
            assert retried == (guilty in left)
            self.scheduler.pump()  # as another thread may in this moment
        self.scheduler.bury(lane, [*left, *rest])
        self.held.pop(lane, None)
        self.lanes.remove(lane)
        self.scheduler.pump()

    @precondition(lambda self: self.lanes)
    @rule(which=WHICH, capacity=st.none() | st.integers(0, 400))
    def pipe_has_room(self, which: int, capacity: int | None) -> None:
        lane = self._lane(which)
        lane.port.capacity = capacity
        self._write_more(lane)

    def _write_more(self, lane: Lane) -> None:
        if lane.unwritten and self.scheduler.write_more(lane):
            self.scheduler.settle(lane)

    # -- jobs

    @rule(
        kind=st.sampled_from(["plain", "plain", "plain", "key", "key", "buffer", "function", "broken", "request", "spins"]),
        count=st.integers(1, 4),
        priority=st.sampled_from([0, 0, 0, -1, 2]),
        key=st.integers(1, 3),
        timeout=st.none() | st.sampled_from([0.003, 0.05, 5.0]),
        limit=st.none() | st.sampled_from([0.002, 1.0]),
        retries=st.sampled_from([0, 0, 1]),
    )
    def submits(
        self, kind: str, count: int, priority: int, key: int, timeout: float | None, limit: float | None, retries: int
    ) -> None:
        for _ in range(count):
            id = len(self.jobs)
            if kind == "request":
                job: ModelJob = Request(id)
            else:
                function = b"f%d" % (id % 3) if kind == "function" else None
                job = ModelJob(id, int(kind == "buffer"), function, kind == "broken")
                job.limit = limit
                job.retries = retries
                job.spins = kind == "spins"
            if kind == "key":
                job.key = key
            else:
                job.priority = priority
            if timeout is not None:
                job.deadline = Deadline(self.now + timeout, timeout)
            job.owner = self
            self.jobs[id] = job
            self.scheduler.submit(job)
            self._grants()

    def _grants(self) -> None:
        for job in self.jobs.values():
            if isinstance(job, Request) and job.done() and not job.cancelled() and job.exception() is None:
                lane = job.result()
                if not hasattr(job, "granted"):
                    job.granted = True  # type: ignore[attr-defined]
                    assert lane not in self.held
                    self.held[lane] = None

    @precondition(lambda self: self.jobs)
    @rule(back=st.integers(0, 15))
    def cancels(self, back: int) -> None:
        job = self.jobs[max(0, len(self.jobs) - 1 - back)]
        if isinstance(job, ModelJob):
            job.cancel()

    @rule(seconds=st.sampled_from([0.0005, 0.001, 0.006, 0.02, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self._keeps_time()

    def _keeps_time(self) -> None:
        """As Dispatcher._keep_time does."""
        for lane in list(self.scheduler.busy):
            if lane.settles_at is not None and lane.settles_at <= self.now:
                self._worker(lane).settles()
                begun = lane.port.begun
                for n in range(lane.depth):
                    if lane.number + n >= begun:
                        lane.job_at(n).moved = True  # type: ignore[attr-defined]
            due = self.overseer.look_after(lane, self.now)
            assert all(isinstance(at, float) for at in due)
            if not self._worker(lane).alive and not lane.port.dead:  # killed
                self._dies(lane)
        for job in self.scheduler.expired(self.now):
            if job.expire():
                self.scheduler.dropped(job)
        for job in self.jobs.values():
            late = job.queued and not job.done() and job.deadline.at <= self.now
            assert not late, f"{job.name} waits beyond its deadline"
        at = self.scheduler.next_deadline
        assert at is None or at > self.now

    @rule(job_ns=st.sampled_from([1_000.0, 100_000.0, 400_000.0, 5e6, 1e9]))
    def learns(self, job_ns: float) -> None:
        self.scheduler.measured(job_ns)

    @precondition(lambda self: self.scheduler.busy)
    @rule(which=WHICH)
    def withdraws(self, which: int) -> None:
        busy = list(self.scheduler.busy)
        self.overseer.withdraw(busy[which % len(busy)])

    @rule(really=st.integers(0, 9))
    def queue_is_taken(self, really: int) -> None:
        if not really:
            for job in self.scheduler.take_queued():
                assert not job.in_flight
                job.fail(RuntimeError("closed"))

    # -- holders

    @rule()
    def calls_directly(self) -> None:
        if self.scheduler.queue:
            return
        try:
            lane = self.scheduler.next_idle()
        except IndexError:
            return
        assert lane.quiet
        id = len(self.jobs)
        job = ModelJob(id)
        job.direct = True
        self.jobs[id] = job
        self.held[lane] = job
        lane.port.capacity = None
        lane.port.write(job.direct_frame())

    @precondition(lambda self: self.held)
    @rule(which=WHICH, meanwhile=st.booleans())
    def holder_ends(self, which: int, meanwhile: bool) -> None:
        lane = list(self.held)[which % len(self.held)]
        self._let_go(lane, meanwhile)

    def _let_go(self, lane: Lane, meanwhile: bool) -> None:
        """As DirectCalls.exchange and Lease do.

        Args:
            meanwhile: another thread pumps when this one looks whether the worker has died.
        """
        job = self.held[lane]
        worker = self._worker(lane)
        if job is not None:
            if not worker.replies:
                if lane.port.dead:
                    if lane.port.begun > lane.number:
                        lane.served()
                    job.fail(RuntimeError("died"))
                    self._bury(lane)
                return
            assert worker.replies.popleft() == job.id
            lane.served()
            job.succeed(None)
        del self.held[lane]
        if meanwhile:

            def pump() -> None:
                if not self.scheduler._lock.locked():
                    lane.port.on_look = None  # type: ignore[attr-defined]
                    self.scheduler.pump()

            lane.port.on_look = pump  # type: ignore[attr-defined]
        self.scheduler.release(lane)
        lane.port.on_look = None  # type: ignore[attr-defined]
        self._grants()

    @precondition(lambda self: self.held)
    @rule(which=WHICH, wanted=st.booleans())
    def caller_leaves(self, which: int, wanted: bool) -> None:
        lane = list(self.held)[which % len(self.held)]
        job = self.held[lane]
        if job is None:
            if not lane.port.dead:  # a lease that was lost
                del self.held[lane]
                self.scheduler.assign(lane, self._purge(lane))
            return
        del self.held[lane]
        if wanted:  # it was submitted
            job.direct = False
            job.owner = self
            job.begin()
            self.scheduler.adopt(lane, job, self.now, taken=False)
        else:
            job.fail(RuntimeError("late"))
            self.jobs[job.id] = abandoned = Abandoned(job.name)
            abandoned.spins = job.spins  # type: ignore[attr-defined]
            self.scheduler.adopt(lane, abandoned, self.now, taken=False)
        if lane.port.dead:
            assert self.scheduler.remove(lane)
            self._bury(lane)

    def _purge(self, lane: Lane) -> Purge:
        id = len(self.jobs)
        purge = Purge()
        purge.frame = ModelJob(id).frame
        self.jobs[id] = purge
        self.purged[id] = lane
        return purge

    @precondition(lambda self: self.lanes)
    @rule(which=WHICH)
    def hears_abandoned(self, which: int) -> None:
        """As Dispatcher._hear_adopted does."""
        lane = self._lane(which)
        if lane not in self.held and self._worker(lane).replies and not lane.port.dead:
            self._worker(lane).replies.clear()
            if lane.depth:
                lane.job_at(0).answered(lane, lane.port, wire.OK, b"")
                self.scheduler.answered(lane, 1)
                self.scheduler.settle(lane)

    # -- the population

    @precondition(lambda self: self.lanes)
    @rule(which=WHICH)
    def retires(self, which: int) -> None:
        lane = self._lane(which)
        if not lane.port.dead and which < MOST_LANES:
            self.scheduler.retire(lane)
            if self.scheduler.take_idle(lane):
                self.parked.append(lane)

    @rule()
    def lets_go(self) -> None:
        for lane in list(self.lanes):
            if lane.leaving and lane not in self.parked and self.scheduler.take_idle(lane):
                self.parked.append(lane)
        while self.scheduler.left:
            lane = self.scheduler.left.popleft()
            if lane.port.dead:
                self._bury(lane)
            else:
                assert lane not in self.scheduler._own, "put away though it has work that nobody else may do"
                assert lane.quiet
                self.parked.append(lane)

    @precondition(lambda self: self.lanes)
    @rule(which=WHICH)
    def purges(self, which: int) -> None:
        """As Population._expire does."""
        lane = self._lane(which)
        if lane not in self.parked and self.scheduler.take_idle(lane):
            self.scheduler.assign(lane, self._purge(lane))

    # -- always

    @invariant()
    def each_is_in_one_place(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self._grants()
        scheduler = self.scheduler
        queued = [*scheduler.queue.ordinary, *(job for level in scheduler.queue.levels.values() for job in level)]
        queued += [job for own in scheduler._own.values() for job in own]
        lanes = {lane: [lane.job_at(n) for n in range(lane.depth)] for lane in self.lanes}
        places = Counter(map(id, [*queued, *(job for jobs in lanes.values() for job in jobs)]))
        assert all(count == 1 for count in places.values()), "a job in two places"
        for job in self.jobs.values():
            if not job.done() and isinstance(job, ModelJob) and not job.direct:
                assert id(job) in places, f"{job.name} is lost"
        assert all(job.queued and not job.in_flight for job in queued)
        assert all(job.in_flight and not job.queued for jobs in lanes.values() for job in jobs)
        assert scheduler.pending() == sum(not job.done() for job in queued)
        assert scheduler._dropped == sum(job.dropped for job in queued)
        assert all(scheduler.queue.levels.values())

        stands = [list(scheduler.idle), list(scheduler.busy), list(scheduler.left), list(self.held), self.parked]
        seen = Counter(lane for stand in stands for lane in stand if lane in self.lanes)
        assert all(seen[lane] == 1 for lane in self.lanes), "a worker in two places, or in none"
        assert all(lane.quiet for lane in scheduler.idle)
        assert all(not lane.quiet for lane in scheduler.busy)
        assert all(own for own in scheduler._own.values())

        for lane in scheduler.idle:
            assert not lane.port.dead, "nobody would bury it"
            assert not any(not job.done() for job in queued if job.key is None and not job.bound), (
                "jobs wait beside an idle worker"
            )
            assert lane not in scheduler._own
        assert all(not lane.port.dead for lane in scheduler.busy), "nobody would bury it"

        # Keys.
        at: dict[int, set[Lane]] = {}
        counts: Counter[int] = Counter()
        for lane, jobs in [*lanes.items(), *((lane, list(own)) for lane, own in scheduler._own.items())]:
            for job in jobs:
                if job.key is not None:
                    at.setdefault(job.key, set()).add(lane)
                    counts[job.key] += 1
        for key, where in at.items():
            assert len(where) == 1, "a key with two homes"
            assert scheduler._homes[key].lane in where
        assert {key: home.unfinished for key, home in scheduler._homes.items() if home.unfinished} == dict(counts)
        crowd = Counter(home.lane for home in scheduler._homes.values())
        assert {lane: n for lane, n in scheduler._crowd.items() if n} == dict(crowd)
        assert all(lane in self.lanes for lane in crowd)

    def teardown(self) -> None:
        """All that can end does, with one worker that lives."""
        if not hasattr(self, "scheduler"):
            return
        self.worker_gets_ready()
        self._goes_on()
        for lane in self.lanes:
            # Some workers are stopped, some run a job that never ends; they have nothing that others wait for.
            worker = self._worker(lane)
            if lane in self.scheduler.busy and not worker.stopped:
                assert not worker.waiting, "an answer is held up by the job behind it"
                assert lane.depth <= 1, "jobs wait behind one that never ends"
            keyed = lane.head is not None and lane.head.key is not None  # then no other may run it
            if lane in self.scheduler.busy and not keyed:
                assert lane.number + lane.depth <= max(lane.port.begun, lane.number + (not self.scheduler.idle))
        for lane in list(self.lanes):
            self._worker(lane).stopped = False
        for job in self.jobs.values():
            if isinstance(job, ModelJob):
                job.spins = False
            else:
                job.spins = False  # type: ignore[attr-defined]
        self._goes_on()
        unfinished = [job.name for job in self.jobs.values() if not job.done() and isinstance(job, ModelJob)]
        assert not unfinished, unfinished
        assert not self.scheduler.busy and not self.held and not self.scheduler._own and not self.scheduler.pending()
        for job in self.jobs.values():
            if isinstance(job, ModelJob) and job.broken and not job.cancelled():
                assert job.exception() is not None
                assert isinstance(job.exception(), BrokenJob) or not job.placed or job.expired

    def _goes_on(self) -> None:
        """Until nothing moves any more."""
        still = 0
        for _ in range(10000):
            went = False
            for lane in list(self.lanes):
                lane.port.capacity = None
                self._write_more(lane)
                worker = self._worker(lane)
                while worker.control() or worker.step():
                    worker.settles()
                    went = True
                if worker.socket and not lane.port.dead and lane in self.lanes:
                    self._hear(lane, 1000)
                    went = True
            for which in range(len(self.lanes)):
                self.hears_abandoned(which)
            self._grants()
            for lane in list(self.held):
                self._let_go(lane, False)
                went = went or lane not in self.held
            self.lets_go()
            for lane in list(self.parked):
                if lane in self.lanes and not lane.port.dead:
                    self._worker(lane).dies()
                    self._dies(lane)
            self.now += 0.0006 if not still else 0.5
            self._keeps_time()
            self.each_is_in_one_place()
            still = 0 if went else still + 1
            if still > 40:  # a while, for what is called stalled only after some time
                return
        raise AssertionError("it never comes to rest")


TestPool = Pool.TestCase
TestPool.settings = thorough(100, 50)
