"""Hosts for the tests of clusters: network namespaces joined by a bridge, with Dask's scheduler and workers in them.

Each host has an address of its own and can be killed, stopped, or cut off.  Where namespaces cannot be made, hosts are addresses
of the loopback device: those cannot be cut off, and tests that need that are skipped.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from bounded import environment
from conftest import DEADLINE, eventually, gone

pytest.importorskip("distributed")
from distributed import Client
from distributed import LocalCluster as LocalCluster  # noqa: PLC0414  # for tests, whose own import would come before the skip
from distributed import Security as Security  # noqa: PLC0414
from distributed.comm import connect as connect  # noqa: PLC0414

#: Dask says much that nobody asked for, and uses things that its own dependencies have deprecated.
QUIET = {"DASK_LOGGING__DISTRIBUTED": "error", "PYTHONWARNINGS": "ignore"}
#: A worker that a test stops is not to be taken for lost by Dask itself.
PATIENT = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "600s"}


@functools.cache
def why_no_namespaces() -> str | None:
    """Why network namespaces cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if not all(map(shutil.which, ("ip", "tc"))):
        return "needs ip and tc, of iproute2"
    name = f"pptry{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    bridge = subprocess.run(["ip", "link", "add", f"ppb{os.getpid()}", "type", "bridge"], capture_output=True, text=True)
    subprocess.run(["ip", "link", "del", f"ppb{os.getpid()}"], capture_output=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return f"no bridges here: {bridge.stderr.strip()}" if bridge.returncode else None


_clusters = itertools.count()


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert not done.returncode, f"ip {' '.join(words)}: {done.stderr}"


class Host:
    """One host, and what runs on it."""

    def __init__(self, address: str, namespace: str | None, device: str | None) -> None:
        self.address = address
        self._namespace = namespace
        self._device = device
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, env: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
        """Run a command there."""
        within = [] if self._namespace is None else ["ip", "netns", "exec", self._namespace]
        process = subprocess.Popen(
            [*within, *command],
            env={**environment(), **QUIET, **PATIENT, "PROCPOOL_TEST_HOST": self.address, **env},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process

    def pids(self) -> list[int]:
        """All processes on it."""
        if self._namespace is not None:
            told = subprocess.run(["ip", "netns", "pids", self._namespace], capture_output=True, text=True)
            return [int(pid) for pid in told.stdout.split()]
        sessions = {process.pid for process in self._processes}
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _session(pid) in sessions]

    def signal(self, number: signal.Signals) -> None:
        """Send all its processes a signal."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def signal_workers(self, number: signal.Signals) -> None:
        """Send a signal to what was started here, and not to what that has started."""
        for process in self._processes:
            process.send_signal(number)

    def kill(self) -> None:
        """End everything on it at once."""
        while pids := [pid for pid in self.pids() if not gone([pid])]:
            self.signal(signal.SIGKILL)
            eventually(lambda pids=pids: gone(pids), "killed processes to be gone")  # type: ignore[misc]
        for process in self._processes:
            process.wait(DEADLINE)
        self._processes.clear()

    def cut(self) -> None:
        """Pull the plug: nothing comes or goes, and nobody is told."""
        assert self._device is not None
        _ip("link", "set", self._device, "down")

    def heal(self) -> None:
        """Put it back."""
        assert self._device is not None
        _ip("link", "set", self._device, "up")

    def throttle(self, rate: str) -> None:
        """Have the way there take so much, such as "50mbit"; until `disturb` is called without words."""
        assert self._device is not None
        words = ["replace", "dev", self._device, "root", "tbf", "rate", rate, "burst", "64kbit", "latency", "100ms"]
        done = subprocess.run(["tc", "qdisc", *words], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tbf here: {done.stderr.strip()}")

    def disturb(self, *netem: str) -> None:
        """Have ``tc netem`` delay, lose or reorder what goes there; without words, have it stop that."""
        assert self._device is not None
        words = ["replace", "dev", self._device, "root", "netem", *netem] if netem else ["del", "dev", self._device, "root"]
        done = subprocess.run(["tc", "qdisc", *words], capture_output=True, text=True)
        if done.returncode and netem:
            pytest.skip(f"no netem here: {done.stderr.strip()}")


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


class Cluster:
    """A scheduler, and hosts that have Dask workers when they are told to.

    Args:
        hosts: how many.
        namespaces: whether they must be real; else they are addresses of the loopback device.
    """

    def __init__(self, hosts: int, namespaces: bool = True) -> None:
        self._stack = contextlib.ExitStack()
        try:
            self.hosts: Sequence[Host] = [*self._made(hosts, namespaces)]
        except BaseException:
            self._stack.close()
            raise
        self.scheduler_process = self._start_scheduler(namespaces)
        self._stack.callback(self._kill_all)

    def _made(self, count: int, namespaces: bool) -> Iterator[Host]:
        if not namespaces:
            self._own = "127.0.0.1"
            yield from (Host(f"127.0.0.{2 + number}", None, None) for number in range(count))
            return
        reason = why_no_namespaces()
        if reason is not None:
            pytest.skip(reason)
        # Unlike those of others that run these tests on this machine, and of this process's other clusters.
        made = next(_clusters)
        pid = f"{os.getpid() % 10**7}x{made}"
        net = f"10.{200 + (os.getpid() // 50) % 50}.{(os.getpid() * 5 + made) % 250}"
        bridge, self._own = f"ppb{pid}", f"{net}.1"
        _ip("link", "add", bridge, "type", "bridge")
        self._stack.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number in range(count):
            name, device = f"pp{pid}n{number}", f"pp{pid}v{number}"
            _ip("netns", "add", name)
            self._stack.callback(_ip, "netns", "del", name)
            _ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", device, "master", bridge, "up")
            for words in (("addr", "add", f"{net}.{10 + number}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
                _ip("-n", name, *words)
            _ip("-n", name, "link", "set", "lo", "up")
            yield Host(f"{net}.{10 + number}", name, device)

    def _start_scheduler(self, namespaces: bool) -> subprocess.Popen[bytes]:
        with socket.create_server((self._own, 0)) as free:
            port = free.getsockname()[1]
        self.scheduler = f"tcp://{self._own}:{port}"
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", self._own, "--port", str(port)]
        return subprocess.Popen(
            [*command, "--no-dashboard", "--no-show"], env={**environment(), **QUIET, **PATIENT}, stdin=subprocess.DEVNULL
        )

    def worker(self, host: Host, *options: str, env: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
        """Start a Dask worker on a host: one thread, no nanny, unless the options say otherwise."""
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.scheduler, "--host", host.address]
        for option, default in (("--nthreads", ["1"]), ("--no-nanny", []), ("--no-dashboard", [])):
            if option not in options and not (option == "--no-nanny" and "--nanny" in options):
                command += [option, *default]
        return host.start(*command, *options, env=env)

    def client(self) -> Client:
        """A client of the scheduler."""
        return Client(self.scheduler, timeout=DEADLINE, set_as_default=False)

    def wait_for_workers(self, client: Client, count: int) -> None:
        """Until so many have joined."""
        client.wait_for_workers(count, timeout=DEADLINE)

    def _kill_all(self) -> None:
        for host in self.hosts:
            host.signal(signal.SIGCONT)
            host.kill()
        self.scheduler_process.kill()
        self.scheduler_process.wait()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()


def known(client: Client) -> dict[str, dict[str, Any]]:
    """The Dask workers that the scheduler knows, by address, as it describes them."""
    workers: dict[str, dict[str, Any]] = client.sync(client.scheduler.identity)["workers"]
    return workers


#: A module whose import tells what has begun: see `Oracle`.
ORACLE = """
(module
  (import "env" "note" (func $note (param i32 i32)))
  ;; Notes an id, works for some time, and gives the id back.
  (func (export "work") (param $id i32) (param $turns i32) (result i32)
    (local $n i32)
    (call $note (local.get $id) (i32.const 0))
    (loop $again
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_s (local.get $n) (local.get $turns))))
    (local.get $id))
  ;; Notes an id over and over, and never ends.
  (func (export "haunt") (param $id i32) (result i32)
    (local $n i32)
    (loop $again
      (call $note (local.get $id) (local.get $n))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br $again))
    unreachable))
"""


class Oracle:
    """What has begun, as the import itself has noted: in a file that all hosts of this machine can write to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def imports(self) -> dict[str, dict[str, object]]:
        """For the pool.  By value: the hosts cannot import the tests."""
        path = str(self._path)

        def note(number: int, turn: int) -> None:
            import os
            import time

            file = os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(file, b"%d %d %d %d\n" % (number, turn, time.monotonic_ns(), os.getpid()))
            finally:
                os.close(file)
            if turn:
                time.sleep(0.01)

        return {"env": {"note": note}}

    def notes(self) -> list[tuple[int, int, int, int]]:
        """Id, turn, nanoseconds of a clock that all hosts share, and process, in the order of the notes."""
        lines = self._path.read_bytes().split(b"\n")[:-1]
        return [tuple(map(int, line.split())) for line in lines]  # type: ignore[misc]

    def begun(self) -> list[int]:
        """The ids that have begun, each as often as it has."""
        return [number for number, turn, _, _ in self.notes() if not turn]
