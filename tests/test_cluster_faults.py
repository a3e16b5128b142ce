"""Faults of a cluster: real hosts in network namespaces, whose processes are killed and whose links are cut.

The oracle is an import that notes what has begun, on whichever host: no id twice, every future ends, results are right.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from bounded import started, within
from conftest import DEADLINE, KERNELS, eventually, gone
from hosts import ORACLE, Cluster, Oracle, known

from procpool import CallTimeout, StartupError
from procpool.cluster import ClusterEvent, ClusterWasmPool, NodeLost
from procpool.cluster.client import conductor

#: Turns of a loop in "work" that take some milliseconds, and some tenths of a second.
SHORT, LONG = 1_000_000, 40_000_000
#: Of the tests' pools: shorter than the default, so that they take less long.
LEASE = 1.5


@pytest.fixture(scope="module")
def hosts() -> Iterator[Cluster]:
    """Three hosts, which get new workers when a test has killed theirs."""
    with Cluster(3) as made:
        yield made


class Scene:
    """A pool over all hosts, and what it tells."""

    def __init__(self, cluster: Cluster, oracle: Oracle, **options: Any) -> None:
        self.cluster = cluster
        self.oracle = oracle
        self.events: list[ClusterEvent] = []
        self._stack = contextlib.ExitStack()
        self.client = self._stack.enter_context(cluster.client())
        cluster.wait_for_workers(self.client, len(cluster.hosts))
        self.pool = ClusterWasmPool(
            ORACLE, client=self.client, imports=oracle.imports(), on_event=self.events.append, lease=LEASE, **options
        )
        self._stack.callback(lambda: within(self.pool.terminate))
        self.pool.wait_ready(DEADLINE)

    def close(self) -> None:
        self._stack.close()

    def running(self, count: int) -> None:
        """Wait until so many ids have begun."""
        eventually(lambda: len(self.oracle.begun()) >= count, f"{count} jobs to begin")

    def on(self, address: str) -> int:
        """How many units the node on a host may have begun."""
        return sum(node.running for node in self.pool.nodes() if node.host == address)

    def told(self, kind: str) -> list[ClusterEvent]:
        return [event for event in self.events if event.kind == kind]

    def hear(self, kind: str, count: int = 1) -> None:
        """Wait until that was told so often."""
        eventually(lambda: len(self.told(kind)) >= count, f"the event {kind}")

    def account(self, futures: list[Future[Any]], lost_at: str) -> list[int]:
        """Each has ended in its own number, or in the news of that host; which were lost.  No id has begun twice."""
        wait(futures, 2 * DEADLINE)
        lost = []
        for number, future in enumerate(futures):
            error = future.exception(0)
            if error is None:
                assert future.result() == number
            else:
                assert isinstance(error, NodeLost), repr(error)
                assert (error.host, error.job) == (lost_at, "work")
                assert error.address.startswith(f"tcp://{lost_at}:")
                lost.append(number)
        begun = collections.Counter(self.oracle.begun())
        assert max(begun.values()) == 1, "nothing runs twice"
        assert set(range(len(futures))) - set(begun) <= set(lost), "what has not begun has a reason"
        return lost


@pytest.fixture
def scene(hosts: Cluster, tmp_path: Path) -> Iterator[Any]:
    """Makes scenes; afterwards every host has a worker, and is well."""
    missing = [host for host in hosts.hosts if not host.pids()]
    for host in missing:
        hosts.worker(host)
    scenes: list[Scene] = []

    def make(**options: Any) -> Scene:
        scenes.append(Scene(hosts, Oracle(tmp_path / "notes"), **options))
        return scenes[-1]

    yield make
    for each in scenes:
        each.close()
    for host in hosts.hosts:
        host.signal(signal.SIGCONT)
        host.heal()
        host.disturb()


def test_a_killed_host_fails_what_it_had_begun_and_the_rest_runs_elsewhere(scene: Any, hosts: Cluster) -> None:
    here = scene()
    victim = hosts.hosts[0]
    futures = [here.pool.submit("work", number, LONG) for number in range(9)]
    here.running(3)
    eventually(lambda: here.on(victim.address) > 0, "the victim to work")
    killed_at = monotonic()
    victim.kill()
    lost = here.account(futures, victim.address)
    assert 1 <= len(lost) <= 2, "one worker there: what it ran, and at most what had just been permitted"
    assert here.told("node_lost")[0].node == victim.address
    assert monotonic() - killed_at < DEADLINE
    assert len(here.pool.nodes()) == 2
    assert here.pool.stats().lost == 1


def test_a_map_survives_a_killed_worker_but_for_what_ran_there(scene: Any, hosts: Cluster) -> None:
    here = scene()
    victim = hosts.hosts[1]
    count = 300
    results = here.pool.map("work", range(count), [SHORT] * count, return_exceptions=True)
    first = next(results)
    eventually(lambda: here.on(victim.address) > 0, "the victim to work")
    victim.kill()
    outcomes = [first, *results]
    lost = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, NodeLost)]
    assert all(outcome == number for number, outcome in enumerate(outcomes) if number not in set(lost))
    begun = collections.Counter(here.oracle.begun())
    assert max(begun.values()) == 1
    assert len(lost) < count / 2


def test_retries_run_it_again_elsewhere(scene: Any, hosts: Cluster) -> None:
    here = scene(retries=1)
    victim = hosts.hosts[2]
    futures = [here.pool.submit("work", number, LONG) for number in range(9)]
    here.running(3)
    eventually(lambda: here.on(victim.address) > 0, "the victim to work")
    victim.kill()
    assert [future.result(2 * DEADLINE) for future in futures] == list(range(9))
    assert here.told("retried")
    assert max(collections.Counter(here.oracle.begun()).values()) <= 2


class Haunted:
    """A job that never ends by itself and may be run again elsewhere, and the host that it has begun on."""

    def __init__(self, scene: Any, hosts: Cluster) -> None:
        self.here: Scene = scene(retries=1)
        self.job = self.here.pool.submit("haunt", 77)
        self.here.running(1)
        (self.node,) = [node for node in self.here.pool.nodes() if node.running]
        self.host = next(host for host in hosts.hosts if host.address == self.node.host)
        (self._first,) = {pid for _, _, _, pid in self.here.oracle.notes()}

    def _elsewhere(self) -> list[int]:
        """When it noted something there."""
        return [at for _, _, at, pid in self.here.oracle.notes() if pid != self._first]

    def stops_before_anybody_else_begins(self) -> None:
        # So often that the first would have noted something in between if it still ran.
        eventually(lambda: len(self._elsewhere()) > 50, "it to be run elsewhere")
        stopped = max(at for _, _, at, pid in self.here.oracle.notes() if pid == self._first)
        begun = min(self._elsewhere())
        assert stopped < begun, f"both have run for {(stopped - begun) / 1e9} s"
        self.here.hear("node_lost")
        assert [event.node for event in self.here.told("node_lost")] == [self.host.address]

    def serves_again(self) -> None:
        """With a pool of its own."""
        self.here.hear("node_ready", 4)
        assert len(self.here.pool.nodes()) == 3
        self.job.cancel()


def test_a_host_that_is_cut_off_stops_before_anybody_else_begins(scene: Any, hosts: Cluster) -> None:
    haunted = Haunted(scene, hosts)
    haunted.host.cut()
    haunted.stops_before_anybody_else_begins()
    assert haunted.host.address in [event.node for event in haunted.here.told("node_silent")]
    haunted.host.heal()
    haunted.serves_again()


def test_a_host_whose_dask_worker_is_stopped_stops_before_anybody_else_begins(scene: Any, hosts: Cluster) -> None:
    haunted = Haunted(scene, hosts)
    haunted.host.signal_workers(signal.SIGSTOP)
    haunted.stops_before_anybody_else_begins()
    haunted.host.signal_workers(signal.SIGCONT)
    haunted.serves_again()


def test_a_host_whose_dask_worker_lets_no_thread_run_stops_before_anybody_else_begins(
    scene: Any, hosts: Cluster, tmp_path: Path
) -> None:
    haunted = Haunted(scene, hosts)
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)

    def hold_the_gil() -> int:
        import ctypes
        import os

        return ctypes.PyDLL(None).open(os.fsencode(gate), os.O_RDONLY)

    held = haunted.here.client.submit(hold_the_gil, workers=[haunted.node.address], pure=False)
    haunted.stops_before_anybody_else_begins()
    os.close(os.open(gate, os.O_WRONLY))
    assert held.result(DEADLINE) >= 0
    haunted.serves_again()


def test_a_host_whose_warden_is_killed_fails_what_it_had_begun_and_serves_again(scene: Any, hosts: Cluster) -> None:
    """The process that guards its lease: the workers die with it, and the node has nothing to work with."""
    haunted = Haunted(scene, hosts)
    (warden,) = [pid for pid in haunted.host.pids() if b"cluster.node.warden" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(warden, signal.SIGKILL)
    haunted.stops_before_anybody_else_begins()
    haunted.serves_again()
    eventually(lambda: gone([warden]), "it to be reaped")


def test_a_short_cut_costs_nothing(scene: Any, hosts: Cluster) -> None:
    here = scene(retries=0)
    victim = hosts.hosts[0]
    futures = [here.pool.submit("work", number, LONG) for number in range(6)]
    here.running(3)
    victim.cut()
    never = monotonic() + LEASE / 3
    eventually(lambda: monotonic() > never, "the cut to last a moment")
    victim.heal()
    assert not here.account(futures, victim.address)


def test_a_stopped_host_that_goes_on_runs_nothing_twice(scene: Any, hosts: Cluster) -> None:
    here = scene()
    victim = hosts.hosts[1]
    futures = [here.pool.submit("work", number, LONG) for number in range(12)]
    here.running(3)
    eventually(lambda: here.on(victim.address) > 0, "the victim to work")
    victim.signal(signal.SIGSTOP)
    here.hear("node_lost")
    victim.signal(signal.SIGCONT)
    assert here.account(futures, victim.address)
    here.hear("node_ready", 4)


def test_delay_and_loss_cost_nothing_but_time(scene: Any, hosts: Cluster) -> None:
    here = scene()
    for host in hosts.hosts:
        host.disturb("delay", "20ms", "10ms", "loss", "1%")
    futures = [here.pool.submit("work", number, 1000) for number in range(300)]
    assert not here.account(futures, "nobody")
    assert list(here.pool.map("work", range(1000, 9000), [10] * 8000)) == list(range(1000, 9000))
    assert not here.told("node_lost")


def test_what_is_large_does_not_hold_up_the_heartbeat(scene: Any, hosts: Cluster) -> None:
    """To send it takes longer than the lease."""
    here = scene()
    for host in hosts.hosts:
        host.throttle("50mbit")
    size = 16_000_000
    assert size * 8 / 50e6 > LEASE * 1.5
    data = os.urandom(size)
    assert here.pool.submit(lambda instance, data: len(data), data).result(2 * DEADLINE) == size
    assert not here.told("node_lost")


def test_a_host_that_joins_late_takes_its_share(scene: Any, hosts: Cluster) -> None:
    late = hosts.hosts[2]
    late.kill()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(hosts.client())
        eventually(lambda: len(known(client)) == 2, "Dask to miss it")
        pool = stack.enter_context(_Ending(ClusterWasmPool(KERNELS, client=client)))
        pool.wait_ready(DEADLINE)
        assert len(pool.nodes()) == 2
        hosts.worker(late)
        results = pool.map("fib", [25] * 100_000)
        eventually(lambda: next(results) == 75025 and len(pool.nodes()) == 3, "it to join")
        eventually(
            lambda: next(results) == 75025 and any(n.running for n in pool.nodes() if n.host == late.address), "its share"
        )
        results.close()


def test_deadlines_are_kept_by_both_sides(scene: Any, hosts: Cluster) -> None:
    here = scene()
    futures = [here.pool.submit("haunt", number, timeout=1.0) for number in range(3)]
    for future in futures:
        with pytest.raises(CallTimeout):
            future.result(DEADLINE)
    assert here.pool.call("work", 100, 1) == 100, "the guests were stopped"
    frozen = hosts.hosts[0]
    futures = [here.pool.submit("haunt", number, timeout=1.5) for number in range(10, 13)]
    here.running(6)
    frozen.signal(signal.SIGSTOP)
    for future in futures:
        with pytest.raises(CallTimeout):
            future.result(DEADLINE)


def test_hosts_that_differ_are_told_and_refused_where_they_must_be(hosts: Cluster, tmp_path: Path) -> None:
    """Another wasmtime serves, and that is said.  Another procpool does not, and that is said too."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (fakes / "sitecustomize.py").write_text(
        "import importlib.metadata as m, os\n"
        "real = m.version\n"
        "m.version = lambda name: '49.0.0' if name == 'wasmtime' and 'FAKE_WASMTIME' in os.environ else real(name)\n"
        "if 'FAKE_PROCPOOL' in os.environ:\n"
        "    import procpool._version\n"
        "    procpool._version.__version__ = '0.0.1'\n"
        "    import procpool\n"
        "    procpool.__version__ = '0.0.1'\n"
    )
    events: list[ClusterEvent] = []
    with _only(hosts, 2), hosts.client() as client:
        path = os.pathsep.join([str(fakes), str(Path(__file__).parent.parent), str(Path(__file__).parent)])
        for host, fake in zip(hosts.hosts, ("FAKE_WASMTIME", "FAKE_PROCPOOL"), strict=False):
            hosts.worker(host, env={"PYTHONPATH": path, fake: "1"})
        hosts.wait_for_workers(client, 2)
        with _Ending(ClusterWasmPool(KERNELS, client=client, on_event=events.append)) as pool:
            pool.wait_ready(DEADLINE)
            assert pool.call("add", 1, 2) == 3
            (node,) = pool.nodes()
            assert (node.host, node.wasmtime) == (hosts.hosts[0].address, "49.0.0")
        eventually(lambda: {"node_differs", "node_refused"} <= {event.kind for event in events}, "both to be said")
        said = {event.kind: event.message for event in events}
        assert "wasmtime 49.0.0" in said["node_differs"]
        assert "procpool 0.0.1" in said["node_refused"]
        hosts.hosts[0].kill()
        eventually(lambda: len(known(client)) == 1, "Dask to miss it")
        with pytest.raises(StartupError, match=r"has procpool 0\.0\.1"):
            ClusterWasmPool(KERNELS, client=client, start_timeout=1.0)


