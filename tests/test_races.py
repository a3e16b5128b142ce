"""Many threads at once, while the pool grows, shrinks, refuses, restarts and ends: every job ends once, and the counts add up."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import pytest
from bounded import apart, together, within
from conftest import DEADLINE, KERNELS, MISBEHAVE, eventually, worker_pids
from hostile import Gate, after, same

from procpool import LeaseEnded, PoolClosed, PoolFull, ProcessWasmPool

#: How many threads give work at once, and how many rounds each.
THREADS = 6
ROUNDS = int(os.environ.get("PROCPOOL_ROUNDS", "40"))


@pytest.fixture
def seed() -> int:
    """Shown when the test fails; PROCPOOL_SEED repeats it."""
    chosen = int(os.environ.get("PROCPOOL_SEED", random.randrange(2**32)))
    print("PROCPOOL_SEED =", chosen)
    return chosen


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "gate")
    yield made
    made.close()


class Ledger:
    """Of every job: what was expected of it, and how often it ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.jobs: list[tuple[Future[Any], int]] = []
        self.ends: Counter[int] = Counter()
        self.blocking = 0  #: calls, items of maps and leases' calls that gave the right result

    def note(self, future: Future[Any], expected: int) -> None:
        with self._lock:
            self.jobs.append((future, expected))
            number = len(self.jobs)
        future.add_done_callback(lambda done: self.ends.update([number]))

    def count(self, jobs: int) -> None:
        with self._lock:
            self.blocking += jobs

    def check(self, *allowed: type[BaseException]) -> int:
        """How many jobs gave their result; the others ended in what is allowed, and each of them once."""
        assert wait([future for future, _ in self.jobs], DEADLINE).not_done == set(), "every job ends"
        good = 0
        for future, expected in self.jobs:
            error = CancelledError() if future.cancelled() else future.exception()
            if error is None:
                assert future.result() == expected
                good += 1
            else:
                assert isinstance(error, allowed), repr(error)
        eventually(lambda: len(self.ends) == len(self.jobs), "all callbacks")
        assert set(self.ends.values()) <= {1}, "callbacks are called once"
        return good


def one_round(pool: ProcessWasmPool, rng: random.Random, ledger: Ledger) -> None:
    """Work given in one of the ways, checked."""
    n = rng.randrange(2**20)
    way = rng.choice(("call", "submit", "submit", "function", "map", "lease"))
    if way == "call":
        assert pool.call("add", n, 1) == n + 1
        ledger.count(1)
    elif way == "submit":
        for k in range(rng.randrange(1, 40)):
            ledger.note(pool.submit("add", n, k), n + k)
    elif way == "function":
        for k in range(rng.randrange(1, 5)):
            ledger.note(pool.submit(same, n + k), n + k)
    elif way == "map":
        size = rng.randrange(1, 300)
        assert list(pool.map("add", range(size), itertools.repeat(n))) == list(range(n, n + size))
        ledger.count(size)
    else:
        with pool.instance() as lease:
            assert [lease.call("add", n, k) for k in range(3)] == [n, n + 1, n + 2]
        ledger.count(3)


def loads(pool: ProcessWasmPool, seed: int, ledger: Ledger, pause: float = 0.0) -> list[Callable[[], None]]:
    """A function for each thread: rounds of work, with pauses of up to so many seconds."""

    def load(number: int) -> Callable[[], None]:
        rng, never = random.Random(seed + number), threading.Event()

        def run() -> None:
            for _ in range(ROUNDS):
                one_round(pool, rng, ledger)
                if pause:
                    never.wait(rng.uniform(0, pause))

        return run

    return [load(number) for number in range(THREADS)]


def raise_first(ends: list[Any]) -> None:
    for end in ends:
        if isinstance(end, BaseException):
            raise end


# -- purge: what is unused goes, just when it is wanted again ------------------------------------------------------------


@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("expiry", [0.001, 0.02])
def test_workers_expire_while_work_comes(least: int, expiry: float, seed: int, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=3, min_workers=least, idle_expiry=expiry) as pool:
        ledger = Ledger()
        raise_first(together(*loads(pool, seed, ledger, pause=2 * expiry)))
        assert ledger.check() == len(ledger.jobs)
        eventually(lambda: pool.stats().idle == len(pool.stats().workers) == least, "what is unused to go")
        stats = pool.stats()
        assert stats.calls >= len(ledger.jobs) and stats.failed == stats.crashed == stats.killed == 0
        assert stats.started - stats.retired == least
        assert pool.call("add", 1, 2) == 3


