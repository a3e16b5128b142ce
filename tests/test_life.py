"""How programs that use a pool begin and end, and what they leave behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from bounded import environment, run, run_python, run_script
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, eventually, gone, worker_pids

from procpool import PoolClosed, ProcessWasmPool

ROOT = FIXTURES.parent
USE = f"from procpool import ProcessWasmPool\nwith ProcessWasmPool({str(KERNELS)!r}, 2) as pool:\n    print(pool.call('add', 1, 2))\n"
#: Starts workers in endless wasm, prints their pids and the template's, and then does what the test appends.
ENDLESS = f"""
import os, signal, sys, threading
sys.path.insert(0, {str(ROOT)!r})
import psutil
from procpool import ProcessWasmPool
pool = ProcessWasmPool({str(MISBEHAVE)!r}, 2, start_method=sys.argv[1])
futures = [pool.submit("spin") for _ in range(4)]
while pool.stats().busy < 2:
    pass
print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
"""


@pytest.mark.parametrize("way", ["script", "-c", "stdin", "exec", "thread", "relative path"])
def test_no_main_guard_is_needed(way: str, tmp_path: Path) -> None:
    if way == "-c":
        run = run_python("-c", USE)
    elif way == "stdin":
        run = run_python("-", input=USE)
    elif way == "exec":  # as a notebook does
        run = run_python("-c", f"exec({USE!r}, {{'__name__': '__main__'}})")
    elif way == "thread":
        run = run_python("-c", f"import threading; t = threading.Thread(target=exec, args=({USE!r},)); t.start(); t.join()")
    elif way == "relative path":
        (tmp_path / "here.wasm").write_bytes(KERNELS.read_bytes())
        run = run_python("-c", USE.replace(repr(str(KERNELS)), "'here.wasm'"), cwd=tmp_path)
    else:
        (tmp_path / "script.py").write_text(USE)
        run = run_python(str(tmp_path / "script.py"))
    assert (run.stdout, run.stderr, run.returncode) == ("3\n", "", 0)


def test_in_a_repl() -> None:
    """On a real terminal, line by line."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-q", "-i"], stdin=slave, stdout=slave, stderr=slave, env=environment(), cwd="/", close_fds=True
    )
    os.close(slave)
    seen = b""

    def expect(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            seen += os.read(master, 4096)

    watchdog = threading.Timer(DEADLINE, process.kill)
    watchdog.start()
    try:
        expect(b">>> ")
        os.write(master, b"from procpool import ProcessWasmPool\n")
        os.write(
            master, f"pool = ProcessWasmPool({str(KERNELS)!r}, 1); print('result', pool.call('add', 40, 2))\n".encode()
        )
        expect(b"result 42")
        os.write(master, b"exit()\n")
        assert process.wait(DEADLINE) == 0
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        os.close(master)


def test_does_not_need_stdin_or_the_directory_it_started_in(tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    # Imported first: CPython 3.13 cannot import from a directory that is gone.
    script = (
        f"import os; from procpool import ProcessWasmPool; os.close(0); os.chdir({str(lost)!r}); os.rmdir({str(lost)!r})\n"
        + USE
    )
    for method in ("forkserver", "spawn"):
        lost.mkdir()
        run = run_python("-c", script.replace(", 2)", f", 2, start_method={method!r})", 1))
        assert (run.stdout, run.returncode) == ("3\n", 0), run.stderr


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_other_descriptors_do_not_leak_into_workers(method: str, tmp_path: Path, nothing_left: None) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        with ProcessWasmPool(KERNELS, workers=2, start_method=method) as pool:
            eventually(lambda: pool.stats().idle == 2, "both workers")
            for pid in worker_pids(pool):
                files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                assert not any("secret" in name for name in files)


def test_siblings_share_no_channel(nothing_left: None) -> None:
    """A descriptor that a sibling also holds would never report the end of its worker."""
    with ProcessWasmPool(KERNELS, workers=3) as pool:
        eventually(lambda: pool.stats().idle == 3, "all workers")
        channels = []
        for pid in worker_pids(pool):
            names = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            channels.append({name for name in names if name.startswith(("pipe:", "socket:"))})
        shared = set.intersection(*channels)
        own = [len(names - shared) for names in channels]
        assert own == [3, 3, 3], channels
        assert not (channels[0] - shared) & (channels[1] - shared)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    "end",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os._exit(3)",
        "sys.exit(0)",
        "raise RuntimeError('the end')",
        "signal.raise_signal(signal.SIGINT)",
        "pass",
        "del pool, futures; pool = None",
    ],
)
def test_however_the_parent_ends_nothing_stays(method: str, end: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS + end, method],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd="/",
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) >= 2
    process.communicate(timeout=DEADLINE)
    eventually(lambda: gone(pids), f"the end of {pids}")


def test_ctrl_c_in_a_blocking_call_ends_quickly_and_quietly() -> None:
    """Sent to the whole foreground group, as a terminal does."""
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from procpool import ProcessWasmPool
with ProcessWasmPool({str(MISBEHAVE)!r}, 2) as pool:
    print(*(w.pid for w in pool.stats().workers if w.pid), flush=True)
    try:
        pool.call("spin")
    except KeyboardInterrupt:
        print("interrupted", pool.call("fine", 7), flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) if sys.version_info >= (3, 11) else subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    eventually(lambda: any(psutil.Process(pid).cpu_times().user > 0.1 for pid in pids), "the worker to spin")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert (out, err, process.returncode) == ("interrupted 7\n", "", 0)
    eventually(lambda: gone(pids), "the workers' end")


