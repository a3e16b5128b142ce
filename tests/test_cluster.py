"""A pool on every host of a Dask cluster, as its users see it.  Two hosts, on addresses of the loopback device."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest
from bounded import run_script, within
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, eventually
from hosts import ORACLE, Client, Cluster, Host, LocalCluster, Oracle, Security, connect, known

from procpool import (
    ArgumentOutOfRange,
    BadArguments,
    BadImport,
    BadWasi,
    BytesFunction,
    CallTimeout,
    InvalidModule,
    PoolClosed,
    ProcpoolError,
    StartupError,
    UnknownExport,
    WasiConfig,
    WasmTrap,
    WorkerCrashed,
    context,
    current_context,
    state,
    without_instance,
)
from procpool.cluster import ClusterEvent, ClusterWasmPool
from procpool.cluster.client.known_functions import KnownFunctions
from procpool.cluster.pool import LAST_SECONDS
from procpool.supervisor.jobs.shipped import Shipped

HELLO = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 1000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
    (if (i32.load (i32.const 8)) (then (return)))
    (call $exit (i32.const 3))))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two hosts; the first has two Dask workers."""
    with Cluster(2, namespaces=False) as made:
        for host in (made.hosts[0], made.hosts[0], made.hosts[1]):
            made.worker(host)
        yield made


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Any]:
    with cluster.client() as connected:
        cluster.wait_for_workers(connected, 3)
        yield connected


@pytest.fixture(scope="module")
def pool(client: Any) -> Iterator[ClusterWasmPool]:
    """A pool that tests share because they do no harm to it."""
    with ClusterWasmPool(KERNELS, client=client) as made:
        made.wait_ready(DEADLINE)
        yield made


@contextlib.contextmanager
def made(source: Any, client: Any, **options: Any) -> Iterator[ClusterWasmPool]:
    pool = ClusterWasmPool(source, client=client, **options)
    try:
        pool.wait_ready(DEADLINE)
        yield pool
    finally:
        within(pool.terminate)


def test_one_node_per_host_with_the_threads_of_its_dask_workers(pool: ClusterWasmPool) -> None:
    nodes = sorted(pool.nodes(), key=lambda node: node.host)
    assert [(node.host, node.workers, node.state) for node in nodes] == [
        ("127.0.0.2", 2, "serving"),
        ("127.0.0.3", 1, "serving"),
    ]
    assert "2 workers" in str(nodes[0])
    assert "nodes=2 workers=3" in repr(pool)


def test_calls_and_their_errors(pool: ClusterWasmPool) -> None:
    assert pool.call("add", 2, 3) == 5
    assert pool.submit("fib", 15).result(DEADLINE) == 610
    with pytest.raises(UnknownExport, match="did you mean 'add'"):
        pool.call("ad", 1, 2)
    with pytest.raises(BadArguments, match="takes 2 arguments"):
        pool.call("add", 1)
    with pytest.raises(ArgumentOutOfRange):
        pool.call("add", 1, 2**40)
    with pytest.raises(TypeError, match="priority"):
        pool.submit("add", 1, 2, priority="high")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="retries"):
        pool.submit("add", 1, 2, retries=-1)


def test_many_submits_reach_all_nodes(pool: ClusterWasmPool) -> None:
    futures = [pool.submit("add", number, 1) for number in range(3000)]
    assert [future.result(DEADLINE) for future in futures] == list(range(1, 3001))
    pids = set(pool.map(lambda instance, _: time.sleep(0.01) or os.getpid(), range(100)))
    assert len(pids) == 3, "every worker of every node has run some"


def test_maps_of_every_kind(pool: ClusterWasmPool) -> None:
    count = 100_000
    assert list(pool.map("add", range(count), itertools.repeat(1))) == list(range(1, count + 1))
    assert list(pool.starmap("add", [(1, 2), (3, 4)])) == [3, 7]
    assert sorted(pool.map("fib", range(20), ordered=False))[:3] == [(0, 0), (1, 1), (2, 1)]
    assert list(pool.map(without_instance(divmod), [7, 8], [2, 3])) == [(3, 1), (2, 2)]
    outcomes = list(pool.map("add", [1, "no", 3], [1, 1, 1], return_exceptions=True))
    assert (outcomes[0], type(outcomes[1]), outcomes[2]) == (2, BadArguments, 4)
    told: list[tuple[int, int | None]] = []
    assert (
        len(list(pool.map("add", range(5000), range(5000), progress=lambda done, total: told.append((done, total)))))
        == 5000
    )
    assert told[-1] == (5000, 5000)


