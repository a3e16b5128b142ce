"""Runs the whole suite, ways in turns: ``python -m perf [THEME...]``.

Writes pyperf's JSON (which ``python -m pyperf show`` and ``compare_to`` read), a table in Markdown, and pictures.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

import pyperf

from . import published, report
from .startup import DOWNLOADS
from .ways import Way

THEMES = (
    *("latency", "throughput", "batch", "scaling", "startup", "memory", "payload"),
    *("instances", "snapshots", "components", "wasi", "faults", "sleepers", "counters", "cluster"),
)
SLOW_PEERS = ("ray", "dask")
#: Seconds after which one way is given up; a peer that hangs is a result too, and said so.
PATIENCE = 300


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(prog="python -m perf", description=__doc__.splitlines()[0])
    parser.add_argument("themes", nargs="*", metavar="THEME", help=f"of {', '.join(THEMES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each way has its turn (default 5)")
    parser.add_argument("--values", type=int, default=3, help="how many values each turn gives (default 3)")
    parser.add_argument("--fast", action="store_true", help="two rounds, one value each: for a first look")
    parser.add_argument("--slow-peers", action="store_true", help="ray and dask too, which are slow to start")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to keep pyperf's JSON")
    parser.add_argument(
        "--from", type=Path, dest="source", metavar="FILE", help="report on this JSON, or table, and measure nothing"
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="where to write the table (default: standard output)")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="put the short table between the perf markers of FILE")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="where to draw the pictures (needs matplotlib)")
    options = parser.parse_args()
    unknown = set(options.themes) - set(THEMES)
    if unknown:
        parser.error(f"no theme {', '.join(sorted(unknown))}")

    if options.source and options.source.suffix == ".md":
        if options.output or options.table or options.readme:
            parser.error("a table has only what pictures need; give --plots alone, or a JSON")
        _draw(report.read_table(options.source.read_text()), options.plots)
        return
    if options.source:
        suite = pyperf.BenchmarkSuite.load(str(options.source))
    else:
        with tempfile.TemporaryDirectory() as downloads:
            os.environ[DOWNLOADS] = downloads
            suite = _measure(options.themes or THEMES, 2 if options.fast else options.rounds, options)
    if options.output:
        suite.dump(str(options.output), replace=True)
    figures = report.read(suite)
    others = published.table(figures)
    table = report.table(figures) + (f"\n{others}" if others else "")
    if options.table:
        options.table.write_text(f"# Measurements\n\n{table}")
    else:
        print(table)
    if options.readme:
        report.update_readme(options.readme, figures)
    _draw(figures, options.plots)


def _draw(figures: list[report.Figure], directory: Path | None) -> None:
    if directory is not None:
        from . import plots

        directory.mkdir(parents=True, exist_ok=True)
        plots.draw(figures, directory)


def _measure(themes: Iterable[str], rounds: int, options: argparse.Namespace) -> pyperf.BenchmarkSuite:
    started = perf_counter()
    found: dict[str, pyperf.Benchmark] = {}
    for theme in themes:
        ways = [way for way in _ways(theme) if options.slow_peers or way.name not in SLOW_PEERS]
        for round_ in range(rounds):
            # Backwards every other time, so that no way always follows the same other.
            for number, way in enumerate(ways if round_ % 2 == 0 else ways[::-1], 1):
                done = f"{theme}, round {round_ + 1} of {rounds}, {number} of {len(ways)}"
                print(f"[{perf_counter() - started:6.1f} s] {done}: {way.title}", file=sys.stderr, flush=True)
                if round_ == 0 or not way.once:
                    _run_once(theme, way, 1 if options.fast or way.once else options.values, found)
    return pyperf.BenchmarkSuite(list(found.values()))


def _ways(theme: str) -> list[Way]:
    ways: list[Way] = []
    for way in importlib.import_module(f"perf.{theme}").WAYS:
        if way.missing():
            print(f"{way.title}: skipped, {', '.join(way.missing())} is not installed", file=sys.stderr)
        else:
            ways.append(way)
    return ways


def _run_once(theme: str, way: Way, values: int, found: dict[str, pyperf.Benchmark]) -> None:
    """One turn of one way, in a process of its own; its values join those of its other turns."""
    with tempfile.TemporaryDirectory() as directory:
        output = os.path.join(directory, "run.json")
        command = [sys.executable, "-m", f"perf.{theme}", "--only", way.title, "--worker", "--worker-task", "0"]
        warmups = "0" if way.once else "1"
        command += ["--loops", str(way.loops), "--values", str(values), "--warmups", warmups, "--quiet", "-o", output]
        try:
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            print(f"{way.title}: gave no result within {PATIENCE} s", file=sys.stderr)
            return
        if done.returncode or not os.path.exists(output):
            print(f"{way.title}: failed\n{done.stderr.decode()[-2000:]}", file=sys.stderr)
            return
        benchmark = pyperf.Benchmark.load(output)
        if way.title in found:
            found[way.title].add_runs(benchmark)
        else:
            found[way.title] = benchmark


if __name__ == "__main__":
    main()
