"""The command line on a terminal: the bar, the results, and the keyboard."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import on_terminal
from conftest import DEADLINE, FIXTURES, KERNELS

K = str(KERNELS)
COUNTING = ("map", K, "churn", "--range", "0:24", "--range", "20000000:20000024")


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """A file whose rows take long enough for a bar to be drawn between their results."""
    path = tmp_path / "rows.csv"
    path.write_text("".join(f"{n},20000000\n" for n in range(24)))
    return str(path)


def test_results_and_bar_do_not_mix(rows: str) -> None:
    code, seen, lines, _ = on_terminal(["map", K, "churn", rows, "--workers", "2"])
    assert code == 0
    assert b"calls/s]" in seen  # there was a bar
    assert len(lines) == 25 and all(line.lstrip("-").isdigit() for line in lines[:24])
    assert lines[24].startswith("24 calls in ")


def test_results_and_bar_of_a_known_length_do_not_mix() -> None:
    code, seen, lines, _ = on_terminal(COUNTING)
    assert code == 0 and b"/24 [" in seen
    assert len(lines) == 25 and all(line.lstrip("-").isdigit() for line in lines[:24])


def test_results_in_a_pipe_and_a_bar_on_the_terminal(rows: str) -> None:
    code, seen, lines, out = on_terminal(["map", K, "churn", rows], streams="stderr")
    assert code == 0 and b"calls/s]" in seen
    assert len(out.splitlines()) == 24 and all(line.lstrip("-").isdigit() for line in out.splitlines())
    assert len(lines) == 1 and lines[0].startswith("24 calls in ")


def test_results_on_the_terminal_and_the_rest_in_a_pipe(rows: str) -> None:
    code, seen, lines, err = on_terminal(["map", K, "churn", rows], streams="stdout")
    assert code == 0 and b"calls/s" not in seen and b"\r " not in seen
    assert len(lines) == 24 and err.startswith("24 calls in ")


def test_one_result_of_all_comes_after_the_bar() -> None:
    code, seen, lines, _ = on_terminal([*COUNTING, "--reduce", "max"])
    assert code == 0 and b"/24 [" in seen
    assert len(lines) == 2 and lines[0].isdigit() and lines[1].startswith("24 calls in ")


def test_rows_that_fail_are_listed_below_the_results(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,2\nx,2\n3,4\n")
    code, _, lines, _ = on_terminal(["map", K, "add", str(tmp_path / "rows.csv"), "--keep-going"])
    assert code == 3 and lines[:3] == ["3", "", "7"]
    assert lines[4] == "procpool: 1 of 3 rows failed:" and lines[5].endswith("rows.csv: 'x' is not an i32")


def test_rows_from_the_keyboard() -> None:
    code, seen, lines, _ = on_terminal(["map", K, "fib"], typed="10\n20\n\x04")
    assert code == 0 and b"Ctrl-D ends them" in seen and b"calls/s]" not in seen
    assert "55" in lines and "6765" in lines


@pytest.mark.parametrize(
    ("options", "dialogue", "code"),
    [
        ([], [(b"10\n", b"55\r\n"), (b"20\n", b"6765\r\n"), (b"7\n", b"13\r\n")], 0),
        (["--json", "--keep-going"], [(b"10\n", b'"result": 55'), (b"odd\n", b'"error"'), (b"odder\n", b'"error"')], 3),
    ],
)
def test_what_is_typed_is_answered_at_once(options: list[str], dialogue: list[tuple[bytes, bytes]], code: int) -> None:
    """What becomes of each row is there before the next row is typed."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "procpool", "map", K, "fib", "--workers", "2", *options],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        cwd=FIXTURES.parent,
    )
    os.close(slave)
    for typed, answer in dialogue:
        os.write(master, typed)
        seen = b""
        while answer not in seen:
            assert select.select([master], [], [], 2 * DEADLINE)[0], f"no answer to {typed!r}: {seen!r}"
            seen += os.read(master, 4096)
    os.write(master, b"\x04")
    _, err = process.communicate(timeout=2 * DEADLINE)
    os.close(master)
    calls = b"1 call in " if code else b"3 calls in "
    assert process.returncode == code and calls in err


def test_bench_shows_how_far_it_is() -> None:
    code, seen, lines, _ = on_terminal(["bench", K, "add", "1", "2", "--duration", "0.5", "--workers", "2"])
    assert code == 0 and b"/13 [" in seen
    assert lines[0] == "add(1, 2) on 2 workers" and any("█" in line for line in lines)
