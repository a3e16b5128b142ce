"""Measuring several ways of doing one thing in one run.

Ways take turns, round by round, so that the noise of a shared machine hits all of them alike; what is reported of each is
the median of its rounds, and the spread beside it.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from time import perf_counter

import psutil


@dataclass
class Result:
    """One figure."""

    what: str
    way: str
    median: float
    least: float
    most: float
    unit: str

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def interleaved(
    what: str, ways: Mapping[str, Callable[[], object]], rounds: int, unit: str = "s", per: float = 1.0, scale: float = 1.0
) -> list[Result]:
    """Time each way ``rounds`` times in turns, after a round that does not count.

    Args:
        per: how many items one run does; the figure is per item.
        scale: seconds times this are in ``unit``.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = perf_counter()
            way()
            if number:
                times[name].append((perf_counter() - started) / per * scale)
    return [Result(what, name, statistics.median(ts), min(ts), max(ts), unit) for name, ts in times.items()]


def of_samples(what: str, way: str, samples: list[float], unit: str) -> Result:
    """A figure from samples already in ``unit``."""
    return Result(what, way, statistics.median(samples), min(samples), max(samples), unit)


def table(results: list[Result]) -> str:
    """Markdown: a row per figure, with its multiple of the first way of the same measurement."""
    lines = ["| what | way | median | min..max | x the first |", "| --- | --- | ---: | ---: | ---: |"]
    first: dict[str, float] = {}
    for result in results:
        base = first.setdefault(result.what, result.median)
        ratio = f"{result.median / base:.2f}" if base else "-"
        spread = f"{result.least:,.4g}..{result.most:,.4g}"
        lines.append(f"| {result.what} | {result.way} | {result.median:,.4g} {result.unit} | {spread} | {ratio} |")
    return "\n".join(lines)


def describe_machine() -> str:
    """What the figures depend on."""
    cpus = len(os.sched_getaffinity(0))
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown CPU")
    load = os.getloadavg()[0]
    memory = psutil.virtual_memory().total >> 30
    return (
        f"{cpus} x {model}, {memory} GiB, {platform.system()} {platform.release()}; "
        f"CPython {platform.python_version()}, wasmtime {version('wasmtime')}; load {load:.1f}"
    )
