"""Which pools lock their workers, what works in them all the same, and what is said where something is missing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bounded import environment, run_script
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, busy_pid, eventually, worker_pids

from procpool import BadArguments, BadWasi, CallTimeout, ProcessWasmPool, WasiConfig, WorkerCrashed, confinement, wire
from procpool.worker.sandbox import seccomp

LINUX = sys.platform.startswith("linux") and platform.machine() in ("x86_64", "aarch64")
locks = pytest.mark.skipif(not LINUX, reason="workers are locked on Linux, on x86_64 and aarch64")
METHODS = ["forkserver", "spawn"]
COMMAND = FIXTURES / "command.wasm"


def nothing(*_: Any) -> int:
    return 0


# -- who is locked ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "callables"),
        ({"sandbox": "off", "callables": False}, "sandbox='off'"),
        ({"initializer": nothing, "callables": False}, "initializer"),
        ({"start": [nothing], "callables": False}, "start or warm"),
    ],
)
def test_why_a_pool_is_not_locked(options: dict[str, Any], why: str) -> None:
    with ProcessWasmPool(KERNELS, workers=1, **options) as pool:
        assert not pool.sandbox.locked and why in pool.sandbox.reason
        assert why in str(pool.sandbox)
        assert pool.stats().sandbox == pool.sandbox


def test_a_host_function_keeps_the_default_from_locking() -> None:
    module = '(module (import "env" "f" (func $f (result i32))) (func (export "g") (result i32) (call $f)))'
    with ProcessWasmPool(module, workers=1, callables=False, imports={"env": {"f": nothing}}) as pool:
        assert not pool.sandbox.locked and "imports" in pool.sandbox.reason
    if LINUX:
        with ProcessWasmPool(module, workers=1, imports={"env": {"f": nothing}}, sandbox="strict") as pool:
            assert pool.sandbox.locked and pool.call("g") == 0


def test_the_switch_in_the_environment() -> None:
    code = f"""
