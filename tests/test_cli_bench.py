"""``procpool bench``: that its figures are of calls really made, and that people and programs can read them."""

from __future__ import annotations

import io
import json
from statistics import median

import pytest
from conftest import FIXTURES, KERNELS

from procpool import ProcessWasmPool
from procpool.cli import main
from procpool.cli.bars import WIDTH, bars
from procpool.cli.measuring import ROUNDS, Bench, Figures
from procpool.cli.wording import plural, rate

K = str(KERNELS)


def test_it_counts_calls_that_were_made() -> None:
    steps: list[int] = []
    with ProcessWasmPool(K, 2) as pool, ProcessWasmPool(K, 1) as one:
        figures = Bench(pool, one, "churn", [1, 20_000], 0.5, steps.append).run()
        made = pool.stats().calls
    assert sum(steps) <= Bench.steps(comparing=True)
    assert figures.workers == 2 == len(figures.per_worker)
    assert 1 <= len(figures.all) == len(figures.one) <= ROUNDS
    assert figures.latencies == sorted(figures.latencies) and figures.latencies[0] > 0
    assert all(value > 0 for value in figures.all + figures.one)
    # What the workers have counted over all rounds lies between the slowest round and the fastest, seen from outside.
    assert 0.999 * min(figures.all) <= sum(figures.per_worker) <= 1.001 * max(figures.all)
    assert made > len(figures.latencies)


def test_one_worker_is_compared_with_nothing() -> None:
    with ProcessWasmPool(K, 1) as pool:
        figures = Bench(pool, None, "touch", [], 0.2, lambda steps: None).run()
    assert figures.one == [] and figures.speedups == [] and figures.rate > 0


def test_percentiles_are_told_where_there_are_enough_calls() -> None:
    figures = Figures(1, latencies=[float(n) for n in range(1, 101)])
    assert [figures.latency(percent) for percent in (50, 90, 99, 99.9)] == [51, 91, 100, None]
    figures = Figures(1, latencies=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert [figures.latency(percent) for percent in (50, 90, 99)] == [3, None, None]


def test_bars() -> None:
    text = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert bars([4, 2, 0], text) == ["█" * WIDTH, ("█" * (WIDTH // 2)).ljust(WIDTH), " " * WIDTH]
    assert bars([WIDTH * 8, 3], text)[1].rstrip() == "▍"
    ascii_ = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert bars([4, 2], ascii_) == ["#" * WIDTH, ("#" * (WIDTH // 2)).ljust(WIDTH)]
    assert bars([], text) == [] and bars([0], text) == [" " * WIDTH]


def test_wording() -> None:
    assert [rate(r) for r in (1234567.8, 100, 4.567)] == ["1,234,568", "100", "4.57"]
    assert [plural(n, "call") for n in (0, 1, 2000)] == ["0 calls", "1 call", "2,000 calls"]


def test_what_people_see(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", K, "churn", "1", "20000", "--workers", "2", "--duration", "0.4"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "churn(1, 20000) on 2 workers"
    assert sum(" calls/s" in line for line in lines) == 4  # one worker, two workers, and each of the two
    assert any("times as fast as one worker (from " in line for line in lines)
    assert any("50 % of calls within" in line for line in lines)


def test_what_programs_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", K, "touch", "--workers", "2", "--duration", "0.4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["export"], found["args"], found["workers"]) == ("touch", [], 2)
    assert found["calls_per_second"]["all_workers"] == median(r["all_workers"] for r in found["rounds"])
    assert found["speedup"] == pytest.approx(median(r["all_workers"] / r["one_worker"] for r in found["rounds"]))
    assert len(found["calls_per_second"]["each_worker"]) == 2 and found["latency_seconds"]["p50"] > 0


def test_long_calls_are_not_repeated_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    """A round has one call per worker at least; when rounds take longer than planned, there are fewer of them."""
    assert main(["bench", K, "churn", "1", "100000000", "--workers", "2", "--duration", "0.005", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rounds"]) == 1


def test_inspect_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--json", str(FIXTURES / "shapes.wat")]) == 0
    found = json.loads(capsys.readouterr().out)
    exports = {export.pop("name"): export for export in found["exports"]}
    assert exports["swap"] == {"kind": "function", "params": ["i32", "i64"], "results": ["i64", "i32"]}
    assert exports["memory"] == {
        "kind": "memory",
        "minimum": 1,
        "maximum": 4,
        "shared": False,
        "is_64": False,
        "page_size": 65536,
    }
    assert exports["counter"] == {"kind": "global", "content": "i32", "mutable": True}
    assert exports["table"]["kind"] == "table" and found["imports"] == [] and found["bytes"] > 0
    assert main(["inspect", str(FIXTURES / "host.wat"), "--json"]) == 0
    (first, *_) = json.loads(capsys.readouterr().out)["imports"]
    assert first == {"module": "env", "name": "add", "kind": "function", "params": ["i32", "i32"], "results": ["i32"]}
