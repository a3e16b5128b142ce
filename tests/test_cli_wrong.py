"""Mistakes on the command line: one line that says what is wrong in the words of the command line, and an exit code."""

from __future__ import annotations

import contextlib
import gzip
import io
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import procpool
from conftest import FIXTURES, KERNELS, MISBEHAVE

from procpool.cli import main

K, M = str(KERNELS), str(MISBEHAVE)


def outcome(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        code = main(args)
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    return (code, *capsys.readouterr())


ADD = ["map", K, "add"]
WRONG: list[tuple[list[str], str]] = [
    ([], "the following arguments are required: COMMAND"),
    (["cal"], "invalid choice: 'cal'"),
    (["call", K], "the following arguments are required: EXPORT"),
    (["call", K, "add", "1", "2", "--wrokers", "2"], "unrecognized arguments: --wrokers"),
    (["call", K, "add", "1", "2", "--work", "2"], "unrecognized arguments: --work"),
    *[
        ([command, K, "add", *args, "--workers", given], f"argument --workers: {words}")
        for command, args in (("call", ["1", "2"]), ("map", []), ("bench", ["1", "2"]))
        for given, words in (
            ("9999999", "9999999 is more than 4096, the most processes that a pool can have"),
            ("0", "'0' is no whole number from 1"),
            ("-1", "'-1' is no whole number from 1"),
            ("1.5", "'1.5' is no whole number from 1"),
            ("two", "'two' is no whole number from 1"),
        )
    ],
    (["call", K, "add", "--timeout", "0"], "argument --timeout: '0' is no positive number of seconds"),
    (["call", K, "add", "--timeout", "nan"], "argument --timeout: 'nan' is no positive number of seconds"),
    (["call", K, "add", "--timeout", "-inf"], "argument --timeout: '-inf' is no positive number of seconds"),
    (["call", K, "add", "--fuel", "0"], "argument --fuel: '0' is no whole number from 1"),
    (["call", K, "add", "--memory-limit", "0"], "argument --memory-limit: '0' is no size in bytes; write 65536, 64K"),
    (["call", K, "add", "--memory-limit", "1T"], "argument --memory-limit: '1T' is no size in bytes"),
    (["call", K, "add", "--memory-limit", "-5"], "argument --memory-limit: '-5' is no size in bytes"),
    (["call", K, "add", "--env", "=x"], "argument --env: '=x' is no variable"),
    (["call", K, "add", "1", "2", "--env", "A=b"], f"--env: {K} does not import WASI, so it could not see a variable"),
    (["bench", K, "add", "1", "2", "--duration", "0"], "argument --duration: '0' is no positive number of seconds"),
    ([*ADD, "--range", "5"], "argument --range: '5' is no range; write A:B or A:B:STEP in whole numbers"),
    ([*ADD, "--range", "1:2:3:4"], "argument --range: '1:2:3:4' is no range"),
    ([*ADD, "--range", "0:x"], "argument --range: '0:x' is no range"),
    ([*ADD, "--range", "0:5:0"], "argument --range: '0:5:0' has a STEP of 0"),
    ([*ADD, "--range", "5:0"], "argument --range: '5:0' counts nothing; a negative STEP counts down"),
    ([*ADD, "--range", "0:9223372036854775808"], "argument --range: '0:9223372036854775808' counts more than 9223372036854775807"),
    ([*ADD, "--range", "5:5"], "argument --range: '5:5' counts nothing"),
    ([*ADD, "--range", "0:3", "--range", "0:4"], "the --range options count to different lengths: 3, 4"),
    ([*ADD, "x.csv", "--range", "0:3"], "FILE and --range do not go together"),
    ([*ADD, "--range", "0:3", "--header"], "--header and --range do not go together"),
    ([*ADD, "--range", "0:3", "--input-format", "csv"], "--input-format and --range do not go together"),
    ([*ADD, "--range", "0:3", "--delimiter", ";"], "--delimiter and --range do not go together"),
    ([*ADD, "--range", "0:3", "--columns", "a"], "--columns and --range do not go together"),
    ([*ADD, "--range", "0:3"], "row 1, (0): add takes 2 arguments, (i32, i32) -> (i32), got 1"),
    ([*ADD, "https://example.com/a.csv"], "'https://example.com/a.csv' is a URL; download it first, and give the file"),
    ([*ADD, "missing.csv"], "missing.csv: No such file or directory"),
    ([*ADD, str(FIXTURES)], "fixtures: Is a directory"),
    ([*ADD, "x.json"], "x.json is named as one JSON document; rows are JSON lines: --input-format jsonl"),
    ([*ADD, "x.jsonl", "--delimiter", ";"], "--delimiter is for CSV, and x.jsonl is read as JSON lines"),
    ([*ADD, "x.ndjson", "--header"], "--header is for CSV, and x.ndjson is read as JSON lines"),
    ([*ADD, "x.csv", "--columns", "a,b"], "--columns takes the names in the first line: give --header too"),
    ([*ADD, "x.csv", "--delimiter", ";;"], "argument --delimiter: ';;' is not one character, or tab"),
    ([*ADD, "x.csv", "--delimiter", ""], "argument --delimiter: '' is not one character, or tab"),
    ([*ADD, "x.csv", "--input-format", "xls"], "argument --input-format: invalid choice: 'xls'"),
    ([*ADD, "--json", "--csv"], "argument --csv: not allowed with argument --json"),
    ([*ADD, "--json", "--reduce", "sum"], "argument --reduce: not allowed with argument --json"),
    ([*ADD, "--reduce", "mean"], "argument --reduce: invalid choice: 'mean'"),
    (["map", K, "touch", "--range", "0:3", "--reduce", "sum"], "--reduce sum needs numbers, and the export gives nothing"),
    (["call", K, "ad", "1", "2"], "the module exports no function 'ad'; did you mean 'add'"),
    (["map", K, "ad", "--range", "0:3"], "the module exports no function 'ad'; did you mean 'add'"),
    (["bench", K, "ad"], "the module exports no function 'ad'; did you mean 'add'"),
    (["bench", K, "add", "1"], "add takes 2 arguments, (i32, i32) -> (i32), got 1"),
    (["bench", K, "add", "1", "x"], "add: 'x' is not an i32"),
    (["call", K, "memory"], "'memory'"),
    (["call", str(FIXTURES / "shapes.wat"), "add_lanes", "01", "02"], "'01' is not a v128 of 32 hexadecimal digits"),
    (["call", "https://example.com/a.wasm", "add"], "'https://example.com/a.wasm' is a URL; download the module first"),
    (["inspect", "s3://bucket/a.wasm"], "'s3://bucket/a.wasm' is a URL; download the module first"),
    (["inspect", "missing.wasm"], "missing.wasm: No such file or directory"),
    (["call", str(FIXTURES / "host.wat"), "f"], "env.add, a function (i32, i32) -> (i32)"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words"), WRONG, ids=[" ".join(args)[-60:] for args, _ in WRONG])
def test_wrong_request(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(args, capsys)
    assert (code, out) == (2, "")
    assert err.startswith("procpool") and words in err and err.count("\n") == 1
    assert "imports=" not in err and "wasi=" not in err and "(str)" not in err and "Errno" not in err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("k.wasm.gz", gzip.compress(KERNELS.read_bytes()), "is compressed by gzip; decompress it first"),
        ("k.cwasm", b"\x7fELF\x02\x01\x01" + bytes(100), "is native code, as wasmtime's .cwasm is"),
        ("k.wasm", b"", "is empty"),
    ],
)
def test_files_that_are_no_module(
    name: str, content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    for command in (["call", str(tmp_path / name), "f"], ["inspect", str(tmp_path / name)]):
        code, out, err = outcome(command, capsys)
        assert (code, out) == (2, "") and words in err and name in err and err.count("\n") == 1


def test_rows_that_are_compressed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(b"1,2\n"))
    code, out, err = outcome([*ADD, str(tmp_path / "r.csv.gz"), "--keep-going"], capsys)
    assert (code, out) == (2, "") and "r.csv.gz is compressed by gzip; decompress it first" in err and err.count("\n") == 1
    for how in ("csv", "jsonl"):
        done = subprocess.run(
            [sys.executable, "-m", "procpool", "map", K, "add", "-", "--input-format", how],
            input=gzip.compress(b"1,2\n"),
            capture_output=True,
            timeout=60,
        )
        said = b"procpool: stdin is compressed by gzip; decompress it first (gunzip)\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, b"", said)


@pytest.mark.parametrize(("given", "code", "printed"), [("trap", 1, ""), ("zero", 0, "0\n")])
def test_missing_imports(given: str, code: int, printed: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stand_in = ["--missing-imports", given]
    module = tmp_path / "m.wat"
    module.write_text(
        '(module (import "env" "log" (func $log (result i32))) (memory (export "memory") 1)'
        ' (func (export "unused") (result i32) i32.const 7)'
        ' (func (export "f") (result i32) call $log) (func (export "_start") (drop (call $log))))'
    )
    assert outcome(["call", str(module), "unused"], capsys)[0] == 2
    assert outcome(["call", str(module), "unused", *stand_in], capsys) == (0, "7\n", "")
    got = outcome(["call", str(module), "f", *stand_in], capsys)
    assert got[:2] == (code, printed) and ("its import env.log" in got[2]) == (given == "trap")
    got = outcome(["bench", str(module), "f", *stand_in, "--duration", "0.1"], capsys)
    assert got[0] == code and ("its import env.log" in got[2]) == (given == "trap")
    (tmp_path / "r.jsonl").write_text("[]\n[]\n")
    got = outcome(["map", str(module), "f", str(tmp_path / "r.jsonl"), *stand_in], capsys)
    assert got[:2] == (code, printed * 2)
    ran = procpool("run", *stand_in, str(module))
    assert ran[0] == (134 if given == "trap" else 0) and ("its import env.log" in ran[2]) == (given == "trap")
    ran = procpool("run", *stand_in, "--each", str(tmp_path / "r.jsonl"), "--", str(module))
    assert ran[0] == code and ("its import env.log" in ran[2]) == (given == "trap")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["call", M, "divide", "1", "0"], "divide: integer divide by zero"),
        (["call", M, "spin", "--timeout", "0.1"], "spin got no result within 0.1 s"),
        (["call", M, "spin", "--fuel", "100000"], "fuel"),
        (["bench", M, "divide", "1", "0"], "divide: integer divide by zero"),
    ],
)
def test_the_guest_fails(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(args, capsys)
    assert (code, out) == (1, "") and words in err


def test_memory_limit(capsys: pytest.CaptureFixture[str]) -> None:
    less, more = (outcome(["call", M, "grow", "--memory-limit", limit], capsys)[1] for limit in ("2M", "3MiB"))
    assert int(more) - int(less) == 16  # pages of 64 KiB


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("call", M, "grow", "--memory-limit", "1M"), "memory minimum size of 17 pages exceeds memory limits"),
        (
            ("call", str(FIXTURES / "badstart.wat"), "fine", "1"),
            "wasm `unreachable` instruction executed\n  at start (func 0, offset 0x29)",
        ),
    ],
)
def test_no_worker_can_be_started(args: tuple[str, ...], told: str) -> None:
    started = "no worker can be started: making an instance of the module"
    assert procpool(*args) == (1, "", f"procpool: {started}: {told}\n")