def test_a_full_disk_costs_a_node_its_cache_and_nothing_else(hosts: Cluster, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(full)], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        with contextlib.suppress(OSError):
            (full / "filler").write_bytes(b"x" * (1 << 20))
        with _only(hosts, 1), hosts.client() as client:
            env = {"XDG_CACHE_HOME": str(full), "TMPDIR": str(full), "DASK_TEMPORARY_DIRECTORY": str(tmp_path)}
            hosts.worker(hosts.hosts[0], env=env)
            hosts.wait_for_workers(client, 1)
            with _Ending(ClusterWasmPool(KERNELS, client=client)) as pool:
                assert list(pool.map("add", range(5000), range(5000))) == list(range(0, 10_000, 2))
            hosts.hosts[0].kill()
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_jobs_in_flight_finish_when_the_scheduler_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "FORLORN", 1.0)
    events: list[ClusterEvent] = []
    oracle = Oracle(tmp_path / "notes")
    with Cluster(2) as cluster:
        for host in cluster.hosts:
            cluster.worker(host)
        client = cluster.client()
        cluster.wait_for_workers(client, 2)
        pool = ClusterWasmPool(ORACLE, client=client, imports=oracle.imports(), on_event=events.append)
        pool.wait_ready(DEADLINE)
        futures = [pool.submit("work", number, 4 * LONG) for number in range(8)]
        eventually(lambda: len(oracle.begun()) >= 2, "jobs to begin")
        begun_before = set(oracle.begun())
        cluster.scheduler_process.send_signal(signal.SIGKILL)
        wait(futures, 2 * DEADLINE)
        done = {number for number, future in enumerate(futures) if future.exception(0) is None}
        assert begun_before <= done, "what had begun has finished"
        others = [future.exception(0) for future in futures if future.exception(0) is not None]
        assert all(isinstance(error, StartupError) and "scheduler" in str(error) for error in others), others
        assert set(oracle.begun()) == done and max(collections.Counter(oracle.begun()).values()) == 1
        kinds = [event.kind for event in events]
        assert "scheduler_lost" in kinds and "node_lost" not in kinds
        within(pool.shutdown)
        with contextlib.suppress(TimeoutError):  # it looks for its scheduler
            client.close(1)


