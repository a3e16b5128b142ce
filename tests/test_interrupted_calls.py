"""Ctrl-C anywhere on the way to a worker and back: the worker is there for the next call."""

from __future__ import annotations

import dis
import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, _base
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest
from conftest import DEADLINE, MISBEHAVE, eventually, worker_pids

from procpool import LeaseEnded, ProcessWasmPool
from procpool.supervisor import awaiting, channel, condition, direct, lane, lease, leasing, port, prompt, scheduler
from procpool.supervisor.jobs import call, shipped
from procpool.supervisor.spinning import Spinning

#: After these the interpreter looks whether a signal has come, and nowhere else.
LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
#: Where that is tried: what the holder of a worker does, and what that calls of the lane's.
HOLDERS = [module.__file__ for module in (channel, direct, prompt)]


#: And what a submitter does.
SUBMITTERS = [module.__file__ for module in (lane, port, scheduler, call, shipped)]


#: What waits, and tells who waits.
WAITERS = [module.__file__ for module in (awaiting, call, condition, _base)]


def waits(frame: FrameType) -> bool:
    """Whether it belongs to who waits for a job."""
    return frame.f_code.co_filename in WAITERS


def leases(frame: FrameType) -> bool:
    """Whether it belongs to who leases an instance."""
    return frame.f_code.co_filename in (lease.__file__, leasing.__file__)


def held(frame: FrameType) -> bool:
    """Whether it belongs to who holds a worker."""
    files = [each.f_code.co_filename for each in (frame, frame.f_back) if each is not None]
    return files[0] in HOLDERS or (files[0] == lane.__file__ and files[-1] in HOLDERS)


def submits(frame: FrameType) -> bool:
    """Whether it belongs to who submits a job."""
    return frame.f_code.co_filename in SUBMITTERS


