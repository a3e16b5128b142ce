"""The client's edge of a cluster, with an engine that does what a test says, and no nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any

import pytest
from conftest import DEADLINE

from procpool import CallTimeout, PoolClosed
from procpool.cluster.client.backend import Crowd, Listener, Member
from procpool.cluster.client.conductor import Conductor, Demand
from procpool.cluster.client.units import RunUnit
from procpool.cluster.events import ClusterJournal
from procpool.deadline import Deadline
from procpool.supervisor.delivery import Delivery


class Engine:
    """An engine whose thread is the test's: what is posted runs at once, until it is `broken`."""

    def __init__(self) -> None:
        self.before_post: Callable[[], object] | None = None
        self.broken = False

    def start(self, crowd: Crowd) -> None:
        self.crowd = crowd

    def post(self, code: Callable[[], object]) -> None:
        before, self.before_post = self.before_post, None
        if before is not None:
            before()
        if not self.broken:
            code()

    def later(self, seconds: float, code: Callable[[], object]) -> Callable[[], None]:
        return lambda: None

    def open(self, member: Member, hello: Mapping[str, Any], listener: Listener) -> None:
        raise AssertionError("there is no member")

    def close(self) -> None:
        self.broken = True


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def conductor(engine: Engine) -> Iterator[Conductor]:
    delivery = Delivery()
    conductor = Conductor(engine, Demand({}, {}, 1.0, 0, False), delivery, ClusterJournal(None, delivery.strand()))
    conductor.start()
    yield conductor
    conductor.close(kill=True)
    conductor.when_ended().result(DEADLINE)


def job() -> RunUnit:
    return RunUnit("job", {}, b"", None)


def test_what_is_submitted_while_the_engine_ends_ends_too(engine: Engine, conductor: Conductor) -> None:
    """The engine's thread looks into the inbox for the last time between a submitter's check and its post."""
    late = job()
    engine.before_post = lambda: conductor.gone("the engine has ended")
    conductor.submit(late)
    assert isinstance(late.exception(0), PoolClosed)
    with pytest.raises(PoolClosed, match="the engine has ended"):
        conductor.submit(job())
    with pytest.raises(PoolClosed, match="the engine has ended"):
        conductor.when_drained().result(0)


def test_what_waits_while_the_engine_ends_is_told(engine: Engine, conductor: Conductor) -> None:
    first, waits = job(), conductor.when(conductor.manned)
    conductor.submit(first)
    engine.before_post = lambda: conductor.gone("the engine has ended")
    last = conductor.when(conductor.manned)
    for future in (first, waits, last):
        assert isinstance(future.exception(0), PoolClosed)


def test_deadlines_of_jobs_that_have_ended_are_not_kept(conductor: Conductor) -> None:
    for _ in range(1000):
        each = job()
        each.deadline = Deadline.after(3600)
        conductor.submit(each)
        each.cancel()
    assert len(conductor._deadlines) < 100
    last = job()
    last.deadline = Deadline(monotonic(), 1.0)
    conductor.submit(last)
    conductor.look()
    assert isinstance(last.exception(DEADLINE), CallTimeout)
