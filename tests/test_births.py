"""How workers come into the world in awkward surroundings, and that nothing stays when they cannot."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from bounded import environment, run, run_script
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, eventually, gone, worker_pids

from procpool import PoolClosed, ProcessWasmPool, wire
from procpool.binary import Interface
from procpool.compilation import compile_module
from procpool.files import anonymous_file, seal
from procpool.program import single
from procpool.supervisor.launch import LAUNCHERS, Inheritance, SpawnLauncher
from procpool.supervisor.memory import ProcessMemory

ROOT = FIXTURES.parent
METHODS = pytest.mark.parametrize("method", ["forkserver", "spawn"])
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def make_inheritance(slots: int = 4) -> Inheritance:
    return Inheritance(
        [compile_module(KERNELS).artifact], (), single(Interface()), wire.GuestLimits(), wire.Guest(), 1, slots
    )


# -- the files that workers get -----------------------------------------------------------------------------------------


@linux_only
def test_a_shared_file_cannot_be_cut_off() -> None:
    fd = anonymous_file(b"content")
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 3)
        os.ftruncate(fd, 100)
    finally:
        os.close(fd)


@linux_only
def test_what_is_sealed_cannot_be_changed() -> None:
    fd = anonymous_file(b"content")
    try:
        seal(fd)
        seal(fd)
        for change in (lambda: os.write(fd, b"more"), lambda: os.ftruncate(fd, 100), lambda: mmap.mmap(fd, 0)):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(fd)


@linux_only
def test_what_somebody_writes_to_is_not_taken_for_sealed() -> None:
    fd = anonymous_file(b"content")
    try:
        with mmap.mmap(fd, 0), pytest.raises(BlockingIOError):
            seal(fd)
        seal(fd)
    finally:
        os.close(fd)


@linux_only
def test_memory_of_a_process_keeps_its_length() -> None:
    memory = ProcessMemory(2)
    try:
        for size in (0, 4096, 1 << 50):
            with pytest.raises(PermissionError):
                os.ftruncate(memory.fd, size)
        memory.arena(1)[-1] = memory.payload(1, 3, 10)[9] = memory.board[2 * wire.BOARD_ROW - 1] = 1
        assert not any(map(any, (memory.arena(0), memory.payload(1, 2, 10), memory.payload(0, 3, 10))))
    finally:
        memory.close()


def test_what_is_beyond_the_end_of_memory_is_not_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looked there would die.  A worker that was told of no slots may say all the same that a value is in one."""
    cut = os.ftruncate

    def too_long(fd: int, size: int) -> None:
        if size > wire.PAYLOAD_BYTES:
            raise OSError(errno.EFBIG, "as with a limit on the size of files")
        cut(fd, size)

    monkeypatch.setattr(os, "ftruncate", too_long)
    memory = ProcessMemory(1)
    try:
        with pytest.raises(ValueError, match="slot"):
            memory.payload(0, 2, 10)
        memory.arena(0)[-1] = 1
    finally:
        memory.close()


def test_memory_takes_one_descriptor_and_goes_with_its_last_user(nothing_left: None) -> None:
    others = _mapped()
    memory = ProcessMemory(1)
    files = os.listdir("/proc/self/fd")
    arena, payload = memory.arena(0), memory.payload(0, 2, 5 << 20)
    assert os.listdir("/proc/self/fd") == files
    piece = arena[100:200].cast("I")
    memory.close()
    del arena
    payload[-1] = piece[3] = 7  # nobody has unmapped it
    assert _mapped() - others == 3, "with the board"
    del payload, piece, memory
    eventually(lambda: _mapped() <= others, "all of it to be unmapped")


def _mapped() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:procpool")


def test_nothing_is_mapped_after_the_end(nothing_left: None) -> None:
    """The number of the descriptor may be that of another file by then."""
    memory = ProcessMemory(1)
    memory.close()
    memory.close()
    for late in (lambda: memory.arena(0), lambda: memory.payload(0, 0, 10)):
        with pytest.raises(PoolClosed):
            late()


