"""WASI commands and reactors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, FIXTURES, KERNELS, eventually, worker_pids

from procpool import (
    BadWasi,
    CallTimeout,
    CompletedRun,
    GuestExit,
    MemoryType,
    MissingImport,
    OutputLimit,
    ProcessWasmPool,
    RunFailed,
    StartupError,
    UnknownExport,
    WasiConfig,
    WasmTrap,
    wants_instance,
)

COMMAND = FIXTURES / "command.wasm"


@pytest.fixture(scope="module")
def command() -> Any:
    with ProcessWasmPool(COMMAND, workers=2, wasi=WasiConfig(), kill_grace=0.3) as pool:
        pool.wait_ready(DEADLINE)
        yield pool


# -- arguments and environment -----------------------------------------------------------------------------------------


def test_arguments_and_environment(command: ProcessWasmPool) -> None:
    done = command.run(["prog", "one", "two three", "", "ünï"], env={"A": "1", "EMPTY": ""}, text=True)
    assert done == CompletedRun(("prog", "one", "two three", "", "ünï"), 0, done.stdout, "")
    assert done.stdout.splitlines() == ["arg prog", "arg one", "arg two three", "arg ", "arg ünï", "env A=1", "env EMPTY="]


def test_nothing_is_inherited(command: ProcessWasmPool) -> None:
    assert command.run().stdout == b"", "no arguments, no environment"
    assert command.run(["x", "upper"]).stdout == b"", "no input"
    for path in ("/", ".", "/etc", "/proc", str(FIXTURES)):
        done = command.run(["x", "walk", path], text=True)
        assert done.stdout == f"{path}: No such file or directory\n"


def test_a_megabyte_of_arguments(command: ProcessWasmPool) -> None:
    args = ["prog", *("x" * 1000 for _ in range(1000))]
    assert len(command.run(args).stdout) == sum(len(arg) + 5 for arg in args)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"args": ["a\0b"]}, "NUL byte"),
        ({"args": [b"\xff"]}, "not UTF-8"),
        ({"args": ["\udcff"]}, "not UTF-8"),
        ({"args": "prog"}, r"did you mean \['prog'\]"),
        ({"args": [1]}, r"1 \(int\) is no string"),
        ({"env": {"A=B": "1"}}, "cannot be the name"),
        ({"env": {"": "1"}}, "cannot be the name"),
        ({"env": {"A": "\0"}}, "NUL byte"),
        ({"stdin": 5}, "stdin must be"),
        ({"stdin": "/nonexistent"}, "cannot be read"),
        ({"stdin": "/tmp/\ud800"}, "not UTF-8"),
        ({"stdin": "/tmp/\0"}, "NUL byte"),
        ({"stdout": "/tmp/\ud800"}, "not UTF-8"),
        ({"stderr": "/tmp/\ud800/x"}, "not UTF-8"),
        ({"stdout": "/tmp/procpool\0x"}, "NUL byte"),
        ({"cwd": "/tmp/\ud800"}, "not UTF-8"),
        ({"stdout": 5}, "stdout must be"),
        ({"stdout": "/nonexistent/file"}, "cannot be written"),
        ({"preopens": {"/": "/nonexistent"}}, "is no directory"),
        ({"preopens": {"/": ("/tmp", "wr")}}, "mode must be"),
        ({"cwd": "/nonexistent"}, "is no directory"),
        ({"max_output": 0}, "max_output must be"),
    ],
)
def test_what_cannot_be_given_is_refused_at_once(command: ProcessWasmPool, options: Any, message: str) -> None:
    with pytest.raises(BadWasi, match=message):
        command.run(**options)


def test_the_pools_configuration_is_checked_at_construction(tmp_path: Path, nothing_left: None) -> None:
    with pytest.raises(BadWasi, match="is no directory"):
        ProcessWasmPool(COMMAND, wasi=WasiConfig(preopens={"/": tmp_path / "nope"}))
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.getuid():
        with pytest.raises(BadWasi, match="asked to be writable"):
            ProcessWasmPool(COMMAND, wasi=WasiConfig(preopens={"/": (locked, "rw")}))
    with pytest.raises(MissingImport, match=r"(?s)wasi_snapshot_preview1.*wasi=WasiConfig"):
        ProcessWasmPool(COMMAND)


def test_what_the_pool_says_and_a_run_changes(tmp_path: Path, nothing_left: None) -> None:
    base = WasiConfig(args=["base", "a"], env={"X": "1", "Y": "2"}, stdin=b"base", preopens={"/d": tmp_path})
    (tmp_path / "file").write_text("12345")
    with ProcessWasmPool(COMMAND, workers=1, wasi=base) as pool:
        assert pool.run(text=True).stdout.splitlines() == ["arg base", "arg a", "env X=1", "env Y=2"]
        assert pool.run(env={"Y": "3"}, text=True).stdout.splitlines()[2:] == ["env X=1", "env Y=3"]
        assert pool.run(["b", "upper"]).stdout == b"BASE"
        assert pool.run(["b", "upper"], stdin=b"other").stdout == b"OTHER"
        assert pool.run(["b", "walk", "/d"]).stdout == b"/d/file 5\n"


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_filter(command: ProcessWasmPool, tmp_path: Path) -> None:
    for size in (0, 1, 65536, 3_000_000):
        data = os.urandom(size // 2).hex().encode()
        assert command.run(["x", "upper"], stdin=data).stdout == data.upper()
    path = tmp_path / "in"
    path.write_bytes(b"from a file")
    assert command.run(["x", "upper"], stdin=path).stdout == b"FROM A FILE"


def test_streams_to_files_nowhere_and_as_lines(command: ProcessWasmPool, tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = command.run(["x", "upper"], stdin=b"abc", stdout=target, stderr=None)
    assert (done.stdout, done.stderr, target.read_bytes()) == (None, None, b"ABC")
    lines: list[str] = []
    done = command.run(["x", "lines", "1000"], stdout=lines.append)
    assert lines == [*(f"line {n}" for n in range(1000)), "no end"] and done.stdout is None


def test_lines_come_while_it_runs(command: ProcessWasmPool) -> None:
    seen, lines = threading.Event(), []

    def line(text: str) -> None:
        lines.append(text)
        seen.set()

    future = command.submit_run(["x", "spin"], stdout=line)
    assert seen.wait(DEADLINE) and lines == ["spinning"] and not future.done()
    assert future.cancel()
    eventually(lambda: command.stats().idle == 2, "the worker to be free again")


def test_too_much_output_stops_the_guest(command: ProcessWasmPool) -> None:
    with pytest.raises(OutputLimit, match="more than 100000 bytes to stdout and was stopped") as caught:
        command.run(["x", "flood"], max_output=100_000)
    assert caught.value.stdout is not None and len(caught.value.stdout) == 100_000
    assert command.run(["x", "upper"], stdin=b"next").stdout == b"NEXT"
    assert command.run(["x", "upper"], stdin=b"a" * 100_000, max_output=100_000).returncode == 0


def test_too_much_output_is_said_however_much_it_is(command: ProcessWasmPool) -> None:
    most = 20 << 20  # beyond what an exception's own pickle may take on its way
    with pytest.raises(OutputLimit, match=f"more than {most} bytes to stdout and was stopped") as caught:
        command.run(["x", "flood"], max_output=most, timeout=DEADLINE)
    assert len(caught.value.stdout) == most
    (error,) = command.run_map([b""], args=["x", "flood"], max_output=most, timeout=DEADLINE, return_exceptions=True)
    assert isinstance(error, OutputLimit) and len(error.stdout) == most


def test_what_was_printed_too_much_is_text_where_text_is_asked_for(command: ProcessWasmPool) -> None:
    with pytest.raises(OutputLimit) as caught:
        command.run(["x", "flood"], max_output=100_000, text=True, timeout=DEADLINE)
    assert isinstance(caught.value.stdout, str) and len(caught.value.stdout) == 100_000
    assert caught.value.stderr == ""


def test_too_much_output_for_a_line_function_stops_the_guest_too(command: ProcessWasmPool) -> None:
    lines: list[str] = []
    with pytest.raises(OutputLimit, match="more than 100000 bytes to stdout and was stopped") as caught:
        command.run(["x", "flood"], stdout=lines.append, max_output=100_000, timeout=DEADLINE)
    assert caught.value.stdout is None
    assert lines == ["x" * 1023] * (100_000 // 1024)  # and no more
    lines.clear()
    command.run(["x", "upper"], stdin=b"a" * 99_999 + b"\n", stdout=lines.append, max_output=100_000)
    assert lines == ["A" * 99_999]


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_exit_codes(command: ProcessWasmPool) -> None:
    for code in (0, 1, 42, 125, 126, 255, 256, 70_000, -1):
        assert command.run(["x", "exit", str(code)]).returncode == code % (1 << 32)
    with pytest.raises(RunFailed, match="exited with code 42") as caught:
        command.run(["x", "exit", "42"], check=True)
    assert caught.value.returncode == 42
    done = command.run(["x", "exit", "3"])
    with pytest.raises(RunFailed):
        done.check_returncode()


def test_exit_codes_of_calls_and_start_functions() -> None:
    module = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (func $s (call $exit (i32.const 255))) (func (export "leave") (call $s)) %s)"""
    with ProcessWasmPool(module % "", workers=1, wasi=WasiConfig()) as pool:
        for _ in range(2):
            with pytest.raises(GuestExit) as caught:
                pool.call("leave")
            assert caught.value.code == 255
    with pytest.raises(StartupError) as failed:
        ProcessWasmPool(module % "(start $s)", workers=1, wasi=WasiConfig())
    assert isinstance(failed.value.__cause__, GuestExit)
    assert failed.value.__cause__.code == 255