def test_instances_expire_while_work_comes(seed: int, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2, instances=3, prewarm=0, idle_expiry=0.002) as pool:
        ledger = Ledger()
        raise_first(together(*loads(pool, seed, ledger, pause=0.004)))
        assert ledger.check() == len(ledger.jobs)
        stats = pool.stats()
        assert stats.failed == stats.crashed == stats.killed == 0 and len(stats.workers) == 2


def test_expiry_and_the_next_job_at_the_same_moment(seed: int, nothing_left: None) -> None:
    """The pause before each job is the time after which its worker goes."""
    rng, never = random.Random(seed), threading.Event()
    with ProcessWasmPool(KERNELS, workers=2, min_workers=1, idle_expiry=0.005) as pool:
        for n in range(40):
            futures = [pool.submit("churn", k, 50_000) for k in range(6)]  # a reason for the second worker
            assert wait(futures, DEADLINE).not_done == set()
            never.wait(0.005 + rng.uniform(-0.002, 0.002))
            assert pool.submit("add", n, 1).result(DEADLINE) == n + 1
            assert within(pool.call, "add", n, 2) == n + 2
        assert pool.stats().failed == 0


# -- a full queue --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 7])
def test_a_full_queue_refuses_and_takes_again(most: int, nothing_left: None, gate: Gate) -> None:
    """Nobody waits, no more are taken than may be, and as many end as were taken."""
    workers = 2
    with ProcessWasmPool(MISBEHAVE, workers=workers, max_pending=most, on_full="raise") as pool:
        pool.wait_ready(DEADLINE)
        blockers = []
        for _ in range(workers):
            blockers.append(pool.submit(after, gate))
            eventually(lambda: gate.began() == len(blockers), "it to begin")
        taken: list[Future[Any]] = []
        refused: Counter[int] = Counter()
        seen = []

        def submitter(number: int) -> Callable[[], None]:
            def run() -> None:
                for n in range(50):
                    try:
                        taken.append(pool.submit(same, n))
                    except PoolFull:
                        refused[number] += 1
                    seen.append(pool.stats().pending)

            return run

        raise_first(together(*(submitter(number) for number in range(THREADS))))
        assert len(taken) + sum(refused.values()) == 50 * THREADS
        assert len(taken) == most, "as many as may wait, for no worker is free"
        assert max(seen) <= most
        gate.open()
        assert wait(taken + blockers, DEADLINE).not_done == set()
        assert all(future.exception() is None for future in taken)
        eventually(lambda: pool.stats().pending == 0, "the queue to be empty")
        assert pool.submit(same, 9).result(DEADLINE) == 9, "there is room again"
        assert pool.stats().calls == len(taken) + len(blockers) + 1


def test_refusals_while_the_queue_drains(seed: int, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2, max_pending=4, on_full="raise") as pool:
        pool.wait_ready(DEADLINE)
        ledger, refused = Ledger(), Counter[int]()

        def submitter(number: int) -> Callable[[], None]:
            rng = random.Random(seed + number)

            def run() -> None:
                for _ in range(300):
                    n = rng.randrange(2**20)
                    try:
                        future = pool.submit("add", n, 1)
                    except PoolFull:
                        refused[number] += 1
                    else:
                        ledger.note(future, n + 1)

            return run

        raise_first(together(*(submitter(number) for number in range(THREADS))))
        assert len(ledger.jobs) + sum(refused.values()) == 300 * THREADS
        assert ledger.check() == len(ledger.jobs)
        eventually(lambda: pool.stats().idle == 2, "both workers to be idle")
        assert pool.stats().calls == len(ledger.jobs) and pool.stats().failed == 0


