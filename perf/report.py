"""From pyperf's results to tables."""

from __future__ import annotations

import os
import platform
import re
import statistics
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil
import pyperf

from .ways import FLOOR, NOTHING, OURS


class Row(NamedTuple):
    """A row of the README: ours beside the way that people would otherwise use."""

    says: str
    what: str
    way: str
    beside: str


#: What the README shows, what we lose first; the whole table is docs/measurements.md.
SHORT = (
    Row(
        "numpy arrays: add 10,000,000 int32, each",
        "map_array add over 10,000,000 int32, each",
        "procpool map_array, out=",
        "numpy.add, out=",
    ),
    Row(
        "callables: submit an empty one 10,000 times, each",
        "submit one callable 10,000 times and gather, each",
        "procpool submit",
        "joblib",
    ),
    Row(
        "a map of `add` over 1,000,000 Python ints, each",
        "map add over 1,000,000 Python ints, each",
        "procpool map",
        "map(operator.add), in-process",
    ),
    Row(
        "start of 8 workers, module of 14 MB, to the first result",
        "first result, 8 workers, module of 14 MB, compiled before",
        "procpool",
        "ProcessPoolExecutor (spawn), compiling initializer",
    ),
    Row(
        "submit 10,000 calls and gather them, each",
        "submit 10,000 adds and gather them, each",
        "procpool submit",
        "ProcessPoolExecutor (spawn)",
    ),
    Row(
        "one blocking call after 2 ms of idleness",
        'blocking call("add", 1, 2), after 2 ms of idleness',
        "procpool call",
        "ProcessPoolExecutor (spawn)",
    ),
    Row("one blocking call, hot", 'blocking call("add", 1, 2)', "procpool call", "ProcessPoolExecutor (spawn)"),
    Row(
        "a map of `add` over 1,000,000 Python ints, each",
        "map add over 1,000,000 Python ints, each",
        "procpool map",
        "ProcessPoolExecutor (spawn), chunksize 1000",
    ),
)


#: What is no more than this is no base for a ratio.
LEAST_BASE = 1e-9
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


#: A heading, which says what was measured; or a row: way, median, and least and most.
_LINE = re.compile(r"^## (.+)$|^\| (.+?) \| ([0-9].*?) \| (.+?)\.\.(.+?) \|", re.MULTILINE)


def read_table(text: str) -> list[Figure]:
    """The figures of a table as `table` writes it.  They have three digits there, and roles are not told."""
    figures, what = [], ""
    for heading, named, *numbers in _LINE.findall(text):
        if heading:
            what = heading
            continue
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
    if value <= NOTHING:
        return "0 s"
    value = float(f"{value:.3g}")  # first, or what is nearly a millisecond would be 1e+03 us
    name = next((name for name, factor in _SECONDS.items() if value >= factor), "ns")
    return f"{value / _SECONDS[name]:,.3g} {name}"


def table(figures: list[Figure]) -> str:
    """Markdown: a section for each thing measured, with a row per way, as a multiple of the floor and of ours."""
    lines = [
        machine(),
        "",
        "Medians over rounds in which all ways took turns. `x floor` is how many times as much as the least that is",
        "possible, and `x procpool` as much as procpool's own way. Behind an `@` stands the place on a picture's axis.",
    ]
    for what, group in groups(figures).items():
        plain = all(figure.at is None for figure in group)
        floor = next((figure.median for figure in group if figure.role == FLOOR), None) if plain else None
        ours = next((figure.median for figure in group if figure.role == OURS), None) if plain else None
        bases = [(name, base) for name, base in (("x floor", floor), ("x procpool", ours)) if base and base > LEAST_BASE]
        lines += ["", f"## {what}", "", f"| way | median | least..most |{''.join(f' {name} |' for name, _ in bases)}"]
        lines.append(f"| --- | ---: | ---: |{' ---: |' * len(bases)}")
        for figure in group:
            place = "" if figure.at is None else f" @ {figure.at:g}"
            spread = f"{shown(figure.least, figure.unit)}..{shown(figure.most, figure.unit)}"
            ratios = "".join(f" {_ratio(figure.median / base)} |" for _, base in bases)
            lines.append(f"| {figure.way}{place} | {shown(figure.median, figure.unit)} | {spread} |{ratios}")
    return "\n".join(lines) + "\n"


def _ratio(value: float) -> str:
    return f"{float(f'{value:.3g}'):,g}"


def short(figures: list[Figure]) -> str:
    """Markdown: the rows of the README whose two ways were measured, each with how many times as fast we are."""
    medians = {(figure.what, figure.way): (figure.median, figure.unit) for figure in figures}
    lines = ["| what | procpool | other | by | procpool is |", "| --- | ---: | ---: | --- | --- |"]
    for row in SHORT:
        ours, theirs = medians.get((row.what, row.way)), medians.get((row.what, row.beside))
        if ours is not None and theirs is not None:
            lines.append(
                f"| {row.says} | {shown(*ours)} | {shown(*theirs)} | {row.beside} | {_compared(theirs[0] / ours[0])} |"
            )
    return "\n".join([*lines, "", f"Medians. {machine()}"]) + "\n"


def _compared(speed_up: float) -> str:
    if 0.95 <= speed_up <= 1.05:
        return "as fast"
    times = max(speed_up, 1 / speed_up)
    return f"{times:.{1 if times < 10 else 0}f} x " + ("as fast" if speed_up > 1 else "slower")


def update_readme(path: Path, figures: list[Figure]) -> None:
    """Put the short table between the markers."""
    text = path.read_text()
    start, end = "<!-- perf -->\n", "<!-- /perf -->"
    replaced = re.sub(
        re.escape(start) + ".*?" + re.escape(end), lambda _: start + short(figures) + end, text, flags=re.DOTALL
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
