"""The end of the interpreter while a pool is in use, and a system that starts no processes for a while."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from bounded import environment, run_script
from conftest import DEADLINE, KERNELS, eventually, gone
from test_user_code import GUEST

# -- exit --------------------------------------------------------------------------------------------------------------

#: Threads that wait for what does not end, one per way, when the main one comes to its end.
WAITING = """
import asyncio, os, sys, threading
import psutil
from procpool import ProcessWasmPool, WasiConfig

WAYS = {
    "call": lambda: pool.call("spin"),
    "call with a timeout": lambda: pool.call("spin", timeout=1000),
    "queued call": lambda: (pool.submit("spin"), pool.submit("spin"), pool.call("fine", 1)),
    "submit": lambda: pool.submit("spin").result(),
    "callable": lambda: pool.submit(lambda instance: instance.call("spin")).result(),
    "map": lambda: list(pool.map("loop", [1, 2, 3])),
    "run": lambda: pool.run(["x", "spin"]),
    "lease": lambda: pool.get().call("spin"),
    "get": lambda: (pool.submit("spin"), pool.submit("spin"), pool.get()),
    "acall": lambda: asyncio.run(pool.acall("spin")),
    "drain": lambda: (pool.submit("spin"), pool.submit("spin"), pool.drain()),
    "shutdown": lambda: (pool.submit("spin"), pool.shutdown()),
    "room in the queue": lambda: [pool.submit("spin") for _ in range(10)],
}

def wait():
    try:
        WAYS[way]()
    except BaseException as error:
        print("ended by", type(error).__name__, flush=True)
    else:
        print("ended", flush=True)

way, daemon, method, module = sys.argv[1], sys.argv[2] == "daemon", sys.argv[3], sys.argv[4]
pool = ProcessWasmPool(module, 2, wasi=WasiConfig(), start_method=method, max_pending=3 if way.startswith("room") else None)
pool.wait_ready()
me = psutil.Process()
threading.Thread(target=wait, daemon=daemon).start()

def spins(pid):
    try:
        return psutil.Process(pid).cpu_times().user > 0.05
    except psutil.NoSuchProcess:
        return False

while not any(worker.state == "busy" and spins(worker.pid) for worker in pool.stats().workers):
    pass
print("end of the main thread", *(child.pid for child in me.children(recursive=True)), flush=True)
"""
MODULE = GUEST.rstrip()[:-1] + '(func (export "loop") (param i32) (call $spin)))'
WAYS = re.findall(r'^    "([^"]*)": lambda', WAITING, re.MULTILINE)


@pytest.mark.parametrize(
    ("way", "kind"), [(way, "thread") for way in WAYS] + [(way, "daemon") for way in ("call", "submit", "acall")]
)
def test_the_interpreter_exits_while_a_thread_waits(way: str, kind: str) -> None:
    """The exit kills the jobs, and who waits for them is told, so that his thread ends too."""
    done = run_script(WAITING, way, kind, "forkserver", MODULE)
    assert done.returncode == 0 and "Fatal" not in done.stderr, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("end of the main thread")
    if kind == "thread":
        assert rest == ["ended by PoolClosed"] or (way == "shutdown" and rest == ["ended"]), rest
    eventually(lambda: gone([int(pid) for pid in first.split()[5:]]), "the workers' end")


def test_the_same_with_spawned_workers() -> None:
    done = run_script(WAITING, "call", "thread", "spawn", MODULE)
    assert done.returncode == 0 and done.stdout.endswith("ended by PoolClosed\n"), done.stderr


def test_a_thread_may_still_use_the_pool_after_the_main_threads_end_or_is_told() -> None:
    """It gets its results, or PoolClosed; it does not hang."""
    script = f"""
import threading, time
from procpool import PoolClosed, ProcessWasmPool
pool = ProcessWasmPool({str(KERNELS)!r}, 2)
def work():
    threading.main_thread().join()
    try:
        for n in range(2000):
            assert pool.call("add", n, 1) == pool.submit("add", n, 1).result() == n + 1
    except PoolClosed:
        pass
    print("through")
threading.Thread(target=work).start()
"""
    done = run_script(script)
    assert (done.stdout, done.stderr, done.returncode) == ("through\n", "", 0)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("kind", ["thread", "daemon"])
def test_ctrl_c_during_exit_leaves_nothing(kind: str, method: str) -> None:
    """Pressed again and again, from the end of the main thread to the end of the process."""
    command = [sys.executable, "-c", WAITING, "call", kind, method, MODULE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        try:
            pids = [int(pid) for pid in process.stdout.readline().split()[5:]]
            assert len(pids) >= 2
            deadline = time.monotonic() + DEADLINE
            while process.poll() is None:
                assert time.monotonic() < deadline, "it does not exit"
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
            eventually(lambda: gone(pids), "the workers' end")
        finally:
            process.kill()


@pytest.mark.parametrize("stopped", ["a worker", "the template", "all"])
def test_exit_with_stopped_processes(stopped: str) -> None:
    """Ctrl-C comes while the exit waits for a process that does not react."""
    script = f"""
