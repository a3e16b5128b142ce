"""``procpool map``: what it reads, what it prints, and what it says of rows that fail."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from command_line import procpool
from conftest import DEADLINE, FIXTURES, KERNELS, MISBEHAVE, SHAPES

from procpool.cli import main
from procpool.cli.inputs import MOST_UNREADABLE
from procpool.cli.rows import LONGEST_LINE

K, M, S = str(KERNELS), str(MISBEHAVE), str(SHAPES)
#: Its parameters have names, and their order shows in the result.
NAMED = '(module (func (export "minus") (param $from i32) (param $what i32) (result i32) local.get 0 local.get 1 i32.sub))'

Map = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Map:
    """Maps an export over a file of that name and content: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(module: str, export: str, name: str, content: str | bytes, *options: str) -> tuple[int, str, str]:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        code = main(["map", module, export, name, "--workers", "1", *options])
        return (code, *capsys.readouterr())

    return run


SUMS = "3\n7\n"


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("rows.csv", "1,2\n3,4\n", ()),
        ("rows.csv", "\ufeff1,2\r\n3,4\r\n", ()),
        ("rows.csv", '"1","2"\n"3", 4', ()),
        ("rows.csv", "\ufeffa,b\n1,2\n3,4\n", ("--header",)),
        ("rows.csv", "1;2\n3;4\n", ("--delimiter", ";")),
        ("rows.csv", "1\t2\n3\t4\n", ("--delimiter", "tab")),
        ("rows.csv", "1\t2\n3\t4\n", ("--input-format", "tsv")),
        ("rows.tsv", "1\t2\n3\t4\n", ()),
        ("ROWS.TSV", "1\t2\n\n3\t4\n", ()),
        ("rows", "1,2\n3,4\n", ()),
        ("rows.csv", "001,0x2\n3,4\n", ()),
        ("rows.jsonl", "[1, 2]\n\n[3, 4]\n", ()),
        ("rows.ndjson", '["1", "0x2"]\n[3, 4]', ()),
        ("rows.ndjson", "\ufeff[1, 2]\n[3, 4]", ()),
        ("rows.json", "[1, 2]\n[3, 4]", ("--input-format", "jsonl")),
        ("rows.jsonl", '{"a": 1, "b": 2}\n{"b": 4, "a": 3}\n', ()),
        ("rows.jsonl", '{"id": 9, "a": 1, "b": 2}\n{"b": 4, "a": 3, "id": 9}\n', ("--columns", "a,b")),
        ("rows.csv", "id,a,b\n9,1,2\n9,3,4\n", ("--header", "--columns", "a,b")),
    ],
)
def test_what_it_reads(mapped: Map, name: str, content: str, options: Sequence[str]) -> None:
    code, out, err = mapped(K, "add", name, content, *options)
    assert (code, out) == (0, SUMS) and err.startswith("2 calls in ")


