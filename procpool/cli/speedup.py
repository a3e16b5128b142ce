"""What more than one worker were worth to a map."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from .opening import open_pool
from .progress import Progress

#: How much of the map's own time its rows may take that one worker runs again.
SHARE = 0.2
#: And so many rows at least, where there are.
LEAST = 4


class Sample:
    """Remembers the rows of a map, and has one worker run a few of them, evenly spread, again."""

    def __init__(self) -> None:
        self._rows: list[Sequence[Any]] = []

    def add(self, args: Sequence[Any]) -> None:
        """Remember a row that went well."""
        self._rows.append(args)

    def told(self, options: argparse.Namespace, seconds: float, workers: int) -> str:
        """Run them; the outcome, for people.

        Args:
            seconds: how long the map took on so many ``workers``.
        """
        if workers == 1 or not self._rows:
            return "no speed-up to tell: that takes rows, and more than one worker"
        every = max(1, min(round(workers / SHARE), len(self._rows) // LEAST))
        rows = self._rows[every // 2 :: every]
        with open_pool(options, workers=1) as pool, Progress(len(rows)) as advance:
            started = perf_counter()
            for _ in pool.starmap(options.export, rows, return_exceptions=True):
                advance(1)
            alone = perf_counter() - started
        speedup = alone * len(self._rows) / len(rows) / seconds
        return f"{speedup:.2f} times as fast as one worker, which took {alone:.3f} s for {len(rows)} of the calls"