def test_arrays(pool: ClusterWasmPool) -> None:
    np = pytest.importorskip("numpy")
    numbers = np.arange(300_000, dtype=np.int32).reshape(300, 1000)
    out = np.empty_like(numbers)
    assert pool.map_array("add", numbers, 5, out=out) is out
    assert (out == numbers + 5).all()
    assert (pool.ufunc("add")(numbers[:3, :3], numbers[:3, :3]) == 2 * numbers[:3, :3]).all()


def test_a_map_reads_only_so_far_ahead(pool: ClusterWasmPool) -> None:
    read = itertools.count()
    results = pool.map("add", (next(read) for _ in itertools.count()), itertools.repeat(1))
    assert list(itertools.islice(results, 100_000)) == list(range(1, 100_001))
    most = next(read)
    assert most < 6_000_000, "frames that are under way, and no more"
    results.close()
    bounded = pool.map("add", (next(read) for _ in itertools.count()), itertools.repeat(1), buffersize=50)
    first = next(read)
    assert next(bounded) == most + 2 and first - most <= 60
    bounded.close()
    within(pool.drain, DEADLINE)


def test_callables_and_what_they_raise(pool: ClusterWasmPool) -> None:
    def twice(instance: Any, n: int) -> int:
        return int(instance.call("add", n, n))

    def fails(instance: Any) -> None:
        raise LookupError("here")

    assert pool.submit(twice, 21).result(DEADLINE) == 42
    with pytest.raises(LookupError, match="here") as told:
        pool.submit(fails).result(DEADLINE)
    assert "in fails" in str(told.value.__cause__), "the traceback of the worker"
    big = os.urandom(3_000_000)
    assert pool.submit(lambda instance, data: data + b"!", big).result(DEADLINE) == big + b"!"
    with pytest.raises(BadArguments):
        pool.submit(lambda instance: 1, "too", "many")


def test_bytes(client: Any) -> None:
    blobs = [os.urandom(size) for size in (0, 1000, 300_000)]
    digests = [hashlib.sha256(blob).digest() for blob in blobs]
    with made(FIXTURES / "sha256.wasm", client) as pool:
        assert pool.call_bytes("sha256", blobs[1], returns=32) == digests[1]
        assert list(pool.map(BytesFunction("sha256", returns=32), blobs)) == digests


def test_asyncio(pool: ClusterWasmPool, client: Any) -> None:
    async def main() -> None:
        assert await asyncio.gather(*(pool.acall("add", number, 1) for number in range(50))) == list(range(1, 51))
        assert [each async for each in pool.amap("add", range(100), range(100))] == list(range(0, 200, 2))
        assert await asyncio.get_running_loop().run_in_executor(pool.plain_executor(), divmod, 7, 2) == (3, 1)

    async def life() -> None:
        async with ClusterWasmPool(FIXTURES / "sha256.wasm", client=client) as own:
            await own.await_ready(DEADLINE)
            assert await own.acall_bytes("sha256", b"x", returns=32) == hashlib.sha256(b"x").digest()
            await own.adrain(DEADLINE)
        assert own.closed
        await own.ashutdown()

    within(lambda: asyncio.run(main()))
    within(lambda: asyncio.run(life()))


def test_stats_sum_and_tell_by_node(pool: ClusterWasmPool) -> None:
    before = pool.stats()
    list(pool.map("add", range(1000), range(1000)))
    stats = pool.stats()
    assert set(stats.nodes) == {"127.0.0.2", "127.0.0.3"}
    assert stats.workers == sum(len(each.workers) for each in stats.nodes.values()) == 3
    assert stats.calls - before.calls >= 1000
    assert "127.0.0.3: " in str(stats)


def test_the_jobs_of_a_node_are_a_metric_of_its_dask_worker(pool: ClusterWasmPool, client: Any) -> None:
    eventually(
        lambda: any("procpool" in each["metrics"] for each in known(client).values()),
        "the metric to be told with Dask's heartbeat",
    )


