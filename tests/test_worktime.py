"""What a pool reports of its workers' time: real maps whose shares are known."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import psutil
import pytest
from conftest import DEADLINE, KERNELS, MISBEHAVE, busy_pid, eventually, worker_pids

from procpool import PoolClosed, PoolReport, ProcessWasmPool, WorkerCrashed
from procpool.worktime import in_words

LONG, SHORT, SHORTS = 0.6, 0.005, 30  # seconds, seconds, how many


def sleep(instance: Any, seconds: float) -> None:
    time.sleep(seconds)


def test_one_long_item_and_many_short_ones(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        pool.wait_ready(DEADLINE)
        before = pool.report()
        list(pool.map(sleep, [LONG] + [SHORT] * SHORTS))
        assert pool.stats().calls == 1 + SHORTS
        report = pool.report().since(before)
    jobs = report.jobs
    assert jobs.count == 1 + SHORTS
    assert jobs.total >= LONG + SHORTS * SHORT
    assert jobs.percentile(100) >= LONG * 0.984, "the long one was timed alone"
    assert jobs.percentile(50) < LONG / 2, "and the others were not taken for long"
    assert jobs.percentile(0) >= SHORT * 0.984
    assert sum(worker.calls for worker in report.workers) == 1 + SHORTS
    assert sum(worker.timed for worker in report.workers) == pytest.approx(jobs.total)
    assert max(worker.working for worker in report.workers) >= LONG
    for worker in report.workers:
        assert worker.serving >= LONG and worker.starting == 0, "both were there and ready all the time"
        assert worker.working + worker.waiting == pytest.approx(worker.serving)
        assert worker.cpu < LONG, "who sleeps uses no processor"
        assert worker.processes == 1


def test_items_of_an_export(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        list(pool.map("fib", [5] * 200 + [27], chunksize=1))
        jobs = pool.report().jobs
    assert jobs.count == 201
    # fib(27) makes 40,000 times as many calls as fib(5).
    assert jobs.percentile(100) > 20 * jobs.percentile(50)


def test_all_kinds_of_jobs_are_counted(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        for future in [pool.submit("add", n, 1) for n in range(1000)]:
            future.result(DEADLINE)
        assert list(pool.map("add", range(5000), range(5000)))[-1] == 9998
        pool.submit(sleep, 0.01).result(DEADLINE)
        assert pool.stats().calls == 6001
        report = pool.report()
        assert report.jobs.count == 6001
        assert sum(worker.calls for worker in report.workers) == 6001


def test_blocking_calls_count_by_processor_time(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        list(pool.map(sleep, [LONG]))  # timed, and hardly any processor time
        before = pool.report()
        seconds = 0.0
        while seconds < 0.3:
            started = time.thread_time(), time.perf_counter()
            pool.call("fib", 30)
            seconds += time.perf_counter() - started[1]
        report = pool.report().since(before)
        (worker,) = report.workers
        assert report.jobs.count == 0, "they are not timed"
        assert worker.cpu == worker.working > 0.02, "and known all the same"
        assert 0 < worker.busy <= 1


def test_a_long_job_counts_while_it_runs(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        future = pool.submit(sleep, 1.0)
        eventually(lambda: pool.report().workers[0].timed > 0.1, "the running job to count")
        assert pool.report().jobs.count == 0, "it has not ended"
        future.result(DEADLINE)
        assert pool.report().jobs.count == 1, "it is counted before anybody hears of its end"


def test_starting_takes_as_long_as_the_initializer(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1, initializer=time.sleep, initargs=(0.3,)) as pool:
        (worker,) = pool.report().workers
        assert worker.starting >= 0.3
        assert worker.cpu < 0.3
        pool.restart(DEADLINE)
        eventually(lambda: sum(worker.processes for worker in pool.report().workers) == 2, "the second process")
        assert sum(worker.starting for worker in pool.report().workers) >= 0.6


def test_the_import_of_a_spawned_worker_is_not_its_work(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1, start_method="spawn") as pool:
        pool.wait_ready(DEADLINE)
        first = pool.report().workers[0]
        assert first.starting > 0
        spent = sum(psutil.Process(first.pid).cpu_times()[:2])
        assert first.cpu < spent / 2, "most of it went into the import, which is part of the start"


def test_a_closed_pool_has_the_last_word(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        list(pool.map(sleep, [0.05] * 8))
    report = pool.report()
    assert report.jobs.count == 8
    assert [worker.pid for worker in report.workers] == [None, None]
    assert sum(worker.timed for worker in report.workers) >= 0.4
    assert pool.report() == report or str(pool.report()) == str(report), "and nothing goes on"
    terminated = ProcessWasmPool(KERNELS, workers=1)
    terminated.submit(sleep, 0.05).result(DEADLINE)
    terminated.terminate()
    assert terminated.report().jobs.count == 1


def test_a_worker_that_died_is_counted_once(nothing_left: None) -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
        pool.submit("fine", 1).result(DEADLINE)
        spinning = pool.submit("spin")
        os.kill(busy_pid(pool), signal.SIGKILL)
        with pytest.raises(WorkerCrashed):
            spinning.result(DEADLINE)
        assert pool.submit("fine", 7).result(DEADLINE) == 7
        assert pool.stats().calls == 3
        (worker,) = pool.report().workers
        assert worker.processes == 2
        assert worker.calls == 3
        assert pool.report().jobs.count == 2, "the one that was killed has told nobody how long it took"


def test_instances_share_a_process(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1, instances=4) as pool:
        pool.wait_ready(DEADLINE)
        before = pool.report()
        list(pool.map(sleep, [0.3] * 4))
        (worker,) = pool.report().since(before).workers
        assert 0.3 <= worker.working <= worker.serving
        assert worker.timed <= worker.serving, "the mean of four"


def test_as_text(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        assert "No submitted job and no item of a map has ended." in str(pool.report())
        list(pool.map("fib", [20] * 2000))
        assert pool.stats().calls == 2000
        eventually(lambda: pool.stats().idle == 2, "both to be idle")
        lines = str(pool.report()).splitlines()
        assert lines[0].startswith("2,000 jobs took ") and "99 % at most" in lines[0]
        assert lines[1].startswith("The workers were busy for ")
        assert lines[2].split() == ["worker", "calls", "starting", "working", "waiting", "busy"]
        assert [int(line.split()[0]) for line in lines[3:]] == worker_pids(pool)
        assert str(pool.stats()).splitlines()[0] == "0 busy, 2 idle, 0 jobs waiting; 2,000 calls, 0 failed"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (2.5e-9, "2.5 ns"),
        (1e-6, "1 us"),
        (0.0125, "12.5 ms"),
        (0.0009997, "1 ms"),
        (1, "1 s"),
        (59, "59 s"),
        (12345, "12,300 s"),
    ],
)
def test_times_in_words(seconds: float, text: str) -> None:
    assert in_words(seconds) == text


def test_a_forked_child_sees_nothing_of_it(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                try:
                    pool.report()
                except PoolClosed:
                    code = 0 if "closed" in pool._repr_html_() else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0


def test_a_picture() -> None:  # matplotlib keeps its fonts open
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        nothing = pool.report()
        list(pool.map("fib", [18] * 500 + [28]))
        report = pool.report()
    for each in (nothing, report, PoolReport((), nothing.jobs)):
        figure = each.plot()
        figure.draw_without_rendering()  # what cannot be drawn raises or warns here
        above, below = figure.axes
        assert above.get_title(loc="left").startswith(f"{each.jobs.count:,} jobs took ")
        assert "busy for" in below.get_title(loc="left")
        assert figure.patch.get_alpha() == above.patch.get_alpha() == 0, "the page shows through"


def test_since_takes_an_earlier_report_of_the_same_pool() -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        earlier = pool.report()
        list(pool.map("add", range(10), range(10)))
        later = pool.report()
        assert later.since(later).jobs.count == 0
        with pytest.raises(ValueError, match="this one is later, or another pool's"):
            earlier.since(later)
        wrong: Any = 5
        with pytest.raises(TypeError, match="an earlier report of the same pool, got 5"):
            later.since(wrong)
