"""``procpool map``"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from .opening import opened, signature
from .options import Commands, module_options, range_, running_options
from .progress import Progress
from .rows import read_rows
from .shown import shown

#: The longest time for which results are kept in a buffer while others come, in seconds.
FLUSH_SECONDS = 0.1


def add_to(commands: Commands) -> None:
    """Add the command to the parser's."""
    map_ = commands.add_parser(
        "map",
        parents=[running_options(), module_options()],
        help="call an export once per row of input",
        description="Call an export once per row and print the results in order, one line each.",
    )
    map_.add_argument("export", metavar="EXPORT")
    map_.add_argument("input", metavar="FILE", nargs="?", default="-", help="CSV, or JSON lines (default: stdin)")
    map_.add_argument("--format", choices=("csv", "jsonl"), help="of the input (default: by its name, else csv)")
    map_.add_argument(
        "--range",
        type=range_,
        action="append",
        metavar="A:B[:STEP]",
        help="count instead of reading: A, A+STEP, ... below B; once per parameter",
    )
    map_.set_defaults(run=_map)


def _map(options: argparse.Namespace) -> None:
    with opened(options) as pool:
        type_ = signature(pool, options.export)
        if options.range:
            total: int | None = min(map(len, options.range))
            rows: Iterator[list[Any]] = ([*row] for row in zip(*options.range, strict=False))
        else:
            total = None
            rows = read_rows(options.input, options.format, type_)
        started = perf_counter()
        done, flushed = 0, -math.inf
        with Progress(total) as advance:
            for result in pool.starmap(options.export, rows):
                sys.stdout.write(shown(result) + "\n")
                # Who writes the input may wait for the output, and a buffer would keep what little there is.
                if perf_counter() - flushed > FLUSH_SECONDS:
                    sys.stdout.flush()
                    flushed = perf_counter()
                done += 1
                advance(1)
        seconds = perf_counter() - started
        rate = f", {done / seconds:,.0f} calls/s" if seconds else ""
        print(f"{done} calls in {seconds:.3f} s on {len(pool.stats().workers)} workers{rate}", file=sys.stderr)