@pytest.mark.parametrize(
    ("name", "content", "options", "printed"),
    [
        # By the names of the parameters, where the module tells them and the record has them all.
        ("r.csv", "what,id,from\n1,9,10\n", ("--header",), "9\n"),
        ("r.jsonl", '{"what": 1, "from": 10}\n', (), "9\n"),
        # The user's choice is before that.
        ("r.csv", "what,from\n1,10\n", ("--header", "--columns", "what,from"), "-9\n"),
        # Else as they come: in the order of the header, or of the first object's keys.
        ("r.csv", "x,y\n10,1\n", ("--header",), "9\n"),
        ("r.jsonl", '{"x": 10, "y": 1}\n{"y": 1, "x": 20}\n', (), "9\n19\n"),
        ("r.jsonl", "[10, 1]\n", (), "9\n"),
        # So even where names are repeated.
        ("r.csv", "from,from\n10,1\n", ("--header",), "9\n"),
        ("r.csv", ",\n10,1\n", ("--header",), "9\n"),
        ("r.csv", "what,from,x,x\n1,10,5,6\n", ("--header",), "9\n"),
        ("r.csv", "x,x,y\n5,6,10\n", ("--header", "--columns", "y,y"), "0\n"),
    ],
)
def test_names_and_order(mapped: Map, name: str, content: str, options: Sequence[str], printed: str) -> None:
    assert mapped(NAMED, "minus", name, content, *options)[:2] == (0, printed)


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("r.csv", "1,2\n\n3,x\n", (), "line 3 of r.csv: 'x' is not an i32\n"),
        ("r.csv", "1,2\n3\n", (), "line 2 of r.csv: add takes 2 arguments, (i32, i32) -> (i32), got 1\n"),
        ("r.csv", "1,2\n3,4,5\n", (), "line 2 of r.csv: add takes 2 arguments"),
        ("r.csv", "1,2\n3,4294967296\n", (), "line 2 of r.csv: add: argument 1 is 4294967296, out of range for i32"),
        ("r.csv", '1,2\n"3\n",x\n', (), "line 2 of r.csv: 'x' is not an i32"),
        ("r.csv", "1,2\n3,1.5\n", (), "line 2 of r.csv: '1.5' is not an i32"),
        ("r.csv", "1,2\n3,\n", (), "line 2 of r.csv: '' is not an i32"),
        ("r.csv", '1,2\n3,"4\n', (), "line 2 of r.csv: unexpected end of data"),
        ("r.csv", b"1,2\n\xff\xfe\n", (), "r.csv: it is not text in UTF-8"),
        ("r.csv", "a,b\n1,2\n", (), "line 1 of r.csv: 'a' is not an i32; if that line names the columns, give --header"),
        ("r.csv", "1;2\n", (), "line 1 of r.csv: '1;2' is not an i32; if that parts its columns, give --delimiter ';'"),
        ("r.csv", "a,b\n1,2\n3\n", ("--header",), "line 3 of r.csv: it has 1 columns and the first line 2"),
        ("r.csv", "id,a,b\n1,2,3\n", ("--header",), "line 1 of r.csv: the export takes 2 arguments, and there are 3: 'id', 'a', 'b'; choose with --columns"),
        ("r.csv", "a,b\n1,2\n", ("--header", "--columns", "a,c"), "line 1 of r.csv: there is no 'c' among 'a', 'b'"),
        ("r.jsonl", "[1,2]\n[3,\n", (), "line 2 of r.jsonl: it is not JSON: Expecting value at column"),
        ("r.jsonl", "[1,2]\n[3,true]\n", (), "line 2 of r.jsonl: true is not an i32"),
        ("r.jsonl", "[1,2]\n[3,null]\n", (), "line 2 of r.jsonl: null is not an i32"),
        ("r.jsonl", "[1,2]\n[3,1.5]\n", (), "line 2 of r.jsonl: 1.5 is not an i32"),
        ("r.jsonl", "[1,2]\n[3,[4]]\n", (), "line 2 of r.jsonl: [4] is not an i32"),
        ("r.jsonl", "[1,2]\n" + "[" * 100_000 + "\n", (), "line 2 of r.jsonl: "),
        ("r.jsonl", '[1,2]\n{"a":1}\n', (), "line 2 of r.jsonl: the export takes 2 arguments, and there are 1: 'a'"),
        ("r.jsonl", '{"a":1,"b":2}\n{"a":1,"c":2}\n', (), "line 2 of r.jsonl: the object has no 'b', which the first one had"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row(mapped: Map, name: str, content: str | bytes, options: Sequence[str], words: str) -> None:
    code, out, err = mapped(K, "add", name, content, *options)
    assert code == 2 and err.startswith(f"procpool: {'line' if 'line' in words[:4] else ''}") and words in err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert out in ("", "3\n")  # what came before it


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("r.csv", "from,what,what\n1,2,3\n", ("--header",), "line 1 of r.csv: 2 columns are named 'what'; give each a name of its own"),
        ("r.csv", "a,b,a\n1,2,3\n", ("--header", "--columns", "b,a"), "line 1 of r.csv: 2 columns are named 'a'"),
        ("r.jsonl", '{"from": 1, "what": 2, "what": 3}\n', (), "line 1 of r.jsonl: the object has 'what' twice"),
    ],
)  # fmt: skip
def test_a_name_that_fits_two_is_not_taken_for_one(
    mapped: Map, name: str, content: str, options: Sequence[str], words: str
) -> None:
    code, out, err = mapped(NAMED, "minus", name, content, *options)
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1


def test_a_row_that_fails_ends_it(mapped: Map) -> None:
    code, out, err = mapped(M, "divide", "r.csv", "6,3\n\n6,0\n6,2\n")
    assert (code, out) == (1, "2\n")
    assert err.startswith("procpool: line 3 of r.csv: divide: integer divide by zero")