@pytest.mark.parametrize("patience", [None, 0.01])
def test_those_who_wait_for_room_get_it_or_are_told(patience: float | None, seed: int, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2, max_pending=2, full_timeout=patience) as pool:
        futures: list[Future[Any]] = []
        refused = Counter[int]()

        def submitter(number: int) -> Callable[[], None]:
            rng = random.Random(seed + number)

            def run() -> None:
                for _ in range(40):
                    try:
                        futures.append(pool.submit("churn", 1, rng.randrange(100_000)))
                    except PoolFull:
                        assert patience is not None
                        refused[number] += 1

            return run

        raise_first(together(*(submitter(number) for number in range(THREADS))))
        assert len(futures) + sum(refused.values()) == 40 * THREADS
        assert wait(futures, DEADLINE).not_done == set()
        assert all(future.exception() is None for future in futures)
        eventually(lambda: pool.stats().idle == 2, "both workers to be idle")
        assert pool.stats().calls == len(futures)


def test_cancelling_makes_room(seed: int, nothing_left: None, gate: Gate) -> None:
    """Each cancelled job is one that may be taken anew, and no more."""
    with ProcessWasmPool(MISBEHAVE, workers=1, max_pending=3, on_full="raise") as pool:
        blocker = pool.submit(after, gate)
        eventually(lambda: gate.began() == 1, "it to begin")
        queued = {n: pool.submit(same, n) for n in range(3)}
        rng = random.Random(seed)
        for n in range(3, 200):
            with pytest.raises(PoolFull):
                pool.submit(same, n)
            assert queued.pop(rng.choice([*queued])).cancel()
            queued[n] = pool.submit(same, n)
        gate.open()
        assert blocker.result(DEADLINE) is None
        assert all(future.result(DEADLINE) == n for n, future in queued.items())
        assert pool.stats().calls == 4


# -- reboot --------------------------------------------------------------------------------------------------------------


def _reboots(rounds: int, seed: int) -> None:
    """Pools that are shut down in every way, and each followed by another at once."""
    rng = random.Random(seed)
    ledger = Ledger()
    pool = ProcessWasmPool(KERNELS, workers=2)
    for n in range(rounds):
        for k in range(rng.randrange(200)):
            ledger.note(pool.submit("add", n, k), n + k)
        how = rng.choice(("wait", "no wait", "cancel", "terminate", "drop"))
        old = pool
        if how == "terminate":
            old.terminate()
        elif how != "drop":
            old.shutdown(wait=how == "wait", cancel_futures=how == "cancel")
        del old
        pool = ProcessWasmPool(KERNELS, workers=2)
        assert pool.call("add", n, 1) == n + 1
    pool.shutdown()
    ledger.check(PoolClosed, CancelledError)
    print("over")


def test_a_new_pool_after_each_shutdown(seed: int) -> None:
    assert apart(_reboots, 8, seed) == ("over\n", "", 0)


def test_pools_come_and_go_in_several_threads(seed: int, nothing_left: None) -> None:
    def life(number: int) -> Callable[[], int]:
        rng = random.Random(seed + number)

        def run() -> int:
            done = 0
            for n in range(2):
                with ProcessWasmPool(KERNELS, workers=1) as pool:
                    futures = [pool.submit("add", n, k) for k in range(rng.randrange(1, 100))]
                    assert pool.call("add", n, number) == n + number
                assert [future.result(0) for future in futures] == [n + k for k in range(len(futures))]
                done += 1
            return done

        return run

    assert together(*(life(number) for number in range(3))) == [2] * 3


def test_restart_under_load(seed: int, nothing_left: None) -> None:
    """By two threads at once; no job is lost or interrupted."""
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        before = set(worker_pids(pool))
        ledger = Ledger()

        def restart() -> None:
            for _ in range(4):
                pool.restart(DEADLINE)

        raise_first(together(*loads(pool, seed, ledger), restart, restart))
        assert ledger.check() == len(ledger.jobs)
        pool.wait_ready(DEADLINE)
        eventually(lambda: pool.stats().idle == len(pool.stats().workers) == 2, "two workers")
        stats = pool.stats()
        assert not before & set(worker_pids(pool))
        assert stats.failed == stats.crashed == stats.killed == 0 and stats.recycled >= 8
        assert stats.started - stats.recycled - stats.retired == 2


