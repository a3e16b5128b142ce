"""Large modules are compiled in a process of their own: what comes back from it, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import spawn
from pathlib import Path

import psutil
import pytest
from bounded import environment, in_a_program, started, within
from conftest import DEADLINE, FIXTURES, KERNELS, eventually, gone
from large import large_module
from terminal import CTRL_C, at_a_terminal

from procpool import InvalidModule, ProcessWasmPool, StartupError, cache, compilation, inspect
from procpool.compilation import compile_module
from procpool.module import ModuleSource

#: Takes any machine longer than to see that it is being compiled.
SLOW = 1_000_000
LARGE = 2 * compilation.LARGE


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    path = tmp_path / "cache"
    monkeypatch.setenv(cache.DIRECTORY, str(path))
    return path


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    path = tmp_path / "slow.wasm"
    path.write_bytes(large_module(SLOW))
    return path


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small modules too are compiled in a process of their own."""
    monkeypatch.setattr(compilation, "LARGE", 0)


# -- what comes back ---------------------------------------------------------------------------------------------------


def compile_and_count(size: int) -> None:
    """In a program of its own: its threads and children, before and after."""
    pids: list[int | None] = []

    def tasks() -> int:
        return len(os.listdir("/proc/self/task"))

    before = tasks()
    os.close(compile_module(large_module(size), announce=lambda kind, pid, message: pids.append(pid)).artifact)
    assert len(pids) == 2 and pids[0] == pids[1] and pids[0] is not None
    print(tasks() - before, len(psutil.Process().children()), pids[0] != os.getpid())


@pytest.mark.parametrize("size", [1000, LARGE])
def test_no_thread_and_no_process_stays(directory: Path, size: int) -> None:
    assert in_a_program(compile_and_count, size).split() == ["0", "0", str(size == LARGE)]


def test_a_large_module_runs(directory: Path, nothing_left: None) -> None:
    source, kinds = large_module(LARGE), []
    with (
        ProcessWasmPool(source, 2, on_event=lambda event: kinds.append((event.kind, event.pid))) as pool,
        ProcessWasmPool(source, 1) as other,
    ):
        assert list(pool.map("f", range(20))) == list(other.map("f", range(20)))
    (compiling, pid), (compiled, same) = kinds[:2]
    assert (compiling, compiled) == ("compiling", "compiled") and pid == same != os.getpid()


@pytest.mark.parametrize("off", [False, True])
def test_without_a_cache_the_code_comes_by_memory(directory: Path, off: bool, nothing_left: None) -> None:
    if not off:
        directory.mkdir(mode=0o755)
        directory.chmod(0o755)
    with ProcessWasmPool(large_module(LARGE), 1, cache=not off) as pool:
        assert isinstance(pool.call("f", 1), int)
        (worker,) = pool.stats().workers
        assert any("memfd:procpool" in area.path for area in psutil.Process(worker.pid).memory_maps())
    assert not directory.exists() or not list(directory.iterdir())


def _refused() -> list[ModuleSource]:
    whole = KERNELS.read_bytes()
    return [
        whole[:-20],
        b"(module (func $f (call $g)))",
        b"(module (func (result i32)))",
        b"",
        b"\x1f\x8bxxxx",
        b"\x7fELF",
        b"what is this",
        b"\0asm\x0d\0\1\0\7",
        FIXTURES / "build.py",
    ]