from procpool import ProcessWasmPool
if __name__ == "__main__":
    with ProcessWasmPool({str(KERNELS)!r}, 1, callables=False) as pool:
        print(pool.sandbox)
    """
    done = run_script(code, env={**environment(), "PROCPOOL_SANDBOX": "off"})
    assert "PROCPOOL_SANDBOX=off" in done.stdout, done.stderr


# -- what works ------------------------------------------------------------------------------------------------------------


@locks
@pytest.mark.parametrize("method", METHODS)
def test_a_locked_pool_works(method: Any, nothing_left: None) -> None:
    events: list[Any] = []
    with ProcessWasmPool(
        KERNELS, workers=2, instances=2, callables=False, start_method=method, on_event=events.append
    ) as pool:
        pool.wait_ready(DEADLINE)
        assert pool.sandbox.locked and not set(pool.sandbox.missing) - {"namespaces"}, pool.sandbox
        assert [pool.call("add", n, 1) for n in range(100)] == list(range(1, 101))
        assert list(pool.map("add", range(5000), range(5000))) == list(range(0, 10000, 2))
        with pool.instance() as lease:
            assert lease.call("add", 1, 2) == 3
            lease.memory[0:3] = b"abc"
            assert bytes(lease.memory[0:3]) == b"abc"
        pool.restart(DEADLINE)
        assert pool.submit("add", 1, 2).result(DEADLINE) == 3
        assert pool.report().workers and pool.stats().workers[0].rss > 0
    assert [event.kind for event in events].count("locked") == 1


@locks
def test_a_callable_is_refused_where_workers_are_locked_for_that() -> None:
    with ProcessWasmPool(FIXTURES / "sha256.wasm", workers=1, callables=False, wasi=WasiConfig()) as pool:
        for give in (pool.submit, pool.map):
            with pytest.raises(BadArguments, match="callables=False"):
                give(nothing, [1])  # type: ignore[operator]
        assert len(pool.call_bytes("sha256", b"abc", returns=32)) == 32, "code of ours may run"


@locks
def test_time_is_kept_and_the_dead_are_replaced() -> None:
    with ProcessWasmPool(MISBEHAVE, workers=1, callables=False, kill_grace=0.5) as pool:
        with pytest.raises(CallTimeout):
            pool.call("spin", timeout=0.3)
        assert pool.sandbox.locked
        job = pool.submit("spin")
        os.kill(busy_pid(pool), 9)
        with pytest.raises(WorkerCrashed):
            job.result(DEADLINE)


@locks
def test_commands_see_what_the_pool_names_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"text")
    config = WasiConfig(preopens={"/d": (tmp_path, "rw")}, env={"A": "b"})
    with ProcessWasmPool(COMMAND, workers=1, callables=False, wasi=config) as pool:
        assert pool.sandbox.locked and not set(pool.sandbox.missing) - {"namespaces"}, pool.sandbox
        assert pool.run(["cmd", "one"], stdin=b"abc").stdout is not None
        assert pool.run(["cmd"], stdin=tmp_path / "in").returncode == 0
        pool.run(["cmd"], stdout=tmp_path / "out")
        assert (tmp_path / "out").exists()
        for wrong in ({"preopens": {"/e": "/etc"}}, {"stdin": "/etc/passwd"}, {"cwd": "/"}, {"stdout": "inherit"}):
            with pytest.raises(BadWasi, match="locked"):
                pool.run(["cmd"], **wrong)  # type: ignore[arg-type]


@locks
@pytest.mark.parametrize("method", METHODS)
def test_snapshots_are_taken_and_put_back(method: Any) -> None:
    module = """(module (memory (export "memory") 1) (func (export "init") (i32.store (i32.const 0) (i32.const 7)))
      (func (export "next") (result i32)
        (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1))) (i32.load (i32.const 0))))"""
    options: dict[str, Any] = {"isolation": "snapshot", "warm": "init", "start_method": method, "cache": False}
    with ProcessWasmPool(module, workers=1, callables=False, **options) as pool:
        assert pool.sandbox.locked
        assert [pool.call("next") for _ in range(50)] == [8] * 50


# -- what is missing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(("files", "changes"), [(False, False), (True, False), (True, True)])
def test_the_program_is_one_that_the_kernel_takes(machine: str, files: bool, changes: bool) -> None:
    code = seccomp.program(1234, files, changes, machine)
    assert len(code) % 8 == 0 and len(code) // 8 <= 4096


@pytest.mark.parametrize("machine", ["", "riscv64", "ppc64le"])
def test_other_machines_are_told(machine: str) -> None:
    with pytest.raises(seccomp.Missing, match="not known"):
        seccomp.program(1, False, False, machine)


@locks
def test_strict_refuses_and_default_says_what_is_missing() -> None:
    """In a process tree that may not use Landlock: an outer filter has it refused, as an old kernel does."""
    code = f"""
import ctypes, os, struct
from procpool import ProcessWasmPool, SandboxUnavailable
if __name__ == "__main__":
    load, equal, ret = 0x20, 0x15, 0x06
    code = b"".join(struct.pack("<HBBI", *each) for each in (
        (load, 0, 0, 0), (equal, 0, 1, 444), (ret, 0, 0, 0x50000 | 38), (ret, 0, 0, 0x7FFF0000)))
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(4, code))) == 0
    with ProcessWasmPool({str(KERNELS)!r}, 1, callables=False) as pool:
        assert pool.call("add", 1, 2) == 3
        print(pool.sandbox)
        assert "seccomp" in pool.sandbox.enforced
    try:
        ProcessWasmPool({str(KERNELS)!r}, 1, sandbox="strict")
    except SandboxUnavailable as error:
        print("refused:", error)
    """
    done = run_script(code)
    assert "landlock: MISSING: the kernel has no Landlock" in done.stdout, done.stdout + done.stderr
    assert "refused: sandbox='strict' cannot be had: landlock: the kernel has no Landlock" in done.stdout


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{", b'{"x": "y"}', b'{"seccomp": 1}', b'{"seccomp": "%s"}' % (b"x" * 2000), b"[" * 10000, b"\xff"],
)
def test_nonsense_about_it_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="says of itself"):
        wire.confined_from_bytes(payload)


def test_variables_that_are_not_listed_stay_with_the_program() -> None:
    given = {"LANG": "C", "LC_ALL": "C", "PYTHONPATH": "x", "HOME": "/h", "AWS_SECRET_ACCESS_KEY": "s", "PATH": "p"}
    assert set(confinement.listed(given)) == {"LANG", "LC_ALL", "PYTHONPATH"}


# -- from outside ----------------------------------------------------------------------------------------------------------

#: System calls that a locked worker makes while it serves; strace names them as the kernel does.
_TRACED = """
from procpool import ProcessWasmPool, WasiConfig
if __name__ == "__main__":
    with ProcessWasmPool({kernels!r}, 1, callables=False, start_method="spawn") as pool:
        assert sum(pool.map("add", range(3000), range(3000))) == 8997000
        assert [pool.call("add", 1, n) for n in range(200)][-1] == 200
    with ProcessWasmPool({command!r}, 1, callables=False, wasi=WasiConfig(), start_method="spawn") as pool:
        for _ in range(3):
            pool.run(["cmd", "x"], stdin=b"abc")