def test_keep_going(mapped: Map) -> None:
    content = "6,3\nx,1\n6,0\n\n6,2\n1,2,3\n"
    code, out, err = mapped(M, "divide", "r.csv", content, "--keep-going")
    assert (code, out) == (3, "2\n\n\n3\n\n")
    summary, *failures = err.splitlines()
    assert summary.startswith("2 calls in ")
    assert failures == [
        "procpool: 3 of 5 rows failed:",
        "  line 2 of r.csv: 'x' is not an i32",
        "  line 3 of r.csv: divide: integer divide by zero",
        "  line 6 of r.csv: divide takes 2 arguments, (i32, i32) -> (i32), got 3",
    ]
    assert mapped(M, "divide", "r.csv", "6,3\n", "--keep-going")[0] == 0


def test_keep_going_lists_some_of_many(mapped: Map) -> None:
    code, out, err = mapped(K, "fib", "r.csv", "x\n" * 1000 + "10\n", "--keep-going")
    assert code == 3 and out == "\n" * 1000 + "55\n"
    assert "1000 of 1,001 rows failed" in err and len(err.splitlines()) == 23 and "and 980 more" in err


@pytest.mark.parametrize(("name", "wrong"), [("r.csv", b"\xff"), ("r.csv", b'"1\xe4"'), ("r.jsonl", b'"\xff"')])
def test_a_row_that_is_not_utf_8_fails_alone(mapped: Map, name: str, wrong: bytes) -> None:
    content = b"10\n" * 3000 + wrong + b"\n20\n"
    code, out, err = mapped(K, "fib", name, content)
    assert (code, out) == (2, "55\n" * 3000)
    assert err == f"procpool: line 3001 of {name}: it is not text in UTF-8\n"
    code, out, err = mapped(K, "fib", name, content, "--keep-going")
    assert (code, out) == (3, "55\n" * 3000 + "\n6765\n")
    assert f"  line 3001 of {name}: it is not text in UTF-8\n" in err


def test_a_header_that_cannot_be_read_is_not_passed_over(mapped: Map) -> None:
    for header, words in ((b"\xff,b", "it is not text in UTF-8"), (b'"a"x,b', "',' expected after '\"'")):
        code, out, err = mapped(K, "add", "r.csv", header + b"\n1,2\n3,4\n", "--header", "--keep-going")
        assert (code, out) == (2, "") and f"line 1 of r.csv: {words}" in err


def test_a_call_that_hangs_fails_alone(mapped: Map) -> None:
    module = '(module (func (export "maybe") (param i32) (result i32) (loop (br_if 0 (local.get 0))) i32.const 7))'
    code, out, err = mapped(module, "maybe", "r.csv", "0\n1\n0\n", "--keep-going", "--timeout", "0.3", "--json")
    assert code == 3 and [json.loads(line).get("result") for line in out.splitlines()] == [7, None, 7]
    assert "line 2 of r.csv: maybe ran longer than 0.3 s" in err


def test_json(mapped: Map) -> None:
    code, out, _ = mapped(K, "addd", "r.csv", "1,2\ninf,1\n\nx,1\n", "--json", "--keep-going")
    assert code == 3
    assert [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()] == [
        {"row": 1, "args": [1.0, 2.0], "result": 3.0},
        {"row": 2, "args": ["inf", 1.0], "result": "inf"},
        {"row": 4, "args": ["x", "1"], "error": "'x' is not an f64"},
    ]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("output", ["--json", "--csv"])