def test_traps_timeouts_and_dead_workers(client: Any) -> None:
    with made(MISBEHAVE, client, kill_grace=0.5) as pool:
        with pytest.raises(WasmTrap):
            pool.call("trap")
        with pytest.raises(CallTimeout, match=r"within 0.2 s"):
            pool.call("spin", timeout=0.2)
        pool.call("fine", 1)
        with pytest.raises(WorkerCrashed):
            pool.submit(lambda instance: os.kill(os.getpid(), 9)).result(DEADLINE)
        endless = [pool.submit("spin") for _ in range(3)]
        queued = pool.submit("spin")
        assert queued.cancel() and all(future.cancel() for future in endless)
        pool.call("fine", 1)  # cancelled jobs have given their workers back
        outcomes = list(pool.map("divide", [6, 1, 8], [2, 0, 2], return_exceptions=True))
        assert outcomes[0::2] == [3, 4] and isinstance(outcomes[1], WasmTrap)
        late = list(pool.starmap("spin", [(), ()], item_timeout=0.2, return_exceptions=True))
        assert all(isinstance(each, CallTimeout) for each in late)
        assert pool.stats().failed >= 3


def test_contexts_and_deadlines_travel(client: Any, tmp_path: Any) -> None:
    def look(instance: Any) -> tuple[Any, Any]:
        here = current_context()
        return here.baggage.get("who"), here.remaining()

    with made(KERNELS, client, timeout=20.0) as pool, context(who="me"):
        who, left = pool.submit(look).result(DEADLINE)
        assert who == "me" and 0 < left <= 20.0
        assert pool.submit(look, timeout=5.0).result(DEADLINE)[1] <= 5.0
        assert next(pool.map(lambda instance, n: look(instance), [1]))[0] == "me"  # type: ignore[arg-type]


def test_initializer_host_functions_and_logs(client: Any, tmp_path: Any, caplog: Any) -> None:
    oracle = Oracle(tmp_path / "notes")

    def begin(word: str) -> None:
        state.word = word

    def tell(instance: Any) -> str:
        logging.getLogger("cluster.test").warning("seen %s", state.word)
        return str(state.word)

    events: list[ClusterEvent] = []
    options = {"initializer": begin, "initargs": ("hello",), "imports": oracle.imports(), "on_event": events.append}
    with caplog.at_level(logging.INFO, "cluster.test"), made(ORACLE, client, **options) as pool:
        assert pool.submit(tell).result(DEADLINE) == "hello"
        assert list(pool.map("work", range(50), [10] * 50)) == list(range(50))
        eventually(lambda: "seen hello" in caplog.text, "the record to come from the node")
        eventually(
            lambda: {event.node for event in events if event.kind == "ready"} >= {"127.0.0.2", "127.0.0.3"}, "events"
        )
    assert sorted(oracle.begun()) == list(range(50))
    kinds = [event.kind for event in events]
    assert kinds.count("node_ready") == 2 and "node_lost" not in kinds
    assert next(record for record in caplog.records if record.name == "cluster.test").node.startswith("127.0.0.")


def test_commands(client: Any) -> None:
    with made(HELLO, client, wasi=WasiConfig(args=["cat"])) as pool:
        done = pool.run(stdin=b"over there", text=True)
        assert (done.stdout, done.returncode) == ("over there", 0)
        assert pool.run().returncode == 3
        assert [run.stdout for run in pool.run_map([b"a", b"b", b"c"])] == [b"a", b"b", b"c"]
        with pytest.raises(BadWasi, match="another machine"):
            pool.run(stdin="/etc/passwd")
        with pytest.raises(BadWasi, match="another machine"):
            pool.run(stdout=print)
        with pytest.raises(TypeError, match="no keyword 'shell'"):
            pool.run(shell=True)
    with made(KERNELS, client) as pool, pytest.raises(BadWasi, match="WasiConfig"):
        pool.run()


def test_linked_modules(client: Any) -> None:
    main = '(module (import "math" "twice" (func $f (param i32) (result i32))) (func (export "g") (param i32) (result i32) (call $f (local.get 0))))'
    math = '(module (func (export "twice") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2))))'
    with made(main, client, modules={"math": math}) as pool:
        assert pool.call("g", 21) == pool.call("math.twice", 21) == 42