@pytest.mark.parametrize("make", [make_inheritance, lambda: ProcessMemory(1)])
def test_a_forked_child_closes_what_another_thread_was_using(make: Callable[[], Any], nothing_left: None) -> None:
    made = make()
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with made._using:
            taken.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    pid = os.fork()
    if pid == 0:
        made.close()
        os._exit(7)
    release.set()
    thread.join()
    made.close()
    ended: list[int] = []

    def wait() -> bool:
        ended.extend(os.waitpid(pid, os.WNOHANG))
        return ended[-2] == pid

    try:
        eventually(wait, "the child")
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    assert os.waitstatus_to_exitcode(ended[-1]) == 7


#: Makes something with every limit on descriptors there might be, and sees that no failure leaves one open.
SCARCE = f"""
import os, resource, sys, time
from procpool import ProcessWasmPool, StartupError, wire
from procpool.binary import Interface
from procpool.files import anonymous_file
from procpool.program import single
from procpool.supervisor.launch import LAUNCHERS, Inheritance, reserve_stdio

def inheritance():
    artifact = anonymous_file(b"")
    try:
        return Inheritance([artifact], (), single(Interface()), wire.GuestLimits(), wire.Guest(), 1, 4)
    except BaseException:
        os.close(artifact)
        raise

def launcher(method):
    made = inheritance()
    try:
        LAUNCHERS[method](made).close()
    finally:
        made.close()

def stdio():
    saved = os.dup(0)
    try:
        os.close(0)
        for fd in reserve_stdio():
            os.close(fd)
    except OSError:
        assert not os.path.lexists("/proc/self/fd/0")
        raise
    finally:
        os.dup2(saved, 0)
        os.close(saved)

def pool(method):
    with ProcessWasmPool({str(KERNELS)!r}, 1, start_method=method) as pool:
        assert pool.call("add", 1, 2) == 3

def used():
    return os.listdir("/proc/self/fd")

def attempt():
    eval(sys.argv[1])

first, last, step = map(int, sys.argv[2:])
attempt()
before, hard = used(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
succeeded = []
for limit in range(first, last, step):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        attempt()
        succeeded.append(limit)
    except (OSError, StartupError):
        pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    deadline = time.monotonic() + {DEADLINE}
    while len(used()) > len(before):  # a closed pool's thread sees to it
        assert time.monotonic() < deadline, (limit, used())
print(first not in succeeded and limit in succeeded)
"""


@linux_only
@pytest.mark.parametrize("what", ["inheritance().close()", "launcher('forkserver')", "launcher('spawn')", "stdio()"])
def test_what_cannot_be_made_leaves_no_descriptor(what: str) -> None:
    done = run_script(SCARCE, what, "4", "40", "1", cwd="/")
    assert done.stdout == "True\n", done.stderr


@linux_only
@METHODS
def test_a_pool_that_cannot_be_made_leaves_no_descriptor(method: str) -> None:
    done = run_script(SCARCE, f"pool({method!r})", "13", "34", "2", cwd="/")
    assert done.stdout == "True\n", done.stderr


def test_a_pool_whose_interpreter_is_missing_leaves_nothing() -> None:
    done = run_script(
        f"""
import multiprocessing, os
import psutil
from procpool import ProcessWasmPool, StartupError
multiprocessing.set_executable("/nowhere/python")
for method in ("forkserver", "spawn"):
    before = os.listdir("/proc/self/fd")
    try:
        ProcessWasmPool({str(KERNELS)!r}, 1, start_method=method)
    except StartupError as error:
        print(error)
    while len(os.listdir("/proc/self/fd")) > len(before):  # a closed pool's thread sees to it
        pass
    print(psutil.Process().children())
"""
    )
    line = "no worker can be started: [Errno 2] No such file or directory: '/nowhere/python'\n[]\n"
    assert done.stdout == 2 * line, done.stderr


# -- what children inherit from the host program -----------------------------------------------------------------------