def test_detection_takes_seconds_without_anybody_s_word(scene: Any, hosts: Cluster) -> None:
    """What waits for a node that was cut off and had not begun goes elsewhere before the node is given up."""
    here = scene()
    victim = hosts.hosts[0]
    victim.cut()
    assert list(here.pool.map("work", range(100), [SHORT // 100] * 100, return_exceptions=True)).count(None) == 0
    here.hear("node_lost")
    begun = collections.Counter(here.oracle.begun())
    assert not begun or max(begun.values()) == 1


@contextlib.contextmanager
def _only(hosts: Cluster, count: int) -> Iterator[None]:
    """With no workers at first, and none of ours at the end."""
    for host in hosts.hosts:
        host.kill()
    yield
    for host in hosts.hosts[:count]:
        host.kill()


class _Ending:
    """A pool that is terminated in any case."""

    def __init__(self, pool: ClusterWasmPool) -> None:
        self._pool = pool

    def __enter__(self) -> ClusterWasmPool:
        return self._pool

    def __exit__(self, *_: object) -> None:
        within(self._pool.terminate)


def test_a_worker_that_is_retired_loses_nothing(scene: Any, hosts: Cluster) -> None:
    """What was on its way to it when it said that it leaves has not begun there."""
    here = scene()
    victim = hosts.hosts[0]
    futures = [here.pool.submit("work", number, 1000) for number in range(4000)]
    here.running(500)
    retired = started(lambda: here.client.retire_workers([each for each in known(here.client) if victim.address in each]))
    results = [future.result(2 * DEADLINE) for future in futures]
    assert results == list(range(4000))
    assert max(collections.Counter(here.oracle.begun()).values()) == 1
    retired.result(DEADLINE)
    here.hear("node_left")
    assert not here.told("node_lost")
    victim.kill()
