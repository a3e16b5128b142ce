"""``procpool bench``"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from statistics import median
from typing import Any

from ..options import usable_cpus
from ..worktime import in_words
from .arguments import numbers
from .bars import bars
from .failures import BadRequest
from .measuring import Bench, Figures
from .opening import open_pool, signature
from .options import Commands, export_options, guest_options, running_options, seconds
from .output import as_json, put, shown
from .progress import Progress
from .wording import plural, rate

DESCRIPTION = """\
Call an export again and again with the same arguments.  Tells how long one blocking call takes,
how many calls a second a map makes, and how much faster all workers are than one.  Both take
turns in short rounds, and the figures are medians.  What comes before the first round is not
counted."""
PERCENTILES = (50, 90, 99, 99.9)
#: Calls shorter than this, in seconds, take the parent as long to hand out as a worker to run.
SHORT = 1e-6


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    bench = commands.add_parser(
        "bench",
        parents=[running_options(), guest_options(), export_options()],
        help="measure how fast an export is called",
        description=DESCRIPTION,
    )
    bench.add_argument("args", metavar="ARG", nargs="*", help="numbers; a v128 as 32 hexadecimal digits")
    bench.add_argument("--duration", type=seconds, default=5.0, metavar="S", help="seconds to measure, about (default: 5)")
    bench.add_argument("--json", action="store_true", help="print an object with all figures")
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> None:
    load = os.getloadavg()[0]  # before we add to it
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(open_pool(options))
        try:
            args = numbers(options.args, signature(pool, options.export))
        except ValueError as error:
            raise BadRequest(f"{options.export}: {error}") from None
        alone = len(pool.stats().workers) == 1
        one = None if alone else stack.enter_context(open_pool(options, workers=1))
        advance = stack.enter_context(Progress(Bench.steps(comparing=not alone), "steps"))
        figures = Bench(pool, one, options.export, args, options.duration, advance).run()
    if options.json:
        put(as_json(_object(options, args, figures)) + "\n")
    else:
        put("".join(f"{line}\n" for line in _lines(load, f"{options.export}({', '.join(map(shown, args))})", figures)))


def _object(options: argparse.Namespace, args: list[Any], figures: Figures) -> dict[str, Any]:
    latencies = {f"p{percent:g}": figures.latency(percent) for percent in PERCENTILES}
    return {
        "module": options.module,
        "export": options.export,
        "args": args,
        "workers": figures.workers,
        "usable_cpus": usable_cpus(),
        "latency_seconds": latencies | {"max": figures.latencies[-1], "calls": len(figures.latencies)},
        "calls_per_second": {
            "all_workers": figures.rate,
            "one_worker": median(figures.one) if figures.one else None,
            "each_worker": figures.per_worker,
        },
        "speedup": median(figures.speedups) if figures.one else None,
        "rounds": [{"all_workers": many, "one_worker": one} for many, one in zip(figures.all, figures.one, strict=False)],
    }


def _lines(load: float, call: str, figures: Figures) -> Iterator[str]:
    yield f"{call} on {plural(figures.workers, 'worker')}"
    yield ""
    yield f"One call at a time, there and back ({plural(len(figures.latencies), 'call')}):"
    told = [(f"{percent:g} % of calls within", figures.latency(percent)) for percent in PERCENTILES]
    for name, value in [*told, ("the longest", figures.latencies[-1])]:
        if value is not None:
            yield f"  {name:<22} {in_words(value):>8}"
    yield ""
    yield f"Many at once, by map (median of {plural(len(figures.all), 'round')}):"
    rows = [("1 worker", median(figures.one))] if figures.one else []
    rows.append((plural(figures.workers, "worker"), figures.rate))
    yield from _chart(rows)
    if figures.one:
        speedups = figures.speedups
        yield f"  {median(speedups):.2f} times as fast as one worker (from {min(speedups):.2f} to {max(speedups):.2f})"
    if figures.workers > 1:
        yield ""
        yield "Of these, by worker:"
        yield from _chart([(str(number), value) for number, value in enumerate(figures.per_worker)])
    yield from _advice(figures, load)


def _chart(rows: list[tuple[str, float]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    for (name, value), bar in zip(rows, bars([value for _, value in rows], sys.stdout), strict=True):
        yield f"  {name:>{width}}  {bar}  {rate(value)} calls/s"


def _advice(figures: Figures, load: float) -> Iterator[str]:
    """Why it is no faster, where that is known."""
    if load > usable_cpus() / 2:
        cpus = plural(usable_cpus(), "CPU")
        yield f"\nThe machine was busy before this began (load {load:.1f} on {cpus}); try again when it is quiet."
    if figures.workers > usable_cpus():
        yield f"\nThere are more workers than CPUs that may be used, which are {usable_cpus()}."
    elif figures.one and median(figures.speedups) < 0.7 * figures.workers and 1 / median(figures.one) < SHORT:
        each = in_words(1 / median(figures.one))
        yield f"\nA call takes {each}: handing it out takes about as long, so more workers gain little."
