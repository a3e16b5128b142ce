"""How long many things took: what a histogram tells against what it was told."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procpool import Durations

#: Nanoseconds: from one to a month.
TIMES = st.integers(1, 30 * 86400 * 10**9)


def durations(times: list[int]) -> Durations:
    made = Durations()
    for time in times:
        made.record(1, time)
    return made


@given(st.lists(TIMES, min_size=1), st.integers(1, 100))
def test_percentiles_are_right_to_1_6_percent(times: list[int], percent: int) -> None:
    made = durations(times)
    assert made.count == len(times)
    assert made.total == pytest.approx(sum(times) / 1e9)
    assert made.mean == pytest.approx(statistics.mean(times) / 1e9)
    rank = -(-len(times) * percent // 100)
    assert made.percentile(percent) == pytest.approx(sorted(times)[rank - 1] / 1e9, rel=0.016)
    assert made.percentile(0) == pytest.approx(min(times) / 1e9, rel=0.016)
    assert made.percentile(100) == pytest.approx(max(times) / 1e9, rel=0.016)


@given(st.lists(TIMES), st.lists(TIMES))
def test_what_has_come_since_is_the_difference(first: list[int], second: list[int]) -> None:
    both = durations(first)
    both.add(durations(second))
    rest = both.minus(durations(first))
    assert rest.histogram() == durations(second).histogram()
    assert rest.total == pytest.approx(sum(second) / 1e9)
    assert rest.count == len(second)


@given(st.lists(TIMES, min_size=1))
def test_a_histogram_has_each_in_its_stretch(times: list[int]) -> None:
    stretches = durations(times).histogram()
    assert sum(count for *_, count in stretches) == len(times)
    for start, end, count in stretches:
        assert count == sum(start <= time / 1e9 < end for time in times)
    ends = [end for _, end, _ in stretches]
    assert [start for start, _, _ in stretches[1:]] == ends[:-1], "one follows the other"


def test_what_was_timed_together_counts_with_its_mean() -> None:
    made = Durations()
    made.record(1_000_000, 2_460_000)  # 2.46 ns each
    made.record(1, 10**9)
    assert made.count == 1_000_001
    assert made.percentile(50) == pytest.approx(2.46e-9, rel=0.016)
    assert made.percentile(100) == pytest.approx(1, rel=0.016)


def test_nothing() -> None:
    made = Durations()
    made.record(0, 5)
    assert (made.count, made.total, made.mean, made.percentile(50), made.histogram()) == (0, 0, 0, 0, [])
    assert repr(made) == "<Durations of nothing>"


def test_what_no_clock_tells_does_no_harm() -> None:
    """A worker says how long its jobs took, and a broken one says anything."""
    made = Durations()
    made.record(-3, 10)
    made.record(2, -10)
    made.record(1, 2**64)
    assert made.count == 3 and made.percentile(100) > 0 and made.histogram()


@pytest.mark.parametrize("percent", [-1, 100.1, float("nan")])
def test_no_percentile(percent: float) -> None:
    with pytest.raises(ValueError, match="a percentile is from 0 to 100, got"):
        Durations().percentile(percent)