def test_a_trap_comes_with_what_was_printed(command: ProcessWasmPool) -> None:
    with pytest.raises(WasmTrap, match="unreachable") as caught:
        command.run(["x", "abort"])
    assert caught.value.stdout == b""


def test_a_timeout_comes_with_what_was_printed(command: ProcessWasmPool) -> None:
    with pytest.raises(CallTimeout, match="x ran longer") as caught:
        command.run(["x", "spin"], timeout=0.3)
    assert caught.value.stdout == b"spinning\n" and caught.value.stderr == b"for ever\n"
    pids = worker_pids(command)
    with pytest.raises(CallTimeout) as caught:
        command.run(["x", "sleep", "1000"], timeout=0.3, text=True)
    assert caught.value.stdout == "asleep\n"
    # It sleeps in the host, where nothing but a kill ends it.
    eventually(lambda: worker_pids(command) != pids and command.stats().idle == 2, "the sleeper to be replaced")
    assert command.run(["x", "upper"], stdin=b"next").stdout == b"NEXT"


def test_commands_are_disposable(command: ProcessWasmPool) -> None:
    outcomes = [command.submit_run(["x", "upper"], stdin=f"{n}".encode()) for n in range(300)]
    assert [future.result(DEADLINE).stdout for future in outcomes] == [f"{n}".encode() for n in range(300)]


