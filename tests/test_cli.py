"""The command line, run as a user runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import procpool
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, SHAPES

K, M = str(KERNELS), str(MISBEHAVE)


@pytest.mark.parametrize(
    ("args", "printed"),
    [
        ((K, "add", "1", "-2"), "-1"),
        ((K, "add", "0x10", "1"), "17"),
        ((K, "mixed", "1", "2", "3.5", "-4.5e0"), "2.0"),
        ((K, "addd", "--", "-inf", "1"), "-inf"),
        ((K, "addd", "-inf", "1"), "-inf"),
        ((str(SHAPES), "swap", "1", "2"), "2,1"),
        ((str(SHAPES), "add_lanes", "01" * 16, "02" * 16), "03" * 16),
    ],
)
def test_call(args: tuple[str, ...], printed: str) -> None:
    assert procpool("call", *args) == (0, printed + "\n", "")


def test_call_without_a_result_prints_nothing() -> None:
    assert procpool("call", K, "touch") == (0, "", "")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ((K, "ad", "1", "2"), 2, "did you mean 'add'"),
        ((K, "add", "1"), 2, "takes 2 arguments"),
        ((K, "add", "1", "x"), 2, "'x' is not an i32"),
        ((K, "add", "1", "99999999999"), 2, "out of range for i32"),
        (("missing.wasm", "add"), 2, "missing.wasm"),
        ((__file__, "add"), 2, "is not WebAssembly"),
        ((M, "divide", "1", "0"), 1, "divide by zero"),
        (("--timeout", "0.1", M, "spin"), 1, "no result within"),
        (("--workers", "0", K, "add"), 2, "'0' is no whole number from 1"),
    ],
)
def test_call_that_fails(args: tuple[str, ...], code: int, words: str) -> None:
    returned, out, err = procpool("call", *args)
    assert (returned, out) == (code, "") and words in err


@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.csv", "1,2\n3,4\n\n5,6\n"), ("rows.jsonl", "[1, 2]\n[3, 4]\n\n[5, 6]\n")],
)
def test_map_reads_files(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    code, out, err = procpool("map", "--workers", "2", K, "add", str(tmp_path / name))
    assert (code, out) == (0, "3\n7\n11\n") and "3 calls in " in err and "on 2 workers" in err


def test_map_reads_stdin() -> None:
    assert procpool("map", K, "fib", stdin="10\n20\n")[:2] == (0, "55\n6765\n")
    assert procpool("map", K, "fib", "--input-format", "jsonl", stdin="10\n20\n")[:2] == (0, "55\n6765\n")


def test_map_counts() -> None:
    assert procpool("map", K, "add", "--range", "0:10:3", "--range", "100:104")[:2] == (0, "100\n104\n108\n112\n")
    code, out, _ = procpool("map", K, "add", "--range", "0:100000", "--range", "0:100000")
    assert code == 0 and out == "".join(f"{2 * n}\n" for n in range(100_000))


@pytest.mark.parametrize(
    ("stdin", "format", "words"),
    [
        ("1,2\n\n3,x\n", "csv", "line 3 of stdin: 'x' is not an i32"),
        ("1,2\n3\n", "csv", "line 2 of stdin: add takes 2 arguments"),
        ("[1,2]\n[3,\n", "jsonl", "line 2 of stdin: it is not JSON"),
        ("[1,2]\n[3,true]\n", "jsonl", "line 2 of stdin: true is not an i32"),
    ],
)
def test_map_names_the_bad_row_after_earlier_results(stdin: str, format: str, words: str) -> None:
    code, out, err = procpool("map", K, "add", "--input-format", format, stdin=stdin)
    assert (code, out) == (2, "3\n") and words in err


def test_map_stops_at_a_trap() -> None:
    code, out, err = procpool("map", M, "divide", stdin="6,3\n6,0\n6,2\n")
    assert (code, out) == (1, "2\n") and "divide by zero" in err


def test_map_into_a_pipe_that_closes() -> None:
    command = f"{sys.executable} -m procpool map {K} add --range 0:3000000 --range 0:3000000 | head -2"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=FIXTURES.parent, timeout=60)
    assert run.stdout == "0\n2\n" and "Traceback" not in run.stderr


def test_inspect() -> None:
    code, out, _ = procpool("inspect", str(SHAPES))
    assert code == 0
    assert (
        "memory: memory of 1 pages, at most 4" in out and "swap (i32, i64) -> (i64, i32)" in out and "imports: none" in out
    )


def test_version_and_help() -> None:
    assert procpool("--version")[1].startswith("procpool ")
    assert "inspect" in procpool("--help")[1]
    assert procpool()[0] == 2


def test_ctrl_c() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "procpool", "map", M, "fine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=FIXTURES.parent,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("1\n" * 20_000)  # as much as a pipe takes while nobody reads
    process.stdin.flush()
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130 and "Traceback" not in err