def test_a_dropped_pool_finishes_its_jobs_and_goes(nothing_left: None) -> None:
    future = ProcessWasmPool(KERNELS, workers=1).submit("fib", 25)
    assert future.result(DEADLINE) == 75025
    assert ProcessWasmPool(KERNELS, workers=1).call("add", 1, 2) == 3


def test_a_forked_child_is_told_and_harms_nothing(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        assert pool.call("add", 1, 2) == 3
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                for way in (pool.call, pool.submit):
                    try:
                        way("add", 1, 2)
                    except PoolClosed as error:
                        os.write(write, str(error).encode())
                pool.shutdown()
                with ProcessWasmPool(KERNELS, workers=1) as mine:
                    os.write(write, str(mine.call("add", 20, 22)).encode())
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(pid, 0)
        with os.fdopen(read) as file:
            said = file.read()
        assert said.count("made before a fork") == 2
        # The child could not compile (its threads did not survive the fork) or it could; both are the child's affair.
        assert [pool.call("add", n, n) for n in range(100)] == [2 * n for n in range(100)]


def test_the_template_may_die(nothing_left: None) -> None:
    before = psutil.Process().children()
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        eventually(lambda: pool.stats().idle == 2, "both workers")
        (template,) = (child for child in psutil.Process().children() if child not in before)
        pids = worker_pids(pool)
        template.kill()
        assert pool.call("add", 1, 2) == 3
        os.kill(pids[0], signal.SIGKILL)
        eventually(lambda: pool.stats().idle == 2 and pids[0] not in worker_pids(pool), "a replacement by a new template")
        assert [pool.call("add", n, n) for n in range(100)] == [2 * n for n in range(100)]


def test_signal_handlers_and_children_of_the_host_are_left_alone(nothing_left: None) -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    with ProcessWasmPool(KERNELS, workers=2) as pool:
        for pid in worker_pids(pool):
            if pid:
                os.kill(pid, signal.SIGKILL)
        assert pool.call("add", 1, 2) == 3
    assert child.wait(DEADLINE) == 7
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


def test_ten_pools_leave_nothing(nothing_left: None) -> None:
    threads = threading.active_count()
    for _ in range(10):
        with ProcessWasmPool(MISBEHAVE, workers=1) as pool:
            assert pool.call("fine", 1) == 1
    eventually(lambda: threading.active_count() <= threads, "the dispatchers' threads to end")


#: Workers that are ready when they are told to be, which is when the parent has failed to start others again and again.
SLOW_STARTS = """
import os, sys
from procpool import ProcessWasmPool

os.mkfifo(sys.argv[1])
gate = os.open(sys.argv[1], os.O_RDWR)
failed = 0

def wait(gate):
    os.read(os.open(gate, os.O_RDONLY), 1)

def hear(event):
    global failed
    if event.kind == "start_failed":
        failed += 1
        if failed == 7:
            os.write(gate, b"x" * 64)

with ProcessWasmPool(sys.argv[2], 30, initializer=wait, initargs=(sys.argv[1],), on_event=hear) as pool:
    print(pool.call("add", 1, 2), failed >= 7)
"""


def test_with_few_descriptors_and_workers_that_start_slowly(tmp_path: Path) -> None:
    """While one starts, it is not known that none can."""
    script = [sys.executable, "-c", SLOW_STARTS, str(tmp_path / "gate"), str(KERNELS)]
    done = run(["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", *script], cwd="/")
    assert (done.stdout, done.returncode) == ("3 True\n", 0), done.stderr


def test_with_few_descriptors() -> None:
    """As many workers as the limit allows serve; the lack is logged."""
    script = "import logging; logging.basicConfig()\n" + USE.replace(", 2)", ", 30)", 1)
    command = ["bash", "-c", 'ulimit -n 64; exec "$0" -c "$1"', sys.executable, script]
    done = run(command, cwd="/")
    assert (done.stdout, done.returncode) == ("3\n", 0), done.stderr
    assert "Too many open files" in done.stderr and "Traceback" not in done.stderr


def test_without_privileges(nothing_left: None) -> None:
    """Started as root, then somebody else: the template was made before, and goes on making workers."""
    if os.getuid() != 0:
        pytest.skip("only root has something to drop")
    script = f"""
import os, signal
from procpool import ProcessWasmPool, WorkerCrashed
pool = ProcessWasmPool({str(KERNELS)!r}, 2)
os.setgid(65534); os.setuid(65534)
assert pool.call("add", 1, 2) == 3
pool.resize(4); pool.wait_ready(20); pool.restart(20)
assert list(pool.map("add", range(100), range(100))) == list(range(0, 200, 2))
assert pool.stats().crashed == 0
pool.shutdown()
print("ok")
"""
    done = run_script(script)
    assert done.stdout == "ok\n", done.stderr


def test_as_the_first_process_of_a_namespace(nothing_left: None) -> None:
    """PID 1 without a reaper: the template reaps the workers, and the parent the template."""
    script = f"""
import os
from procpool import ProcessWasmPool
assert os.getpid() == 1
with ProcessWasmPool({str(KERNELS)!r}, 2) as pool:
    pool.wait_ready(20)
    pool.restart(20)
    assert pool.call("add", 1, 2) == 3
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("ok")
"""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", script]
    try:
        done = run(command)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if "unshare" in done.stderr and "ermi" in done.stderr:
        pytest.skip("needs the right to make a namespace")
    assert done.stdout == "ok\n", done.stderr


def test_workers_die_on_sigterm_and_ignore_sigint(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool:
        (pid,) = worker_pids(pool)
        os.kill(pid, signal.SIGINT)
        assert pool.call("add", 1, 2) == 3 and worker_pids(pool) == [pid]
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: pool.stats().crashed == 1, "the worker to die of it")
        assert pool.call("add", 1, 2) == 3