import atexit, os, signal, sys
import psutil
from procpool import ProcessWasmPool
pool = ProcessWasmPool({str(KERNELS)!r}, 2)
pool.wait_ready()
template, = psutil.Process().children()
workers = [worker.pid for worker in pool.stats().workers]
stop = {{"a worker": workers[:1], "the template": [template.pid], "all": [template.pid, *workers]}}[sys.argv[1]]
for pid in stop:
    os.kill(pid, signal.SIGSTOP)
print(template.pid, *workers, flush=True)
atexit.register(print, "exiting", flush=True)
"""
    command = [sys.executable, "-c", script, stopped]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        try:
            assert process.stdout.readline() == "exiting\n"
            for _ in range(3):
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
            process.wait(DEADLINE)
            eventually(lambda: gone(pids), "the end of all")
        finally:
            process.kill()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


# -- no processes for a while ------------------------------------------------------------------------------------------

#: Root is not bound by the limit on processes, so the script becomes somebody else, who has no other process: so it can
#: say exactly how many there may be.  It keeps the right to read files, for the interpreter may lie where only root may.
UNPRIVILEGED = f"""
import ctypes, os, resource, signal, sys, time
import psutil, cloudpickle, wasmtime
from procpool import ProcessWasmPool, StartupError

def become_somebody_else():
    user = 40_000 + os.getpid() % 20_000
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    reading = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)(reading, reading, reading, 0, 0, 0)  # effective, permitted, inheritable
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
    for capability in (1, 2):
        libc.prctl(47, 2, capability, 0, 0)  # PR_CAP_AMBIENT_RAISE: what is executed keeps it too

if os.getuid() == 0:
    become_somebody_else()
NPROC = resource.RLIMIT_NPROC
unlimited = resource.getrlimit(NPROC)
KERNELS = {str(KERNELS)!r}

def children():
    return psutil.Process().children()

def until(condition):
    while not condition():
        time.sleep(0.002)
"""

FAILING_FORKS = (
    UNPRIVILEGED
    + """
kinds = []
pool = ProcessWasmPool(KERNELS, 2, cache=False, on_event=lambda event: kinds.append(event.kind))
pool.wait_ready(20)
assert pool.call("add", 1, 2) == 3
template, = children()
resource.prlimit(template.pid, NPROC, (1, unlimited[1]))
victims = [worker.pid for worker in pool.stats().workers][: int(sys.argv[1])]
for pid in victims:
    os.kill(pid, signal.SIGKILL)
until(lambda: "start_failed" in kinds)
futures = [pool.submit("add", n, 1) for n in range(50)]
began = time.monotonic()
while time.monotonic() - began < 2.5:  # long enough for many failures
    assert "broken" not in kinds, "the pool has closed itself"
    if len(victims) < 2:
        assert pool.call("add", 1, 2) == 3
    time.sleep(0.01)
more = [pool.submit("add", n, 2) for n in range(50)]
resource.prlimit(template.pid, NPROC, unlimited)
assert [future.result(20) for future in futures] == list(range(1, 51))
assert [future.result(20) for future in more] == list(range(2, 52))
pool.wait_ready(20)
assert pool.stats().failed == 0 and kinds.count("start_failed") >= 1
pool.shutdown()
print("ok")
"""
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prlimit")
@pytest.mark.parametrize("victims", [1, 2])
def test_forks_that_fail_for_a_while_do_not_close_a_pool_that_has_worked(victims: int) -> None:
    done = run_script(FAILING_FORKS, str(victims))
    assert done.stdout == "ok\n", done.stderr


def test_forks_that_fail_while_a_pool_grows_and_restarts() -> None:
    script = (
        UNPRIVILEGED
        + """
pool = ProcessWasmPool(KERNELS, 1, cache=False)
template, = children()
resource.prlimit(template.pid, NPROC, (1, unlimited[1]))
pool.resize(3)
try:
    pool.restart(0.5)
except TimeoutError:
    pass
assert pool.call("add", 1, 2) == 3
resource.prlimit(template.pid, NPROC, unlimited)
pool.restart(20)
pool.wait_ready(20)
assert len(pool.stats().workers) >= 3 and pool.call("add", 1, 2) == 3
pool.shutdown()
print("ok")
"""
    )
    done = run_script(script)
    assert done.stdout == "ok\n", done.stderr


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("more", range(4))
def test_a_constructor_that_may_start_no_processes_or_threads_says_so(method: str, more: int) -> None:
    """Threads count, too.  So many ``more`` may be started; a pool that can be had with them is as good as an error."""
    script = (
        UNPRIVILEGED
        + """
ProcessWasmPool(KERNELS, 1, cache=False).shutdown()  # wasmtime has started its own threads, and would abort without
limit = psutil.Process().num_threads() + int(sys.argv[2])
resource.setrlimit(NPROC, (limit, unlimited[1]))
try:
    with ProcessWasmPool(KERNELS, 1, cache=False, start_method=sys.argv[1]) as pool:
        assert pool.call("add", 1, 2) == 3
except (StartupError, OSError, RuntimeError) as error:
    print(type(error).__name__, error)
resource.setrlimit(NPROC, unlimited)
with ProcessWasmPool(KERNELS, 1, cache=False, start_method=sys.argv[1]) as pool:
    assert pool.call("add", 1, 2) == 3
print("ok")
"""
    )
    done = run_script(script, method, str(more))
    assert done.stdout.splitlines()[-1:] == ["ok"], done.stderr