@linux_only
@METHODS
def test_signals_that_the_host_blocks_or_ignores(method: str) -> None:
    done = run_script(
        f"""
import os, signal, sys, time
everything = signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP}}
signal.pthread_sigmask(signal.SIG_BLOCK, everything)
for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGIO):
    signal.signal(number, signal.SIG_IGN)
import psutil
from procpool import ProcessWasmPool
with ProcessWasmPool({str(KERNELS)!r}, 1, start_method={method!r}) as pool:
    for child in psutil.Process().children(recursive=True):
        for line in open(f"/proc/{{child.pid}}/status"):
            if line.startswith("SigBlk"):
                print(int(line.split()[1], 16))
    for stats in pool.stats().workers:
        os.kill(stats.pid, signal.SIGTERM)
    while not pool.stats().crashed:
        time.sleep(.001)
    print(pool.call("add", 1, 2))
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == everything
"""
    )
    assert done.stdout.split() == (["0", "0", "3"] if method == "forkserver" else ["0", "3"]), done.stderr


@linux_only
@METHODS
def test_ctrl_c_does_not_hit_a_child_at_birth(method: str, nothing_left: None) -> None:
    """The terminal sends it to all, and a child that is only just starting cannot ignore it yet."""
    inheritance = make_inheritance()
    launcher = LAUNCHERS[method](inheritance)
    before = set(psutil.Process().children())
    with open(os.devnull) as some:
        launcher.launch(0, 0, [some.fileno()] * wire.descriptors(1))
    (child,) = set(psutil.Process().children()) - before
    try:
        status = Path(f"/proc/{child.pid}/status").read_text()
        (blocked,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk"))
        (ignored,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn"))
        assert (blocked | ignored) >> signal.SIGINT - 1 & 1
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        launcher.close()
        inheritance.close()


@linux_only
@METHODS
def test_programs_that_a_worker_starts_inherit_nothing(method: str, nothing_left: None) -> None:
    """A channel that such a program holds would hide the end of the worker from us."""

    def start(instance: object) -> list[str]:
        command = "for fd in /proc/self/fd/*; do readlink $fd; done; true"
        return subprocess.check_output(["sh", "-c", command], close_fds=False, text=True).splitlines()

    with ProcessWasmPool(KERNELS, workers=1, start_method=method) as pool:
        files = pool.submit(start).result(DEADLINE)
    assert not [name for name in files if "memfd" in name or "socket" in name], files
    assert len([name for name in files if "pipe" in name]) <= 3, files


# -- programs that are no Python interpreter ---------------------------------------------------------------------------


@METHODS
def test_a_frozen_program_is_told_what_to_do(method: str) -> None:
    done = run_script(
        f"""
import multiprocessing, os, sys
real, sys.executable, sys.frozen = sys.executable, "/frozen/program", True
multiprocessing.set_executable(sys.executable)
from procpool import ProcessWasmPool, StartupError
files = os.listdir("/proc/self/fd")
try:
    ProcessWasmPool({str(KERNELS)!r}, 1, start_method={method!r})
except StartupError as error:
    print(error)
assert len(os.listdir("/proc/self/fd")) == len(files)
multiprocessing.set_executable(real)
sys.path[:] = [entry for entry in sys.path if "python3" not in entry or "site-packages" in entry]  # has no library
with ProcessWasmPool({str(KERNELS)!r}, 1, start_method={method!r}) as pool:
    print(pool.call("add", 1, 2))
"""
    )
    assert "frozen" in done.stdout and "multiprocessing.set_executable()" in done.stdout
    assert done.stdout.endswith("\n3\n"), done.stderr


@METHODS
def test_a_program_that_runs_itself_as_its_worker_does_so_once(method: str, tmp_path: Path) -> None:
    program, runs = tmp_path / "program", tmp_path / "runs"
    program.write_text(
        f"""#!{sys.executable}
import os, sys
sys.executable = {str(program)!r}
depth = int(os.environ.pop("DEPTH", "0"))
os.environ["DEPTH"] = str(depth + 1)
with open({str(runs)!r}, "a") as file:
    print(depth, file=file)
if depth > 1:
    sys.exit("a grandchild")
from procpool import ProcessWasmPool
ProcessWasmPool({str(KERNELS)!r}, 1, start_method={method!r})
"""
    )
    program.chmod(0o755)
    done = run([program])
    assert done.returncode == 1 and "StartupError: no worker can be started" in done.stderr
    assert "started by a pool to be its worker" in done.stderr and "multiprocessing.set_executable()" in done.stderr
    assert set(runs.read_text().split()) == {"0", "1"}


def test_a_worker_may_have_a_pool(nothing_left: None) -> None:
    def nested(instance: object) -> int:
        from procpool import ProcessWasmPool

        with ProcessWasmPool(KERNELS, workers=1) as pool:
            return pool.call("add", 1, 2)  # type: ignore[no-any-return]

    with ProcessWasmPool(KERNELS, workers=1, start_method="spawn") as pool:
        assert pool.submit(nested).result(2 * DEADLINE) == 3


# -- the end of the parent ---------------------------------------------------------------------------------------------


@linux_only
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open")
@pytest.mark.parametrize(
    ("method", "busy", "more"),
    [
        ("forkserver", "spin", ""),
        ("forkserver", "idle", ""),
        ("forkserver", "hold the GIL", ""),
        ("forkserver", "spin", "template.kill(); template.wait()"),
        ("spawn", "spin", ""),
        ("spawn", "idle", ""),
        ("spawn", "hold the GIL", ""),
    ],
)
def test_a_fork_that_python_does_not_see_keeps_no_worker_alive(method: str, busy: str, more: str) -> None:
    """It has copies of all that the parent had open, the lifeline and the channels too."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"""
import ctypes, os, signal, time
import psutil
from procpool import ProcessWasmPool
def hold(instance):
    ctypes.PyDLL(None).sleep(1000)
pool = ProcessWasmPool({str(MISBEHAVE)!r}, 2, start_method={method!r})
pool.wait_ready({DEADLINE})
template = psutil.Process().children()[0]
pids = [child.pid for child in psutil.Process().children(recursive=True)]
if {busy!r} != "idle":
    futures = [pool.submit("spin" if {busy!r} == "spin" else hold) for _ in range(4)]
    while pool.stats().busy < 2:
        pass
unseen = ctypes.PyDLL(None).fork()
if not unseen:
    time.sleep(1000)
{more}
print(unseen, *pids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    assert process.stdout is not None
    unseen, *pids = (int(word) for word in process.stdout.readline().split())
    try:
        process.wait(DEADLINE)
        eventually(lambda: gone(pids), f"the end of {pids}")
        assert psutil.pid_exists(unseen)
    finally:
        os.kill(unseen, signal.SIGKILL)
        for pid in pids:
            if not gone([pid]):
                os.kill(pid, signal.SIGKILL)
        process.stdout.close()


# -- spawning without threads ------------------------------------------------------------------------------------------


def _refuse(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def _launch(launcher: SpawnLauncher) -> None:
    with open(os.devnull) as some:
        launcher.launch(0, 0, [some.fileno()] * wire.descriptors(1))


def _reports(launcher: SpawnLauncher) -> list[tuple[int, ...]]:
    """LAUNCHED and EXITED, for a worker that has no proper channels."""
    reports: list[tuple[int, ...]] = []

    def look() -> bool:
        try:
            reports.append(wire.LAUNCH_EVENT.unpack(launcher.events.recv(wire.LAUNCH_EVENT.size)))
        except BlockingIOError:
            pass
        return len(reports) == 2

    eventually(look, "both reports")
    return reports


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open")
def test_spawning_needs_no_thread(monkeypatch: pytest.MonkeyPatch, nothing_left: None) -> None:
    inheritance = make_inheritance()
    launcher = SpawnLauncher(inheritance)
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    _launch(launcher)
    (launched, zero, pid), (exited, one, code) = _reports(launcher)
    assert (launched, zero, exited, one) == (wire.LAUNCHED, 0, wire.EXITED, 0) and pid > 0 and code == 1
    launcher.close()
    inheritance.close()


def test_spawning_with_neither_threads_nor_pidfds(monkeypatch: pytest.MonkeyPatch, nothing_left: None) -> None:
    inheritance = make_inheritance()
    launcher = SpawnLauncher(inheritance)
    before = set(psutil.Process().children())
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(threading.Thread, "start", _refuse)
    with pytest.raises(OSError, match="can't start new thread"):
        _launch(launcher)
    assert set(psutil.Process().children()) <= before
    monkeypatch.undo()
    launcher.close()
    inheritance.close()


@pytest.mark.parametrize("end", [False, True])
def test_a_pool_without_pidfds(end: bool, monkeypatch: pytest.MonkeyPatch, nothing_left: None) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with ProcessWasmPool(KERNELS, workers=2, start_method="spawn") as pool:
        pool.wait_ready(DEADLINE)
        os.kill(worker_pids(pool)[0], signal.SIGKILL)
        eventually(lambda: pool.stats().crashed == 1, "the death to be noticed")
        assert pool.call("add", 1, 2) == 3
        if end:
            pool.terminate()


def test_where_the_host_reaps_our_children(nothing_left: None) -> None:
    done = run_script(
        f"""
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from procpool import ProcessWasmPool
with ProcessWasmPool({str(KERNELS)!r}, 2, start_method="spawn") as pool:
    pool.wait_ready({DEADLINE})
    os.kill(pool.stats().workers[0].pid, signal.SIGKILL)
    while pool.stats().crashed == 0:
        pass
    pool.wait_ready({DEADLINE})
    print(pool.call("add", 1, 2))
"""
    )
    assert done.stdout == "3\n", done.stderr


def test_more_births_than_a_socket_holds(nothing_left: None) -> None:
    """The one who launches is the one who reads, so it must not wait for itself."""
    exits = SpawnLauncher(inheritance := make_inheritance()).events
    for n in range(5000):
        exits.put(wire.LAUNCH_EVENT.pack(wire.LAUNCHED, n, n))
    assert [wire.LAUNCH_EVENT.unpack(exits.recv(wire.LAUNCH_EVENT.size))[1] for _ in range(5000)] == list(range(5000))
    with pytest.raises(BlockingIOError):
        exits.recv(wire.LAUNCH_EVENT.size)
    exits.close()
    inheritance.close()


@linux_only
@pytest.mark.parametrize("spare", [3, 1, 0])
def test_spawning_where_no_thread_can_be_started(spare: int) -> None:
    """With a real limit on threads: a worker needs two of them, and the log of its death one here.

    A pool that has worked waits until there are some.
    """
    script = f"""
import os, resource, signal, time
import psutil
from procpool import ProcessWasmPool, StartupError
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
pool = ProcessWasmPool({str(KERNELS)!r}, 1, start_method="spawn")
(worker,) = psutil.Process().children()
limit = psutil.Process().num_threads() + {spare}
resource.setrlimit(resource.RLIMIT_NPROC, (limit, hard))
worker.kill()
try:
    while pool.stats().crashed == 0 or ({spare} < 2 and pool.stats().start_failures == 0):
        time.sleep(.001)
    if {spare} < 2:
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
    print(pool.submit("add", 1, 2).result({DEADLINE}))
    pool.terminate()
except Exception as error:
    print(type(error).__name__)
pool.terminate()
print(psutil.Process().children())
"""
    user = str(100_000 + os.getpid())  # so that nobody else counts
    command = ["setpriv", "--ruid", user, "--bounding-set", "-sys_resource,-sys_admin", sys.executable, "-c", script]
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    try:
        done = run(command, cwd="/")
    except FileNotFoundError:
        pytest.skip("needs setpriv")
    if done.stderr.startswith("setpriv"):
        pytest.skip(done.stderr)
    assert done.stdout == "3\n[]\n", done.stderr


# -- Ctrl-C at the end -------------------------------------------------------------------------------------------------


@linux_only
@METHODS
@pytest.mark.parametrize("busy", ["spin", "hold the GIL"])
def test_ctrl_c_during_the_exit_of_the_interpreter_leaves_nothing(method: str, busy: str) -> None:
    """However often, and whenever it comes."""
    for attempt in range(3):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"""
import ctypes
import psutil
from procpool import ProcessWasmPool
def hold(instance):
    ctypes.PyDLL(None).sleep(1000)
pool = ProcessWasmPool({str(MISBEHAVE)!r}, 2, start_method={method!r})
pool.wait_ready({DEADLINE})
futures = [pool.submit("spin" if {busy!r} == "spin" else hold) for _ in range(4)]
while pool.stats().busy < 2:
    pass
print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
""",
            ],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd="/",
        )
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        ended = threading.Event()
        for _ in range(2):
            ended.wait(0.002 * attempt)
            process.send_signal(signal.SIGINT)
        process.wait(DEADLINE)
        process.stdout.close()
        eventually(lambda pids=pids: gone(pids), f"the end of {pids}")  # type: ignore[misc]
