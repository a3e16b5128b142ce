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
from bounded import environment, run_script
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
import os, signal, sys
from time import monotonic
from procpool.cluster.node.warden import Warden
made = Warden(monotonic() + float(sys.argv[1]))
fork = 0
if len(sys.argv) > 2 and (fork := os.fork()) == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.pause()
print(made.lifeline, made._process.pid, fork, flush=True)
sys.stdin.read()
made.prolong(monotonic() + 3600)
signal.pause()
"""


#: Makes wardens with more and more room for descriptors, until they can be made.
SHORT_OF_DESCRIPTORS = """
import os, resource
from time import monotonic
from procpool.cluster.node.warden import Warden
Warden(monotonic() + 60).close()  # what is imported for it is
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
open_before = len(os.listdir("/proc/self/fd"))
failed = 0
for room in range(12):
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_before + room - 1, limits[1]))
    try:
        Warden(monotonic() + 60).close()
    except OSError:
        failed += 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(os.listdir("/proc/self/fd")) == open_before, room
assert 3 < failed < 12, failed
"""


class Started:
    """A Python program that says one line."""

    def __init__(self, code: str, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *args],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            stdin=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.said: list[str] = self._process.stdout.readline().split()

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def killed(self) -> bool:
        self._process.wait(DEADLINE)
        return self._process.returncode == -signal.SIGKILL

    def go_on(self) -> None:
        """End its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.go_on()


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    """Starts programs, and ends them after the test."""
    with contextlib.ExitStack() as ending:

        def start(code: str, *args: str) -> Started:
            started = Started(code, *args)
            ending.callback(started.end)
            return started

        yield start


@pytest.fixture
def node(start: Callable[..., Started]) -> Callable[..., Started]:
    """Starts nodes that have a warden for some seconds and say what a worker would watch, and the warden's pid."""
    return lambda seconds=3600.0, forks=False: start(NODE, str(seconds), *(["forks"] if forks else []))


@pytest.fixture
def worker(start: Callable[..., Started]) -> Callable[[str], Started]:
    """Starts workers that watch."""
    return lambda lifeline: start(WORKER, lifeline)


@pytest.fixture
def guard() -> Iterator[Callable[[float], Warden]]:
    """Makes wardens whose time is up after some seconds."""
    with contextlib.ExitStack() as ending:

        def make(seconds: float) -> Warden:
            made = Warden(monotonic() + seconds)
            ending.callback(made.close)
            return made

        yield make


def ended(guard: Warden) -> bool:
    try:
        guard.prolong(monotonic() + 3600)
    except ProcessLookupError:
        return True
    return False


def test_workers_end_when_its_time_is_up_and_not_before(
    guard: Callable[[float], Warden], worker: Callable[[str], Started]
) -> None:
    until = monotonic() + 3
    lifeline = guard(3).lifeline
    workers = [worker(lifeline) for _ in range(2)]
    assert all(each.killed() for each in workers)
    assert monotonic() >= until


def test_what_is_prolonged_goes_on(guard: Callable[[float], Warden], worker: Callable[[str], Started]) -> None:
    made = guard(0.5)
    until = monotonic() + 0.5
    made.prolong(until + 3600)
    watches = worker(made.lifeline)
    eventually(lambda: monotonic() > until + 0.2, "the first time to pass")
    assert not ended(made)
    assert watches.lives


def test_one_that_was_stopped_knows_what_was_prolonged_meanwhile(
    node: Callable[..., Started], worker: Callable[[str], Started]
) -> None:
    """The node of this test prolongs at the end of its standard input, by which it is told to."""
    runs = node(3.0)
    watches = worker(runs.said[0])
    warden = int(runs.said[1])
    os.kill(warden, signal.SIGSTOP)
    runs.go_on()
    until = monotonic() + 3.0
    eventually(lambda: monotonic() > until, "the first time to pass")
    os.kill(warden, signal.SIGCONT)
    later = monotonic() + 0.3
    eventually(lambda: monotonic() > later, "it to have looked")
    assert watches.lives


def test_its_end_is_that_of_the_workers(worker: Callable[[str], Started]) -> None:
    made = Warden(monotonic() + 3600)
    watches = worker(made.lifeline)
    made.close()
    assert watches.killed()


def test_a_worker_that_comes_too_late_ends_at_once(
    guard: Callable[[float], Warden], worker: Callable[[str], Started]
) -> None:
    made = Warden(monotonic())
    lifeline = made.lifeline
    eventually(lambda: made._process.poll() is not None, "its end")
    late = worker(lifeline)
    assert not late.said
    assert late.killed()
    assert ended(made)
    made.close()


def test_one_that_cannot_be_made_leaves_nothing_open() -> None:
    done = run_script(SHORT_OF_DESCRIPTORS)
    assert done.returncode == 0, done.stderr


def test_a_fork_of_the_node_does_not_keep_it(node: Callable[..., Started], worker: Callable[[str], Started]) -> None:
    runs = node(forks=True)
    watches = worker(runs.said[0])
    warden, fork = int(runs.said[1]), int(runs.said[2])
    try:
        runs.end()
        assert watches.killed()
        eventually(lambda: gone([warden]), "the warden to end with its node")
        assert not gone([fork])
    finally:
        os.kill(fork, signal.SIGKILL)


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