def test_text_that_standard_output_cannot_encode(
    encoding: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    (tmp_path / "r.jsonl").write_text('["\\ud800", 2]\n["\U0001f600\xe9", 2]\n[1, 2]\n')
    code, out, err = procpool("map", K, "add", str(tmp_path / "r.jsonl"), "--keep-going", output)
    assert code == 3 and "2 of 3 rows failed" in err and "'\\ud800' is not an i32" in err
    if output == "--json":
        args = [json.loads(line)["args"] for line in out.splitlines()]
        assert args == [["\ud800", 2], ["\U0001f600\xe9", 2], [1, 2]]
    else:
        smile = "\U0001f600\xe9" if encoding == "utf-8" else "\\U0001f600\\xe9"
        assert out.startswith(
            f"arg0,arg1,result,error\n\\ud800,2,,'\\ud800' is not an i32\n{smile},2,,'{smile}' is not an i32\n"
        )
        assert out.endswith("\n1,2,3,\n")


def test_json_can_be_read_back(mapped: Map) -> None:
    lanes = "01" * 16
    _, out, _ = mapped(S, "add_lanes", "r.csv", f"{lanes},{lanes}\n", "--json")
    assert json.loads(out) == {"row": 1, "args": [lanes, lanes], "result": "02" * 16}
    _, out, _ = mapped(K, "same_f64", "r.csv", "inf\n-inf\nnan\n1e300\n", "--json")
    again = "".join(json.dumps(json.loads(line)["args"]) + "\n" for line in out.splitlines())
    assert mapped(K, "same_f64", "r.jsonl", again)[1] == "inf\n-inf\nnan\n1e+300\n"


@pytest.mark.parametrize(
    ("module", "export", "content", "options", "printed"),
    [
        (K, "add", "1,2\n3,4\n", (), "arg0,arg1,result\n1,2,3\n3,4,7\n"),
        (K, "add", "lo,hi\n1,2\n", ("--header",), "lo,hi,result\n1,2,3\n"),
        (NAMED, "minus", "3,2\n", (), "from,what,result\n3,2,1\n"),
        (S, "swap", "1,2\n", (), "arg0,arg1,result0,result1\n1,2,2,1\n"),
        (K, "touch", "", (), "\n"),
        (K, "add", "", (), "arg0,arg1,result\n"),
        (M, "divide", "6,3\n6,0\n6\n", ("--keep-going",),
         'arg0,arg1,result,error\n6,3,2,\n6,0,,divide: integer divide by zero\n6,,,"divide takes 2 arguments, (i32, i32) -> (i32), got 1"\n'),
    ],
)  # fmt: skip
def test_csv(mapped: Map, module: str, export: str, content: str, options: Sequence[str], printed: str) -> None:
    assert mapped(module, export, "r.csv", content, "--csv", *options)[1] == printed


@pytest.mark.parametrize(
    ("export", "how", "content", "printed"),
    [
        ("add", "sum", "1,2\n3,4\n", "10\n"),
        ("add", "min", "1,2\n-3,4\n5,6\n", "1\n"),
        ("add", "max", "1,2\n3,4\n", "7\n"),
        ("same_i64", "sum", "9223372036854775807\n" * 3, f"{3 * (2**63 - 1)}\n"),
        ("addd", "sum", "0.5,0\n0.25,0\n", "0.75\n"),
        ("add", "sum", "", "0\n"),
        ("add", "max", "", ""),
    ],
)
def test_reduce(mapped: Map, export: str, how: str, content: str, printed: str) -> None:
    assert mapped(K, export, "r.csv", content, "--reduce", how)[:2] == (0, printed)


@pytest.mark.parametrize("how", ["min", "max", "sum"])
def test_what_is_no_number_wins(mapped: Map, how: str) -> None:
    for content in ("nan\n1\n2\n", "1\nnan\n2\n", "2\n1\nnan\n"):
        assert mapped(K, "same_f64", "r.csv", content, "--reduce", how)[:2] == (0, "nan\n")
    for content in ("1\ninf\n-inf\n", "-inf\ninf\n1\n"):
        assert (
            mapped(K, "same_f64", "r.csv", content, "--reduce", how)[1]
            == {"min": "-inf\n", "max": "inf\n", "sum": "nan\n"}[how]
        )


def test_reduce_several_results_and_failures(mapped: Map) -> None:
    assert mapped(S, "swap", "r.csv", "1,2\n3,5\n", "--reduce", "sum")[:2] == (0, "7,4\n")
    assert mapped(M, "divide", "r.csv", "6,3\n1,0\n6,2\n", "--reduce", "sum", "--keep-going")[:2] == (3, "5\n")
    assert mapped(M, "divide", "r.csv", "6,3\n1,0\n6,2\n", "--reduce", "sum")[:2] == (1, "")  # no sum of some


def test_the_main_command_of_the_readme_in_small() -> None:
    ranges = ("--range", "0:200000:5000", "--range", "5000:205000:5000")
    code, out, err = procpool("map", K, "count_primes", *ranges, "--workers", "2", "--reduce", "sum", "--speedup")
    assert (code, out) == (0, "17984\n")  # primes below 200,000
    summary, speedup = err.splitlines()
    assert summary.startswith("40 calls in ") and "on 2 workers" in summary
    assert "times as fast as one worker, which took " in speedup and float(speedup.split()[0]) > 0


def test_the_readme_has_that_command() -> None:
    text = (FIXTURES.parent / "README.md").read_text()
    command = text.partition("<!-- main-command -->")[2].partition("<!-- /main-command -->")[0]
    assert "--reduce sum --speedup" in command and "--range 0:20000000:500000 --range 500000:20500000:500000" in command


def test_speedup_needs_more_than_one_worker(mapped: Map) -> None:
    code, out, err = mapped(K, "fib", "r.csv", "10\n", "--speedup")
    assert (code, out) == (0, "55\n") and "no speed-up to tell" in err


def test_a_range_that_counts_down(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", K, "add", "--range", "3:0:-1", "--range", "-3:0"]) == 0
    assert capsys.readouterr().out == "0\n0\n0\n"


def test_a_row_of_ranges_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", M, "divide", "--range", "6:9", "--range", "-1:2"]) == 1
    out, err = capsys.readouterr()
    assert out == "-6\n" and err.startswith("procpool: row 2, (7, 0): divide: integer divide by zero")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_line_that_is_too_long_is_refused_by_its_number(mapped: Map, name: str) -> None:
    rows = "1,2\n" if name == "rows.csv" else "[1,2]\n"
    code, out, err = mapped(K, "add", name, f"{rows}{rows}{' ' * LONGEST_LINE}1,2\n{rows}", "--keep-going")
    assert (code, out) == (2, "3\n3\n")
    assert f"line 3 of {name} is longer than 16,777,216 characters" in err
    if name == "rows.jsonl":  # a field of CSV may not have that many
        code, out, err = mapped(K, "add", name, f"{rows}[1,2]{' ' * (LONGEST_LINE - 6)}\n{rows}")
        assert (code, out) == (0, "3\n3\n3\n"), err


@pytest.mark.parametrize("source", ["/dev/zero", "-"])
def test_an_endless_line_is_refused_and_takes_no_memory(source: str) -> None:
    script = f"ulimit -d 1000000; exec {sys.executable} -m procpool map {K} add {source} --workers 1 < /dev/zero"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=FIXTURES.parent, timeout=DEADLINE)
    assert run.returncode == 2
    named = "stdin" if source == "-" else source
    assert (
        run.stderr == f"procpool: line 1 of {named} is longer than 16,777,216 characters, the most that a line may have\n"
    )


def test_endless_rows_that_all_fail_are_told_by_the_thousand() -> None:
    """With no row that can be read, the map has nothing to give; what is to be said must not wait for that."""
    command = [sys.executable, "-m", "procpool", "map", K, "add", "--keep-going", "--json", "--workers", "1"]
    with (
        subprocess.Popen(["yes", "odd"], stdout=subprocess.PIPE) as rows,
        subprocess.Popen(command, stdin=rows.stdout, stdout=subprocess.PIPE, text=True, cwd=FIXTURES.parent) as process,
    ):
        assert rows.stdout is not None and process.stdout is not None
        rows.stdout.close()
        told = [json.loads(process.stdout.readline()) for _ in range(20_000)]
        process.stdout.close()
        rows.kill()
        assert process.wait(DEADLINE) == 0
    assert [row["row"] for row in told] == list(range(1, 20_001))
    assert {tuple(row["args"]) for row in told} == {("odd",)}


def test_many_rows_that_cannot_be_read_are_told_while_the_next_is_waited_for() -> None:
    command = [sys.executable, "-m", "procpool", "map", K, "add", "--keep-going", "--json", "--workers", "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=FIXTURES.parent) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("1,2\n" + "odd\n" * MOST_UNREADABLE)
        process.stdin.flush()
        printed = b""
        while printed.count(b"\n") <= MOST_UNREADABLE:
            assert select.select([process.stdout], [], [], DEADLINE)[0], f"nothing more behind {printed[-200:]!r}"
            printed += os.read(process.stdout.fileno(), 65536)
        told = [json.loads(line)["row"] for line in printed.splitlines()]
        assert told == list(range(1, MOST_UNREADABLE + 2)) and MOST_UNREADABLE == 1000, "as the documentation says"
        process.communicate("", DEADLINE)
        assert process.returncode == 3