@pytest.mark.parametrize(
    "args",
    [
        ["--timeout", "9", "--json", K, "addd", "-4e5", "-inf"],
        [K, "--timeout", "9", "addd", "--json", "-4e5", "-inf"],
        [K, "addd", "-4e5", "--timeout=9", "-inf", "--json"],
        [K, "addd", "-4e5", "-inf", "--timeout", "9", "--json"],
        [K, "addd", "--json", "--", "-4e5", "-inf"],
        [K, "addd", "-4e5", "--json", "--", "-Infinity"],
    ],
)
def test_options_before_and_after(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    printed = '{"export": "addd", "args": [-400000.0, "-inf"], "result": "-inf"}\n'
    assert outcome(["call", *args], capsys) == (0, printed, "")


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([], ["call"], ["map"], ["bench"], ["inspect"]):
        code, out, _ = outcome([*args, "--help"], capsys)
        assert code == 0 and "exit codes:\n  0    all is well" in out and "--keep-going" in out


def test_streams_that_are_closed_or_full() -> None:
    command = f"{sys.executable} -m procpool map {K} add --range 0:40000 --range 0:40000"

    def shell(redirected: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"{command} {redirected}"], capture_output=True, text=True, cwd=FIXTURES.parent, timeout=60
        )

    unsaved = "procpool: standard output: No space left on device; the results are lost\n"
    full = shell("> /dev/full")
    assert (full.returncode, full.stderr) == (1, unsaved)
    lost = "procpool: standard output is closed, and the results are lost\n"
    closed = shell(">&-")
    assert (closed.returncode, closed.stderr) == (1, lost)
    command = f"{sys.executable} -m procpool call {K} add 1 2"
    assert (shell(">&-").returncode, shell(">&-").stderr) == (1, lost)
    assert (shell(">/dev/full").returncode, shell(">/dev/full").stderr) == (1, unsaved)
    command = f"{sys.executable} -m procpool inspect {K}"
    assert (shell(">&-").returncode, shell(">&-").stderr) == (1, lost)
    assert (shell(">/dev/full").returncode, shell(">/dev/full").stderr) == (1, unsaved)
    command = f"{sys.executable} -m procpool inspect nowhere.wasm"
    assert (shell(">/dev/full").returncode, shell(">/dev/full").stderr) == (
        2,
        "procpool: nowhere.wasm: No such file or directory\n",
    )
    command = f"{sys.executable} -m procpool call {K} touch"
    assert (shell(">&-").returncode, shell(">&-").stderr) == (0, "")  # it has none
    command = f"{sys.executable} -m procpool map {K} add --range 0:40000 --range 0:40000"
    silent = shell("2>&-")
    assert silent.returncode == 0 and silent.stdout.endswith("79998\n") and "calls in" not in silent.stdout
    no_input = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m procpool map {K} fib <&-"], capture_output=True, text=True, cwd=FIXTURES.parent
    )
    assert no_input.returncode == 2 and "there is no standard input to read rows from" in no_input.stderr


