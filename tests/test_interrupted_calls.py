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
from conftest import DEADLINE, MISBEHAVE

from procpool import LeaseEnded, ProcessWasmPool
from procpool.supervisor import direct

#: After these the interpreter looks whether a signal has come, and nowhere else.
LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE")


@contextmanager
def interrupted_at(place: int) -> Iterator[None]:
    """The calling thread gets a KeyboardInterrupt where direct.py may for that time get one; none if it may less often."""
    left = itertools.count(place, -1)
    before: dict[FrameType, str] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != direct.__file__:
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


@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_a_call_that_is_interrupted_anywhere_leaves_its_worker(nothing_left: None, timeout: float | None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.wait_ready(DEADLINE)

        def next_call() -> None:
            assert pool.call("fine", 7, timeout=DEADLINE) == 7

        assert interrupted_everywhere(lambda: pool.call("fine", 1, timeout=timeout), next_call) > 10


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
