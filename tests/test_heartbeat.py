"""Leases of nodes, step by step and at random: no node works any more when the client says that it does not."""

from __future__ import annotations

import random

import pytest

from procpool.cluster.heartbeat import BEATS, DRIFT, STOPPING, Tenure, Vigil

LEASE = 3.0


def test_a_node_whose_beats_are_acknowledged_works_on() -> None:
    tenure, vigil = Tenure(LEASE, 0.0), Vigil(LEASE, 0.0)
    now = 0.0
    while now < 10 * LEASE:
        number = tenure.beat(now)
        assert vigil.heard(now + 0.01)
        tenure.acknowledged(number)
        assert vigil.look(now + 0.02) == "well"
        assert tenure.remaining(now + 0.02) > LEASE / 2
        now += tenure.interval


def test_the_lease_counts_from_the_beat_and_not_from_its_acknowledgement() -> None:
    tenure = Tenure(LEASE, 0.0)
    number = tenure.beat(1.0)
    tenure.acknowledged(number)
    assert tenure.remaining(1.0) == LEASE
    late = tenure.beat(1.5)
    assert tenure.remaining(3.9) == pytest.approx(0.1)
    tenure.acknowledged(late)  # comes at 3.9, and was sent at 1.5
    assert tenure.remaining(3.9) == pytest.approx(0.6)


def test_what_is_over_stays_over() -> None:
    tenure = Tenure(LEASE, 0.0)
    number = tenure.beat(LEASE - 0.1)
    assert not tenure.remaining(LEASE)
    tenure.acknowledged(number)
    assert not tenure.remaining(LEASE)


def test_silence_is_doubted_first() -> None:
    vigil = Vigil(LEASE, 0.0)
    assert vigil.look(LEASE / 2 - 0.01) == "well"
    assert vigil.look(LEASE) == "well", "what it has said may not have been read"
    assert vigil.look(LEASE * 1.11) == "silent"
    assert vigil.look(vigil.safe_at - 0.01) == "silent"
    assert vigil.heard(LEASE)
    assert vigil.look(LEASE) == "well"


def test_one_who_was_busy_for_an_hour_gives_up_nobody() -> None:
    vigil = Vigil(LEASE, 0.0)
    assert vigil.look(3600.0) != "gone"
    assert vigil.heard(3600.0)
    assert vigil.look(3600.1) == "well"


def test_who_is_given_up_is_acknowledged_no_more() -> None:
    vigil = Vigil(LEASE, 0.0)
    at = vigil.safe_at
    assert vigil.look(at) == "silent"
    assert vigil.look(at + LEASE * 0.11) == "gone"
    assert not vigil.heard(at + 1)
    assert vigil.look(at + 1) == "gone"
    cut = Vigil(LEASE, 0.0)
    cut.give_up()
    assert not cut.heard(0.1)


@pytest.mark.parametrize("seed", range(60))
def test_no_node_works_when_the_client_takes_it_for_gone(seed: int) -> None:
    """Beats and acknowledgements are late, or lost from some moment on; clocks are apart, and run differently fast."""
    rng = random.Random(seed)
    apart, rate = rng.uniform(-1e6, 1e6), 1 + rng.uniform(-DRIFT, DRIFT) * 0.9
    there = lambda now: apart + now * rate  # noqa: E731  # the node's clock
    tenure, vigil = Tenure(LEASE, there(0.0)), Vigil(LEASE, rng.uniform(0, 0.2))
    cut_out, cut_back = rng.uniform(0, 20), rng.uniform(0, 20)
    flying: list[tuple[float, str, int]] = []
    now, beats_at, gone_at, worked_until = 0.0, 0.0, 0.0, 0.0
    while not gone_at and now < 60:
        now += rng.uniform(0.0, LEASE / BEATS / 3)
        if now >= beats_at and tenure.remaining(there(now)):
            beats_at = now + LEASE / BEATS
            if now < cut_out or rng.random() < 0.05:
                flying.append((now + rng.expovariate(5), "beat", tenure.beat(there(now))))
            else:
                tenure.beat(there(now))
        for each in sorted(flying):
            if each[0] <= now:
                flying.remove(each)
                if each[1] == "ack":
                    tenure.acknowledged(each[2])
                elif vigil.heard(now) and now < cut_back:
                    flying.append((now + rng.expovariate(5), "ack", each[2]))
        if tenure.remaining(there(now)):
            worked_until = now
        if vigil.look(now) == "gone":
            gone_at = now
    assert gone_at, "it is noticed at last"
    assert worked_until <= gone_at - STOPPING / 2, "the node had time to stop its workers"
    assert not tenure.remaining(there(gone_at))
