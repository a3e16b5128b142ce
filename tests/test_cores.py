"""Which core a thread is on, and going elsewhere."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from procpool import cores

pytestmark = pytest.mark.fast


def in_a_thread(run: Callable[[], None]) -> None:
    """An affinity is a thread's, and this one goes with it."""
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def test_a_thread_is_on_the_core_that_it_is_bound_to() -> None:
    def look() -> None:
        for core in sorted(os.sched_getaffinity(0)):
            os.sched_setaffinity(0, {core})
            assert cores.current() == core

    in_a_thread(look)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")
def test_a_thread_goes_elsewhere_and_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, change = os.sched_getaffinity(0), os.sched_setaffinity
    seen: list[tuple[set[int], int]] = []

    def changed(pid: int, to: set[int]) -> None:
        change(pid, to)
        seen.append((to, cores.current()))

    monkeypatch.setattr(os, "sched_setaffinity", changed)

    def go() -> None:
        while not seen:  # it may be moved between the two
            here = cores.current()
            cores.leave(here)
        (others, where), (afterwards, _) = seen
        assert (others, afterwards) == (allowed - {here}, allowed)
        assert where != here

    in_a_thread(go)


def test_a_thread_that_is_elsewhere_or_has_no_choice_stays() -> None:
    def stay() -> None:
        here = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {here})
        for core in (here, here + 1):
            cores.leave(core)
            assert os.sched_getaffinity(0) == {here}

    in_a_thread(stay)
