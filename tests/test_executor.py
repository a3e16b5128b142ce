"""What the standard library asks of its own executors, asked of this one."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import os
import random
import signal
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError, Future, as_completed, wait
from pathlib import Path
from typing import Any

import pytest
from bounded import apart, together, within
from conftest import DEADLINE, FIXTURES, MISBEHAVE, eventually, worker_pids
from hostile import ERRORS, FATAL, OBJECTS, Gate, act, after, fail_oddly, fail_with, give, same, take, tell

import procpool
from procpool import LeaseEnded, PoolClosed, ProcessWasmPool, RemoteError, WasiConfig, WasmTrap, WorkerCrashed
from procpool.maps.sources import READING_SECONDS

COMMAND = FIXTURES / "command.wasm"
#: What a future may end in when its pool is shut down or its interpreter exits.
ENDS = (PoolClosed, CancelledError)


def sound(pool: ProcessWasmPool) -> None:
    """All workers are there, and right about a hundred jobs."""
    assert [pool.submit("fine", n).result(DEADLINE) for n in range(50)] == list(range(50))
    assert [within(pool.call, "fine", n) for n in range(3)] == list(range(3))
    eventually(lambda: pool.stats().idle == 2, "both workers to be idle")


def _made() -> ProcessWasmPool:
    pool = ProcessWasmPool(MISBEHAVE, workers=2, kill_grace=5.0)
    pool.wait_ready(DEADLINE)
    return pool


@pytest.fixture(scope="module")
def _shared() -> Iterator[list[ProcessWasmPool]]:
    """Starting a pool takes longer than most tests; one that a test has broken is replaced."""
    shared = [_made()]
    yield shared
    within(shared[0].terminate)


@pytest.fixture
def pool(_shared: list[ProcessWasmPool]) -> Iterator[ProcessWasmPool]:
    """Two workers, and whatever a test does to them, they are sound afterwards."""
    made = _shared[0]
    yield made
    try:
        sound(made)
    except BaseException:
        broken, _shared[0] = _shared[0], _made()
        threading.Thread(target=broken.terminate, daemon=True).start()
        raise


@pytest.fixture
def fresh() -> Iterator[ProcessWasmPool]:
    """A pool of the test's own, to shut down."""
    made = _made()
    yield made
    within(made.terminate)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    yield made
    made.close()


def outcomes(futures: list[Future[Any]]) -> list[Any]:
    """What each has ended in: a result, or an exception."""
    assert wait(futures, DEADLINE).not_done == set(), "every job ends"
    return [CancelledError() if future.cancelled() else future.exception() or future.result() for future in futures]


# -- wait --------------------------------------------------------------------------------------------------------------

#: Jobs: "d" has ended, "x" has failed, "c" is cancelled, before the wait begins; "D" and "X" end so while it waits, and
#: "s" stays.  Those that `wait` must have seen, and those that it may have.
WAITS = [
    (FIRST_COMPLETED, "sDD", "D", "D"),
    (FIRST_COMPLETED, "sd", "d", "d"),
    (FIRST_COMPLETED, "sX", "X", "X"),
    (FIRST_COMPLETED, "xsc", "xc", "xc"),
    (FIRST_COMPLETED, "csD", "c", "cD"),
    (FIRST_EXCEPTION, "sX", "X", "X"),
    (FIRST_EXCEPTION, "dsX", "dX", "dX"),
    (FIRST_EXCEPTION, "dsx", "dx", "dx"),
    (FIRST_EXCEPTION, "cDd", "cDd", "cDd"),  # a cancelled one is no exception
    (FIRST_EXCEPTION, "dDc", "dDc", "dDc"),
    (FIRST_EXCEPTION, "dD", "dD", "dD"),  # none fails, so all are waited for
    (ALL_COMPLETED, "dxcDX", "dxcDX", "dxcDX"),
    (ALL_COMPLETED, "", "", ""),
]


def _job(pool: ProcessWasmPool, kind: str, gate: Gate, never: Gate) -> Future[Any]:
    if kind in "DX":
        return pool.submit(after, gate, 1, "error" if kind == "X" else None)
    if kind == "s":
        return pool.submit(after, never)
    if kind == "c":
        future = pool.submit(after, never)
        assert future.cancel()
        return future
    future = pool.submit("divide", 1, 0) if kind == "x" else pool.submit("fine", 1)
    assert wait([future], DEADLINE).done
    return future


@pytest.mark.parametrize(("when", "kinds", "must", "may"), WAITS, ids=["-".join(case[:2]) for case in WAITS])
def test_wait(when: str, kinds: str, must: str, may: str, pool: ProcessWasmPool, gate: Gate, tmp_path: Path) -> None:
    never = Gate(tmp_path / "never")
    try:
        order = sorted(kinds, key="dxcsDX".index)  # what has to end first is not behind what stays
        futures = {_job(pool, kind, gate, never): kind for kind in order}
        early = wait(futures, 0, when)
        assert {futures[future] for future in early.done} == set(kinds) & set("dxc")
        assert not any(future.done() for future, kind in futures.items() if kind in "sDX")
        waiting = threading.Thread(target=gate.open)
        waiting.start()
        done, not_done = wait(futures, DEADLINE, when)
        waiting.join()
        seen = {futures[future] for future in done}
        assert set(must) <= seen <= set(may)
        assert done | not_done == set(futures) and not done & not_done
        assert all(future.done() for future in done)
    finally:
        never.close()


