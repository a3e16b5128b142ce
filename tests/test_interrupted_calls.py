"""Ctrl-C anywhere on the way to a worker and back: the worker is there for the next call."""

from __future__ import annotations

import dis
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from conftest import DEADLINE, MISBEHAVE, eventually

from procpool import LeaseEnded, ProcessWasmPool
from procpool.supervisor import channel, direct, lane, prompt
from procpool.supervisor.spinning import Spinning

#: After these the interpreter looks whether a signal has come, and nowhere else.
LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
#: Where that is tried: what the holder of a worker does, and what that calls of the lane's.
HOLDERS = [module.__file__ for module in (channel, direct, prompt)]


@contextmanager
def interrupted_at(place: int) -> Iterator[None]:
    """The calling thread gets a KeyboardInterrupt where HOLDERS may for that time get one; none if they may less often."""
    left = itertools.count(place, -1)
    before: dict[FrameType, str] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        files = [each.f_code.co_filename for each in (frame, frame.f_back) if each is not None]
        if files[0] not in HOLDERS and not (files[0] == lane.__file__ and files[-1] in HOLDERS):
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


def interrupted_everywhere(call: Callable[[], Any], afterwards: Callable[[], Any]) -> int:
    """In how many places that was."""
    for place in itertools.count():
        try:
            with interrupted_at(place):
                call()
            return place
        except KeyboardInterrupt:
            afterwards()
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