def _ends_at_work(how: str, seed: int) -> None:
    pool = ProcessWasmPool(KERNELS, workers=2)
    pool.wait_ready(DEADLINE)
    ledger = Ledger()

    def until_closed(number: int) -> Callable[[], None]:
        rng = random.Random(seed + number)

        def run() -> None:
            try:
                while True:
                    one_round(pool, rng, ledger)
            except (PoolClosed, LeaseEnded, CancelledError):
                pass

        return run

    def end() -> None:
        # Threads submit hundreds before a worker has answered once.
        eventually(lambda: len(ledger.jobs) > 300 and any(job.done() for job, _ in list(ledger.jobs)), "work, and results")
        if how == "terminate":
            pool.terminate()
        else:
            pool.shutdown(cancel_futures=how == "cancel")

    raise_first(together(*(until_closed(number) for number in range(THREADS)), end))
    # A job that came at the very end is either done or told so.
    assert ledger.check(PoolClosed, *((CancelledError,) if how == "cancel" else ())) > 0
    print("over")


@pytest.mark.parametrize("how", ["wait", "cancel", "terminate"])
def test_the_end_comes_while_all_are_at_work(how: str, seed: int) -> None:
    assert apart(_ends_at_work, how, seed) == ("over\n", "", 0)


# -- tune ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuners", [1, 3])
def test_resize_under_load(tuners: int, seed: int, nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        ledger = Ledger()

        def tuner(number: int) -> Callable[[], None]:
            rng, never = random.Random(seed + 100 + number), threading.Event()

            def run() -> None:
                for _ in range(30):
                    pool.resize(rng.randrange(1, 5))
                    never.wait(rng.uniform(0, 0.02))

            return run

        raise_first(together(*loads(pool, seed, ledger), *(tuner(number) for number in range(tuners))))
        assert ledger.check() == len(ledger.jobs)
        for size in (1, 3):
            pool.resize(size)
            eventually(lambda size=size: pool.stats().idle == len(pool.stats().workers) == size, "the size asked for")  # type: ignore[misc]
        stats = pool.stats()
        assert stats.failed == stats.crashed == stats.killed == 0
        assert stats.started - stats.retired == 3
        assert stats.calls >= len(ledger.jobs)


def test_resize_while_every_worker_is_held(nothing_left: None, gate: Gate) -> None:
    """By leases and by running jobs: none is interrupted, and the next size counts."""
    with ProcessWasmPool(MISBEHAVE, workers=4) as pool:
        pool.wait_ready(DEADLINE)
        leases = [pool.get(DEADLINE) for _ in range(2)]
        running = [pool.submit(after, gate, n) for n in range(2)]
        eventually(lambda: gate.began() == 2, "both to run")
        for size in (1, 3, 1, 2, 1):
            pool.resize(size)
        queued = [pool.submit("fine", n) for n in range(20)]
        assert [within(lease.call, "soil") for lease in leases] == [1, 1]
        gate.open()
        assert [future.result(DEADLINE) for future in running] == [0, 1]
        assert [within(lease.call, "soil") for lease in leases] == [2, 2]
        for lease in leases:
            within(pool.put, lease)
        assert [future.result(DEADLINE) for future in queued] == list(range(20))
        eventually(lambda: pool.stats().idle == len(pool.stats().workers) == 1, "one worker")
        assert pool.stats().killed == pool.stats().failed == 0


def test_everything_at_once(seed: int, nothing_left: None) -> None:
    """Resizing, restarting, expiring, cancelling, with a queue that is often full."""
    with ProcessWasmPool(KERNELS, workers=3, min_workers=1, idle_expiry=0.01, max_pending=50) as pool:
        ledger = Ledger()
        rng, never = random.Random(seed), threading.Event()

        def tune() -> None:
            for _ in range(20):
                pool.resize(rng.randrange(1, 5))
                never.wait(rng.uniform(0, 0.02))
                if rng.random() < 0.2:
                    pool.restart(DEADLINE)

        def cancel() -> None:
            chooser = random.Random(seed + 1)
            for _ in range(200):
                never.wait(0.002)
                if ledger.jobs:
                    chooser.choice(ledger.jobs[-50:])[0].cancel()

        raise_first(together(*loads(pool, seed + 2, ledger, pause=0.005), tune, cancel))
        good = ledger.check(CancelledError)
        assert good == sum(not future.cancelled() for future, _ in ledger.jobs)
        assert pool.stats().crashed == pool.stats().killed == 0
        assert [pool.submit("add", n, 1).result(DEADLINE) for n in range(50)] == list(range(1, 51))
