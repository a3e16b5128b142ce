"""`procpool run`: its options, its arguments, and many runs at once.  Terminals are in test_terminal.py."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, FIXTURES, KERNELS
from test_threads import READING

COMMAND = FIXTURES / "command.wasm"
PRIMES = FIXTURES / "primes.wasm"

GROWING = """(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (i32.eq (memory.grow (i32.const 15)) (i32.const -1)))))"""


#: A command that wants a host function.
WANTING = '(module (import "env" "log" (func)) (func (export "_start")))'


def run(*args: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "procpool", "run", *map(str, args)]
    done = subprocess.run(command, capture_output=True, timeout=120, cwd=options.pop("cwd", FIXTURES.parent), **options)
    assert b"Traceback" not in done.stderr
    return done


# -- what the program sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ([], []),
        (["a", "b"], ["a", "b"]),
        (["--", "a", "--", "b"], ["a", "--", "b"]),
        (["a", "--", "b"], ["a", "--", "b"]),
        (["--", "--timeout", "5"], ["--timeout", "5"]),
        (["-x", "--each"], ["-x", "--each"]),
    ],
)
def test_arguments(given: list[str], seen: list[str]) -> None:
    assert run(COMMAND, *given).stdout.decode().splitlines() == [f"arg {word}" for word in [str(COMMAND), *seen]]


def test_environment() -> None:
    env = {"PATH": "/bin", "COLUMNS": "132", "SECRET": "x"}
    done = run("--env", "A=1=2", "--env", "EMPTY=", "--env", "COLUMNS", "--env", "UNSET", COMMAND, env=env)
    assert done.stdout.decode().splitlines()[1:] == ["env A=1=2", "env EMPTY=", "env COLUMNS=132"]


@pytest.mark.parametrize(
    ("option", "guest", "writable"),
    [
        ("{}", "{}", False),
        ("{}:ro", "{}", False),
        ("{}:rw", "{}", True),
        ("{}::/d", "/d", False),
        ("{}::/d:ro", "/d", False),
        ("{}::/d:rw", "/d", True),
    ],
)
def test_directories_are_read_only_unless_said(option: str, guest: str, writable: bool, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("123")
    option, guest = option.format(tmp_path), guest.format(tmp_path)
    assert run("--dir", option, COMMAND, "--", "walk", guest).stdout == f"{guest}/f 3\n".encode()
    done = run("--dir", option, COMMAND, "--", "write", f"{guest}/new", "text")
    assert (done.returncode, (tmp_path / "new").exists()) == ((0, True) if writable else (1, False))


@pytest.mark.parametrize(("code", "seen"), [("126", 126), ("255", 255), ("256", 0), ("-1", 255)])
def test_its_exit_code_is_the_programs(code: str, seen: int) -> None:
    done = run(COMMAND, "--", "exit", code)
    assert (done.returncode, done.stderr) == (seen, b"")


def test_limits(tmp_path: Path) -> None:
    growing = tmp_path / "growing.wat"
    growing.write_text(GROWING)
    assert [run(growing).returncode, run("--memory-limit", 1 << 20, growing).returncode] == [0, 0]
    assert run("--memory-limit", 15 << 16, growing).returncode == 1
    done = run("--fuel", 10_000_000, COMMAND, "--", "spin")
    assert done.returncode == 134 and b"fuel" in done.stderr
    assert run("--fuel", 10_000_000, COMMAND, "--", "exit", "3").returncode == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "name a module"),
        ([KERNELS], "no command"),
        (["missing.wasm"], "missing.wasm"),
        (["--dir", "/nonexistent", COMMAND], "is no directory"),
        (["--env", "=1", COMMAND], "--env"),
        (["--memory-limit", "some", COMMAND], "--memory-limit"),
        ([FIXTURES / "host.wat"], "no command"),
        ([WANTING], "call it from Python"),
        (["--fuel", "0", COMMAND], "--fuel"),
        (["--output-dir", "x", COMMAND], "--each"),
        *[
            (["--dir", given, COMMAND], f"argument --dir: {given!r} is no directory to give; write HOST, or HOST::GUEST")
            for given in ("", ":rw", "::/x", "::", "/tmp::", "/tmp:::rw", "/tmp::/a::/b")
        ],
        (["--dir", "/tmp::/x", "--dir", "/usr::/x", COMMAND], "run: --dir: two directories would be '/x' in the program"),
    ],
)
def test_wrong_requests(args: list[Any], words: str) -> None:
    done = run(*args)
    assert done.returncode == 2 and words in done.stderr.decode() and not done.stdout
    assert done.stderr.count(b"\n") == 1 and b"imports=" not in done.stderr


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "printed"),
    [(["4", "100000"], 0, b"9592\n"), (["3", "10", "exit"], 7, b""), (["3", "10", "trap"], 134, b"")],
)
def test_threads(args: list[str], code: int, printed: bytes) -> None:
    done = run(PRIMES, "--", *args)
    assert (done.returncode, done.stdout) == (code, printed)


@pytest.mark.parametrize(("reader", "main", "code"), [(0, "(call $block)", 5), (1, "", 0)])
def test_a_thread_that_reads_for_ever_holds_up_no_exit(reader: int, main: str, code: int, tmp_path: Path) -> None:
    if reader:  # until the reader reads
        main = "(loop $wait (br_if $wait (i32.eqz (i32.atomic.load (i32.const 0)))))"
    module = tmp_path / "reading.wat"
    module.write_text(READING.format(reader=reader, main=main))
    command = [sys.executable, "-m", "procpool", "run", str(module)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=FIXTURES.parent) as process:
        assert process.wait(120) == code  # before the pipe is closed


# -- many runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/1.txt", "a/2.txt", "b/1.txt", "b/c/1.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    return tmp_path


def each(tree: Path, inputs: list[str], output: str = "out", *args: str) -> subprocess.CompletedProcess[bytes]:
    words = args or ("upper",)
    return run(
        "--output-dir", output, "--each", *inputs, "--", COMMAND, *words, cwd=tree, env={"PYTHONPATH": str(FIXTURES.parent)}
    )


def files(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["a/1.txt", "b/1.txt"], ["a/1.txt", "b/1.txt"]),
        (["a/1.txt", "a/2.txt"], ["1.txt", "2.txt"]),
        (["a/1.txt"], ["1.txt"]),
        (["./b/1.txt", "b/../b/c/1.txt"], ["1.txt", "c/1.txt"]),
        (["{}/a/1.txt", "b/1.txt"], ["a/1.txt", "b/1.txt"]),
    ],
)
def test_outputs_are_kept_apart(inputs: list[str], outputs: list[str], tree: Path) -> None:
    done = each(tree, [name.format(tree) for name in inputs])
    assert done.returncode == 0, done.stderr
    written = files(tree / "out")
    texts = [f"TEXT OF {(tree / name.format(tree)).resolve().relative_to(tree)}".upper() for name in inputs]
    assert written == dict(zip(outputs, texts, strict=True))


@pytest.mark.parametrize(
    ("inputs", "output", "words"),
    [
        (["a/1.txt", "./a/1.txt"], "out", "--each ./a/1.txt: given twice"),
        (["a/1.txt", "a/2.txt"], "a", "--each a/1.txt: the output would be written over it"),
        (["a/1.txt", "b/1.txt"], ".", "--each a/1.txt: the output would be written over it"),
        (["a/1.txt", "a/missing"], "out", "--each a/missing: it cannot be read"),
        (["a/1.txt", "a"], "out", "--each a: it is a directory"),
    ],
)
def test_what_would_lose_data_is_refused_before_anything_runs(
    inputs: list[str], output: str, words: str, tree: Path
) -> None:
    before = files(tree)
    done = each(tree, inputs, output)
    assert done.returncode == 2 and words in done.stderr.decode()
    assert files(tree) == before and not (tree / "out").exists()


def test_failures_name_their_file(tree: Path) -> None:
    done = each(tree, ["a/1.txt", "b/1.txt"], "out", "exit", "3")
    assert done.returncode == 1
    assert b"a/1.txt: exited with code 3" in done.stderr and b"b/1.txt: exited with code 3" in done.stderr


def test_an_output_is_replaced_only_by_that_of_a_run_that_succeeds(tree: Path) -> None:
    assert each(tree, ["a/1.txt", "b/1.txt"]).returncode == 0
    before = files(tree / "out")
    (tree / "out/a/1.txt").chmod(0o640)
    done = each(tree, ["a/1.txt", "b/1.txt"], "out", "exit", "3")
    assert done.returncode == 1 and b"a/1.txt: exited with code 3; out/a/1.txt is left as it was" in done.stderr
    assert files(tree / "out") == before
    done = each(tree, ["a/1.txt", "b/1.txt"], "out", "exit", "0")
    assert done.returncode == 0 and files(tree / "out") == dict.fromkeys(before, "")  # and no file beside them
    assert (tree / "out/a/1.txt").stat().st_mode & 0o777 == 0o640


def test_inputs_add_up(tree: Path) -> None:
    done = run("--each", tree / "a/1.txt", "--each", tree / "a/2.txt", tree / "b/1.txt", "--", COMMAND, "upper")
    assert (done.returncode, done.stdout) == (0, b"TEXT OF A/1.TXTTEXT OF A/2.TXTTEXT OF B/1.TXT")


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ("/dev/zero", "/dev/zero: it is no file, and goes on behind 256 MiB"),
        ("/proc/self/mem", "/proc/self/mem: Input/output error"),
    ],
)
def test_an_input_that_cannot_be_read_is_told_and_the_others_run(odd: str, told: str, tree: Path) -> None:
    done = run("--each", odd, tree / "a/1.txt", odd, tree / "a/2.txt", odd, "--", COMMAND, "upper")
    assert (done.returncode, done.stdout) == (1, b"TEXT OF A/1.TXTTEXT OF A/2.TXT")
    assert done.stderr.decode().count(f"procpool: {told}") == 3
    done = run("--each", odd, "--", COMMAND, "upper")
    assert (done.returncode, done.stdout) == (1, b"") and told in done.stderr.decode()


def test_an_input_for_which_there_is_not_enough_memory_is_told_and_the_others_run(tree: Path) -> None:
    os.truncate(tree / "a/1.txt", 1 << 30)  # of which the disk keeps nothing
    command = [sys.executable, "-m", "procpool", "run", "--workers", "1"]
    inputs = [str(tree / name) for name in ("a/2.txt", "a/1.txt", "b/1.txt")]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -d 1000000; exec "$@"', "", *command, "--each", *inputs, "--", str(COMMAND), "upper"],
        capture_output=True,
        timeout=DEADLINE,
        cwd=FIXTURES.parent,
    )
    assert (done.returncode, done.stdout) == (1, b"TEXT OF A/2.TXTTEXT OF B/1.TXT")
    assert done.stderr.startswith(f"procpool: {inputs[1]}: there is not enough memory\n".encode())


def test_an_input_may_be_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with subprocess.Popen(["bash", "-c", 'echo text > "$0"', str(pipe)]):
        done = run("--each", pipe, "--", COMMAND, "upper")
    assert (done.returncode, done.stdout) == (0, b"TEXT\n")


@pytest.fixture
def full(tree: Path) -> Path:
    """The place of an output, which cannot be written."""
    (tree / "out").mkdir()
    full = tree / "out/1.txt"
    if os.geteuid():
        full.symlink_to("/dev/full")
    else:  # who could replace that one
        os.mknod(full, stat.S_IFCHR | 0o600, os.stat("/dev/full").st_rdev)
    return full


def test_an_output_that_cannot_be_written_is_told_and_the_others_are(tree: Path, full: Path) -> None:
    done = each(tree, ["a/1.txt", "a/2.txt"])
    assert done.returncode == 1 and b"procpool: out/1.txt: No space left on device\n" in done.stderr
    assert full.is_char_device() and files(tree / "out") == {"2.txt": "TEXT OF A/2.TXT"}


def test_an_output_whose_reader_has_gone_is_told_and_the_others_are_written(tree: Path) -> None:
    (tree / "a/1.txt").write_text("text " * 200_000)  # more than a pipe holds
    (tree / "out").mkdir()
    os.mkfifo(pipe := tree / "out/1.txt")
    with subprocess.Popen(["head", "-c", "1", str(pipe)], stdout=subprocess.PIPE) as reader:
        done = each(tree, ["a/1.txt", "a/2.txt"])
        assert reader.communicate(timeout=DEADLINE)[0] == b"T"
    assert done.returncode == 1 and b"procpool: out/1.txt: Broken pipe\n" in done.stderr
    assert files(tree / "out") == {"2.txt": "TEXT OF A/2.TXT"}


@pytest.mark.parametrize("place", ["out", "out/c"])
def test_a_place_for_outputs_that_is_no_directory_is_told_before_anything_runs(place: str, tree: Path) -> None:
    (tree / "out").write_text("taken")
    done = each(tree, ["a/1.txt", "a/2.txt"], place, "exit", "3")
    assert done.returncode == 2 and done.stderr.decode().startswith(f"procpool: {place}: ")
    assert done.stderr.count(b"\n") == 1 and (tree / "out").read_text() == "taken"


def test_an_output_that_is_no_file_is_written_to(tree: Path) -> None:
    (tree / "out").mkdir()
    os.mkfifo(pipe := tree / "out/1.txt")
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        assert each(tree, ["a/1.txt"]).returncode == 0
        assert reader.communicate(timeout=DEADLINE)[0] == b"TEXT OF A/1.TXT"
    assert pipe.is_fifo()


def test_an_output_may_stand_for_a_pipe_that_has_no_path(tree: Path) -> None:
    (tree / "out").mkdir()
    (tree / "out/1.txt").symlink_to("/dev/stdout")
    done = each(tree, ["a/1.txt"])
    assert (done.returncode, done.stdout) == (0, b"TEXT OF A/1.TXT"), done.stderr
    assert os.readlink(tree / "out/1.txt") == "/dev/stdout" and len(os.listdir(tree / "out")) == 1


def test_an_output_that_is_a_link_to_itself_is_replaced(tree: Path) -> None:
    (tree / "out").mkdir()
    (tree / "out/1.txt").symlink_to("1.txt")
    assert each(tree, ["a/1.txt"]).returncode == 0
    assert files(tree / "out") == {"1.txt": "TEXT OF A/1.TXT"}
