"""What the parent notes of its workers and jobs in moments that hardly ever come: here, each is brought about."""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import Any

import pytest
from conftest import DEADLINE, KERNELS, MISBEHAVE, busy_pid, eventually, worker_pids

from procpool import ProcessWasmPool, WorkerCrashed, wire
from procpool.deadline import Deadline
from procpool.stats import PoolStats
from procpool.supervisor.port import Port


def test_an_offer_does_not_take_the_room_that_a_submitter_has_found(
    monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, max_pending=1) as pool:
        dispatcher = pool._dispatcher
        running = pool.submit("spin")
        eventually(lambda: pool.stats().pending == 0, "it to run")
        waiting = pool.submit("fine", 1)
        offered, other = (pool._call_job("fine", (n,), Deadline.NEVER) for n in (2, 3))
        taken = dispatcher.offer(offered)
        assert taken is not None
        eventually(lambda: bool(dispatcher.scheduler._on_space), "the offer to wait for room")
        full = dispatcher._full

        def look(most: int) -> bool:
            found = full(most)
            if not found and dispatcher._admitting.acquire(blocking=False):  # then another thread may be let in too
                dispatcher._enqueue(other)
                dispatcher._admitting.release()
            return found

        monkeypatch.setattr(dispatcher, "_full", look)
        waiting.cancel()
        taken.result(DEADLINE)
        pending = pool.stats().pending
        running.cancel()
        assert pending == 1
        assert offered.result(DEADLINE) == 2


@pytest.mark.parametrize("options", [{"key": "k"}, {"key": "k", "timeout": DEADLINE}, {"priority": 1}, {}])
def test_ctrl_c_in_a_submission(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, nothing_left: None) -> None:
    """It may come when the job is queued already: that is taken back, and its key given back once."""
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        pool.wait_ready(DEADLINE)
        dispatcher = pool._dispatcher

        def interrupted(depth: int = 0) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(dispatcher.scheduler, "pump", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.submit("add", 1, 2, **options)
        assert not len(dispatcher.keys)
        assert pool.stats().pending == 0
        assert pool.submit("add", 1, 2, **options).result(DEADLINE) == 3
        pool.drain(DEADLINE)
        assert not len(dispatcher.keys)
        assert pool.stats().killed == pool.stats().crashed == 0
        assert pool.stats().calls == 1


def _say_nonsense_and_die(instance: Any) -> None:
    for fd in range(3, 100):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket"):
                os.write(fd, wire.reply(50))
        except OSError:
            pass
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_has_ended_is_not_killed_for_its_last_words(nothing_left: None) -> None:
    """Its pid may be another's by then."""
    with ProcessWasmPool(KERNELS, workers=1, start_method="forkserver") as pool:
        pool.wait_ready(DEADLINE)
        population = pool._dispatcher.population
        assert population._launcher is not None
        events = population._launcher.events.fileno()
        entered, ended = threading.Event(), threading.Event()

        def hear_of_its_end_first() -> None:
            entered.set()
            assert ended.wait(DEADLINE)
            population._read_launcher()

        pool._dispatcher.do(hear_of_its_end_first)
        assert entered.wait(DEADLINE)
        guilty = pool.submit(_say_nonsense_and_die)
        assert select.select([events], [], [], DEADLINE)[0], "its end was not told"
        ended.set()
        assert isinstance(guilty.exception(DEADLINE), WorkerCrashed)
        eventually(lambda: pool.stats().crashed == 1, "its end to be noted")
        assert pool.stats().killed == 0


def test_the_board_may_be_released_while_it_is_read() -> None:
    """By the thread of a direct call that has seen its worker alive a moment ago."""
    port = Port.__new__(Port)
    port.state = "ready"  # as that thread has seen it
    port._last_begun = 7  # as the dispatcher has noted since
    port._board = memoryview(bytearray(8 * wire.BOARD_ROW)).cast("Q")
    port._board.release()
    assert port.begun == 7


def test_an_item_that_runs_again_is_noted(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1, retries=1) as pool:
        pool.wait_ready(DEADLINE)
        results = pool.map("churn", [1] * 4, [2_000_000_000] * 4)
        os.kill(busy_pid(pool), signal.SIGKILL)
        assert len(list(results)) == 4
        assert pool.stats().retried == 1
        assert pool.stats().calls == 4


def test_a_worker_that_is_starting_has_no_pid(nothing_left: None) -> None:
    """0 would be one: that of the caller's own process group."""
    seen: list[PoolStats] = []
    with ProcessWasmPool(KERNELS, workers=1, start_method="forkserver") as pool:
        pool.wait_ready(DEADLINE)
        looked = threading.Event()

        def look() -> None:
            pool._dispatcher.population.want(2)
            pool._dispatcher.population.start_missing(False)
            seen.append(pool.stats())
            looked.set()

        pool._dispatcher.do(look)
        assert looked.wait(DEADLINE)
        pool.wait_ready(DEADLINE)
        assert len(worker_pids(pool)) == 2
    assert [(worker.state, worker.pid is None) for worker in seen[0].workers] == [("idle", False), ("starting", True)]
