"""Callers, maps and faults at random on three hosts: no job is lost, and none begins twice."""

from __future__ import annotations

import collections
import itertools
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from bounded import within
from conftest import DEADLINE
from hosts import ORACLE, Cluster, Host, Oracle

from procpool.cluster import ClusterWasmPool, NodeLost

#: How long the faults go on, in seconds; PROCPOOL_CLUSTER_CHAOS=600 for a real storm.
SECONDS = float(os.environ.get("PROCPOOL_CLUSTER_CHAOS", "4"))
SEEDS = [int(seed) for seed in os.environ.get("PROCPOOL_CLUSTER_SEEDS", "1").split(",")]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_job_ends_once_and_begins_at_most_once(seed: int, tmp_path: Path) -> None:
    oracle, numbers = Oracle(tmp_path / "notes"), itertools.count()
    lost: list[int] = []
    with Cluster(3) as cluster, cluster.client() as client:
        for host in cluster.hosts:
            cluster.worker(host)
        cluster.wait_for_workers(client, 3)
        pool = ClusterWasmPool(ORACLE, client=client, imports=oracle.imports(), lease=1.5)
        pool.wait_ready(DEADLINE)
        end = monotonic() + SECONDS

        def check(number: int, outcome: Any) -> None:
            if isinstance(outcome, NodeLost):
                lost.append(number)
            else:
                assert outcome == number, (number, outcome)

        def submitter(role: int) -> int:
            rng, done = random.Random(seed * 100 + role), 0
            while monotonic() < end:
                jobs = [
                    (n := next(numbers), pool.submit("work", n, rng.choice((10, 10**5, 10**6))))
                    for _ in range(rng.randrange(1, 60))
                ]
                dropped = {n for n, future in jobs if rng.random() < 0.02 and future.cancel()}
                for n, future in jobs:
                    if n not in dropped:
                        check(n, future.exception(4 * DEADLINE) or future.result())
                done += len(jobs)
            return done

        def mapper(role: int) -> int:
            rng, done = random.Random(seed * 200 + role), 0
            while monotonic() < end:
                mine = [next(numbers) for _ in range(rng.randrange(1, 3000))]
                turns = rng.choice((10, 10**4, 10**6)) if len(mine) < 500 else 10
                outcomes = list(pool.map("work", mine, [turns] * len(mine), return_exceptions=True))
                assert len(outcomes) == len(mine)
                for n, outcome in zip(mine, outcomes, strict=True):
                    check(n, outcome)
                done += len(mine)
            return done

        def caller(role: int) -> int:
            done = 0
            while monotonic() < end:
                n = next(numbers)
                try:
                    check(n, pool.call("work", n, 1000))
                except NodeLost as error:
                    check(n, error)
                done += 1
            return done

        def faults() -> list[str]:
            rng, never, told = random.Random(seed), threading.Event(), []
            while monotonic() < end:
                never.wait(rng.uniform(0.1, 1.0))
                host = rng.choice(cluster.hosts)
                fault = rng.choice((kill, stop, cut))
                told.append(f"{fault.__name__} {host.address}")
                fault(host, rng.uniform(0.05, 3.0), never)
            return told

        def kill(host: Host, seconds: float, never: threading.Event) -> None:
            host.kill()
            cluster.worker(host)

        def stop(host: Host, seconds: float, never: threading.Event) -> None:
            host.signal(signal.SIGSTOP)
            never.wait(seconds)
            host.signal(signal.SIGCONT)

        def cut(host: Host, seconds: float, never: threading.Event) -> None:
            host.cut()
            never.wait(seconds)
            host.heal()

        with ThreadPoolExecutor(7) as threads:
            work = [threads.submit(role, n) for n in range(2) for role in (submitter, mapper, caller)]
            happened = threads.submit(faults)
            try:
                done = [future.result(SECONDS + 6 * DEADLINE) for future in work]
            except BaseException:
                print(happened.result(), pool.nodes(), pool.stats())
                within(pool.terminate)
                raise
        assert all(done) and happened.result(), "each role got work done"
        begun = collections.Counter(oracle.begun())
        twice = {number: count for number, count in begun.items() if count > 1}
        assert not twice, (twice, happened.result())
        # Whoever has waited for a job has its result or the news of a loss: so what never began was lost, or cancelled.
        assert len(lost) <= sum(done) / 2, "faults cost what they hit"
        within(pool.drain, DEADLINE)
        assert [pool.submit("work", next(numbers), 1).exception(DEADLINE) for _ in range(20)] == [None] * 20
        within(pool.shutdown)