"""
#: The C library asks there, and does with another answer if it is refused.
_HOW_MANY_CORES = ('"/proc/stat"', '"/sys/devices/system/cpu/online"', '"/proc/self/cgroup"')


@locks
def test_under_strace_nothing_but_allowed_calls_is_seen(tmp_path: Path) -> None:
    try:
        subprocess.run(["strace", "-V"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("strace is not installed")
    program, log = tmp_path / "program.py", tmp_path / "log"
    program.write_text(_TRACED.format(kernels=str(KERNELS), command=str(COMMAND)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", str(log), sys.executable, str(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    locked: set[str] = set()
    refused, seen = set[str](), set[str]()
    for line in log.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        name = rest.strip().partition("(")[0]
        if name == "seccomp" and "SET_MODE_FILTER" in rest and "= 0" in rest:
            locked.add(thread)
        elif thread in locked and "(" in rest and name.isidentifier():
            seen.add(name)
            if "= -1 EPERM" in rest:
                refused.add(rest)
    assert len(locked) == 2 and {"read", "write"} <= seen
    refused = {line for line in refused if not any(path in line for path in _HOW_MANY_CORES)}
    assert not refused, "a worker that serves is refused nothing"


def _write_to_pipes(instance: Any) -> int:
    written = 0
    for fd in range(3, 100):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
                written += os.write(again, b"x")
    return written


@locks
@pytest.mark.parametrize("start_method", METHODS)
def test_a_byte_in_a_pipe_that_a_worker_can_open_ends_no_other(start_method: Any, tmp_path: Path) -> None:
    """The lifeline is one pipe for all: what came in there would be the end of the pool, and of all new workers."""
    how: dict[str, Any] = {"wasi": WasiConfig(preopens={"d": tmp_path}), "start_method": start_method, "timeout": DEADLINE}
    with ProcessWasmPool(
        KERNELS, 2, sandbox="strict", initializer=nothing, **how
    ) as pool:  # which brings this module along
        pool.wait_ready(DEADLINE)
        before = worker_pids(pool)
        assert pool.submit(_write_to_pipes).result() > 0, "it has the pipe of its own jobs"
        assert worker_pids(pool) == before
        pool.restart(DEADLINE)
        assert not set(worker_pids(pool)) & set(before)
        assert pool.call("add", 1, 2) == 3


@locks
@pytest.mark.parametrize("start_method", METHODS)
def test_a_locked_worker_dies_with_the_program(start_method: str) -> None:
    """Also one that holds the GIL and hears nothing, and without the pipe that others watch."""
    program = f"""
from procpool import ProcessWasmPool
with ProcessWasmPool({str(MISBEHAVE)!r}, 2, callables=False, start_method={start_method!r}) as pool:
    assert pool.sandbox.locked
    running = [pool.submit("spin") for _ in range(2)]
    print(*(worker.pid for worker in pool.stats().workers), flush=True)
    running[0].result()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment(), text=True) as running:
        assert running.stdout is not None
        pids = [int(each) for each in running.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(_lives, pids))
        running.send_signal(signal.SIGKILL)
        running.wait(DEADLINE)
        eventually(lambda: not any(map(_lives, pids)), "its workers to be gone")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
