"""From pyperf's results to tables."""

from __future__ import annotations

import os
import platform
import re
import statistics
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import pyperf

from .ways import FLOOR, OURS

#: What the README shows; the whole table is docs/performance.md.
SHORT = (
    'blocking call("add", 1, 2)',
    "submit 10,000 adds and gather them, each",
    "64 jobs of 4 ms",
    "map add over 1,000,000 Python ints, each",
    "map_array add over 10,000,000 int32, each",
    "1 MiB in and out, jobs gathered 32 at a time, each",
    "first result, 8 workers, module of 14 MB, wasmtime's cache warm",
    "memory of one idle worker alone (USS)",
    "after SIGKILL of the only worker",
    "processes left one second after SIGKILL of the busy program",
)


_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Figure:
    """What one way came to, over all its turns."""

    what: str
    way: str
    role: str
    at: float | None
    unit: str
    median: float
    least: float
    most: float


def read(suite: pyperf.BenchmarkSuite) -> list[Figure]:
    """The figures of a suite, in its order."""
    figures = []
    for benchmark in suite:
        known = benchmark.get_metadata()
        values = benchmark.get_values()
        at = known.get("procpool_at")
        figures.append(
            Figure(
                known["procpool_what"],
                known["procpool_way"],
                known["procpool_role"],
                None if at is None else float(at),
                known.get("unit", "second"),
                statistics.median(values),
                min(values),
                max(values),
            )
        )
    return figures


#: A row of a table: what, way, median, and least and most.
_ROW = re.compile(r"^\| (.+?) \| (.+?) \| ([0-9].*?) \| (.+?)\.\.(.+?) \|", re.MULTILINE)


def read_table(text: str) -> list[Figure]:
    """The figures of a table as `table` writes it.  They have three digits there, and roles are not told."""
    figures = []
    for what, named, *numbers in _ROW.findall(text):
        way, _, at = named.partition(" @ ")
        (median, unit), (least, _), (most, _) = map(_parsed, numbers)
        figures.append(Figure(what, way, "", float(at) if at else None, unit, median, least, most))
    return figures


def _parsed(text: str) -> tuple[float, str]:
    """What `shown` has shown, and its unit."""
    number, _, unit = text.replace(",", "").partition(" ")
    if unit == "MiB":
        return float(number) * 2**20, "byte"
    return (float(number) * _SECONDS[unit], "second") if unit else (float(number), "integer")


def groups(figures: list[Figure]) -> dict[str, list[Figure]]:
    """Figures by what they measure."""
    grouped: dict[str, list[Figure]] = {}
    for figure in figures:
        grouped.setdefault(figure.what, []).append(figure)
    return grouped


def shown(value: float, unit: str) -> str:
    """A figure for people."""
    if unit == "byte":
        return f"{value / 2**20:,.3g} MiB"
    if unit == "integer":
        return f"{round(value, 6):g}"
    value = float(f"{value:.3g}")  # first, or what is nearly a millisecond would be 1e+03 us
    name = next((name for name, factor in _SECONDS.items() if value >= factor), "ns")
    return f"{value / _SECONDS[name]:,.3g} {name}"


def table(figures: list[Figure], only: tuple[str, ...] | None = None) -> str:
    """Markdown: a row per way, as a multiple of the floor and of ours."""
    lines = [
        f"{machine()}  Medians over rounds in which all ways took turns.",
        "",
        "| what | way | median | least..most | x floor | x procpool |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for what, group in groups(figures).items():
        if only is not None and what not in only:
            continue
        plain = all(figure.at is None for figure in group)
        floor = next((figure.median for figure in group if figure.role == FLOOR), None) if plain else None
        ours = next((figure.median for figure in group if figure.role == OURS), None) if plain else None
        for figure in group:
            place = "" if figure.at is None else f" @ {figure.at:g}"
            spread = f"{shown(figure.least, figure.unit)}..{shown(figure.most, figure.unit)}"
            lines.append(
                f"| {what} | {figure.way}{place} | {shown(figure.median, figure.unit)} | {spread}"
                f" | {_ratio(figure.median, floor)} | {_ratio(figure.median, ours)} |"
            )
    return "\n".join(lines) + "\n"


def _ratio(value: float, base: float | None) -> str:
    return f"{value / base:.3g}" if base and base > 1e-9 else ""


def update_readme(path: Path, figures: list[Figure]) -> None:
    """Put the short table between the markers."""
    text = path.read_text()
    start, end = "<!-- perf -->\n", "<!-- /perf -->"
    replaced = re.sub(
        re.escape(start) + ".*?" + re.escape(end), lambda _: start + table(figures, SHORT) + end, text, flags=re.DOTALL
    )
    path.write_text(replaced)


def machine() -> str:
    """What the figures depend on."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown CPU")
    return (
        f"{len(os.sched_getaffinity(0))} x {model}, {psutil.virtual_memory().total >> 30} GiB, "
        f"{platform.system()} {platform.release()}; CPython {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in ("wasmtime", "numpy", "loky", "joblib", "mpire", "pebble"))
        + "."
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(none)"
