"""Deadlines: what may be given for seconds, and how long to wait."""

from __future__ import annotations

import math
import os
import select
import threading
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from time import monotonic
from typing import Any

import numpy as np
import pytest

from procpool.deadline import LONGEST_WAIT, Deadline


def kind(value: object) -> str:
    return type(value).__name__  # an int may be too long to be shown


def test_the_default_and_none() -> None:
    assert Deadline.after(None) is Deadline.NEVER
    assert Deadline.after(math.inf) is Deadline.NEVER
    assert Deadline.after(math.inf, 3.0) is Deadline.NEVER, "no limit, whatever the default"
    assert Deadline.after(None, math.inf) is Deadline.NEVER
    assert monotonic() + 2 < Deadline.after(None, 3.0).at <= monotonic() + 3


@pytest.mark.parametrize(
    "seconds", [3, 3.0, Decimal(3), Decimal("3.0"), Fraction(6, 2), np.float64(3), np.float32(3), np.int8(3)]
)
def test_any_real_number(seconds: Any) -> None:
    deadline = Deadline.after(seconds)
    assert monotonic() + 2 < deadline.at <= monotonic() + 3
    assert type(deadline.at) is float


@pytest.mark.parametrize("seconds", [10**5000, Decimal("1e400"), Decimal("Infinity"), np.inf, Fraction(10**400)], ids=kind)
def test_beyond_a_float_is_never(seconds: Any) -> None:
    assert Deadline.after(seconds) is Deadline.NEVER


@pytest.mark.parametrize("seconds", [1e300, 3e6, Decimal("1e300"), 2**62, 1e18])
def test_long_ones_can_be_waited_for(seconds: Any) -> None:
    deadline = Deadline.after(seconds)
    assert not deadline.passed() and deadline.remaining() == LONGEST_WAIT
    wait = deadline.remaining()
    happened = threading.Event()
    happened.set()
    assert happened.wait(wait)
    assert threading.Lock().acquire(timeout=wait or 0)
    read, write = os.pipe()
    os.write(write, b"x")
    assert select.select([read], [], [], wait) == ([read], [], [])
    os.close(read)
    os.close(write)
    assert math.isfinite(deadline.at)


@pytest.mark.parametrize(
    "seconds", [True, False, "3", b"3", [3], 3j, np.complex64(3), timedelta(seconds=3), object(), np.bool_(1)]
)
def test_no_number(seconds: Any) -> None:
    with pytest.raises(
        TypeError, match=r"item_timeout must be a positive number of seconds \(math.inf for no limit\), got "
    ):
        Deadline.after(seconds, name="item_timeout")


@pytest.mark.parametrize(
    "seconds",
    [0, 0.0, -0.0, -1, -math.inf, math.nan, Decimal("NaN"), Decimal("sNaN"), Decimal(-1), np.nan, -(10**5000), -5e-324],
    ids=kind,
)
def test_no_time_to_wait(seconds: Any) -> None:
    with pytest.raises(ValueError, match=r"timeout must be a positive number of seconds \(math.inf for no limit\), got "):
        Deadline.after(seconds)


def test_remaining_and_passed() -> None:
    past, future = Deadline(monotonic() - 1, 1), Deadline(monotonic() + 100, 100)
    assert past.passed() and past.remaining() == 0
    assert not future.passed() and 0 < (future.remaining() or 0) <= 100
    assert not Deadline.NEVER.passed() and Deadline.NEVER.remaining() is None and Deadline.NEVER.limit is None
    assert past.sooner(future) is past is future.sooner(past)
    assert Deadline.NEVER.sooner(future) is future is future.sooner(Deadline.NEVER)
    assert future.limit == future.at


def test_it_cannot_be_changed() -> None:
    deadline = Deadline.after(3)
    with pytest.raises(AttributeError):
        deadline.at = 5.0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        deadline.other = 5.0  # type: ignore[attr-defined]
    assert not hasattr(deadline, "__dict__")
