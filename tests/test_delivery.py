"""The threads that run the user's code, and the order in which they do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

import pytest
from conftest import DEADLINE, eventually
from hypothesis import given
from hypothesis import strategies as st
from models import thorough

from procpool.supervisor import delivery as module
from procpool.supervisor.delivery import MOST_THREADS, PATIENCE, Delivery


def keeps_time(delivery: Delivery, until: Callable[[], bool]) -> None:
    """Be the thread that keeps time, until it is so."""

    def look() -> bool:
        delivery.keep_time(monotonic())
        return until()

    eventually(look, "code to be run")


@given(
    posts=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["quick", "quick", "raises", "exits", "dawdles"])), max_size=40
    )
)
@thorough(30, 1)
def test_strands_keep_their_order_and_lose_nothing(posts: list[tuple[int, str]]) -> None:
    logging.getLogger("procpool").disabled = True
    try:
        woken = []
        delivery = Delivery(lambda: woken.append(1))
        strands = [delivery.strand() for _ in range(4)]
        ran: dict[int, list[int]] = {strand: [] for strand in range(5)}
        running: set[int] = set()
        overlaps: list[int] = []

        def code(strand: int, n: int, how: str) -> Callable[[], None]:
            def run() -> None:
                if strand < 4:
                    if strand in running:
                        overlaps.append(strand)
                    running.add(strand)
                ran[strand].append(n)
                try:
                    if how == "raises":
                        raise ValueError
                    if how == "exits":
                        raise SystemExit
                    if how == "dawdles":
                        sleep(0.002)
                finally:
                    running.discard(strand)

            return run

        for n, (strand, how) in enumerate(posts):
            (strands[strand] if strand < 4 else delivery.post)(code(strand, n, how))
        assert not posts or woken
        keeps_time(delivery, lambda: sum(map(len, ran.values())) == len(posts))
        assert delivery.close(DEADLINE)
        assert not overlaps, "two of one strand at once"
        for strand in range(4):
            assert ran[strand] == [n for n, (s, _) in enumerate(posts) if s == strand]
        assert sorted(ran[4]) == [n for n, (s, _) in enumerate(posts) if s == 4]
        eventually(lambda: not ours(delivery), "threads that have run all to end")
    finally:
        logging.getLogger("procpool").disabled = False


def ours(delivery: Delivery) -> list[threading.Thread]:
    targets = [(thread, getattr(thread, "_target", None)) for thread in threading.enumerate()]
    return [thread for thread, target in targets if getattr(target, "__self__", None) is delivery]


@pytest.mark.parametrize("dawdling", [1, 5, MOST_THREADS - 1])
def test_code_that_dawdles_holds_up_nobody(dawdling: int) -> None:
    delivery = Delivery(lambda: None)
    gate = threading.Event()
    done: list[int] = []
    try:
        strand = delivery.strand()
        for _ in range(dawdling - 1):
            delivery.post(gate.wait)
        strand(gate.wait)
        strand(lambda: done.append(-1))
        for n in range(20):
            delivery.post(lambda n=n: done.append(n))  # type: ignore[misc]
        keeps_time(delivery, lambda: len(done) == 20)
        assert sorted(done) == list(range(20)), "what waits behind the one that dawdles keeps waiting"
    finally:
        gate.set()
    assert delivery.close(DEADLINE)
    assert done[-1] == -1


def test_no_more_threads_than_that() -> None:
    delivery = Delivery(lambda: None)
    gate = threading.Event()
    done: list[int] = []
    try:
        for _ in range(MOST_THREADS + 10):
            delivery.post(gate.wait)
        delivery.post(lambda: done.append(1))
        keeps_time(delivery, lambda: len(ours(delivery)) == MOST_THREADS)
        assert delivery.keep_time(monotonic() + 1.0) is None
        assert len(ours(delivery)) == MOST_THREADS and not done
    finally:
        gate.set()
    assert delivery.close(DEADLINE) and done == [1]


def test_when_to_look_again() -> None:
    delivery = Delivery(lambda: None)
    assert delivery.keep_time(monotonic()) is None, "nothing waits"
    gate = threading.Event()
    started = threading.Event()
    try:
        delivery.post(lambda: (started.set(), gate.wait()))
        assert started.wait(DEADLINE)
        delivery.post(gate.wait)
        now = monotonic()
        due = delivery.keep_time(now - 1.0)
        assert due is not None and due <= now + PATIENCE, "it has not waited for that long"
        assert len(ours(delivery)) == 1
        assert delivery.keep_time(now + 1.0) == now + 1.0 + PATIENCE
        eventually(lambda: delivery.keep_time(0.0) is None, "the second thread to take it")
    finally:
        gate.set()
    assert delivery.close(DEADLINE)


def test_close_is_bounded_and_runs_what_was_posted() -> None:
    delivery = Delivery(lambda: None)
    gate = threading.Event()
    done: list[int] = []
    delivery.post(gate.wait)
    delivery.post(lambda: done.append(1))
    assert not delivery.close(0.01), "it cannot end while code runs"
    assert not delivery.close(-1.0)
    delivery.post(lambda: done.append(2))
    gate.set()
    assert delivery.close(DEADLINE)
    assert done == [1, 2]
    delivery.post(lambda: done.append(3))  # after its end, it is run all the same
    eventually(lambda: done == [1, 2, 3], "the straggler")
    assert delivery.close(DEADLINE)
    eventually(lambda: not ours(delivery), "threads that have run all to end")


def test_threads_that_cannot_be_started_are_tried_again(monkeypatch: Any) -> None:
    delivery = Delivery(lambda: None)
    real, scarce = threading.Thread, True

    def thread(*args: Any, **kwargs: Any) -> threading.Thread:
        if scarce:
            raise RuntimeError("can't start new thread")
        return real(*args, **kwargs)

    monkeypatch.setattr(module.threading, "Thread", thread)
    done: list[int] = []
    delivery.post(lambda: done.append(1))
    assert not done and delivery.keep_time(monotonic() + 1.0) is not None
    assert not delivery.close(0.01)
    scarce = False
    delivery.keep_time(monotonic() + 1.0)
    eventually(lambda: done == [1], "the code")
    assert delivery.close(DEADLINE)


def test_idle_threads_go(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    delivery = Delivery(lambda: None)
    for _ in range(50):  # now and then one goes in the very moment in which code is posted
        ran = threading.Event()
        delivery.post(ran.set)
        assert ran.wait(DEADLINE)
        sleep(0.0095)
    eventually(lambda: not ours(delivery), "the threads to go")
    assert delivery.close(DEADLINE)


def test_it_knows_its_own_threads() -> None:
    delivery, other = Delivery(lambda: None), Delivery(lambda: None)
    seen: list[tuple[bool, bool]] = []
    delivery.post(lambda: seen.append((delivery.inside(), other.inside())))
    assert delivery.close(DEADLINE) and seen == [(True, False)]
    assert not delivery.inside()


def test_a_handler_of_the_log_that_raises_costs_no_thread() -> None:
    """It is told of what a callback raised, and is the user's too; whoever makes a delivery may have nobody keep its time."""
    delivery = Delivery()
    heard: list[str] = []

    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())
            raise SystemExit

    handler = Raises()
    module.logger.addHandler(handler)
    try:
        delivery.post(lambda: 1 // 0)
        done = threading.Event()
        delivery.post(done.set)
        assert done.wait(DEADLINE) and heard == ["procpool: a callback raised"]
        assert delivery.close(DEADLINE)
    finally:
        module.logger.removeHandler(handler)