def test_output_that_a_caller_has_redirected() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["call", K, "add", "1", "2"]) == 0
    assert printed.getvalue() == "3\n"


def test_what_it_prints_goes_where_it_belongs() -> None:
    assert procpool("call", K, "add", "1", "2") == (0, "3\n", "")


def test_env_reaches_the_guest(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """How many variables the guest sees, by WASI's own count."""
    (tmp_path / "env.wat").write_text("""
    (module
      (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "variables") (result i32)
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (i32.load (i32.const 0))))""")
    assert outcome(["call", str(tmp_path / "env.wat"), "variables"], capsys) == (0, "0\n", "")
    two = ["call", "--env", "A=b", str(tmp_path / "env.wat"), "variables", "--env", "C="]
    assert outcome(two, capsys) == (0, "2\n", "")
    monkeypatch.setenv("PROCPOOL_A", "b")
    ours = ["call", "--env", "PROCPOOL_A", "--env", "PROCPOOL_B", str(tmp_path / "env.wat"), "variables"]
    assert outcome(ours, capsys) == (0, "1\n", "")


#: Names that would clear a terminal, turn its text round, and look like a line of ours.
UNRULY = (
    '(module (import "e\\1b[2J" "i\\nexports: none\\e2\\80\\ae" (func))'
    ' (memory (export "m\\c2\\9b2J") 1) (func (export "f\\1b]0;x\\07\\n  g ()")))'
)


def test_names_of_a_module_do_nothing_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "a\x1b[2J\n.wat"
    Path(name).write_text(UNRULY)
    Path("wanted.wat").write_text(UNRULY.replace('(import "e\\1b[2J" "i\\nexports: none\\e2\\80\\ae" (func))', ""))
    code, out, err = outcome(["inspect", name], capsys)
    assert (code, err) == (0, "") and out.splitlines()[1:] == [
        "imports: 1",
        r"  e\x1b[2J.i\nexports: none\u202e () -> ()",
        "exports: 2",
        r"  m\x9b2J: memory of 1 pages",
        r"  f\x1b]0;x\x07\n  g () () -> ()",
    ]
    assert out.startswith(r"a\x1b[2J\n.wat: ")
    for words in (
        ["call", name, "f"],
        ["call", "wanted.wat", "f\x1b]0;x"],
        ["call", "wanted.wat", "m\x9b2J"],
        ["call", "b\x1b[2J\n.wat", "f"],
        ["map", "wanted.wat", "f\x1b]0;x\x07\n  g ()", "c\x1b[2J\n.csv"],
        ["inspect", name, "\x1b[2J\n"],
        ["map", "wanted.wat", "f\x1b]0;x\x07\n  g ()", "--reduce", "sum", "--range", "0:1"],
        ["call", "wanted.wat", "f\x1b]0;x\x07\n  g ()", "1"],
        ["bench", "wanted.wat", "f\x1b]0;x\x07\n  g ()", "1"],
    ):
        code, out, err = outcome(words, capsys)
        assert (code, out) == (2, "") and err.replace("\n", "").isprintable()
        assert err.count("\n") <= 1 + "".join(words[2:]).count("\n")  # the user's own
    code, out, err = procpool("run", str(tmp_path / name))  # in a process of its own, for it sets signals
    assert (code, out, err.count("\n")) == (2, "", 1) and err[:-1].isprintable()


def test_names_of_functions_that_trap_do_nothing_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "m.wasm"  # whose name section names a function
    named = b"x\x1b[2J\nx"
    module.write_bytes(
        b"\0asm\1\0\0\0" b"\1\4\1\x60\0\0" b"\3\2\1\0" b"\7\5\1\1f\0\0" b"\n\5\1\3\0\0\x0b"
        + b"\0" + bytes([10 + len(named)]) + b"\4name\1" + bytes([3 + len(named)]) + b"\1\0" + bytes([len(named)]) + named
    )  # fmt: skip
    code, out, err = outcome(["call", str(module), "f"], capsys)
    assert (code, out) == (1, "") and r"at x\x1b[2J\nx (func 0" in err and err.replace("\n", "").isprintable()