def test_a_wait_that_runs_out_of_time_tells_who_is_late(pool: ProcessWasmPool, gate: Gate) -> None:
    late = pool.submit(after, gate)
    prompt = pool.submit("fine", 1)
    for when in (ALL_COMPLETED, FIRST_EXCEPTION):
        assert wait([prompt, late, prompt, late], 0.05, when) == ({prompt}, {late}) or not prompt.done()
    gate.open()
    assert wait([late, late, prompt], DEADLINE) == ({late, prompt}, set()), "one that is given twice is told once"


def test_many_threads_wait_for_the_same_jobs(pool: ProcessWasmPool, gate: Gate) -> None:
    futures = [pool.submit(after, gate, 7), pool.submit("fine", 8)]
    modes = [FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED]

    def waiter(when: str) -> Callable[[], int]:
        return lambda: len(wait(futures, DEADLINE, when).done)

    def result() -> Any:
        return futures[0].result(DEADLINE)

    seen = together(*(waiter(modes[n % 3]) for n in range(12)), *[result] * 6, gate.open)
    assert all(count in (1, 2) for count in seen[0:12:3])
    assert all(count == 2 for n, count in enumerate(seen[:12]) if n % 3) and seen[12:18] == [7] * 6


def test_jobs_end_while_wait_registers_itself(pool: ProcessWasmPool) -> None:
    """The state of a job changes at any point of `wait`; none is overlooked."""
    for n in range(300):
        futures = [pool.submit("fine", k) for k in range(1 + n % 4)]
        done, not_done = wait(futures, DEADLINE, (FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED)[n % 3])
        assert done and (n % 3 == 0 or not not_done)
        pending, gathered = set(futures), set()
        while pending:
            some, pending = wait(pending, DEADLINE, FIRST_COMPLETED)
            assert some
            gathered |= some
        assert gathered == set(futures)


def test_futures_of_several_pools_and_of_threads_mix(pool: ProcessWasmPool, kernels: ProcessWasmPool) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        futures: dict[Future[Any], int] = {}
        for n in range(60):
            futures[(pool.submit("fine", n), kernels.submit("add", n, 0), threads.submit(int, n))[n % 3]] = n
        assert wait(futures, DEADLINE).not_done == set()
        assert Counter(futures[future] for future in as_completed(futures, DEADLINE)) == Counter(range(60))
        assert all(future.result() == n for future, n in futures.items())


# -- as_completed ------------------------------------------------------------------------------------------------------


def test_as_completed_gives_each_once_and_the_ready_ones_first(pool: ProcessWasmPool, gate: Gate) -> None:
    late = pool.submit(after, gate, 9)
    ready = [pool.submit("fine", 1), pool.submit("divide", 1, 0), pool.submit("fine", 2)]
    assert ready[2].cancel() or ready[2].done()
    wait(ready, DEADLINE)
    order = as_completed([late, *ready, late, *ready], DEADLINE)
    assert {next(order) for _ in ready} == set(ready)
    gate.open()
    assert list(order) == [late] and late.result() == 9
    assert list(as_completed([])) == []


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_as_completed_out_of_time(timeout: float, pool: ProcessWasmPool, gate: Gate) -> None:
    late, ready = pool.submit(after, gate), pool.submit("divide", 1, 0)
    wait([ready], DEADLINE)
    seen = []
    with pytest.raises(concurrent.futures.TimeoutError, match="1 \\(of 2\\)"):
        for future in as_completed([late, ready], timeout):
            seen.append(future)
    assert seen == [ready]
    gate.open()
    assert list(as_completed([late], DEADLINE)) == [late]


def test_as_completed_keeps_nothing_that_it_has_given(pool: ProcessWasmPool) -> None:
    futures = [pool.submit("fine", n) for n in range(20)]
    order = as_completed(futures, DEADLINE)
    futures.clear()
    for future in order:
        reference = weakref.ref(future)
        del future
        eventually(lambda: reference() is None, "the future to go")  # the pool's thread may be about to let go of it  # noqa: B023


def test_as_completed_given_up_half_way(pool: ProcessWasmPool, gate: Gate) -> None:
    futures = [pool.submit("fine", 1), pool.submit(after, gate, 2)]
    order = as_completed(futures, DEADLINE)
    next(order)
    order.close()  # type: ignore[attr-defined]
    gate.open()
    assert futures[1].result(DEADLINE) == 2


# -- map ---------------------------------------------------------------------------------------------------------------


def test_maps_of_nothing_and_of_unequal_lengths(pool: ProcessWasmPool) -> None:
    assert list(pool.map("fine", [])) == list(pool.map(same, [])) == list(pool.map("divide", [1], [])) == []
    assert list(pool.map("divide", itertools.count(10, 10), [1, 2])) == [10, 10]
    assert list(pool.map(same, iter("ab"))) == ["a", "b"]


@pytest.mark.parametrize("shipped", [False, True])
def test_a_map_is_submitted_before_it_is_read(shipped: bool, fresh: ProcessWasmPool) -> None:
    """As with every executor of the standard library, its results may be fetched after the pool's block."""
    with fresh:
        results = fresh.map(same if shipped else "fine", range(100))
    assert within(list, results) == list(range(100))