def test_many_by_map(command: ProcessWasmPool) -> None:
    blobs = [os.urandom(20).hex().encode() for _ in range(200)]
    assert [done.stdout for done in command.run_map(blobs, args=["x", "upper"])] == [blob.upper() for blob in blobs]
    codes = command.run_map([["x", "exit", str(n % 5)] for n in range(50)])
    assert [done.returncode for done in codes] == [n % 5 for n in range(50)]
    mixed = list(command.run_map([["x", "exit", "1"], ["x", "abort"], ["x\0"]], return_exceptions=True, check=True))
    assert [type(each) for each in mixed] == [RunFailed, WasmTrap, BadWasi]


# -- files -------------------------------------------------------------------------------------------------------------


def test_directories_are_read_only_unless_said(command: ProcessWasmPool, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_text("123")
    (tmp_path / "other").write_text("1")
    found = command.run(["x", "walk", "/data"], preopens={"/data": tmp_path}, text=True).stdout
    assert sorted(found.splitlines()) == ["/data/other 1", "/data/sub/file 3"]
    done = command.run(["x", "write", "/data/new", "text"], preopens={"/data": tmp_path}, text=True)
    assert done.returncode == 1 and "/data/new" in done.stderr and not (tmp_path / "new").exists()
    done = command.run(["x", "write", "/data/new", "text"], preopens={"/data": (tmp_path, "rw")})
    assert done.returncode == 0 and (tmp_path / "new").read_text() == "text"
    done = command.run(["x", "write", "here", "text"], cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "here").read_text() == "text"
    for outside in ("/data/..", "/data/../other", "/data/./../."):  # of what is given, "other" lies beside
        done = command.run(["x", "walk", outside], preopens={"/data": tmp_path / "sub"}, text=True)
        assert done.stdout.startswith(f"{outside}: ") and "other 1" not in done.stdout


# -- what is no command ------------------------------------------------------------------------------------------------


def test_libraries_are_told_apart(nothing_left: None) -> None:
    with ProcessWasmPool(KERNELS, workers=1) as pool, pytest.raises(BadWasi, match="wasi=WasiConfig"):
        pool.run(["x"])
    with ProcessWasmPool(KERNELS, workers=1, wasi=WasiConfig()) as pool, pytest.raises(UnknownExport, match="no command"):
        pool.run(["x"])


REACTOR = """(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $ready (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $ready (i32.add (global.get $ready) (i32.const 1))))
  (func (export "leave") (global.set $ready (i32.const 7)) (call $exit (i32.const 0)))
  (func (export "fail") (call $exit (i32.const 9)))
  (func (export "ready") (result i32) (global.get $ready))
  (func (export "exit") (param i32) (call $exit (local.get 0)))
  (func (export "argc") (result i32) (drop (call $args (i32.const 0) (i32.const 4))) (i32.load (i32.const 0))))"""


def test_reactors(nothing_left: None) -> None:
    with ProcessWasmPool(REACTOR, workers=1, wasi=WasiConfig(args=["a", "b"])) as pool:
        assert [pool.call("ready"), pool.call("ready"), pool.call("argc")] == [1, 1, 2]
        for code in (0, 5):
            with pytest.raises(GuestExit) as caught:
                pool.call("exit", code)
            assert caught.value.code == code
        assert pool.call("ready") == 1
        assert list(pool.map("ready", *[], timeout=1)) == [] and list(pool.starmap("argc", [()] * 100)) == [2] * 100
    with ProcessWasmPool(REACTOR, workers=1, wasi=WasiConfig(), start=("_initialize", "leave")) as pool:
        assert pool.call("ready") == 7, "a start that exits with 0 has succeeded"
    with pytest.raises(StartupError, match="exited with code 9"):
        ProcessWasmPool(REACTOR, workers=1, wasi=WasiConfig(), start=("fail",))


# -- the command line --------------------------------------------------------------------------------------------------


def cli(*args: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "procpool", *map(str, args)], capture_output=True, timeout=60, **options)


