"""The process beside a node that ends its workers: real ones, with a child of ours that stands for a worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import monotonic

import pytest
from bounded import environment
from conftest import DEADLINE, eventually, gone

from procpool.cluster.node import warden
from procpool.cluster.node.warden import Warden

pytestmark = pytest.mark.skipif(not warden.possible(), reason="needs F_SETSIG, which Linux has")

#: A process that says that it watches a pipe, and then does nothing.
WORKER = """
import os, signal, sys
from procpool.worker.lifeline import die_with_writers
die_with_writers(sys.argv[1], os.getpid())
print("watches", flush=True)
signal.pause()
"""
#: A node: says who its warden is and what a worker would watch.
NODE = """
import signal, sys
from time import monotonic
from procpool.cluster.node.warden import Warden
made = Warden(monotonic() + float(sys.argv[1]))
print(made.lifeline, made._process.pid, flush=True)
signal.pause()
"""


class Started:
    """A Python program that says one line."""

    def __init__(self, code: str, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *args],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            stdin=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        self.said: list[str] = self._process.stdout.readline().split()

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def killed(self) -> bool:
        self._process.communicate(timeout=DEADLINE)
        return self._process.returncode == -signal.SIGKILL

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def node() -> Iterator[Callable[..., Started]]:
    """Starts nodes that have a warden for some seconds and say what a worker would watch, and the warden's pid."""
    with contextlib.ExitStack() as ending:

        def start(seconds: float = 3600.0) -> Started:
            started = Started(NODE, str(seconds))
            ending.callback(started.end)
            return started

        yield start


@pytest.fixture
def worker() -> Iterator[Callable[[str], Started]]:
    """Starts workers that watch."""
    with contextlib.ExitStack() as ending:

        def start(lifeline: str) -> Started:
            started = Started(WORKER, lifeline)
            ending.callback(started.end)
            return started

        yield start


@pytest.fixture
def guard() -> Iterator[Warden]:
    """A warden with much time."""
    made = Warden(monotonic() + 3600)
    yield made
    made.close()


def test_workers_end_when_its_time_is_up_and_not_before(guard: Warden, worker: Callable[[str], Started]) -> None:
    workers = [worker(guard.lifeline) for _ in range(2)]
    until = monotonic() + 0.3
    guard.prolong(until)
    assert all(each.killed() for each in workers)
    assert monotonic() >= until


def test_what_is_prolonged_goes_on(guard: Warden, worker: Callable[[str], Started]) -> None:
    until = monotonic() + 0.5
    guard.prolong(until)
    guard.prolong(until + 3600)
    watches = worker(guard.lifeline)
    eventually(lambda: monotonic() > until + 0.2, "the first time to pass")
    guard.prolong(until + 3600)  # it is there, and listens
    assert watches.lives


def test_its_end_is_that_of_the_workers(worker: Callable[[str], Started]) -> None:
    guard = Warden(monotonic() + 3600)
    watches = worker(guard.lifeline)
    guard.close()
    assert watches.killed()


def test_a_worker_that_comes_too_late_ends_at_once(guard: Warden, worker: Callable[[str], Started]) -> None:
    guard.prolong(monotonic())

    def ended() -> bool:
        with contextlib.suppress(BrokenPipeError):
            guard.prolong(monotonic())
            return False
        return True

    eventually(ended, "its end")
    late = worker(guard.lifeline)
    assert not late.said
    assert late.killed()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_what_asks_a_program_to_end_does_not_end_it(
    number: signal.Signals, node: Callable[..., Started], worker: Callable[[str], Started]
) -> None:
    runs = node()
    lifeline, pid = runs.said[0], int(runs.said[1])
    eventually(lambda: os.getpgid(pid) == pid, "it to have left the group, which it does last before it listens")
    os.kill(pid, number)
    watches = worker(lifeline)
    assert watches.said == ["watches"]
    assert (watches.lives, gone([pid])) == (True, False)
    runs.end()
    assert watches.killed()
    eventually(lambda: gone([pid]), "the warden to end with its node")


def test_a_node_that_stands_still_loses_its_workers(node: Callable[..., Started], worker: Callable[[str], Started]) -> None:
    runs = node(2.0)
    watches = worker(runs.said[0])
    runs.signal(signal.SIGSTOP)
    assert watches.killed()