@pytest.mark.parametrize("source", _refused(), ids=range(len(_refused())))
def test_what_is_refused_is_refused_in_the_same_words(
    directory: Path, source: ModuleSource, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    said = []
    for large in (compilation.LARGE, 0):
        monkeypatch.setattr(compilation, "LARGE", large)
        with pytest.raises(InvalidModule) as caught:
            compile_module(source)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert not [path for path in directory.iterdir() if path.suffix != ".note"]


def test_text_and_small_stack_and_fuel_reach_the_compiler(directory: Path, apart: None) -> None:
    with ProcessWasmPool(FIXTURES / "shapes.wat", 1, fuel=10**6, max_stack=1 << 20) as pool:
        assert pool.exports


def inspect_and_count() -> None:
    """In a program of its own, and in a fork of it, which has none of its threads."""
    source = large_module(LARGE)
    assert "f" in inspect(source).exports
    child = os.fork()
    if not child:
        inspect(source)
        os.close(compile_module(large_module(1000)).artifact)
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    print(len(os.listdir("/proc/self/task")), len(psutil.Process().children()))


def test_inspect_compiles_nothing_and_leaves_nothing(directory: Path) -> None:
    """What validates on many threads leaves them behind, and a fork that validates would wait for them."""
    assert in_a_program(inspect_and_count).split() == ["1", "0"]
    assert len([path for path in directory.iterdir() if path.suffix != ".note"]) == 1, "the fork's"


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_the_death_of_the_compiler_is_told_and_harms_nothing(directory: Path, slow: Path, nothing_left: None) -> None:
    def kill(kind: str, pid: int | None, message: str) -> None:
        assert kind == "compiling" and pid is not None and "'" + str(slow) + "'" in message
        os.kill(pid, signal.SIGKILL)

    with pytest.raises(StartupError, match=r"slow\.wasm' \([\d,]+ bytes\) was ended by SIGKILL; is there enough memory"):
        compile_module(slow, announce=kill)
    assert not [path for path in directory.iterdir() if path.suffix != ".note"]


def test_a_compiler_that_does_nothing_is_not_waited_for(directory: Path, nothing_left: None) -> None:
    pids: list[int] = []

    def stop(kind: str, pid: int | None, message: str) -> None:
        assert pid is not None
        pids.append(pid)
        os.kill(pid, signal.SIGSTOP)

    with pytest.raises(StartupError, match=r"the given bytes \([\d,]+ bytes\) did nothing for 0.5 s; start_timeout"):
        within(compile_module, large_module(LARGE), announce=stop, patience=0.5)
    assert gone(pids)
    assert not parts(directory)


def test_where_no_process_can_be_started_it_is_compiled_here(
    directory: Path, caplog: pytest.LogCaptureFixture, nothing_left: None
) -> None:
    python = spawn.get_executable()
    told: list[tuple[str, int | None]] = []
    try:
        spawn.set_executable("/there/is/no/python")
        with caplog.at_level(logging.DEBUG, "procpool"):
            made = compile_module(large_module(LARGE), announce=lambda kind, pid, message: told.append((kind, pid)))
    finally:
        spawn.set_executable(python)
    os.close(made.artifact)
    assert told == [("compiling", os.getpid()), ("compiled", os.getpid())]
    assert "/there/is/no/python" in caplog.text
    assert made.interface.exports


#: Compiles the file on its command line, and writes what happens to its standard output.  With "stopped", what compiles is
#: stopped before that is written, and never gets done.
PROGRAM = """
import os, signal, sys
import psutil
from procpool.compilation import compile_module
def note(kind, pid, message):
    if pid and "stopped" in sys.argv:
        os.kill(pid, signal.SIGSTOP)
    print(kind, pid or 0, flush=True)
try:
    made = compile_module(sys.argv[1], announce=note)
    print("file" if "/cache/" in os.readlink(f"/proc/self/fd/{made.artifact}") else "memory")
except KeyboardInterrupt:
    print("interrupted", len(psutil.Process().children()))
"""


@contextlib.contextmanager
def program(*args: str | Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> list[str]:
    """The next line of a program."""
    assert process.stdout is not None
    return started(process.stdout.readline).result(DEADLINE).split()


def parts(directory: Path) -> list[Path]:
    return list(directory.glob("*.part"))


def test_ctrl_c_ends_the_compilation(directory: Path, slow: Path) -> None:
    with program(slow, "stopped") as process:
        kind, pid = heard(process)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all of them
        assert heard(process) == ["interrupted", "0"]
        assert process.wait(DEADLINE) == 0
    assert kind == "compiling" and gone([int(pid)])
    assert not parts(directory)


def test_the_compiler_dies_with_the_program(directory: Path, slow: Path) -> None:
    with program(slow) as process:
        _, pid = heard(process)
        compiler_at_work(process.pid).suspend()  # it does not end by itself
        process.kill()
        try:
            eventually(lambda: gone([int(pid)]), "the compiler to go with its program")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def test_who_dies_while_it_compiles_is_followed_by_who_waits(directory: Path, tmp_path: Path, slow: Path) -> None:
    with program(slow, "stopped") as first:
        _, pid = heard(first)
        with program(slow, "stopped") as second:
            assert heard(second) == ["compiling", "0"]  # waits for the other
            first.kill()
            os.kill(int(pid), signal.SIGCONT)  # it was stopped before it came to see to its own end
            kind, other = heard(second)
            assert kind == "compiling" and other not in ("0", pid)
            second.send_signal(signal.SIGINT)
            assert heard(second) == ["interrupted", "0"]
    eventually(lambda: gone([int(pid)]), "the compiler to go with its program")
    assert not parts(directory)


def test_programs_that_start_at_once_compile_once(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "module.wasm"
    path.write_bytes(large_module(1_000_000))
    with contextlib.ExitStack() as stack:
        programs = [stack.enter_context(program(path)) for _ in range(4)]
        said = [started(process.communicate) for process in programs]
        outputs = [future.result(4 * DEADLINE)[0].split() for future in said]
    makers = {output[index + 1] for output in outputs for index, word in enumerate(output) if word == "compiled"}
    assert len(makers - {"0"}) == 1, outputs
    assert [output[-1] for output in outputs] == ["file"] * 4
    assert len([path for path in directory.iterdir() if not path.suffix]) == 1 and not parts(directory)


# -- at a terminal -----------------------------------------------------------------------------------------------------


def compiler_at_work(pid: int) -> psutil.Process:
    """The process that compiles for that one, when it does."""
    found: list[psutil.Process] = []

    def at_work() -> bool:
        found[:] = psutil.Process(pid).children()
        return any(child.num_threads() > 1 for child in found)

    eventually(at_work, "the compiler to be at work")
    (compiler,) = found
    return compiler


@pytest.mark.parametrize("command", ["call", "run"])
def test_the_command_line_shows_that_it_compiles_and_obeys_ctrl_c(directory: Path, slow: Path, command: str) -> None:
    words = ["call", slow, "f", "1"] if command == "call" else ["run", slow]
    with at_a_terminal(sys.executable, "-m", "procpool", *words) as terminal:
        compiler = compiler_at_work(terminal.process.pid)
        compiler.suspend()  # so it never gets done
        terminal.expect(r"\r[|/\\-] 0 s: compiling '[^\r]*\r")
        terminal.expect(r"[|/\\-] [1-9] s: compiling '[^\r]*\r")
        terminal.type(CTRL_C)
        assert terminal.ended() in (130, -signal.SIGINT)
        assert "Traceback" not in terminal.seen
        eventually(lambda: gone([compiler.pid]), "the compiler to go")


def test_the_command_line_says_what_it_waits_for_now(directory: Path, slow: Path) -> None:
    os.close(compile_module(slow).artifact)
    (entry,) = [path for path in directory.iterdir() if not path.suffix]
    entry.unlink()
    with entry.with_suffix(".part").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with at_a_terminal(sys.executable, "-m", "procpool", "call", slow, "f", "1") as terminal:
            terminal.expect(r"[|/\\-] \d s: somebody else is compiling '[^\r]*\r")
            fcntl.flock(held, fcntl.LOCK_UN)
            terminal.expect(r"[|/\\-] \d s: compiling '[^\r]*\r")
            assert terminal.ended() == 0


def test_the_command_line_leaves_no_trace_of_it(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.wasm"
    path.write_bytes(large_module(1_000_000))
    with at_a_terminal(sys.executable, "-m", "procpool", "call", path, "f", "0") as terminal:
        terminal.expect(r" compiling '.*\x1b\[K-?\d+\r\n")
        assert terminal.ended() == 0