def test_the_command_line_acts_like_the_program(tmp_path: Path) -> None:
    done = cli("run", COMMAND, "--", "upper", input=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"HELLO", b"")
    assert cli("run", COMMAND, "--", "exit", "42").returncode == 42
    done = cli("run", "--env", "A=1", COMMAND, "--", "-x", "y")
    assert done.stdout.splitlines() == [f"arg {COMMAND}".encode(), b"arg -x", b"arg y", b"env A=1"]
    (tmp_path / "f").write_text("123")
    assert cli("run", "--dir", f"{tmp_path}::/d", COMMAND, "--", "walk", "/d").stdout == b"/d/f 3\n"
    assert cli("run", "--dir", f"{tmp_path}::/d:ro", COMMAND, "--", "write", "/d/g", "x").returncode == 1
    assert cli("run", "--dir", f"{tmp_path}::/d:rw", COMMAND, "--", "write", "/d/g", "x").returncode == 0
    done = cli("run", COMMAND, "--", "abort")
    assert done.returncode == 134 and b"unreachable" in done.stderr
    done = cli("run", "--timeout", "0.3", COMMAND, "--", "spin")
    assert done.returncode == 124 and done.stdout == b"spinning\n"
    assert cli("run", "--dir", "/nonexistent::/d", COMMAND).returncode == 2


def test_each_input_through_a_filter_of_its_own(tmp_path: Path) -> None:
    inputs = []
    for n in range(20):
        path = tmp_path / f"in{n}"
        path.write_text(f"text {n}")
        inputs.append(path)
    out = tmp_path / "out"
    done = cli("run", "--output-dir", out, "--each", *inputs, "--", COMMAND, "upper")
    assert done.returncode == 0, done.stderr
    assert [(out / path.name).read_text() for path in inputs] == [f"TEXT {n}" for n in range(20)]
    assert b"20 runs" in done.stderr
    done = cli("run", "--each", *inputs[:2], "--", COMMAND, "exit", "3")
    assert done.returncode == 1 and b"in0: exited with code 3" in done.stderr


def test_a_host_function_of_a_command_sees_the_commands_own_instance(nothing_left: None) -> None:
    """It saw the instance that calls use, whose memory holds something else."""

    @wants_instance
    def show(instance: Any, at: int) -> None:
        if at == 1:  # it is being made
            assert (instance.memory[1], instance.globals["g"]) == (11, 7)
            return
        assert (instance.call("twice", 4), instance.globals["g"]) == (8, 5)
        raise GuestExit(instance.memory[9])

    module = """(module
      (import "h" "show" (func $show (param i32)))
      (import "h" "g" (global (mut i32)))
      (memory (export "memory") 1)
      (func (export "twice") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
      (start $s)
      (func $s (i32.store8 (i32.const 1) (i32.const 11)) (call $show (i32.const 1)))
      (func (export "set") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)) (global.set 0 (local.get 1)))
      (func (export "get") (param i32) (result i32) (i32.load8_u (local.get 0)))
      (func (export "_start")
        (i32.store8 (i32.const 9) (i32.const 99)) (global.set 0 (i32.const 5)) (call $show (i32.const 9))))"""
    imports = {"h": {"show": show, "g": 7}}
    with ProcessWasmPool(module, workers=1, imports=imports, wasi=WasiConfig()) as pool:
        with pool.instance() as lease:
            lease.call("set", 9, 33)
        for _ in range(2):
            assert pool.run(["command"], timeout=DEADLINE).returncode == 99
        assert pool.call("get", 9) == 33, "what calls use is as it was"