@contextmanager
def interrupted_at(place: int, where: Callable[[FrameType], bool]) -> Iterator[None]:
    """The calling thread gets a KeyboardInterrupt at that place of those where it may get one there; none if there are fewer."""
    left = itertools.count(place, -1)
    before: dict[FrameType, str] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not where(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            looks = before.get(frame, "").startswith(LOOKS)
            before[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if looks and next(left) == 0:
                raise KeyboardInterrupt
        return trace

    traced = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # CPython 3.12 heeds that of others only if one was set before
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(traced)
        before.clear()  # the frames keep this function, and it them


def interrupted_everywhere(
    call: Callable[[], Any], afterwards: Callable[[], Any], where: Callable[[FrameType], bool] = held
) -> int:
    """In how many places that was."""
    for place in itertools.count():
        with suppress(KeyboardInterrupt), interrupted_at(place, where):
            call()
            return place
        afterwards()  # not while the exception lives, and with it what its traceback refers to
    raise AssertionError


@pytest.fixture(params=["asleep", "awake", "impatient"])
def awake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides of a call wait awake, or neither ever does, or the caller never for long enough."""
    monkeypatch.setattr(Spinning, "toll_ns", property(lambda self: 1.0 if request.param == "impatient" else 100e6))
    monkeypatch.setattr(Spinning, "begin", lambda self, *how, **more: request.param != "asleep")


def in_step(pool: ProcessWasmPool) -> None:
    """Both sides give the next job the same number."""
    (process,) = pool._dispatcher.population.present.values()
    (only,) = pool._dispatcher.population.lanes(process)
    eventually(lambda: only.quiet, "what was left to be over")
    assert only.port.begun == only.number


@pytest.mark.usefixtures("awake")
@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_a_call_that_is_interrupted_anywhere_leaves_its_worker(nothing_left: None, timeout: float | None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)

        def next_call() -> None:
            assert pool.call("fine", 7, timeout=DEADLINE) == 7
            in_step(pool)

        assert interrupted_everywhere(lambda: pool.call("fine", 1, timeout=timeout), next_call) > 10


@pytest.mark.usefixtures("awake")
def test_a_submit_that_is_interrupted_anywhere_leaves_the_worker(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)

        def next_job() -> None:
            assert pool.submit("fine", 7).result(DEADLINE) == 7
            in_step(pool)

        assert (
            interrupted_everywhere(lambda: pool.submit("fine", 1).result(DEADLINE), next_job) > 1
        )  # a job of an export that took long is queued


@pytest.mark.usefixtures("awake")
def test_a_leased_call_that_is_interrupted_anywhere_ends_the_lease_and_its_instance(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)
        leases = [pool.get(DEADLINE)]

        def next_lease() -> None:
            with pytest.raises(LeaseEnded):
                leases[-1].call("fine", 1)
            assert pool.call("soil", timeout=DEADLINE) == 1, "nobody sees what was done to the instance"
            leases.append(pool.get(DEADLINE))
            assert leases[-1].call("soil") <= 2

        assert interrupted_everywhere(lambda: leases[-1].call("soil"), next_lease) > 5
        pool.put(leases[-1])


def fine(instance: Any, _: bytes = b"") -> Any:
    return instance.call("fine", 1)


# CPython 3.12 alone looks for signals where it closes a generator; what is raised there it prints, and forgets.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "submit",
    [
        lambda pool: pool.submit(fine),
        lambda pool: pool.submit(fine, bytes(1 << 20)),
        lambda pool: pool.submit("fine", 1, key="a"),
        lambda pool: pool.submit(fine, priority=3),
        lambda pool: pool.submit("fine", 1, retries=1, timeout=DEADLINE, priority=-1),
    ],
    ids=["callable", "large", "key", "priority", "timeout"],
)
def test_who_queues_a_job_and_is_interrupted_anywhere_leaves_all_workers(
    nothing_left: None, submit: Callable[[ProcessWasmPool], Any]
) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)

        def next_jobs() -> None:
            assert submit(pool).result(DEADLINE) == 1
            assert pool.submit("fine", 7).result(DEADLINE) == 7
            assert pool.call("fine", 8, timeout=DEADLINE) == 8

        workers = worker_pids(pool)
        assert interrupted_everywhere(lambda: submit(pool), next_jobs, submits) > 10
        assert worker_pids(pool) == workers, "no worker had to be killed, and nobody else's job with it"
        eventually(lambda: pool.stats().idle == 1 and pool.stats().pending == 0, "nothing to be left")


def test_who_asks_for_a_lease_and_is_interrupted_anywhere_leaves_all_workers(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)
        leases = []

        def next_call() -> None:
            gc.collect()
            assert pool.call("fine", 8, timeout=DEADLINE) == 8

        def get() -> None:
            leases.append(pool.get(DEADLINE))
            leases.pop().put()

        assert interrupted_everywhere(get, next_call, submits) > 5


def fine_in_the_end(instance: Any) -> Any:
    """Takes long enough for its caller to wait."""
    sum(range(1_000_000))
    return instance.call("fine", 1)


@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_who_waits_for_a_job_and_is_interrupted_anywhere_holds_nobody_up(nothing_left: None, timeout: float | None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)
        waited_for = []

        def wait() -> None:
            waited_for.append(pool.submit(fine_in_the_end))
            waited_for[-1].result(timeout)

        def others_wait() -> None:
            with ThreadPoolExecutor(1) as other:
                while waited_for:
                    assert other.submit(waited_for.pop().result, DEADLINE).result(DEADLINE) == 1
            assert pool.call("fine", 8, timeout=DEADLINE) == 8

        assert interrupted_everywhere(wait, others_wait, waits) > 10


def test_who_cancels_a_job_and_is_interrupted_anywhere_holds_nobody_up(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)
        jobs = [pool.submit(fine)]

        def cancel() -> None:
            jobs.append(pool.submit("spin"))
            jobs[-1].cancel()

        def goes_on() -> None:
            jobs[-1].cancel()
            assert pool.call("fine", 8, timeout=DEADLINE) == 8

        assert interrupted_everywhere(cancel, goes_on, waits) > 5


@pytest.mark.filterwarnings("ignore:.*was never put back")
def test_who_puts_a_lease_back_and_is_interrupted_anywhere_holds_nobody_up(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)

        def use() -> None:
            with pool.instance(timeout=DEADLINE) as instance:
                instance.call("fine", 1)

        def next_call() -> None:
            gc.collect()
            assert pool.call("fine", 8, timeout=DEADLINE) == 8

        assert interrupted_everywhere(use, next_call, leases) > 10