def test_a_map_out_of_time_gives_what_is_there(pool: ProcessWasmPool, gate: Gate) -> None:
    entrance = gate.__reduce__()
    shut = entrance[0](*entrance[1])

    def sometimes(instance: Any, n: int) -> int:
        if n == 3:
            shut.wait()
        return n

    results = pool.map(sometimes, range(5), timeout=1.0)
    assert [within(next, results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(concurrent.futures.TimeoutError):
        within(next, results)
    gate.open()


def test_the_first_failure_of_a_map_ends_it(pool: ProcessWasmPool, gate: Gate) -> None:
    """What waits behind it is not run."""
    results = pool.map(after, [gate] * 40, range(40), ["error"] + [None] * 39, buffersize=40)
    eventually(lambda: gate.began() >= 2, "both workers to begin")
    gate.open()
    with pytest.raises(ArithmeticError):
        within(next, results)
    with pytest.raises(StopIteration):
        next(results)
    within(pool.drain, DEADLINE)


class SlowToPickle:
    def __reduce__(self) -> tuple[Any, ...]:
        time.sleep(4 * READING_SECONDS)
        return SlowToPickle, ()


def test_a_map_gives_every_worker_something_to_do_at_once(pool: ProcessWasmPool, gate: Gate) -> None:
    """However long it takes to pickle the first item, and though nobody asks for a result."""
    results = pool.map(after, [gate] * 4, [SlowToPickle() for _ in range(4)])
    eventually(lambda: gate.began() >= 2, "both workers to begin")
    gate.open()
    assert len(within(list, results)) == 4


def test_results_of_a_map_are_not_kept(pool: ProcessWasmPool) -> None:
    class Dummy:
        pass

    for results in (pool.map(lambda instance, n: Dummy(), range(20)), pool.map(same, [Dummy() for _ in range(20)])):
        for result in results:
            reference = weakref.ref(result)
            del result
            eventually(lambda: reference() is None, "the result to go")  # noqa: B023


# -- one future --------------------------------------------------------------------------------------------------------


def test_asking_before_it_is_there(pool: ProcessWasmPool, gate: Gate) -> None:
    future = pool.submit(after, gate, 5)
    for ask in (future.result, future.exception):
        for timeout in (0, 0.01):
            with pytest.raises(concurrent.futures.TimeoutError):
                ask(timeout)
    gate.open()
    assert future.result(DEADLINE) == 5 and future.exception(0) is None


def test_callbacks_run_once_each_in_order_with_the_future_done(pool: ProcessWasmPool, gate: Gate) -> None:
    for end in ("result", "exception", "cancelled", "over already"):
        seen: list[tuple[int, bool, bool]] = []
        future = pool.submit(after, gate, 5) if end == "cancelled" else pool.submit("divide", 4, int(end != "exception"))
        if end == "over already":
            wait([future], DEADLINE)
        for n in range(5):
            future.add_done_callback(lambda done, n=n: seen.append((n, done is future, done.done())))  # type: ignore[misc]  # noqa: B023
        if end == "cancelled":
            assert future.cancel()
        wait([future], DEADLINE)
        eventually(lambda: len(seen) == 5, "all callbacks")  # noqa: B023
        assert [(n, True, True) for n in range(5)] == (sorted(seen) if end in ("result", "exception") else seen)
    gate.open()


def test_a_callback_that_raises_spoils_nothing(pool: ProcessWasmPool, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    future = pool.submit(after, gate, 5)
    future.add_done_callback(lambda done: act("error"))
    future.add_done_callback(lambda done: seen.append(done.result()))
    innocent = [pool.submit("fine", n) for n in range(50)]
    gate.open()
    assert future.result(DEADLINE) == 5 and outcomes(innocent) == list(range(50))
    eventually(lambda: seen == [5], "the callback after it")
    assert "callback" in caplog.text


def test_a_callback_may_wait_for_the_pool(pool: ProcessWasmPool) -> None:
    """It runs where it holds up nobody."""
    answers: list[Any] = []

    def ask(future: Future[Any]) -> None:
        answers.append(pool.submit("fine", future.result() + 1).result(DEADLINE))
        answers.append(pool.call("fine", 3))
        answers.extend(pool.map("fine", [4, 5]))

    pool.submit("fine", 1).add_done_callback(ask)
    eventually(lambda: answers == [2, 3, 4, 5], "the callback to have its answers")


# -- cancelling --------------------------------------------------------------------------------------------------------


def test_cancel_what_waits_what_runs_and_what_has_ended(pool: ProcessWasmPool, gate: Gate) -> None:
    pids = set(worker_pids(pool))
    ended = pool.submit("fine", 1)
    assert ended.result(DEADLINE) == 1 and not ended.cancel() and not ended.cancelled() and ended.result() == 1
    spinning = [pool.submit("spin"), pool.submit("spin")]
    queued = [pool.submit(after, gate) for _ in range(5)]
    eventually(lambda: all(future.running() for future in spinning), "both to run")
    assert all(future.cancel() and future.cancel() for future in queued[::2])
    assert all(future.cancel() and future.cancelled() and future.done() for future in spinning)
    assert not any(future.running() for future in spinning + queued[::2])
    for future in (*spinning, *queued[::2]):
        with pytest.raises(CancelledError):
            future.result(DEADLINE)
        with pytest.raises(CancelledError):
            future.exception(DEADLINE)
    gate.open()
    assert outcomes(queued[1::2]) == [None] * 2
    assert gate.began() == 2, "cancelled jobs do not begin"
    assert set(worker_pids(pool)) == pids, "wasm is interrupted, and its worker serves on"


def test_cancelling_races_with_the_end(pool: ProcessWasmPool) -> None:
    """What `cancel` said holds, callbacks are called once, and other jobs are untouched."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    calls: Counter[Future[Any]] = Counter()
    for _ in range(60):
        futures = [pool.submit("fine", n) for n in range(20)]
        for future in futures:
            future.add_done_callback(lambda done: calls.update([done]))
        chosen = rng.sample(range(20), 8)

        def cancel(futures: list[Future[Any]] = futures, chosen: list[int] = chosen) -> list[bool]:
            return [futures[n].cancel() for n in chosen]

        first, second = together(cancel, cancel)
        assert wait(futures, DEADLINE).not_done == set()
        for n, future in enumerate(futures):
            if n in chosen:
                said = first[chosen.index(n)], second[chosen.index(n)]
                assert any(said) == all(said) == future.cancelled()
            assert future.cancelled() or future.result() == n
        eventually(lambda futures=futures: all(calls[future] for future in futures), "all callbacks")  # type: ignore[misc]
        assert all(calls[future] == 1 for future in futures)


# -- trouble on the way ------------------------------------------------------------------------------------------------

EXPECTED: dict[str, type[BaseException]] = {
    "error": ArithmeticError,
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    **dict.fromkeys(FATAL, WorkerCrashed),
}


def _one_pays(pool: ProcessWasmPool, expected: Any, submit: Callable[[], Future[Any]]) -> BaseException:
    """One hostile job among innocent ones; what it ended in."""
    before = [pool.submit("fine", n) for n in range(30)]
    guilty = submit()
    behind = [pool.submit("fine", n) for n in range(30)] + [pool.submit(same, n) for n in range(30)]
    assert outcomes(before) + outcomes(behind) == [*range(30)] * 3
    (error,) = outcomes([guilty])
    assert isinstance(error, expected)
    return error


@pytest.mark.parametrize("how", ["error", "SystemExit", "KeyboardInterrupt"])
def test_an_argument_that_does_not_pickle_is_told_at_once(how: str, pool: ProcessWasmPool) -> None:
    with pytest.raises(EXPECTED[how]):
        pool.submit(take, OBJECTS["pickled"](how))
    with pytest.raises(EXPECTED[how]):
        within(list, pool.map(take, [OBJECTS["pickled"](how)]))


@pytest.mark.parametrize("how", EXPECTED)
@pytest.mark.parametrize("when", ["unpickled", "given its state"])
def test_an_argument_makes_trouble_in_the_worker(when: str, how: str, pool: ProcessWasmPool) -> None:
    _one_pays(pool, EXPECTED[how], lambda: pool.submit(take, OBJECTS[when](how)))


@pytest.mark.parametrize("how", EXPECTED)
def test_a_result_makes_trouble_when_it_is_pickled(how: str, pool: ProcessWasmPool) -> None:
    _one_pays(pool, EXPECTED[how], lambda: pool.submit(give, "pickled", how, os.getpid()))


@pytest.mark.parametrize("how", EXPECTED)
@pytest.mark.parametrize("when", ERRORS)
def test_an_exception_makes_trouble_in_the_worker(when: str, how: str, pool: ProcessWasmPool) -> None:
    expected = WorkerCrashed if how in FATAL else (RemoteError, EXPECTED[how])
    _one_pays(pool, expected, lambda: pool.submit(fail_with, when, how, os.getpid()))


def _trouble_in_the_parent(what: str, how: str) -> None:
    """None of it is the worker's fault."""
    pool = _made()
    pids = set(worker_pids(pool))
    expected = EXPECTED[how]
    if what == "callback":
        future = pool.submit("fine", 7)
        future.add_done_callback(lambda done: act(how))
        innocent = [pool.submit("fine", n) for n in range(50)]
        assert future.result(DEADLINE) == 7 and outcomes(innocent) == list(range(50))
    elif what == "exception":

        def fail(instance: Any) -> None:
            fail_with(instance, "unpickled", how, os.getpid())

        error = _one_pays(pool, (RemoteError, expected), lambda: pool.submit(fail))
        assert not isinstance(error, WorkerCrashed)
    else:
        _one_pays(pool, expected, lambda: pool.submit(give, what, how, None))
        results = within(list, pool.map(give, [what], [how], [None], return_exceptions=True))
        assert isinstance(results[0], expected)
    sound(pool)
    assert set(worker_pids(pool)) == pids
    pool.shutdown()
    print("over")


@pytest.mark.parametrize("what", ["callback", "exception", "unpickled", "given its state"])
def test_trouble_in_the_parent(what: str) -> None:
    """By a callback, or while a result or an exception is unpickled there."""
    hows = ["error", "SystemExit", "KeyboardInterrupt"]

    def one(how: str) -> Callable[[], Any]:
        return lambda: apart(_trouble_in_the_parent, what, how)

    ends = dict(zip(hows, together(*(one(how) for how in hows))))
    assert {how: (end[0], end[2]) for how, end in ends.items() if isinstance(end, tuple)} == dict.fromkeys(
        hows, ("over\n", 0)
    ), ends


def test_an_exception_that_arrives_as_none(pool: ProcessWasmPool) -> None:
    pids = set(worker_pids(pool))
    _one_pays(pool, RemoteError, lambda: pool.submit(fail_oddly))
    assert set(worker_pids(pool)) == pids, "the worker has done nothing wrong"


def test_a_function_that_makes_trouble_as_it_travels(pool: ProcessWasmPool) -> None:
    """It is unpickled in the worker like an argument; pickled at once."""
    for how in ("error", "_exit(3)"):
        burden = OBJECTS["unpickled"](how)
        _one_pays(pool, EXPECTED[how], lambda burden=burden: pool.submit(lambda instance: burden))  # type: ignore[misc]
    burden = OBJECTS["pickled"]("error")
    with pytest.raises(ArithmeticError):
        pool.submit(lambda instance: burden)


def test_one_death_while_thousands_wait(pool: ProcessWasmPool) -> None:
    guilty = [pool.submit(take, OBJECTS["unpickled"]("SIGKILL")) for _ in range(3)]
    queued = [pool.submit("fine", n) for n in range(3000)]
    guilty += [pool.submit(give, "pickled", "_exit(3)", os.getpid()) for _ in range(3)]
    assert outcomes(queued) == list(range(3000))
    assert all(isinstance(error, WorkerCrashed) for error in outcomes(guilty))


@pytest.mark.parametrize("how", ["error", "SIGKILL"])
def test_a_large_burden_of_a_dying_worker(how: str, pool: ProcessWasmPool) -> None:
    """More than any pipe holds, in the pickle itself, and in shared memory."""
    for burden in ([*range(300_000)], b"x" * 3_000_000):
        guilty = [
            pool.submit(same, (burden, OBJECTS["unpickled"](how))),
            pool.submit(lambda instance, burden: (burden, give(instance, "pickled", how, None)), burden),
        ]
        innocent = [pool.submit(same, burden) for _ in range(4)]
        assert all(isinstance(end, EXPECTED[how]) for end in outcomes(guilty))
        assert outcomes(innocent) == [burden] * 4


def test_submitting_while_nobody_can_listen(pool: ProcessWasmPool, gate: Gate) -> None:
    """More jobs than any pipe or wake-up holds, while all workers are busy, and then their deaths."""
    blockers = [pool.submit(after, gate, n) for n in range(2)]
    eventually(lambda: gate.began() == 2, "both workers to be busy")
    futures = [pool.submit("fine", n) for n in range(20_000)]
    for pid in worker_pids(pool):
        os.kill(pid, signal.SIGKILL)
    gate.open()
    assert all(isinstance(end, WorkerCrashed) for end in outcomes(blockers))
    assert outcomes(futures) == list(range(20_000))


# -- shutdown ----------------------------------------------------------------------------------------------------------


def test_nothing_is_taken_after_shutdown(fresh: ProcessWasmPool) -> None:
    within(fresh.shutdown)
    for way in (
        lambda: fresh.submit("fine", 1),
        lambda: fresh.submit(same, 1),
        lambda: fresh.call("fine", 1),
        lambda: list(fresh.map("fine", [1])),
        lambda: list(fresh.map(same, [1])),
        fresh.get,
        lambda: fresh.resize(1),
        lambda: fresh.restart(1),
    ):
        with pytest.raises(PoolClosed, match="shut down") as caught:
            within(way)
        assert isinstance(caught.value, RuntimeError), "as the standard library's executors raise"


@pytest.mark.parametrize("wait_", [True, False])
@pytest.mark.parametrize("cancel", [True, False])
def test_shutdown_with_jobs_running_and_queued(wait_: bool, cancel: bool, nothing_left: None, gate: Gate) -> None:
    pool = _made()
    running = [pool.submit(after, gate, n) for n in range(2)]
    eventually(lambda: gate.began() == 2, "both to run")
    queued = [pool.submit("fine", n) for n in range(100)]
    opener = threading.Timer(0.05, gate.open)
    opener.start()
    within(pool.shutdown, wait=wait_, cancel_futures=cancel)
    if wait_:
        assert all(future.done() for future in running + queued)
    assert outcomes(running) == [0, 1], "what runs is let finish"
    ends = outcomes(queued)
    if cancel:
        assert all(isinstance(end, CancelledError) for end in ends)
    else:
        assert ends == list(range(100))
    within(pool.shutdown)
    opener.join()


def _shut_with_maps(shipped: bool) -> None:
    """One whose items are behind jobs that run, and one that has read ahead."""
    pool = _made()
    ahead = pool.map(same if shipped else "fine", itertools.count(), buffersize=50)
    assert next(ahead) == 0
    running = [pool.submit("spin", timeout=1.0) for _ in range(2)]
    eventually(lambda: all(future.running() for future in running), "both to run")
    behind = pool.map(same if shipped else "fine", range(1000))
    ends: list[Any] = []

    def read() -> None:
        try:
            ends.append(len(list(behind)))
        except (PoolClosed, CancelledError):
            ends.append("ended")

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: pool.stats().pending > 0, "items to be queued")
    pool.shutdown(cancel_futures=True)
    reader.join()
    print(*ends)
    try:
        for _ in ahead:
            pass
    except (PoolClosed, CancelledError):
        print("ended")


@pytest.mark.parametrize("shipped", [False, True])
def test_shutdown_that_cancels_with_maps_in_flight(shipped: bool) -> None:
    assert apart(_shut_with_maps, shipped) == ("ended\nended\n", "", 0)


def _shut_with_a_lease_at_work() -> None:
    pool = _made()
    lease = pool.get()
    ended: list[Any] = []

    def work() -> None:
        try:
            lease.call("spin", timeout=1.0)
        except Exception as error:
            ended.append(type(error).__name__)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: pool.stats().busy == 1, "it to be at work")
    pool.shutdown()
    thread.join()
    print(*ended)


def test_shutdown_with_a_lease_at_work() -> None:
    out, err, code = apart(_shut_with_a_lease_at_work)
    assert (out.strip() in ("CallTimeout", "PoolClosed"), err, code) == (True, "", 0)


@pytest.mark.parametrize("times", [2, 8])
def test_shutdown_by_several_threads_at_once(times: int, nothing_left: None) -> None:
    """Each that waits returns when all has ended, however the others do it."""
    pool = _made()
    futures = [pool.submit("fine", n) for n in range(500)]
    pids = worker_pids(pool)
    template_gone: list[bool] = []

    def shut(n: int) -> Callable[[], None]:
        def run() -> None:
            pool.shutdown(wait=n % 2 == 0, cancel_futures=n % 4 == 3)
            if n % 2 == 0:
                template_gone.append(all(future.done() for future in futures))

        return run

    assert together(*(shut(n) for n in range(times))) == [None] * times
    assert all(template_gone)
    ends = outcomes(futures)
    assert all(end == n or isinstance(end, CancelledError) for n, end in enumerate(ends))
    assert times > 3 or ends == list(range(500))
    for again in (pool.shutdown, pool.shutdown, pool.terminate, pool.shutdown):
        within(again)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


SHUTS = ("wait", "cancel", "no wait", "terminate")


def _shut_inside(place: str) -> None:
    """From a place that the pool itself calls; that it may not wait there is no reason to hang."""
    for how in SHUTS:
        print(how, flush=True)
        _shut_one(place, how)


def _shut_one(place: str, how: str) -> None:
    went = threading.Event()

    def end(*args: object) -> None:
        if how == "terminate":
            pool.terminate()
        else:
            pool.shutdown(wait=how != "no wait", cancel_futures=how == "cancel")
        went.set()

    def items() -> Iterator[int]:
        yield 1
        end()
        yield 2

    if place == "event":
        pool = ProcessWasmPool(MISBEHAVE, workers=2, on_event=lambda event: end() if event.kind == "timeout" else None)
    else:
        pool = ProcessWasmPool(MISBEHAVE, workers=2)
    futures = [pool.submit("fine", n) for n in range(100)]
    try:
        if place == "callback":
            futures[50].add_done_callback(end)
        elif place == "cancelled":
            futures.append(pool.submit("spin"))
            futures[-1].add_done_callback(end)
            futures[-1].cancel()
        elif place == "generator":
            list(pool.map("fine", items(), buffersize=1))
        elif place == "progress":
            list(pool.map("fine", range(10), progress=end))
        elif place == "event":
            futures.append(pool.submit("spin", timeout=0.05))
        elif place == "lease":
            with pool.instance():
                end()
    except Exception as error:
        if not isinstance(error, ENDS):
            raise
    assert went.wait(DEADLINE)
    for end_ in outcomes(futures):
        assert isinstance(end_, (int, PoolClosed, CancelledError, procpool.CallTimeout)), end_
    pool.shutdown()


@pytest.mark.parametrize("place", ["callback", "cancelled", "generator", "progress", "event", "lease"])
def test_shutdown_where_the_pool_calls(place: str) -> None:
    assert apart(_shut_inside, place) == ("".join(f"{how}\n" for how in SHUTS), "", 0)


def _shut_while_others_wait(cancel: bool) -> None:
    pool = ProcessWasmPool(MISBEHAVE, workers=1, max_pending=1)
    pool.wait_ready(DEADLINE)
    lease = pool.get()

    def submit() -> None:
        for _ in range(100):
            pool.submit("fine", 1)

    ways = [submit, pool.get, pool.drain, lambda: pool.call("fine", 1), lambda: list(pool.map("fine", [1]))]

    def shut() -> None:
        eventually(lambda: pool.stats().pending >= 1, "others to wait")
        pool.shutdown(cancel_futures=cancel)

    ends = together(*ways, shut)
    assert ends.pop() is None, ends
    # The pool may have drained before it was closed.
    assert all(isinstance(end, (PoolClosed, CancelledError)) or end in (None, 1, [1]) for end in ends), ends
    try:
        lease.call("fine", 1)
    except (PoolClosed, LeaseEnded):
        print("over")


@pytest.mark.parametrize("cancel", [False, True])
def test_shutdown_wakes_those_who_wait(cancel: bool) -> None:
    """For room in the queue, for a lease, for quiet, and for results."""
    assert apart(_shut_while_others_wait, cancel) == ("over\n", "", 0)


@pytest.mark.parametrize("how", ["_exit(3)", "SIGKILL"])
def test_shutdown_while_workers_die(how: str, nothing_left: None) -> None:
    pool = _made()
    guilty = [pool.submit(take, OBJECTS["unpickled"](how)) for _ in range(4)]
    others = [pool.submit("fine", n) for n in range(50)]
    within(pool.shutdown)
    assert all(isinstance(end, WorkerCrashed) for end in outcomes(guilty))
    assert outcomes(others) == list(range(50))


@pytest.mark.parametrize("end", ["shutdown", "terminate"])
def test_an_ended_pool_has_no_workers(end: str, fresh: ProcessWasmPool) -> None:
    future = fresh.submit("fine", 1)
    wait([future], DEADLINE)
    within(getattr(fresh, end))
    stats = fresh.stats()
    assert (stats.workers, stats.busy, stats.idle, stats.pending, stats.leased) == ((), 0, 0, 0, 0)
    assert stats.calls == 1


# -- what is kept ------------------------------------------------------------------------------------------------------


class Thing:
    """Can be pickled, and weakly referenced."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data


def test_a_finished_future_keeps_its_result_and_the_pool_does_not(pool: ProcessWasmPool) -> None:
    future = pool.submit(same, Thing(b"x" * 200_000))
    result = weakref.ref(future.result(DEADLINE))
    assert isinstance(result(), Thing)
    del future
    eventually(lambda: result() is None, "the result to go with its future, without the collector")
    cancelled = pool.submit(same, Thing())
    cancelled.cancel()
    reference = weakref.ref(cancelled)
    del cancelled
    eventually(lambda: reference() is None, "a cancelled future to go")


def test_an_exception_goes_with_its_future(pool: ProcessWasmPool) -> None:
    for submit in (lambda: pool.submit("divide", 1, 0), lambda: pool.submit(tell)):
        future = submit()  # type: ignore[no-untyped-call]
        reference = weakref.ref(future.exception(DEADLINE))
        assert reference() is not None
        del future
        eventually(lambda: reference() is None, "the exception to go, without the collector")  # noqa: B023
    with pytest.raises(WasmTrap) as caught:  # raised, its traceback is in no cycle that keeps it
        pool.call("divide", 1, 0)
    reference = weakref.ref(caught.value)
    del caught
    gc.collect()
    assert reference() is None


def test_arguments_are_not_kept(pool: ProcessWasmPool) -> None:
    numpy = pytest.importorskip("numpy")
    thing, array = Thing(), numpy.zeros(1_000_000)
    references = [weakref.ref(thing), weakref.ref(array)]
    futures = [pool.submit(take, thing), pool.submit(take, array)]
    assert outcomes(futures) == ["taken"] * 2
    del thing, array
    eventually(lambda: all(reference() is None for reference in references), "arguments of finished jobs to go")


def test_a_function_is_not_kept_when_another_has_come(pool: ProcessWasmPool) -> None:
    def local(instance: Any) -> int:
        return 1

    reference = weakref.ref(local)
    assert pool.submit(local).result(DEADLINE) == 1
    del local
    assert pool.submit(same, 1).result(DEADLINE) == 1
    eventually(lambda: gc.collect() >= 0 and reference() is None, "the function to go")


def test_callbacks_are_not_kept(pool: ProcessWasmPool) -> None:
    thing = Thing()
    reference = weakref.ref(thing)
    future = pool.submit("fine", 1)
    future.add_done_callback(lambda done, thing=thing: None)  # type: ignore[misc]
    assert future.result(DEADLINE) == 1
    del thing, future
    eventually(lambda: gc.collect() >= 0 and reference() is None, "the callback to go")


def test_a_worker_keeps_neither_arguments_nor_results() -> None:
    """The next job finds nothing of the last one."""

    def remember(instance: Any, thing: Any, fail: bool) -> Any:
        import weakref

        result = type(thing)()
        procpool.state.seen = [weakref.ref(thing), weakref.ref(result)]
        if fail:
            raise ValueError(thing, result)
        return result

    def look(instance: Any) -> list[bool]:
        return [reference() is None for reference in procpool.state.seen]

    pool = ProcessWasmPool(MISBEHAVE, workers=1)
    try:
        for fail in (False, True):
            for data in (b"", b"x" * 200_000):
                wait([pool.submit(remember, Thing(data), fail)], DEADLINE)
                assert pool.submit(look).result(DEADLINE) == [True, True], (fail, len(data))
    finally:
        within(pool.terminate)


# -- a pool that is dropped --------------------------------------------------------------------------------------------


def test_a_pool_collected_with_work_pending_finishes_it(nothing_left: None, gate: Gate) -> None:
    for cycle in (False, True):
        pool = _made()
        futures = [pool.submit(after, gate, n) for n in range(2)]
        eventually(lambda c=cycle: gate.began() >= 2 + 22 * c, "both to run")  # type: ignore[misc]
        futures += [pool.submit(after, gate, n) for n in range(2, 22)]
        reference = weakref.ref(pool)
        if cycle:
            pool.me = pool  # type: ignore[attr-defined]
        del pool
        eventually(lambda: gc.collect() >= 0 and reference() is None, "the pool to be collected")  # noqa: B023
        assert cycle or not any(future.done() for future in futures)
        gate.open()
        assert outcomes(futures) == list(range(22))


def test_a_map_or_a_lease_keeps_its_pool_going(nothing_left: None) -> None:
    results = ProcessWasmPool(MISBEHAVE, workers=2).map("fine", range(100))
    gc.collect()
    assert within(list, results) == list(range(100))
    del results
    with ProcessWasmPool(MISBEHAVE, workers=1).instance() as lease:
        gc.collect()
        try:
            assert within(lease.call, "fine", 1) == 1
        except PoolClosed:  # its pool has gone: said at once
            pass


# -- the end of the interpreter ----------------------------------------------------------------------------------------

POOL: ProcessWasmPool | None = None  # a global that outlives everything


def _exit_with(case: str, where: str) -> None:
    """Begins what the case says and leaves, with the pool as a global that is never shut down."""
    global POOL  # noqa: PLW0603
    wasi = case == "run"
    POOL = ProcessWasmPool(COMMAND if wasi else MISBEHAVE, workers=2, wasi=WasiConfig() if wasi else None)
    pool = POOL
    pool.wait_ready(DEADLINE)
    keep = sys.modules[__name__].__dict__.setdefault("KEEP", [])

    def begin() -> None:
        if case == "submitted":
            keep.extend(pool.submit("spin") for _ in range(4))
            keep.extend(pool.submit("fine", n) for n in range(1000))
        elif case == "shut":
            keep.extend(pool.submit("spin") for _ in range(4))
            pool.shutdown(wait=False)
        elif case == "call":
            pool.call("spin")
        elif case == "result":
            pool.submit("spin").result()
        elif case == "run":
            pool.run(["command", "spin"])
        elif case == "map":
            list(pool.starmap("spin", [()]))
        elif case == "lease":
            with pool.instance() as lease:
                lease.call("spin")
        elif case == "python":
            pool.submit(lambda instance: threading.Event().wait()).result()
        elif case == "storm":
            while True:
                keep.append(pool.submit("fine", 1))

    def quietly() -> None:
        try:
            begin()
        except (PoolClosed, CancelledError, LeaseEnded):
            pass

    if where == "main":
        begin()
        print("leaving", flush=True)
        return
    thread = threading.Thread(target=quietly, daemon=where == "daemon thread")
    thread.start()
    if case not in ("submitted", "shut"):
        eventually(lambda: pool.stats().busy >= 1 or len(keep) > 1000, "it to be at work")
    print("leaving", flush=True)


THREADED = ["call", "result", "run", "map", "lease", "python", "storm"]


@pytest.mark.parametrize("where", ["main", "thread", "daemon thread"])
def test_the_interpreter_exits_with_work_under_way(where: str) -> None:
    """Quietly, with nothing left behind: what was not finished by then is killed."""
    cases = ["submitted", "shut"] if where == "main" else ["submitted", *THREADED]

    def one(case: str) -> Callable[[], Any]:
        return lambda: apart(_exit_with, case, where)

    ends = dict(zip(cases, together(*(one(case) for case in cases))))
    assert ends == dict.fromkeys(cases, ("leaving\n", "", 0))


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


def _interrupted() -> None:
    """Ctrl-C while the main thread waits in each of the pool's ways."""
    pool = ProcessWasmPool(MISBEHAVE, workers=1, kill_grace=DEADLINE)
    commands = ProcessWasmPool(COMMAND, workers=1, wasi=WasiConfig(), kill_grace=DEADLINE)
    blocker: Future[Any] = Future()
    behind_it: dict[str, Callable[[], Any]] = {
        "result": lambda: blocker.result(),  # noqa: PLW0108  # the blocker of that moment
        "wait": lambda: wait([blocker]),
        "as_completed": lambda: list(as_completed([blocker])),
        "queued call": lambda: pool.call("fine", 1),
        "get": pool.get,
        "drain": pool.drain,
        "restart": pool.restart,
        "shutdown": pool.shutdown,
    }
    alone: dict[str, Callable[[], Any]] = {
        "call": lambda: pool.call("spin"),
        "map": lambda: list(pool.starmap("spin", [()])),
        "map of functions": lambda: list(pool.map(lambda instance, n: instance.call("spin"), [1])),
        "lease": lambda: pool.get().call("spin"),
        "run": lambda: commands.run(["command", "spin"]),
    }
    main = threading.main_thread().ident
    assert main is not None
    for way, function in (*alone.items(), *behind_it.items()):  # shutdown is the last
        print(way, end=" ", flush=True)
        over = threading.Event()
        if way in behind_it:
            blocker = pool.submit("spin")

        def press(way: str = way, over: threading.Event = over) -> None:
            eventually(lambda: (commands if way == "run" else pool).stats().busy == 1, "the worker to be busy")
            if not over.wait(0.1):  # by then it waits; if it does not yet, the interrupt comes a little early
                signal.pthread_kill(main, signal.SIGINT)

        presser = threading.Thread(target=press)
        try:
            presser.start()
            function()
            print("returned")
        except KeyboardInterrupt:
            print("interrupted")
        over.set()
        presser.join()
        if way in behind_it:
            assert not blocker.done(), "a job whose caller only looked at it goes on"
            assert blocker.cancel()
        if way != "shutdown":
            assert [pool.submit("fine", n).result(DEADLINE) for n in range(20)] == list(range(20))
    assert commands.run(["command", "exit", "4"]).returncode == 4
    commands.shutdown()
    pool.shutdown()
    assert not pool.stats().workers
    print("over")


def test_an_interrupt_while_the_main_thread_waits() -> None:
    out, err, code = apart(_interrupted)
    ways = out.splitlines()
    assert (err, code, ways.pop()) == ("", 0, "over")
    assert len(ways) == 13 and all(way.endswith(" interrupted") for way in ways), ways