def _inputs(instance: Any) -> int:
    """In a worker: how many commands' inputs it has open."""
    return sum("memfd:stdin" in os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())


def test_a_command_that_cannot_begin_leaves_no_descriptor(nothing_left: None, tmp_path: Path) -> None:
    with ProcessWasmPool(COMMAND, workers=1, wasi=WasiConfig()) as pool:
        for n in range(3):
            directory = tmp_path / str(n)
            directory.mkdir()
            with ThreadPoolExecutor() as threads:
                with pool.instance():  # the only one: until it is given back, the command waits
                    run = threads.submit(pool.run, ["x"], stdin=b"abc", stdout=directory / "out", timeout=DEADLINE)
                    eventually(lambda: pool.stats().pending == 1, "the command to be queued")
                    shutil.rmtree(directory)
                with pytest.raises(WasmTrap, match="stdout"):
                    run.result(DEADLINE)
        assert pool.submit(_inputs).result(DEADLINE) == 0


#: Prints a line; traps.
PRINTS = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\64\\00\\00\\00\\06\\00\\00\\00") (data (i32.const 100) "hello\\n")
  (func $print (export "print") (result i32) (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 96)))
  (func (export "_start") (drop (call $print)))
  (func (export "trap") unreachable))"""


@pytest.mark.parametrize("how", [{"workers": 1}, {"workers": 2}, {"isolation": "fresh"}, {"instances": 2}])
def test_a_file_gets_what_all_instances_print(how: Any, tmp_path: Path, nothing_left: None) -> None:
    target = tmp_path / "out"
    target.write_text("of an earlier program\n")
    with ProcessWasmPool(PRINTS, wasi=WasiConfig(stdout=target), **{"workers": 1, **how}) as pool:
        assert target.read_text() == "", "it is emptied when the pool begins"
        for _ in range(5):
            assert pool.call("print") == 0
        assert [future.result(DEADLINE) for future in [pool.submit("print") for _ in range(10)]] == [0] * 10
        with pytest.raises(WasmTrap):
            pool.call("trap")
        assert pool.call("print") == 0
        assert pool.run(["x"]).returncode == 0, "a run that gives no file of its own"
        assert target.read_text() == "hello\n" * 17


def test_a_file_given_to_a_run_or_a_map_of_runs_is_emptied_once(tmp_path: Path, nothing_left: None) -> None:
    target = tmp_path / "out"
    with ProcessWasmPool(PRINTS, workers=2, wasi=WasiConfig()) as pool:
        for _ in range(2):
            assert pool.run(["x"], stdout=target, stderr=target).returncode == 0
            assert target.read_text() == "hello\n"
        assert all(done.returncode == 0 for done in pool.run_map([["x"]] * 8, stdout=target))
        assert target.read_text() == "hello\n" * 8


#: Prints a line.  Its memory is imported, as that of modules linked with --import-memory.
IMPORTED_MEMORY = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "env" "memory" (memory 1))
  {export}
  (data (i32.const 16) "line\\n")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 5))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""


@pytest.mark.parametrize("export", ["", '(export "mem" (memory 0))'])
def test_a_memory_that_wasi_does_not_find_is_explained(export: str) -> None:
    how: Any = {"imports": {"env": {"memory": MemoryType(1, None)}}, "wasi": WasiConfig()}
    with ProcessWasmPool(IMPORTED_MEMORY.format(export=export), workers=1, **how) as pool:
        for use in (pool.run, lambda: pool.call("_start"), lambda: list(pool.starmap("_start", [()]))):
            with pytest.raises(
                WasmTrap, match=r"work on the memory that their caller exports as 'memory'.*--export-memory"
            ):
                use()
    export = '(export "memory" (memory 0))'
    with ProcessWasmPool(IMPORTED_MEMORY.format(export=export), workers=1, **how) as pool:
        assert pool.run().stdout == b"line\n"