@pytest.mark.parametrize(
    ("source", "options", "error", "says"),
    [
        (b"\0asm\1\0\0\0\xff\xff", {}, InvalidModule, "."),
        (KERNELS, {"imports": {"env": {"x": print}}}, BadImport, "imports"),
        (KERNELS, {"workers": 3}, TypeError, "workers"),
        (KERNELS, {"workers_per_node": 0}, ValueError, "workers_per_node"),
        (KERNELS, {"lease": 0.1}, ValueError, "lease"),
        (KERNELS, {"lease": 1e200}, ValueError, "lease"),
        (KERNELS, {"modules": 3}, TypeError, "modules"),
        (KERNELS, {"lanes": 3}, TypeError, "ClusterWasmPool.* 'lanes'"),
        (KERNELS, {"isolation": "hot"}, ValueError, "isolation"),
        (KERNELS, {"wasi": WasiConfig(stdout="inherit")}, BadWasi, "another machine"),
        (KERNELS, {"start": [("add", 1)]}, BadArguments, "start"),
    ],
)
def test_what_is_wrong_is_said_at_once(client: Any, source: Any, options: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        ClusterWasmPool(source, client=client, **options)


def test_an_initializer_that_raises_and_a_client_that_is_none(client: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        ClusterWasmPool(KERNELS, client=client, initializer=lambda: 1 // 0)
    with pytest.raises(TypeError, match=r"distributed\.Client"):
        ClusterWasmPool(KERNELS, client="localhost")


def test_shutdown_finishes_and_terminate_does_not(client: Any) -> None:
    pool = ClusterWasmPool(KERNELS, client=client)
    futures = [pool.submit("fib", 20) for _ in range(50)]
    results = pool.map("add", range(100_000), range(100_000))
    within(pool.shutdown)
    assert [future.result(0) for future in futures] == [6765] * 50
    assert sum(results) == sum(range(0, 200_000, 2))
    with pytest.raises(PoolClosed):
        pool.call("add", 1, 2)
    assert pool.closed and "closed" in repr(pool)
    pool = ClusterWasmPool(MISBEHAVE, client=client)
    futures = [pool.submit("spin") for _ in range(10)]
    within(pool.terminate)
    assert all(isinstance(future.exception(DEADLINE), PoolClosed) for future in futures)
    pool = ClusterWasmPool(MISBEHAVE, client=client)
    pool.wait_ready(DEADLINE)
    futures = [pool.submit("spin", timeout=1.0) for _ in range(10)]
    eventually(lambda: any(node.running for node in pool.nodes()), "some to run")
    within(pool.shutdown, cancel_futures=True)
    assert {type(future.exception(0)) if not future.cancelled() else CancelledError for future in futures} == {
        CancelledError,
        CallTimeout,
    }


def test_a_pool_that_is_dropped_ends_on_its_nodes(client: Any) -> None:
    pool = ClusterWasmPool(KERNELS, client=client)
    pids = set(pool.map(without_instance(lambda _: os.getpid()), range(50)))
    del pool
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the workers to go")


def test_two_pools_and_many_threads_on_one_cluster(client: Any, pool: ClusterWasmPool) -> None:
    wrong: list[Any] = []

    def use(each: ClusterWasmPool, number: int) -> None:
        for n in range(30):
            if each.call("add", n, number) != n + number:
                wrong.append(n)

    with made(KERNELS, client, workers_per_node=1) as other:
        threads = [threading.Thread(target=use, args=(each, n)) for n in range(4) for each in (pool, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert not wrong and not any(thread.is_alive() for thread in threads)
        assert [node.workers for node in other.nodes()] == [1, 1]


def test_priority(client: Any, tmp_path: Any) -> None:
    oracle = Oracle(tmp_path / "notes")
    with made(ORACLE, client, workers_per_node=1, imports=oracle.imports()) as pool:
        blockers = [pool.submit("haunt", 1000 + n) for n in range(2)]
        eventually(lambda: len(oracle.begun()) == 2, "both nodes to be busy")
        futures = [pool.submit("work", n, 1, priority=n % 2) for n in range(20)]
        blockers[0].cancel()
        wait(futures, DEADLINE)
        order = [n for n in oracle.begun() if n < 1000]
        # What the node held already goes first.  What the other holds, which is still busy, is taken from it last.
        assert [n % 2 for n in order[1:-1]] == sorted((n % 2 for n in order[1:-1]), reverse=True), order
        blockers[1].cancel()


def test_no_workers_at_all_is_said() -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty,
        Client(empty, set_as_default=False) as alone,
        pytest.raises(StartupError, match="no workers"),
    ):
        ClusterWasmPool(KERNELS, client=alone, start_timeout=1.0)


def test_a_client_that_is_closed_ends_the_pool_and_nothing_waits(cluster: Cluster) -> None:
    closing = cluster.client()
    pool = ClusterWasmPool(MISBEHAVE, client=closing)
    futures = [pool.submit("spin") for _ in range(10)]
    eventually(lambda: any(node.running for node in pool.nodes()), "some to run")
    closing.close()
    for future in futures:
        assert "Dask client was closed" in str(future.exception(DEADLINE))
    with pytest.raises(PoolClosed, match="Dask client was closed"):
        pool.call("fine", 1)
    within(pool.shutdown)
    within(pool.terminate)


def test_a_node_whose_pool_breaks_is_no_black_hole(client: Any, tmp_path: Any) -> None:
    """Workers of one host die as soon as they are made: what is left of its jobs runs on the other, or says what was lost."""
    marker = tmp_path / "broken"
    host = "127.0.0.3"

    def fragile() -> None:
        if marker.exists() and os.environ.get("PROCPOOL_TEST_HOST") == host:
            os._exit(9)

    def where(instance: Any, number: int) -> str | None:
        time.sleep(0.01)
        return os.environ.get("PROCPOOL_TEST_HOST")

    events: list[ClusterEvent] = []
    with made(KERNELS, client, initializer=fragile, on_event=events.append, retries=0) as pool:
        assert host in list(pool.map(where, range(60))), "the hosts say who they are"
        marker.touch()
        list(pool.map(lambda instance, n: where(instance, n) == host and os._exit(9), range(60), return_exceptions=True))
        eventually(lambda: any(event.kind == "broken" for event in events), "the pool there to break")
        eventually(lambda: host not in [node.host for node in pool.nodes() if node.state == "serving"], "its node to go")
        assert [pool.call("add", n, 1) for n in range(50)] == list(range(1, 51))


def test_what_no_message_holds_does_not_stop_the_others(
    client: Any, pool: ClusterWasmPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers beyond 64 bits and text that is no UTF-8 are said in another way, or refused."""
    # Nor does what passes between the processes that run tests hold it, where pytest reports what was logged.
    monkeypatch.setattr(logging.getLogger("cluster.test"), "propagate", False)
    assert pool.submit("add", 1, 2, retries=2**70).result(DEADLINE) == 3

    def odd(instance: Any, fail: bool) -> int:
        logging.getLogger("cluster.test").error("\udcff")
        if fail:
            raise ValueError("\udcff")
        return 7

    odd.__name__ = odd.__qualname__ = "\udcff"
    assert pool.submit(odd, False).result(DEADLINE) == 7
    with pytest.raises(ValueError, match="\udcff"):
        pool.submit(odd, True).result(DEADLINE)
    with made(HELLO, client, wasi=WasiConfig(), retries=2**70) as commands:
        with pytest.raises(BadWasi, match="not UTF-8"):
            within(commands.run, ["\udcff"])
        assert within(commands.run, stdin=b"x").stdout == b"x"
    assert {pool.call("add", number, 1) for number in range(20)} == set(range(1, 21)), "both nodes are heard"


def test_who_leaves_while_a_node_starts_is_not_told_that_it_was_refused(client: Any) -> None:
    told: list[Any] = []
    for _ in range(5):
        with ClusterWasmPool(KERNELS, client=client, on_event=told.append) as pool:
            assert within(pool.call, "add", 1, 2) == 3
    assert {event.kind for event in told} >= {"node_ready", "node_left"}
    assert not [str(event) for event in told if event.kind in ("node_refused", "node_lost")]


def test_an_initializer_raises_what_no_message_holds(client: Any) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("says nothing")

    def fails() -> None:
        raise ValueError("\udcff")

    def fails_silently() -> None:
        raise Silent

    with pytest.raises(ValueError, match="\udcff"):
        within(ClusterWasmPool, KERNELS, client=client, initializer=fails)
    with pytest.raises(Silent):
        within(ClusterWasmPool, KERNELS, client=client, initializer=fails_silently)


def test_what_is_too_large_for_a_message_is_refused(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """msgpack's byte strings end at 4 GiB.  Here at a million, on both sides."""

    def limit(most: int) -> int:
        from procpool.cluster import wire

        before, wire.MOST_BYTES = wire.MOST_BYTES, most
        return before

    monkeypatch.setattr("procpool.cluster.wire.MOST_BYTES", 10**6)
    before = client.run(limit, 10**6)
    try:
        with made(HELLO, client, wasi=WasiConfig()) as pool:
            with pytest.raises(BadArguments, match="1,000,"):
                pool.submit(lambda instance, data: 1, bytes(10**6))
            with pytest.raises(BadArguments, match="1,000,"):
                pool.run(stdin=bytes(10**6))
            with pytest.raises(ProcpoolError, match="1,000,"):
                pool.submit(lambda instance: bytes(10**6)).result(DEADLINE)
            assert pool.submit(lambda instance, data: len(data), bytes(900_000)).result(DEADLINE) == 900_000
    finally:
        client.run(limit, next(iter(before.values())))


def test_a_timeout_of_days_arrives_as_it_is(pool: ClusterWasmPool) -> None:
    def left(instance: Any) -> float | None:
        return current_context().remaining()

    remaining = pool.submit(left, timeout=864_000.0).result(DEADLINE)
    assert remaining is not None and 863_000 < remaining <= 864_000


def test_the_keywords_of_a_pool_that_mean_nothing_special(client: Any) -> None:
    plain = {"imports": None, "rename_imports": None, "rlimits": None, "idle_expiry": None, "max_tasks_per_worker": None}
    with made(KERNELS, client, modules=None, start_method=None, **plain) as pool:
        assert pool.call("add", 1, 2) == 3


def test_a_node_has_as_many_workers_as_its_host_s_dask_workers_say_now(cluster: Cluster, client: Any) -> None:
    with made(KERNELS, client) as pool:

        def workers() -> int:
            return sum(node.workers for node in pool.nodes() if node.host == "127.0.0.3")

        assert workers() == 1
        second = cluster.worker(cluster.hosts[1], "--nthreads", "2")
        eventually(lambda: workers() == 3, "the node to grow")
        eventually(lambda: len(pool.stats().nodes["127.0.0.3"].workers) == 3, "its pool to have them")
        assert list(pool.map("add", range(1000), range(1000))) == list(range(0, 2000, 2))
        second.kill()
        eventually(lambda: workers() == 1, "the node to shrink")
        assert pool.call("add", 1, 2) == 3


def test_a_dask_worker_can_leave_when_the_client_of_its_work_is_gone(tmp_path: Any) -> None:
    """It waits for what has begun; that of a client that is gone is ended, not waited for."""
    with Cluster(1, namespaces=False) as small, small.client() as watching:
        (host,) = small.hosts
        worker = small.worker(host)
        small.wait_for_workers(watching, 1)
        program = Host("127.0.0.1", None, None)
        code = (
            "import sys; from distributed import Client; from procpool.cluster import ClusterWasmPool\n"
            "pool = ClusterWasmPool(sys.argv[1], client=Client(sys.argv[2], set_as_default=False), lease=1.5)\n"
            "pool.call('spin')"
        )
        program.start(sys.executable, "-c", code, str(MISBEHAVE), small.scheduler)
        eventually(lambda: any(each["metrics"].get("procpool") for each in known(watching).values()), "it to spin")
        watching.retire_workers(list(known(watching)))
        eventually(lambda: not known(watching), "it to be leaving")
        assert worker.poll() is None, "it waits for the job"
        program.kill()
        worker.wait(DEADLINE)


def test_a_program_may_end_without_closing_anything() -> None:
    code = f"""
if __name__ == "__main__":
    from distributed import Client, LocalCluster
    from procpool.cluster import ClusterWasmPool
    cluster = LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0")
    client = Client(cluster)
    pool = ClusterWasmPool({str(MISBEHAVE)!r}, client=client)
    endless, results = pool.submit("spin"), pool.map("fine", range(10**9))
    print(next(results), "was computed")
"""
    done = run_script(code)
    assert (done.returncode, done.stdout) == (0, "0 was computed\n")
    assert "procpool" not in done.stderr, done.stderr


def test_a_client_that_shares_its_loop_ends_the_pool_too() -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as local:
        client = Client(local, set_as_default=False)
        pool = ClusterWasmPool(MISBEHAVE, client=client)
        endless = pool.submit("spin")
        client.close()
        assert "Dask client was closed" in str(endless.exception(DEADLINE))
        with pytest.raises(PoolClosed, match="Dask client was closed"):
            pool.call("fine", 1)
        with pytest.raises(ValueError, match="closed"):
            ClusterWasmPool(MISBEHAVE, client=client)
        within(pool.shutdown)


def test_a_callback_may_end_the_pool(client: Any) -> None:
    for end in (ClusterWasmPool.shutdown, ClusterWasmPool.terminate):
        with made(KERNELS, client, workers_per_node=1) as pool:
            future, ended = pool.submit("add", 1, 2), threading.Event()

            def finish(_: Any, pool: ClusterWasmPool = pool, end: Any = end, ended: threading.Event = ended) -> None:
                end(pool)
                ended.set()

            began = time.monotonic()
            future.add_done_callback(finish)
            assert ended.wait(DEADLINE)
            within(pool.shutdown)
            assert time.monotonic() - began < LAST_SECONDS, "it does not wait for itself"


def test_a_frame_waits_for_a_worker_where_there_is_none_for_a_moment(client: Any, tmp_path: Any) -> None:
    marker = tmp_path / "hold"

    def begin() -> None:
        while marker.exists():
            time.sleep(0.01)

    def leave(instance: Any) -> None:
        if os.environ.get("PROCPOOL_TEST_HOST") == "127.0.0.3":
            os._exit(9)
        time.sleep(0.2)

    with made(KERNELS, client, initializer=begin) as pool:
        marker.touch()
        wait([pool.submit(leave) for _ in range(3)], DEADLINE)  # as many as there are workers: one is there
        eventually(lambda: not pool.stats().nodes["127.0.0.3"].idle, "the host to have no worker")
        results = pool.map("add", range(1000), range(1000), chunksize=10)
        eventually(lambda: any(node.running for node in pool.nodes() if node.host == "127.0.0.3"), "a frame to be there")
        marker.unlink()
        assert list(results) == list(range(0, 2000, 2))


def test_what_is_said_is_encrypted_if_the_client_s_connections_are() -> None:
    pytest.importorskip("cryptography", reason="makes the certificate")
    security = Security.temporary()
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with LocalCluster(protocol="tls://", security=security, **options) as local, Client(local) as trusted:
        with ClusterWasmPool(KERNELS, client=trusted) as pool:
            (node,) = pool.nodes()
            assert node.address.startswith("tls://")
            assert pool.call("add", 1, 2) == 3
            assert list(pool.map("add", range(5000), range(5000))) == list(range(0, 10_000, 2))
        with pytest.raises(OSError):  # of whichever kind: without the key there is no connection
            trusted.sync(
                connect,
                node.address,
                timeout=2,
                ssl_context=Security.temporary().get_connection_args("client")["ssl_context"],
            )


def test_a_node_forgets_the_callables_that_were_not_used_for_long(client: Any) -> None:
    def known(dask_worker: Any) -> int:
        return max(len(session._functions) for session in dask_worker.plugins["procpool"].host._sessions)

    with made(KERNELS, client) as pool:
        for _ in range(2):  # the second time all of them are known no more
            futures = [pool.submit(lambda instance, n=n: n) for n in range(700)]
            assert [future.result(DEADLINE) for future in futures] == list(range(700))
        assert max(client.run(known, workers=[node.address for node in pool.nodes()]).values()) <= 256


def test_which_callables_a_node_is_told_to_forget() -> None:
    functions = KnownFunctions(most=2, most_bytes=1000)
    small = [Shipped(functools.partial(pow, n)) for n in range(3)]
    large = Shipped(functools.partial(len, bytes(2000)))
    assert [functions.use(small[0]), functions.use(small[1]), functions.use(small[0])] == [True, True, False]
    assert functions.forget() == []
    assert functions.use(small[2])
    assert functions.forget() == [small[1].digest], "the one used longest ago"
    assert functions.use(large)
    assert functions.forget() == [small[0].digest, small[2].digest]
    assert not functions.use(large), "the one used last is kept, whatever its size"
    assert functions.forget() == []
    assert functions.use(small[0])
    assert functions.forget() == [large.digest]
