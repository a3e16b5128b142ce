"""Jobs of different tenants never share a process: the rule alone, and with processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from bounded import together
from conftest import DEADLINE, KERNELS
from hypothesis import given
from hypothesis import strategies as st
from models import ModelJob, ModelPort, ModelWorker, thorough

from procpool import ProcessWasmPool
from procpool.supervisor.lane import Lane
from procpool.supervisor.process import Process
from procpool.supervisor.scheduler import Scheduler

TENANTS = ["a", "b", "c"]


class World:
    """A scheduler with tenants, and processes of one or two lanes each."""

    def __init__(self, processes: int, instances: int) -> None:
        self.scheduler = Scheduler(lambda: 0.0, lambda at: None, tenants=True)
        self.instances = instances
        self.jobs: dict[int, ModelJob] = {}
        self.lanes: list[Lane] = []
        self.ran: dict[int, set[str]] = {}  # tenants by process
        self.pids = 0
        self.done: list[int] = []
        for _ in range(processes):
            self.born()

    def born(self) -> None:
        self.pids += 1
        process = Process(self.pids, self.pids, None, 0.0)  # type: ignore[arg-type]  # which nobody looks at
        for _ in range(self.instances):
            worker = ModelWorker(False)
            port = ModelPort(worker, self.pids)
            port.process = process
            lane = Lane(port)  # type: ignore[arg-type]
            pid = self.pids
            worker.runs = lambda id, pid=pid: self.runs(pid, id)  # type: ignore[misc]
            self.lanes.append(lane)
            self.scheduler.add()
            self.scheduler.release(lane)

    def runs(self, pid: int, id: int) -> None:
        self.ran.setdefault(pid, set()).add(self.jobs[id].tenant)
        assert len(self.ran[pid]) == 1, "two tenants in one process"
        self.done.append(id)

    def submit(self, tenant: str) -> None:
        job = ModelJob(len(self.jobs))
        job.tenant = tenant
        self.jobs[job.id] = job
        self.scheduler.submit(job)

    def step(self, which: int) -> None:
        """One lane's worker does what it was sent, and the parent hears of it."""
        lane = self.lanes[which % len(self.lanes)]
        worker = lane.port.worker  # type: ignore[attr-defined]
        while worker.step():
            pass
        count = lane.depth
        if count:
            self.scheduler.answered(lane, count)
            self.scheduler.settle(lane)

    def replace(self) -> None:
        """What the population does: outdated processes go when they are idle, and new ones come."""
        for lane in [each for each in self.lanes if each.port.process.outdated]:
            self.scheduler.retire(lane)
            if lane in self.scheduler.left:
                self.scheduler.left.remove(lane)
            elif not self.scheduler.take_resting(lane):
                continue
            self.lanes.remove(lane)
            self.scheduler.gone()
            lane.port.died()
            self.scheduler.bury(lane, [])
            if all(each.port.process is not lane.port.process for each in self.lanes):
                self.born()


@thorough(200, 50)
@given(st.data())
def test_the_rule(data: st.DataObject) -> None:
    world = World(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2)))
    for _ in range(data.draw(st.integers(1, 40))):
        what = data.draw(st.integers(0, 3))
        if what < 2:
            world.submit(data.draw(st.sampled_from(TENANTS)))
        elif what == 2:
            world.step(data.draw(st.integers(0, 5)))
        else:
            world.replace()
    for _ in range(20 * len(world.jobs) + 20):  # in the end, everybody gets a turn
        for which in range(len(world.lanes)):
            world.step(which)
        world.replace()
        if len(world.done) == len(world.jobs):
            break
    assert sorted(world.done) == sorted(world.jobs), "a job was lost, or waits for ever"


def test_what_waits_for_a_tenant_is_told_to_who_asks() -> None:
    world = World(1, 1)
    scheduler = world.scheduler
    assert not scheduler.starved()
    assert not scheduler.hungry()  # who is idle may be another's
    world.submit("a")
    world.submit("b")
    assert scheduler.starved(), "the only process is another's"
    assert scheduler.pending() == 1
    (job,) = scheduler.take_queued()
    assert job.tenant == "b"
    assert not scheduler.starved()
    assert scheduler.pending() == 0


def test_a_dead_worker_is_nobodys() -> None:
    world = World(2, 1)
    world.lanes[0].port.died()
    for _ in range(2):
        world.submit("a")
        world.step(1)
    assert world.done == [0, 1]
    assert set(world.ran) == {2}


def test_without_tenants_who_waits_is_starved_if_nobody_is_idle() -> None:
    scheduler = Scheduler(lambda: 0.0, lambda at: None)
    assert scheduler.nobody_waits()
    scheduler.submit(ModelJob(0))
    assert not scheduler.nobody_waits()
    assert scheduler.starved()


def pid(_: Any) -> int:
    return os.getpid()


def test_pids_are_disjoint(nothing_left: None) -> None:
    seen: dict[str, set[int]] = {tenant: set() for tenant in TENANTS}
    with ProcessWasmPool(KERNELS, workers=2, tenants=True) as pool:

        def work(tenant: str) -> Callable[[], None]:
            def run() -> None:
                with pool.tenant(tenant):
                    for _ in range(3):
                        jobs: list[Future[int]] = [pool.submit(pid) for _ in range(8)]
                        seen[tenant] |= {job.result(DEADLINE) for job in jobs}
                        seen[tenant] |= set(pool.map(lambda instance, _: os.getpid(), range(4)))
                        assert pool.call("add", 1, 2) == 3
                        assert list(pool.map("add", range(100), range(100))) == list(range(0, 200, 2))
                        with pool.instance() as lease:
                            assert lease.call("add", 1, 2) == 3

            return run

        assert together(*map(work, TENANTS)) == [None] * 3
        nobody = pool.submit(pid).result(DEADLINE)
    for one in TENANTS:
        assert seen[one] and nobody not in seen[one]
        for other in TENANTS:
            assert one == other or not seen[one] & seen[other]


def test_one_worker_is_handed_on_by_forking_another() -> None:
    with ProcessWasmPool(KERNELS, workers=1, tenants=True) as pool:
        with pool.tenant("a"):
            first = [pool.submit(pid).result(DEADLINE) for _ in range(3)]
        with pool.tenant("b"):
            second = pool.submit(pid).result(DEADLINE)
        assert len(set(first)) == 1 and second not in first


def test_a_tenant_who_keeps_all_busy_holds_up_nobody() -> None:
    with ProcessWasmPool(KERNELS, workers=2, tenants=True) as pool:
        with pool.tenant("greedy"):
            many = [pool.submit("add", 1, n) for n in range(3000)]
        with pool.tenant("modest"):
            assert pool.submit("add", 1, 2).result(DEADLINE) == 3
        assert many[-1].result(DEADLINE) == 3000


def test_what_does_not_fit() -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool, pytest.raises(ValueError, match="tenants=True"):
        pool.tenant("a")
    with ProcessWasmPool(KERNELS, workers=1, tenants=True) as pool:
        with pytest.raises(ValueError, match="empty"), pool.tenant(""):
            pass
        with pytest.raises(TypeError, match="str"), pool.tenant(1):  # type: ignore[arg-type]
            pass
        with pytest.raises(ValueError, match="key"):
            pool.submit("add", 1, 2, key=1)
